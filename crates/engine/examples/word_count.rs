//! A role of one's own: counts words, exactly once, on a log in memory.
//!
//! `cargo run -p processor-engine --example word_count` sends five words, lets one instance count
//! them, drops the instance as a crash would, sends three more, and lets another instance with an
//! empty store go on: the counts come back from the changelog. On Kafka only the `Log` differs.

use std::sync::Arc;
use std::time::Duration;

use log_local::LocalLog;
use os::clock::SystemClock;
use ports::records::{Headers, Record};
use ports::scan::partition;
use ports::topics::{Cleanup, TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{Log, LogError};
use processor_engine::context::Ctx;
use processor_engine::instance::{Instance, InstanceSettings};
use processor_engine::role::{InvariantViolation, RoleFactory, RoleLogic, RoleSpec};
use store::memory::MemoryStores;

const WORDS: TopicId = TopicId(0);
const COUNTS: TopicId = TopicId(1);
const CHANGELOG: TopicId = TopicId(2);
const DEAD_LETTERS: TopicId = TopicId(3);

/// The role: state is a word and its count, output the new count.
struct WordCount;

impl RoleLogic for WordCount {
    fn process(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
    ) -> Result<(), InvariantViolation> {
        let Some(word) = record.key else {
            ctx.dead_letter(record, "NO_KEY", "a word is a record's key");
            return Ok(());
        };

        let before = ctx.get(word).and_then(|v| v.try_into().ok());
        let count = before.map_or(0, u64::from_be_bytes) + 1;
        ctx.put(word, &count.to_be_bytes());
        ctx.emit(COUNTS, word, "Counted", count.to_string().as_bytes());
        Ok(())
    }
}

struct WordCounts(RoleSpec);

impl RoleFactory for WordCounts {
    fn spec(&self) -> &RoleSpec {
        &self.0
    }
    fn make(&self, _task: u32) -> Box<dyn RoleLogic> {
        Box::new(WordCount)
    }
}

fn main() -> Result<(), LogError> {
    let topics = vec![
        TopicSpec::new("words", Cleanup::Keep),
        TopicSpec::new("counts", Cleanup::Keep),
        TopicSpec::new("changelog", Cleanup::Compact),
        TopicSpec::new("dead-letters", Cleanup::Keep),
    ];
    let table = Arc::new(TopicTable::new("example-", topics));
    let log: Arc<dyn Log> = Arc::new(LocalLog::in_memory(&table));
    for id in table.iter() {
        log.create_topic(id, table.spec(id), 1)?;
    }

    send(&*log, &["to", "be", "or", "not", "to"])?;
    count(&log, &table, 5);
    send(&*log, &["be", "to", "words"])?;
    count(&log, &table, 3);
    partition(&*log, TopicPartition::new(COUNTS, 0), &mut |r| {
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        println!("{} {}", text(r.key), text(r.value));
    })
}

fn send(log: &dyn Log, words: &[&str]) -> Result<(), LogError> {
    let mut appender = log.appender()?;
    for word in words {
        appender.append(&Record {
            at: TopicPartition::new(WORDS, 0),
            offset: 0,
            timestamp_ms: 1,
            key: Some(word.as_bytes()),
            value: None,
            headers: Headers::default(),
        })?;
    }
    appender.flush(Duration::from_secs(1))
}

/// Runs one instance, with an empty store, until the instance has counted so many words.
fn count(log: &Arc<dyn Log>, table: &Arc<TopicTable>, words: u64) {
    let mut instance = Instance::new(
        log.clone(),
        Box::new(MemoryStores::default()),
        Box::new(SystemClock::new()),
        Box::new(WordCounts(RoleSpec::new(
            "word-count",
            WORDS,
            CHANGELOG,
            DEAD_LETTERS,
        ))),
        table.clone(),
        InstanceSettings::new("example-word-count", "example-word-count-1"),
    );
    while instance.counters().records_in < words {
        instance.step().expect("a step");
    }
}
