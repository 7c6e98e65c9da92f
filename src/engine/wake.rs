//! Wakes tasks that wait for a moment, or for a change of a broadcast table, on a system where nothing else happens.
//!
//! A wake-up is a record in the role's clock topic, stamped by the log like any other input, and what it leads to depends on nothing but that stamp. So it
//! does no harm if one comes early, twice, or from somebody else; one that gets lost is sent again as long as it is due.

use std::collections::BTreeMap;

use super::ports::{Appender, Log, LogError};
use super::records::{Headers, Record, Records};
use super::topics::{TopicId, TopicPartition};

/// What a wake-up says: nothing, an empty map.
const VALUE: &[u8] = b"\x80";
/// A due alarm that nobody reacted to is sent again after this long.
const AGAIN_US: u64 = 500_000;

/// One instance's alarm clock.
#[derive(Default)]
pub(super) struct Wake {
    appender: Option<Box<dyn Appender>>,
    /// How far the log's clock is known to be ahead of ours, at least. None until a record was seen.
    ahead_us: Option<i128>,
    /// When each task was last woken for its alarm.
    rang_us: BTreeMap<u32, u64>,
}

impl Wake {
    /// Learns the log's time from records that were just read.
    pub(super) fn saw(&mut self, batch: &Records, now_us: u64) {
        let newest = batch.iter().map(|r| r.timestamp_ms).max();
        let ahead = newest.map(|ms| i128::from(ms) * 1_000 - i128::from(now_us));
        self.ahead_us = self.ahead_us.max(ahead);
    }

    /// Wakes the tasks whose alarm is due.
    pub(super) fn ring(
        &mut self,
        log: &dyn Log,
        topic: TopicId,
        alarms: impl Iterator<Item = (u32, Option<i64>)>,
        now_us: u64,
    ) -> Result<(), LogError> {
        let Some(ahead_us) = self.ahead_us else { return Ok(()) };
        let log_us = i128::from(now_us) + ahead_us;
        for (task, alarm_ms) in alarms {
            let due = alarm_ms.is_some_and(|ms| i128::from(ms) * 1_000 <= log_us);
            if due && self.rang_us.get(&task).is_none_or(|rang| now_us.saturating_sub(*rang) >= AGAIN_US) {
                self.rang_us.insert(task, now_us);
                self.wake(log, topic, task)?;
            }
        }
        Ok(())
    }

    /// Wakes one task now.
    pub(super) fn wake(&mut self, log: &dyn Log, topic: TopicId, task: u32) -> Result<(), LogError> {
        let appender = match &mut self.appender {
            Some(appender) => appender,
            none => none.insert(log.appender()?),
        };
        let at = TopicPartition::new(topic, task);
        appender.append(&Record { at, offset: 0, timestamp_ms: 0, key: None, value: Some(VALUE), headers: Headers::default() })
    }
}
