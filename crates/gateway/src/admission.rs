//! Limits at the door: requests per address and per token, and connections of an address that have
//! not sent a request yet. Everything is counted in memory with a bound.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use domain::rate_limit::{Limit, UserBucket};
use rustc_hash::FxHashMap;

use crate::access::Caller;
use crate::settings::GatewaySettings;

/// Maximum number of buckets of one kind. Beyond it, all new callers share one bucket.
const BUCKETS_MAX: usize = 65_536;
/// Minimum time between two clean-ups of a full table, in microseconds.
const CLEAN_EVERY_US: i64 = 1_000_000;
/// Bits of an IPv6 address that name a site (RFC 6177).
const IPV6_SITE: u128 = !0 << 64;

/// The limits of a gateway.
pub(crate) struct RequestLimits {
    started: Instant,
    addresses: Buckets<IpAddr>,
    tokens: Buckets<(Caller, Box<str>)>,
}

impl RequestLimits {
    pub(crate) fn new(settings: &GatewaySettings) -> RequestLimits {
        // A burst of two seconds.
        let limit = |rate: u32| Limit::new(rate, rate.saturating_mul(2));
        RequestLimits {
            started: Instant::now(),
            addresses: Buckets::new(limit(settings.address_rate), BUCKETS_MAX),
            tokens: Buckets::new(limit(settings.token_rate), BUCKETS_MAX),
        }
    }

    fn now_us(&self) -> i64 {
        // A bucket that was never used stands at 0, so the clock begins above any burst.
        let passed = i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX);
        passed.saturating_add(1 << 40)
    }

    /// Counts a request of an address. An error has the milliseconds until the next one is allowed.
    pub(crate) fn take_address(&self, address: IpAddr) -> Result<(), i64> {
        self.addresses.take(site(address), self.now_us())
    }

    /// Counts a request with a token about a user. A token that opens several users has a limit for
    /// each.
    pub(crate) fn take_token(&self, caller: Caller, user: &str) -> Result<(), i64> {
        self.tokens.take((caller, user.into()), self.now_us())
    }
}

/// The part of an address that counts: all of an IPv4 address, the network of an IPv6 address.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & IPV6_SITE).into(),
        v4 => v4,
    }
}

/// One bucket for each caller.
struct Buckets<K> {
    /// `None`: no limit.
    limit: Option<Limit>,
    most: usize,
    table: Mutex<BucketTable<K>>,
}

struct BucketTable<K> {
    clocks: FxHashMap<K, UserBucket>,
    /// The bucket of callers without a place in the table.
    shared: UserBucket,
    cleaned_us: i64,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(limit: Option<Limit>, most: usize) -> Buckets<K> {
        Buckets {
            limit,
            most,
            table: Mutex::new(BucketTable {
                clocks: FxHashMap::default(),
                shared: UserBucket::default(),
                cleaned_us: 0,
            }),
        }
    }

    fn take(&self, key: K, now_us: i64) -> Result<(), i64> {
        let Some(limit) = &self.limit else {
            return Ok(());
        };

        let mut table = self.table.lock().expect("plain data");
        if !table.clocks.contains_key(&key) && table.clocks.len() >= self.most {
            table.clean(now_us);
            if table.clocks.len() >= self.most {
                table.shared = limit.take(table.shared, now_us)?;
                return Ok(());
            }
        }

        let clock = table.clocks.entry(key).or_default();
        *clock = limit.take(*clock, now_us)?;
        Ok(())
    }
}

impl<K: Eq + Hash> BucketTable<K> {
    /// Removes the buckets that are full again, since they say nothing. Looks at all buckets, so at
    /// most once a second.
    fn clean(&mut self, now_us: i64) {
        if now_us.saturating_sub(self.cleaned_us) >= CLEAN_EVERY_US {
            self.cleaned_us = now_us;
            self.clocks.retain(|_, clock| clock.tat_us > now_us);
        }
    }
}

/// Connections that have not sent a request yet, by address.
pub(crate) struct HalfOpenPeers {
    most: usize,
    peers: Mutex<FxHashMap<IpAddr, usize>>,
}

/// The place of one connection without a request.
pub(crate) struct HalfOpenPlace {
    all: Arc<HalfOpenPeers>,
    site: IpAddr,
}

impl HalfOpenPeers {
    /// At most `most` such connections of one address.
    pub(crate) fn new(most: usize) -> Arc<HalfOpenPeers> {
        Arc::new(HalfOpenPeers {
            most,
            peers: Mutex::default(),
        })
    }

    /// Takes a place. `None` if the address has no place left.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<HalfOpenPlace> {
        let site = site(address);
        let mut peers = self.peers.lock().expect("plain data");
        let count = peers.entry(site).or_default();
        if *count >= self.most {
            return None;
        }

        *count += 1;
        Some(HalfOpenPlace {
            all: self.clone(),
            site,
        })
    }
}

impl Drop for HalfOpenPlace {
    fn drop(&mut self) {
        let mut peers = self.all.peers.lock().expect("plain data");
        if let Some(count) = peers.get_mut(&self.site) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.site);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: i64 = 1 << 40;

    #[test]
    fn each_caller_has_a_bucket_and_the_table_has_a_bound() {
        let buckets = Buckets::new(Limit::new(10, 2), 2);
        for caller in ["a", "b"] {
            assert_eq!(buckets.take(caller, LATER), Ok(()));
            assert_eq!(buckets.take(caller, LATER), Ok(()));
            assert_eq!(buckets.take(caller, LATER), Err(100));
        }

        // No place is left, so `c` and `d` share a bucket.
        assert_eq!(buckets.take("c", LATER), Ok(()));
        assert_eq!(buckets.take("d", LATER), Ok(()));
        assert_eq!(buckets.take("c", LATER), Err(100));
        assert_eq!(buckets.table.lock().expect("plain").clocks.len(), 2);

        // Two seconds later the first buckets are full again and make room.
        let then = LATER + 2 * CLEAN_EVERY_US;
        assert_eq!(buckets.take("c", then), Ok(()));
        assert_eq!(buckets.table.lock().expect("plain").clocks.len(), 1);
    }

    #[test]
    fn rate_of_zero_is_no_limit() {
        let buckets = Buckets::new(Limit::new(0, 0), 1);
        for _ in 0..1000 {
            assert_eq!(buckets.take("a", LATER), Ok(()));
        }

        assert!(buckets.table.lock().expect("plain").clocks.is_empty());
    }

    #[test]
    fn addresses_of_one_network_are_one_peer() {
        let of = |text: &str| site(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn places_come_back_and_nobody_is_remembered() {
        let peers = HalfOpenPeers::new(2);
        let address = "192.0.2.1".parse().expect("an address");
        let other = "192.0.2.2".parse().expect("an address");
        let first = peers.enter(address);
        let second = peers.enter(address);
        assert!(first.is_some() && second.is_some());
        assert!(peers.enter(address).is_none() && peers.enter(other).is_some());
        drop(first);
        let third = peers.enter(address);
        assert!(third.is_some());
        drop((second, third));
        assert!(peers.peers.lock().expect("plain").is_empty());
    }
}
