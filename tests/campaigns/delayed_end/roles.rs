//! The same between roles. Here `orders` keeps its producer: the recovery after suspicious events
//! is switched off in the real binary. `orders` then shows undecided records to others, but does
//! not get far. `orders` stops when `trading` answers an uncommitted command. The `(task,
//! sequence)` guard drops and counts a repeat, and a loss stops `trading`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use engine::sequence_check;
use log_kafka::{KafkaLog, KafkaSettings};
use ports::Log;
use ports::topics::TopicId;
use processor::runtime::status::InstanceStatus;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use wire::topics as t;

use super::{INVALID_PRODUCER_EPOCH, NONE, SOON, cluster, drain, producer};
use crate::support::broker::unique_prefix;
use crate::support::load::{Sender, reference, wait_for};
use crate::support::oracle::{Seen, read_all};
use crate::support::process::{Installation, Process, tail};
use crate::support::proxy::{ADD_OFFSETS_TO_TXN, END_TXN, Ticket};

const KEEPS: &[(&str, &str)] = &[("PROCESSOR_KEEP_PRODUCER", "1")];

/// A small installation of two roles.
struct Pair {
    installation: Installation,
    log: Arc<dyn Log>,
    sender: Sender,
}

impl Pair {
    fn new(name: &str, dir: &Path) -> Pair {
        let address = cluster().address();
        let prefix = unique_prefix(name);
        let flags = [
            "--rate-limit",
            "0",
            "--stale-ms",
            "1000000000",
            "-X",
            "socket.timeout.ms=2000",
            "-X",
            "request.timeout.ms=1500",
        ];

        let installation = Installation {
            brokers: address.clone(),
            prefix: prefix.clone(),
            state: dir.join("state"),
            logs: dir.to_path_buf(),
            flags: flags.map(String::from).to_vec(),
        };

        installation.run(&["topics", "create", "--partitions", "1"]);
        let log: Arc<dyn Log> = Arc::new(KafkaLog::new(
            KafkaSettings::new(&address),
            Arc::new(t::table(&prefix)),
        ));
        let mut sender = Sender::new(&*log);
        reference(&mut sender, 2);
        Pair {
            installation,
            log,
            sender,
        }
    }

    fn order(&mut self, id: &str) {
        let value = format!(
            r#"{{"order_id":"{id}","user_id":"u","symbol":"S1","quantity":1,"order_type":"buy","timestamp":1625159076}}"#
        );
        self.sender.send(t::ORDER_COMMANDS, "u", value);
        self.sender.flush();
    }

    fn wait_event(&self, id: &str, event: &str) {
        let there = || {
            read_all(&*self.log, t::ORDER_EVENTS)
                .iter()
                .any(|e| e.text("order_id") == id && e.text("event") == event)
        };

        let since = std::time::Instant::now();
        while !there() {
            let logs = ["orders", "trading"].map(|role| tail(&self.installation.log_of(role, 1)));
            assert!(
                since.elapsed() < SOON,
                "no {event} of {id}; orders:\n{}\ntrading:\n{}",
                logs[0],
                logs[1]
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Number of records with a name that another record already has.
    fn doubled(&self, topic: TopicId) -> usize {
        let mut names = BTreeSet::new();
        let name = |r: &Seen| (r.headers["src"].clone(), r.headers["n"].clone());
        read_all(&*self.log, topic)
            .iter()
            .filter(|r| !names.insert(name(r)))
            .count()
    }

    fn repeats(&self, role: &str) -> u64 {
        let file = InstanceStatus::path(&self.installation.state, role, 1);
        let status: InstanceStatus =
            serde_json::from_slice(&std::fs::read(file).expect("a status")).expect("JSON");
        status.counters.repeats_dropped
    }

    /// The end of the transaction of `o2` is delayed and arrives in the middle of the transaction
    /// of `o3`; then `orders` dies. Returns the broker's answer to the delayed end.
    fn delayed_end(&mut self, mut orders: Process) -> (i16, Arc<Ticket>) {
        let of = format!("{}processor-orders-1", self.installation.prefix);
        let held = cluster().faults.hold(END_TXN, &of, 1);
        self.order("o2");
        held.wait_held(SOON);

        // While `orders` waits for an answer that does not come, the next order arrives.
        let paused = cluster().faults.hold(ADD_OFFSETS_TO_TXN, &of, 1_000);
        self.order("o3");
        paused.wait_held(SOON);
        held.release();
        let answer = held.answer(SOON);

        // Records that the delayed end made visible would be read by `trading` in this time.
        std::thread::sleep(std::time::Duration::from_millis(500));
        orders.kill9();
        (answer, paused)
    }
}

/// Begins with `o1` filled, so that all roles work.
fn begin(name: &str, dir: &Path, environment: &[(&str, &str)]) -> (Pair, Process, Process) {
    let mut pair = Pair::new(name, dir);
    let orders = pair.installation.start_with("orders", 1, environment);
    let trading = pair.installation.start("trading", 1);
    pair.order("o1");
    pair.wait_event("o1", "OrderFilled");
    (pair, orders, trading)
}

/// `trading` has acted on an order whose offsets were never committed. The next `orders` finds a
/// meta record newer than the group's offsets, and stops before it writes a record twice.
#[test]
fn orders_with_a_kept_producer_stop_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut pair, orders, _trading) = begin("pair", dir.path(), KEEPS);
    let (answer, paused) = pair.delayed_end(orders);
    assert_eq!(
        answer, NONE,
        "the broker takes the delayed end for that of the transaction of o3"
    );

    // No client decided this transaction.
    pair.wait_event("o3", "OrderPending");
    assert_eq!(pair.doubled(t::ORDER_EVENTS), 0);
    cluster().faults.forget(&paused);
    let mut again = pair.installation.start("orders", 1);
    let mut end = None;
    wait_for("the verdict", SOON, || {
        end = again.ended();
        end.is_some()
    });

    assert_eq!(pair.doubled(t::ORDER_EVENTS), 0, "nothing was said twice");
    let end = end.expect("just looked");
    let said = tail(&again.log);
    assert_eq!(end.code(), Some(70), "{said}");

    // The torn transaction left its meta record but not its offsets. A start notices this before it
    // can do damage.
    assert!(
        said.contains("stopped by an invariant") && said.contains("older than transaction"),
        "{said}"
    );
}

/// The same while `trading` is frozen. `orders` must not write the records again, although no role
/// has acted on them yet.
#[test]
fn orders_with_a_kept_producer_stop_before_trading_wakes_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut pair, orders, mut trading) = begin("pair", dir.path(), KEEPS);
    trading.signal(libc::SIGSTOP);
    let (answer, paused) = pair.delayed_end(orders);
    assert_eq!(
        answer, NONE,
        "the broker takes the delayed end for that of the transaction of o3"
    );
    cluster().faults.forget(&paused);
    let mut again = pair.installation.start("orders", 1);
    assert_eq!(again.exit_code(SOON), Some(70), "{}", tail(&again.log));
    trading.signal(libc::SIGCONT);
    wait_for("trading to act on o2", SOON, || {
        read_all(&*pair.log, t::TRADES).len() >= 2
    });

    assert!(trading.is_running());
    assert_eq!(
        (
            pair.doubled(t::BOOK_COMMANDS),
            pair.doubled(t::ORDER_EVENTS),
            pair.repeats("trading")
        ),
        (0, 0, 0)
    );
}

