//! Results of a flow of orders, checked against a second implementation of the contract that shares
//! no code with the roles.

use std::collections::{BTreeMap, BTreeSet};

use ports::Log;
use ports::topics::TopicTable;
use serde_json::Value;
use wire::topics as t;

use super::feed::{Expect, Step, USERS};
use crate::support::oracle::{self, Seen, Verdict, read_all};

/// The results in which two runs of the same flow must agree. Times are left out, and so is the
/// split of cash into available and reserved, which depends on the moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Price, quantity, users and orders, in the order of the book.
    pub trades: Vec<String>,
    /// By user and order: status, quantity, cumulative quantity, limit.
    pub orders: BTreeMap<(String, String), String>,
    /// By user: cash, position, cost basis, realised.
    pub portfolios: BTreeMap<String, [i64; 4]>,
}

/// An answer: the event, and its reason if present.
type Answer = (String, String);

/// Reads and checks all records. `cash_e4` is the opening cash of each account.
pub fn judge(
    log: &dyn Log,
    topics: &TopicTable,
    steps: &[Step],
    cash_e4: i64,
) -> (Outcome, BTreeMap<(Expect, Answer), usize>, Verdict) {
    let mut v = Verdict::default();
    let mut outcome = Outcome::default();
    let events = read_all(log, t::ORDER_EVENTS);
    let trades = read_all(log, t::TRADES);
    (v.commands, v.events, v.trades) = (
        read_all(log, t::ORDER_COMMANDS).len(),
        events.len(),
        trades.len(),
    );
    let answers = check_answers(&mut v, &events, steps);
    check_events(&mut v, &events, &mut outcome);
    check_trades(&mut v, &trades, &events, &mut outcome);
    check_portfolios(&mut v, log, &events, cash_e4, houses(&trades), &mut outcome);
    oracle::check_notifications(&mut v, log, &events);
    oracle::check_audit(&mut v, log, topics);
    (outcome, answers, v)
}

fn reason(e: &Seen) -> String {
    e.text("reason").to_string()
}

/// Each command has exactly one answer of the expected kind.
fn check_answers(
    v: &mut Verdict,
    events: &[Seen],
    steps: &[Step],
) -> BTreeMap<(Expect, Answer), usize> {
    let mut answers = BTreeMap::<(&str, &str), Vec<Answer>>::new();
    for e in events {
        let kind = e.text("event");
        let of = match kind {
            "OrderPending" | "OrderRejected" | "OrderStatus" | "DuplicateRejected" => {
                e.text("order_id")
            }
            "OrderReplaced" | "CancelRejected" => e.text("cause_id"),
            "OrderCancelled" if e.text("reason") == "USER_REQUEST" => e.text("cause_id"),
            _ => continue,
        };

        answers
            .entry((e.text("user_id"), of))
            .or_default()
            .push((kind.to_string(), reason(e)));
    }

    answers.values_mut().for_each(|a| a.reverse());
    let mut counts = BTreeMap::new();
    for s in steps {
        let Some((kind, why)) = answers
            .get_mut(&(s.user.as_str(), s.id.as_str()))
            .and_then(Vec::pop)
        else {
            v.wrong.push(format!("no answer to {}", s.json));
            continue;
        };

        let refused =
            |reasons: &[&str]| kind == "CancelRejected" && reasons.contains(&why.as_str());
        let due = match s.expect {
            Expect::New => kind == "OrderPending",
            Expect::Again => kind == "OrderStatus",
            Expect::Conflict => kind == "DuplicateRejected" && why == "DUPLICATE_ORDER",
            Expect::Unknown => refused(&["UNKNOWN_ORDER"]),
            Expect::Late => refused(&["TOO_LATE_TO_CANCEL"]),
            Expect::Cancel => kind == "OrderCancelled" || refused(&["TOO_LATE_TO_CANCEL"]),
            Expect::Change => kind == "OrderReplaced" || refused(&["TOO_LATE_TO_CANCEL"]),
            Expect::ChangeToNothing => refused(&["TOO_LATE_TO_CANCEL", "INCORRECT_QUANTITY"]),
        };

        if !due {
            v.wrong.push(format!(
                "{kind} {why} answers {}, where {:?} was due",
                s.json, s.expect
            ));
        }

        *counts.entry((s.expect, (kind, why))).or_default() += 1;
    }

    for ((user, id), left) in answers.into_iter().filter(|(_, left)| !left.is_empty()) {
        v.wrong
            .push(format!("user {user}: {id} was also answered {left:?}"));
    }

    counts
}

