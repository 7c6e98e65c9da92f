//! S5, cold start: `orders` knows prices that `trading` has not handled yet, from the first command
//! on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use engine::broadcast::Tables;
use engine::checkpoint::{Checkpoint, META_KEY};
use log_local::LocalLog;
use os::clock::SystemClock;
use ports::records::{Record, Records};
use ports::topics::{TopicId, TopicPartition, TopicSpec};
use ports::{
    Appender, Bounds, Committed, Limits, Log, LogError, Member, MemberSpec, Reader, StartOffset,
    TopicState,
};
use roles::{Role, RoleSettings, factory};
use wire::topics;
use wire::trade::ReferencePrice;

/// `market-data` with one partition, the progress of `trading`, and the published prices, undecided
/// for the first few looks.
struct Ticks {
    values: Vec<&'static str>,
    done: Option<u64>,
    /// Start offset of the partition at each request; the last answer stays.
    starts: std::sync::Mutex<Vec<u64>>,
    told: Vec<Vec<u8>>,
    undecided: AtomicU32,
}

struct Cursor {
    topic: TopicId,
    at: usize,
    values: Vec<Vec<u8>>,
}

const TIME_MS: i64 = 1_000_000;

impl Reader for Cursor {
    fn poll(
        &mut self,
        _wait: Duration,
        _limits: Limits,
        into: &mut Records,
    ) -> Result<(), LogError> {
        // Two at a time, so that several polls are needed.
        for _ in 0..2 {
            let Some(value) = self.values.get(self.at) else {
                break;
            };

            into.push(&Record {
                at: TopicPartition::new(self.topic, 0),
                offset: self.at as u64,
                timestamp_ms: TIME_MS + self.at as i64,
                key: Some(if value.windows(4).any(|w| w == b"MSFT") {
                    b"MSFT"
                } else {
                    b"AAPL"
                }),
                value: Some(value),
                headers: Default::default(),
            });

            self.at += 1;
        }

        Ok(())
    }

    fn caught_up(&self) -> bool {
        self.at >= self.values.len()
    }
}

impl Log for Ticks {
    fn partitions(&self, _topic: TopicId) -> Result<Option<u32>, LogError> {
        Ok(Some(1))
    }
    fn reader(
        &self,
        topic: TopicId,
        from: &[(u32, StartOffset)],
        _headers: bool,
    ) -> Result<Box<dyn Reader>, LogError> {
        let all: Vec<_> = match topic {
            topics::REFERENCE_PRICES => self.told.clone(),
            _ => self.values.iter().map(|v| v.as_bytes().to_vec()).collect(),
        };

        let at = match from {
            [(0, StartOffset::Offset(at))]
                if topic == topics::MARKET_DATA
                    && *at < *self.starts.lock().unwrap().last().unwrap() =>
            {
                return Err(LogError::Invalid(format!("{at} is not there")));
            }
            [(0, StartOffset::Offset(at))] => *at as usize,
            [(0, StartOffset::End)] => all.len(),
            other => panic!("one partition, from an offset: {other:?}"),
        };

        Ok(Box::new(Cursor {
            topic,
            at,
            values: all,
        }))
    }
    fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError> {
        if at.topic == topics::TRADING_CHANGELOG {
            return Ok(Bounds {
                start: 0,
                stable_end: 0,
                end: 0,
            });
        }

        if at.topic != topics::REFERENCE_PRICES {
            let mut starts = self.starts.lock().unwrap();
            let start = if starts.len() > 1 {
                starts.remove(0)
            } else {
                starts[0]
            };

            return Ok(Bounds {
                start,
                stable_end: self.values.len() as u64,
                end: self.values.len() as u64,
            });
        }

        let wait = self
            .undecided
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok();
        let end = self.told.len() as u64;
        Ok(Bounds {
            start: 0,
            stable_end: if wait { 0 } else { end },
            end,
        })
    }
    fn group_offsets(
        &self,
        group: &str,
        _partitions: &[TopicPartition],
    ) -> Result<Vec<Option<u64>>, LogError> {
        assert_eq!(group, "t-processor-trading");
        Ok(vec![self.done])
    }
    fn committed(
        &self,
        _group: &str,
        _partitions: &[TopicPartition],
    ) -> Result<Committed, LogError> {
        unreachable!()
    }
    fn cluster_id(&self) -> Result<String, LogError> {
        unreachable!()
    }
    fn join(&self, _spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
        unreachable!()
    }
    fn appender(&self) -> Result<Box<dyn Appender>, LogError> {
        unreachable!()
    }
    fn offset_at(&self, _at: TopicPartition, _time_ms: i64) -> Result<u64, LogError> {
        unreachable!()
    }
    fn create_topic(
        &self,
        _topic: TopicId,
        _spec: &TopicSpec,
        _partitions: u32,
    ) -> Result<(), LogError> {
        unreachable!()
    }
    fn describe_topic(
        &self,
        _topic: TopicId,
        _spec: &TopicSpec,
    ) -> Result<Option<TopicState>, LogError> {
        unreachable!()
    }
}

