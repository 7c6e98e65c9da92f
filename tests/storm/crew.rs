//! All instances of the installation and their supervisor. The supervisor restarts killed and
//! failed instances, as a service manager would. A replaced process must end and is not restarted.
//! An exit code that demands a person's attention is a finding.

use std::collections::{BTreeMap, BTreeSet};
use std::io::PipeReader;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use processor::runtime::status::{InstancePhase, InstanceStatus};

use crate::nemesis::set_clock;
use crate::silence::Owners;
use crate::support::process::{Installation, Process, tail};

/// Role and instance number.
pub type Name = (&'static str, u32);

/// Time for a replaced process to notice its replacement. Longer is a finding.
const NOTICE: Duration = Duration::from_secs(120);
/// Time limit of a graceful stop, which may take long while brokers are down. Afterwards the
/// process is killed, as a service manager would do.
const STOP: Duration = Duration::from_secs(60);

/// Counters of actions and results.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub kills: u64,
    pub pauses: u64,
    pub stops: u64,
    pub starts: u64,
    pub twins: u64,
    pub fences: u64,
    /// Fenced although no second process was known: a late request of a killed process.
    pub fences_by_the_dead: u64,
    pub failures: u64,
    pub wipes: u64,
    /// Instances that ended as documented after an operator's mistake.
    pub as_documented: u64,
    pub recoveries: u64,
    pub repeats: u64,
}

/// The position of one instance.
struct Post {
    process: Option<Copy>,
    wanted: bool,
    restart_at: Instant,
}

/// One process of an instance.
struct Copy {
    process: Process,
    thaw_at: Option<Instant>,
    /// Time of its stop signal.
    stopping: Option<Instant>,
    second_state: bool,
    last: InstanceStatus,
    /// Read end of its stderr, and the time at which reading stops.
    read_by: Option<(PipeReader, Instant)>,
    /// The log file is empty, because stderr went into a pipe.
    unheard: bool,
}

/// A replaced process, and the time since which it could notice.
struct Older {
    name: Name,
    copy: Copy,
    since: Instant,
}

/// Expected end of instances after an operator's mistake.
pub struct Expected {
    /// None means any role.
    pub role: Option<&'static str>,
    pub code: i32,
    /// Text of its last message.
    pub text: &'static str,
    /// Instances that have ended in this way.
    pub met: BTreeSet<Name>,
}

/// Supervises all instances.
pub struct Crew {
    /// With the usual state directory, and with another directory for twins.
    installations: [Installation; 2],
    clocks: Option<PathBuf>,
    posts: BTreeMap<Name, Post>,
    older: Vec<Older>,
    /// Time at which a name last had two processes, or a killed one.
    disputed: BTreeMap<Name, Instant>,
    /// Roles that an operator keeps down.
    kept_down: BTreeSet<&'static str>,
    /// Expected end of instances at the moment.
    pub expected: Option<Expected>,
    pub counts: Counts,
    pub findings: Vec<String>,
}

impl Crew {
    /// `clocks`: the library that moves an instance's wall clock.
    pub fn new(installation: Installation, clocks: Option<PathBuf>) -> Crew {
        let mut second = installation.clone();
        second.state = second.state.with_extension("second");
        let posts = BTreeMap::new();
        let older = Vec::new();
        let disputed = BTreeMap::new();
        let counts = Counts::default();
        let findings = Vec::new();
        let kept_down = BTreeSet::new();
        Crew {
            installations: [installation, second],
            clocks,
            posts,
            older,
            disputed,
            kept_down,
            expected: None,
            counts,
            findings,
        }
    }

    /// Runs this instance from now on.
    pub fn want(&mut self, name: Name) {
        let post = self.posts.entry(name).or_insert(Post {
            process: None,
            wanted: true,
            restart_at: Instant::now(),
        });

        post.wanted = true;
    }

    /// Instances that should run.
    pub fn wanted(&self) -> Vec<Name> {
        self.posts
            .iter()
            .filter(|(_, p)| p.wanted)
            .map(|(n, _)| *n)
            .collect()
    }

    /// A command joined as the role's instances for a moment, so instances may have been fenced.
    pub fn places_were_taken(&mut self, role: &str) {
        let names = self.of(role);
        self.disputed
            .extend(names.into_iter().map(|name| (name, Instant::now())));
    }

