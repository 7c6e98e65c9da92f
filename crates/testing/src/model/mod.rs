//! A simple and slow reference model of the market: linear searches in vectors, and sums computed
//! anew each time. The model carries each command through to its end at once. Model and product
//! share no code. Both must agree on every event of every user, on every book and on every balance.

pub mod limits;
pub mod market;
pub mod money;
pub mod roles;
pub mod script;

use std::collections::BTreeMap;

use script::{Command, Kind, Off, Status, Tif};

/// The compared fields of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub event: &'static str,
    pub order_id: String,
    pub cause_id: String,
    pub status: &'static str,
    pub quantity: Option<i64>,
    pub cum: Option<i64>,
    pub leaves: Option<i64>,
    pub reason: &'static str,
    pub last: Option<(i64, i64, i64, &'static str)>,
    pub trade: String,
    pub conflict: &'static str,
    pub retry: Option<i64>,
    pub unanswered: Option<i64>,
    /// The price that triggered a stop, and the limit since then.
    pub trigger: Option<(i64, i64)>,
    pub available: i64,
    pub reserved: i64,
}

#[derive(Clone, Debug)]
pub struct Fill {
    pub trade: String,
    pub quantity: i64,
    pub price: i64,
    pub charged: i64,
    pub house: bool,
    /// Busted quantity.
    pub back: i64,
}

/// An order with its history.
#[derive(Clone, Debug)]
pub struct Order {
    pub user: String,
    pub id: String,
    pub symbol: String,
    pub buy: bool,
    pub quantity: i64,
    pub cum: i64,
    pub value: i64,
    pub limit: i64,
    pub has_limit: bool,
    pub stop: Option<i64>,
    pub market: bool,
    pub tif: Tif,
    pub post_only: bool,
    pub deadline: Option<i64>,
    /// Place in the queue.
    pub place: u64,
    pub status: &'static str,
    pub reason: &'static str,
    pub fills: Vec<Fill>,
    pub fee_bps: i64,
    pub ceiling: i64,
    /// Shares of the owner reserved by a sell. The rest of the sell is short.
    pub promised: i64,
    /// Cash held for each share sold short.
    pub unit: i64,
    /// Cash held for all shares sold short.
    pub margin: i64,
}

impl Order {
    pub fn is_open(&self) -> bool {
        ["pending_new", "new", "partially_filled"].contains(&self.status)
    }

    pub fn leaves(&self) -> i64 {
        if self.is_open() {
            self.quantity - self.cum
        } else {
            0
        }
    }

    /// Shares that no other order may sell.
    pub fn keeps(&self) -> i64 {
        if self.is_open() { self.promised } else { 0 }
    }
}

/// The first command of an id, and its result.
#[derive(Clone, Debug)]
pub struct Known {
    pub content: Command,
    pub rejected: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub struct Symbol {
    pub status: Status,
    pub house: bool,
    /// Largest quantity that the house trades with an order at each quote.
    pub house_max: Option<i64>,
    /// A resting order has not been matched with a quote of the house, but should have been.
    pub owed: bool,
    pub half_spread_bps: i64,
    pub fee_bps: i64,
    pub clip: Option<i64>,
    pub limit_band_bps: Option<i64>,
    pub short_ok: bool,
    pub margin_bps: i64,
    pub tick: Option<(i64, i64)>,
    pub told: Option<(i64, i64)>,
    pub trade: Option<(i64, i64)>,
    pub next_place: u64,
    /// Stops between these prices have been reached and have not fired yet.
    pub rose_to: Option<i64>,
    pub fell_to: Option<i64>,
}

#[derive(Clone, Debug, Default)]
pub struct User {
    pub opened: bool,
    /// Negative means a debt.
    pub cash: i64,
    pub shares: BTreeMap<String, i64>,
    /// Short shares, sold short or left by the bust of their purchase; and the cash held to buy
    /// them back.
    pub owed: BTreeMap<String, (i64, i64)>,
    pub orders: limits::Bucket,
    pub messages: limits::Bucket,
    /// Time of the last announced refusal of the second bucket.
    pub told: Option<i64>,
    /// Commands without an answer since the last event.
    pub unanswered: i64,
    pub events: Vec<Told>,
}

pub struct Model {
    pub now: i64,
    pub opening: i64,
    pub stale_ms: i64,
    pub orders_limit: Option<limits::Limit>,
    pub messages_limit: Option<limits::Limit>,
    pub users: BTreeMap<String, User>,
    pub known: BTreeMap<(String, String), Known>,
    /// All orders, including ended ones.
    pub orders: Vec<Order>,
    pub trades: u64,
    /// Busts in the topic of trades: trade, buyer and seller, quantity, price.
    pub busts: Vec<(String, String, String, i64, i64)>,
    pub symbols: BTreeMap<String, Symbol>,
    /// Switches of the operator, for a user or for all users.
    pub off: Vec<(Option<String>, Off)>,
    /// Counts of situations with short shares. Tests check that each situation occurs.
    pub seen: BTreeMap<&'static str, usize>,
}

impl Model {
    pub fn run(&mut self, c: &Command) {
        match c {
            Command::Tick { symbol, price } => self.tick(symbol, *price),
            Command::Wait(ms) => {
                self.now += ms;
                self.wake();
            }
            Command::List {
                symbol,
                status,
                house,
            } => {
                let s = self.symbols.get_mut(symbol).expect("listed at the start");
                (s.status, s.house) = (*status, *house);
                self.wake();
            }
            Command::Control { user, off } => {
                self.off.retain(|(whom, _)| whom != user);
                self.off.extend(off.map(|off| (user.clone(), off)));
                self.wake();
            }
            Command::Restart => {}
            Command::Order { user, id, kind } => self.command(user, id, kind, c),
            Command::Astray { user, id, kind } => self.astray(user, id, kind),
        }
    }

