//! The crash points of the embedded log: those shared with Kafka, and its own. One process with all
//! five roles dies at each, several times. An oracle that knows only the inputs then checks all
//! records. `tests/campaigns/crash_points.rs` does the same on a broker, role by role.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::simulate::Rng;
use faults::crash::Point::{self, *};
use log_local::{LocalLog, LocalOptions};
use ports::Log;
use wire::topics as t;

use crate::support::load::{Orders, Sender, reference, wait_for};
use crate::support::process::replayed;
use crate::support::{oracle, rest};

const PARTITIONS: u32 = 3;
const SYMBOLS: u64 = 10;
const USERS: u64 = 40;
/// Commands before each life.
const EACH: u64 = 150;
const ROUNDS: u64 = 2;
/// Opening cash of the accounts; ample.
const CASH: i64 = 100_000_000;
const SOON: Duration = Duration::from_secs(60);

/// Reason for which no role reaches a point on the embedded log.
fn unreachable(point: Point) -> Option<&'static str> {
    match point {
        JoinFencing | JoinFenced | AssignCallback | TxBegun | TxSending | TxSent | TxDelivered
        | TxOffsetsInFlight | TxOffsets | TxEndInFlight | RevokeCallback | StopClosing => {
            Some("a moment in the life of Kafka's clients")
        }
        RebuildWiping => Some("the rebuild command, shown on Kafka"),
        RevokeTasks => Some("one process has all partitions for as long as it lives"),
        RestoreStandby | StopLeft => {
            Some("with --standby and --leave only, which are for several instances")
        }
        AdoptPositions | AdoptCommitted | RepairJoined | RepairJudged | RepairCommitted => {
            Some("where offsets are forgotten: crash_paths.rs")
        }
        MassPart | MassGoesOn | MatchPart | MatchGoesOn => Some("with deep books: crash_paths.rs"),
        _ => None,
    }
}

/// An installation in a directory.
struct Place {
    dir: tempfile::TempDir,
    lives: u32,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> LocalLog {
        LocalLog::open(&self.path("log"), &t::table(""), LocalOptions::default())
            .expect("nobody else has the log")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_processor"));
        c.args(args).args([
            "--rate-limit",
            "0",
            "--stale-ms",
            "1000000000",
            "--opening-cash",
            &CASH.to_string(),
        ]);

        c.arg("--embedded")
            .arg(self.path("log"))
            .arg("--state")
            .arg(self.path("state"))
            .env_remove("KAFKA_BROKERS");

        // SAFETY: prctl is async-signal-safe and touches no memory of ours. The child then ends
        // with the test, even by kill -9.
        unsafe {
            c.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }

        c
    }

    fn run(&self, args: &[&str]) -> String {
        let out = self.command(args).output().expect("the binary starts");
        let stdout = String::from_utf8_lossy(&out.stdout);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "{args:?}: {}\n{stdout}\n{stderr}",
            out.status
        );
        stdout.into_owned()
    }

    /// Starts all roles, with their output in a file of this life.
    fn start(&mut self, plan: Option<&str>) -> (Child, PathBuf) {
        self.lives += 1;
        let said = self.path(&format!("life-{}", self.lives));
        let mut command = self.command(&["run", "--role", "all"]);
        command
            .envs(plan.map(|p| ("PROCESSOR_CRASH", p)))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.stderr(std::fs::File::create(&said).expect("a file"));
        (command.spawn().expect("the binary starts"), said)
    }
}

/// The file may be gone already, because the last life deleted it.
fn gone(removed: std::io::Result<()>) {
    if let Err(e) = removed {
        assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{e}");
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).expect("a file")).into_owned()
}

fn signal(child: &Child) {
    let pid = i32::try_from(child.id()).expect("a pid");

    // SAFETY: sends a signal to a child that we started and have not waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
}

fn works(said: &Path) -> bool {
    text(said).contains(": running ")
}

