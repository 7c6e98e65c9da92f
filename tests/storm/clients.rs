//! The load: clients that send orders at a steady pace whatever happens, and keep a log of how each send went: ok, failed, or unknown. What did not
//! go well is sent again under the same order id, as a real client does; the id is what keeps it one order.
//!
//! Every send carries a number of its own (in the command's `timestamp`, which the system does not look at), by which it is found again in the log.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use processor::client::simulate::Rng;
use processor::domain::partitioner;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use crate::support::oracle::Seen;

/// First send number; below it are the times that other commands of the test carry.
const FIRST: u64 = 2_000_000_000;
/// Send numbers of one client.
const RANGE: u64 = 100_000_000;

/// How a send ended, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged: at this partition and offset.
    Ok(u32, u64),
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
    pub users: u64,
    pub symbols: u64,
    /// Commands per second of one client.
    pub rate: u64,
    pub logs: PathBuf,
}

/// A running client.
pub struct Client {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Story>,
}

struct Reports(Sender<(u64, Outcome)>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, number: Box<u64>) {
        let outcome = match result {
            Ok(m) => Outcome::Ok(m.partition() as u32, m.offset() as u64),
            // SAFETY: the message lives as long as this call, and the status is only read.
            Err((_, m)) => match unsafe { rdkafka::bindings::rd_kafka_message_status(m.ptr()) } {
                rdkafka::bindings::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Outcome::Failed,
                _ => Outcome::Unknown,
            },
        };
        // Nobody listens any more only when the client has ended and counted this one as unknown.
        self.0.send((*number, outcome)).unwrap_or_default();
    }
}

#[derive(Clone)]
struct Order {
    id: String,
    user: String,
    symbol: u64,
    quantity: u64,
}

impl Client {
    pub fn start(plan: Plan, index: u64, seed: u64) -> Client {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let thread = std::thread::spawn(move || Running::new(plan, index, seed).run(&until));
        Client { stop, thread }
    }

    /// Ends it when every send has an outcome.
    pub fn stop(self) -> Story {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a client's end")
    }
}

struct Running {
    plan: Plan,
    index: u64,
    rng: Rng,
    producer: BaseProducer<Reports>,
    reports: Receiver<(u64, Outcome)>,
    orders: Vec<Order>,
    /// What was sent under which number and is not settled.
    open: BTreeMap<u64, Order>,
    again: Vec<Order>,
    next: u64,
    story: Story,
    file: std::io::BufWriter<std::fs::File>,
}

impl Running {
    fn new(plan: Plan, index: u64, seed: u64) -> Running {
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
        let story = Story { sends: BTreeMap::new() };
        let rng = Rng::new(seed ^ (index << 32));
        let next = FIRST + index * RANGE;
        let (orders, open, again) = (Vec::new(), BTreeMap::new(), Vec::new());
        Running { plan, index, rng, producer, reports, orders, open, again, next, story, file }
    }

    fn run(mut self, stop: &AtomicBool) -> Story {
        let (began, mut due) = (Instant::now(), 0);
        while !stop.load(Ordering::Relaxed) {
            let by_now = u64::try_from(began.elapsed().as_millis()).unwrap_or(0) * self.plan.rate / 1_000;
            while due < by_now {
                due += 1;
                let order = self.choose();
                self.send(order);
            }
            self.settle();
            std::thread::sleep(Duration::from_millis(10));
        }
        let since = Instant::now();
        while (!self.open.is_empty() || !self.again.is_empty()) && since.elapsed() < Duration::from_secs(60) {
            if let Some(order) = self.again.pop() {
                self.send(order);
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

    /// Mostly a new order; now and then an earlier one again, its id for something else, or a symbol that nobody knows.
    fn choose(&mut self) -> Order {
        if let Some(order) = self.again.pop() {
            return order;
        }
        let kind = self.rng.below(100);
        if kind < 5 && !self.orders.is_empty() {
            let mut order = self.orders[self.rng.below(self.orders.len() as u64) as usize].clone();
            order.quantity += u64::from(kind == 4);
            return order;
        }
        let symbol = if kind == 99 { 1_000_000 } else { self.rng.below(self.plan.symbols) };
        let user = format!("u{}", self.rng.below(self.plan.users));
        let order = Order { id: format!("c{}-{}", self.index, self.orders.len()), user, symbol, quantity: 1 + self.rng.below(5) };
        self.orders.push(order.clone());
        order
    }

    fn send(&mut self, order: Order) {
        let (number, plan) = (self.next, &self.plan);
        self.next += 1;
        let value = format!(
            r#"{{"order_id":"{}","user_id":"{}","symbol":"S{}","quantity":{},"order_type":"buy","timestamp":{number}}}"#,
            order.id, order.user, order.symbol, order.quantity
        );
        let partition = partitioner::partition(order.user.as_bytes(), plan.partitions) as i32;
        let record = BaseRecord::<str, str, Box<u64>>::with_opaque_to(&plan.topic, Box::new(number));
        let queued = self.producer.send(record.key(&order.user).payload(&value).partition(partition));
        self.story.sends.insert(number, None);
        match queued {
            Ok(()) => drop(self.open.insert(number, order)),
            Err(_) => self.note(number, Outcome::Failed),
        }
    }

    fn settle(&mut self) {
        self.producer.poll(Duration::ZERO);
        while let Ok((number, outcome)) = self.reports.try_recv() {
            if let Some(order) = self.open.remove(&number)
                && !matches!(outcome, Outcome::Ok(..))
            {
                self.again.push(order);
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
            Outcome::Ok(partition, offset) => writeln!(self.file, "{number} ok {partition}/{offset}"),
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
    pub wrong: Vec<String>,
}

/// Compares the clients' logs with the topic: what was acknowledged is there, in its place; what failed is not; nothing is there twice.
pub fn compare(stories: &[Story], commands: &[Seen]) -> Summary {
    let mut found = BTreeMap::<u64, Vec<(u32, u64)>>::new();
    for c in commands {
        found.entry(c.number("timestamp") as u64).or_default().push((c.partition, c.offset));
    }
    let mut sum = Summary::default();
    for story in stories {
        for (number, outcome) in &story.sends {
            sum.sent += 1;
            let places = found.remove(number).unwrap_or_default();
            if places.len() > 1 {
                sum.wrong.push(format!("send {number} is in the log {} times: {places:?}", places.len()));
            }
            match outcome.unwrap_or(Outcome::Unknown) {
                Outcome::Ok(partition, offset) => {
                    sum.ok += 1;
                    if places != [(partition, offset)] {
                        sum.wrong.push(format!("send {number} was acknowledged at {partition}/{offset}, the log has it at {places:?}"));
                    }
                }
                Outcome::Failed => {
                    sum.failed += 1;
                    if !places.is_empty() {
                        sum.wrong.push(format!("send {number} failed, yet the log has it at {places:?}"));
                    }
                }
                Outcome::Unknown => {
                    sum.unknown += 1;
                    sum.unknown_in_log += places.len();
                }
            }
        }
    }
    sum.wrong.extend(found.keys().map(|n| format!("nobody made send {n}")));
    sum
}
