//! The latest portfolio of every user. For a small portfolio the index has only the place of the
//! record, and reads the record on request. A large portfolio has many records, of which a few
//! change at a time. The index keeps a large portfolio in memory: one record says little, and
//! reading all records for each request would take long.

use std::sync::Mutex;
use std::time::Duration;

use ports::records::{Record, Records};
use ports::topics::TopicPartition;
use ports::{Limits, Log, LogError, StartOffset};
use rustc_hash::FxHashMap;
use wire::portfolio::{PortfolioFold, PortfolioRecord, read_key};
use wire::topics::PORTFOLIOS;

const LIMITS: Limits = Limits {
    records: 500,
    bytes: 1 << 20,
    age: Duration::from_millis(20),
};
const POLLS: u32 = 50;

/// Place or content of a user's portfolio.
#[derive(Default)]
struct PortfolioPlace {
    /// Partition and offset of the user's last record; `None` if there is no record.
    place: Option<(u32, u64)>,
    /// The whole portfolio, if its positions are in separate records.
    fold: Option<Box<PortfolioFold>>,
}

/// Latest portfolios by user.
#[derive(Default)]
pub(crate) struct PortfolioIndex(Mutex<FxHashMap<Box<str>, PortfolioPlace>>);

impl PortfolioIndex {
    /// Takes in records of the topic `portfolios`.
    pub(crate) fn take<'a>(&self, records: impl Iterator<Item = Record<'a>>) {
        let mut all = self.0.lock().expect("plain data");
        for r in records {
            let Some((user, symbol)) = r.key.and_then(read_key) else {
                continue;
            };

            if !all.contains_key(user) {
                all.insert(user.into(), PortfolioPlace::default());
            }

            let kept = all.get_mut(user).expect("just put there");
            if symbol.is_some() {
                kept.fold.get_or_insert_default();
            } else {
                kept.place = r.value.map(|_| (r.at.partition, r.offset));
            }

            if let Some(fold) = &mut kept.fold {
                // Ignore a record that cannot be decoded, because the record is not ours. The next
                // request reports missing positions.
                let _ = fold.take(symbol, r.value);
                kept.fold
                    .take_if(|fold| symbol.is_none() && fold.is_whole());
            }

            if kept.place.is_none() && kept.fold.is_none() {
                all.remove(user);
            }
        }
    }

    /// A user's latest portfolio; `None` if the user has none. Blocks.
    pub(crate) fn read(
        &self,
        log: &dyn Log,
        user: &str,
    ) -> Result<Option<PortfolioRecord>, LogError> {
        let (place, fold) = match self.0.lock().expect("plain data").get(user) {
            Some(kept) => (kept.place, kept.fold.as_ref().map(|fold| fold.portfolio())),
            None => return Ok(None),
        };

        let moving = |why: &str| {
            LogError::Unavailable(format!(
                "the portfolio of {user} is being read: {why}; ask again"
            ))
        };

        match fold {
            Some(Err(e)) => return Err(moving(&e.to_string())),
            Some(Ok(Some(portfolio))) => return Ok(Some(portfolio)),
            // Positions have just begun to move to separate records. The old record is still valid.
            Some(Ok(None)) | None => {}
        }

        let Some((partition, offset)) = place else {
            return Ok(None);
        };

        let at = TopicPartition::new(PORTFOLIOS, partition);
        let offset = offset.max(log.bounds(at)?.start);
        let mut reader = log.reader(
            PORTFOLIOS,
            &[(partition, StartOffset::Offset(offset))],
            false,
        )?;
        let mut batch = Records::new();
        for _ in 0..POLLS {
            batch.clear();
            reader.poll(Duration::from_millis(100), LIMITS, &mut batch)?;

            // If compaction has removed the known record, a newer record of the user follows.
            let found = batch
                .iter()
                .filter(|r| r.key == Some(user.as_bytes()))
                .find_map(|r| r.value.map(PortfolioRecord::decode));
            match found {
                Some(Ok(found)) if found.positions_apart > 0 => {
                    return Err(moving("its positions are in records of their own by now"));
                }
                Some(Ok(found)) => return Ok(Some(found)),
                Some(Err(e)) => {
                    return Err(LogError::Corrupt(format!("the portfolio of {user}: {e}")));
                }
                None if reader.caught_up() => return Ok(None),
                None => {}
            }
        }

        Err(LogError::Unavailable(
            "the log did not answer while a portfolio was read".into(),
        ))
    }
}
