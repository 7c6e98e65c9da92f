//! A whole cluster of real brokers, each behind a [`proxy`](super::proxy): one broker, or three
//! with replication 3 and at least two in sync. A test kills, stops, freezes and restarts each
//! broker by its number.
//!
//! The controller is a separate process, and no test disturbs it. The tests are about brokers that
//! lead partitions and coordinate transactions. A controller that is killed together with its
//! broker and restarted at once would add a fault of Kafka itself. Kafka would record transactions
//! as finished without their markers; see `broker.rs`.
//!
//! Brokers talk to each other directly, without the proxies. [`Cluster::direct`] lets the test
//! itself read without the proxies.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::broker::{classpath, free_port, read_from, signal, spawn_for_life, storage_tool, sweep};
use super::proxy::{Faults, Proxy};

const CONTROLLER: u32 = 100;
const STARTED: &str = "Kafka Server started";

/// A controller and its brokers.
pub struct Cluster {
    pub faults: Arc<Faults>,
    /// Brokers by number, from 1.
    brokers: Vec<Node>,
    controller: Node,
    replicas: u32,
    dir: PathBuf,
}

struct Node {
    id: u32,
    dir: PathBuf,
    heap: &'static str,
    /// Address without the proxy.
    direct: String,
    proxied: String,
    child: Mutex<Option<Child>>,
    frozen: AtomicBool,
}

impl Cluster {
    /// Starts `count` brokers (1 or 3) and waits until they serve.
    pub fn start(count: u32) -> Cluster {
        Cluster::start_with(count, count.min(3))
    }

    /// As [`Cluster::start`], with `replicas` replicas of each partition.
    pub fn start_with(count: u32, replicas: u32) -> Cluster {
        Cluster::start_as(count, replicas, QUICK)
    }

    /// Three brokers with Kafka's defaults. Only addresses, directories and the settings for three
    /// replicas are set. Groups, transactions, elections and replication have the timing of a
    /// production cluster.
    pub fn start_as_shipped() -> Cluster {
        Cluster::start_as(3, 3, AS_SHIPPED)
    }

    fn start_as(count: u32, replicas: u32, settings: Settings) -> Cluster {
        sweep();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "processor-kafka-{}-cluster-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        let faults = Arc::new(Faults::default());
        let quorum = free_port();
        let controller = Node::new(
            CONTROLLER,
            &dir,
            "-Xmx192m",
            &controller_properties(quorum, replicas, &dir.join("100/data"), settings),
        );
        let broker = |id: u32| {
            let proxy = Proxy::start(id, faults.clone());
            let client = free_port();
            let direct = free_port();
            proxy.set_target(format!("127.0.0.1:{client}").parse().expect("an address"));
            let text = broker_properties(
                id,
                replicas,
                quorum,
                &proxy.address,
                client,
                direct,
                &dir.join(id.to_string()).join("data"),
                settings,
            );

            let mut node = Node::new(id, &dir, "-Xmx400m", &text);
            (node.direct, node.proxied) = (format!("127.0.0.1:{direct}"), proxy.address);
            node
        };

        let brokers = (1..=count).map(broker).collect();
        let cluster = Cluster {
            faults,
            brokers,
            controller,
            replicas,
            dir,
        };

        let id = storage_tool(&["random-uuid"])
            .lines()
            .last()
            .unwrap_or_default()
            .trim()
            .to_string();
        std::thread::scope(|s| {
            for node in cluster.brokers.iter().chain([&cluster.controller]) {
                let id = &id;
                s.spawn(move || {
                    storage_tool(&["format", "-t", id, "-c", &node.path("server.properties")])
                });
            }
        });

        cluster.controller.start();
        cluster.controller.wait_started();
        cluster.brokers.iter().for_each(Node::start);
        cluster.brokers.iter().for_each(Node::wait_started);
        cluster
    }

    /// Addresses of the proxies, for the clients under test.
    pub fn address(&self) -> String {
        let all: Vec<_> = self.brokers.iter().map(|b| b.proxied.as_str()).collect();
        all.join(",")
    }

    /// Addresses of the brokers, without the proxies.
    pub fn direct(&self) -> String {
        let all: Vec<_> = self.brokers.iter().map(|b| b.direct.as_str()).collect();
        all.join(",")
    }

