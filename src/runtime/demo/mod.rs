//! `processor demo`: the whole system in one process, with a price feed, simulated traders and a
//! live summary.

mod observer;
mod screen;
mod traffic;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use client::simulate::Traders;
use engine::instance::FatalError;
use roles::Role;

use super::status::{Counters, InstancePhase};
use super::supervisor::{Ends, Monitor, Supervisor};
use super::system::Installation;
use observer::Observer;
use screen::{Screen, SideFigures};
use traffic::Gauge;

/// Settings of the demo.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Run time; none: until a signal.
    pub run_for: Option<Duration>,
    /// Orders per second; 0: as fast as possible.
    pub orders_per_second: u64,
    pub ticks_per_second: u64,
    /// Number of simulated users.
    pub users: u32,
    /// Symbols to trade; all must be listed.
    pub symbols: Vec<String>,
    /// Seed of the traders and the feed.
    pub seed: u64,
}

/// Longest wait for open orders to end, after the traders have stopped.
const SETTLE: Duration = Duration::from_secs(15);

/// Longest wait for the start of the roles. After this wait, the run time starts anyway.
const READY: Duration = Duration::from_secs(60);

pub struct DemoSummary {
    /// Summary for stdout.
    pub text: String,
    /// Number of violated rules.
    pub violations: u64,
}

/// Runs until `until` resolves, the run time is over, or a role ends for good.
pub async fn run(
    system: &Installation,
    o: DemoOptions,
    until: impl Future<Output = ()>,
    grace: Duration,
) -> Result<DemoSummary, FatalError> {
    let failed = |e: ports::LogError| FatalError::Failed(e.to_string());

    // Use a new name for every run. With the same order ids, all commands would be duplicates.
    let name = format!("demo-{}", uuid::Uuid::now_v7().simple());
    let observer = Observer::new(&*system.log, &name).map_err(failed)?;
    let members = Role::all().iter().map(|r| system.member(*r)).collect();
    let supervisor = Supervisor::start(
        members,
        system.topics.clone(),
        system.state.clone(),
        Ends::Together,
    );
    let gauge = Arc::new(Gauge::default());
    let (feed, traders) = traffic(system, &o, &name, &gauge);
    let watch = {
        let gauge = gauge.clone();
        let monitor = supervisor.monitor();
        std::thread::spawn(move || watch(observer, &gauge, &monitor))
    };

    let quiet = async {
        // The run time counts the time with traffic, without the start of the roles.
        let limited = async |limit| {
            let asked = Instant::now();
            while !gauge.ready.load(Ordering::Relaxed) && asked.elapsed() < READY {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }

            tokio::time::sleep(limit).await;
        };

        match o.run_for {
            Some(limit) => tokio::select! { () = until => (), () = limited(limit) => () },
            None => until.await,
        }

        // Stop the traders first, then wait for open orders to end, then stop the roles. The final
        // state is then at rest.
        gauge.stop.store(true, Ordering::Relaxed);
        let asked = Instant::now();
        while !gauge.settled.load(Ordering::Relaxed) && asked.elapsed() < SETTLE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    let result = supervisor.run(quiet, grace).await;
    gauge.stop.store(true, Ordering::Relaxed);
    gauge.settled.store(true, Ordering::Relaxed);
    for (what, thread) in [("feed", feed), ("traders", traders)] {
        let ended = thread
            .join()
            .map_err(|_| FatalError::Bug(format!("the simulated {what} panicked")))?;
        ended.map_err(|e| FatalError::Failed(format!("the simulated {what} failed: {e}")))?;
    }

    let summary = watch
        .join()
        .map_err(|_| FatalError::Bug("the observer panicked".into()))?;
    result?;
    summary.map_err(failed)
}

type Worker = std::thread::JoinHandle<anyhow::Result<()>>;

fn traffic(
    system: &Installation,
    o: &DemoOptions,
    name: &str,
    gauge: &Arc<Gauge>,
) -> (Worker, Worker) {
    let traders = Traders::new(o.seed, name, o.users, o.symbols.clone());
    let feed = {
        let log = system.log.clone();
        let gauge = gauge.clone();
        let o = o.clone();
        std::thread::spawn(move || {
            traffic::feed(log, o.symbols, o.seed, o.ticks_per_second, &gauge)
        })
    };

    let log = system.log.clone();
    let gauge = gauge.clone();
    let rate = o.orders_per_second;
    (
        feed,
        std::thread::spawn(move || traffic::trade(log, traders, rate, &gauge)),
    )
}

fn watch(
    mut observer: Observer,
    gauge: &Gauge,
    monitor: &Monitor,
) -> Result<DemoSummary, ports::LogError> {
    let mut screen = Screen::new();
    loop {
        observer.poll(Duration::from_millis(50))?;
        gauge
            .answered
            .store(observer.totals.answered, Ordering::Relaxed);
        let sent = gauge.sent.load(Ordering::Relaxed);
        let stopping = gauge.stop.load(Ordering::Relaxed);
        let side = side(gauge, monitor, observer.open_orders());
        if !gauge.ready.load(Ordering::Relaxed)
            && monitor
                .statuses()
                .iter()
                .all(|s| s.state == InstancePhase::Running)
        {
            gauge.ready.store(true, Ordering::Relaxed);
            screen.begin();
        }

        if stopping && observer.totals.answered >= sent && observer.open_orders() == 0 {
            gauge.settled.store(true, Ordering::Relaxed);
        }

        if gauge.settled.load(Ordering::Relaxed) {
            observer.at_rest(sent);
            return Ok(DemoSummary {
                text: screen.finish(&observer.totals, &side),
                violations: observer.totals.violated,
            });
        }

        screen.show(&observer.totals, &side);
    }
}

fn side(gauge: &Gauge, monitor: &Monitor, open: usize) -> SideFigures {
    let all = monitor.statuses();
    let roles = all
        .iter()
        .map(|s| format!("{} {}", s.role, s.state.name()))
        .collect::<Vec<_>>()
        .join("   ");
    let sum = |f: fn(&Counters) -> u64| all.iter().map(|s| f(&s.counters)).sum();
    SideFigures {
        sent: gauge.sent.load(Ordering::Relaxed),
        ticks: gauge.ticks.load(Ordering::Relaxed),
        open,
        transactions: sum(|c| c.transactions),
        recoveries: sum(|c| c.recoveries),
        repeats: sum(|c| c.repeats_dropped),
        roles,
    }
}
