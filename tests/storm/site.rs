//! Everything that goes on at the same time, seen from the one thread that drives it: instances
//! belong to the thread that has started them.

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

/// How often instances are asked which tasks they run.
const ASK: Duration = Duration::from_millis(500);
/// Longest that one command may take.
const COMMAND: Duration = Duration::from_secs(180);
/// After a burst its partition has a backlog for so long.
const BACKLOG: Duration = Duration::from_secs(60);

/// See the module.
pub struct Site<'a> {
    pub crew: Crew,
    pub nemesis: Nemesis<'a>,
    pub troubles: Troubles,
    pub owners: Owners,
    pub installation: Installation,
    /// Past the proxies: what operators use.
    pub direct: String,
    pub log: Arc<dyn Log>,
    pub partitions: u32,
    pub floods: Floods,
    pub began: Instant,
    pub time: Duration,
    pub asked: Instant,
    pub loud: bool,
}

/// Bursts of one user into one partition.
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
    /// Whether nothing new goes wrong any more.
    pub fn is_over(&self) -> bool {
        self.began.elapsed() >= self.time || !self.crew.findings.is_empty()
    }

    /// One round; to be called again and again.
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

    /// Waits for something while all goes on.
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

    /// Tries something that may block, in a thread of its own, until it works.
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

    /// Runs a command of the program to its end; its exit code and what it said.
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

    /// Runs it again until it ends as it should: brokers are away now and then.
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