    /// Instances with a process to attack, frozen ones included.
    pub fn running(&self) -> Vec<Name> {
        let up = |p: &&Post| p.process.as_ref().is_some_and(|c| c.stopping.is_none());
        self.posts
            .iter()
            .filter(|(_, p)| up(p))
            .map(|(n, _)| *n)
            .collect()
    }

    /// Records the tasks that each running instance reports.
    pub fn note_owners(&self, owners: &mut Owners) {
        for (name, post) in &self.posts {
            let Some(copy) = &post.process else { continue };
            let said = status(
                &self.installations[usize::from(copy.second_state)],
                *name,
                &copy.process,
            );
            for task in said
                .into_iter()
                .flat_map(|s| s.tasks)
                .filter(|t| t.state == InstancePhase::Running)
            {
                owners.note(*name, task.task);
            }
        }
    }

    /// Keeps a role down from now on: running instances are stopped, and replaced processes are
    /// killed.
    pub fn keep_down(&mut self, role: &'static str) {
        self.kept_down.insert(role);
        for name in self.of(role) {
            if let Some(copy) = self.posts.get_mut(&name).and_then(|p| p.process.as_mut()) {
                copy.thaw_at = copy.thaw_at.map(|_| Instant::now());
            }
        }

        for older in self.older.iter_mut().filter(|o| o.name.0 == role) {
            older.copy.thaw_at = None;
            older.copy.process.kill9();
        }

        self.older.retain(|o| o.name.0 != role);
    }

    /// True if no process of a role runs any more.
    pub fn is_down(&mut self, role: &'static str) -> bool {
        let mut down = true;
        for name in self.of(role) {
            self.stop(name, Duration::ZERO);
            down &= self.posts[&name].process.is_none();
        }

        down
    }

    /// Lets the role run again, including instances that ended without a restart.
    pub fn release(&mut self, role: &'static str) {
        self.kept_down.remove(role);
        self.of(role)
            .into_iter()
            .for_each(|name| self.restart(name, Duration::ZERO));
    }

    /// Releases the role only if it is kept down.
    pub fn release_if_down(&mut self, role: &'static str) {
        if self.kept_down.contains(role) {
            self.release(role);
        }
    }

    /// Restarts instances that have ended as expected.
    pub fn start_the_expected(&mut self) -> BTreeSet<Name> {
        let met = self.expected.take().map(|e| e.met).unwrap_or_default();
        met.iter()
            .for_each(|name| self.restart(*name, Duration::ZERO));
        met
    }

    fn of(&self, role: &str) -> Vec<Name> {
        self.posts.keys().filter(|n| n.0 == role).copied().collect()
    }

    /// True if no other process uses this instance's directory.
    pub fn is_single(&self, name: Name) -> bool {
        self.older.iter().all(|o| o.name != name)
    }

    /// SIGHUP, which is a stop like SIGTERM.
    pub fn hang_up(&mut self, name: Name) {
        let Some(post) = self.posts.get_mut(&name) else {
            return;
        };

        let Some(copy) = post.process.as_mut() else {
            return;
        };

        if copy.thaw_at.is_none() && copy.stopping.is_none() && copy.process.is_running() {
            copy.process.signal(libc::SIGHUP);
            copy.stopping = Some(Instant::now());
            post.restart_at = Instant::now();
            self.counts.stops += 1;
        }
    }

    /// Kills the instance and restarts it with a pipe as stderr. The reader of the pipe stops after
    /// `after`.
    pub fn make_deaf(&mut self, name: Name, after: Duration) {
        self.kill9(name);
        if self.kept_down.contains(name.0) || !self.posts.contains_key(&name) {
            return;
        }

        let (read, write) = std::io::pipe().expect("a pipe");
        let copy = self.spawn_into(name, false, Some(write));
        let post = self.posts.get_mut(&name).expect("it has a post");
        post.process = Some(Copy {
            read_by: Some((read, Instant::now() + after)),
            unheard: true,
            ..copy
        });
    }

    fn spawn(&mut self, name: Name, second_state: bool) -> Copy {
        self.spawn_into(name, second_state, None)
    }

