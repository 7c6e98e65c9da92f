//! Commands of users, feeds and operators: mostly sensible, with some duplicates, bad records and
//! records in the wrong partition.

use std::collections::BTreeMap;

use client::decimal::show_e4;
use ports::partitioner;
use ports::records::{Headers, Record};
use ports::topics::{TopicId, TopicPartition};
use wire::event::{Event, OrderEvent};
use wire::{command, topics};

use super::coverage::Kind;
use super::world::World;

/// An order that a user sent.
#[derive(Clone)]
pub struct Sent {
    user: String,
    id: String,
    value: String,
}

impl World {
    pub fn client_sends(
        &mut self,
        topic: TopicId,
        key: &str,
        value: Option<&[u8]>,
        misplaced: bool,
    ) {
        let count = self.cluster.counts[topic.0 as usize];
        let mut partition = partitioner::partition(key.as_bytes(), count);
        if misplaced {
            partition = (partition + 1) % count;
        }

        let at = TopicPartition::new(topic, partition);
        let wall = self.cluster.wall_ms(self.cluster.part(at).leader, self.now);
        let r = Record {
            at,
            offset: 0,
            timestamp_ms: wall,
            key: Some(key.as_bytes()),
            value,
            headers: Headers::default(),
        };

        let offset = self.cluster.part_mut(at).append(&r, wall);
        let start = &value.unwrap_or_default()[..value.unwrap_or_default().len().min(300)];
        self.trace(|| {
            format!(
                "a client writes {at:?} offset {offset}: {}",
                String::from_utf8_lossy(start)
            )
        });

        self.readable(at);
    }

    fn symbol(&mut self) -> String {
        let n = self.rng.below(self.plan.symbols);
        ["AAPL", "MSFT", "TSLA"][n as usize].to_string()
    }