fn check_events(v: &mut Verdict, events: &[Seen], outcome: &mut Outcome) {
    let mut seqs = BTreeMap::<&str, i64>::new();
    let mut names = BTreeSet::new();
    for e in events {
        let seq = seqs.entry(e.text("user_id")).or_default();
        *seq += 1;
        if e.number("user_seq") != *seq {
            v.wrong.push(format!(
                "user_seq {} where {seq} was due: {:?}",
                e.number("user_seq"),
                e.value
            ));
        }

        if !names.insert((&e.headers["src"], &e.headers["n"])) {
            v.wrong.push(format!(
                "two events are named {} {}",
                e.headers["src"], e.headers["n"]
            ));
        }

        if e.number("cash_available_e4") < 0 || e.number("cash_reserved_e4") < 0 {
            v.wrong.push(format!("less than nothing: {:?}", e.value));
        }

        // Only events of the order itself, without failed commands about the order.
        if [
            "Deposited",
            "OrderStatus",
            "DuplicateRejected",
            "CancelRejected",
        ]
        .contains(&e.text("event"))
        {
            continue;
        }

        let quantity = e.number("quantity");
        let cum = e.number("cum_quantity");
        let leaves = e.number("leaves_quantity");
        let over = ["filled", "cancelled"].contains(&e.text("status"));
        if leaves != if over { 0 } else { quantity - cum } {
            v.wrong.push(format!(
                "{quantity} ordered, {cum} traded, {leaves} left: {:?}",
                e.value
            ));
        }

        let state = format!(
            "{} {cum} of {quantity} at {}",
            e.text("status"),
            e.number("limit_price_e4")
        );
        outcome.orders.insert(
            (
                e.text("user_id").to_string(),
                e.text("order_id").to_string(),
            ),
            state,
        );
    }
}

/// Every trade has two sides, and both sides have their event.
fn check_trades(v: &mut Verdict, trades: &[Seen], events: &[Seen], outcome: &mut Outcome) {
    let mut fills = BTreeMap::<(&str, &str, &str), (i64, i64)>::new();
    for e in events
        .iter()
        .filter(|e| ["OrderFilled", "OrderPartiallyFilled"].contains(&e.text("event")))
    {
        let fill = (e.number("last_price_e4"), e.number("last_quantity"));
        if fills
            .insert(
                (e.text("trade_id"), e.text("user_id"), e.text("order_id")),
                fill,
            )
            .is_some()
        {
            v.wrong.push(format!("told twice: {:?}", e.value));
        }
    }

    for trade in trades {
        let what = (trade.number("price_e4"), trade.number("quantity"));
        let sides = [("buyer", "buy_order_id"), ("seller", "sell_order_id")]
            .map(|(user, order)| (trade.text(user), trade.text(order)));
        if sides[0].0 == sides[1].0 {
            v.wrong
                .push(format!("traded with itself: {:?}", trade.value));
        }

        for (user, order) in sides.into_iter().filter(|(user, _)| !is_house(user)) {
            if fills.remove(&(trade.text("trade_id"), user, order)) != Some(what) {
                v.wrong
                    .push(format!("user {user} was not told of {:?}", trade.value));
            }
        }

        outcome
            .trades
            .push(format!("{} at {}: {:?}", what.1, what.0, sides));
    }

    v.wrong.extend(
        fills
            .into_keys()
            .map(|fill| format!("a fill without its trade: {fill:?}")),
    );
}

fn is_house(side: &str) -> bool {
    side.starts_with("house:")
}

/// Cash and shares of the house from its trades.
fn houses(trades: &[Seen]) -> (i128, i64) {
    let side = |trade: &Seen| {
        i64::from(is_house(trade.text("buyer"))) - i64::from(is_house(trade.text("seller")))
    };

    let all = trades.iter().map(|trade| {
        (
            side(trade) * trade.number("quantity"),
            trade.number("price_e4"),
        )
    });

    all.fold((0, 0), |(cash, shares), (bought, price)| {
        (
            cash - i128::from(bought) * i128::from(price),
            shares + bought,
        )
    })
}

