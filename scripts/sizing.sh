#!/bin/bash
# How many bytes orders, users and ticks leave behind: in each topic, and in local state.
set -u -o pipefail
# shellcheck source=scripts/support.sh
. "$(dirname "$0")/support.sh"

usage() {
    cat <<'TEXT'
usage: scripts/sizing.sh [--keep] [ORDERS [RATE [USERS]]]

Starts a broker and five roles of its own. Measures three things, one after the other:
  orders   ORDERS market orders (default 2000), RATE a second (100), of USERS users (100), that the house fills;
  users    ORDERS more, nearly each of a user of its own: what a user's first order leaves;
  ticks    10000 ticks.
Prints the bytes that each left in each topic, as one replica stores them, and in local state. Needs what `make install-tools` installs.

  --keep   keep state and logs
PROCESSOR names the program (default: ./processor, which `make build` makes).
TEXT
}

numbers=()
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help) usage && exit 0 ;;
    --keep) keep=1 && shift ;;
    *[!0-9]* | '') usage >&2 && exit 2 ;;
    *) numbers+=("$1") && shift ;;
    esac
done
orders=${numbers[0]:-2000} rate=${numbers[1]:-100} users=${numbers[2]:-100}
ticks=10000

prepare sizing
symbols=AAPL,MSFT,NVDA,AMZN,GOOGL
roles=(orders trading portfolio notifications audit)

# Topic and bytes of its segments, over all partitions; then the bytes of local state by role. Files of indexes have a fixed size and are left out.
sizes() {
    find "$dir/kafka/log" -path "*/$prefix*/*.log" -printf '%h %s\n' | sed "s:^.*/$prefix::" |
        awk '{ sub(/-[0-9]+$/, "", $1); n[$1] += $2 } END { for (t in n) print t, n[t] }'
}

rest() {
    wait_for_lag all "" 600
    sizes | sort >"$dir/$1"
}

# $1, $2: what was there before and after; $3: by what to divide. Rows of topics that grew.
grown() {
    join -a 2 -e 0 -o '0,1.2,2.2' "$1" "$2" | awk -v by="$3" '$3 > $2 { printf "%s %.1f\n", $1, ($3 - $2) / by }'
}

p topics create --partitions 6 >/dev/null || fail "the topics were not made"
tr ',' '\n' <<<"$symbols" | sed 's/.*/{"symbol":"&"}/' | p instruments load - >/dev/null || fail "the listings were not loaded"
for role in "${roles[@]}"; do
    # No limit, and prices that are fresh for a day: nothing but orders and ticks is to be measured.
    start_role "$role" --rate-limit 0 --stale-ms 86400000
done
p publish --symbols "$symbols" --count 5 --rate 0 >/dev/null || fail "the ticks were not published"
wait_for_lag all "" 120
say "$users users open their accounts"
p traders --orders $((users * 5)) --rate "$rate" --users "$users" --symbols "$symbols" >/dev/null || fail "the traders failed"
rest before
say "$orders orders"
p traders --orders "$orders" --rate "$rate" --users "$users" --symbols "$symbols" --seed 2 >/dev/null || fail "the traders failed"
rest orders
say "$orders orders of new users"
p traders --orders "$orders" --rate "$rate" --users 1000000 --symbols "$symbols" --seed 3 >/dev/null || fail "the traders failed"
rest users
say "$ticks ticks"
p publish --symbols "$symbols" --count "$ticks" --rate 1000 >/dev/null || fail "the ticks were not published"
rest ticks
for role in "${roles[@]}"; do
    stop_role "$role"
done

# Two sums: what is kept for ever, and what compaction bounds.
by_policy() {
    awk '
        { kind = $1 ~ /-changelog$|^(portfolios|instruments|reference-prices|controls|subscriptions)$/ ? "compacted" : "kept"; row[kind] = row[kind] sprintf("  %-26s %9.0f\n", $1, $2); sum[kind] += $2 }
        END { for (k in row) printf "%s\n%s  %-26s %9.0f\n", k, row[k], "sum", sum[k] }'
}

echo "bytes of one replica for each order ($orders market orders, $rate a second, $users users)"
grown "$dir/before" "$dir/orders" "$orders" | by_policy
echo "bytes of one replica for each first order of a user ($orders orders, each of a new user)"
grown "$dir/orders" "$dir/users" "$orders" | by_policy
echo "bytes of one replica for each tick ($ticks ticks, 1000 a second)"
grown "$dir/users" "$dir/ticks" "$ticks" | awk '{ printf "  %-26s %9.1f\n", $1, $2; n += $2 } END { printf "  %-26s %9.1f\n", "sum", n }'
echo "local state after $((orders * 2 + users * 5)) orders of some $((orders + users)) users"
du -s --apparent-size -B1 "$dir"/state/* | awk '{ n = split($2, part, "/"); printf "  %-26s %9d KB\n", part[n], $1 / 1024 }'