    /// Lists the symbols and sets their prices, at the beginning of every run.
    pub fn opening(&mut self) {
        for n in 0..self.plan.symbols as usize {
            let symbol = ["AAPL", "MSFT", "TSLA"][n];
            let more = [
                r#","half_spread_bps":400"#,
                r#","half_spread_bps":20,"house_max":15"#,
                r#","band_bps":800,"short_ok":true"#,
            ][n];
            self.client_sends(
                topics::INSTRUMENTS,
                symbol,
                Some(format!(r#"{{"symbol":"{symbol}"{more}}}"#).as_bytes()),
                false,
            );
            self.tick(symbol);
        }
    }

    fn tick(&mut self, symbol: &str) {
        let price = self.rng.between(90, 110);
        let value = match self.rng.below(12) {
            0 => format!(r#"{{"symbol":"{symbol}","price":-1}}"#),
            1 => format!(
                r#"{{"symbol":"{symbol}","price":{price}.5,"source":"x","seq":{}}}"#,
                self.now / 1_000
            ),
            // A feed that restarts now and then, with an occasional wrong number.
            2..=3 => {
                let seq = if self.rng.permille(30) {
                    i64::MAX as u64
                } else {
                    self.now / 1_000 % 20_000
                };

                format!(r#"{{"symbol":"{symbol}","price":{price}.75,"source":"y","seq":{seq}}}"#)
            }
            _ => format!(r#"{{"symbol":"{symbol}","price":{price}.25}}"#),
        };

        self.client_sends(topics::MARKET_DATA, symbol, Some(value.as_bytes()), false);
    }

    /// Sends one random record of a client.
    pub fn input(&mut self) {
        let user = format!("u{}", self.rng.below(self.plan.users));
        let symbol = self.symbol();
        self.sent += 1;
        let id = self.sent;
        match self.rng.below(20) {
            0..=3 => self.tick(&symbol),
            4 => {
                let command = ["deposit", "withdraw"][self.rng.index(2)];
                let amount = self.rng.between(1, 500);
                let value = format!(
                    r#"{{"command":"{command}","user_id":"{user}","order_id":"t{id}","amount":"{amount}.01"}}"#
                );
                self.command(&user, &value);
            }
            5 => {
                self.cover(Kind::DeadLetter);
                let value: &[u8] =
                    [&b"not a command"[..], b"{\"user_id\":\"x\"}", b"\x81"][self.rng.index(3)];
                let topic = [
                    topics::ORDER_COMMANDS,
                    topics::MARKET_DATA,
                    topics::INSTRUMENTS,
                    topics::CONTROLS,
                ][self.rng.index(4)];
                let misplaced = self.rng.permille(300);
                self.client_sends(topic, &user, Some(value), misplaced);
            }
            6 if self.rng.permille(300) => {
                let delisted = self.rng.permille(300);
                let value = format!(
                    r#"{{"symbol":"{symbol}","status":"{}"}}"#,
                    ["listed", "listed", "halted"][self.rng.index(3)]
                );
                self.client_sends(
                    topics::INSTRUMENTS,
                    &symbol,
                    (!delisted).then_some(value.as_bytes()),
                    false,
                );
            }
            7 => {
                let Some(Sent { user, value, .. }) = self.earlier() else {
                    return;
                };

                self.cover(Kind::Duplicate);
                self.command(&user, &value);
            }
            8 if self.rng.permille(300) => {
                self.cover(Kind::Control);
                let key = if self.rng.permille(300) {
                    "*".to_string()
                } else {
                    user
                };

                // On is more likely than off, because an off state lasts until the next on.
                let value = ["stopped", "stopped", "disabled", "", "", ""][self.rng.index(6)];
                let row = format!(r#"{{"state":"{value}"}}"#);
                self.client_sends(
                    topics::CONTROLS,
                    &key,
                    (!value.is_empty()).then_some(row.as_bytes()),
                    false,
                );
            }
            9..=10 => self.about_an_order(id),
            11 if self.rng.permille(300) => self.bust(id),
            12..=15 => {
                let kind = self.kind_of_order();
                let quantity = self.rng.between(1, 3) * 10;
                self.order(id, user, &symbol, quantity, &kind);
            }
            // Round quantities, so that positions return to zero now and then.
            _ => {
                let quantity = self.rng.between(1, 3) * 10;
                self.order(id, user, &symbol, quantity, r#""timestamp":1625159076"#);
            }
        }
    }

    fn order(&mut self, id: u64, user: String, symbol: &str, quantity: u64, more: &str) {
        let side = if self.rng.permille(550) {
            "buy"
        } else {
            "sell"
        };

        let value = format!(
            r#"{{"order_id":"{id}","user_id":"{user}","symbol":"{symbol}","quantity":{quantity},"order_type":"{side}",{more}}}"#
        );
        self.command(&user, &value);
        self.orders.push(Sent {
            user,
            id: id.to_string(),
            value,
        });
    }

    /// An order with prices of its own. The order may rest, wait, come too late, or trade with
    /// another user's order.
    fn kind_of_order(&mut self) -> String {
        let price = self.rng.between(94, 106);
        let tif = match self.rng.below(8) {
            0 => r#","tif":"IOC""#.to_string(),
            1 => r#","tif":"FOK""#.to_string(),
            2 => r#","tif":"DAY""#.to_string(),
            3 => {
                let wall = self.cluster.wall_ms(0, self.now);
                format!(
                    r#","tif":"GTD","expire_at":{}"#,
                    wall + self.rng.between(0, 3_000) as i64
                )
            }
            4 => r#","post_only":true"#.to_string(),
            _ => String::new(),
        };

        match self.rng.below(8) {
            0 => format!(r#""type":"stop","stop_price":{price}"#),
            1 => format!(r#""type":"stop_limit","stop_price":{price},"limit_price":{price}{tif}"#),
            _ => format!(r#""type":"limit","limit_price":{price}{tif}"#),
        }
    }

    /// An earlier order, rather a recent one, because it may still be open.
    fn earlier(&mut self) -> Option<Sent> {
        let back = self.rng.skewed(1, (self.orders.len() as u64).max(1)) as usize;
        self.orders
            .len()
            .checked_sub(back)
            .map(|i| self.orders[i].clone())
    }

    /// A user or an operator cancels or replaces an earlier order, in any state.
    fn about_an_order(&mut self, id: u64) {
        let Some(Sent {
            user, id: order, ..
        }) = self.earlier()
        else {
            return;
        };

        let by = if self.rng.permille(200) {
            r#","operator":"ana""#
        } else {
            ""
        };

        let what = match self.rng.below(8) {
            0..=3 => format!(r#""command":"cancel","orig_order_id":"{order}"{by}"#),
            4 => format!(r#""command":"mass_cancel"{by}"#),
            5 => format!(
                r#""command":"replace","orig_order_id":"{order}","quantity":{}"#,
                self.rng.between(1, 4) * 10
            ),
            _ => format!(
                r#""command":"replace","orig_order_id":"{order}","limit_price":{}"#,
                self.rng.between(94, 106)
            ),
        };

        let value = format!(r#"{{"order_id":"c{id}","user_id":"{user}",{what}}}"#);
        self.command(&user, &value);
    }

    /// An operator busts a visible trade, wholly or in part, and now and then describes the trade
    /// wrongly. The money of the trade may have been withdrawn.
    fn bust(&mut self, id: u64) {
        let mut fills = Vec::new();
        let mut backs = BTreeMap::<(String, String, String), i64>::new();
        let mut cash = BTreeMap::new();
        for part in self.cluster.topic(topics::ORDER_EVENTS) {
            for offset in part.committed(0, part.readable_end(self.now)) {
                let Ok(e) = OrderEvent::decode(part.record(offset).value.unwrap_or_default())
                else {
                    continue;
                };

                cash.insert(e.user_id.to_string(), e.cash_available_e4);
                let (Some(order), Some(trade)) = (e.order_id, e.trade_id) else {
                    continue;
                };

                let of = (e.user_id.to_string(), order.to_string(), trade.to_string());
                if e.event == Event::TradeBusted {
                    *backs.entry(of).or_default() += e.last_quantity.unwrap_or(0);
                } else {
                    fills.push((
                        of,
                        e.last_quantity.unwrap_or(0),
                        e.last_price_e4.unwrap_or(0),
                    ));
                }
            }
        }

        if fills.is_empty() {
            return;
        }

        let (of, whole, price) = fills.swap_remove(self.rng.index(fills.len()));
        let left = whole - backs.get(&of).copied().unwrap_or(0);
        let (user, order, trade) = of;
        if self.rng.permille(400) {
            self.command(
                &user,
                &format!(
                    r#"{{"command":"withdraw","order_id":"w{id}","user_id":"{user}","operator":"ana","amount":"{}"}}"#,
                    show_e4(cash[&user].max(0))
                ),
            );
        }

        let quantity = if self.rng.permille(400) {
            (left + 1) / 2
        } else {
            left
        };

        let price = if self.rng.permille(50) {
            price + 100
        } else {
            price
        };

        let trade = if self.rng.permille(50) { "0-0" } else { &trade };
        let what = format!(
            r#""orig_order_id":"{order}","trade_id":"{trade}","quantity":{quantity},"price":"{}""#,
            show_e4(price)
        );
        self.command(&user, &format!(r#"{{"order_id":"b{id}","user_id":"{user}","command":"bust","operator":"ana",{what}}}"#));
    }

    /// Sends a command to the right topic; now and then to the other topic, which may not carry the
    /// command.
    pub fn command(&mut self, user: &str, value: &str) {
        let right = command::topic(value.as_bytes());
        let other = if right == topics::ORDER_COMMANDS {
            topics::OPERATOR_COMMANDS
        } else {
            topics::ORDER_COMMANDS
        };

        let topic = if self.rng.permille(20) { other } else { right };
        self.client_sends(topic, user, Some(value.as_bytes()), false);
    }
}
