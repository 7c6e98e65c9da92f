//! All instances of one installation: running and killed instances, start times, and the contents
//! of their logs. An instance that ends without a stop request fails the test.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use processor::runtime::status::{InstancePhase, InstanceStatus};

use super::load::wait_for;
use super::process::{Installation, Process, tail};

/// Role and instance number.
pub type Name = (&'static str, u32);

/// Runs the instances and counts their starts and kills.
pub struct Fleet {
    installation: Installation,
    running: BTreeMap<Name, Member>,
    ended: Vec<Start>,
    /// Number of SIGKILLs per role.
    pub kills: BTreeMap<&'static str, u32>,
    /// Counters of ended instances: recoveries, and repeats that the sequence guard dropped.
    recoveries: u64,
    repeats: u64,
}

struct Member {
    process: Process,
    start: Start,
}

/// One start of an instance.
pub struct Start {
    name: Name,
    at: SystemTime,
    log: PathBuf,
    /// Range of this start in the log file. The end is none while the instance runs.
    from: usize,
    to: Option<usize>,
}

impl Start {
    fn text(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let to = self.to.unwrap_or(bytes.len()).min(bytes.len());
        String::from_utf8_lossy(&bytes[self.from.min(to)..to]).into_owned()
    }

    /// Marks the end in the log. Later lines belong to the next process.
    fn ended(mut self) -> Start {
        self.to = std::fs::metadata(&self.log).ok().map(|m| m.len() as usize);
        self
    }

    /// Time from the start to the first running task.
    fn until_running(&self) -> Option<Duration> {
        let text = self.text();
        let line = text.lines().find(|l| l.contains(": running "))?;
        let at: jiff::Timestamp = line.split_whitespace().next()?.parse().ok()?;
        SystemTime::from(at).duration_since(self.at).ok()
    }
}

impl Fleet {
    pub fn new(installation: Installation) -> Fleet {
        Fleet {
            installation,
            running: BTreeMap::new(),
            ended: Vec::new(),
            kills: BTreeMap::new(),
            recoveries: 0,
            repeats: 0,
        }
    }

    pub fn start(&mut self, name: Name) {
        assert!(!self.running.contains_key(&name), "{name:?} runs already");
        let member = self.spawn(name, &[]);
        self.running.insert(name, member);
    }

    /// Starts an instance that will abort at a crash point.
    pub fn start_armed(&mut self, name: Name, plan: &str) {
        assert!(!self.running.contains_key(&name), "{name:?} runs already");
        let member = self.spawn(name, &[("PROCESSOR_CRASH", plan)]);
        self.running.insert(name, member);
    }

    /// True if an armed instance has died at its crash point. Any other end, and the end of any
    /// other instance, fails the test.
    pub fn aborted(&mut self, name: Name, point: &str) -> bool {
        let mut armed = self.running.remove(&name).expect("it was started");
        self.check();
        let Some(status) = armed.process.ended() else {
            self.running.insert(name, armed);
            return false;
        };

        let said = armed.start.text();
        let at_point = said
            .lines()
            .any(|l| l.starts_with(&format!("crash point {point}: ")));
        assert!(
            status.signal() == Some(libc::SIGABRT) && at_point,
            "{name:?} did not die at {point} but of {status}:\n{said}"
        );
        self.running.insert(name, armed);
        true
    }

    /// Removes an aborted instance from the running instances; returns its log.
    pub fn bury(&mut self, name: Name) -> String {
        self.count(name);
        let dead = self.running.remove(&name).expect("it was started");
        *self.kills.entry(name.0).or_default() += 1;
        let dead = dead.start.ended();
        let said = dead.text();
        self.ended.push(dead);
        said
    }

    fn spawn(&self, name: Name, variables: &[(&str, &str)]) -> Member {
        let log = self.installation.log_of(name.0, name.1);
        let from = std::fs::metadata(&log).map_or(0, |m| m.len() as usize);
        let at = SystemTime::now();
        let process = self.installation.start_with(name.0, name.1, variables);
        Member {
            process,
            start: Start {
                name,
                at,
                log,
                from,
                to: None,
            },
        }
    }

    /// Starts a second process with the name of a running instance. Returns the older process,
    /// which the fleet no longer watches.
    pub fn start_again(&mut self, name: Name) -> Process {
        let newer = self.spawn(name, &[]);
        let older = self
            .running
            .insert(name, newer)
            .expect("the older one runs");
        self.ended.push(older.start);
        older.process
    }

    pub fn kill9(&mut self, name: Name) {
        self.count(name);
        let mut member = self.running.remove(&name).expect("it runs");
        assert!(
            member.process.is_running(),
            "{name:?} ended by itself:\n{}",
            tail(&member.process.log)
        );
        member.process.kill9();
        self.ended.push(member.start.ended());
        *self.kills.entry(name.0).or_default() += 1;
    }

    /// SIGTERM; the exit code must be 0.
    pub fn stop(&mut self, name: Name) {
        let member = self.running.remove(&name).expect("it runs");
        member.process.stop();
        self.count(name);
        self.ended.push(member.start.ended());
    }

    /// Stops all instances gracefully.
    pub fn stop_all(&mut self) {
        let names: Vec<Name> = self.running.keys().copied().collect();
        for name in names {
            self.stop(name);
        }
    }

    pub fn signal(&self, name: Name, signal: i32) {
        self.running[&name].process.signal(signal);
    }

    /// Fails the test if an instance ended without a stop request.
    pub fn check(&mut self) {
        for (name, member) in &mut self.running {
            if let Some(code) = member.process.exit_code(Duration::from_millis(1)) {
                panic!(
                    "{name:?} ended by itself with code {code}:\n{}",
                    tail(&member.process.log)
                );
            }
        }
    }

    /// Status file of an instance, if the present process has written one since its start.
    pub fn status(&self, name: Name) -> Option<InstanceStatus> {
        let bytes = std::fs::read(InstanceStatus::path(
            &self.installation.state,
            name.0,
            name.1,
        ))
        .ok()?;
        let status: InstanceStatus = serde_json::from_slice(&bytes).ok()?;
        let pid = self.running.get(&name)?.process.id();
        (status.pid == pid).then_some(status)
    }

    /// Running tasks of an instance, from a status written at or after `since_ms`.
    fn tasks(&self, name: Name, since_ms: i64) -> Vec<u32> {
        let status = self.status(name).filter(|s| s.updated_ms >= since_ms);
        let tasks = status.map(|s| s.tasks).unwrap_or_default();
        tasks
            .iter()
            .filter(|t| t.state == InstancePhase::Running)
            .map(|t| t.task)
            .collect()
    }

    /// True if the present process of an instance has run a task.
    pub fn works(&self, name: Name) -> bool {
        self.running[&name].start.until_running().is_some()
    }

    /// Waits until each of these instances runs a task and together they run all tasks of a role.
    pub fn wait_shared(
        &mut self,
        role: &'static str,
        instances: &[u32],
        all: u32,
        within: Duration,
    ) {
        let began = Instant::now();
        let since_ms = os::clock::wall_ms();
        wait_for(
            &format!("{role} shared by instances {instances:?}"),
            within,
            || {
                self.check();
                let shares: Vec<_> = instances
                    .iter()
                    .map(|i| self.tasks((role, *i), since_ms))
                    .collect();
                let mut tasks: Vec<u32> = shares.iter().flatten().copied().collect();
                tasks.sort_unstable();
                shares.iter().all(|s| !s.is_empty()) && tasks.into_iter().eq(0..all)
            },
        );

        println!(
            "  {role}: all tasks run in instances {instances:?} after {:.1} s",
            began.elapsed().as_secs_f64()
        );
    }

    fn count(&mut self, name: Name) {
        let bytes = std::fs::read(InstanceStatus::path(
            &self.installation.state,
            name.0,
            name.1,
        ))
        .unwrap_or_default();
        let Ok(status) = serde_json::from_slice::<InstanceStatus>(&bytes) else {
            return;
        };

        self.recoveries += status.counters.recoveries;
        self.repeats += status.counters.repeats_dropped;
    }

    /// Incarnations that were dropped and restarted within one process, from the status files.
    pub fn recoveries(&self) -> u64 {
        self.recoveries
    }

    /// Records that a sequence guard dropped, from the status files.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// Prints the start times of all instances that ran a task before they ended.
    pub fn print_starts(&self) {
        let mut by_role = BTreeMap::<&str, Vec<u128>>::new();
        let mut slow = Vec::new();
        for start in &self.ended {
            let Some(took) = start.until_running() else {
                continue;
            };

            by_role
                .entry(start.name.0)
                .or_default()
                .push(took.as_millis());
            if took > Duration::from_secs(2) {
                slow.push((start.name, took));
            }
        }

        for (role, mut took) in by_role {
            took.sort_unstable();
            let at = |percent: usize| took[(took.len() - 1) * percent / 100];
            println!(
                "  {role}: {} starts, ms to the first running task: min {} p50 {} p90 {} max {}",
                took.len(),
                at(0),
                at(50),
                at(90),
                at(100)
            );
        }

        for (name, took) in slow {
            println!("  slow start of {name:?}: {took:?}");
        }
    }

    /// All log lines of level warning or above, grouped by wording and counted, together with
    /// `recovering` lines. Lines of the client library are grouped only by kind.
    pub fn complaints(&self) -> BTreeMap<String, u32> {
        let mut found = BTreeMap::new();
        for file in std::fs::read_dir(&self.installation.logs)
            .expect("logs")
            .flatten()
        {
            let bytes = std::fs::read(file.path()).expect("a log");
            for line in String::from_utf8_lossy(&bytes).lines() {
                if line.contains(" WARN ")
                    || line.contains(" ERROR ")
                    || line.contains("panicked")
                    || line.starts_with("processor:")
                {
                    *found.entry(wording(line)).or_insert(0) += 1;
                }
            }
        }

        found
    }
}

/// A failed test prints the state of each instance, because the directory is deleted afterwards.
impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, member) in &self.running {
                println!(
                    "{name:?}: {:?}\n{}",
                    self.status(*name),
                    tail(&member.process.log)
                );
            }
        }
    }
}

/// A log line without its time and with placeholders for numbers, so that similar lines are equal.
fn wording(line: &str) -> String {
    let line = if line.starts_with("20") {
        line.split_once(' ').map_or(line, |(_, rest)| rest)
    } else {
        line
    };

    if line.contains(" librdkafka: ") {
        return line
            .split(": ")
            .take(2)
            .collect::<Vec<_>>()
            .join(": ")
            .trim()
            .to_string();
    }

    let mut out = String::new();
    for c in line.trim().chars() {
        match c {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            c => out.push(c),
        }
    }

    out
}
