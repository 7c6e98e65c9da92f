#!/bin/bash
# The whole system on real input, judged when it has come to rest.
set -u -o pipefail
# shellcheck source=scripts/support.sh
. "$(dirname "$0")/support.sh"

usage() {
    cat <<'TEXT'
usage: scripts/acceptance.sh [--brokers HOST:PORT] [--orders N] [--rate R] [--keep] DATA_DIR

Five roles as five processes on a real broker; the listings of DATA_DIR loaded, its ticks replayed, simulated traders on top. When everything
sent has been handled, the roles are stopped, the events counted, `verify` run, and `replay` twice. Prints what it found and PASS or FAIL
(exit code 0 or 1).

DATA_DIR holds
  nasdaq-listed-symbols.csv              listings: Symbol, Security Name, Test Issue, ...
  bitstamp-orders-2015-05-01.csv.xz      a feed: its columns timestamp (ms) and price become ticks of AAPL, a thousand times as fast

  --brokers    a running cluster (default: a broker of its own, in a temporary directory; needs what `make install-tools` installs)
  --orders     how many orders (default 100000)
  --rate       orders per second, 0 = as fast as the log takes them (default 4000)
  --keep       keep state and logs although all is well
PROCESSOR names the program (default: ./processor, which `make build` makes).
TEXT
}

orders=100000
rate=4000
data=
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help) usage && exit 0 ;;
    --brokers | --orders | --rate)
        [ $# -ge 2 ] || { usage >&2 && exit 2; }
        case "$1" in --brokers) brokers=$2 ;; --orders) orders=$2 ;; --rate) rate=$2 ;; esac
        shift 2
        ;;
    --keep) keep=1 && shift ;;
    -*) usage >&2 && exit 2 ;;
    *) data=$1 && shift ;;
    esac
done
[ -n "$data" ] || { usage >&2 && exit 2; }
listings=$data/nasdaq-listed-symbols.csv
feed=$data/bitstamp-orders-2015-05-01.csv.xz
for file in "$listings" "$feed"; do
    [ -r "$file" ] || fail "$file cannot be read; --help says what the directory must hold"
done
command -v xz >/dev/null || fail "xz is missing; install it: apt-get install -y xz-utils"

prepare acceptance
bad=0
# $1: what, $2: what was found, $3: what is right.
judge() {
    if [ "$2" = "$3" ]; then
        printf '  ok    %-62s %s\n' "$1" "$2"
    else
        printf '  BAD   %-62s %s, not %s\n' "$1" "$2" "$3"
        bad=$((bad + 1))
    fi
}

symbols=AAPL,MSFT,NVDA,AMZN,GOOGL
walked=MSFT,NVDA,AMZN,GOOGL
p topics create --partitions 6 >/dev/null || fail "the topics were not made"
say "loading listings"
p instruments load "$listings" >"$dir/listings" || fail "the listings were not loaded"
for role in orders trading portfolio notifications audit; do
    start_role "$role"
done
say "five roles started"
# Every symbol has a price before the first order comes.
p publish --symbols "$symbols" --count 5 --rate 0 >/dev/null || fail "the first ticks were not published"
wait_for_lag trading "" 120
(exec "$processor" publish --symbols "$walked" --rate 100 --brokers "$brokers" --topic-prefix "$prefix") >"$dir/walk" 2>"$dir/logs/walk.log" &
walk=$!
helpers+=("$walk")
# `wc` knows how many ticks there are, whatever the publisher says of itself.
xz -dc "$feed" >"$dir/feed.csv" || fail "$feed cannot be unpacked"
rows=$(($(wc -l <"$dir/feed.csv") - 1))
(exec "$processor" publish --file "$dir/feed.csv" --symbol AAPL --time-column timestamp --price-column price --speed 1000 \
    --brokers "$brokers" --topic-prefix "$prefix" --format json) >"$dir/replayed" 2>"$dir/logs/feed.log" &
