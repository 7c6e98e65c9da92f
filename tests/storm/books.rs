//! The judge of the books. The log contains the requests of `orders` to each book, in order. From
//! these requests the reference model computes the result of every order.
//!
//! The decisions and holds of `orders` follow from each user's own events. The judge adds cash,
//! shares and holds up again at each event.

use std::collections::{BTreeMap, BTreeSet};

use ports::Log;
use ports::topics::TopicTable;
use wire::topics as t;

use crate::support::oracle::{Seen, UNSTAMPED, read_all};
use crate::traffic::{BOOK_PRICE_E4, BOOKS, HALF_SPREAD_BPS, is_book, is_book_user};
use testing::model::script::{Status, Tif};
use testing::model::{Model, Order, Symbol};

/// The records that this judge examines.
#[derive(Clone)]
pub struct Evidence {
    commands: Vec<Seen>,
    asked: Vec<Seen>,
    events: Vec<Seen>,
    trades: Vec<Seen>,
    command_topic: String,
    execution_topic: String,
    sources: Vec<String>,
}

/// Result of the judgement.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub commands: usize,
    pub events: usize,
    pub trades: usize,
    pub cancels: usize,
    pub wrong: Vec<String>,
}

type Key = (String, String);

/// The compared fields of an event that follows from the book's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    event: String,
    cause: String,
    status: String,
    cum: i64,
    leaves: i64,
    reason: String,
    last: Option<(i64, i64, String)>,
}

impl Evidence {
    pub fn read(log: &dyn Log, topics: &TopicTable) -> Evidence {
        let of = |topic, field: &'static str| {
            let mut all = read_all(log, topic);
            all.retain(|r| {
                if field == "symbol" {
                    is_book(r.text(field))
                } else {
                    is_book_user(r.text(field))
                }
            });

            all
        };

