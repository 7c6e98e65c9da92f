//! Wakes tasks at their alarm time, or after a change of a broadcast table, even on an idle system.
//!
//! A wake-up is a record in the role's clock topic. The log stamps the record like any other input,
//! and the result depends only on the stamp. An early, repeated or foreign wake-up therefore does
//! no harm. A lost wake-up is sent again as long as the alarm is due.

use std::collections::{BTreeMap, BTreeSet};

use ports::records::{Headers, Record, Records};
use ports::topics::{TopicId, TopicPartition};
use ports::{Appender, Log, LogError};

/// Value of a wake-up record: an empty map.
const VALUE: &[u8] = b"\x80";
/// A due alarm without a reaction is sent again after this time.
const AGAIN_US: u64 = 500_000;
/// A wake-up unread for this long may be lost, or another instance may have read the record.
const UNREAD_US: u64 = 10_000_000;

/// The alarm clock of one instance. The state outlives incarnations: an instance in a recovery loop
/// would otherwise fill the topic with wake-ups. One unread wake-up is as good as many.
#[derive(Default)]
pub(super) struct Wake {
    appender: Option<Box<dyn Appender>>,
    /// Minimum lead of the log's clock over the local clock. `None` before the first record.
    ahead_us: Option<i128>,
    /// Time of each task's last wake-up for an alarm.
    rang_us: BTreeMap<u32, u64>,
    /// Send time of each task's unread wake-up.
    unread_us: BTreeMap<u32, u64>,
    /// Tasks that get another wake-up if the unread wake-up does not arrive.
    owed: BTreeSet<u32>,
}

impl Wake {
    /// A new incarnation begins.
    pub(super) fn begin(&mut self) {
        // Measure the log's time anew, and drop an appender that may have failed.
        (self.appender, self.ahead_us) = (None, None);
    }

    /// Notes a wake-up that a task has read, with all results committed.
    pub(super) fn read(&mut self, task: u32) {
        self.unread_us.remove(&task);
        self.owed.remove(&task);
    }

    /// Learns the log's time from polled records.
    pub(super) fn saw(&mut self, batch: &Records, now_us: u64) {
        let newest = batch.iter().map(|r| r.timestamp_ms).max();
        let ahead = newest.map(|ms| i128::from(ms) * 1_000 - i128::from(now_us));
        self.ahead_us = self.ahead_us.max(ahead);
    }

    /// Wakes tasks with a due alarm, and tasks with a wake-up unread for too long.
    pub(super) fn ring(
        &mut self,
        log: &dyn Log,
        topic: TopicId,
        alarms: impl Iterator<Item = (u32, Option<i64>)>,
        now_us: u64,
    ) -> Result<(), LogError> {
        let log_us = self.ahead_us.map(|ahead_us| i128::from(now_us) + ahead_us);
        let before = |map: &BTreeMap<u32, u64>, task, wait_us| {
            map.get(&task)
                .is_none_or(|at| now_us.saturating_sub(*at) >= wait_us)
        };

        for (task, alarm_ms) in alarms {
            let due = alarm_ms
                .zip(log_us)
                .is_some_and(|(ms, log_us)| i128::from(ms) * 1_000 <= log_us);
            if due
                && before(&self.rang_us, task, AGAIN_US)
                && before(&self.unread_us, task, AGAIN_US)
            {
                self.rang_us.insert(task, now_us);
                self.send(log, topic, task, now_us)?;
            } else if self.owed.contains(&task) && before(&self.unread_us, task, UNREAD_US) {
                self.send(log, topic, task, now_us)?;
            }
        }

        Ok(())
    }

    /// Wakes one task, unless an unread wake-up exists. The task sees all earlier changes when the
    /// task reads that wake-up.
    pub(super) fn wake(
        &mut self,
        log: &dyn Log,
        topic: TopicId,
        task: u32,
        now_us: u64,
    ) -> Result<(), LogError> {
        if self
            .unread_us
            .get(&task)
            .is_some_and(|sent| now_us.saturating_sub(*sent) < UNREAD_US)
        {
            self.owed.insert(task);
            return Ok(());
        }

        self.send(log, topic, task, now_us)
    }

    fn send(
        &mut self,
        log: &dyn Log,
        topic: TopicId,
        task: u32,
        now_us: u64,
    ) -> Result<(), LogError> {
        let appender = match &mut self.appender {
            Some(appender) => appender,
            none => none.insert(log.appender()?),
        };

        let at = TopicPartition::new(topic, task);
        appender.append(&Record {
            at,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: Some(VALUE),
            headers: Headers::default(),
        })?;

        self.owed.remove(&task);
        self.unread_us.insert(task, now_us);
        Ok(())
    }
}
