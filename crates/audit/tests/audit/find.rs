//! Row A2: for an order, a user, a symbol or a time, the audit log shows the whole lifecycle and
//! the basis of each decision. Each result is compared with a plain search of all records.

use std::sync::atomic::Ordering;

use audit::equity;
use audit::find::{FindError, Proof, Timeline, find};
use audit::query_filter::Query;
use domain::price::{FreshnessLimits, is_fresh};
use ports::topics::TopicPartition;
use roles::Role;
use serde_json::Value;
use wire::event::{Event, OrderEvent};
use wire::portfolio::PortfolioRecord;
use wire::topics as t;
use wire::trade::{ReferencePrice, Trade};

use super::tape::{Kept, Tape};
use super::world::{START_MS, World, busy};

fn ask(tape: &Tape, query: Query) -> Timeline {
    find(
        tape,
        &tape.topics,
        &Query {
            limit: 100_000,
            ..query
        },
    )
    .expect("an answer")
}

fn order(id: &str) -> Query {
    Query {
        order: Some(id.into()),
        ..Query::default()
    }
}

fn tree(kept: &Kept) -> Value {
    tree_of(kept.value.as_deref())
}

fn tree_of(value: Option<&[u8]>) -> Value {
    let value = value.unwrap_or_default();
    match value.first() {
        Some(b'{') => serde_json::from_slice(value).unwrap_or_default(),
        _ => rmp_serde::from_slice(value).unwrap_or_default(),
    }
}

/// Every audited record for which `is` holds, by a slow search.
fn all(tape: &Tape, is: impl Fn(&Value, &Kept) -> bool) -> Vec<(TopicPartition, u64)> {
    let audited = tape
        .partitions
        .iter()
        .filter(|(at, _)| t::AUDITED.contains(&at.topic));
    audited
        .flat_map(|(at, kept)| {
            kept.iter()
                .filter(|k| is(&tree(k), k))
                .map(|k| (*at, k.offset))
        })
        .collect()
}

/// Records of the audited topics that match the query itself.
fn found(timeline: &Timeline) -> Vec<(TopicPartition, u64)> {
    let mut found: Vec<_> = timeline
        .iter()
        .filter(|(r, hit)| t::AUDITED.contains(&r.at.topic) && !hit.context)
        .map(|(r, _)| (r.at, r.offset))
        .collect();
    found.sort();
    found
}

/// Reports only the differences, because whole lists are long.
fn assert_same(have: &[(TopicPartition, u64)], want: &[(TopicPartition, u64)]) {
    let only = |a: &[(TopicPartition, u64)], b: &[_]| {
        a.iter()
            .filter(|x| !b.contains(*x))
            .copied()
            .collect::<Vec<_>>()
    };

    assert_eq!(
        (only(have, want), only(want, have)),
        (vec![], vec![]),
        "too much, too little"
    );
    assert_eq!(have.len(), want.len());
}

fn event_names(timeline: &Timeline) -> Vec<&'static str> {
    let events = timeline
        .iter()
        .filter(|(r, _)| r.at.topic == t::ORDER_EVENTS);
    events
        .map(|(r, _)| {
            OrderEvent::decode(r.value.unwrap_or_default())
                .expect("an event")
                .event
                .name()
        })
        .collect()
}

