//! Loads with answers that the oracle can compute: market buys of accounts with ample cash, one
//! price per symbol. The load also repeats orders, reuses ids for other commands and names unknown
//! symbols, as real clients do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::simulate::Rng;
use ports::partitioner;
use ports::records::{Headers, Record};
use ports::topics::{Partitions, TopicId, TopicPartition, TopicTable};
use ports::{Appender, Log};
use wire::topics as t;

/// Appends to the partition of the key, as a Java client would.
pub struct Sender {
    appender: Box<dyn Appender>,
    topics: TopicTable,
    /// Partition count of the topics with many partitions.
    partitions: u32,
}

impl Sender {
    pub fn new(log: &dyn Log) -> Sender {
        let partitions = log
            .partitions(t::ORDER_COMMANDS)
            .expect("the log answers")
            .expect("topics exist");
        Sender {
            appender: log.appender().expect("an appender"),
            topics: t::table(""),
            partitions,
        }
    }

    pub fn partition(&self, topic: TopicId, key: &str) -> u32 {
        let many = self.topics.spec(topic).partitions == Partitions::Many;
        partitioner::partition(key.as_bytes(), if many { self.partitions } else { 1 })
    }

    pub fn send(&mut self, topic: TopicId, key: &str, value: impl AsRef<[u8]>) {
        self.send_to(
            TopicPartition::new(topic, self.partition(topic, key)),
            Some(key.as_bytes()),
            Some(value.as_ref()),
        );
    }

    pub fn send_to(&mut self, at: TopicPartition, key: Option<&[u8]>, value: Option<&[u8]>) {
        let timestamp_ms = os::clock::wall_ms();
        let record = Record {
            at,
            offset: 0,
            timestamp_ms,
            key,
            value,
            headers: Headers::default(),
        };

        self.appender
            .append(&record)
            .expect("the log takes a record");
    }

    pub fn flush(&mut self) {
        self.appender
            .flush(Duration::from_secs(60))
            .expect("the log takes the records");
    }
}

/// Lists symbols `S0..Sn` and gives each a price (10.25, 11.25, ...).
pub fn reference(sender: &mut Sender, symbols: u64) {
    for i in 0..symbols {
        let symbol = format!("S{i}");
        sender.send(
            t::INSTRUMENTS,
            &symbol,
            format!(r#"{{"symbol":"{symbol}"}}"#),
        );
    }

    sender.flush();
    (0..symbols).for_each(|i| tick(sender, i, 1_625_159_076));
    sender.flush();
}

/// Sends a tick at the fixed price of a symbol.
pub fn tick(sender: &mut Sender, i: u64, timestamp: u64) {
    let symbol = format!("S{i}");
    let price = 10 + i % 90;
    sender.send(
        t::MARKET_DATA,
        &symbol,
        format!(r#"{{"symbol":"{symbol}","price":"{price}.25","timestamp":{timestamp}}}"#),
    );
}

pub struct Orders {
    rng: Rng,
    users: u64,
    symbols: u64,
    next: u64,
    sent: Vec<(u64, u64, u64, u64)>,
}

impl Orders {
    pub fn new(seed: u64, users: u64, symbols: u64) -> Orders {
        Orders {
            rng: Rng::new(seed),
            users,
            symbols,
            next: 0,
            sent: Vec::new(),
        }
    }

    /// Sends the next command: 4 % repeat an earlier one, 1 % reuse its id for another quantity, 1
    /// % name an unknown symbol.
    pub fn send_next(&mut self, sender: &mut Sender) {
        let kind = self.rng.below(100);
        let (id, user, symbol, quantity) = if kind < 5 && !self.sent.is_empty() {
            let (id, user, symbol, quantity) =
                self.sent[self.rng.below(self.sent.len() as u64) as usize];
            (
                id,
                user,
                symbol,
                if kind == 4 { quantity + 1 } else { quantity },
            )
        } else {
            self.next += 1;
            let symbol = if kind == 99 {
                1_000_000
            } else {
                self.rng.below(self.symbols)
            };

            let order = (
                self.next,
                self.rng.below(self.users),
                symbol,
                1 + self.rng.below(5),
            );
            self.sent.push(order);
            order
        };

        let user = format!("u{user}");
        let timestamp = 1_625_159_076 + self.rng.below(1000);
        let value = format!(
            r#"{{"order_id":"o{id}","user_id":"{user}","symbol":"S{symbol}","quantity":{quantity},"order_type":"buy","timestamp":{timestamp}}}"#
        );
        sender.send(t::ORDER_COMMANDS, &user, value);
    }
}

/// A load in a separate thread, in bursts, until stopped.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Stream {
    /// Sends about `rate` commands a second, and sometimes a tick that repeats the price of its
    /// symbol.
    pub fn start(log: Arc<dyn Log>, mut orders: Orders, rate: u64) -> Stream {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let until = stop.clone();
        let count = sent.clone();
        let thread = std::thread::spawn(move || {
            let mut sender = Sender::new(&*log);
            let mut rng = Rng::new(rate);
            let began = Instant::now();
            let mut timestamp = 1_625_159_076;
            while !until.load(Ordering::Relaxed) {
                let due =
                    u64::try_from(began.elapsed().as_micros()).unwrap_or(0) * rate / 1_000_000;
                let burst = due.saturating_sub(count.load(Ordering::Relaxed)).min(1_000);
                (0..burst).for_each(|_| orders.send_next(&mut sender));
                count.fetch_add(burst, Ordering::Relaxed);
                timestamp += 1;
                let i = rng.below(orders.symbols);
                tick(&mut sender, i, timestamp);
                std::thread::sleep(Duration::from_millis(rng.below(60)));
            }

            sender.flush();
        });

        Stream { stop, sent, thread }
    }

    /// Number of commands handed over to the log client.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops the load after all commands are in the log; returns their number.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load was sent");
        self.sent.load(Ordering::Relaxed)
    }
}

/// Waits until `done` holds, with a check every 20 ms. Panics after `within`.
pub fn wait_for(what: &str, within: Duration, mut done: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