    /// A command in a topic that does not prove the sender's right to it. The model changes no
    /// state, opens no account, and the id stays free.
    fn astray(&mut self, user: &str, id: &str, kind: &Kind) {
        self.open_account(user, id, false);
        let (event, named) = match kind {
            Kind::Cancel { orig, .. } | Kind::Replace { orig, .. } | Kind::Bust { orig, .. } => {
                ("CancelRejected", Some(orig))
            }
            _ => ("OrderRejected", None),
        };

        let about = named.and_then(|orig| self.named(event, user, orig));
        let mut told = about.unwrap_or_else(|| {
            self.plain(event, named.map_or(id, String::as_str), "rejected", kind)
        });

        if limits::is_operators(kind) {
            match self.admit_message(user, kind, false) {
                Ok(()) => {}
                Err(None) => return,
                Err(Some(wait)) => {
                    told.event = if matches!(kind, Kind::MassCancel { .. }) {
                        "CancelRejected"
                    } else {
                        told.event
                    };

                    return self.limited(user, id, told, wait);
                }
            }
        }

        (told.cause_id, told.reason) = (id.to_string(), "NOT_AUTHORIZED");
        self.tell(user, told);
    }

    /// Resolves a command that depends on earlier events. If the id was used before, the result is
    /// the first command of this id.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub fn settled(&self, c: &Command) -> Command {
        let (Command::Order { user, id, kind } | Command::Astray { user, id, kind }) = c else {
            return c.clone();
        };

        match self.known.get(&(user.clone(), id.clone())) {
            Some(first) if matches!(kind, Kind::Later(_)) && matches!(c, Command::Order { .. }) => {
                first.content.clone()
            }
            _ => script::settled(c, self.users.get(user).map_or(&[], |u| u.events.as_slice())),
        }
    }

