//! E7: the roles against a simple reference model. Events of every user, books and balances must be
//! the same, and the state must not depend on restarts of the roles. The scripts are random:
//! several users and symbols, duplicates, cancels, replaces, halts, delistings, expiry, and
//! operators who switch users off and on.
//!
//! `cargo test -p processor-roles --test book_model` runs 200 000 commands. A campaign:
//! `MODEL_COMMANDS=10000000 MODEL_SEED=7 cargo test -p processor-roles --test book_model`. A
//! failing script is made as short as possible and printed with its seed.

// The name by which all other crates know this crate.
extern crate processor_roles as roles;

mod riskless;

use client::simulate::Rng;
use roles::RoleSettings;
use testing::model::limits::{Limit, flooded};
use testing::model::roles::{Pair, limited, settings};
use testing::model::script::{Command, Kind, START_MS, SYMBOLS, Status, script, settled, shrink};
use testing::model::{Model, Symbol};

/// Commands of one script. The model scans all orders, so long scripts are slow.
const LENGTH: usize = 400;

fn model(s: &RoleSettings, short_ok: bool) -> Model {
    let symbol = |name: &str| Symbol {
        status: Status::Listed,
        house: true,
        house_max: (name == "B").then_some(25),
        owed: false,
        half_spread_bps: if name == "C" { 5 } else { 0 },
        fee_bps: match name {
            "A" => 0,
            "B" => 13,
            _ => 3,
        },
        clip: (name == "B").then_some(100),
        limit_band_bps: (name == "C").then_some(300),
        short_ok,
        margin_bps: match name {
            "A" => 5_000,
            "B" => 2_000,
            _ => 0,
        },
        tick: None,
        told: None,
        trade: None,
        next_place: 0,
        rose_to: None,
        fell_to: None,
    };

    let limit = |factor: u32| Limit {
        costs: 1_000_000 / i64::from(s.rate_limit * factor),
        burst: i64::from(s.burst * factor),
    };

    Model {
        now: START_MS,
        opening: s.opening_cash_e4,
        stale_ms: s.stale_ms as i64,
        orders_limit: (s.rate_limit > 0).then(|| limit(1)),
        messages_limit: (s.rate_limit > 0).then(|| limit(s.message_rate_factor)),
        users: Default::default(),
        known: Default::default(),
        orders: Vec::new(),
        trades: 0,
        busts: Vec::new(),
        symbols: SYMBOLS.iter().map(|s| (s.to_string(), symbol(s))).collect(),
        off: Vec::new(),
        seen: Default::default(),
    }
}

