//! Where every user's latest portfolio is. Only the place is kept; the record is read when somebody asks.

use std::sync::Mutex;
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde_json::Value;

use super::view;
use crate::engine::ports::{From, Limits, Log, LogError};
use crate::engine::records::{Record, Records};
use crate::engine::topics::TopicPartition;
use crate::wire::topics::PORTFOLIOS;

const LIMITS: Limits = Limits { records: 500, bytes: 1 << 20, age: Duration::from_millis(20) };
const POLLS: u32 = 50;

/// See the module.
#[derive(Default)]
pub struct Portfolios(Mutex<FxHashMap<Box<str>, (u32, u64)>>);

impl Portfolios {
    /// Takes records of the topic in.
    pub fn take<'a>(&self, records: impl Iterator<Item = Record<'a>>) {
        let mut places = self.0.lock().expect("plain data");
        for r in records {
            let Some(user) = r.key.and_then(|k| std::str::from_utf8(k).ok()) else { continue };
            match r.value {
                Some(_) => drop(places.insert(user.into(), (r.at.partition, r.offset))),
                None => drop(places.remove(user)),
            }
        }
    }

    /// A user's latest portfolio as JSON; none if there is none. Blocks.
    pub fn read(&self, log: &dyn Log, user: &str) -> Result<Option<Value>, LogError> {
        let Some((partition, offset)) = self.0.lock().expect("plain data").get(user).copied() else { return Ok(None) };
        let at = TopicPartition::new(PORTFOLIOS, partition);
        let offset = offset.max(log.bounds(at)?.start);
        let mut reader = log.reader(PORTFOLIOS, &[(partition, From::Offset(offset))], false)?;
        let mut batch = Records::new();
        for _ in 0..POLLS {
            batch.clear();
            reader.poll(Duration::from_millis(100), LIMITS, &mut batch)?;
            // If compaction has taken the record that we know of, then because there is a newer one behind it.
            let found = batch.iter().filter(|r| r.key == Some(user.as_bytes())).find_map(|r| r.value.map(rmp_serde::from_slice::<Value>));
            if let Some(found) = found {
                return found.map(|v| Some(view::plain(v))).map_err(|e| LogError::Corrupt(format!("the portfolio of {user}: {e}")));
            }
            if reader.caught_up() {
                return Ok(None);
            }
        }
        Err(LogError::Unavailable("the log did not answer while a portfolio was read".into()))
    }
}
