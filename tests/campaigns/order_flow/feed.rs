//! Rows of an exchange's feed of limit orders, from a file or generated, and the commands that they
//! become here.
//!
//! The rule: each row is one command, in the order of the rows. Order `id` belongs to user `u<id %
//! 50>`, and the volume counts in ten-thousandths, rounded up.
//!
//! | row | command | its id |
//! |---|---|---|
//! | `created` | `new`, a GTC limit order for the row's volume at its price; `bid` buys, `ask` sells | the row's |
//! | `changed` | `replace` to the row's volume and price | `c<line>` |
//! | `deleted` | `cancel` | `d<line>` |
//!
//! The exchange's own trades appear as changes and deletions of orders, which may or may not have
//! traded here. A feed also has rows out of order, repeated rows and missing rows. Every client
//! sends such bad input some day, and each kind has a defined answer.

use std::collections::BTreeMap;
use std::path::Path;

use client::simulate::Rng;

pub const SYMBOL: &str = "BTCUSD";
pub const USERS: u64 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Created,
    Changed,
    Deleted,
}

/// One row. Prices count in hundredths, volumes in 10^-8.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: u64,
    pub price: u64,
    pub volume: u64,
    pub action: Action,
    pub bid: bool,
}

/// Expected answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expect {
    /// A new order: `OrderPending`.
    New,
    /// A used id with the same content: `OrderStatus`.
    Again,
    /// A used id with other content: `DuplicateRejected`.
    Conflict,
    /// A replace or cancel of an order that was never created: `CancelRejected`, `UNKNOWN_ORDER`.
    Unknown,
    /// A replace or cancel of a cancelled order: `CancelRejected`, `TOO_LATE_TO_CANCEL`.
    Late,
    /// The cancel of an order that was open or has traded: `OrderCancelled`, or `CancelRejected`,
    /// `TOO_LATE_TO_CANCEL`.
    Cancel,
    /// The replace of such an order: `OrderReplaced`, or `CancelRejected`, `TOO_LATE_TO_CANCEL`.
    Change,
    /// The same with quantity zero: `CancelRejected`, `INCORRECT_QUANTITY` or `TOO_LATE_TO_CANCEL`.
    ChangeToNothing,
}

pub struct Step {
    pub user: String,
    pub id: String,
    /// Id of the order that the command names.
    pub order: String,
    pub json: String,
    /// True if the command replaces a known order.
    pub changes: bool,
    pub expect: Expect,
}

/// Reads rows `id, timestamp, exchange.timestamp, price, volume, action, direction`.
pub fn read(file: &Path) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(file).expect("a readable file");
    let headers = reader.headers().expect("a header").clone();
    let column = |name: &str| {
        headers
            .iter()
            .position(|h| h == name)
            .unwrap_or_else(|| panic!("no column {name}"))
    };

    let id = column("id");
    let price = column("price");
    let volume = column("volume");
    let action = column("action");
    let direction = column("direction");
    let row = |r: csv::StringRecord| {
        let (whole, cents) = r[price].split_once('.').unwrap_or((&r[price], ""));
        let action = match &r[action] {
            "created" => Action::Created,
            "changed" => Action::Changed,
            "deleted" => Action::Deleted,
            other => panic!("an action that is not known: {other}"),
        };

        Row {
            id: r[id].parse().expect("an id"),
            price: format!("{whole}{cents:0<2}")
                .parse()
                .expect("a price of at most two decimals"),
            volume: r[volume].parse().expect("a volume"),
            action,
            bid: &r[direction] == "bid",
        }
    };

    reader
        .into_records()
        .map(|r| row(r.expect("a row")))
        .collect()
}

