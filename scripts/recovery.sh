#!/bin/bash
# How long a role needs after kill -9: with its state kept, and with its state directory deleted.
set -u -o pipefail
# shellcheck source=scripts/support.sh
. "$(dirname "$0")/support.sh"

usage() {
    cat <<'TEXT'
usage: scripts/recovery.sh [--brokers HOST:PORT] [--keep] [ORDERS]

Fills the local state of `orders` with ORDERS orders (default 4000000, some 130 MB of compressed state; 18 million made 590 MB; 200000 take less than a minute), then
kills it (kill -9) and starts it again twice: with its state kept, and with its state directory deleted. Prints the time from the start of the
process to its first committed event, as a reader of `order-events` sees it. At last `rebuild` restores the state with a progress bar.

  --brokers    a running cluster (default: a broker of its own, in a temporary directory; needs what `make install-tools` installs)
  --keep       keep state and logs
PROCESSOR names the program (default: ./processor, which `make build` makes).
TEXT
}

orders=4000000
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help) usage && exit 0 ;;
    --brokers)
        [ $# -ge 2 ] || { usage >&2 && exit 2; }
        brokers=$2 && shift 2
        ;;
    --keep) keep=1 && shift ;;
    *[!0-9]* | '') usage >&2 && exit 2 ;;
    *) orders=$1 && shift ;;
    esac
done

prepare recovery
symbols=AAPL,MSFT,NVDA,AMZN,GOOGL
# Few enough orders for each user that their cash lasts, so that all of them stay open: the most state that an order can make.
users=$((orders / 10 + 1000))
# No limit, and a price that is fresh for a day: only `orders` runs, nobody refreshes it.
flags=(--rate-limit 0 --stale-ms 86400000)

tell_state() {
    echo "local state: $(du -sm "$dir/state/orders" | cut -f1) MB in $(find "$dir/state/orders" -type f | wc -l) files"
}

p topics create --partitions 6 >/dev/null || fail "the topics were not made"
tr ',' '\n' <<<"$symbols" | sed 's/.*/{"symbol":"&"}/' | p instruments load - >/dev/null || fail "the listings were not loaded"
p publish --symbols "$symbols" --count 5 --rate 0 >/dev/null || fail "the ticks were not published"
start_role orders "${flags[@]}"
say "sending $orders orders"
p traders --orders "$orders" --rate 0 --users "$users" --symbols "$symbols" || fail "the traders failed"
wait_for_lag orders order-commands 3600
tell_state

# Milliseconds from the log line that holds $1 and came after line $2 of the role's log, counted from $3.
since() {
    local at
    at=$(tail -n "+$(($2 + 1))" "$dir/logs/orders.log" | sed 's/\x1b\[[0-9;]*m//g' | grep "$1" | tail -n 1 | cut -d' ' -f1)
    [ -n "$at" ] || return 1
    echo $(($(date -d "$at" +%s%3N) - $3))
}

# $1: what happened to the state. Orders wait, the role starts, and a reader that began at the end waits for the first new event.
measure() {
    local before reader started took
    p traders --orders 1000 --rate 0 --users 1000 --symbols "$symbols" --seed "$RANDOM" >/dev/null || fail "the traders failed"
    before=$(wc -l <"$dir/logs/orders.log")
    (exec "$processor" tail order-events --from end --count 1 --brokers "$brokers" --topic-prefix "$prefix") >"$dir/first" 2>&1 &
    reader=$!
    helpers=("$reader")
    sleep 2
    [ ! -s "$dir/first" ] || fail "there was an event before the role ran: $(cat "$dir/first")"
    started=$(now_ms)
    start_role orders "${flags[@]}"
    while kill -0 "$reader" 2>/dev/null; do
        roles_alive
        if [ -s "$dir/first" ]; then break; fi
        # Every five seconds; the question costs a process that the role would rather have.
        if [ $(($(now_ms) - started)) -gt 5000 ] && [ $((($(now_ms) - started) / 100 % 50)) -eq 0 ]; then
            say "restored: $(p status --role orders | awk '$3 ~ /order-commands$/ { printf "%s%s %%", c, $NF; c = ", " }')"
        fi
        sleep 0.02
    done
    took=$(($(now_ms) - started))
    wait "$reader" || fail "no event came: $(cat "$dir/first")"
    helpers=()
    echo "$1: first committed event $(seconds $took) after the process began" \
        "(partitions assigned at $(seconds "$(since ": assigned " "$before" "$started")"), all tasks running at $(seconds "$(since ": running " "$before" "$started")"))"
    wait_for_lag orders order-commands 600
}

kill_role orders
say "killed; state kept"
measure "state kept"
kill_role orders
rm -rf "$dir/state/orders"
say "killed; state deleted"
measure "state deleted"
tell_state
stop_role orders
say "rebuild, with its progress bar"
began=$(now_ms)
p rebuild --role orders || fail "rebuild failed"
echo "rebuild: $(seconds $(($(now_ms) - began)))"
