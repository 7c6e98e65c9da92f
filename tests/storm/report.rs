//! The result of a storm: its settings, its faults, and any lost, doubled or wrong record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ports::Log;
use ports::topics::{TopicId, TopicTable};
use wire::topics as t;

use crate::books::{self, Evidence};
use crate::clients::{self, Story, Summary};
use crate::crew::{self, Crew};
use crate::nemesis::Counts;
use crate::silence::Silence;
use crate::support::cluster::Cluster;
use crate::support::follower::{self, Follower};
use crate::support::oracle::{self, Seen, read_all};
use crate::support::process::Installation;
use crate::support::proxy;
use crate::support::rest;
use crate::traffic::is_book_user;

/// One cause may have hundreds of consequences.
const FINDINGS_SHOWN: usize = 40;

/// Limit for the silence of a calm partition. It holds even if a dozen processes and three brokers
/// share two cores with other programs.
const CALM_MAX: Duration = Duration::from_secs(30);

/// All counters and findings of a run.
pub struct Report {
    seed: u64,
    time: Duration,
    pub broker_faults: u64,
    kinds: BTreeMap<String, u64>,
    clients: Summary,
    pub floods: u64,
    pub silence: Silence,
    books: books::Verdict,
    /// Falsified copies of the evidence that the judge of the books has recognised.
    falsified: u64,
    rest: Duration,
    crew: crew::Counts,
    events: usize,
    trades: usize,
    notifications: usize,
    audit_entries: usize,
    transactions: u64,
    unknown_commits: u64,
    end_txn: u64,
    held: u64,
    orphans: u64,
    refused: u64,
    lost: u64,
    duplicated: u64,
    digest_mismatches: u64,
    compared: u64,
    findings: Vec<String>,
    kept: Option<String>,
}

/// Runs a check; a panic becomes a finding.
fn guarded<T>(findings: &mut Vec<String>, what: &str, check: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(check)) {
        Ok(found) => Some(found),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or(panic.downcast_ref::<&str>().copied());
            findings.push(format!("{what}: {}", text.unwrap_or("panicked")));
            None
        }
    }
}

impl Report {
    pub fn new(seed: u64, time: Duration) -> Report {
        Report {
            seed,
            time,
            broker_faults: 0,
            kinds: BTreeMap::new(),
            clients: Summary::default(),
            floods: 0,
            silence: Silence::default(),
            books: books::Verdict::default(),
            falsified: 0,
            rest: Duration::ZERO,
            crew: crew::Counts::default(),
            events: 0,
            trades: 0,
            notifications: 0,
            audit_entries: 0,
            transactions: 0,
            unknown_commits: 0,
            end_txn: 0,
            held: 0,
            orphans: 0,
            refused: 0,
            lost: 0,
            duplicated: 0,
            digest_mismatches: 0,
            compared: 0,
            findings: Vec::new(),
            kept: None,
        }
    }

    pub fn count_all(&mut self, prefix: &str, counts: &Counts) {
        self.kinds.extend(
            counts
                .iter()
                .map(|(kind, n)| (format!("{prefix}{kind}"), *n)),
        );
    }

    /// After the faults end, the system must come to rest within the limit.
    pub fn wait_at_rest(
        &mut self,
        log: &dyn Log,
        prefix: &str,
        within: Duration,
        crew: &mut Crew,
    ) -> bool {
        let began = Instant::now();
        let at_rest = guarded(&mut self.findings, "liveness", || {
            rest::wait_at_rest(log, prefix, within, || crew.tend())
        })
        .is_some();
        self.rest = began.elapsed();
        at_rest
    }

    /// Copies the counters of the crew and of the proxy.
    pub fn settle(&mut self, crew: &Crew, proxy: &proxy::Counts) {
        let n = |c: &AtomicU64| c.load(Ordering::Relaxed);
        (self.end_txn, self.held, self.orphans, self.refused) = (
            n(&proxy.end_txn),
            n(&proxy.held),
            n(&proxy.orphans_delivered),
            n(&proxy.stale_refused),
        );
        self.crew = crew.counts.clone();
    }

