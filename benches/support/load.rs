//! What benches give the roles to do: listings, one price each, and market buys that will all be filled.

#![allow(dead_code, reason = "each bench uses a part of it")]

use processor::client::KeyedAppender;
use processor::client::simulate::Rng;
use processor::domain::status::Side;
use processor::engine::ports::Log;
use processor::runtime::system::System;
use processor::wire::encode::{self, Format, MarketOrder};
use processor::wire::topics;
use std::time::Duration;

pub const PARTITIONS: u32 = 6;
const SYMBOLS: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(60);

/// Topics, listings, prices.
pub fn prepare(system: &System) {
    system.create_topics(PARTITIONS, &mut |_, _| {}).expect("the topics can be made");
    let mut listings = KeyedAppender::new(&*system.log, topics::INSTRUMENTS).expect("a writer");
    let mut ticks = KeyedAppender::new(&*system.log, topics::MARKET_DATA).expect("a writer");
    let mut value = Vec::new();
    for n in 0..SYMBOLS {
        let symbol = format!("S{n}");
        listings.append(&symbol, Some(format!(r#"{{"symbol":"{symbol}"}}"#).as_bytes())).expect("appending works");
        value.clear();
        encode::tick(Format::MessagePack, &symbol, &format!("{}.25", 10 + n), None, &mut value);
        ticks.append(&symbol, Some(&value)).expect("appending works");
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
    /// `run` begins every id: another one for each run on the same log.
    pub fn new(log: &dyn Log, users: u64, run: &'static str) -> Orders {
        let commands = KeyedAppender::new(log, topics::ORDER_COMMANDS).expect("a writer");
        Orders { commands, rng: Rng::new(1), users, run, sent: 0, value: Vec::new() }
    }

    /// Id of the order that is sent next.
    pub fn next_id(&self) -> String {
        format!("{}{}", self.run, self.sent + 1)
    }

    /// Queues the next one.
    pub fn send(&mut self) {
        let (id, user) = (self.next_id(), format!("trader-{}", self.rng.below(self.users)));
        self.sent += 1;
        let symbol = format!("S{}", self.rng.below(SYMBOLS));
        let quantity = 1 + self.rng.below(5).cast_signed();
        let order =
            MarketOrder { order_id: &id, user_id: &user, symbol: &symbol, quantity, side: Side::Buy, timestamp: Some(1_625_159_076) };
        self.value.clear();
        order.encode(Format::MessagePack, &mut self.value);
        self.commands.append(&user, Some(&self.value)).expect("appending works");
    }

    pub fn flush(&mut self) {
        self.commands.flush(PATIENCE).expect("flushing works");
    }
}

/// `count` orders of as many users as keep each below the rate limit and above zero.
pub fn orders(log: &dyn Log, count: u64) {
    let mut orders = Orders::new(log, count / 20 + 1, "o");
    for _ in 0..count {
        orders.send();
    }
    orders.flush();
}
