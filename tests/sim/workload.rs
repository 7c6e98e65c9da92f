//! What users, feeds and operators send: mostly sensible, with duplicates, bad records and records in the wrong partition among them.

use processor::domain::partitioner;
use processor::engine::records::{Headers, Record};
use processor::engine::topics::{TopicId, TopicPartition};
use processor::wire::topics;

use super::coverage::Kind;
use super::world::World;

impl World {
    fn client_sends(&mut self, topic: TopicId, key: &str, value: Option<&[u8]>, misplaced: bool) {
        let count = self.cluster.counts[topic.0 as usize];
        let mut partition = partitioner::partition(key.as_bytes(), count);
        if misplaced {
            partition = (partition + 1) % count;
        }
        let at = TopicPartition::new(topic, partition);
        let wall = self.cluster.wall_ms(self.cluster.part(at).leader, self.now);
        let r = Record { at, offset: 0, timestamp_ms: wall, key: Some(key.as_bytes()), value, headers: Headers::default() };
        let offset = self.cluster.part_mut(at).append(&r, wall);
        self.trace(|| format!("a client writes {at:?} offset {offset}: {}", String::from_utf8_lossy(value.unwrap_or_default())));
        self.readable(at);
    }

    fn symbol(&mut self) -> String {
        let n = self.rng.below(self.plan.symbols);
        ["AAPL", "MSFT", "TSLA"][n as usize].to_string()
    }

    /// Lists the symbols and prices them; what every run begins with.
    pub fn opening(&mut self) {
        for n in 0..self.plan.symbols as usize {
            let symbol = ["AAPL", "MSFT", "TSLA"][n];
            let more = ["", r#","half_spread_bps":20"#, r#","band_bps":800,"short_ok":true"#][n];
            self.client_sends(topics::INSTRUMENTS, symbol, Some(format!(r#"{{"symbol":"{symbol}"{more}}}"#).as_bytes()), false);
            self.tick(symbol);
        }
    }

    fn tick(&mut self, symbol: &str) {
        let price = self.rng.between(90, 110);
        let value = match self.rng.below(12) {
            0 => format!(r#"{{"symbol":"{symbol}","price":-1}}"#),
            1 => format!(r#"{{"symbol":"{symbol}","price":{price}.5,"source":"x","seq":{}}}"#, self.now / 1_000),
            _ => format!(r#"{{"symbol":"{symbol}","price":{price}.25}}"#),
        };
        self.client_sends(topics::MARKET_DATA, symbol, Some(value.as_bytes()), false);
    }

    /// One record of a client, as drawn.
    pub fn input(&mut self) {
        let user = format!("u{}", self.rng.below(self.plan.users));
        let symbol = self.symbol();
        self.sent += 1;
        let id = self.sent;
        match self.rng.below(20) {
            0..=3 => self.tick(&symbol),
            4 => {
                let (command, amount) = (["deposit", "withdraw"][self.rng.index(2)], self.rng.between(1, 500));
                let value = format!(r#"{{"command":"{command}","user_id":"{user}","order_id":"t{id}","amount":"{amount}.01"}}"#);
                self.client_sends(topics::ORDER_COMMANDS, &user, Some(value.as_bytes()), false);
            }
            5 => {
                self.cover(Kind::DeadLetter);
                let value: &[u8] = [&b"not a command"[..], b"{\"user_id\":\"x\"}", b"\x81"][self.rng.index(3)];
                let topic = [topics::ORDER_COMMANDS, topics::MARKET_DATA, topics::INSTRUMENTS, topics::CONTROLS][self.rng.index(4)];
                let misplaced = self.rng.permille(300);
                self.client_sends(topic, &user, Some(value), misplaced);
            }
            6 if self.rng.permille(300) => {
                let delisted = self.rng.permille(300);
                let value = format!(r#"{{"symbol":"{symbol}","status":"{}"}}"#, ["listed", "listed", "halted"][self.rng.index(3)]);
                self.client_sends(topics::INSTRUMENTS, &symbol, (!delisted).then_some(value.as_bytes()), false);
            }
            7 => {
                let Some((user, value)) = self.last_orders.last().cloned() else { return };
                self.cover(Kind::Duplicate);
                self.client_sends(topics::ORDER_COMMANDS, &user, Some(value.as_bytes()), false);
            }
            8 if self.rng.permille(300) => {
                self.cover(Kind::Control);
                let key = if self.rng.permille(300) { "*".to_string() } else { user };
                // More often on than off: what is switched off stays so until it is switched on.
                let value = ["stopped", "stopped", "disabled", "", "", ""][self.rng.index(6)];
                let row = format!(r#"{{"state":"{value}"}}"#);
                self.client_sends(topics::CONTROLS, &key, (!value.is_empty()).then_some(row.as_bytes()), false);
            }
            _ => {
                // Round numbers, so that positions come back to nothing now and then.
                let (quantity, side) = (self.rng.between(1, 3) * 10, if self.rng.permille(550) { "buy" } else { "sell" });
                let value = format!(
                    r#"{{"order_id":"{id}","user_id":"{user}","symbol":"{symbol}","quantity":{quantity},"order_type":"{side}","timestamp":1625159076}}"#
                );
                self.client_sends(topics::ORDER_COMMANDS, &user, Some(value.as_bytes()), false);
                self.last_orders.push((user, value));
            }
        }
    }
}
