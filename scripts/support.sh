# Shared by acceptance.sh and recovery.sh: a directory for the run, a broker, roles as processes of their own. Sourced, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
processor=${PROCESSOR:-$root/processor}
brokers=
keep=
own_broker=
declare -A role_pids=()
helpers=()

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

say() {
    printf '%s %s\n' "$(date -u +%H:%M:%S)" "$*" >&2
}

now_ms() {
    date +%s%3N
}

seconds() {
    printf '%d.%03d s' $(($1 / 1000)) $(($1 % 1000))
}

# Ends what was started, by the ids that were noted when it was; keeps the directory if the run failed, for somebody to look at.
clean_up() {
    local code=$? pid
    trap - EXIT INT TERM
    for pid in "${helpers[@]}" "${role_pids[@]}"; do
        kill -9 "$pid" 2>/dev/null
    done
    if [ -n "$own_broker" ]; then
        KAFKA_DATA=$dir/kafka KAFKA_PORT=$own_broker "$root/scripts/kafka.sh" stop >&2
    fi
    if [ "$code" -eq 0 ] && [ -z "$keep" ]; then
        rm -rf "$dir"
    else
        echo "state and logs stay in $dir" >&2
    fi
    exit "$code"
}

# $1: a name for the run. Finds the program, makes the directory and, unless --brokers was given, starts a broker in it.
prepare() {
    [ -x "$processor" ] || fail "there is no program $processor: run 'make build' first, or name one with PROCESSOR=..."
    dir=$(mktemp -d "${TMPDIR:-/tmp}/processor-$1-XXXXXX")
    prefix=$1-$$-
    mkdir "$dir/logs"
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    if [ -z "$brokers" ]; then
        local port=$((20000 + RANDOM % 9000)) tries=0
        while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
            tries=$((tries + 1))
            [ $tries -lt 50 ] || fail "no free port was found; start a broker yourself and give --brokers"
            port=$((20000 + RANDOM % 9000))
        done
        own_broker=$port
        brokers=127.0.0.1:$port
        KAFKA_DATA=$dir/kafka KAFKA_PORT=$port "$root/scripts/kafka.sh" start >&2 || fail "the broker did not start"
    fi
    unset KAFKA_BROKERS
}

# The program against this run's topics and state.
p() {
    "$processor" "$@" --brokers "$brokers" --topic-prefix "$prefix" --state "$dir/state"
}

# $1: role, the rest: further flags. In the background; `exec`, so that the id noted is the program's.
start_role() {
    local role=$1
    shift
    (exec "$processor" --role "$role" --instance 1 --brokers "$brokers" --topic-prefix "$prefix" --state "$dir/state" "$@") \
        >>"$dir/logs/$role.log" 2>&1 </dev/null &
    role_pids[$role]=$!
}

# SIGTERM, and the exit code has to be 0.
stop_role() {
    local pid=${role_pids[$1]} code=0
    unset "role_pids[$1]"
    kill -TERM "$pid" 2>/dev/null
    wait "$pid" || code=$?
    [ "$code" -eq 0 ] || fail "$1 ended with $code; the end of its log:
$(tail -n 5 "$dir/logs/$1.log")"
}

# `wait` keeps the shell from reporting the kill.
kill_role() {
    local pid=${role_pids[$1]}
    unset "role_pids[$1]"
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
}

roles_alive() {
    local role
    for role in "${!role_pids[@]}"; do
        kill -0 "${role_pids[$role]}" 2>/dev/null || fail "$role is gone; the end of its log:
$(tail -n 5 "$dir/logs/$role.log")"
    done
}

# Sum of the lags of these inputs. $1: roles (`all`), $2: only topics that end like this (empty: all).
lag() {
    p status --role "$1" --format json | tr '{' '\n' | grep "\"topic\":\"[^\"]*$2\"" |
        sed -n 's/.*"lag":\([0-9][0-9]*\).*/\1/p' | awk '{ n += $1; rows++ } END { if (!rows) exit 1; printf "%d\n", n }'
}

# Waits until a lag is 0 twice in a row: a role that lags may be about to write what another will read. $3: seconds it may take.
wait_for_lag() {
    local zeros=0 left said=$SECONDS until=$((SECONDS + $3))
    while [ $zeros -lt 2 ]; do
        roles_alive
        left=$(lag "$1" "$2") || fail "the status cannot be read"
        if [ "$left" -eq 0 ]; then zeros=$((zeros + 1)); else zeros=0; fi
        [ $SECONDS -lt $until ] || fail "still $left records behind after $3 s"
        if [ $((SECONDS - said)) -ge 5 ]; then
            said=$SECONDS
            say "$left records to go"
        fi
        sleep 0.3
    done
}

# How many records a topic has.
count() {
    p tail "$1" --from start --exit-at-end --json | wc -l
}
