//! The load: clients that send orders at a steady pace whatever happens, and keep a log of how each
//! send went: ok, failed, or unknown. What did not go well is sent again under the same order id,
//! as a real client does; the id is what keeps it one order.
//!
//! Every send carries a number of its own (in the command's `timestamp`, which the system does not
//! look at), by which it is found again in the log.

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

/// First send number; below it are the times that other commands of the test carry.
const FIRST: u64 = 2_000_000_000;
/// Send numbers of one client.
const RANGE: u64 = 100_000_000;

/// How a send ended, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, in this partition; and where, if the broker said that too (of what it had
    /// already it does not).
    Ok(u32, Option<u64>),
    /// It cannot be in the log.
    Failed,
    /// It may be in the log, once.
    Unknown,
}

/// One client's log.
pub struct Story {
    pub sends: BTreeMap<u64, Option<Outcome>>,
}

/// What a run of clients is given.
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

        // Nobody listens any more only when the client has ended and counted this one as unknown.
        self.0.send((*number, outcome)).unwrap_or_default();
    }
}

impl Client {
    /// Sends so many commands of a source each second, and further ones when it is told to.
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

    /// Sends so many more at once.
    pub fn burst(&self, count: u64) {
        self.burst.fetch_add(count, Ordering::Relaxed);
    }

    /// Ends it when every send has an outcome.
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
    /// What was sent under which number and is not settled.
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

/// What the clients' logs come to.
#[derive(Debug, Default)]
pub struct Summary {
    pub sent: usize,
    pub ok: usize,
    pub failed: usize,
    pub unknown: usize,
    /// Of the unknown, those that are in the log.
    pub unknown_in_log: usize,
    /// Sends that the client library wrote more than once, which it may after a timeout; the order
    /// id makes them one order.
    pub written_again: usize,
    pub wrong: Vec<String>,
}

/// Compares the clients' logs with the topic: what was acknowledged is there, in its place; what
/// failed is not; nobody else wrote there.
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
