//! A real Apache Kafka for tests and benches, without Docker: jars through Maven (once, into a
//! cache directory), one node, free ports, a directory of its own.
//!
//! One broker per test binary ([`shared`]); tests keep apart by topic prefix and group. Tests that
//! stop or kill a broker start their own. The broker dies with the thread that started it
//! (`setpriv --pdeathsig`), so that also a killed test run leaves nothing behind; that thread lives
//! as long as the process.

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

/// One running (or stopped) broker.
pub struct Broker {
    /// `127.0.0.1:port`.
    pub address: String,
    dir: PathBuf,
    child: Mutex<Option<Child>>,
    fast: bool,
    crashed: AtomicBool,
    /// Environment of its process.
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

/// As a broker is out of the box: a transaction whose time is up may stay open for so much longer.
pub const DEFAULT_ABORTS: &str =
    "transaction.abort.timed.out.transaction.cleanup.interval.ms=10000";

impl Broker {
    /// Starts a new one with settings for tests: small, and quick to start and stop.
    pub fn start() -> Broker {
        Broker::start_with(&[], true)
    }

    /// Starts a new one that is compiled fully, for measuring.
    pub fn start_for_measuring() -> Broker {
        Broker::start_with(&[], false)
    }

    /// Starts a new one with further `key=value` lines in its `server.properties`; they count more
    /// than those of the tests.
    pub fn start_with(extra: &[&str], fast: bool) -> Broker {
        Broker::start_under(extra, fast, Vec::new())
    }

    /// The same with further variables in the environment of its process.
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

    /// Sends a request that no client library of ours can send, in the old form of Kafka's
    /// protocol: kind and version, then the fields. The answer must have one result without an
    /// error.
    pub fn ask(&self, (api, version): (u16, u16), fields: &[u8], what: &str) {
        let mut stream = TcpStream::connect(&self.address).expect("the broker takes connections");
        let answer = ask(&mut stream, (api, version), fields);

        // Throttle time, number of results, and the first one's error.
        assert_eq!(
            answer[8..10],
            [0, 0],
            "the broker refused {what}: {answer:?}"
        );
    }

    /// Starts it again after [`Broker::kill`] or [`Broker::stop`], on the same port with the same
    /// data.
    pub fn restart(&self) {
        if self.crashed.swap(false, Ordering::Relaxed) {
            self.fence();
        }

        let mut child = self.child.lock().expect("broker lock");
        assert!(child.is_none(), "the broker is running");
        *child = Some(self.java("server.properties", "Kafka Server started"));
    }

    /// Lets the controller alone notice that the broker is dead, as a controller on another machine
    /// would have done meanwhile.
    ///
    /// A single node that is killed and started at once takes up its old leaderships, is fenced in
    /// the middle of that when the session of its former life runs out, and at that moment may
    /// record transactions as finished whose markers it has skipped ("these partitions are likely
    /// deleted already"): the log then shows aborted records, or never shows committed ones. No
    /// client can do anything about that, and with controllers that survive it cannot happen.
    fn fence(&self) {
        let mut controller = self.java("controller.properties", "Fencing broker 1");

        // It says so before it is on disk, and a stop at that moment would lose it; the log shows
        // nothing of the latter.
        std::thread::sleep(Duration::from_millis(500));
        signal(&controller, "TERM");
        controller.wait().expect("the controller's end");
    }

    /// Starts a node and waits until it logs `ready`.
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

    /// `kill -9`.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().expect("broker lock").take() {
            child.kill().expect("killing the broker");
            child.wait().expect("the broker's end");
            self.crashed.store(true, Ordering::Relaxed);
        }
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&self) {
        self.signal("TERM");
        if let Some(mut child) = self.child.lock().expect("broker lock").take() {
            child.wait().expect("the broker's end");
        }
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Where it keeps its partitions, each in a directory of its topic's name, a dash and its
    /// number.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Changes its settings, for the next start. Of two lines for one setting the later one counts.
    pub fn set(&self, lines: &[&str]) {
        let path = self.dir.join("server.properties");
        let mut text = fs::read_to_string(&path).expect("server.properties");
        lines.iter().for_each(|line| text.extend([line, "\n"]));
        fs::write(path, text).expect("server.properties");
    }

    /// What it logged.
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

/// Runs Kafka's tool that formats data directories; answers what it prints.
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

/// The controller without the broker, quick to notice that the latter is gone.
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

        // Written last: an interrupted fetch is done again.
        fs::write(root.join("complete"), "").expect("the cache directory");
        jars
    });

    jars.join("*").display().to_string()
}

/// The version is pinned in the pom and nowhere else.
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

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Starts a process from a thread that never ends: `pdeathsig` is bound to the thread, and test
/// threads come and go.
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

/// Removes directories of brokers whose test process is gone; a killed run cannot do it itself.
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
            // Another process may be sweeping too.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// One request of Kafka's protocol, in its old form; the answer without its correlation number.
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

/// A text as Kafka's protocol has it: its length, then its bytes.
pub fn wire_text(s: &str) -> Vec<u8> {
    [
        &u16::try_from(s.len()).expect("short").to_be_bytes()[..],
        s.as_bytes(),
    ]
    .concat()
}