    /// Checks all records against the inputs and the clients' logs.
    pub fn judge(
        &mut self,
        log: &dyn Log,
        topics: &TopicTable,
        cash_e4: i64,
        stories: &[Story],
        follower: Follower,
    ) {
        let Self { findings, .. } = self;
        let commands = guarded(findings, "reading the commands", || {
            read_all(log, t::ORDER_COMMANDS)
        })
        .unwrap_or_default();
        self.clients = clients::compare(stories, &commands);
        findings.append(&mut self.clients.wrong);
        (self.lost, self.duplicated) =
            guarded(findings, "counting", || count(log, topics, &commands))
                .unwrap_or((u64::MAX, u64::MAX));
        if let Some(verdict) = guarded(findings, "the oracle", || {
            oracle::check_of(log, topics, cash_e4, &|user| !is_book_user(user))
        }) {
            (self.events, self.trades) = (verdict.events, verdict.trades);
            (self.notifications, self.audit_entries) =
                (verdict.notifications, verdict.audit_entries);
            findings.extend(verdict.wrong);
        }

        if let Some(evidence) = guarded(findings, "reading the books", || {
            Evidence::read(log, topics)
        }) {
            self.books = guarded(findings, "the books", || evidence.judge()).unwrap_or_default();
            findings.append(&mut self.books.wrong);

            // A judge that accepts everything would accept these falsified copies too.
            for (what, spoilt) in evidence.spoilt() {
                let seen = spoilt.map(|e| !e.judge().wrong.is_empty());
                self.falsified += u64::from(seen == Some(true));
                if seen == Some(false) {
                    findings.push(format!("the judge of the books does not see {what}"));
                }
            }
        }

        let same = guarded(findings, "the follower", || {
            let wanted = follower::read_afresh(log, t::ORDER_EVENTS);
            let all: usize = wanted.values().map(Vec::len).sum();
            crate::support::load::wait_for(
                "the follower to see the end",
                Duration::from_secs(60),
                || follower.count() >= all as u64,
            );
            follower.stop() == wanted
        });

        if same == Some(false) {
            findings.push("a reader that was there all the time was shown something else than what is there now".into());
        }
    }

    /// Compares local state with the log, and with a replay from offset zero.
    pub fn compare_state(&mut self, installation: &Installation, partitions: u32) {
        let Self { findings, .. } = self;
        let verified =
            guarded(findings, "verify", || installation.run(&["verify"])).unwrap_or_default();
        findings.extend(
            verified
                .lines()
                .filter(|l| !l.starts_with("ok"))
                .map(|l| format!("verify: {l}")),
        );
        for line in verified.lines() {
            let number = line
                .split(": state: transaction ")
                .nth(1)
                .and_then(|rest| rest.split(',').next());
            self.transactions += number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }

        let replayed =
            guarded(findings, "replay", || installation.run(&["replay"])).unwrap_or_default();
        self.compared = replayed.matches("equal").count() as u64;

        // A missing comparison counts as a mismatch.
        self.digest_mismatches =
            u64::from(5 * partitions) - self.compared.min(u64::from(5 * partitions));
        for file in std::fs::read_dir(&installation.logs)
            .into_iter()
            .flatten()
            .flatten()
        {
            let text = std::fs::read(file.path()).unwrap_or_default();
            self.unknown_commits += String::from_utf8_lossy(&text)
                .matches("outcome unknown:")
                .count() as u64;
        }
    }

    /// All kinds of damage; empty if there is none.
    pub fn damage(&self) -> Vec<String> {
        let mut all = self.findings.clone();
        for (what, n) in [
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("digest mismatches", self.digest_mismatches),
        ] {
            if n > 0 {
                all.push(format!("{what}: {n}"));
            }
        }

        if self.silence.longest_calm > CALM_MAX {
            all.push(format!(
                "a calm partition was silent for {:?}",
                self.silence.longest_calm
            ));
        }

        if self.crew.repeats > 0 {
            all.push(format!(
                "{} records came twice and were dropped: transactions are broken",
                self.crew.repeats
            ));
        }

        all
    }

    /// Ends the run; after damage the logs are kept.
    pub fn keep(mut self, dir: tempfile::TempDir, cluster: &Cluster, crew: &Crew) -> Report {
        self.findings.extend(crew.findings.iter().cloned());
        if !self.damage().is_empty() {
            let path = dir.keep();

            // The files of the brokers are the only evidence. The brokers are stopped, so that the
            // files are complete.
            for broker in 1..=3 {
                cluster.stop(broker);
            }

            let copied = std::process::Command::new("cp")
                .arg("-r")
                .arg(cluster.dir())
                .arg(path.join("brokers"))
                .status();
            if !copied.is_ok_and(|s| s.success()) {
                eprintln!("the brokers' data is not kept");
            }

            self.kept = Some(path.display().to_string());
        }

        self
    }
}