/// In every second script all symbols may be sold short.
fn shorts(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

/// Every third script contains floods, with limits that are reached.
fn case(seed: u64) -> (RoleSettings, Vec<Command>) {
    match seed % 3 {
        0 => (limited(), flooded(seed, script(seed, LENGTH * 2 / 3))),
        _ => (settings(), script(seed, LENGTH)),
    }
}

/// Runs a script in the model and in the roles; returns the first difference.
fn compare(script: &[Command], settings: &RoleSettings, short_ok: bool) -> Result<usize, String> {
    let mut model = model(settings, short_ok);
    let mut roles = Pair::by(*settings, short_ok);
    let mut steady = Pair::by(*settings, short_ok);
    let mut compared = std::collections::BTreeMap::<String, usize>::new();
    for (n, c) in script.iter().enumerate() {
        let c = &model.settled(c);
        model.run(c);
        roles
            .run(c, true)
            .map_err(|e| format!("step {n}, {c:?}: {e}"))?;
        steady
            .run(c, false)
            .map_err(|e| format!("step {n} without restarts, {c:?}: {e}"))?;
        for (user, expected) in &model.users {
            let got = roles.told.get(user).map_or(&[][..], Vec::as_slice);

            // Events that were compared before are not compared again.
            let done = compared.entry(user.clone()).or_insert(0);
            if got[*done..] == expected.events[*done..] {
                *done = got.len();
            } else {
                let at = got
                    .iter()
                    .zip(&expected.events)
                    .position(|(a, b)| a != b)
                    .unwrap_or(got.len().min(expected.events.len()));
                let got = got.get(at);
                let due = expected.events.get(at);
                return Err(format!(
                    "step {n}, {c:?}: event {} of {user} is\n{got:#?}\nwhere due was\n{due:#?}",
                    at + 1
                ));
            }
        }

        if roles.busts != model.busts {
            return Err(format!(
                "step {n}, {c:?}: taken back was\n{:#?}\nwhere due was\n{:#?}",
                roles.busts.last(),
                model.busts.last()
            ));
        }

        if n % 50 == 49 || n + 1 == script.len() {
            let books = roles.books();
            let due = model.books();
            if books != due {
                return Err(format!(
                    "step {n}, {c:?}: the books are\n{books:#?}\nwhere due was\n{due:#?}"
                ));
            }

            roles.check().map_err(|e| format!("step {n}, {c:?}: {e}"))?;
            if roles.state() != steady.state() {
                return Err(format!("step {n}, {c:?}: restarts have changed the state"));
            }
        }
    }

    Ok(model.users.values().map(|u| u.events.len()).sum())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| {
        n.parse().unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

#[test]
fn e7_the_roles_do_what_the_model_does() {
    let commands = number("MODEL_COMMANDS", 200_000);
    let first = number("MODEL_SEED", 1);
    let scripts = commands.div_ceil(LENGTH as u64);
    let threads = std::thread::available_parallelism()
        .map_or(1, |n| n.get() as u64)
        .min(scripts);
    let events: usize = std::thread::scope(|scope| {
        let run = |thread| {
            move || {
                let mut events = 0;
                for seed in (first + thread..first + scripts).step_by(threads as usize) {
                    let (settings, full) = case(seed);
                    match compare(&full, &settings, shorts(seed)) {
                        Ok(n) => events += n,
                        Err(_) => {
                            let short =
                                shrink(full, |s| compare(s, &settings, shorts(seed)).is_err());
                            panic!(
                                "seed {seed}: {}\nscript: {short:#?}",
                                compare(&short, &settings, shorts(seed))
                                    .expect_err("it still fails")
                            );
                        }
                    }
                }

                events
            }
        };

        let all: Vec<_> = (0..threads).map(|t| scope.spawn(run(t))).collect();
        all.into_iter()
            .map(|h| h.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
            .sum()
    });

    println!(
        "{} commands in {scripts} scripts, {events} events: all as the model has them",
        scripts * LENGTH as u64
    );
    assert!(
        events as u64 > commands / 2,
        "hardly anything happened: {events} events"
    );
}

/// A replace that follows its order at once.
fn hasty_change(c: &Command, rng: &mut Rng) -> Option<Command> {
    let Command::Order {
        user,
        id,
        kind:
            Kind::New {
                quantity,
                limit: Some(limit),
                ..
            },
    } = c
    else {
        return None;
    };

    let limit = (rng.below(2) == 0).then(|| limit + 100 * (rng.below(21) as i64 - 10));
    let kind = Kind::Replace {
        orig: id.clone(),
        quantity: Some(quantity + rng.below(9) as i64 - 3),
        limit,
    };

    Some(Command::Order {
        user: user.clone(),
        id: format!("hasty-{id}"),
        kind,
    })
}

/// Resolves a command that depends on earlier events of the roles.
fn settled_for(c: &Command, pair: &Pair) -> Command {
    let told = match c {
        Command::Order { user, .. } | Command::Astray { user, .. } => pair.told.get(user),
        _ => None,
    };

    settled(c, told.map_or(&[], Vec::as_slice))
}

/// A test that the model cannot follow: up to six commands in flight, read by the two roles in any
/// order. For every result, the ledger must balance and every reservation must be kept. When all
/// orders have ended, no order may hold cash or shares.
fn in_flight(seed: u64, script: &[Command], short_ok: bool) -> Result<usize, String> {
    let mut rng = Rng::new(seed);
    let mut pair = Pair::new(short_ok);
    let mut rest = script;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(1 + rng.below(6) as usize));
        let mut now: Vec<Command> = now.iter().map(|c| settled_for(c, &pair)).collect();

        // The most delicate case: a replace before its owner knows the trades of the order.
        for n in (0..now.len()).rev() {
            if rng.below(3) == 0
                && let Some(change) = hasty_change(&now[n], &mut rng)
            {
                now.insert(n + 1, change);
            }
        }

        pair.run_at_once(&now, |n| rng.below(n as u64) as usize)?;
        pair.check()
            .and_then(|_| pair.check_rest())
            .map_err(|e| format!("after {now:?}: {e}"))?;
        rest = later;
    }

    let end: Vec<Command> = pair
        .told
        .keys()
        .map(|user| {
            (
                user.clone(),
                Kind::MassCancel {
                    symbol: None,
                    operator: false,
                },
            )
        })
        .map(|(user, kind)| Command::Order {
            user,
            id: "end".into(),
            kind,
        })
        .collect();

    pair.run_at_once(&end, |_| 0)?;
    pair.check()?;
    let last = |events: &Vec<testing::model::Told>| events.last().map_or(0, |e| e.reserved);

    // After a bust, shares may be owed too. The cash held for these shares was checked against the
    // positions.
    let state = pair.state();
    let owes = |user: &str| {
        state
            .iter()
            .any(|(key, _)| key.starts_with(format!("s{user}\0").as_bytes()))
    };

    match pair
        .told
        .iter()
        .find(|(user, events)| last(events) != 0 && !owes(user))
    {
        Some((user, events)) if !short_ok => Err(format!(
            "{user} has nothing open and {} reserved",
            last(events)
        )),
        _ => Ok(pair.told.values().map(Vec::len).sum()),
    }
}

#[test]
fn commands_in_flight_break_nothing() {
    let commands = number("MODEL_COMMANDS", 200_000);
    let first = number("MODEL_SEED", 1);
    let mut events = 0;
    for seed in first..first + commands.div_ceil(LENGTH as u64) {
        let full = script(seed, LENGTH);
        let short_ok = shorts(seed);
        match in_flight(seed, &full, short_ok) {
            Ok(n) => events += n,
            Err(_) => {
                let short = shrink(full, |s| in_flight(seed, s, short_ok).is_err());
                panic!(
                    "seed {seed}: {}\nscript: {short:#?}",
                    in_flight(seed, &short, short_ok).expect_err("it still fails")
                );
            }
        }
    }

    println!("{commands} commands in flight, {events} events");
    assert!(
        events as u64 > commands / 2,
        "hardly anything happened: {events} events"
    );
}

#[test]
fn scripts_do_a_bit_of_everything() {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for seed in 1..40 {
        let (settings, script) = case(seed);
        let mut model = model(&settings, shorts(seed));
        script.iter().for_each(|c| model.run(&model.settled(c)));
        for e in model.users.values().flat_map(|u| &u.events) {
            *seen.entry(e.event.to_string()).or_default() += 1;
            *seen.entry(e.reason.to_string()).or_default() += 1;
            *seen
                .entry(e.last.map_or("", |l| l.3).to_string())
                .or_default() += 1;
            *seen
                .entry(e.unanswered.map_or("", |_| "unanswered").to_string())
                .or_default() += 1;
        }

        model
            .seen
            .iter()
            .for_each(|(what, n)| *seen.entry(what.to_string()).or_default() += n);
    }

    let must = [
        "OrderPending",
        "OrderAccepted",
        "OrderRejected",
        "OrderStatus",
        "DuplicateRejected",
        "OrderTriggered",
        "OrderPartiallyFilled",
        "OrderFilled",
        "OrderCancelled",
        "OrderExpired",
        "OrderReplaced",
        "CancelRejected",
        "Deposited",
        "Withdrawn",
        "maker",
        "taker",
        "house",
        "UNKNOWN_SYMBOL",
        "SYMBOL_HALTED",
        "UNKNOWN_ORDER",
        "DUPLICATE_ORDER",
        "UNSUPPORTED_CHARACTERISTIC",
        "INCORRECT_QUANTITY",
        "PRICE_BAND",
        "INVALID_PRICE_INCREMENT",
        "NO_REFERENCE_PRICE",
        "STALE_PRICE",
        "SHORT_SELL_NOT_PERMITTED",
        "INSUFFICIENT_FUNDS",
        "INVALID_AMOUNT",
        "POST_ONLY_WOULD_CROSS",
        "STOP_WOULD_TRIGGER",
        "TOO_LATE_TO_CANCEL",
        "TOO_LATE_TO_ENTER",
        "USER_REQUEST",
        "MASS_CANCEL",
        "IOC_REMAINDER",
        "FOK_UNFILLED",
        "NO_LIQUIDITY",
        "SELF_TRADE_PREVENTED",
        "DELISTED",
        "KILL_SWITCH",
        "ACCOUNT_DISABLED",
        "TradeBusted",
        "OPERATOR",
        "CLIP_SIZE",
        "SYSTEM_BUSY",
        "DEBIT_BALANCE",
        "UNKNOWN_TRADE",
        "TRADE_MISMATCH",
        "RATE_LIMITED",
        "unanswered",
        "a short sale",
        "a sale from long to short",
        "a cover",
        "a cover through zero",
        "a mark that leaves nothing available",
        "a withdrawal by a user who owes shares is refused",
        "a bust of a short sale",
        "a bust of a buy by a user who owes shares",
    ];

    let missing: Vec<_> = must
        .iter()
        .filter(|m| seen.get(**m).copied().unwrap_or(0) == 0)
        .collect();
    assert!(
        missing.is_empty(),
        "never seen: {missing:?}; seen: {seen:?}"
    );
}