/// No cash or share was created or lost, and each portfolio equals the sum of the user's fills.
fn check_portfolios(
    v: &mut Verdict,
    log: &dyn Log,
    events: &[Seen],
    cash_e4: i64,
    house: (i128, i64),
    outcome: &mut Outcome,
) {
    let mut held = BTreeMap::<&str, i64>::new();
    for e in events
        .iter()
        .filter(|e| ["OrderFilled", "OrderPartiallyFilled"].contains(&e.text("event")))
    {
        let quantity = e.number("last_quantity");
        *held.entry(e.text("user_id")).or_default() += if e.text("side") == "buy" {
            quantity
        } else {
            -quantity
        };
    }

    let last: BTreeMap<_, _> = read_all(log, t::PORTFOLIOS)
        .into_iter()
        .map(|p| (p.text("user_id").to_string(), p))
        .collect();
    let (mut cash, mut shares) = house;
    for (user, p) in &last {
        let positions = p.value["positions"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        let field = |name: &str| {
            positions
                .values()
                .map(|position| position[name].as_i64().unwrap_or(0))
                .sum::<i64>()
        };

        let all = p.number("cash_available_e4") + p.number("cash_reserved_e4");
        (cash, shares) = (cash + i128::from(all), shares + field("quantity"));
        if field("quantity") != held.get(user.as_str()).copied().unwrap_or(0) {
            v.wrong.push(format!(
                "portfolio of {user}: {} held, by its fills {:?}",
                field("quantity"),
                held.get(user.as_str())
            ));
        }

        let portfolio = [
            all,
            field("quantity"),
            field("cost_basis_e4"),
            p.number("realised_e4"),
        ];
        outcome.portfolios.insert(user.clone(), portfolio);
    }

    if (last.len() as u64, cash, shares) != (USERS, i128::from(cash_e4) * i128::from(USERS), 0) {
        v.wrong.push(format!(
            "{} users end with {cash} in all, and {shares} shares",
            last.len()
        ));
    }

    // A user without open orders holds no cash or shares.
    let busy: BTreeSet<&str> = events
        .iter()
        .filter(|e| e.text("event") == "OrderPending")
        .map(|e| e.text("user_id"))
        .collect();
    let open: BTreeSet<String> = outcome
        .orders
        .iter()
        .filter(|(_, s)| !s.starts_with("filled") && !s.starts_with("cancelled"))
        .map(|((u, _), _)| u.clone())
        .collect();
    for (user, p) in last
        .iter()
        .filter(|(user, _)| busy.contains(user.as_str()) && !open.contains(*user))
    {
        let short = held.get(user.as_str()).is_some_and(|q| *q < 0);
        if !short && p.number("cash_reserved_e4") != 0 {
            v.wrong.push(format!(
                "user {user} has nothing open and still {} reserved",
                p.number("cash_reserved_e4")
            ));
        }
    }
}

/// One number to compare and to print.
pub fn digest(outcome: &Outcome) -> String {
    format!(
        "{:032x}",
        xxhash_rust::xxh3::xxh3_128(format!("{outcome:?}").as_bytes())
    )
}

/// A row for each kind of answer.
pub fn table(answers: &BTreeMap<(Expect, Answer), usize>) -> String {
    let row = |((expect, (kind, why)), count): (&(Expect, Answer), &usize)| {
        format!("  {count:>6}  {expect:<16?} {kind} {why}\n")
    };

    answers.iter().map(row).collect()
}

/// The first difference between two outcomes, for the message of a failed test.
pub fn first_difference(a: &Outcome, b: &Outcome) -> Option<String> {
    let pair = |what: &str, a: Value, b: Value| format!("{what}: {a} and {b}");
    if let Some(at) = a.trades.iter().zip(&b.trades).position(|(a, b)| a != b) {
        return Some(pair(
            "trade",
            a.trades[at].clone().into(),
            b.trades[at].clone().into(),
        ));
    }

    if a.trades.len() != b.trades.len() {
        return Some(pair("trades", a.trades.len().into(), b.trades.len().into()));
    }

    let order = a
        .orders
        .iter()
        .find(|(k, s)| b.orders.get(*k) != Some(s))
        .map(|(k, s)| format!("order {k:?}: {s} and {:?}", b.orders.get(k)));
    let portfolio = || {
        a.portfolios
            .iter()
            .find(|(k, s)| b.portfolios.get(*k) != Some(s))
    };

    order.or_else(|| {
        portfolio().map(|(k, s)| format!("portfolio {k}: {s:?} and {:?}", b.portfolios.get(k)))
    })
}
