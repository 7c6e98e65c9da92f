//! Loads whose every answer the oracle can work out: market buys of accounts with ample cash, one price per symbol, and what real clients do
//! besides: orders sent twice, ids used again for something else, symbols that do not exist.

use std::time::Duration;

use processor::client::simulate::Rng;
use processor::domain::partitioner;
use processor::engine::ports::{Appender, Log};
use processor::engine::records::{Headers, Record};
use processor::engine::topics::{TopicId, TopicPartition};
use processor::wire::topics as t;

/// Appends to the partition of the key, as a Java client would.
pub struct Sender {
    appender: Box<dyn Appender>,
    counts: Vec<u32>,
}

impl Sender {
    pub fn new(log: &dyn Log) -> Sender {
        let counts = (0..4).map(|i| log.partitions(TopicId(i)).expect("the log answers").expect("topics exist")).collect();
        Sender { appender: log.appender().expect("an appender"), counts }
    }

    pub fn partition(&self, topic: TopicId, key: &str) -> u32 {
        partitioner::partition(key.as_bytes(), self.counts[topic.0 as usize])
    }

    pub fn send(&mut self, topic: TopicId, key: &str, value: impl AsRef<[u8]>) {
        self.send_to(TopicPartition::new(topic, self.partition(topic, key)), Some(key.as_bytes()), Some(value.as_ref()));
    }

    pub fn send_to(&mut self, at: TopicPartition, key: Option<&[u8]>, value: Option<&[u8]>) {
        let timestamp_ms = processor::client::now_ms();
        let record = Record { at, offset: 0, timestamp_ms, key, value, headers: Headers::default() };
        self.appender.append(&record).expect("the log takes a record");
    }

    pub fn flush(&mut self) {
        self.appender.flush(Duration::from_secs(60)).expect("the log takes the records");
    }
}

/// Lists symbols `S0..Sn` and gives each a price (10.25, 11.25, ...).
pub fn reference(sender: &mut Sender, symbols: u64) {
    for i in 0..symbols {
        let symbol = format!("S{i}");
        sender.send(t::INSTRUMENTS, &symbol, format!(r#"{{"symbol":"{symbol}"}}"#));
    }
    sender.flush();
    for i in 0..symbols {
        let (symbol, price) = (format!("S{i}"), 10 + i % 90);
        sender.send(t::MARKET_DATA, &symbol, format!(r#"{{"symbol":"{symbol}","price":"{price}.25","timestamp":1625159076}}"#));
    }
    sender.flush();
}

/// A stream of commands.
pub struct Orders {
    rng: Rng,
    users: u64,
    symbols: u64,
    next: u64,
    sent: Vec<(u64, u64, u64, u64)>,
}

impl Orders {
    pub fn new(seed: u64, users: u64, symbols: u64) -> Orders {
        Orders { rng: Rng::new(seed), users, symbols, next: 0, sent: Vec::new() }
    }

    /// Sends the next command: 4 % repeat an earlier one, 1 % reuse its id for another quantity, 1 % name an unknown symbol.
    pub fn send_next(&mut self, sender: &mut Sender) {
        let kind = self.rng.below(100);
        let (id, user, symbol, quantity) = if kind < 5 && !self.sent.is_empty() {
            let (id, user, symbol, quantity) = self.sent[self.rng.below(self.sent.len() as u64) as usize];
            (id, user, symbol, if kind == 4 { quantity + 1 } else { quantity })
        } else {
            self.next += 1;
            let symbol = if kind == 99 { 1_000_000 } else { self.rng.below(self.symbols) };
            let order = (self.next, self.rng.below(self.users), symbol, 1 + self.rng.below(5));
            self.sent.push(order);
            order
        };
        let (user, timestamp) = (format!("u{user}"), 1_625_159_076 + self.rng.below(1000));
        let value = format!(
            r#"{{"order_id":"o{id}","user_id":"{user}","symbol":"S{symbol}","quantity":{quantity},"order_type":"buy","timestamp":{timestamp}}}"#
        );
        sender.send(t::ORDER_COMMANDS, &user, value);
    }
}

/// Waits until a condition holds, asking every 20 ms; fails the test when it takes too long.
pub fn wait_for(what: &str, within: Duration, mut done: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
