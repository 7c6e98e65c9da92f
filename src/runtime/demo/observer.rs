//! Reads `order-events` as a client would, and counts and times the events. Checks the rules that a
//! client can see: `user_seq` has no gap and no repeat, every order is accepted before it ends and
//! ends once, no balance is below zero.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use indexmap::IndexMap;
use os::clock::wall_ms;
use ports::records::Records;
use ports::{Limits, Log, LogError, Reader, StartOffset};
use rustc_hash::FxBuildHasher;
use serde::Deserialize;
use wire::topics;

#[derive(Clone)]
pub(super) struct ObservedTotals {
    /// First answers to the commands of this run: pending, rejected, or duplicate.
    pub answered: u64,
    pub filled: u64,
    pub cancelled: u64,
    /// Commands recognised as duplicates.
    pub duplicates: u64,
    pub rejected: BTreeMap<String, u64>,
    /// Milliseconds from the append of a command until a reader sees its fill.
    pub fill_ms: Histogram<u32>,
    pub checked: u64,
    /// The first violations, as text.
    pub violations: Vec<String>,
    /// Number of violations.
    pub violated: u64,
}

impl Default for ObservedTotals {
    fn default() -> Self {
        ObservedTotals {
            answered: 0,
            filled: 0,
            cancelled: 0,
            duplicates: 0,
            rejected: BTreeMap::new(),
            fill_ms: Histogram::new_with_bounds(1, 3_600_000, 3).expect("fixed bounds are valid"),
            checked: 0,
            violations: Vec::new(),
            violated: 0,
        }
    }
}

#[derive(Deserialize)]
struct ObservedEvent<'a> {
    event: &'a str,
    user_id: &'a str,
    user_seq: i64,
    order_id: Option<&'a str>,
    reason: Option<&'a str>,
    time_us: i64,
    cash_available_e4: i64,
    cash_reserved_e4: i64,
}

/// Reads events and checks them.
pub(super) struct Observer {
    readers: Vec<Box<dyn Reader>>,
    /// By user: number of the last event, and available cash after that event.
    last: IndexMap<String, (i64, i64), FxBuildHasher>,
    /// Pending orders that have not ended. True: the order was accepted.
    open: IndexMap<String, bool, FxBuildHasher>,
    pub totals: ObservedTotals,
    records: Records,
    key: String,
    /// Prefix of the command ids of this run. Orders of an earlier run may still be executed, but
    /// are no answers to this run.
    ours: String,
}

impl Observer {
    /// Starts at the present end. `run` is the name of the run, and the prefix of its command ids.
    pub(super) fn new(log: &dyn Log, run: &str) -> Result<Observer, LogError> {
        let count = log.partitions(topics::ORDER_EVENTS)?.unwrap_or(0);
        let from: Vec<(u32, StartOffset)> = (0..count).map(|p| (p, StartOffset::End)).collect();
        let readers = vec![log.reader(topics::ORDER_EVENTS, &from, false)?];
        Ok(Observer {
            readers,
            last: IndexMap::default(),
            open: IndexMap::default(),
            totals: ObservedTotals::default(),
            records: Records::new(),
            key: String::new(),
            ours: format!("{run}-"),
        })
    }

    /// Reads the available events. Waits up to `wait` for the first.
    pub(super) fn poll(&mut self, wait: Duration) -> Result<(), LogError> {
        let limits = Limits {
            records: 20_000,
            bytes: 16 << 20,
            age: Duration::from_millis(20),
        };

        let mut records = std::mem::take(&mut self.records);
        records.clear();
        for reader in &mut self.readers {
            reader.poll(wait, limits, &mut records)?;
        }

        let now_ms = wall_ms();
        for r in records.iter() {
            match rmp_serde::from_slice::<ObservedEvent<'_>>(r.value.unwrap_or_default()) {
                Ok(event) => self.see(&event, now_ms),
                Err(e) => self.violation(format!("an event cannot be read: {e}")),
            }
        }

