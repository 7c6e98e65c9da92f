//! The demo's summary: a live block on a terminal, or a line from time to time elsewhere.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::stderr;
use super::observer::ObservedTotals;

/// Refresh interval on a terminal, and elsewhere.
const LIVE_EVERY: Duration = Duration::from_millis(500);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows the summary.
pub(super) struct Screen {
    bar: Option<ProgressBar>,
    started: Instant,
    shown: Instant,
    before: (u64, u64),
}

/// Figures of the summary that the observer does not have.
pub(super) struct SideFigures {
    pub sent: u64,
    /// Ticks published.
    pub ticks: u64,
    /// Pending orders that have not ended.
    pub open: usize,
    pub transactions: u64,
    /// New incarnations after an error.
    pub recoveries: u64,
    /// Repeated records between roles that the guard dropped.
    pub repeats: u64,
    pub roles: String,
}

impl Screen {
    pub(super) fn new() -> Screen {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::with_template("{msg}").expect("a fixed template"));
            bar
        });

        let now = Instant::now();
        Screen {
            bar,
            started: now,
            shown: now,
            before: (0, 0),
        }
    }

    /// Restarts the clock of the rates: the traffic starts now.
    pub(super) fn begin(&mut self) {
        self.started = Instant::now();
    }

    /// Shows the figures if the refresh interval is over.
    pub(super) fn show(&mut self, totals: &ObservedTotals, side: &SideFigures) {
        let every = if self.bar.is_some() {
            LIVE_EVERY
        } else {
            LINE_EVERY
        };

        let elapsed = self.shown.elapsed();
        if elapsed < every {
            return;
        }

        let per_second =
            |now: u64, before: u64| (now - before) * 1000 / (elapsed.as_millis() as u64).max(1);
        let orders = per_second(totals.answered, self.before.0);
        let fills = per_second(totals.filled, self.before.1);
        self.before = (totals.answered, totals.filled);
        self.shown = Instant::now();
        match &self.bar {
            Some(bar) => bar.set_message(self.block(totals, side, orders, fills)),
            None => stderr::note(format_args!(
                "{:>4} s  {orders} orders/s  {fills} fills/s  p50 {} ms  p99 {} ms  rejected {}  open {}  checked {}  violations {}",
                self.started.elapsed().as_secs(),
                totals.fill_ms.value_at_quantile(0.5),
                totals.fill_ms.value_at_quantile(0.99),
                totals.rejected.values().sum::<u64>(),
                side.open,
                totals.checked,
                totals.violated,
            )),
        }
    }

    fn block(&self, t: &ObservedTotals, side: &SideFigures, orders: u64, fills: u64) -> String {
        let mut b = String::new();
        let line = |b: &mut String, name: &str, text: String| {
            writeln!(b, "  {name:<12} {text}").expect("writing to a string");
        };

        writeln!(
            b,
            "processor demo, {} s; Ctrl-C stops it, the next run carries on",
            self.started.elapsed().as_secs()
        )
        .expect("writing to a string");
        line(&mut b, "roles", side.roles.clone());
        line(
            &mut b,
            "orders",
            format!(
                "{orders}/s   sent {}   answered {}   open {}",
                side.sent, t.answered, side.open
            ),
        );

        line(
            &mut b,
            "fills",
            format!(
                "{fills}/s   filled {}   cancelled {}",
                t.filled, t.cancelled
            ),
        );

        line(&mut b, "rejected", reasons(t));
        line(&mut b, "duplicates", format!("{} recognised", t.duplicates));
        line(&mut b, "latency", latency(t));
        line(&mut b, "ticks", side.ticks.to_string());
        line(
            &mut b,
            "commits",
            format!(
                "{}   recoveries {}   repeats dropped {}",
                side.transactions, side.recoveries, side.repeats
            ),
        );

        line(&mut b, "invariants", invariants(t));
        b.pop();
        b
    }

    /// Removes the live block. Returns the final summary, which goes to stdout as data.
    pub(super) fn finish(&self, t: &ObservedTotals, side: &SideFigures) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }

        let seconds = self.started.elapsed();
        let rate = t.answered * 1000 / (seconds.as_millis() as u64).max(1);
        let mut b = String::new();
        for (name, text) in [
            (
                "ran",
                format!("{}.{} s", seconds.as_secs(), seconds.subsec_millis() / 100),
            ),
            (
                "orders",
                format!(
                    "sent {}   answered {}   {rate}/s on average",
                    side.sent, t.answered
                ),
            ),
            (
                "fills",
                format!("filled {}   cancelled {}", t.filled, t.cancelled),
            ),
            ("rejected", reasons(t)),
            ("duplicates", format!("{} recognised", t.duplicates)),
            ("latency", latency(t)),
            ("ticks", side.ticks.to_string()),
            (
                "commits",
                format!(
                    "{}   recoveries {}   repeats dropped {}",
                    side.transactions, side.recoveries, side.repeats
                ),
            ),
            ("invariants", invariants(t)),
        ] {
            writeln!(b, "{name:<12} {text}").expect("writing to a string");
        }

        b
    }
}

fn reasons(t: &ObservedTotals) -> String {
    if t.rejected.is_empty() {
        return "none".into();
    }

    t.rejected
        .iter()
        .map(|(reason, n)| format!("{reason} {n}"))
        .collect::<Vec<_>>()
        .join("   ")
}

fn latency(t: &ObservedTotals) -> String {
    let at = |q| t.fill_ms.value_at_quantile(q);
    format!(
        "order to fill  p50 {} ms   p90 {} ms   p99 {} ms   max {} ms",
        at(0.5),
        at(0.9),
        at(0.99),
        t.fill_ms.max()
    )
}

fn invariants(t: &ObservedTotals) -> String {
    let mut text = format!("{} events checked, {} violations", t.checked, t.violated);
    t.violations
        .iter()
        .for_each(|v| write!(text, "\n    {v}").expect("writing to a string"));
    text
}
