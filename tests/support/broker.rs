//! A real Apache Kafka for tests and benches, without Docker: jars through Maven (once, into a
//! cache directory), one node, free ports, a directory of its own.
//!
//! One broker per test binary ([`shared`]). Topic prefixes and groups keep the tests apart. Tests
//! that stop or kill a broker start their own.
//!
//! The broker dies with the thread that started it (`setpriv --pdeathsig`), so a killed test run
//! leaves no broker behind. That thread lives as long as the process.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

const INSTALL: &str = "apt-get install -y openjdk-17-jre-headless maven";
const POM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/kafka-pom.xml");

/// A broker, running or stopped.
pub struct Broker {
    /// `127.0.0.1:port`.
    pub address: String,
    dir: PathBuf,
    child: Mutex<Option<Child>>,
    fast: bool,
    crashed: AtomicBool,
    /// Environment variables of the broker process.
    env: Vec<(String, String)>,
}

/// The broker of this test binary, started on first use.
pub fn shared() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(Broker::start)
}

/// A topic prefix that no other test of this process uses.
pub fn unique_prefix(test: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{test}-{}-{}-",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The default interval of a broker. A timed-out transaction may stay open for this extra time.
pub const DEFAULT_ABORTS: &str =
    "transaction.abort.timed.out.transaction.cleanup.interval.ms=10000";

impl Broker {
    /// Starts a broker with settings for tests: small, quick to start and to stop.
    pub fn start() -> Broker {
        Broker::start_with(&[], true)
    }

    /// Starts a broker with full JIT compilation, for measurements.
    pub fn start_for_measuring() -> Broker {
        Broker::start_with(&[], false)
    }

    /// Starts a broker with further `key=value` lines in its `server.properties`. These lines
    /// override the lines of the tests.
    pub fn start_with(extra: &[&str], fast: bool) -> Broker {
        Broker::start_under(extra, fast, Vec::new())
    }

    /// As [`Broker::start_with`], with further variables in the environment of the broker process.
    pub fn start_under(extra: &[&str], fast: bool, env: Vec<(String, String)>) -> Broker {
        sweep();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "processor-kafka-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a directory for the broker");
        let client = free_port();
        let controller = free_port();
        let address = format!("127.0.0.1:{client}");
        fs::write(
            dir.join("controller.properties"),
            controller_properties(controller, &dir.join("data")),
        )
        .expect("controller.properties");
        let mut properties = properties(client, controller, &dir.join("data"));
        for line in extra {
            properties.push_str(line);
            properties.push('\n');
        }

        fs::write(dir.join("server.properties"), properties).expect("server.properties");
        let broker = Broker {
            address,
            dir,
            child: Mutex::new(None),
            fast,
            crashed: AtomicBool::new(false),
            env,
        };

        let id = broker.tool(&["random-uuid"]);
        broker.tool(&[
            "format",
            "-t",
            id.lines().last().unwrap_or_default().trim(),
            "-c",
            &broker.path("server.properties"),
        ]);

        broker.restart();
        broker
    }

    /// Sends a request that our client libraries cannot send, in the old form of Kafka's protocol:
    /// kind and version, then the fields. The answer must have one result without an error.
    pub fn ask(&self, (api, version): (u16, u16), fields: &[u8], what: &str) {
        let mut stream = TcpStream::connect(&self.address).expect("the broker takes connections");
        let answer = ask(&mut stream, (api, version), fields);

        // Bytes of the answer: throttle time, number of results, error of the first result.
        assert_eq!(
            answer[8..10],
            [0, 0],
            "the broker refused {what}: {answer:?}"
        );
    }

    /// Restarts the broker after [`Broker::kill`] or [`Broker::stop`], on the same port with the
    /// same data.
    pub fn restart(&self) {
        if self.crashed.swap(false, Ordering::Relaxed) {
            self.fence();
        }

        let mut child = self.child.lock().expect("broker lock");
        assert!(child.is_none(), "the broker is running");
        *child = Some(self.java("server.properties", "Kafka Server started"));
    }

    /// Runs only the controller until the controller fences the dead broker. A controller on
    /// another machine would have fenced the broker in the meantime.
    ///
    /// A single node that is killed and restarted at once takes up its old leaderships. The session
    /// of its former life then runs out, and the controller fences the broker in the middle of that
    /// work. At that moment the broker may skip transaction markers and still record the
    /// transactions as finished ("these partitions are likely deleted already"). The log then shows
    /// aborted records, or never shows committed records. No client can prevent this. With
    /// controllers that survive, this cannot happen.
    fn fence(&self) {
        let mut controller = self.java("controller.properties", "Fencing broker 1");

        // The controller logs the fencing before the fencing is on disk. A stop at that moment
        // would lose the fencing, and the log does not show when the write is done.
        std::thread::sleep(Duration::from_millis(500));
        signal(&controller, "TERM");
        controller.wait().expect("the controller's end");
    }

    /// Starts a node and waits until the node logs `ready`.
    fn java(&self, properties: &str, ready: &str) -> Child {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("broker.log"))
            .expect("broker.log");
        let before = log.metadata().expect("broker.log").len();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "java", "-Xmx512m", "-Xms128m"]);
        if self.fast {
            command.arg("-XX:TieredStopAtLevel=1");
        }

        command.args(["-cp", &classpath(), "kafka.Kafka", &self.path(properties)]);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("broker.log"))
            .stderr(log);
        let mut child = spawn_for_life(command);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let new = read_from(&self.dir.join("broker.log"), before);
            if new.contains(ready) {
                return child;
            }

            let ended = child.try_wait().ok().flatten();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the broker did not start ({ended:?}); its log:\n{new}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().expect("broker lock").take() {
            child.kill().expect("killing the broker");
            child.wait().expect("the broker's end");
            self.crashed.store(true, Ordering::Relaxed);
        }
    }

    /// SIGTERM; waits for the end of the broker.
    pub fn stop(&self) {
        self.signal("TERM");
        if let Some(mut child) = self.child.lock().expect("broker lock").take() {
            child.wait().expect("the broker's end");
        }
    }

    /// SIGSTOP: the broker keeps its connections and answers no request.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT: the broker continues.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// The data directory. Each partition has a subdirectory: topic name, dash, partition number.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Changes settings for the next start. The later of two lines for one setting counts.
    pub fn set(&self, lines: &[&str]) {
        let path = self.dir.join("server.properties");
        let mut text = fs::read_to_string(&path).expect("server.properties");
        lines.iter().for_each(|line| text.extend([line, "\n"]));
        fs::write(path, text).expect("server.properties");
    }

    /// All log lines of the broker.
    pub fn log(&self) -> String {
        read_from(&self.dir.join("broker.log"), 0)
    }

    fn signal(&self, name: &str) {
        let child = self.child.lock().expect("broker lock");
        signal(child.as_ref().expect("the broker is running"), name);
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn tool(&self, args: &[&str]) -> String {
        storage_tool(args)
    }
}

