//! Commands as data: drawn by dice, written as JSON for the roles, and reduced after a failure.

use super::Told;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Listed,
    Halted,
    Delisted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tif {
    Gtc,
    Day,
    Ioc,
    Fok,
    Gtd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    New {
        symbol: String,
        buy: bool,
        quantity: i64,
        limit: Option<i64>,
        stop: Option<i64>,
        tif: Tif,
        expire_at: Option<i64>,
        post_only: bool,
    },
    Cancel {
        orig: String,
        operator: bool,
    },
    Replace {
        orig: String,
        quantity: Option<i64>,
        limit: Option<i64>,
    },
    MassCancel {
        symbol: Option<String>,
        operator: bool,
    },
    Bust {
        orig: String,
        trade: String,
        quantity: i64,
        price: i64,
        fee: Option<i64>,
        symbol: Option<String>,
    },
    /// A command that depends on earlier events: the bust of a trade of the user, or the withdrawal
    /// of all cash. See [`settled`].
    Later(u64),
    Transfer {
        amount: i64,
        deposit: bool,
    },
}

/// Switches of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off {
    Orders,
    Everything,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Order {
        user: String,
        id: String,
        kind: Kind,
    },
    /// A command in a topic that may not carry the command.
    Astray {
        user: String,
        id: String,
        kind: Kind,
    },
    Tick {
        symbol: String,
        price: i64,
    },
    Wait(i64),
    List {
        symbol: String,
        status: Status,
        house: bool,
    },
    /// An operator switches `off` for a user or for all users, or switches on again.
    Control {
        user: Option<String>,
        off: Option<Off>,
    },
    /// The roles restart with only their stored state; the model ignores the restart.
    Restart,
}

fn decimal(e4: i64) -> String {
    let sign = if e4 < 0 { "-" } else { "" };
    format!("{sign}{}.{:04}", e4.abs() / 10_000, e4.abs() % 10_000)
}

fn tif_name(tif: Tif) -> &'static str {
    match tif {
        Tif::Gtc => "GTC",
        Tif::Day => "DAY",
        Tif::Ioc => "IOC",
        Tif::Fok => "FOK",
        Tif::Gtd => "GTD",
    }
}

/// The order type, derived from the prices of the order.
fn type_name(limit: Option<i64>, stop: Option<i64>) -> &'static str {
    match (limit, stop) {
        (None, None) => "market",
        (Some(_), None) => "limit",
        (None, Some(_)) => "stop",
        (Some(_), Some(_)) => "stop_limit",
    }
}

