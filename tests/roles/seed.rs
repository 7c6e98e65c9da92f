//! S5, cold start: prices that `trading` has not handled yet are known to `orders` from the first command on.

use std::sync::Arc;
use std::time::Duration;

use processor::engine::broadcast::Tables;
use processor::engine::ports::{Appender, Bounds, From, Limits, Log, LogError, Member, MemberSpec, Reader, TopicState};
use processor::engine::records::{Record, Records};
use processor::engine::topics::{TopicId, TopicPartition, TopicSpec};
use processor::roles::{Role, RoleSettings, factory};
use processor::wire::topics;
use processor::wire::trade::ReferencePrice;

/// `market-data` with one partition, and how far `trading` has come.
struct Ticks {
    values: Vec<&'static str>,
    done: Option<u64>,
    /// Where the partition begins, each time that somebody asks; the last answer stays.
    starts: std::sync::Mutex<Vec<u64>>,
}

struct Cursor {
    at: usize,
    values: Vec<&'static str>,
}

const TIME_MS: i64 = 1_000_000;

impl Reader for Cursor {
    fn poll(&mut self, _wait: Duration, _limits: Limits, into: &mut Records) -> Result<(), LogError> {
        // Two at a time, so that several polls are needed.
        for _ in 0..2 {
            let Some(value) = self.values.get(self.at) else { break };
            into.push(&Record {
                at: TopicPartition::new(topics::MARKET_DATA, 0),
                offset: self.at as u64,
                timestamp_ms: TIME_MS + self.at as i64,
                key: Some(if value.contains("MSFT") { b"MSFT" } else { b"AAPL" }),
                value: Some(value.as_bytes()),
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
    fn reader(&self, topic: TopicId, from: &[(u32, From)], _headers: bool) -> Result<Box<dyn Reader>, LogError> {
        assert_eq!(topic, topics::MARKET_DATA);
        let [(0, From::Offset(at))] = from else { panic!("one partition, from an offset: {from:?}") };
        if *at < *self.starts.lock().unwrap().last().unwrap() {
            return Err(LogError::Invalid(format!("{at} is not there")));
        }
        Ok(Box::new(Cursor { at: *at as usize, values: self.values.clone() }))
    }
    fn bounds(&self, _at: TopicPartition) -> Result<Bounds, LogError> {
        let mut starts = self.starts.lock().unwrap();
        let start = if starts.len() > 1 { starts.remove(0) } else { starts[0] };
        Ok(Bounds { start, stable_end: self.values.len() as u64, end: self.values.len() as u64 })
    }
    fn group_offsets(&self, group: &str, _partitions: &[TopicPartition]) -> Result<Vec<Option<u64>>, LogError> {
        assert_eq!(group, "t-processor-trading");
        Ok(vec![self.done])
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
    fn create_topic(&self, _topic: TopicId, _spec: &TopicSpec, _partitions: u32) -> Result<(), LogError> {
        unreachable!()
    }
    fn describe_topic(&self, _topic: TopicId, _spec: &TopicSpec) -> Result<Option<TopicState>, LogError> {
        unreachable!()
    }
}

fn seeded(values: &[&'static str], done: Option<u64>, told: Option<(i64, i64)>) -> Vec<(i64, i64)> {
    let mut tables = Tables::default();
    tables.set(topics::INSTRUMENTS, b"AAPL", 1, br#"{"symbol":"AAPL"}"#);
    if let Some((price_e4, time_ms)) = told {
        let mut value = Vec::new();
        ReferencePrice { symbol: "AAPL", price_e4, time_us: time_ms * 1_000 }.encode(&mut value);
        tables.set(topics::REFERENCE_PRICES, b"AAPL", 1, &value);
    }
    let orders = factory(Role::Orders, RoleSettings::default(), Arc::new(topics::table("t-")), 1);
    let log = Ticks { values: values.to_vec(), done, starts: vec![1].into() };
    assert!(orders.seed_broadcast(topics::INSTRUMENTS, &log, &tables).expect("nothing").is_empty());
    let rows = orders.seed_broadcast(topics::REFERENCE_PRICES, &log, &tables).expect("rows");
    rows.iter()
        .map(|r| {
            assert_eq!((r.at.topic, r.key), (topics::REFERENCE_PRICES, Some(&b"AAPL"[..])));
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
    assert_eq!(seeded(&ticks, None, None), [(20_000, TIME_MS + 1)], "late, bad, future and unlisted ticks do not count");
    assert_eq!(seeded(&ticks, Some(2), None), [(90_000, TIME_MS + 2)], "from where trading has come to");
    assert_eq!(seeded(&ticks, Some(7), None), [], "trading has seen all");
    assert_eq!(seeded(&ticks, None, Some((5, TIME_MS + 2))), [], "what was told is newer");
    assert_eq!(seeded(&ticks, None, Some((5, TIME_MS))), [(20_000, TIME_MS + 1)]);
}

#[test]
fn ticks_that_are_deleted_while_they_are_read_are_asked_for_again() {
    let orders = factory(Role::Orders, RoleSettings::default(), Arc::new(topics::table("t-")), 1);
    let log = Ticks { values: vec!["rubbish"; 9], done: Some(2), starts: vec![1, 3].into() };
    // The start is told as 1, and when the reader is made it is 3.
    match orders.seed_broadcast(topics::REFERENCE_PRICES, &log, &Tables::default()) {
        Err(LogError::Unavailable(why)) => assert!(why.contains("deleted"), "{why}"),
        other => panic!("recover, and do not stop: {:?}", other.map(|rows| rows.len())),
    }
    // Now it is known from the beginning.
    assert!(orders.seed_broadcast(topics::REFERENCE_PRICES, &log, &Tables::default()).expect("rows").is_empty());
}