ticks=$!
helpers+=("$ticks")
say "replaying $rows ticks, sending $orders orders"
began=$(now_ms)
p traders --orders "$orders" --rate "$rate" --users 2000 --symbols "$symbols" || fail "the traders failed"
wait "$ticks" || fail "the feed was not replayed; see $dir/logs/feed.log"
kill -TERM "$walk" && wait "$walk" || fail "the random walk did not end well; see $dir/logs/walk.log"
helpers=()
wait_for_lag all "" 600
took=$(($(now_ms) - began))
for role in orders trading portfolio notifications audit; do
    stop_role "$role"
done
say "at rest and stopped; counting"

# Follows every order through its events; a partition's events come in order, and a user has one partition.
p tail order-events --from start --exit-at-end --json | awk '
    function field(name,    at) {
        if (!match($0, "\"" name "\":\"[^\"]*\"")) return ""
        at = length(name) + 4
        return substr($0, RSTART + at, RLENGTH - at - 1)
    }
    {
        event = field("event"); order = field("user_id") "/" field("order_id"); seen[event]++
        if (event == "OrderPending") { answers++; if (order in known) wrong++; known[order] = 1; open[order] = 1; now++ }
        else if (event == "OrderFilled" || event == "OrderCancelled" || event == "OrderExpired") {
            if (order in open) { delete open[order]; now-- } else wrong++
        } else if (event == "OrderRejected") {
            reason[field("reason")]++
            if (order in open) { delete open[order]; now-- } else answers++
        } else if (event == "OrderStatus" || event == "DuplicateRejected") answers++
    }
    END {
        printf "answers %d\nopen %d\nwrong %d\nevents %d\nfilled %d\n", answers, now, wrong, NR, seen["OrderFilled"]
        for (e in seen) printf "  %-62s %d\n", e, seen[e] >"/dev/stderr"
        for (r in reason) printf "  %-62s %d\n", "OrderRejected " r, reason[r] >"/dev/stderr"
    }' >"$dir/events" 2>"$dir/tally" || fail "the events could not be read"
of() {
    sed -n "s/^$1 //p" "$dir/events"
}
published=$(sed -n 's/.*"published":\([0-9]*\).*/\1/p' "$dir/replayed")

echo "input"
echo "  $(cat "$dir/listings")"
echo "  $rows ticks of the feed, $(cat "$dir/walk")"
echo "  $orders orders, from the first to rest in $(seconds "$took")"
echo "events"
sort "$dir/tally"
echo "checks"
judge "ticks of the feed published" "$published" "$rows"
judge "commands in the log" "$(count order-commands)" "$orders"
judge "ticks in the log are those published" "$(count market-data)" "$((published + 5 + $(grep -o '^[0-9]*' "$dir/walk")))"
judge "first answers, one for each command" "$(of answers)" "$orders"
judge "orders pending at rest" "$(of open)" 0
judge "orders pending twice, or ended without or after an end" "$(of wrong)" 0
judge "trades, one for each fill" "$(count trades)" "$(of filled)"
judge "notifications, one for each event" "$(count notifications)" "$(of events)"
echo "  dead letters: $(count dead-letters)"

say "verifying"
code=0
p verify >"$dir/verify" 2>"$dir/logs/verify.log" || code=$?
judge "exit code of verify ($(grep -c '^ok' "$dir/verify") checks ok, $(grep -c '^BAD' "$dir/verify") bad)" "$code" 0
grep '^BAD' "$dir/verify"
for run in 1 2; do
    say "replaying, run $run"
    code=0
    p replay >"$dir/replay-$run" 2>"$dir/logs/replay-$run.log" || code=$?
    judge "exit code of replay, run $run ($(grep -c ' equal$' "$dir/replay-$run") tasks equal to their live state)" "$code" 0
done
# But for the third column: a role without a journal is replayed in batches as they come, and that is how many there were.
for run in 1 2; do
    awk '{ $3 = ""; print }' "$dir/replay-$run" >"$dir/replayed-$run"
done
if cmp -s "$dir/replayed-1" "$dir/replayed-2"; then same=yes; else same=no; fi
judge "both replays read the same records and found the same digests" "$same" yes
if [ $bad -eq 0 ]; then
    echo PASS
    exit 0
fi
echo "FAIL: $bad checks"
exit 1