/// A command of a user in JSON.
pub fn json(user: &str, id: &str, kind: &Kind) -> String {
    let mut f = vec![("user_id", quoted(user)), ("order_id", quoted(id))];
    match kind {
        Kind::New {
            symbol,
            buy,
            quantity,
            limit,
            stop,
            tif,
            expire_at,
            post_only,
        } => {
            f.extend([
                ("symbol", quoted(symbol)),
                ("quantity", quantity.to_string()),
            ]);
            f.extend([
                ("order_type", quoted(if *buy { "buy" } else { "sell" })),
                ("type", quoted(type_name(*limit, *stop))),
            ]);
            f.extend([
                ("tif", quoted(tif_name(*tif))),
                ("post_only", post_only.to_string()),
            ]);
            f.extend(limit.map(|p| ("limit_price", quoted(&decimal(p)))));
            f.extend(stop.map(|p| ("stop_price", quoted(&decimal(p)))));
            f.extend(expire_at.map(|t| ("expire_at", t.to_string())));
        }
        Kind::Cancel { orig, operator } => {
            f.extend([
                ("command", quoted("cancel")),
                ("orig_order_id", quoted(orig)),
            ]);
            f.extend(operator.then(|| ("operator", quoted("desk"))));
        }
        Kind::Replace {
            orig,
            quantity,
            limit,
        } => {
            f.extend([
                ("command", quoted("replace")),
                ("orig_order_id", quoted(orig)),
            ]);
            f.extend(quantity.map(|q| ("quantity", q.to_string())));
            f.extend(limit.map(|p| ("limit_price", quoted(&decimal(p)))));
        }
        Kind::Later(_) => unreachable!("it was settled"),
        Kind::Bust {
            orig,
            trade,
            quantity,
            price,
            fee,
            symbol,
        } => {
            f.extend([
                ("command", quoted("bust")),
                ("operator", quoted("desk")),
                ("orig_order_id", quoted(orig)),
            ]);
            f.extend([
                ("trade_id", quoted(trade)),
                ("quantity", quantity.to_string()),
                ("price", quoted(&decimal(*price))),
            ]);
            f.extend(fee.map(|fee| ("fee", quoted(&decimal(fee)))));
            f.extend(symbol.as_ref().map(|symbol| ("symbol", quoted(symbol))));
        }
        Kind::MassCancel { symbol, operator } => {
            f.push(("command", quoted("mass_cancel")));
            f.extend(operator.then(|| ("operator", quoted("desk"))));
            f.extend(symbol.as_ref().map(|s| ("symbol", quoted(s))));
        }
        Kind::Transfer { amount, deposit } => {
            f.extend([
                (
                    "command",
                    quoted(if *deposit { "deposit" } else { "withdraw" }),
                ),
                ("amount", quoted(&decimal(*amount))),
            ]);
        }
    }

    let fields: Vec<String> = f
        .into_iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// The first field in which two commands with the same id differ, in the order of the contract;
/// empty if they are the same.
pub fn conflict(first: &Command, second: &Command) -> &'static str {
    let (Command::Order { kind: a, .. }, Command::Order { kind: b, .. }) = (first, second) else {
        unreachable!()
    };

    let first_of = |pairs: &[(bool, &'static str)]| {
        pairs
            .iter()
            .find(|(differs, _)| *differs)
            .map_or("", |(_, name)| name)
    };

    match (a, b) {
        (
            Kind::New {
                symbol: s1,
                buy: b1,
                quantity: q1,
                limit: l1,
                stop: p1,
                tif: t1,
                expire_at: e1,
                post_only: o1,
            },
            Kind::New {
                symbol: s2,
                buy: b2,
                quantity: q2,
                limit: l2,
                stop: p2,
                tif: t2,
                expire_at: e2,
                post_only: o2,
            },
        ) => first_of(&[
            (s1 != s2, "symbol"),
            (q1 != q2, "quantity"),
            (b1 != b2, "order_type"),
            (type_name(*l1, *p1) != type_name(*l2, *p2), "type"),
            (l1 != l2, "limit_price"),
            (p1 != p2, "stop_price"),
            (t1 != t2, "tif"),
            (e1 != e2, "expire_at"),
            (o1 != o2, "post_only"),
        ]),
        (
            Kind::Cancel {
                orig: a,
                operator: o1,
            },
            Kind::Cancel {
                orig: b,
                operator: o2,
            },
        ) => first_of(&[(a != b, "orig_order_id"), (o1 != o2, "operator")]),
        (
            Kind::Replace {
                orig: a,
                quantity: q1,
                limit: l1,
            },
            Kind::Replace {
                orig: b,
                quantity: q2,
                limit: l2,
            },
        ) => first_of(&[
            (a != b, "orig_order_id"),
            (q1 != q2, "quantity"),
            (l1 != l2, "limit_price"),
        ]),
        (
            Kind::MassCancel {
                symbol: a,
                operator: o1,
            },
            Kind::MassCancel {
                symbol: b,
                operator: o2,
            },
        ) => first_of(&[(a != b, "symbol"), (o1 != o2, "operator")]),
        (
            Kind::Bust {
                orig: o1,
                trade: t1,
                quantity: q1,
                price: p1,
                fee: f1,
                symbol: s1,
            },
            Kind::Bust {
                orig: o2,
                trade: t2,
                quantity: q2,
                price: p2,
                fee: f2,
                symbol: s2,
            },
        ) => first_of(&[
            (o1 != o2, "orig_order_id"),
            (t1 != t2, "trade_id"),
            (q1 != q2, "quantity"),
            (p1 != p2, "price"),
            (f1 != f2, "fee"),
            (s1 != s2, "symbol"),
        ]),
        (
            Kind::Transfer {
                amount: a,
                deposit: d1,
            },
            Kind::Transfer {
                amount: b,
                deposit: d2,
            },
        ) => first_of(&[(d1 != d2, "command"), (a != b, "amount")]),
        _ => "command",
    }
}

/// Pseudo-random numbers; the same seed gives the same numbers.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

pub const SYMBOLS: [&str; 3] = ["A", "B", "C"];
pub const START_MS: i64 = 1_800_000_000_000;

const USERS: u64 = 5;

/// A price for each symbol, and shares for each user.
fn preamble() -> Vec<Command> {
    let stock = |user: u64, symbol: &str| {
        let user = format!("u{user}");
        let id = format!("stock-{symbol}");
        let symbol = symbol.to_string();
        let kind = Kind::New {
            symbol,
            buy: true,
            quantity: 60,
            limit: None,
            stop: None,
            tif: Tif::Ioc,
            expire_at: None,
            post_only: false,
        };

        Command::Order { user, id, kind }
    };

    // This order comes before the first price. The order is refused, and its id stays free.
    let mut all = vec![stock(0, "A")];
    all.extend(SYMBOLS.iter().map(|s| Command::Tick {
        symbol: s.to_string(),
        price: 1_000_000,
    }));

    for user in 0..USERS {
        for symbol in SYMBOLS {
            all.push(stock(user, symbol));
        }
    }

    all
}

/// A script of `length` commands.
pub fn script(seed: u64, length: usize) -> Vec<Command> {
    let mut d = Dice::new(seed);
    let mut all = preamble();
    let mut now = START_MS;
    let mut given = Vec::<(String, String)>::new();
    for symbol in &SYMBOLS[..2] {
        all.push(Command::List {
            symbol: symbol.to_string(),
            status: Status::Listed,
            house: d.chance(20),
        });
    }

    // Each switch-off is lifted after a while; otherwise few commands would have an effect.
    let mut lifts = Vec::<(usize, Option<String>)>::new();
    for n in all.len()..length {
        if let Some(due) = lifts.iter().position(|(at, _)| *at <= n) {
            all.push(Command::Control {
                user: lifts.swap_remove(due).1,
                off: None,
            });

            continue;
        }

        let user = format!("u{}", d.roll(USERS));
        let symbol = SYMBOLS[d.roll(3) as usize].to_string();
        let price = 1_000_000 + (d.roll(21) as i64 - 10) * 1_000;

        // Mostly an order of the same user; now and then an order of any user, whose id belongs to
        // that user.
        let named = |d: &mut Dice, user: &str| {
            let own = given
                .iter()
                .rev()
                .filter(|(u, _)| u == user || d.roll(50) == 0)
                .take(10)
                .map(|(_, id)| id.clone());
            let own: Vec<String> = own.collect();
            if own.is_empty() {
                "none".to_string()
            } else {
                own[d.roll(own.len() as u64) as usize].clone()
            }
        };

        let command = match d.roll(1_000) {
            // Now and then a gap, wider than the collar.
            0..4 => Command::Tick {
                symbol,
                price: if d.chance(50) { 920_000 } else { 1_080_000 },
            },
            4..100 => Command::Tick {
                symbol,
                price: price + d.roll(3) as i64 * 50,
            },
            100..120 => {
                // Time also moves back: a clock was ahead for a while.
                let ms = [
                    1,
                    300,
                    1_000,
                    5_000,
                    5_000,
                    130_000,
                    30_000_000,
                    -130_000,
                    -30_000_000,
                ][d.roll(9) as usize];

                now += ms;
                Command::Wait(ms)
            }
            120..140 => {
                let status = [
                    Status::Listed,
                    Status::Listed,
                    Status::Listed,
                    Status::Halted,
                    Status::Delisted,
                ][d.roll(5) as usize];

                Command::List {
                    house: symbol == "C" || d.chance(35),
                    symbol,
                    status,
                }
            }
            140..148 => Command::Restart,
            190..202 => {
                let user = d.chance(75).then_some(user);
                let off = match d.roll(10) {
                    0 => None,
                    1..5 => Some(Off::Everything),
                    _ => Some(Off::Orders),
                };

                lifts.extend(off.map(|_| (n + 1 + d.roll(15) as usize, user.clone())));
                Command::Control { user, off }
            }
            // An exact repeat, or another command with a used id.
            148..190 => {
                let again: Command =
                    all[all.len() - 1 - d.roll(all.len().min(40) as u64) as usize].clone();
                now += if let Command::Wait(ms) = again { ms } else { 0 };
                again
            }
            _ => {
                let id = if d.chance(3) {
                    named(&mut d, &user)
                } else {
                    format!("o{n}")
                };

                let kind = match d.roll(100) {
                    0..18 => Kind::Cancel {
                        orig: named(&mut d, &user),
                        operator: d.chance(10),
                    },
                    18..24 => Kind::Later(d.roll(u64::MAX)),
                    24..32 => {
                        let quantity = d.chance(70).then(|| d.roll(30) as i64);
                        let limit = d.chance(60).then_some(price);
                        Kind::Replace {
                            orig: named(&mut d, &user),
                            quantity,
                            limit,
                        }
                    }
                    32..34 => Kind::MassCancel {
                        symbol: d.chance(50).then_some(symbol),
                        operator: d.chance(20),
                    },
                    34..37 => {
                        let amount = if d.chance(5) {
                            0
                        } else {
                            d.roll(2_000) as i64 * 10_000
                        };

                        Kind::Transfer {
                            amount,
                            deposit: d.chance(40),
                        }
                    }
                    _ => new(&mut d, symbol, price, now),
                };

                if d.chance(2) {
                    all.push(Command::Astray {
                        user,
                        id: format!("s{n}"),
                        kind,
                    });

                    continue;
                }

                if matches!(kind, Kind::New { .. }) {
                    given.push((user.clone(), id.clone()));
                }

                Command::Order { user, id, kind }
            }
        };

        all.push(command);
    }

    all
}

/// Resolves a command that depends on the earlier events of its user. Other commands stay
/// unchanged.
pub fn settled(c: &Command, told: &[Told]) -> Command {
    match c {
        Command::Order {
            user,
            id,
            kind: Kind::Later(seed),
        } => Command::Order {
            user: user.clone(),
            id: id.clone(),
            kind: later(*seed, told),
        },
        Command::Astray {
            user,
            id,
            kind: Kind::Later(seed),
        } => Command::Astray {
            user: user.clone(),
            id: id.clone(),
            kind: later(*seed, told),
        },
        _ => c.clone(),
    }
}

/// A whole or partial bust of a trade by an operator, with a right or a slightly wrong description;
/// or a withdrawal of all cash.
fn later(seed: u64, told: &[Told]) -> Kind {
    let mut d = Dice::new(seed);
    if d.chance(12) {
        return Kind::Transfer {
            amount: told.last().map_or(0, |e| e.available),
            deposit: false,
        };
    }

    let fills: Vec<&Told> = told
        .iter()
        .filter(|e| !e.trade.is_empty() && e.event != "TradeBusted")
        .collect();
    let latest = if d.chance(70) {
        8
    } else {
        fills.len().max(1) as u64
    };

    let Some(f) = fills
        .len()
        .checked_sub(1 + d.roll(latest) as usize)
        .map(|at| fills[at])
    else {
        return Kind::Bust {
            orig: "none".into(),
            trade: "0-1".into(),
            quantity: 1,
            price: 1_000_000,
            fee: None,
            symbol: None,
        };
    };

    let (whole, price, charged, _) = f.last.expect("a fill");
    let backs = told
        .iter()
        .filter(|e| e.event == "TradeBusted" && (&e.order_id, &e.trade) == (&f.order_id, &f.trade));
    let (back, given) = backs
        .filter_map(|e| e.last)
        .fold((0, 0), |(n, fee), e| (n + e.0, fee - e.2));
    let left = whole - back;
    let quantity = match d.roll(10) {
        0..5 => left,
        5..7 => (left + 1) / 2,
        7 => 1,
        8 => left + 1,
        _ => d.roll(whole as u64 + 1) as i64,
    };

    let due = charged * (back + quantity) / whole - given;
    let fee = d.chance(60).then(|| {
        if d.chance(15) {
            due.max(0) + 1
        } else {
            due.max(0)
        }
    });

    let trade = if d.chance(4) {
        "0-0".to_string()
    } else {
        f.trade.clone()
    };

    let price = if d.chance(4) {
        [0, price + 100][d.roll(2) as usize]
    } else {
        price
    };

    let symbol = d
        .chance(10)
        .then(|| SYMBOLS[d.roll(3) as usize].to_string());
    Kind::Bust {
        orig: f.order_id.clone(),
        trade,
        quantity,
        price,
        fee,
        symbol,
    }
}

fn new(d: &mut Dice, symbol: String, price: i64, now: i64) -> Kind {
    let buy = d.chance(55);
    let quantity = if d.chance(1) {
        0
    } else if d.chance(5) {
        300
    } else if d.chance(5) {
        // More than most users have, so that shares are sold short, or bought back with a surplus.
        40 + d.roll(60) as i64
    } else {
        1 + d.roll(20) as i64
    };

    let shape = d.roll(100);
    let limit = match shape {
        0..15 => None,
        // Now and then far away, or off the tick.
        15..17 => Some(price + 300_000),
        17..19 => Some(price + 7),
        19..24 => None,
        _ => Some(price),
    };

    let stop = match shape {
        19..34 => Some(1_000_000 + (d.roll(31) as i64 - 15) * 1_000),
        _ => None,
    };

    let tif = match d.roll(100) {
        0..45 => Tif::Gtc,
        45..60 => Tif::Day,
        60..75 => Tif::Ioc,
        75..85 => Tif::Fok,
        _ => Tif::Gtd,
    };

    let tif = if limit.is_none() && stop.is_none() && !d.chance(5) {
        if d.chance(80) { Tif::Ioc } else { Tif::Fok }
    } else {
        tif
    };

    let expire_at = (tif == Tif::Gtd && !d.chance(3))
        .then(|| now + [0, 500, 3_000, 200_000][d.roll(4) as usize]);
    Kind::New {
        symbol,
        buy,
        quantity,
        limit,
        stop,
        tif,
        expire_at,
        post_only: d.chance(8),
    }
}

/// Removes parts of a script as long as the script still fails.
pub fn shrink(script: Vec<Command>, fails: impl Fn(&[Command]) -> bool) -> Vec<Command> {
    let mut best = script.clone();
    let mut part = script.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < best.len() {
            let mut shorter = best.clone();
            shorter.drain(at..(at + part).min(best.len()));
            if fails(&shorter) {
                best = shorter;
            } else {
                at += part;
            }
        }

        part /= 2;
    }

    best
}