/// Runs Kafka's tool that formats data directories; returns the output.
pub fn storage_tool(args: &[&str]) -> String {
    let mut command = Command::new("java");
    command
        .args([
            "-XX:TieredStopAtLevel=1",
            "-cp",
            &classpath(),
            "kafka.tools.StorageTool",
        ])
        .args(args);

    let out = command
        .output()
        .unwrap_or_else(|e| panic!("java: {e}; install it: {INSTALL}"));
    assert!(
        out.status.success(),
        "StorageTool {args:?}:\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = self
            .child
            .lock()
            .map(|mut c| c.take())
            .unwrap_or_default()
            .as_mut()
        {
            let ended = child.kill().and_then(|()| child.wait());
            if let Err(e) = ended {
                eprintln!("ending the broker: {e}");
            }
        }

        if std::thread::panicking() {
            eprintln!(
                "the broker's log and data stay in {} until the next run",
                self.dir.display()
            );
            return;
        }

        if let Err(e) = fs::remove_dir_all(&self.dir) {
            eprintln!("removing {}: {e}", self.dir.display());
        }
    }
}

pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let done = Command::new("kill")
        .args(["-s", name, &pid])
        .status()
        .expect("kill");
    assert!(done.success(), "kill -s {name} {pid}");
}

fn properties(client: u16, controller: u16, data: &Path) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{client}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.retention.check.interval.ms=1000
log.cleaner.backoff.ms=500
",
        data.display()
    )
}

/// Settings of a controller without a broker. Short timeouts let the controller notice a dead
/// broker fast.
fn controller_properties(controller: u16, data: &Path) -> String {
    format!(
        "process.roles=controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT
log.dirs={}
broker.session.timeout.ms=300
broker.heartbeat.interval.ms=100
",
        data.display()
    )
}

