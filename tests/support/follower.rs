//! A reader that follows `order-events` from the start, like any client. A record that was once
//! visible must never disappear.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ports::records::Records;
use ports::topics::TopicId;
use ports::{Limits, Log, Reader, StartOffset};

/// Records of each partition: offset, and a hash of all other fields.
pub type Story = BTreeMap<u32, Vec<(u64, u64)>>;

/// Reads in a thread until stopped.
pub struct Follower {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<Story>,
}

impl Follower {
    pub fn start(log: Arc<dyn Log>, topic: TopicId) -> Follower {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let until = stop.clone();
        let seen = count.clone();
        let mut reader = from_start(&*log, topic);
        let thread = std::thread::spawn(move || {
            // The reader does not need the log's clients any more, but the thread keeps them alive.
            let _log = log;
            let mut story = Story::new();
            while !until.load(Ordering::Relaxed) {
                seen.fetch_add(read_on(&mut *reader, &mut story), Ordering::Relaxed);
            }

            story
        });

        Follower {
            stop,
            count,
            thread,
        }
    }

    /// Number of records so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub fn stop(self) -> Story {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it read to the end")
    }
}

/// Reads the topic again from the start to its present end.
pub fn read_afresh(log: &dyn Log, topic: TopicId) -> Story {
    let mut reader = from_start(log, topic);
    let mut story = Story::new();
    while read_on(&mut *reader, &mut story) > 0 || !reader.caught_up() {}
    story
}

fn from_start(log: &dyn Log, topic: TopicId) -> Box<dyn Reader> {
    let partitions = log
        .partitions(topic)
        .expect("the log answers")
        .expect("the topic exists");
    let all: Vec<_> = (0..partitions).map(|p| (p, StartOffset::Start)).collect();
    log.reader(topic, &all, true).expect("a reader")
}

fn read_on(reader: &mut dyn Reader, story: &mut Story) -> u64 {
    let mut chunk = Records::new();
    let limits = Limits {
        records: 10_000,
        bytes: 16 << 20,
        age: Duration::from_millis(200),
    };

    reader
        .poll(Duration::from_millis(100), limits, &mut chunk)
        .expect("a read");
    for r in chunk.iter() {
        let mut hash = rustc_hash::FxHasher::default();
        for part in [
            r.key.unwrap_or_default(),
            r.value.unwrap_or_default(),
            r.headers.as_bytes(),
            &r.timestamp_ms.to_be_bytes(),
        ] {
            hash.write(part);
            hash.write_usize(part.len());
        }

        story
            .entry(r.at.partition)
            .or_default()
            .push((r.offset, hash.finish()));
    }

    chunk.len() as u64
}
