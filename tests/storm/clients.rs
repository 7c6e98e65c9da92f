//! The load: clients that send orders at a steady pace during all faults. Each client logs the
//! outcome of each send: ok, failed or unknown. After any other outcome than ok, the client sends
//! the command again under the same order id (ClOrdID), as a real client does. The id makes both
//! sends one order.
//!
//! Every send has a unique number in the `timestamp` of the command, which the system ignores. The
//! number identifies the send in the log.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::simulate::Rng;
use ports::partitioner;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use crate::support::oracle::Seen;
use crate::traffic::{Command, Source};

/// First send number. Smaller numbers are the times of other commands of the test.
const FIRST: u64 = 2_000_000_000;
/// Number of send numbers per client.
const RANGE: u64 = 100_000_000;

/// Outcome of a send, from the view of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, in this partition. The broker gives no offset for a record that it had
    /// already.
    Ok(u32, Option<u64>),
    /// The log cannot contain the command.
    Failed,
    /// The log may contain the command once.
    Unknown,
}

/// The log of one client.
pub struct Story {
    pub sends: BTreeMap<u64, Option<Outcome>>,
}

/// Settings of the clients.
#[derive(Clone)]
pub struct Plan {
    pub brokers: String,
    pub topic: String,
    pub partitions: u32,
    pub logs: PathBuf,
}

/// A running client.
pub struct Client {
    stop: Arc<AtomicBool>,
    burst: Arc<AtomicU64>,
    thread: JoinHandle<Story>,
}

struct Reports(Sender<(u64, Outcome)>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, number: Box<u64>) {
        let outcome = match result {
            Ok(m) => Outcome::Ok(m.partition() as u32, u64::try_from(m.offset()).ok()),
            // SAFETY: the message lives as long as this call, and the status is only read.
            Err((_, m)) => match unsafe { rdkafka::bindings::rd_kafka_message_status(m.ptr()) } {
                rdkafka::bindings::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => {
                    Outcome::Failed
                }
                _ => Outcome::Unknown,
            },
        };

        // The receiver is gone only if the client has ended and has counted this send as unknown.
        self.0.send((*number, outcome)).unwrap_or_default();
    }
}

impl Client {
    /// Sends `rate` commands of a source per second, and more on request.
    pub fn start(plan: Plan, index: u64, seed: u64, source: Box<dyn Source>, rate: u64) -> Client {
        let stop = Arc::new(AtomicBool::new(false));
        let burst = Arc::new(AtomicU64::new(0));
        let until = stop.clone();
        let more = burst.clone();
        let thread = std::thread::spawn(move || {
            Running::new(plan, index, seed, source).run(rate, &until, &more)
        });

        Client {
            stop,
            burst,
            thread,
        }
    }

    /// Sends `count` more commands at once.
    pub fn burst(&self, count: u64) {
        self.burst.fetch_add(count, Ordering::Relaxed);
    }

    /// Ends the client after every send has an outcome.
    pub fn stop(self) -> Story {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a client's end")
    }
}

struct Running {
    plan: Plan,
    rng: Rng,
    producer: BaseProducer<Reports>,
    reports: Receiver<(u64, Outcome)>,
    source: Box<dyn Source>,
    /// Unsettled commands by send number.
    open: BTreeMap<u64, Command>,
    again: Vec<Command>,
    next: u64,
    story: Story,
    file: std::io::BufWriter<std::fs::File>,
}

impl Running {
    fn new(plan: Plan, index: u64, seed: u64, source: Box<dyn Source>) -> Running {
        let (to, reports) = channel();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &plan.brokers)
            .set("client.id", format!("client-{index}"))
            .set("enable.idempotence", "true")
            .set("linger.ms", "2")
            .set("socket.timeout.ms", "5000")
            .set("request.timeout.ms", "4000")
            .set("message.timeout.ms", "10000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .create_with_context(Reports(to))
            .expect("a producer");

        let path = plan.logs.join(format!("client-{index}.log"));
        let file = std::io::BufWriter::new(std::fs::File::create(&path).expect("a client's log"));
        let story = Story {
            sends: BTreeMap::new(),
        };

        let rng = Rng::new(seed ^ (index << 32));
        let next = FIRST + index * RANGE;
        let open = BTreeMap::new();
        let again = Vec::new();
        Running {
            plan,
            rng,
            producer,
            reports,
            source,
            open,
            again,
            next,
            story,
            file,
        }
    }