/// Rows like those of a real exchange: nearly all orders are cancelled soon, few trade, and one row
/// in forty is wrong.
pub fn generate(seed: u64, count: usize) -> Vec<Row> {
    let mut rng = Rng::new(seed);
    let mut rows = Vec::<Row>::with_capacity(count);
    let mut live = Vec::<Row>::new();
    let mut gone = Vec::<Row>::new();
    let mut mid = 23_650;
    let mut next = 65_595_000;
    while rows.len() < count {
        mid = (mid + rng.below(7) - 3).clamp(20_000, 27_000);
        let mut fresh = || {
            let bid = rng.below(2) == 0;

            // Mostly a little away from the middle, now and then beyond it.
            let away = rng.below(300);
            let price = if bid {
                mid + 20 - away
            } else {
                mid - 20 + away
            };

            next += 1 + rng.below(3);
            Row {
                id: next,
                price,
                volume: 1 + rng.below(300_000_000),
                action: Action::Created,
                bid,
            }
        };

        let new = fresh();
        let pick = |from: &[Row], rng: &mut Rng| {
            let back = rng
                .below(from.len().max(1) as u64)
                .min(rng.below(from.len().max(1) as u64)) as usize;
            (!from.is_empty()).then(|| from.len() - 1 - back)
        };

        let row = match rng.below(1_000) {
            0..480 => {
                live.push(new.clone());
                new
            }
            480..960 => match pick(&live, &mut rng) {
                Some(at) => {
                    let row = Row {
                        action: Action::Deleted,
                        ..live.remove(at)
                    };

                    gone.push(row.clone());
                    row
                }
                None => continue,
            },
            960..975 => match pick(&live, &mut rng) {
                Some(at) => {
                    live[at].volume -= rng.below(live[at].volume);
                    Row {
                        action: Action::Changed,
                        ..live[at].clone()
                    }
                }
                None => continue,
            },
            // Before its create, which comes later or never.
            975..983 => {
                let action = if rng.below(4) > 0 {
                    Action::Deleted
                } else {
                    Action::Changed
                };

                if rng.below(2) == 0 {
                    gone.push(new.clone());
                }

                Row { action, ..new }
            }
            // After its end: deleted or changed again, or created again.
            983..994 => match pick(&gone, &mut rng) {
                Some(at) => Row {
                    action: [Action::Deleted, Action::Changed, Action::Created]
                        [rng.below(3) as usize],
                    ..gone[at].clone()
                },
                None => continue,
            },
            // Created again while open, with the same or another content.
            _ => match pick(&live, &mut rng) {
                Some(at) => Row {
                    action: Action::Created,
                    price: live[at].price + rng.below(2),
                    ..live[at].clone()
                },
                None => continue,
            },
        };

        rows.push(row);
    }

    rows
}

/// Applies the rule, and adds the expected answer to each command.
pub fn steps(rows: &[Row]) -> Vec<Step> {
    let mut created = BTreeMap::<u64, (u64, u64, bool)>::new();
    let mut cancelled = BTreeMap::<u64, ()>::new();
    let step = |(line, row): (usize, &Row)| {
        let user = format!("u{}", row.id % USERS);
        let order = row.id.to_string();
        let quantity = row.volume.div_ceil(10_000);
        let price = format!("{}.{:02}", row.price / 100, row.price % 100);
        let known = created.get(&row.id).copied();
        let late = cancelled.contains_key(&row.id);
        let (id, fields, expect) = match row.action {
            Action::Created => {
                let side = if row.bid { "buy" } else { "sell" };
                let fields = format!(
                    r#""symbol":"{SYMBOL}","quantity":{quantity},"order_type":"{side}","type":"limit","limit_price":"{price}""#
                );
                let content = (quantity, row.price, row.bid);
                let first = *created.entry(row.id).or_insert(content);
                let expect = match known {
                    None => Expect::New,
                    Some(_) if first == content => Expect::Again,
                    Some(_) => Expect::Conflict,
                };

                (order.clone(), fields, expect)
            }
            Action::Changed => {
                let expect = match known {
                    None => Expect::Unknown,
                    Some(_) if late => Expect::Late,
                    Some(_) if quantity == 0 => Expect::ChangeToNothing,
                    Some(_) => Expect::Change,
                };

                let fields = format!(
                    r#""command":"replace","orig_order_id":"{order}","quantity":{quantity},"limit_price":"{price}""#
                );
                (format!("c{line}"), fields, expect)
            }
            Action::Deleted => {
                let expect = match known {
                    None => Expect::Unknown,
                    Some(_) if late => Expect::Late,
                    Some(_) => {
                        cancelled.insert(row.id, ());
                        Expect::Cancel
                    }
                };

                (
                    format!("d{line}"),
                    format!(r#""command":"cancel","orig_order_id":"{order}""#),
                    expect,
                )
            }
        };

        let json = format!(r#"{{"user_id":"{user}","order_id":"{id}",{fields}}}"#);
        let changes = row.action == Action::Changed && known.is_some();
        Step {
            user,
            id,
            order,
            json,
            changes,
            expect,
        }
    };

    rows.iter().enumerate().map(step).collect()
}