/// The jars, fetched on first use.
pub fn classpath() -> String {
    static JARS: OnceLock<PathBuf> = OnceLock::new();
    let jars = JARS.get_or_init(|| {
        let version = pom_version();
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|h| h.join(".cache")));
        let root = cache
            .expect("a home directory")
            .join("processor")
            .join(format!("kafka-{version}"));
        let jars = root.join("lib");
        if root.join("complete").exists() {
            return jars;
        }

        fs::create_dir_all(&root).expect("the cache directory");
        eprintln!(
            "fetching Apache Kafka {version} into {} (once)",
            jars.display()
        );
        let out = Command::new("mvn")
            .args([
                "-q",
                "-B",
                "-f",
                POM,
                "dependency:copy-dependencies",
                "-DincludeScope=runtime",
            ])
            .arg(format!("-DoutputDirectory={}", jars.display()))
            .output()
            .unwrap_or_else(|e| panic!("mvn: {e}; install it: {INSTALL}"));

        let said = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success(),
            "Maven could not fetch Apache Kafka (is there a network?):\n{said}"
        );

        // This file is written last, so an interrupted fetch starts again.
        fs::write(root.join("complete"), "").expect("the cache directory");
        jars
    });

    jars.join("*").display().to_string()
}

/// Reads the version from the pom, the only place that pins it.
fn pom_version() -> String {
    let pom = fs::read_to_string(POM).expect("the pom");
    let after = pom
        .split("<artifactId>kafka_2.13</artifactId>")
        .nth(1)
        .and_then(|s| s.split("<version>").nth(1));
    after
        .and_then(|s| s.split('<').next())
        .expect("a version in the pom")
        .to_string()
}

/// Returns a port that no other test program takes before this one ends. The port is below the
/// range from which the kernel gives ports to connections: a broker that restarts would find a port
/// of that range taken.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    static TAKEN: Mutex<Vec<fs::File>> = Mutex::new(Vec::new());

    let locks = std::env::temp_dir().join("processor-ports");
    fs::create_dir_all(&locks).expect("a directory for locks of ports");
    let mut taken = TAKEN.lock().expect("ports");
    let begin = std::process::id() as u16 % PORTS.len() as u16;
    for n in 0..PORTS.len() as u16 {
        let port = PORTS.start + (begin + n) % PORTS.len() as u16;
        let lock = fs::File::create(locks.join(port.to_string())).expect("the lock of a port");
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.push(lock);
            return port;
        }
    }

    panic!("no port from {PORTS:?} is free");
}

/// Starts a process from a thread that never ends. `pdeathsig` is bound to the starting thread, and
/// test threads end early.
pub fn spawn_for_life(command: Command) -> Child {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static KEEPER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (to, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in jobs {
                reply
                    .send(command.spawn())
                    .expect("somebody waits for the process");
            }
        });

        Mutex::new(to)
    });

    let (reply, answer) = mpsc::channel();
    keeper
        .lock()
        .expect("keeper lock")
        .send((command, reply))
        .expect("the keeper lives");
    answer
        .recv()
        .expect("the keeper answers")
        .unwrap_or_else(|e| {
            panic!("starting java under setpriv: {e}; install it: {INSTALL} util-linux")
        })
}

pub fn read_from(path: &Path, at: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = fs::File::open(path) {
        let read = file
            .seek(SeekFrom::Start(at))
            .and_then(|_| file.read_to_end(&mut bytes));
        if let Err(e) = read {
            return format!("{}: {e}", path.display());
        }
    }

    String::from_utf8_lossy(&bytes).into_owned()
}

/// Removes directories of brokers whose test process has ended. A killed test run cannot remove its
/// own.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };

    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name
            .strip_prefix("processor-kafka-")
            .and_then(|n| n.split('-').next())
        else {
            continue;
        };

        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            // Another process may remove the same directory at the same time.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// Sends one request of Kafka's protocol in the old form. Returns the answer without its
/// correlation id.
pub fn ask(stream: &mut TcpStream, (api, version): (u16, u16), fields: &[u8]) -> Vec<u8> {
    let request = [
        &api.to_be_bytes()[..],
        &version.to_be_bytes(),
        &7_u32.to_be_bytes(),
        &wire_text("test"),
        fields,
    ]
    .concat();

    stream
        .write_all(&u32::try_from(request.len()).expect("short").to_be_bytes())
        .expect("sent");
    stream.write_all(&request).expect("sent");
    let mut size = [0; 4];
    stream.read_exact(&mut size).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut answer).expect("an answer");
    answer.split_off(4)
}

/// A string in Kafka's protocol: length, then bytes.
pub fn wire_text(s: &str) -> Vec<u8> {
    [
        &u16::try_from(s.len()).expect("short").to_be_bytes()[..],
        s.as_bytes(),
    ]
    .concat()
}