    fn node(&self, id: u32) -> &Node {
        &self.brokers[id as usize - 1]
    }

    /// SIGKILL.
    pub fn kill(&self, id: u32) {
        let node = self.node(id);
        if let Some(mut child) = node.child().take() {
            child.kill().expect("killing a broker");
            child.wait().expect("the broker's end");
        }

        node.frozen.store(false, Ordering::Relaxed);
    }

    /// SIGTERM: the broker hands over its leaderships, then ends. If the broker takes too long, it
    /// is killed, as an operator would do.
    pub fn stop(&self, id: u32) {
        let node = self.node(id);
        let Some(mut child) = node.child().take() else {
            return;
        };

        signal(&child, "TERM");
        let since = Instant::now();
        while child.try_wait().expect("a status").is_none() {
            if since.elapsed() > Duration::from_secs(20) {
                child.kill().expect("killing a broker");
            }

            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Restarts a broker with its data and ports. Does not wait until the broker serves.
    pub fn restart(&self, id: u32) {
        self.node(id).start();
    }

    /// Waits until the broker logs, since its last start, the message of a complete start.
    pub fn wait_started(&self, id: u32) {
        self.node(id).wait_started();
    }

    /// Waits until every partition of every topic has a leader and all replicas in sync. Only then
    /// may the next broker fail.
    ///
    /// Kafka 4.4 forgets to end transactions on a partition without a leader ("these partitions are
    /// likely deleted already and hence can be skipped"). The records of such a transaction stay
    /// undecided, or share the fate of the next transaction, while the offsets are committed.
    pub fn wait_in_sync(&self, within: Duration) {
        let asker: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", self.direct())
            .set("log_level", "0")
            .create()
            .expect("a client");
        let since = Instant::now();
        loop {
            let why = match asker.fetch_metadata(None, Duration::from_secs(2)) {
                Ok(all) => {
                    let partitions = all
                        .topics()
                        .iter()
                        .flat_map(|t| t.partitions().iter().map(move |p| (t.name(), p)));
                    let mut behind = partitions
                        .filter(|(_, p)| p.leader() < 0 || p.isr().len() < self.replicas as usize);
                    match behind.next() {
                        None if all.brokers().len() == self.brokers.len() => return,
                        None => format!("{} brokers", all.brokers().len()),
                        Some((topic, p)) => format!(
                            "{topic}/{}: leader {}, in sync {:?}",
                            p.id(),
                            p.leader(),
                            p.isr()
                        ),
                    }
                }
                Err(e) => e.to_string(),
            };

            assert!(
                since.elapsed() < within,
                "the brokers are not in sync within {within:?}: {why}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// SIGSTOP: the broker keeps its connections and answers no request.
    pub fn freeze(&self, id: u32) {
        let node = self.node(id);
        signal(node.child().as_ref().expect("it runs"), "STOP");
        node.frozen.store(true, Ordering::Relaxed);
    }

    /// SIGCONT: the broker continues.
    pub fn thaw(&self, id: u32) {
        let node = self.node(id);
        if node.frozen.swap(false, Ordering::Relaxed) {
            signal(node.child().as_ref().expect("it runs"), "CONT");
        }
    }

    /// True if the broker process runs, frozen or not.
    pub fn runs(&self, id: u32) -> bool {
        self.node(id)
            .child()
            .as_mut()
            .is_some_and(|c| c.try_wait().expect("a status").is_none())
    }

    /// Path of the broker's log, for a person to read.
    pub fn log(&self, id: u32) -> PathBuf {
        self.node(id).dir.join("broker.log")
    }

    /// Directory of the whole cluster.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.brokers.iter().chain([&self.controller]) {
            if let Some(mut child) = node.child().take()
                && let Err(e) = child.kill().and_then(|()| child.wait())
            {
                eprintln!("ending broker {}: {e}", node.id);
            }
        }

        if std::thread::panicking() {
            eprintln!(
                "the brokers' logs and data stay in {} until the next run",
                self.dir.display()
            );
        } else if let Err(e) = fs::remove_dir_all(&self.dir) {
            eprintln!("removing {}: {e}", self.dir.display());
        }
    }
}

impl Node {
    fn new(id: u32, dir: &Path, heap: &'static str, properties: &str) -> Node {
        let dir = dir.join(id.to_string());
        fs::create_dir_all(&dir).expect("a directory for the broker");
        fs::write(dir.join("server.properties"), properties).expect("server.properties");
        Node {
            id,
            dir,
            heap,
            direct: String::new(),
            proxied: String::new(),
            child: Mutex::default(),
            frozen: AtomicBool::default(),
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn start(&self) {
        let mut child = self.child();
        assert!(child.is_none(), "broker {} is running", self.id);
        let file = self.dir.join("broker.log");

        // Each life of the broker starts a new log file. Otherwise a search would find lines of an
        // older life.
        if file.exists() {
            fs::rename(&file, self.dir.join("broker.log.before")).expect("broker.log");
        }

        let log = fs::File::create(&file).expect("broker.log");
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "java",
            self.heap,
            "-Xms64m",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
        ]);

        command.args([
            "-cp",
            &classpath(),
            "kafka.Kafka",
            &self.path("server.properties"),
        ]);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("broker.log"))
            .stderr(log);
        *child = Some(spawn_for_life(command));
    }

    fn wait_started(&self) {
        // After SIGKILL a broker checks more than a hundred partitions, on a machine under load.
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let log = read_from(&self.dir.join("broker.log"), 0);
            if log.contains(STARTED) {
                return;
            }

            let ended = self.child().as_mut().map(|c| c.try_wait());
            let ended = matches!(ended, None | Some(Ok(Some(_)) | Err(_)));
            assert!(
                !ended && Instant::now() < deadline,
                "broker {} did not start; its log:\n{log}",
                self.id
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Further lines for the properties of the controller and of the brokers.
type Settings = &'static [&'static str; 2];

/// Leaders move back to their preferred broker soon after a broker returns. Each return thus causes
/// one more move of leaders and coordinators. Groups, timeouts and elections are quick, and Kafka's
/// internal topics are small.
const QUICK: Settings = &[
    "leader.imbalance.check.interval.seconds=5
leader.imbalance.per.broker.percentage=0
",
    "auto.create.topics.enable=false
offsets.topic.num.partitions=6
transaction.state.log.num.partitions=6
group.initial.rebalance.delay.ms=0
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
num.replica.fetchers=1
num.network.threads=2
num.io.threads=4
log.cleaner.backoff.ms=2000
log.cleaner.dedupe.buffer.size=8388608
",
];

/// Each of the three brokers has 400 MB of heap, too little for the cleaner's default of 128 MB.
/// With the smaller buffer the cleaner only needs more rounds.
const AS_SHIPPED: Settings = &["", "log.cleaner.dedupe.buffer.size=8388608\n"];

fn controller_properties(quorum: u16, replicas: u32, data: &Path, settings: Settings) -> String {
    let in_sync = replicas.div_ceil(2);
    format!(
        "process.roles=controller
node.id={CONTROLLER}
controller.quorum.voters={CONTROLLER}@127.0.0.1:{quorum}
listeners=CONTROLLER://127.0.0.1:{quorum}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT
log.dirs={}
# It is the controller that gives new topics their defaults; what brokers say of them does not count.
default.replication.factor={replicas}
min.insync.replicas={in_sync}
unclean.leader.election.enable=false
{}",
        data.display(),
        settings[0]
    )
}

#[allow(clippy::too_many_arguments, reason = "all of it goes into one text")]
fn broker_properties(
    id: u32,
    replicas: u32,
    quorum: u16,
    advertised: &str,
    client: u16,
    direct: u16,
    data: &Path,
    settings: Settings,
) -> String {
    let in_sync = replicas.div_ceil(2);
    format!(
        "process.roles=broker
node.id={id}
controller.quorum.voters={CONTROLLER}@127.0.0.1:{quorum}
listeners=CLIENT://127.0.0.1:{client},DIRECT://127.0.0.1:{direct}
advertised.listeners=CLIENT://{advertised},DIRECT://127.0.0.1:{direct}
inter.broker.listener.name=DIRECT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,CLIENT:PLAINTEXT,DIRECT:PLAINTEXT
log.dirs={}
unclean.leader.election.enable=false
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
{}",
        data.display(),
        settings[1]
    )
}