#[test]
fn a2_an_order_from_its_command_to_its_notification() {
    let timeline = ask(busy(), order("502-4"));
    let want = all(busy(), |v, _| {
        [
            "order_id",
            "orig_order_id",
            "cause_id",
            "buy_order_id",
            "sell_order_id",
        ]
        .iter()
        .any(|f| v[*f] == "502-4")
    });

    assert_same(&found(&timeline), &want);
    assert_eq!(
        event_names(&timeline),
        ["OrderPending", "OrderAccepted", "OrderFilled"]
    );
    let kinds: Vec<_> = timeline
        .iter()
        .map(|(r, hit)| (busy().topics.name(r.at.topic), hit.depth))
        .collect();
    assert_eq!(kinds[0], ("order-commands", 0));
    for kind in [
        ("order-events", 1),
        ("book-commands", 1),
        ("executions", 2),
        ("trades", 2),
        ("order-events", 3),
        ("notifications", 4),
    ] {
        assert!(kinds.contains(&kind), "{kind:?} in {kinds:?}");
    }

    assert!(
        kinds.is_sorted_by_key(|(_, depth)| *depth),
        "causes come first: {kinds:?}"
    );
    for (r, hit) in timeline.iter() {
        let want = if t::AUDITED.contains(&r.at.topic) {
            Proof::Chained
        } else {
            Proof::Internal
        };

        assert_eq!(hit.proof, want);
    }
}

#[test]
fn a2_the_inputs_of_each_decision_are_on_record() {
    let timeline = ask(busy(), order("504-6"));
    let fill = timeline
        .iter()
        .find(|(r, _)| r.at.topic == t::TRADES)
        .expect("a trade")
        .0
        .value
        .expect("a value")
        .to_vec();

    let fill = Trade::decode(&fill).expect("a trade").price_e4;
    let command = timeline
        .iter()
        .find(|(r, _)| r.at.topic == t::ORDER_COMMANDS)
        .expect("the command");
    let inputs = command.1.inputs.as_ref().expect("decided");
    assert_eq!(
        (inputs.role, inputs.task),
        ("orders", command.0.at.partition)
    );
    let row = |topic, offset: u64| {
        let kept = &busy().partitions[&TopicPartition::new(topic, 0)];
        kept.iter()
            .find(|k| k.offset == offset)
            .and_then(|k| k.value.clone())
            .expect("a row")
    };

    let instrument = inputs.instrument.as_ref().expect("listed");
    let reference = inputs.reference.as_ref().expect("a price");
    assert_eq!(
        instrument.value,
        row(t::INSTRUMENTS, instrument.offset.expect("in the log"))
    );
    assert_eq!(
        reference.value,
        row(t::REFERENCE_PRICES, reference.offset.expect("in the log"))
    );
    let price = ReferencePrice::decode(&reference.value).expect("a price");
    assert!(
        price.symbol == "MSFT"
            && is_fresh(
                price.time_us / 1000,
                command.0.timestamp_ms,
                FreshnessLimits::new(120_000, true)
            )
    );

    let book = timeline
        .iter()
        .find(|(r, _)| r.at.topic == t::BOOK_COMMANDS)
        .expect("sent to the book");
    let inputs = book.1.inputs.as_ref().expect("decided");
    assert_eq!(inputs.role, "trading");
    assert_eq!(
        inputs.tick.expect("a tick").price_e4,
        fill,
        "the house fills at the tick"
    );
    assert_eq!(
        inputs.instrument.as_ref().expect("listed").value,
        instrument.value
    );
}

#[test]
fn a2_a_version_that_is_long_gone_is_still_named() {
    // The listing changes between two orders. Each decision names its own version, even after
    // compaction has dropped the first.
    let mut w = World::new();
    w.list("AAPL", ",\"max_quantity\":5");
    w.tick("AAPL", "100");
    w.rest();
    w.order("501", "1", "AAPL", 10, "buy");
    w.rest();
    w.list("AAPL", ",\"max_quantity\":50");
    w.later(10);
    w.tick("AAPL", "101");
    w.rest();
    w.order("501", "2", "AAPL", 10, "buy");
    w.rest();
    let mut tape = Tape::of(&w.log, &w.topics);
    tape.at(TopicPartition::new(t::INSTRUMENTS, 0)).remove(0);
    let limit = |id: &str| {
        let timeline = ask(&tape, order(id));
        let (_, hit) = timeline
            .iter()
            .find(|(r, _)| r.at.topic == t::ORDER_COMMANDS)
            .expect("the command");
        let row = hit
            .inputs
            .clone()
            .expect("decided")
            .instrument
            .expect("listed");
        serde_json::from_slice::<Value>(&row.value).expect("JSON")["max_quantity"].clone()
    };

    assert_eq!((limit("1"), limit("2")), (5.into(), 50.into()));
    assert_eq!(
        event_names(&ask(&tape, order("1"))),
        ["Deposited", "OrderRejected"],
        "the account opened with it"
    );
}