fn price(price_e4: i64, time_ms: i64) -> Vec<u8> {
    let mut value = Vec::new();
    ReferencePrice {
        symbol: "AAPL",
        price_e4,
        time_us: time_ms * 1_000,
    }
    .encode(&mut value);
    value
}

fn seeded(values: &[&'static str], done: Option<u64>, told: Option<(i64, i64)>) -> Vec<(i64, i64)> {
    seeded_late(values, done, told, Vec::new())
}

/// `late`: prices that were published after the table was read.
fn seeded_late(
    values: &[&'static str],
    done: Option<u64>,
    told: Option<(i64, i64)>,
    late: Vec<Vec<u8>>,
) -> Vec<(i64, i64)> {
    let mut tables = Tables::default();
    tables.set(topics::INSTRUMENTS, b"AAPL", 1, br#"{"symbol":"AAPL"}"#);
    if let Some((price_e4, time_ms)) = told {
        tables.set(
            topics::REFERENCE_PRICES,
            b"AAPL",
            1,
            &price(price_e4, time_ms),
        );
    }

    let orders = factory(
        Role::Orders,
        RoleSettings::default(),
        Arc::new(topics::table("t-")),
        1,
    );

    // The record of the loaded row comes first.
    let told = told.iter().map(|t| price(t.0, t.1)).chain(late).collect();
    let log = Ticks {
        values: values.to_vec(),
        done,
        told,
        undecided: AtomicU32::new(4),
        starts: vec![1].into(),
    };

    assert!(
        orders
            .seed_broadcast(topics::INSTRUMENTS, &log, &SystemClock::new(), &tables)
            .expect("nothing")
            .is_empty()
    );
    let rows = orders
        .seed_broadcast(topics::REFERENCE_PRICES, &log, &SystemClock::new(), &tables)
        .expect("rows");
    rows.iter()
        .map(|r| {
            assert_eq!(
                (r.at.topic, r.key),
                (topics::REFERENCE_PRICES, Some(&b"AAPL"[..]))
            );
            let p = ReferencePrice::decode(r.value.expect("a value")).expect("a reference price");
            (p.price_e4, p.time_us / 1_000)
        })
        .collect()
}

#[test]
fn s5_cold_start() {
    let ticks = [
        r#"{"symbol":"AAPL","price":1}"#,
        r#"{"symbol":"AAPL","price":2,"timestamp":900}"#,
        r#"{"symbol":"AAPL","price":9,"timestamp":899}"#,
        r#"{"symbol":"AAPL","price":0}"#,
        r#"{"symbol":"AAPL","price":8,"timestamp":99999999999999}"#,
        r#"{"symbol":"MSFT","price":7}"#,
        "rubbish",
    ];

    assert_eq!(
        seeded(&ticks, None, None),
        [(20_000, TIME_MS + 1)],
        "late, bad, future and unlisted ticks do not count"
    );
    assert_eq!(
        seeded(&ticks, Some(2), None),
        [(90_000, TIME_MS + 2)],
        "from where trading has come to"
    );
    assert_eq!(seeded(&ticks, Some(7), None), [], "trading has seen all");
    assert_eq!(
        seeded(&ticks, None, Some((5, TIME_MS + 2))),
        [],
        "what was told is newer"
    );
    assert_eq!(
        seeded(&ticks, None, Some((5, TIME_MS))),
        [(20_000, TIME_MS + 1)]
    );
}

#[test]
fn ticks_deleted_while_they_are_read_are_asked_for_again() {
    let orders = factory(
        Role::Orders,
        RoleSettings::default(),
        Arc::new(topics::table("t-")),
        1,
    );
    let log = Ticks {
        values: vec!["rubbish"; 9],
        done: Some(2),
        told: vec![],
        undecided: AtomicU32::new(0),
        starts: vec![1, 3].into(),
    };

    // The start offset is reported as 1, and is 3 when the reader is created.
    match orders.seed_broadcast(
        topics::REFERENCE_PRICES,
        &log,
        &SystemClock::new(),
        &Tables::default(),
    ) {
        Err(LogError::Unavailable(why)) => assert!(why.contains("deleted"), "{why}"),
        other => panic!(
            "recover, and do not stop: {:?}",
            other.map(|rows| rows.len())
        ),
    }

    // Now the start offset is right from the beginning.
    assert!(
        orders
            .seed_broadcast(
                topics::REFERENCE_PRICES,
                &log,
                &SystemClock::new(),
                &Tables::default()
            )
            .expect("rows")
            .is_empty()
    );
}

/// Regression: committed offsets of `trading` were visible before the prices of the same
/// transaction. The ticks counted as handled without their prices. Orders were then refused for
/// lack of a price that was in the log.
#[test]
fn prices_of_an_unfinished_transaction_are_waited_for() {
    let ticks = [
        r#"{"symbol":"AAPL","price":1}"#,
        r#"{"symbol":"AAPL","price":2}"#,
    ];
    let late = || vec![price(20_000, TIME_MS + 1)];
    assert_eq!(
        seeded_late(&ticks, Some(2), None, late()),
        [(20_000, TIME_MS + 1)]
    );
    assert_eq!(
        seeded_late(&ticks, Some(2), Some((10_000, TIME_MS)), late()),
        [(20_000, TIME_MS + 1)],
        "it is newer than the table's"
    );
    assert_eq!(
        seeded_late(&ticks, None, None, vec![price(5, TIME_MS)]),
        [(20_000, TIME_MS + 1)],
        "the last tick is newer than what was told"
    );
}

/// Brokers forget the offsets of a group that was away for a week. All old ticks would then be read
/// again.
#[test]
fn handled_ticks_are_not_read_again_if_offsets_are_forgotten() {
    let table = topics::table("t-");
    let at = |topic| TopicPartition::new(topic, 0);
    let seeded = |last: Option<&[u8]>| {
        let log = LocalLog::in_memory(&table);
        table
            .iter()
            .for_each(|t| log.create_topic(t, table.spec(t), 1).expect("a topic"));
        let mut appender = log.appender().expect("a writer");
        let mut append = |topic, key: &[u8], value: &[u8]| {
            let record = Record {
                at: at(topic),
                offset: 0,
                timestamp_ms: TIME_MS,
                key: Some(key),
                value: Some(value),
                headers: Default::default(),
            };

            appender.append(&record).expect("appended");
        };

        append(
            topics::MARKET_DATA,
            b"AAPL",
            br#"{"symbol":"AAPL","price":1}"#,
        );
        append(
            topics::MARKET_DATA,
            b"AAPL",
            br#"{"symbol":"AAPL","price":2}"#,
        );
        last.into_iter()
            .for_each(|meta| append(topics::TRADING_CHANGELOG, META_KEY, meta));
        appender.flush(Duration::from_secs(5)).expect("written");
        let mut tables = Tables::default();
        tables.set(topics::INSTRUMENTS, b"AAPL", 1, br#"{"symbol":"AAPL"}"#);
        let orders = factory(
            Role::Orders,
            RoleSettings::default(),
            Arc::new(topics::table("t-")),
            1,
        );
        let rows = orders
            .seed_broadcast(topics::REFERENCE_PRICES, &log, &SystemClock::new(), &tables)
            .expect("rows");
        rows.iter()
            .map(|r| {
                ReferencePrice::decode(r.value.expect("a value"))
                    .expect("a price")
                    .price_e4
            })
            .collect::<Vec<_>>()
    };

    let meta = |next| {
        Checkpoint {
            transaction: 1,
            offsets: vec![(at(topics::MARKET_DATA), next)],
            ..Checkpoint::default()
        }
        .encode()
    };

    assert_eq!(seeded(Some(&meta(2))), [0_i64; 0], "trading has seen all");
    assert_eq!(seeded(Some(&meta(1))), [20_000]);
    assert_eq!(seeded(None), [20_000], "trading has never begun");
    assert_eq!(
        seeded(Some(b"rubbish")),
        [20_000],
        "what is wrong with it is trading's to say"
    );
}