#[test]
fn orders_that_take_a_new_epoch_do_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut pair, orders, trading) = begin("pair", dir.path(), &[]);
    let (answer, paused) = pair.delayed_end(orders);
    assert_eq!(answer, INVALID_PRODUCER_EPOCH);
    assert!(
        read_all(&*pair.log, t::ORDER_EVENTS)
            .iter()
            .all(|e| e.text("order_id") != "o3"),
        "nothing of o3 was decided"
    );
    cluster().faults.forget(&paused);
    let again = pair.installation.start("orders", 1);
    pair.wait_event("o3", "OrderFilled");
    assert_eq!(
        (
            pair.doubled(t::ORDER_EVENTS),
            pair.doubled(t::BOOK_COMMANDS)
        ),
        (0, 0)
    );

    assert_eq!(
        (
            pair.repeats("trading"),
            read_all(&*pair.log, t::TRADES).len()
        ),
        (0, 3)
    );

    again.stop();
    trading.stop();
}

/// The last script: a late abort removes the first record of a committed transaction. A plain
/// client takes the place of `orders`. It keeps its producer and aborts, as our client never does.
#[test]
fn a_lost_record_stops_trading() {
    let dir = tempfile::tempdir().expect("a directory");
    let (pair, mut orders, mut trading) = begin("gap", dir.path(), &[]);
    orders.kill9();
    let prefix = &pair.installation.prefix;
    let name = format!("{prefix}processor-orders-1");
    let producer = producer(&name);
    let last = read_all(&*pair.log, t::BOOK_COMMANDS).pop().expect("o1's");
    let (task, sequence) =
        sequence_check::parse(last.headers[sequence_check::HEADER].as_bytes()).expect("a sequence");
    let book = format!("{prefix}book-commands");
    let notes = format!("{prefix}notifications");
    let send = |topic: &str, step: u64| {
        let value = format!("{task}/{}", sequence + step);
        let headers = OwnedHeaders::new().insert(Header {
            key: sequence_check::HEADER,
            value: Some(value.as_bytes()),
        });

        producer
            .send(
                BaseRecord::<[u8], [u8]>::to(topic)
                    .partition(0)
                    .key(&last.key)
                    .payload(&last.raw)
                    .headers(headers),
            )
            .expect("room");

        drain(&producer);
    };

    producer.begin_transaction().expect("N begins");
    send(&book, 1);
    let held = cluster().faults.hold(END_TXN, &name, 1);
    producer
        .abort_transaction(SOON)
        .expect("librdkafka hides the timeout");

    // After the abort the same sequence again, as a client without a new producer would send it.
    producer.begin_transaction().expect("N+1 begins");
    send(&book, 1);
    held.release();
    assert_eq!(held.answer(SOON), NONE);
    send(&notes, 1);
    producer
        .commit_transaction(SOON)
        .expect("the commit goes well, and its first record is lost");
    assert!(trading.is_running(), "it cannot see yet what is missing");
    producer.begin_transaction().expect("N+2 begins");
    send(&book, 2);
    producer.commit_transaction(SOON).expect("a commit");
    assert_eq!(trading.exit_code(SOON), Some(70), "{}", tail(&trading.log));
    let said = tail(&trading.log);
    let due = format!(
        "a record of ours is missing: sequence {} came where {} was due",
        sequence + 2,
        sequence + 1
    );
    assert!(said.contains(&due), "{said}");
}