#[test]
fn a2_what_was_switched_off_is_named_with_the_decision() {
    let mut w = World::new();
    w.list("AAPL", "");
    w.tick("AAPL", "100");
    w.rest();
    let mut step = |control: Option<(&str, &str)>, id: &str| {
        if let Some((key, state)) = control {
            w.send(t::CONTROLS, key, &format!("{{\"state\":\"{state}\"}}"));
        }

        w.rest();
        w.order("501", id, "AAPL", 1, "buy");
        w.rest();
    };

    step(None, "1");
    step(Some(("501", "stopped")), "2");
    step(Some(("*", "stopped")), "3");
    step(Some(("501", "disabled")), "4");
    let cancel = r#"{"command":"cancel","user_id":"501","order_id":"5","orig_order_id":"1"}"#;
    w.send(t::ORDER_COMMANDS, "501", cancel);
    w.rest();
    let tape = Tape::of(&w.log, &w.topics);
    let controls = |id: &str| {
        let timeline = ask(&tape, order(id));
        let (_, hit) = timeline
            .iter()
            .find(|(r, _)| tree_of(r.value)["order_id"] == id)
            .expect("the command");
        let rows = hit.inputs.clone().expect("decided").controls.into_iter();
        rows.map(|(key, row)| {
            format!(
                "{key} {:?} {}",
                row.offset.expect("in the log"),
                tree_of(Some(&row.value))["state"]
            )
        })
        .collect::<Vec<_>>()
    };

    assert_eq!(controls("1"), [""; 0]);
    assert_eq!(controls("2"), [r#"501 0 "stopped""#]);
    assert_eq!(controls("3"), [r#"501 0 "stopped""#, r#"* 1 "stopped""#]);
    assert_eq!(controls("4"), [r#"501 2 "disabled""#, r#"* 1 "stopped""#]);
    assert_eq!(controls("5"), [""; 0], "of a cancel nothing is looked at");

    // The user's own rows belong to the user's history, and are audited.
    let timeline = ask(
        &tape,
        Query {
            user: Some("501".into()),
            ..Query::default()
        },
    );

    let rows: Vec<_> = timeline
        .iter()
        .filter(|(r, _)| r.at.topic == t::CONTROLS)
        .map(|(r, hit)| (r.offset, hit.proof))
        .collect();
    assert_eq!(rows, [(0, Proof::Chained), (2, Proof::Chained)]);
}

#[test]
fn a2_a_user_at_all_times_and_at_some() {
    let user = |q: Query| Query {
        user: Some("503".into()),
        ..q
    };

    let timeline = ask(busy(), user(Query::default()));
    let mentions = |v: &Value, k: &Kept| {
        ["user_id", "buyer", "seller"]
            .iter()
            .any(|f| v[*f] == "503")
            || v.is_null() && k.key.as_deref() == Some(b"503")
    };

    assert_same(&found(&timeline), &all(busy(), mentions));
    let dead = timeline
        .iter()
        .filter(|(r, _)| r.at.topic == t::DEAD_LETTERS)
        .count();
    assert_eq!(dead, 1, "the command that could not be read is part of it");
    let mut seqs: Vec<_> = timeline
        .iter()
        .filter(|(r, _)| r.at.topic == t::ORDER_EVENTS)
        .map(|(r, _)| {
            OrderEvent::decode(r.value.unwrap_or_default())
                .expect("an event")
                .user_seq
        })
        .collect();

    seqs.sort_unstable();
    assert!(
        seqs.iter().zip(1..).all(|(have, want)| *have == want),
        "{seqs:?}"
    );

    let from = START_MS + 2_000;
    let to = START_MS + 4_500;
    let some = ask(
        busy(),
        user(Query {
            from_ms: Some(from),
            to_ms: Some(to),
            ..Query::default()
        }),
    );

    let want = all(busy(), |v, k| {
        mentions(v, k) && (from..to).contains(&k.time_ms)
    });

    assert!(!want.is_empty() && want.len() < found(&timeline).len());
    assert_same(&found(&some), &want);
    let times: Vec<_> = some.iter().map(|(r, _)| r.timestamp_ms).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a2_a_symbol_with_its_orders_trades_and_listing() {
    let timeline = ask(
        busy(),
        Query {
            symbol: Some("MSFT".into()),
            ..Query::default()
        },
    );

    let of = |v: &Value| v["symbol"] == "MSFT";
    let id = |v: &Value, name: &str| {
        (
            v["user_id"].as_str().unwrap_or_default().to_string(),
            v[name].as_str().unwrap_or_default().to_string(),
        )
    };

    let commands = busy()
        .partitions
        .iter()
        .filter(|(at, _)| at.topic == t::ORDER_COMMANDS)
        .flat_map(|(_, kept)| kept);
    let orders: Vec<_> = commands
        .map(tree)
        .filter(of)
        .map(|v| id(&v, "order_id"))
        .collect();

    // Also records without a symbol if an order of the symbol caused them, such as the opening cash
    // of an account.
    let caused = |v: &Value| {
        v["symbol"].is_null()
            && (orders.contains(&id(v, "order_id")) || orders.contains(&id(v, "cause_id")))
    };

    let want = all(busy(), |v, _| {
        (of(v) || of(&v["event"]) || caused(v) || v["symbol"].is_null() && caused(&v["event"]))
            && v.get("price").is_none()
    });

    assert_same(&found(&timeline), &want);
    let with_ticks = ask(
        busy(),
        Query {
            symbol: Some("MSFT".into()),
            ticks: true,
            ..Query::default()
        },
    );

    let ticks = busy()
        .partitions
        .iter()
        .filter(|(at, _)| at.topic == t::MARKET_DATA);
    let ticks = ticks
        .flat_map(|(_, kept)| kept)
        .filter(|k| tree(k)["symbol"] == "MSFT")
        .count();
    assert!(ticks > 0);
    assert_eq!(found(&with_ticks).len(), want.len() + ticks);
    let both = ask(
        busy(),
        Query {
            symbol: Some("MSFT".into()),
            user: Some("505".into()),
            ..Query::default()
        },
    );

    assert!(!both.hits.is_empty());
    assert!(both.iter().filter(|(_, h)| !h.context).all(|(r, _)| {
        let text = String::from_utf8_lossy(r.value.unwrap_or_default()).into_owned();
        text.contains("505")
            && (text.contains("MSFT") || text.contains("Deposited") || r.at.topic == t::EXECUTIONS)
    }));
}

#[test]
fn a2_an_order_id_of_two_users_shows_both_and_repeats_answers() {
    let timeline = ask(busy(), order("502-1"));
    assert!(
        event_names(&timeline).contains(&"OrderStatus"),
        "{:?}",
        event_names(&timeline)
    );
    let commands = timeline
        .iter()
        .filter(|(r, _)| r.at.topic == t::ORDER_COMMANDS)
        .count();
    assert_eq!(commands, 2, "the command and its repetition");
    let nothing = ask(busy(), order("no-such-order"));
    assert!(nothing.hits.is_empty());
}

#[test]
fn a_changed_record_is_marked_and_too_many_are_refused() {
    let mut tape = busy().clone();
    let at = *tape
        .partitions
        .iter()
        .find(|(at, kept)| at.topic == t::TRADES && !kept.is_empty())
        .expect("trades")
        .0;
    let value = tape.at(at)[0].value.clone().expect("a value");
    let id = Trade::decode(&value)
        .expect("a trade")
        .buy_order_id
        .expect("an order")
        .to_string();
    let place = value
        .windows(5)
        .position(|w| w == b"maker")
        .expect("a field");
    tape.at(at)[0].value.as_mut().expect("a value")[place] ^= 1;
    let timeline = ask(&tape, order(&id));
    let bad: Vec<_> = timeline
        .iter()
        .filter(|(_, h)| h.proof == Proof::Differs)
        .map(|(r, _)| (r.at, r.offset))
        .collect();
    assert_eq!(bad, [(at, 0)]);

    let refused = find(
        &tape,
        &tape.topics,
        &Query {
            symbol: Some("AAPL".into()),
            limit: 10,
            ..Query::default()
        },
    );

    assert!(matches!(refused, Err(FindError::TooMany(10))));
}

#[test]
fn equity_by_replay_ends_where_the_portfolio_is() {
    let tape = busy();
    for user in ["501", "502", "503", "504", "505"] {
        let mut last = None;
        let mut deposits = 0_i128;
        let mut points = 0;
        let events = equity::history(tape, &tape.topics, user, (None, None), &mut |p| {
            if p.event.event == Event::Deposited {
                deposits += i128::from(p.event.amount_e4.expect("an amount"));
            }

            let book = p.portfolio;
            let cash = i128::from(book.cash_available_e4) + i128::from(book.cash_reserved_e4);

            // After every event, cash plus cost basis equals deposits plus realised profit minus
            // fees, to the last unit.
            assert_eq!(
                cash + p.cost_basis_e4,
                deposits + i128::from(book.realised_e4) - i128::from(book.fees_e4)
            );
            let equity = p.equity_e4().expect("every symbol had a tick");
            assert_eq!(equity - cash, p.worth_e4.expect("marked"));
            last = Some(book.clone());
            points += 1;
            true
        });

        assert_eq!(events.expect("a history"), points);
        let mut published = tape
            .partitions
            .iter()
            .filter(|(at, _)| at.topic == t::PORTFOLIOS)
            .flat_map(|(_, kept)| kept);
        let published = published
            .rfind(|k| k.key.as_deref() == Some(user.as_bytes()))
            .expect("a portfolio");
        assert_eq!(
            last,
            Some(
                PortfolioRecord::decode(published.value.as_deref().expect("a value"))
                    .expect("a portfolio")
            )
        );
    }
}

/// Regression: history and audit recomputed the price by a simpler rule. Ticks that were held back,
/// late, from the future or for another symbol were shown as "the last tick" beside a fill at
/// another price. A user's equity was shown ten times too high.
#[test]
fn prices_of_the_past_are_those_that_were_decided_upon() {
    let mut w = World::new();
    w.list("ABC", ",\"band_bps\":300");
    w.tick("ABC", "100");
    w.rest();
    w.later(2_000);
    w.order("u", "1", "ABC", 10, "buy");
    w.rest();
    let ticks = [
        r#"{"symbol":"ABC","price":10000}"#.to_string(),
        format!(
            r#"{{"symbol":"ABC","price":101,"timestamp":{}}}"#,
            w.now() + 60_000
        ),
        r#"{"symbol":"MSFT","price":101}"#.to_string(),
        r#"{"symbol":"ABC","price":0}"#.to_string(),
        r#"{"symbol":"ABC","price":101.00001}"#.to_string(),
    ];

    for tick in &ticks {
        w.later(1_500);
        w.send(t::MARKET_DATA, "ABC", tick);
        w.rest();
    }

    // A feed whose numbers end at 5, begin again after a minute, and are late again.
    w.send(
        t::MARKET_DATA,
        "ABC",
        r#"{"symbol":"ABC","price":101,"seq":5,"source":"x"}"#,
    );
    w.later(60_000);
    w.send(
        t::MARKET_DATA,
        "ABC",
        r#"{"symbol":"ABC","price":100,"seq":4,"source":"x"}"#,
    );
    w.send(
        t::MARKET_DATA,
        "ABC",
        r#"{"symbol":"ABC","price":102,"seq":3,"source":"x"}"#,
    );
    w.rest();
    w.order("u", "2", "ABC", 1, "buy");
    w.rest();
    let tape = Tape::of(&w.log, &w.topics);
    let timeline = ask(&tape, order("2"));
    let decided = timeline
        .iter()
        .find_map(|(_, hit)| hit.inputs.as_ref()?.tick)
        .expect("the tick that decided");
    assert_eq!(decided.price_e4, 1_000_000);
    let mut worth = Vec::new();
    equity::history(&tape, &tape.topics, "u", (None, None), &mut |p| {
        worth.push((
            p.portfolio.positions.get("ABC").map_or(0, |h| h.quantity),
            p.worth_e4,
        ));
        true
    })
    .expect("a history");

    assert_eq!(worth.last(), Some(&(11, Some(11_000_000))), "{worth:?}");
    assert!(
        worth
            .iter()
            .all(|(n, worth)| *worth == Some(i128::from(*n) * 1_000_000)),
        "{worth:?}"
    );
}

/// Regression: a transaction processed all ticks first. An order traded at a later price, and the
/// audit showed that price.
#[test]
fn an_order_and_a_tick_of_a_transaction_go_by_their_times() {
    for (wait_ms, fill) in [(10, 1_000_000), (0, 1_010_000)] {
        let mut w = World::new();
        w.list("ABC", "");
        w.tick("ABC", "100");
        w.rest();
        w.later(2_000);
        w.order("u", "1", "ABC", 10, "buy");
        w.rest_of(Role::Orders);
        w.later(wait_ms);
        w.tick("ABC", "101");
        w.rest();
        let tape = Tape::of(&w.log, &w.topics);
        let timeline = ask(&tape, order("1"));
        let decided = timeline
            .iter()
            .find_map(|(_, hit)| hit.inputs.as_ref()?.tick)
            .expect("the tick that decided");
        assert_eq!(
            decided.price_e4, fill,
            "the tick came {wait_ms} ms after the order"
        );
        let (trade, _) = timeline
            .iter()
            .find(|(r, _)| r.at.topic == t::TRADES)
            .expect("a trade");
        assert_eq!(
            Trade::decode(trade.value.unwrap_or_default())
                .expect("a trade")
                .price_e4,
            fill,
            "the tick came {wait_ms} ms after the order"
        );
    }
}

/// A reader is a connection and a wait. One reader for each order would take hours for a day of a
/// busy user.
#[test]
fn the_prices_of_many_orders_take_as_few_readers_as_of_one() {
    let mut w = World::new();
    w.list("ABC", "");
    w.tick("ABC", "100");
    w.rest();
    for n in 0..40 {
        w.order("u", &n.to_string(), "ABC", 1, "buy");
        w.later(1);
        w.tick("ABC", &format!("100.{n:02}"));
    }

    w.rest();
    let tape = Tape::of(&w.log, &w.topics);
    let readers = |query| {
        let before = tape.readers.load(Ordering::Relaxed);
        let ticks = ask(&tape, query)
            .iter()
            .filter(|(_, hit)| hit.inputs.as_ref().is_some_and(|i| i.tick.is_some()))
            .count();
        (ticks, tape.readers.load(Ordering::Relaxed) - before)
    };

    let (one, for_one) = readers(order("7"));
    let (many, for_many) = readers(Query {
        user: Some("u".into()),
        ..Query::default()
    });

    assert_eq!((one, many), (1, 40));
    assert!(
        for_many <= for_one + 10,
        "{for_many} readers for {many} orders, {for_one} for one"
    );
}