#[test]
fn all_roles_die_at_every_point_and_nothing_is_lost_or_doubled() {
    let mut place = Place {
        dir: tempfile::tempdir().expect("a directory"),
        lives: 0,
    };

    place.run(&["topics", "create", "--partitions", &PARTITIONS.to_string()]);
    reference(&mut Sender::new(&place.log()), SYMBOLS);
    let mut rng = Rng::new(5);
    let mut orders = Orders::new(9, USERS, SYMBOLS);
    let mut sent = 0;
    let mut hits = 0;
    let began = Instant::now();
    come_to_rest(&mut place);
    for round in 0..ROUNDS {
        for &point in Point::ALL.iter().filter(|p| unreachable(**p).is_none()) {
            let mut sender = Sender::new(&place.log());
            (0..EACH).for_each(|_| orders.send_next(&mut sender));
            sender.flush();
            drop(sender);
            sent += EACH;
            let state = |role: &str, task: u32| {
                place
                    .path("state")
                    .join(role)
                    .join("1")
                    .join(task.to_string())
            };

            match point {
                // A store that is behind, missing or damaged makes the start restore.
                RestoreReader | RestoreReached => {
                    let (mut child, _) = place.start(Some("commit.decided:3"));
                    assert_eq!(child.wait().expect("its end").signal(), Some(libc::SIGABRT));
                }
                RestoreChunk | RestoreChecked | RestoreVerified => {
                    ["orders", "audit"]
                        .iter()
                        .for_each(|r| gone(std::fs::remove_dir_all(state(r, 1))));
                }
                RestoreDamaged | RestoreQuarantined => {
                    gone(std::fs::remove_file(state("trading", 2).join("CURRENT")))
                }
                _ => {}
            }

            // A point that is passed only once uses the first visit. A point at work uses a random
            // visit.
            let at_work = matches!(
                point,
                LoopPolled
                    | ProcessDone
                    | CommitPrepared
                    | LogWrite
                    | LogWritten
                    | CommitDecided
                    | StoreBatch
                    | StoreFlush
                    | CommitStored
                    | CommitDone
                    | BatchLeft
            );

            let visit = match point {
                ProcessRecord => 1 + rng.below(200),
                _ if at_work => 1 + round * 3 + rng.below(4),
                _ => 1,
            };

            let (mut child, said) = place.start(Some(&format!("{}:{visit}", point.name())));
            if point == StopAsked {
                wait_for("the roles to work", SOON, || works(&said));
                signal(&child);
            }

            let mut status = None;
            wait_for(
                &format!("a death at {}:{visit}", point.name()),
                SOON,
                || {
                    status = child.try_wait().expect("a status");
                    status.is_some()
                },
            );

            let said = text(&said);
            let status = status.expect("it ended");
            let at_point = said
                .lines()
                .any(|l| l.starts_with(&format!("crash point {}: ", point.name())));
            assert!(
                status.signal() == Some(libc::SIGABRT) && at_point,
                "{}:{visit}: {status}\n{said}",
                point.name()
            );
            hits += 1;
        }
    }

    println!("{:>5.1} s: {hits} crashes", began.elapsed().as_secs_f64());
    come_to_rest(&mut place);

    let log = place.log();
    let verdict = oracle::check(&log, &t::table(""), CASH * 10_000);
    let dead_letters = oracle::read_all(&log, t::DEAD_LETTERS).len();
    drop(log);
    let verified = place.run(&["verify"]);
    let replays = [(); 2].map(|()| place.run(&["replay"]));
    let points = Point::ALL
        .iter()
        .filter(|p| unreachable(**p).is_none())
        .count();
    println!(
        "crash points, embedded: {points} points, {hits} crashes, {} commands of {sent}, {} events, {} audit entries; lost or doubled or wrong: {}, dead \
         letters {dead_letters}, digests equal {}",
        verdict.commands,
        verdict.events,
        verdict.audit_entries,
        verdict.wrong.len(),
        replays[0].matches("equal").count()
    );

    for point in Point::ALL {
        println!(
            "  {:<22}{}",
            point.name(),
            unreachable(*point).map_or("x".to_string(), |why| format!("-: {why}"))
        );
    }

    verdict.assert_clean();
    assert_eq!((verdict.commands as u64, dead_letters), (sent, 0));
    assert_eq!(replayed(&replays[0]), replayed(&replays[1]));
    assert_eq!(
        replays[0].matches("equal").count(),
        5 * PARTITIONS as usize,
        "{}",
        replays[0]
    );
    assert!(verified.lines().all(|l| l.starts_with("ok")), "{verified}");
}

/// Runs the roles without crashes until they have read all their inputs.
fn come_to_rest(place: &mut Place) {
    let began = Instant::now();
    loop {
        let (mut child, said) = place.start(None);
        wait_for("the roles to work", SOON, || works(&said));

        // The roles hold the log, so the test sees only after their end whether all is read.
        std::thread::sleep(Duration::from_secs(2));
        signal(&child);
        assert!(child.wait().expect("its end").success(), "{}", text(&said));
        let log: Arc<dyn Log> = Arc::new(place.log());
        let Some(why) = rest::unread(&*log, "").expect("the log answers") else {
            return;
        };

        assert!(began.elapsed() < SOON, "not at rest: {why}");
    }
}
