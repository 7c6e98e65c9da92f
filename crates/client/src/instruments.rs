//! The listings as a client sees them. The topic `instruments` is read to its end once, and then
//! kept fresh by polling.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::instrument::{Instrument, Listing};
use ports::records::Records;
use ports::{Limits, Log, LogError, Reader, StartOffset};
use wire::instrument;
use wire::topics::INSTRUMENTS;

use super::{ClientError, partitions};

/// Longest time of the first read.
const LOAD_PATIENCE: Duration = Duration::from_secs(60);
/// Age after which a known listing is looked up again. A look-up for every order would cost more
/// than sending the order.
const FRESH: Duration = Duration::from_millis(20);
const LIMITS: Limits = Limits {
    records: 10_000,
    bytes: 8 << 20,
    age: Duration::from_millis(100),
};

/// All listings, by symbol.
pub struct Listings {
    reader: Box<dyn Reader>,
    batch: Records,
    listings: BTreeMap<String, Instrument>,
    polled: Instant,
}

impl Listings {
    /// Reads the topic to its end.
    pub fn load(log: &Arc<dyn Log>) -> Result<Self, LogError> {
        let parts: Vec<_> = (0..partitions(&**log, INSTRUMENTS)?)
            .map(|p| (p, StartOffset::Start))
            .collect();
        let mut all = Listings {
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

    /// Takes in the records since the last poll. `wait` bounds the wait for a record.
    pub fn poll(&mut self, wait: Duration) -> Result<(), LogError> {
        self.batch.clear();
        self.polled = Instant::now();
        self.reader.poll(wait, LIMITS, &mut self.batch)?;
        for r in self.batch.iter() {
            let Some(symbol) = r.key.and_then(|k| std::str::from_utf8(k).ok()) else {
                continue;
            };

            // Decode as the roles do, so that client and roles agree on the listings. A bad record
            // changes nothing.
            match instrument::decode(r.key, r.value) {
                Ok(Some(listing)) => drop(self.listings.insert(symbol.to_string(), listing)),
                Ok(None) => drop(self.listings.remove(symbol)),
                Err(_) => {}
            }
        }

        Ok(())
    }

    /// Checks that a symbol may be ordered; the error has the reason. An unknown symbol gets a
    /// moment to arrive.
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

        let refuse = |why: &str| {
            Err(ClientError::NotTradable {
                symbol: symbol.into(),
                why: why.into(),
            })
        };

        match listing.status {
            _ if listing.test_issue => refuse("it is a test issue"),
            Listing::Delisted => refuse("it is delisted"),
            _ => Ok(()),
        }
    }

    /// Reports whether a symbol has a listing, tradable or not.
    pub fn lists(&self, symbol: &str) -> bool {
        self.listings.contains_key(symbol)
    }

    /// Symbols that may be traded, in order.
    pub fn tradable(&self) -> impl Iterator<Item = &str> {
        self.listings
            .iter()
            .filter(|(_, l)| l.is_open())
            .map(|(s, _)| s.as_str())
    }
}