    fn spawn_into(
        &mut self,
        name: Name,
        second_state: bool,
        words: Option<std::io::PipeWriter>,
    ) -> Copy {
        self.counts.starts += 1;
        let mut environment = Vec::new();
        let clock = self.clock_file(name);
        if !clock.exists() {
            set_clock(&clock, 0);
        }

        let clock = clock.display().to_string();
        let library = self.clocks.as_ref().map(|l| l.display().to_string());
        if let Some(library) = &library {
            environment.extend([
                ("LD_PRELOAD", library.as_str()),
                ("CLOCK_OFFSET_FILE", clock.as_str()),
            ]);
        }

        let installation = &self.installations[usize::from(second_state)];
        let process = match words {
            None => installation.start_with(name.0, name.1, &environment),
            Some(words) => installation.start_into(name.0, name.1, &environment, words.into()),
        };

        Copy {
            process,
            thaw_at: None,
            stopping: None,
            second_state,
            last: InstanceStatus::default(),
            read_by: None,
            unheard: false,
        }
    }

    /// The file with the error of an instance's wall clock in seconds.
    pub fn clock_file(&self, name: Name) -> PathBuf {
        self.installations[0]
            .logs
            .join(format!("{}-{}.clock", name.0, name.1))
    }

    pub fn kill9(&mut self, name: Name) {
        let Some(mut copy) = self.posts.get_mut(&name).and_then(|p| p.process.take()) else {
            return;
        };

        self.count(name, &mut copy);
        copy.process.kill9();
        self.counts.kills += 1;
        self.disputed.insert(name, Instant::now());
        self.restart(name, Duration::ZERO);
    }

    fn restart(&mut self, name: Name, after: Duration) {
        if let Some(post) = self.posts.get_mut(&name) {
            post.restart_at = Instant::now() + after;
        }
    }

    /// SIGSTOP for some time.
    pub fn freeze(&mut self, name: Name, time: Duration) {
        let Some(copy) = self.posts.get_mut(&name).and_then(|p| p.process.as_mut()) else {
            return;
        };

        if copy.thaw_at.is_none() && copy.process.is_running() {
            copy.process.signal(libc::SIGSTOP);
            copy.thaw_at = Some(Instant::now() + time);
            self.counts.pauses += 1;
        }
    }

    /// SIGTERM; a wanted instance is restarted after a while.
    pub fn stop(&mut self, name: Name, again_after: Duration) {
        let Some(post) = self.posts.get_mut(&name) else {
            return;
        };

        let Some(copy) = post.process.as_mut() else {
            return;
        };

        if copy.thaw_at.is_none() && copy.stopping.is_none() && copy.process.is_running() {
            copy.process.signal(libc::SIGTERM);
            copy.stopping = Some(Instant::now());
            post.restart_at = Instant::now() + again_after;
            self.counts.stops += 1;
        }
    }

    /// Stops an instance for good.
    pub fn dismiss(&mut self, name: Name) {
        if let Some(post) = self.posts.get_mut(&name) {
            post.wanted = false;
        }

        self.stop(name, Duration::ZERO);
    }

    /// Starts a second process under the same name, over the same state directory or another. The
    /// older process is no longer supervised as the instance.
    pub fn twin(&mut self, name: Name, second_state: bool) {
        if self.kept_down.contains(name.0) {
            return;
        }

        let Some(copy) = self.posts.get_mut(&name).and_then(|p| p.process.take()) else {
            return;
        };

        self.counts.twins += 1;
        let since = copy
            .thaw_at
            .unwrap_or_else(Instant::now)
            .max(Instant::now());
        self.older.push(Older { name, copy, since });
        let newer = self.spawn(name, second_state);
        self.disputed.insert(name, since + NOTICE);
        self.posts.get_mut(&name).expect("it has a post").process = Some(newer);
    }

    fn directory(&self, name: Name) -> PathBuf {
        self.installations[0]
            .state
            .join(name.0)
            .join(name.1.to_string())
    }

