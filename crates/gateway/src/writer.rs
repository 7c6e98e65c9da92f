//! Writes the gateway's records: subscriptions, positions of webhooks, dead letters. One thread
//! does all writing, because the log's writer blocks.
//!
//! Positions that only advanced are written a few times a second, and only the latest of each
//! endpoint. All other records are written at once, and the caller learns when they are in the log.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use os::clock::wall_ms;
use ports::records::{HeaderBuf, Record};
use ports::topics::TopicPartition;
use ports::{Appender, Log, LogError};
use tokio::sync::oneshot;
use wire::topics::SUBSCRIPTIONS;

const FLUSH_WAIT: Duration = Duration::from_secs(30);
/// Longest time that a record waits for room before the log counts as unavailable.
const PATIENCE: Duration = Duration::from_secs(30);

/// One record to write.
pub struct RecordWrite {
    /// Topic and partition.
    pub at: TopicPartition,
    pub key: String,
    /// Value of the record; `None` removes the key.
    pub value: Option<Vec<u8>>,
    pub headers: HeaderBuf,
    /// Timestamp of the record's direct cause, in milliseconds since 1970.
    pub time_ms: i64,
}

impl RecordWrite {
    /// A record of `subscriptions` with the current time, because a request causes the record now.
    fn subscription(key: String, value: Option<Vec<u8>>) -> RecordWrite {
        RecordWrite {
            at: TopicPartition::new(SUBSCRIPTIONS, 0),
            key,
            value,
            headers: HeaderBuf::default(),
            time_ms: wall_ms(),
        }
    }
}

struct Job {
    write: RecordWrite,
    done: oneshot::Sender<Result<(), String>>,
}

type Moved = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The writers of a gateway. Orders have a thread of their own: they do not wait for webhooks, and
/// a refused topic fails nothing else.
#[derive(Clone)]
pub(crate) struct Writers {
    /// Writes subscriptions and dead letters.
    pub changes: Writer,
    /// Writes commands; `None` if this gateway takes no orders.
    pub commands: Option<Writer>,
}

impl Writers {
    /// Starts the threads. `every` is the interval at which positions are written.
    pub(crate) fn start(
        log: &Arc<dyn Log>,
        every: Duration,
        takes_orders: bool,
    ) -> Result<(Writers, Vec<Thread>), LogError> {
        let (changes, thread) = Writer::start(log.clone(), every)?;
        let mut threads = vec![thread];
        let mut commands = None;
        if takes_orders {
            let (writer, thread) = Writer::start(log.clone(), every)?;
            commands = Some(writer);
            threads.push(thread);
        }

        Ok((Writers { changes, commands }, threads))
    }
}

/// Passes records to the writer thread.
#[derive(Clone)]
pub struct Writer {
    jobs: Sender<Job>,
    moved: Moved,
}

/// The writer thread. After the last [`Writer`] is dropped, the thread writes everything and ends.
pub(crate) type Thread = std::thread::JoinHandle<()>;

impl Writer {
    /// Starts the thread. `every` is the interval at which positions are written.
    pub fn start(log: Arc<dyn Log>, every: Duration) -> Result<(Writer, Thread), LogError> {
        let (jobs, queue) = std::sync::mpsc::channel();
        let moved = Moved::default();
        let theirs = moved.clone();
        let appender = log.appender()?;
        let thread = std::thread::Builder::new()
            .name("gateway-writer".into())
            .spawn(move || {
                Work {
                    log,
                    appender,
                    moved: theirs,
                }
                .run(&queue, every)
            });

        let thread =
            thread.map_err(|e| LogError::Unavailable(format!("no thread can be started: {e}")))?;
        Ok((Writer { jobs, moved }, thread))
    }

    /// Writes a record; resolves when the record is in the log.
    pub async fn write(&self, write: RecordWrite) -> Result<(), String> {
        let gone = || "the gateway is stopping".to_string();
        let (done, written) = oneshot::channel();
        self.jobs.send(Job { write, done }).map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }

    /// Writes a record of `subscriptions`; resolves when the record is in the log.
    pub async fn subscribe(&self, key: String, value: Option<Vec<u8>>) -> Result<(), String> {
        // A position that waits under this key is older, so drop that position.
        self.moved.lock().expect("plain data").remove(&key);
        self.write(RecordWrite::subscription(key, value)).await
    }

    /// Writes a record of `subscriptions` from a thread that may block.
    pub fn subscribe_blocking(&self, key: String, value: Option<Vec<u8>>) -> Result<(), String> {
        let gone = || "the gateway is stopping".to_string();
        let (done, written) = oneshot::channel();
        self.jobs
            .send(Job {
                write: RecordWrite::subscription(key, value),
                done,
            })
            .map_err(|_| gone())?;
        written.blocking_recv().map_err(|_| gone())?
    }

    /// Queues a record of `subscriptions` for the next interval. A later record replaces the queued
    /// one.
    pub fn soon(&self, key: String, value: Vec<u8>) {
        self.moved.lock().expect("plain data").insert(key, value);
    }
}

struct Work {
    log: Arc<dyn Log>,
    appender: Box<dyn Appender>,
    moved: Moved,
}

impl Work {
    fn run(mut self, queue: &Receiver<Job>, every: Duration) {
        let mut written = Instant::now();
        loop {
            let job = queue.recv_timeout(
                every
                    .saturating_sub(written.elapsed())
                    .max(Duration::from_millis(1)),
            );
            let ended = matches!(job, Err(RecvTimeoutError::Disconnected));
            if let Ok(first) = job {
                self.jobs(std::iter::once(first).chain(queue.try_iter()).collect());
            }

            if ended || written.elapsed() >= every {
                self.positions();
                written = Instant::now();
            }

            if ended {
                return;
            }
        }
    }

    fn jobs(&mut self, jobs: Vec<Job>) {
        let mut failed = None;
        for job in &jobs {
            failed = failed.or(self.append(&job.write).err());
        }

        let failed = failed
            .or(self.appender.flush(FLUSH_WAIT).err())
            .map(|e| e.to_string());
        if let Some(e) = &failed {
            tracing::warn!("records could not be written: {e}; making a new producer");
            self.renew();
        }

        for job in jobs {
            // The caller may have dropped the receiver: then nobody needs the result. When one record
            // fails, each caller of the batch gets the error.
            job.done
                .send(failed.clone().map_or(Ok(()), Err))
                .unwrap_or_default();
        }
    }

    /// Writes the positions that advanced. After a failure, each position goes back into the queue,
    /// unless a newer one is there.
    fn positions(&mut self) {
        let moved = std::mem::take(&mut *self.moved.lock().expect("plain data"));
        if moved.is_empty() {
            return;
        }

        let mut write = |key: &String, value: &Vec<u8>| {
            self.append(&RecordWrite::subscription(key.clone(), Some(value.clone())))
        };

        let written = moved
            .iter()
            .try_for_each(|(k, v)| write(k, v))
            .and_then(|()| self.appender.flush(FLUSH_WAIT));
        if let Err(e) = written {
            tracing::warn!("positions of webhooks could not be written, trying again: {e}");
            let mut waiting = self.moved.lock().expect("plain data");
            for (key, value) in moved {
                waiting.entry(key).or_insert(value);
            }

            drop(waiting);
            self.renew();
        }
    }

    /// Replaces the appender. A failed appender may fail for ever, and a new appender is cheap.
    fn renew(&mut self) {
        match self.log.appender() {
            Ok(appender) => self.appender = appender,
            Err(e) => {
                tracing::warn!("no new producer could be made: {e}; the next write tries again")
            }
        }
    }

    fn append(&mut self, w: &RecordWrite) -> Result<(), LogError> {
        let record = Record {
            at: w.at,
            offset: 0,
            timestamp_ms: w.time_ms,
            key: Some(w.key.as_bytes()),
            value: w.value.as_deref(),
            headers: w.headers.headers(),
        };

        let began = Instant::now();
        loop {
            match self.appender.append(&record) {
                Err(LogError::Unavailable(_)) if began.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20))
                }
                other => return other,
            }
        }
    }
}
