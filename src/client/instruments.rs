//! The listings as a client sees them: `instruments` read to its end once, then kept fresh by polling.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{ClientError, partitions};
use crate::engine::ports::{From, Limits, Log, LogError, Reader};
use crate::engine::records::Records;
use crate::wire::topics::INSTRUMENTS;

/// How long the first reading may take.
const LOAD_PATIENCE: Duration = Duration::from_secs(60);
/// A known listing is looked up again after this long; asking for every order would cost more than sending it.
const FRESH: Duration = Duration::from_millis(20);
const LIMITS: Limits = Limits { records: 10_000, bytes: 8 << 20, age: Duration::from_millis(100) };

/// What a client needs to know of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Listing {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    test_issue: bool,
}

/// All listings, by symbol.
pub struct Instruments {
    reader: Box<dyn Reader>,
    batch: Records,
    listings: BTreeMap<String, Listing>,
    polled: Instant,
}

impl Instruments {
    /// Reads the topic to its end.
    pub fn load(log: &Arc<dyn Log>) -> Result<Self, LogError> {
        let parts: Vec<_> = (0..partitions(&**log, INSTRUMENTS)?).map(|p| (p, From::Start)).collect();
        let mut all = Instruments {
            reader: log.reader(INSTRUMENTS, &parts, false)?,
            batch: Records::new(),
            listings: BTreeMap::new(),
            polled: Instant::now(),
        };
        let began = Instant::now();
        while !all.reader.caught_up() {
            all.poll(Duration::from_millis(200))?;
            if began.elapsed() > LOAD_PATIENCE {
                return Err(LogError::Unavailable(
                    "the instruments topic could not be read to its end within a minute; are the brokers well?".into(),
                ));
            }
        }
        Ok(all)
    }

    /// Folds in what arrived since; `wait` bounds how long to wait for something.
    pub fn poll(&mut self, wait: Duration) -> Result<(), LogError> {
        self.batch.clear();
        self.polled = Instant::now();
        self.reader.poll(wait, LIMITS, &mut self.batch)?;
        for r in self.batch.iter() {
            let Some(symbol) = r.key.and_then(|k| std::str::from_utf8(k).ok()) else { continue };
            match r.value.filter(|v| !v.is_empty()) {
                None => {
                    self.listings.remove(symbol);
                }
                Some(value) => {
                    let listing = match value.first() {
                        Some(b'{') => serde_json::from_slice(value).ok(),
                        _ => rmp_serde::from_slice(value).ok(),
                    };
                    // A record that cannot be read changes nothing, as for the roles.
                    if let Some(listing) = listing {
                        self.listings.insert(symbol.to_string(), listing);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a symbol may be ordered; the error says why not. An unknown one gets a moment to arrive.
    pub fn check(&mut self, symbol: &str) -> Result<(), ClientError> {
        if self.polled.elapsed() > FRESH {
            self.poll(Duration::ZERO)?;
        }
        if !self.listings.contains_key(symbol) {
            self.poll(Duration::from_millis(100))?;
        }
        let Some(listing) = self.listings.get(symbol) else {
            return Err(ClientError::UnknownSymbol(symbol.into()));
        };
        let refuse = |why: &str| Err(ClientError::NotTradable { symbol: symbol.into(), why: why.into() });
        match listing.status.as_deref() {
            _ if listing.test_issue => refuse("it is a test issue"),
            Some("delisted") => refuse("it is delisted"),
            _ => Ok(()),
        }
    }

    /// Symbols that may be traded, in order.
    pub fn tradable(&self) -> impl Iterator<Item = &str> {
        let may = |l: &Listing| !l.test_issue && l.status.as_deref().is_none_or(|s| s == "listed");
        self.listings.iter().filter(move |(_, l)| may(l)).map(|(s, _)| s.as_str())
    }
}
