#!/bin/sh
# A local Apache Kafka without Docker: one broker on 127.0.0.1:9092, for trying things out.
# The jars and their version are those of the tests (tests/support/kafka-pom.xml).
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/kafka.sh start|stop|status|wipe

  start    start the broker (the first time it fetches Apache Kafka, about 45 MB)
  stop     stop it; its data stay
  status   say whether it runs
  wipe     stop it and delete its data

KAFKA_PORT (default 9092) chooses the port, KAFKA_DATA the directory of its data and log
(default: $XDG_STATE_HOME or ~/.local/state, under processor/kafka).
TEXT
}

here=$(cd "$(dirname "$0")/.." && pwd)
pom=$here/tests/support/kafka-pom.xml
version=$(sed -n '/<artifactId>kafka_2.13</,/<version>/s:.*<version>\(.*\)</version>.*:\1:p' "$pom")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/processor/kafka-$version
data=${KAFKA_DATA:-${XDG_STATE_HOME:-$HOME/.local/state}/processor/kafka}
port=${KAFKA_PORT:-9092}
controller=$((port + 10000))
pid_file=$data/broker.pid
log=$data/broker.log

fail() {
    echo "kafka.sh: $*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null 2>&1 || fail "$1 is missing; install it: apt-get install -y openjdk-17-jre-headless maven"
}

# The broker's pid if it runs. A pid from before a reboot may belong to somebody else by now, so its command line is looked at too.
running() {
    [ -f "$pid_file" ] || return 1
    pid=$(cat "$pid_file")
    [ -r "/proc/$pid/cmdline" ] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "$data/server.properties"
}

fetch() {
    [ -f "$cache/complete" ] && return
    need mvn
    echo "fetching Apache Kafka $version into $cache (once) ..."
    mvn -q -B -f "$pom" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$cache/lib" ||
        fail "Maven could not fetch Apache Kafka; is there a network?"
    touch "$cache/complete"
}

configure() {
    mkdir -p "$data"
    cat >"$data/server.properties" <<TEXT
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$data/log
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
TEXT
    [ -f "$data/log/meta.properties" ] && return
    id=$(java -cp "$cache/lib/*" kafka.tools.StorageTool random-uuid 2>/dev/null | tail -n 1)
    java -cp "$cache/lib/*" kafka.tools.StorageTool format -t "$id" -c "$data/server.properties" >"$log" 2>&1 ||
        fail "the data directory $data could not be prepared; see $log"
}

# After a crash the controller alone runs for a moment and notices that the broker is dead. A single node that starts as a whole takes its old
# leaderships up again, is fenced in the middle of that, and may then skip the ends of transactions.
fence() {
    echo "the broker was not stopped cleanly; settling what it left ..."
    cat >"$data/controller.properties" <<TEXT
process.roles=controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=CONTROLLER://127.0.0.1:$controller
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT
log.dirs=$data/log
broker.session.timeout.ms=300
broker.heartbeat.interval.ms=100
TEXT
    java -Xmx256m -cp "$cache/lib/*" kafka.Kafka "$data/controller.properties" >>"$log" 2>&1 </dev/null &
    settling=$!
    tries=0
    until grep -q 'Fencing broker 1' "$log"; do
        tries=$((tries + 1))
        kill -0 $settling 2>/dev/null || fail "the controller ended at once (is port $controller taken?); see $log"
        # A broker that was fenced before it died is not fenced again.
        [ $tries -lt 75 ] || break
        sleep 0.2
    done
    sleep 1
    kill $settling 2>/dev/null || true
    wait $settling || true
}

start() {
    if running; then
        echo "running already on 127.0.0.1:$port (pid $pid)"
        return
    fi
    need java
    fetch
    configure
    : >"$log"
    # `stop` removes the file; so whoever left it did not stop.
    if [ -f "$pid_file" ]; then
        fence
        : >"$log"
    fi
    nohup java -Xmx512m -Xms128m -cp "$cache/lib/*" kafka.Kafka "$data/server.properties" >>"$log" 2>&1 </dev/null &
    echo $! >"$pid_file"
    tries=0
    until grep -q 'Kafka Server started' "$log"; do
        tries=$((tries + 1))
        running || fail "the broker ended at once (is port $port taken? choose another with KAFKA_PORT); see $log"
        [ $tries -lt 300 ] || fail "the broker did not start within 60 s; see $log"
        sleep 0.2
    done
    echo "Apache Kafka $version runs on 127.0.0.1:$port (pid $(cat "$pid_file"), data in $data)"
    echo "use it: export KAFKA_BROKERS=127.0.0.1:$port"
}

stop() {
    if ! running; then
        rm -f "$pid_file"
        echo "not running"
        return
    fi
    kill "$pid"
    tries=0
    while running; do
        tries=$((tries + 1))
        [ $tries -lt 150 ] || fail "the broker (pid $pid) does not stop; see $log"
        sleep 0.2
    done
    rm -f "$pid_file"
    echo "stopped; its data stay in $data"
}

status() {
    if running; then
        echo "running on 127.0.0.1:$port (pid $pid, data in $data)"
    else
        echo "not running (start it: scripts/kafka.sh start)"
        exit 1
    fi
}

wipe() {
    stop
    rm -rf "$data/log" "$data/server.properties" "$log"
    echo "its data are deleted"
}

case "${1:-}" in
start | stop | status | wipe) "$1" ;;
-h | --help | help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