        let mut commands = of(t::ORDER_COMMANDS, "user_id");
        commands.retain(|c| c.time_ms != UNSTAMPED);
        let sources = commands
            .iter()
            .map(|c| c.src(topics, t::ORDER_COMMANDS))
            .collect();
        Evidence {
            commands,
            asked: of(t::BOOK_COMMANDS, "symbol"),
            events: of(t::ORDER_EVENTS, "user_id"),
            trades: of(t::TRADES, "symbol"),
            command_topic: format!("{}/", topics.name(t::ORDER_COMMANDS)),
            execution_topic: format!("{}/", topics.name(t::EXECUTIONS)),
            sources,
        }
    }

    pub fn judge(&self) -> Verdict {
        let mut v = Verdict {
            commands: self.commands.len(),
            events: self.events.len(),
            trades: self.trades.len(),
            ..Verdict::default()
        };

        self.matched(&mut v);
        self.money(&mut v);
        self.answers(&mut v);
        self.both_sides(&mut v);
        v
    }

    /// Falsified copies, each with a different change. The judge must find every one. `None` if
    /// this storm had no record for a change.
    pub fn spoilt(&self) -> Vec<(&'static str, Option<Evidence>)> {
        let event = |name: &'static str, spoil: fn(&mut Vec<Seen>, usize)| {
            let mut other = self.clone();
            let at = other.events.iter().rposition(|e| e.text("event") == name)?;
            spoil(&mut other.events, at);
            Some(other)
        };

        let mut no_trade = self.clone();
        let no_trade = no_trade.trades.pop().map(|_| no_trade);
        let mut unasked = self.clone();
        let last = unasked
            .asked
            .iter()
            .rposition(|a| a.text("verb") == "cancel" && a.text("order_id") != a.text("cause_id"));
        let unasked = last.map(|at| {
            unasked.asked.remove(at);
            unasked
        });

        vec![
            (
                "a fill of one share more",
                event("OrderPartiallyFilled", |all, at| {
                    add(&mut all[at], "last_quantity", 1)
                }),
            ),
            (
                "a fill at another price",
                event("OrderFilled", |all, at| {
                    add(&mut all[at], "last_price_e4", 1)
                }),
            ),
            (
                "an end that was not told",
                event("OrderCancelled", |all, at| drop(all.remove(at))),
            ),
            (
                "an end that was told twice",
                event("OrderCancelled", |all, at| all.insert(at, all[at].clone())),
            ),
            (
                "a hold of one unit more",
                event("OrderPending", |all, at| {
                    add(&mut all[at], "cash_reserved_e4", 1)
                }),
            ),
            ("a trade that is missing", no_trade),
            ("an answer to a cancel that nobody asked for", unasked),
        ]
    }

    fn by_the_book(&self, e: &Seen) -> bool {
        e.headers
            .get("src")
            .is_some_and(|src| src.starts_with(&self.execution_topic))
    }

    /// Compares each book with the reference model.
    fn matched(&self, v: &mut Verdict) {
        let mut due = BTreeMap::<Key, Vec<Told>>::new();
        for n in 0..BOOKS {
            let symbol = format!("B{n}");
            let mut model = model(&symbol);
            for a in self.asked.iter().filter(|a| a.text("symbol") == symbol) {
                let user = a.text("user_id");
                let id = a.text("order_id");
                model.users.entry(user.to_string()).or_default();
                if a.text("verb") == "cancel" {
                    v.cancels += 1;
                    let reason = ["USER_REQUEST", "MASS_CANCEL"]
                        .into_iter()
                        .find(|r| a.text("reason") == *r);
                    model.end_in_the_book(
                        user,
                        id,
                        a.text("cause_id"),
                        reason.unwrap_or("another reason"),
                    );
                } else {
                    model.meet(order(a));
                }
            }

            for (user, known) in model.users {
                for e in known.events {
                    due.entry((user.clone(), e.order_id.clone()))
                        .or_default()
                        .push(Told {
                            event: e.event.into(),
                            cause: e.cause_id,
                            status: e.status.into(),
                            cum: e.cum.unwrap_or(0),
                            leaves: e.leaves.unwrap_or(0),
                            reason: e.reason.into(),
                            last: e.last.map(|(quantity, price, _, liquidity)| {
                                (quantity, price, liquidity.into())
                            }),
                        });
                }
            }
        }

        let mut got = BTreeMap::<Key, Vec<Told>>::new();
        for e in self.events.iter().filter(|e| self.by_the_book(e)) {
            let number = |field: &str| e.value[field].as_i64();
            got.entry((e.text("user_id").into(), e.text("order_id").into()))
                .or_default()
                .push(Told {
                    event: e.text("event").into(),
                    cause: e.text("cause_id").into(),
                    status: e.text("status").into(),
                    cum: number("cum_quantity").unwrap_or(0),
                    leaves: number("leaves_quantity").unwrap_or(0),
                    reason: e.text("reason").into(),
                    last: number("last_quantity")
                        .zip(number("last_price_e4"))
                        .map(|(q, p)| (q, p, e.text("liquidity").into())),
                });
        }

        for key in due.keys().chain(got.keys()).collect::<BTreeSet<_>>() {
            let got = got.get(key).map_or(&[][..], Vec::as_slice);
            let due = due.get(key).map_or(&[][..], Vec::as_slice);
            if got != due {
                let at = got
                    .iter()
                    .zip(due)
                    .position(|(a, b)| a != b)
                    .unwrap_or(got.len().min(due.len()));
                v.wrong.push(format!(
                    "book order {key:?}: answer {at} is {:?} where the model has {:?}",
                    got.get(at),
                    due.get(at)
                ));
            }
        }
    }

    /// Checks cash, shares and holds of every user at every event.
    fn money(&self, v: &mut Verdict) {
        // A market order has no limit. The request to the book has its worst price.
        let limits: BTreeMap<Key, i64> =
            (self.asked.iter().filter(|a| a.value["side"].is_string()))
                .map(|a| {
                    (
                        (
                            a.text("user_id").to_string(),
                            a.text("order_id").to_string(),
                        ),
                        a.number("limit_e4"),
                    )
                })
                .collect();

        let mut accounts = BTreeMap::<&str, Account>::new();
        for e in &self.events {
            let account = accounts.entry(e.text("user_id")).or_default();
            account.seq += 1;
            let limit = limits
                .get(&(
                    e.text("user_id").to_string(),
                    e.text("order_id").to_string(),
                ))
                .copied()
                .unwrap_or(0);

            let what = format!(
                "{} of {}/{}",
                e.text("event"),
                e.text("user_id"),
                e.text("order_id")
            );
            if let Err(why) = account.follow(e, limit) {
                v.wrong.push(format!("{what}: {why}"));
            }

            let held = account.held();
            let seq = e.number("user_seq");
            let available = e.number("cash_available_e4");
            let reserved = e.number("cash_reserved_e4");
            if (available, reserved, seq) != (account.cash - held, held, account.seq) {
                v.wrong.push(format!(
                    "{what}, event {seq}: {available} available and {reserved} reserved where {} and {held} were due in event {}",
                    account.cash - held,
                    account.seq
                ));
            }
        }

        for (user, account) in accounts {
            let open: Vec<_> = account.open.keys().collect();
            if !open.is_empty() {
                v.wrong.push(format!(
                    "after {user} has cancelled all, {open:?} are still open"
                ));
            }
        }
    }

    /// Every command has an answer: at once from `orders`, or later from the book.
    fn answers(&self, v: &mut Verdict) {
        let mut at_once = BTreeMap::<&str, Vec<&str>>::new();
        let mut caused = BTreeSet::new();
        for e in &self.events {
            let src = e.headers["src"].as_str();
            if src.starts_with(&self.command_topic) {
                at_once.entry(src).or_default().push(e.text("event"));
            } else {
                caused.insert((e.text("user_id"), e.text("cause_id")));
            }
        }

        let known: BTreeSet<&str> = self.sources.iter().map(String::as_str).collect();
        for src in at_once.keys().filter(|src| !known.contains(**src)) {
            v.wrong
                .push(format!("events of {src}, which is no command of theirs"));
        }

        for (c, src) in self.commands.iter().zip(&self.sources) {
            // The first command of a user also opens the account. No user here deposits cash.
            let mut answers = at_once.get(src.as_str()).cloned().unwrap_or_default();
            answers.retain(|a| *a != "Deposited");
            let later = ["cancel", "mass_cancel"].contains(&c.text("command"))
                && caused.contains(&(c.text("user_id"), c.text("order_id")));
            if answers.len() > 1 || answers.is_empty() && !later {
                v.wrong.push(format!(
                    "command {src} ({}) was answered {answers:?}",
                    String::from_utf8_lossy(&c.raw)
                ));
            }
        }
    }

    /// Each trade is reported once to each side, and there are no other trades.
    fn both_sides(&self, v: &mut Verdict) {
        let mut told = BTreeMap::<(&str, &str, &str), (i64, i64)>::new();
        for e in self
            .events
            .iter()
            .filter(|e| e.value["trade_id"].is_string())
        {
            let side = (e.text("trade_id"), e.text("user_id"), e.text("side"));
            if told
                .insert(side, (e.number("last_quantity"), e.number("last_price_e4")))
                .is_some()
            {
                v.wrong.push(format!("told twice: {side:?}"));
            }
        }

        for trade in &self.trades {
            for (field, side) in [("buyer", "buy"), ("seller", "sell")] {
                let id = trade.text("trade_id");
                let who = trade.text(field);
                let found = told.remove(&(id, who, side));
                let due = (!who.starts_with("house:"))
                    .then(|| (trade.number("quantity"), trade.number("price_e4")));
                if found != due {
                    v.wrong.push(format!(
                        "trade {id}: its {side}er {who} was told {found:?} where {due:?} was due"
                    ));
                }
            }
        }

        for left in told.keys() {
            v.wrong.push(format!("a fill of no trade: {left:?}"));
        }
    }
}