    fn command(&mut self, user: &str, id: &str, kind: &Kind, c: &Command) {
        self.open_account(
            user,
            id,
            self.off
                .iter()
                .all(|(whom, _)| whom.as_deref().is_some_and(|whom| whom != user)),
        );

        let key = (user.to_string(), id.to_string());
        let first = self.known.get(&key).cloned();
        let is_order = matches!(kind, Kind::New { .. } | Kind::Replace { .. });
        if !limits::is_operators(kind) && (first.is_some() || !is_order) {
            match self.admit_message(user, kind, first.is_none()) {
                Ok(()) => {}
                Err(None) => return,
                Err(Some(wait)) => {
                    let told = match &first {
                        Some(first) => self.as_it_stands("OrderRejected", user, id, first),
                        None => self.refused("CancelRejected", user, id, kind),
                    };

                    return self.limited(user, id, told, wait);
                }
            }
        }

        if let Some(first) = first {
            self.repeated(user, id, kind, c, &first);
            return;
        }

        if is_order && let Err(wait) = self.admit_order(user) {
            let event = if matches!(kind, Kind::New { .. }) {
                "OrderRejected"
            } else {
                "CancelRejected"
            };

            let told = self.refused(event, user, id, kind);
            return self.limited(user, id, told, wait);
        }

        if matches!(
            kind,
            Kind::New { .. } | Kind::Replace { .. } | Kind::Transfer { deposit: false, .. }
        ) && self.forbids(user, kind).is_none()
        {
            self.mark(user);
        }

        let mut differs = "";
        let refused = match kind {
            Kind::New { .. } | Kind::Transfer { .. } if self.forbids(user, kind).is_some() => self
                .forbids(user, kind)
                .map(|r| ("OrderRejected", id.to_string(), r)),
            Kind::Replace { orig, .. } if self.forbids(user, kind).is_some() => self
                .forbids(user, kind)
                .map(|r| ("CancelRejected", orig.clone(), r)),
            Kind::New { .. } => self
                .new_order(user, id, kind)
                .err()
                .map(|r| ("OrderRejected", id.to_string(), r)),
            Kind::Later(_) => unreachable!("it was settled"),
            Kind::Bust { orig, .. } => self.bust(user, id, kind).err().map(|(r, field)| {
                differs = field;
                ("CancelRejected", orig.clone(), r)
            }),
            Kind::Cancel { orig, operator } => self
                .cancel(user, id, orig, *operator)
                .err()
                .map(|r| ("CancelRejected", orig.clone(), r)),
            Kind::Replace {
                orig,
                quantity,
                limit,
            } => self
                .replace(user, id, orig, *quantity, *limit)
                .err()
                .map(|r| ("CancelRejected", orig.clone(), r)),
            Kind::MassCancel { symbol, operator } => self
                .mass_cancel(user, id, symbol.as_deref(), *operator)
                .err()
                .map(|r| ("CancelRejected", id.to_string(), r)),
            Kind::Transfer { amount, deposit } => self
                .transfer(user, id, *amount, *deposit)
                .err()
                .map(|r| ("OrderRejected", id.to_string(), r)),
        };

        let mut rejected = None;
        if matches!(kind, Kind::Transfer { deposit: false, .. })
            && refused.is_some()
            && !self.users[user].owed.is_empty()
        {
            self.saw("a withdrawal by a user who owes shares is refused");
        }

        if let Some((event, order_id, reason)) = refused {
            rejected = Some(reason);
            let named = if event == "CancelRejected" {
                self.named(event, user, &order_id)
            } else {
                None
            };

            let mut told = named.unwrap_or_else(|| self.plain(event, &order_id, "rejected", kind));
            (told.cause_id, told.reason, told.conflict) = (id.to_string(), reason, differs);
            self.tell(user, told);
        }

        // Some reject reasons of `orders` leave the id free. A reject by the book concerns an
        // existing order.
        if ![
            "NO_REFERENCE_PRICE",
            "STALE_PRICE",
            "KILL_SWITCH",
            "SYSTEM_BUSY",
            "UNKNOWN_ORDER",
        ]
        .contains(&rejected.unwrap_or_default())
        {
            self.known.insert(
                key,
                Known {
                    content: c.clone(),
                    rejected,
                },
            );
        }
    }

    /// A refusal of a command, about the order that the command names.
    fn refused(&self, event: &'static str, user: &str, id: &str, kind: &Kind) -> Told {
        let orig = match kind {
            Kind::Cancel { orig, .. } | Kind::Replace { orig, .. } | Kind::Bust { orig, .. } => {
                orig
            }
            _ => id,
        };

        let named = if event == "CancelRejected" {
            self.named(event, user, orig)
        } else {
            None
        };

        named.unwrap_or_else(|| self.plain(event, orig, "rejected", kind))
    }

    /// An event with the current state of an id.
    fn as_it_stands(&self, event: &'static str, user: &str, id: &str, first: &Known) -> Told {
        let Command::Order { kind, .. } = &first.content else {
            unreachable!()
        };

        let status = if first.rejected.is_some() {
            "rejected"
        } else {
            "filled"
        };

        self.find(user, id).map_or_else(
            || self.plain(event, id, status, kind),
            |o| self.about(event, o),
        )
    }