    /// Kills the instance and replaces its local state by a copy of another instance's state. The
    /// copy is made while that instance runs.
    pub fn give_state_of(&mut self, name: Name, from: Name) {
        self.wipe(name);
        if self.is_single(name) {
            let from = self.directory(from);
            let to = self.directory(name);

            // Files come and go during the copy. A file that cannot be copied is missing in the
            // copy, as with any tool.
            let copied = std::process::Command::new("cp")
                .arg("-r")
                .arg(from.join("."))
                .arg(to)
                .stderr(std::process::Stdio::null())
                .status();
            copied.expect("cp can be run");
        }
    }

    /// Kills the instance and deletes its local state before the restart.
    pub fn wipe(&mut self, name: Name) {
        self.kill9(name);

        // An older process over the same directory would lose its open files, which is another
        // fault.
        if !self.is_single(name) {
            return;
        }

        let dir = self.directory(name);
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let gone = if entry.path().is_dir() {
                std::fs::remove_dir_all(entry.path())
            } else {
                std::fs::remove_file(entry.path())
            };

            gone.expect("a state directory can be deleted");
        }

        self.counts.wipes += 1;
    }

    /// Adds the counters in a process's status to the totals, once.
    fn count(&mut self, name: Name, copy: &mut Copy) {
        if let Some(last) = status(
            &self.installations[usize::from(copy.second_state)],
            name,
            &copy.process,
        ) {
            copy.last = last;
        }

        self.counts.recoveries += copy.last.counters.recoveries;
        self.counts.repeats += copy.last.counters.repeats_dropped;
        copy.last = InstanceStatus::default();
    }

    /// Supervises all instances; call often.
    pub fn tend(&mut self) {
        let now = Instant::now();
        for name in self.posts.keys().copied().collect::<Vec<_>>() {
            let post = self.posts.get_mut(&name).expect("just listed");
            if let Some(mut copy) = post.process.take() {
                if copy
                    .read_by
                    .as_mut()
                    .is_some_and(|(read, until)| !drained(read) || now >= *until)
                {
                    copy.read_by = None;
                }

                match attend(&mut copy, now) {
                    None => self.posts.get_mut(&name).expect("just listed").process = Some(copy),
                    Some(code) => self.ended(name, copy, code),
                }
            } else if post.wanted && now >= post.restart_at && !self.kept_down.contains(name.0) {
                let copy = self.spawn(name, false);
                self.posts.get_mut(&name).expect("just listed").process = Some(copy);
            }
        }

        for mut older in std::mem::take(&mut self.older) {
            match attend(&mut older.copy, now) {
                None if now > older.since + NOTICE => {
                    let log = tail(&older.copy.process.log);
                    self.findings.push(format!(
                        "{:?}: a copy that was replaced {NOTICE:?} ago still runs:\n{log}",
                        older.name
                    ));
                    older.copy.process.kill9();
                }
                None => self.older.push(older),
                Some(code) => self.older_ended(older, code),
            }
        }
    }

    fn ended(&mut self, name: Name, mut copy: Copy, code: Option<i32>) {
        self.count(name, &mut copy);
        let stopped = copy.stopping.is_some();
        if self.is_expected(name, code, &copy) {
            // Until the operator has followed the instruction.
            self.restart(name, Duration::from_secs(3_600));
            return;
        }

        match code {
            Some(0 | 1) if stopped => {}
            None if stopped => self.counts.kills += 1,
            Some(75) => {
                self.counts.fences += 1;

                // The older process may have been the last to join. In this case the older process
                // stays.
                if let Some(at) = self.older.iter().position(|o| o.name == name) {
                    let older = self.older.remove(at);
                    self.posts.get_mut(&name).expect("it has a post").process = Some(older.copy);
                } else if self
                    .disputed
                    .get(&name)
                    .is_none_or(|until| Instant::now() > *until + NOTICE)
                {
                    self.findings.push(format!(
                        "{name:?} was fenced, and nobody else was there:\n{}",
                        tail(&copy.process.log)
                    ));
                } else {
                    self.counts.fences_by_the_dead += 1;
                }

                self.restart(name, Duration::from_secs(2));
            }
            Some(1) => {
                self.counts.failures += 1;
                self.restart(name, Duration::from_secs(1));
            }
            // A frozen older process holds the directory.
            Some(78) if tail(&copy.process.log).contains("is held by") => {
                self.counts.failures += 1;
                self.restart(name, Duration::from_secs(2));
            }
            other => {
                self.findings.push(format!(
                    "{name:?} ended with {other:?}:\n{}",
                    tail(&copy.process.log)
                ));

                // An instance that needs a person's attention is not restarted.
                self.restart(name, Duration::from_secs(3_600));
            }
        }
    }

    fn is_expected(&mut self, name: Name, code: Option<i32>, copy: &Copy) -> bool {
        let Some(e) = &mut self.expected else {
            return false;
        };

        let said = copy.unheard || tail(&copy.process.log).contains(e.text);
        let as_documented = code == Some(e.code) && e.role.is_none_or(|r| r == name.0) && said;
        if as_documented {
            e.met.insert(name);
            self.counts.as_documented += 1;
        }

        as_documented
    }

    fn older_ended(&mut self, mut older: Older, code: Option<i32>) {
        self.count(older.name, &mut older.copy);
        if self.is_expected(older.name, code, &older.copy) {
            return;
        }

        match code {
            Some(75) => self.counts.fences += 1,
            // The process was being stopped, or failed for another reason before it noticed.
            Some(0 | 1) => self.counts.failures += 1,
            Some(78) if tail(&older.copy.process.log).contains("is held by") => {
                self.counts.failures += 1
            }
            other => self.findings.push(format!(
                "{:?}, a replaced copy, ended with {other:?}:\n{}",
                older.name,
                tail(&older.copy.process.log)
            )),
        }
    }

    /// Ends the trouble. Frozen processes are thawed, older processes get time to notice, and only
    /// the base instances run, over the usual state directory.
    pub fn settle(&mut self, base: &[Name]) {
        let now = Instant::now();
        for copy in self
            .posts
            .values_mut()
            .filter_map(|p| p.process.as_mut())
            .chain(self.older.iter_mut().map(|o| &mut o.copy))
        {
            copy.thaw_at = copy.thaw_at.map(|_| now);
        }

        while !self.older.is_empty() {
            self.tend();
            std::thread::sleep(Duration::from_millis(20));
        }

        for name in self.posts.keys().copied().collect::<Vec<_>>() {
            if !base.contains(&name) {
                self.dismiss(name);
            } else if self.posts[&name]
                .process
                .as_ref()
                .is_some_and(|c| c.second_state)
            {
                self.stop(name, Duration::ZERO);
            }
        }

        base.iter().for_each(|n| self.want(*n));
    }

    /// Stops all instances gracefully.
    pub fn stop_all(&mut self) {
        self.posts
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|n| self.dismiss(n));
        while self.posts.values().any(|p| p.process.is_some()) {
            self.tend();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Thaws a process at its time, and kills a process that stops too slowly. Returns the exit code
/// after its end (none: ended by a signal).
#[allow(
    clippy::option_option,
    reason = "not ended, ended by a signal, ended with a code"
)]
fn attend(copy: &mut Copy, now: Instant) -> Option<Option<i32>> {
    if copy.thaw_at.is_some_and(|at| now >= at) {
        copy.thaw_at = None;
        copy.process.signal(libc::SIGCONT);
    }

    if copy.stopping.is_some_and(|at| now > at + STOP) {
        copy.process.kill9();
        return Some(None);
    }

    if copy.process.is_running() {
        None
    } else {
        Some(copy.process.exit_code(Duration::from_secs(1)))
    }
}

/// Reads all bytes in a pipe, like a log reader; false after its writer has gone.
fn drained(read: &mut PipeReader) -> bool {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;
    let mut bytes = [0; 4096];
    loop {
        let mut ask = libc::pollfd {
            fd: read.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };

        // SAFETY: polls one descriptor, without waiting. The reference keeps the descriptor open.
        if unsafe { libc::poll(&mut ask, 1, 0) } <= 0 {
            return true;
        }
        if !matches!(read.read(&mut bytes), Ok(1..)) {
            return false;
        }
    }
}

fn status(installation: &Installation, name: Name, process: &Process) -> Option<InstanceStatus> {
    let bytes = std::fs::read(InstanceStatus::path(&installation.state, name.0, name.1)).ok()?;
    let status: InstanceStatus = serde_json::from_slice(&bytes).ok()?;
    (status.pid == process.id()).then_some(status)
}