/// Counts commands without an answer, and records that exist twice.
fn count(log: &dyn Log, topics: &TopicTable, commands: &[Seen]) -> (u64, u64) {
    let mut answered = BTreeSet::new();
    let mut duplicated = 0;
    let outputs: [TopicId; 4] = [
        t::ORDER_EVENTS,
        t::TRADES,
        t::NOTIFICATIONS,
        t::DEAD_LETTERS,
    ];
    for topic in outputs {
        let mut names = BTreeSet::new();
        for r in read_all(log, topic) {
            let src = r.headers.get("src").cloned().unwrap_or_default();
            if topic == t::ORDER_EVENTS || topic == t::DEAD_LETTERS {
                answered.insert(src.clone());
            }

            duplicated +=
                u64::from(!names.insert((src, r.headers.get("n").cloned().unwrap_or_default())));
        }
    }

    // The judge of the books checks the answers of the book.
    let at_once = |c: &&Seen| {
        !(is_book_user(c.text("user_id")) && ["cancel", "mass_cancel"].contains(&c.text("command")))
    };

    let lost = commands
        .iter()
        .filter(at_once)
        .filter(|c| !answered.contains(&c.src(topics, t::ORDER_COMMANDS)))
        .count();
    (lost as u64, duplicated)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.crew;
        let s = &self.clients;
        let l = &self.silence;
        let rows = [
            (
                "commands sent",
                format!(
                    "{} (ok {}, failed {}, unknown {}: {} of those in the log; {} written again by the client library)",
                    s.sent, s.ok, s.failed, s.unknown, s.unknown_in_log, s.written_again
                ),
            ),
            (
                "written",
                format!(
                    "{} events, {} trades, {} notifications, {} audit entries",
                    self.events, self.trades, self.notifications, self.audit_entries
                ),
            ),
            (
                "books",
                format!(
                    "{} commands, {} cancels asked of books, {} trades, {} events; {} falsified copies seen; {} floods",
                    self.books.commands,
                    self.books.cancels,
                    self.books.trades,
                    self.books.events,
                    self.falsified,
                    self.floods
                ),
            ),
            (
                "longest silence",
                format!(
                    "calm {:.1} s (partition {} from {:.0} s on; {} probes of {}, {} unanswered); at all {:.1} s: {}",
                    l.longest_calm.as_secs_f64(),
                    l.calm_at.0,
                    l.calm_at.1.as_secs_f64(),
                    l.calm,
                    l.probes,
                    l.unanswered,
                    l.longest.as_secs_f64(),
                    l.cause
                ),
            ),
            (
                "probes that met",
                l.met
                    .iter()
                    .map(|(kind, n)| format!("{kind} {n}"))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            (
                "at rest",
                format!(
                    "{:.1} s after the last thing was healed",
                    self.rest.as_secs_f64()
                ),
            ),
            (
                "transactions",
                format!(
                    "{} of tasks, {} ends on the wire",
                    self.transactions, self.end_txn
                ),
            ),
            (
                "kills",
                format!(
                    "{} (and {} clean stops, {} starts)",
                    c.kills, c.stops, c.starts
                ),
            ),
            (
                "mistakes",
                format!("{} processes ended as documented", c.as_documented),
            ),
            ("pauses", c.pauses.to_string()),
            (
                "twins, fences",
                format!(
                    "{} twins, {} fenced, {} of those by requests of the dead",
                    c.twins, c.fences, c.fences_by_the_dead
                ),
            ),
            (
                "recoveries",
                format!(
                    "{} new epochs in a running process, {} restarts after failures",
                    c.recoveries, c.failures
                ),
            ),
            (
                "unknown outcomes",
                format!(
                    "{} of clients, {} of commits",
                    s.unknown, self.unknown_commits
                ),
            ),
            ("broker faults", self.broker_faults.to_string()),
            (
                "held requests",
                format!(
                    "{}; {} delivered after their client had gone, {} refused",
                    self.held, self.orphans, self.refused
                ),
            ),
            ("lost", self.lost.to_string()),
            (
                "duplicated",
                format!(
                    "{} (repeats dropped by the guard: {})",
                    self.duplicated, c.repeats
                ),
            ),
            (
                "digest mismatches",
                format!(
                    "{} of {} replays",
                    self.digest_mismatches,
                    self.digest_mismatches + self.compared
                ),
            ),
        ];

        for (name, value) in rows {
            writeln!(f, "{name:<18} {value}")?;
        }

        let kinds: Vec<_> = self
            .kinds
            .iter()
            .map(|(kind, n)| format!("{kind} {n}"))
            .collect();
        writeln!(f, "{:<18} {}", "kinds of trouble", kinds.join(", "))?;
        let damage = self.damage();
        for finding in damage.iter().take(FINDINGS_SHOWN) {
            writeln!(f, "DAMAGE: {finding}")?;
        }

        if let Some(kept) = &self.kept {
            writeln!(
                f,
                "logs: {kept}\nagain: make storm STORM_SECONDS={} SEED={}",
                self.time.as_secs(),
                self.seed
            )?;
        }

        // One line, to collect from many runs.
        write!(
            f,
            "STORM seed={} seconds={} commands={} transactions={} kills={} pauses={} fences={} unknown={} broker_faults={} held={} lost={} duplicated={} digest_mismatches={} floods={} mistakes={} silence_calm={:.1} silence={:.1} rest={:.0} damage={}",
            self.seed,
            self.time.as_secs(),
            s.sent,
            self.transactions,
            c.kills,
            c.pauses,
            c.fences,
            s.unknown as u64 + self.unknown_commits,
            self.broker_faults,
            self.held,
            self.lost,
            self.duplicated,
            self.digest_mismatches,
            self.floods,
            self.kinds
                .iter()
                .filter(|(kind, _)| kind.starts_with("mistakes: "))
                .map(|(_, n)| n)
                .sum::<u64>(),
            l.longest_calm.as_secs_f64(),
            l.longest.as_secs_f64(),
            self.rest.as_secs_f64(),
            damage.len()
        )
    }
}
