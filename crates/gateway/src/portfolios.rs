//! Every user's latest portfolio. Of a small one only the place is kept, and the record is read
//! when somebody asks. A large one lies in many records, a few of which change at a time, so it is
//! kept whole: a record of it alone says little, and to read all of them for each question would
//! take long.

use std::sync::Mutex;
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use super::json;
use ports::records::{Record, Records};
use ports::topics::TopicPartition;
use ports::{From, Limits, Log, LogError};
use wire::portfolio::{PortfolioFold, PortfolioRecord, read_key};
use wire::topics::PORTFOLIOS;

const LIMITS: Limits = Limits {
    records: 500,
    bytes: 1 << 20,
    age: Duration::from_millis(20),
};
const POLLS: u32 = 50;
/// The field that tells a user's record from a whole portfolio.
const APART: &str = "positions_apart";

/// Where a user's portfolio is.
#[derive(Default)]
struct PortfolioPlace {
    /// Partition and offset of the user's last record, once there was one.
    place: Option<(u32, u64)>,
    /// Everything, if positions are in records of their own.
    fold: Option<Box<PortfolioFold>>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct PortfolioIndex(Mutex<FxHashMap<Box<str>, PortfolioPlace>>);

impl PortfolioIndex {
    /// Takes records of the topic in.
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
                // A record that cannot be read is not ours; what is missing shows when somebody
                // asks.
                let _ = fold.take(symbol, r.value);
                kept.fold
                    .take_if(|fold| symbol.is_none() && fold.is_whole());
            }

            if kept.place.is_none() && kept.fold.is_none() {
                all.remove(user);
            }
        }
    }

    /// A user's latest portfolio as JSON; none if there is none. Blocks.
    pub(crate) fn read(&self, log: &dyn Log, user: &str) -> Result<Option<Value>, LogError> {
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
            Some(Ok(Some(portfolio))) => return Ok(Some(json::plain(tree(&portfolio)))),
            // It has just begun to go apart: the record from before is the portfolio.
            Some(Ok(None)) | None => {}
        }

        let Some((partition, offset)) = place else {
            return Ok(None);
        };

        let at = TopicPartition::new(PORTFOLIOS, partition);
        let offset = offset.max(log.bounds(at)?.start);
        let mut reader = log.reader(PORTFOLIOS, &[(partition, From::Offset(offset))], false)?;
        let mut batch = Records::new();
        for _ in 0..POLLS {
            batch.clear();
            reader.poll(Duration::from_millis(100), LIMITS, &mut batch)?;

            // If compaction has taken the record that we know of, then because there is a newer one
            // behind it.
            let found = batch
                .iter()
                .filter(|r| r.key == Some(user.as_bytes()))
                .find_map(|r| r.value.map(rmp_serde::from_slice::<Value>));
            match found {
                Some(Ok(found)) if found.get(APART).is_some() => {
                    return Err(moving("its positions are in records of their own by now"));
                }
                Some(Ok(found)) => return Ok(Some(json::plain(found))),
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

/// As the record of a small portfolio would show it.
fn tree(p: &PortfolioRecord) -> Value {
    let position = |h: &domain::portfolio::Holding| json!({"quantity": h.quantity, "reserved": h.reserved, "cost_basis_e4": h.cost_basis_e4});
    json!({
        "user_id": p.user_id,
        "user_seq": p.user_seq,
        "cash_available_e4": p.cash_available_e4,
        "cash_reserved_e4": p.cash_reserved_e4,
        "realised_e4": p.realised_e4,
        "fees_e4": p.fees_e4,
        "positions": p.positions.iter().map(|(symbol, h)| (symbol.clone(), position(h))).collect::<Map<_, _>>(),
    })
}