fn add(e: &mut Seen, field: &str, by: i64) {
    e.value[field] = (e.number(field) + by).into();
}

fn model(symbol: &str) -> Model {
    let listed = Symbol {
        status: Status::Listed,
        house: true,
        house_max: None,
        owed: false,
        half_spread_bps: HALF_SPREAD_BPS,
        fee_bps: 0,
        clip: None,
        limit_band_bps: None,
        short_ok: false,
        margin_bps: 0,
        tick: Some((BOOK_PRICE_E4, 0)),
        told: None,
        trade: None,
        next_place: 0,
        rose_to: None,
        fell_to: None,
    };

    Model {
        now: 0,
        opening: 0,
        stale_ms: i64::MAX / 2,
        orders_limit: None,
        messages_limit: None,
        users: BTreeMap::new(),
        known: BTreeMap::new(),
        orders: Vec::new(),
        trades: 0,
        busts: Vec::new(),
        symbols: [(symbol.to_string(), listed)].into(),
        off: Vec::new(),
        seen: BTreeMap::new(),
    }
}

fn order(a: &Seen) -> Order {
    let tif = match a.text("life") {
        "ioc" | "IOC" => Tif::Ioc,
        "fok" | "FOK" => Tif::Fok,
        _ => Tif::Gtc,
    };

    Order {
        user: a.text("user_id").into(),
        id: a.text("order_id").into(),
        symbol: a.text("symbol").into(),
        buy: a.text("side") == "buy",
        quantity: a.number("quantity"),
        cum: 0,
        value: 0,
        limit: a.number("limit_e4"),
        has_limit: a.value["market"] != true,
        stop: None,
        market: a.value["market"] == true,
        tif,
        post_only: a.value["post_only"] == true,
        deadline: None,
        place: 0,
        status: "pending_new",
        reason: "",
        fills: Vec::new(),
        fee_bps: 0,
        promised: a.number("quantity"),
        unit: 0,
        margin: 0,
        ceiling: a.value["ceiling_e4"].as_i64().unwrap_or(i64::MAX),
    }
}