    fn run(mut self, rate: u64, stop: &AtomicBool, more: &AtomicU64) -> Story {
        let began = Instant::now();
        let mut due = 0;
        loop {
            let last = stop.load(Ordering::Relaxed);
            let by_now = u64::try_from(began.elapsed().as_millis()).unwrap_or(0) * rate / 1_000;
            let now = by_now.saturating_sub(due) + more.swap(0, Ordering::Relaxed);
            due = by_now;
            for _ in 0..now {
                let command = self
                    .again
                    .pop()
                    .unwrap_or_else(|| self.source.next(&mut self.rng));
                self.send(command);
            }

            self.settle();
            if last {
                break;
            }

            std::thread::sleep(Duration::from_millis(10));
        }

        let since = Instant::now();
        while (!self.open.is_empty() || !self.again.is_empty())
            && since.elapsed() < Duration::from_secs(60)
        {
            if let Some(command) = self.again.pop() {
                self.send(command);
            }

            self.settle();
            std::thread::sleep(Duration::from_millis(5));
        }

        for number in std::mem::take(&mut self.open).into_keys() {
            self.note(number, Outcome::Unknown);
        }

        self.file.flush().expect("a client's log");
        self.story
    }

    fn send(&mut self, command: Command) {
        let number = self.next;
        let plan = &self.plan;
        self.next += 1;
        let value = format!(r#"{{{}"timestamp":{number}}}"#, command.fields);
        let partition = partitioner::partition(command.user.as_bytes(), plan.partitions) as i32;
        let record =
            BaseRecord::<str, str, Box<u64>>::with_opaque_to(&plan.topic, Box::new(number));
        let queued = self.producer.send(
            record
                .key(&command.user)
                .payload(&value)
                .partition(partition),
        );
        self.story.sends.insert(number, None);
        match queued {
            Ok(()) => drop(self.open.insert(number, command)),
            Err(_) => {
                self.note(number, Outcome::Failed);
                self.again.push(command);
            }
        }
    }

    fn settle(&mut self) {
        self.producer.poll(Duration::ZERO);
        while let Ok((number, outcome)) = self.reports.try_recv() {
            if let Some(command) = self.open.remove(&number)
                && !matches!(outcome, Outcome::Ok(..))
            {
                self.again.push(command);
            }

            self.note(number, outcome);
        }

        if let Some((code, text)) = self.producer.client().fatal_error() {
            panic!("a client's producer broke: {code:?} {text}");
        }
    }

    fn note(&mut self, number: u64, outcome: Outcome) {
        self.story.sends.insert(number, Some(outcome));
        let line = match outcome {
            Outcome::Ok(partition, offset) => {
                writeln!(self.file, "{number} ok {partition}/{offset:?}")
            }
            Outcome::Failed => writeln!(self.file, "{number} failed"),
            Outcome::Unknown => writeln!(self.file, "{number} unknown"),
        };

        line.expect("a client's log");
    }
}

/// Summary of the clients' logs.
#[derive(Debug, Default)]
pub struct Summary {
    pub sent: usize,
    pub ok: usize,
    pub failed: usize,
    pub unknown: usize,
    /// Unknown sends that are in the log.
    pub unknown_in_log: usize,
    /// Sends that the client library wrote more than once, as it may after a timeout. The order id
    /// makes them one order.
    pub written_again: usize,
    pub wrong: Vec<String>,
}

/// Compares the clients' logs with the topic. Acknowledged commands must be in their place, failed
/// commands must be absent, and no other writer may exist.
pub fn compare(stories: &[Story], commands: &[Seen]) -> Summary {
    let mut found = BTreeMap::<u64, Vec<(u32, u64)>>::new();
    for c in commands {
        found
            .entry(c.number("timestamp") as u64)
            .or_default()
            .push((c.partition, c.offset));
    }

    let mut sum = Summary::default();
    for story in stories {
        for (number, outcome) in &story.sends {
            sum.sent += 1;
            let places = found.remove(number).unwrap_or_default();
            sum.written_again += places.len().saturating_sub(1);
            match outcome.unwrap_or(Outcome::Unknown) {
                Outcome::Ok(partition, offset) => {
                    sum.ok += 1;
                    if !places
                        .iter()
                        .any(|(p, o)| *p == partition && offset.is_none_or(|offset| offset == *o))
                    {
                        sum.wrong.push(format!("send {number} was acknowledged at {partition}/{offset:?}, the log has it at {places:?}"));
                    }
                }
                Outcome::Failed => {
                    sum.failed += 1;
                    if !places.is_empty() {
                        sum.wrong.push(format!(
                            "send {number} failed, yet the log has it at {places:?}"
                        ));
                    }
                }
                Outcome::Unknown => {
                    sum.unknown += 1;
                    sum.unknown_in_log += places.len().min(1);
                }
            }
        }
    }

    sum.wrong
        .extend(found.keys().map(|n| format!("nobody made send {n}")));
    sum
}
