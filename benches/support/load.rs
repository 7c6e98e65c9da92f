//! Input for the roles: listings, one price per symbol, market buys that the house fills, and
//! orders that match in books.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::time::Duration;

use client::KeyedAppender;
use client::simulate::Rng;
use domain::status::Side;
use ports::Log;
use processor::runtime::system::Installation;
use serde_json::{Value, json};
use wire::encode::{self, Encoding, MarketOrder};
use wire::topics;

pub const PARTITIONS: u32 = 6;
const SYMBOLS: u64 = 8;
/// Reference price of the symbols with books, in cents.
const MIDDLE: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Creates topics, listings and prices.
pub fn prepare(system: &Installation) {
    prepare_with(system, PARTITIONS);
}

/// Like [`prepare`], with this number of partitions.
pub fn prepare_with(system: &Installation, partitions: u32) {
    system
        .create_topics(partitions, &mut |_, _| {})
        .expect("the topics can be made");
    let mut listings = KeyedAppender::new(&*system.log, topics::INSTRUMENTS).expect("a writer");
    let mut ticks = KeyedAppender::new(&*system.log, topics::MARKET_DATA).expect("a writer");
    let mut value = Vec::new();
    for n in 0..SYMBOLS {
        let house = format!("S{n}");
        let book = format!("B{n}");
        let housed = json!({"symbol": house});
        let booked = json!({"symbol": book, "house": false, "short_ok": true});
        for (symbol, listing, price) in [
            (house, housed, format!("{}.25", 10 + n)),
            (book, booked, cents(MIDDLE)),
        ] {
            listings
                .append(&symbol, Some(listing.to_string().as_bytes()))
                .expect("appending works");
            value.clear();
            encode::tick(Encoding::MessagePack, &symbol, &price, None, &mut value);
            ticks
                .append(&symbol, Some(&value))
                .expect("appending works");
        }
    }

    listings.flush(PATIENCE).expect("flushing works");
    ticks.flush(PATIENCE).expect("flushing works");
}

/// Sends orders.
pub struct Orders {
    commands: KeyedAppender,
    rng: Rng,
    users: u64,
    run: &'static str,
    sent: u64,
    value: Vec<u8>,
}

impl Orders {
    /// `run` is the prefix of every id; use another prefix for each run on the same log.
    pub fn new(log: &dyn Log, users: u64, run: &'static str) -> Orders {
        let commands = KeyedAppender::new(log, topics::ORDER_COMMANDS).expect("a writer");
        Orders {
            commands,
            rng: Rng::new(1),
            users,
            run,
            sent: 0,
            value: Vec::new(),
        }
    }

    /// Id of the next order.
    pub fn next_id(&self) -> String {
        format!("{}{}", self.run, self.sent + 1)
    }

    /// Queues the next order.
    pub fn send(&mut self) {
        let id = self.next_id();
        let user = format!("trader-{}", self.rng.below(self.users));
        self.sent += 1;
        let symbol = format!("S{}", self.rng.below(SYMBOLS));
        let quantity = 1 + self.rng.below(5).cast_signed();
        let order = MarketOrder {
            order_id: &id,
            user_id: &user,
            symbol: &symbol,
            quantity,
            side: Side::Buy,
            timestamp: Some(1_625_159_076),
        };

        self.value.clear();
        order.encode(Encoding::MessagePack, &mut self.value);
        self.commands
            .append(&user, Some(&self.value))
            .expect("appending works");
    }

    pub fn flush(&mut self) {
        self.commands.flush(PATIENCE).expect("flushing works");
    }
}

/// Sends `count` orders. The number of users keeps each user below the rate limit, and each balance
/// above zero.
pub fn orders(log: &dyn Log, count: u64) {
    let mut orders = Orders::new(log, count / 20 + 1, "o");
    for _ in 0..count {
        orders.send();
    }

    orders.flush();
}

/// Sends `count` commands for books, of many users. Of a hundred, 44 are limit orders near the
/// middle; most limit orders rest. 38 are cancels and 6 replacements of the user's own orders. 9
/// are IOC and 3 market orders. The shares are from exchange-core's published test.
pub fn book_orders(log: &dyn Log, count: u64) {
    let mut commands = KeyedAppender::new(log, topics::ORDER_COMMANDS).expect("a writer");
    let mut rng = Rng::new(2);
    let users = count / 20 + 1;
    let mut resting: Vec<(u64, String)> = Vec::new();
    for n in 0..count {
        let roll = rng.below(100);
        let (user, command) = match roll {
            0..44 if !resting.is_empty() => {
                let at = usize::try_from(rng.below(resting.len() as u64)).expect("it fits");
                let (user, order) = if roll < 38 {
                    resting.swap_remove(at)
                } else {
                    resting[at].clone()
                };

                let replace = json!({"command": "replace", "orig_order_id": order, "quantity": 4, "limit_price": cents(MIDDLE - 30 + rng.below(61))});
                let cancel = json!({"command": "cancel", "orig_order_id": order});
                (user, if roll < 38 { cancel } else { replace })
            }
            _ => {
                let user = rng.below(users);
                let buys = rng.below(2) == 0;
                let distance = 1 + rng.below(30);

                // A resting order keeps its distance from the middle; a taking order crosses the
                // middle.
                let takes = roll >= 88;
                let price = cents(if buys == takes {
                    MIDDLE + 40
                } else {
                    MIDDLE - 40
                });

                let waiting = cents(if buys {
                    MIDDLE - distance
                } else {
                    MIDDLE + distance
                });

                let mut order = json!({"symbol": format!("B{}", rng.below(SYMBOLS)), "quantity": 1 + rng.below(5), "order_type": if buys { "buy" } else { "sell" }});
                match roll {
                    97.. => {}
                    88.. => extend(
                        &mut order,
                        json!({"type": "limit", "tif": "IOC", "limit_price": price}),
                    ),
                    _ => {
                        extend(&mut order, json!({"type": "limit", "limit_price": waiting}));
                        resting.push((user, format!("b{n}")));
                    }
                }

                (user, order)
            }
        };

        let user = format!("member-{user}");
        let mut command = command;
        extend(
            &mut command,
            json!({"order_id": format!("b{n}"), "user_id": user}),
        );
        commands
            .append(
                &user,
                Some(&rmp_serde::to_vec_named(&command).expect("it can be written")),
            )
            .expect("appending works");
    }

    commands.flush(PATIENCE).expect("flushing works");
}

fn extend(object: &mut Value, with: Value) {
    let (Value::Object(object), Value::Object(with)) = (object, with) else {
        unreachable!("objects only")
    };

    object.extend(with);
}

fn cents(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