/// A user's account, computed from the user's events.
#[derive(Default)]
struct Account {
    seq: i64,
    cash: i64,
    shares: BTreeMap<String, i64>,
    /// For each open order: symbol, true for a buy, remaining quantity, limit.
    open: BTreeMap<String, (String, bool, i64, i64)>,
}

impl Account {
    fn held(&self) -> i64 {
        self.open.values().filter(|o| o.1).map(|o| o.2 * o.3).sum()
    }

    fn free_shares(&self, symbol: &str) -> i64 {
        let promised: i64 = self
            .open
            .values()
            .filter(|o| o.0 == symbol && !o.1)
            .map(|o| o.2)
            .sum();
        self.shares.get(symbol).copied().unwrap_or(0) - promised
    }

    fn follow(&mut self, e: &Seen, limit: i64) -> Result<(), String> {
        let id = e.text("order_id").to_string();
        let symbol = e.text("symbol").to_string();
        let buys = e.text("side") == "buy";

        // The hold of a sell is in shares. The limit of a buy is the limit at its acceptance.
        let terms = || {
            (
                e.number("quantity"),
                e.value["limit_price_e4"].as_i64().unwrap_or(if limit > 0 {
                    limit
                } else {
                    BOOK_PRICE_E4 / 100 * 105
                }),
            )
        };

        match e.text("event") {
            "Deposited" => self.cash += e.number("amount_e4"),
            "Withdrawn" => self.cash -= e.number("amount_e4"),
            "OrderPending" => {
                let (quantity, limit) = terms();
                let short = if buys {
                    quantity * limit > self.cash - self.held()
                } else {
                    quantity > self.free_shares(&symbol)
                };

                if short
                    || self
                        .open
                        .insert(id, (symbol, buys, quantity, limit))
                        .is_some()
                {
                    return Err(
                        "it was let in, though what it needs is not there, or it is open already"
                            .into(),
                    );
                }
            }
            // Rejected by the book.
            "OrderRejected" if self.open.contains_key(&id) => drop(self.open.remove(&id)),
            "OrderRejected" => {
                let (quantity, limit) = terms();
                let enough = match e.text("reason") {
                    "INSUFFICIENT_FUNDS" => quantity * limit <= self.cash - self.held(),
                    "SHORT_SELL_NOT_PERMITTED" => quantity <= self.free_shares(&symbol),
                    "PRICE_BAND" => {
                        (if buys {
                            limit - BOOK_PRICE_E4
                        } else {
                            BOOK_PRICE_E4 - limit
                        }) * 20
                            <= BOOK_PRICE_E4
                    }
                    // `orders` has no price while it restarts.
                    other => !["NO_REFERENCE_PRICE", "STALE_PRICE"].contains(&other),
                };

                if enough {
                    return Err(format!(
                        "it was refused for {}, which is not so",
                        e.text("reason")
                    ));
                }
            }
            "OrderFilled" | "OrderPartiallyFilled" => {
                let quantity = e.number("last_quantity");
                let price = e.number("last_price_e4");
                let Some(open) = self.open.get_mut(&id) else {
                    return Err("it is not open".into());
                };

                open.2 -= quantity;
                let left = open.2;
                let ended = e.text("event") == "OrderFilled";
                if left < 0 || ended != (left == 0) || left != e.number("leaves_quantity") {
                    return Err(format!("{left} are left of it"));
                }

                if ended {
                    self.open.remove(&id);
                }

                self.cash += if buys {
                    -quantity * price
                } else {
                    quantity * price
                };

                *self.shares.entry(symbol.clone()).or_default() +=
                    if buys { quantity } else { -quantity };
                if self.cash < 0 || self.shares[&symbol] < 0 {
                    return Err("it leaves less than nothing".into());
                }
            }
            "OrderCancelled" | "OrderExpired" => {
                let Some(open) = self.open.remove(&id) else {
                    return Err("it is not open".into());
                };

                if open.2 + e.number("cum_quantity") != e.number("quantity") {
                    return Err(format!("{} were left of it", open.2));
                }
            }
            _ => {}
        }

        Ok(())
    }
}
