//! All parts of the storm, driven by one thread, because an instance belongs to the thread of its
//! start.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::simulate::Rng;
use ports::Log;

use crate::clients::Client;
use crate::crew::Crew;
use crate::nemesis::{Nemesis, ms};
use crate::silence::{Owners, Troubles, Whom};
use crate::support::process::Installation;
use crate::traffic::Flood;

/// Interval at which instances are asked for their tasks.
const ASK: Duration = Duration::from_millis(500);
/// Time limit of one command.
const COMMAND: Duration = Duration::from_secs(180);
/// Time for which a partition has a backlog after a burst.
const BACKLOG: Duration = Duration::from_secs(60);

/// All parts of a running storm.
pub struct Site<'a> {
    pub crew: Crew,
    pub nemesis: Nemesis<'a>,
    pub troubles: Troubles,
    pub owners: Owners,
    pub installation: Installation,
    /// Addresses without the proxies, for operators.
    pub direct: String,
    pub log: Arc<dyn Log>,
    pub partitions: u32,
    pub floods: Floods,
    pub began: Instant,
    pub time: Duration,
    pub asked: Instant,
    pub loud: bool,
}

/// Bursts of a user into a partition.
pub struct Floods {
    pub client: Client,
    pub rng: Rng,
    pub next: Instant,
    pub made: u64,
    pub size: u64,
    pub partitions: u32,
}

impl Floods {
    fn tend(&mut self, troubles: &Troubles) -> Option<u32> {
        if Instant::now() < self.next {
            return None;
        }

        let partition = Flood::partition(self.made, self.partitions);
        troubles.lasting("flood", Whom::Partition(partition), BACKLOG);
        self.client.burst(self.size);
        self.made += 1;
        self.next = Instant::now() + ms(&mut self.rng, 60_000, 100_000);
        Some(partition)
    }
}

impl Site<'_> {
    /// True if no new fault may begin.
    pub fn is_over(&self) -> bool {
        self.began.elapsed() >= self.time || !self.crew.findings.is_empty()
    }

    /// One round; call again and again.
    pub fn tend(&mut self) {
        if !self.is_over() {
            self.nemesis.tend(&mut self.crew);
            if let Some(partition) = self.floods.tend(&self.troubles) {
                self.say(&format!(
                    "flood of {} commands into partition {partition}",
                    self.floods.size
                ));
            }
        }

        self.crew.tend();
        if self.asked.elapsed() >= ASK {
            self.asked = Instant::now();
            self.crew.note_owners(&mut self.owners);
        }

        std::thread::sleep(Duration::from_millis(20));
    }

    pub fn say(&self, what: &str) {
        if self.loud {
            println!("{:>7.1} s: {what}", self.began.elapsed().as_secs_f64());
        }
    }

    /// Waits until `done` holds, while the storm goes on.
    pub fn until(
        &mut self,
        what: &str,
        within: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        let began = Instant::now();
        while !done(self) {
            if began.elapsed() > within {
                return Err(format!("not within {within:?}: {what}"));
            }

            self.tend();
        }

        Ok(())
    }

    /// Repeats `work`, which may block, in a separate thread until it succeeds.
    pub fn aside(
        &mut self,
        what: &str,
        mut work: impl FnMut() -> bool + Send + 'static,
    ) -> Result<(), String> {
        let tries = move || {
            let began = Instant::now();
            while !work() {
                if began.elapsed() > COMMAND {
                    return false;
                }

                std::thread::sleep(Duration::from_millis(200));
            }

            true
        };

        let thread = std::thread::spawn(tries);
        while !thread.is_finished() {
            self.tend();
        }

        if thread.join().expect("no panic") {
            Ok(())
        } else {
            Err(format!("not within {COMMAND:?}: {what}"))
        }
    }

    /// Runs a command of the program to its end; returns exit code and output.
    pub fn command(&mut self, args: &[&str]) -> Result<(Option<i32>, String), String> {
        let mut past_the_proxies = self.installation.clone();
        past_the_proxies.brokers.clone_from(&self.direct);
        let mut command = past_the_proxies.command(args);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let thread = std::thread::spawn(move || child.wait_with_output());
        while !thread.is_finished() {
            self.tend();
        }

        let out = thread
            .join()
            .expect("no panic")
            .map_err(|e| e.to_string())?;
        Ok((
            out.status.code(),
            format!(
                "{}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            ),
        ))
    }

    /// Repeats the command until it ends as expected, because brokers are sometimes away.
    pub fn until_command(
        &mut self,
        what: &str,
        args: &[&str],
        good: impl Fn(Option<i32>, &str) -> bool,
    ) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let (code, text) = self.command(args)?;
            if good(code, &text) {
                return Ok(());
            }

            if began.elapsed() > COMMAND {
                return Err(format!(
                    "not within {COMMAND:?}: {what}; the last time {args:?} ended with {code:?}: {text}"
                ));
            }
        }
    }
}