    /// Reason for which an operator's switch forbids a command.
    fn forbids(&self, user: &str, kind: &Kind) -> Option<&'static str> {
        let is_off = |off| {
            self.off
                .iter()
                .any(|(whom, what)| *what == off && whom.as_deref().is_none_or(|whom| whom == user))
        };

        match kind {
            Kind::Cancel { .. } | Kind::MassCancel { .. } | Kind::Bust { .. } => None,
            _ if is_off(Off::Everything) => Some("ACCOUNT_DISABLED"),
            Kind::New { .. } | Kind::Replace { .. } if is_off(Off::Orders) => Some("KILL_SWITCH"),
            _ => None,
        }
    }

    /// The first command that may open an account opens it.
    fn open_account(&mut self, user: &str, id: &str, may: bool) {
        let u = self.users.entry(user.to_string()).or_default();
        if u.opened || !may {
            return;
        }

        (u.opened, u.cash) = (true, self.opening);
        self.tell(
            user,
            Told {
                event: "Deposited",
                cause_id: id.to_string(),
                ..Told::default()
            },
        );
    }

    fn repeated(&mut self, user: &str, id: &str, kind: &Kind, c: &Command, first: &Known) {
        let conflict = script::conflict(&first.content, c);
        let orig = match kind {
            Kind::Cancel { orig, .. } if conflict.is_empty() => Some(orig.as_str()),
            Kind::Replace { orig, .. } | Kind::Bust { orig, .. }
                if conflict.is_empty() && first.rejected.is_none() =>
            {
                Some(orig.as_str())
            }
            _ => None,
        };

        let event = if conflict.is_empty() {
            "OrderStatus"
        } else {
            "DuplicateRejected"
        };

        let named = orig
            .and_then(|orig| self.named(event, user, orig))
            .or_else(|| self.find(user, id).map(|o| self.about(event, o)));
        let mut told = named.unwrap_or_else(|| Told {
            reason: first.rejected.unwrap_or_default(),
            ..self.as_it_stands(event, user, id, first)
        });

        told.cause_id = id.to_string();
        if !conflict.is_empty() {
            (told.reason, told.conflict) = ("DUPLICATE_ORDER", conflict);
        }

        self.tell(user, told);
    }

    pub fn find(&self, user: &str, id: &str) -> Option<&Order> {
        self.orders.iter().find(|o| o.user == user && o.id == id)
    }

    /// An event about the order that a command names, including an order that was rejected at once.
    fn named(&self, event: &'static str, user: &str, orig: &str) -> Option<Told> {
        if let Some(o) = self.find(user, orig) {
            return Some(self.about(event, o));
        }

        let known = self.known.get(&(user.to_string(), orig.to_string()))?;
        let Command::Order {
            kind: kind @ Kind::New { .. },
            ..
        } = &known.content
        else {
            return None;
        };

        let reason = if event == "OrderStatus" {
            known.rejected.unwrap_or_default()
        } else {
            ""
        };

        Some(Told {
            reason,
            ..self.plain(event, orig, "rejected", kind)
        })
    }

    /// An event without an order, or about an order that was never accepted.
    fn plain(
        &self,
        event: &'static str,
        order_id: &str,
        status: &'static str,
        kind: &Kind,
    ) -> Told {
        let (quantity, zero) = match kind {
            Kind::New { quantity, .. } => (Some(*quantity), Some(0)),
            _ => (None, None),
        };

        Told {
            event,
            order_id: order_id.into(),
            cause_id: order_id.into(),
            status,
            quantity,
            cum: zero,
            leaves: zero,
            ..Told::default()
        }
    }

    pub fn about(&self, event: &'static str, o: &Order) -> Told {
        Told {
            event,
            order_id: o.id.clone(),
            cause_id: o.id.clone(),
            status: o.status,
            quantity: Some(o.quantity),
            cum: Some(o.cum),
            leaves: Some(o.leaves()),
            reason: if event == "OrderStatus" && !o.is_open() {
                o.reason
            } else {
                ""
            },
            ..Told::default()
        }
    }

    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Sends an event to a user, with the present balances.
    pub fn tell(&mut self, user: &str, mut told: Told) {
        self.cover(user);
        told.reserved = self.reserved(user);
        told.available = self.users[user].cash - told.reserved;
        let u = self.users.get_mut(user).expect("opened");
        told.unanswered = Some(std::mem::take(&mut u.unanswered)).filter(|n| *n > 0);
        u.events.push(told);
    }
}