        self.records = records;
        Ok(())
    }

    /// Number of pending orders that have not ended.
    pub(super) fn open_orders(&self) -> usize {
        self.open.len()
    }

    /// Final checks, when the system is at rest: every command has an answer, and every order has
    /// ended.
    pub(super) fn at_rest(&mut self, sent: u64) {
        if self.totals.answered != sent {
            self.violation(format!(
                "{} answers to {sent} commands",
                self.totals.answered
            ));
        }

        if !self.open.is_empty() {
            self.violation(format!("{} orders are still open", self.open.len()));
        }
    }

    fn see(&mut self, e: &ObservedEvent<'_>, now_ms: i64) {
        self.totals.checked += 1;
        self.check_account(e);
        self.key.clear();
        self.key.push_str(e.user_id);
        self.key.push('/');
        self.key.push_str(e.order_id.unwrap_or(""));
        self.check_order(e, now_ms);
    }

    /// Checks the number of the event, and the user's balances.
    fn check_account(&mut self, e: &ObservedEvent<'_>) {
        let now = (e.user_seq, e.cash_available_e4);
        let before = match self.last.get_mut(e.user_id) {
            Some(last) => std::mem::replace(last, now),
            None => {
                self.last.insert(e.user_id.to_string(), now);
                (e.user_seq - 1, e.cash_available_e4)
            }
        };

        if e.user_seq != before.0 + 1 {
            self.violation(format!(
                "user {}: event {} came where {} was due",
                e.user_id,
                e.user_seq,
                before.0 + 1
            ));
        }

        // Only a trade bust may create or increase a debt.
        let owes_more = e.cash_available_e4 < before.1.min(0) && e.event != "TradeBusted";
        if owes_more || e.cash_reserved_e4 < 0 {
            self.violation(format!(
                "user {}: a balance is below zero at event {}",
                e.user_id, e.user_seq
            ));
        }
    }

    /// Counts the event of the order `self.key`, and checks the order's life.
    fn check_order(&mut self, e: &ObservedEvent<'_>, now_ms: i64) {
        let answers = u64::from(e.order_id.is_some_and(|id| id.starts_with(&self.ours)));
        let t = &mut self.totals;
        match e.event {
            "OrderPending" => {
                t.answered += answers;
                if self.open.insert(self.key.clone(), false).is_some() {
                    self.violation(format!("order {} is pending twice", self.key));
                }
            }
            "OrderAccepted" => match self.open.get_mut(self.key.as_str()) {
                Some(accepted) if !*accepted => *accepted = true,
                Some(_) => self.violation(format!("order {} is accepted twice", self.key)),
                None => {}
            },
            "OrderFilled" => {
                t.filled += 1;
                t.fill_ms.saturating_record(
                    (now_ms - e.time_us / 1000)
                        .clamp(1, 3_600_000)
                        .unsigned_abs(),
                );
                self.ended();
            }
            "OrderCancelled" => {
                t.cancelled += 1;
                self.ended();
            }
            "OrderRejected" => {
                *t.rejected
                    .entry(e.reason.unwrap_or("?").to_string())
                    .or_default() += 1;

                // The book rejected the order if it was pending. Otherwise the first hop rejected
                // the order, and this event is the first answer.
                if self.open.swap_remove(self.key.as_str()).is_none() {
                    t.answered += answers;
                }
            }
            "OrderStatus" | "DuplicateRejected" => {
                t.answered += answers;
                t.duplicates += 1;
            }
            _ => {}
        }
    }

    /// Checks that a pending order was accepted before its end. An order that was pending before
    /// the observer started is unknown.
    fn ended(&mut self) {
        if self.open.swap_remove(self.key.as_str()) == Some(false) {
            self.violation(format!("order {} ended without being accepted", self.key));
        }
    }

    fn violation(&mut self, text: String) {
        self.totals.violated += 1;
        if self.totals.violations.len() < 10 {
            self.totals.violations.push(text);
        }
    }
}
