//! Wakes tasks that wait for a moment, or for a change of a broadcast table, on a system where
//! nothing else happens.
//!
//! A wake-up is a record in the role's clock topic, stamped by the log like any other input, and
//! what it leads to depends on nothing but that stamp. So it does no harm if one comes early,
//! twice, or from somebody else; one that gets lost is sent again as long as it is due.

use std::collections::{BTreeMap, BTreeSet};

use ports::records::{Headers, Record, Records};
use ports::topics::{TopicId, TopicPartition};
use ports::{Appender, Log, LogError};

/// The value of a wake-up: an empty map.
const VALUE: &[u8] = b"\x80";
/// A due alarm that nobody reacted to is sent again after this long.
const AGAIN_US: u64 = 500_000;
/// A wake-up that was not read for this long may have been read by another instance, or may be
/// lost.
const UNREAD_US: u64 = 10_000_000;

/// One instance's alarm clock. It outlives the instance's incarnations: one that begins anew again
/// and again would fill the topic with wake-ups, of which one unread is as good as many.
#[derive(Default)]
pub(super) struct Wake {
    appender: Option<Box<dyn Appender>>,
    /// How far the log's clock is known to be ahead of ours, at least. None until a record was
    /// seen.
    ahead_us: Option<i128>,
    /// When each task was last woken for its alarm.
    rang_us: BTreeMap<u32, u64>,
    /// When the wake-up was sent that each task has not read yet.
    unread_us: BTreeMap<u32, u64>,
    /// Tasks that are to be woken again if what they have not read yet does not come.
    owed: BTreeSet<u32>,
}

impl Wake {
    /// A new incarnation begins.
    pub(super) fn begin(&mut self) {
        // The log's time is learned anew, and a writer that failed is not kept.
        (self.appender, self.ahead_us) = (None, None);
    }

    /// A task has read a wake-up, and what follows from it is committed.
    pub(super) fn read(&mut self, task: u32) {
        self.unread_us.remove(&task);
        self.owed.remove(&task);
    }

    /// Learns the log's time from records that were just read.
    pub(super) fn saw(&mut self, batch: &Records, now_us: u64) {
        let newest = batch.iter().map(|r| r.timestamp_ms).max();
        let ahead = newest.map(|ms| i128::from(ms) * 1_000 - i128::from(now_us));
        self.ahead_us = self.ahead_us.max(ahead);
    }

    /// Wakes the tasks whose alarm is due, and those whose wake-up does not come.
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

    /// Wakes one task, unless a wake-up is on its way to it already: whatever happened until it is
    /// read, the task sees then.
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
