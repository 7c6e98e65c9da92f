//! Heavy traffic: large transactions, and one busy partition beside others with rare records.

use wire::topics;

use super::coverage::Kind;
use super::rng::Rng;
use super::timing::*;
use super::world::{Event, World};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heavy {
    /// The partition of one user gets this number of commands at once.
    Flood(u64),
    /// One user sends this number of cancels, repeats and mass cancels at once, for existing and
    /// unknown orders.
    Messages(u64),
    /// Users with this number of resting orders cancel all of them, several times.
    MassCancels { orders: u64, times: u64 },
    /// This number of listings, each with a long row, are used at once.
    FatRows { listings: u64, bytes: u64 },
    /// A user holds positions in this number of symbols.
    Positions(u64),
}

impl Heavy {
    /// Draws the heavy traffic of a seed, mostly none, and sometimes a record size limit for its
    /// topics.
    pub fn draw(rng: &mut Rng) -> (Option<Heavy>, Option<u32>) {
        if rng.permille(850) {
            return (None, None);
        }

        let small = rng.permille(600);
        let mut limit = 8 * 1024;
        let heavy = match rng.below(8) {
            0..=2 if rng.permille(500) => Heavy::Messages(rng.between(100, 600)),
            0..=2 => Heavy::Flood(rng.between(100, 600)),
            3..=5 => Heavy::MassCancels {
                orders: rng.between(20, 120),
                times: rng.between(1, 12),
            },
            6 if small => Heavy::FatRows {
                listings: rng.between(10, 60),
                bytes: rng.between(300, 5_000),
            },
            6 => Heavy::FatRows {
                listings: rng.between(17, 40),
                bytes: rng.between(40_000, 64_000),
            },
            _ => {
                limit = 32 * 1024;
                Heavy::Positions(rng.between(20, 200))
            }
        };

        (Some(heavy), small.then_some(limit))
    }
}

impl World {
    /// Sends the traffic. Traffic with two steps is called again for the second.
    pub fn heavy(&mut self, step: u32) {
        let Some(heavy) = self.plan.heavy else { return };
        self.trace(|| format!("heavy traffic, step {step}: {heavy:?}"));
        match heavy {
            Heavy::Flood(records) => {
                let user = format!("u{}", self.rng.below(self.plan.users));
                for n in 0..records {
                    let value = format!(
                        r#"{{"command":"deposit","user_id":"{user}","order_id":"f{n}","amount":"1"}}"#
                    );
                    self.command(&user, &value);
                }

                self.cover(Kind::Flood);
            }
            Heavy::Messages(records) => {
                let user = format!("u{}", self.rng.below(self.plan.users));
                let order = format!(
                    r#"{{"order_id":"g","user_id":"{user}","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":{}}}"#,
                    self.rng.between(94, 99)
                );
                for n in 0..records {
                    let value = match self.rng.below(6) {
                        0..=1 => order.clone(),
                        2 => format!(
                            r#"{{"order_id":"q{n}","user_id":"{user}","command":"cancel","orig_order_id":"g"}}"#
                        ),
                        3 => format!(
                            r#"{{"order_id":"m{n}","user_id":"{user}","command":"mass_cancel"}}"#
                        ),
                        4 => format!(
                            r#"{{"order_id":"d{n}","user_id":"{user}","command":"deposit","operator":"u","amount":"x"}}"#
                        ),
                        _ => format!(
                            r#"{{"order_id":"q{n}","user_id":"{user}","command":"cancel","orig_order_id":"none"}}"#
                        ),
                    };

                    self.command(&user, &value);
                }

                self.cover(Kind::Messages);
            }
            Heavy::MassCancels { orders, .. } if step == 0 => {
                for n in 0..orders {
                    let user = format!("u{}", n % 2);
                    let value = format!(
                        r#"{{"order_id":"h{n}","user_id":"{user}","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":2}}"#
                    );
                    self.command(&user, &value);
                }

                let delay = if self.rng.permille(300) {
                    0
                } else {
                    self.rng.between(200 * MS, 2 * SECOND)
                };

                self.schedule(self.now + delay, Event::Heavy(1));
            }
            Heavy::MassCancels { times, .. } => {
                for n in 0..times {
                    let user = format!("u{}", n % 2);
                    self.command(
                        &user,
                        &format!(
                            r#"{{"order_id":"m{n}","user_id":"{user}","command":"mass_cancel"}}"#
                        ),
                    );
                }

                self.cover(Kind::MassCancels);
            }
            Heavy::FatRows { listings, bytes } => {
                let note = "x".repeat(bytes as usize);
                self.many_symbols(listings, &note, 3);
                self.cover(Kind::FatRows);
            }
            Heavy::Positions(symbols) => {
                self.many_symbols(symbols, "", 1);
                self.cover(Kind::ManyPositions);
            }
        }
    }

    /// Lists and prices the symbols, and lets `users` users buy one share of each.
    fn many_symbols(&mut self, count: u64, note: &str, users: u64) {
        for n in 0..count {
            let symbol = format!("S{n:03}");
            let row = format!(r#"{{"symbol":"{symbol}","note":"{note}"}}"#);
            self.client_sends(topics::INSTRUMENTS, &symbol, Some(row.as_bytes()), false);
            let tick = format!(r#"{{"symbol":"{symbol}","price":20}}"#);
            self.client_sends(topics::MARKET_DATA, &symbol, Some(tick.as_bytes()), false);
        }

        for n in 0..count * users {
            let user = format!("u{}", n % users);
            let value = format!(
                r#"{{"order_id":"p{n}","user_id":"{user}","symbol":"S{:03}","quantity":1,"order_type":"buy"}}"#,
                n / users
            );
            self.command(&user, &value);
        }
    }
}
