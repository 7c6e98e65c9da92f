//! Output: data on stdout, everything else on stderr.
//!
//! A print error never decides the exit code. `processor verify | head` must end with the verdict,
//! and a full disk under a log file must not change a role's result. A failed write is therefore
//! dropped and remembered. Endless output checks [`broken`]. At its end, the program reports the
//! error ([`failure`]) unless a worse error happened.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::exit::Failure;
use super::shown;
use crate::runtime::stderr;

/// Format of printed data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For programs: one JSON value, or one JSON value per line for lists.
    Json,
}

impl OutputFormat {
    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            OutputFormat::Text => "text",
            OutputFormat::Json => "json",
        }
    }
}

/// The first write error of stdout.
static BROKEN: OnceLock<std::io::Error> = OnceLock::new();

/// Writes a line of data to stdout, without terminal control characters. Always returns `Ok`,
/// because write errors are remembered. The result lets a command end with this call.
pub fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    if !broken()
        && let Err(e) = writeln!(
            std::io::stdout().lock(),
            "{}",
            shown::lines(&text.to_string())
        )
    {
        cannot(e);
    }

    Ok(())
}

/// Remembers a write error, for output that is not written line by line.
pub fn cannot(e: std::io::Error) {
    BROKEN.get_or_init(|| e);
}

/// True if stdout cannot be written any more: a closed pipe (`processor tail ... | head`), a full
/// disk.
pub fn broken() -> bool {
    BROKEN.get().is_some()
}

/// The write error of stdout, if any. A closed pipe is no error: the reader has read enough.
pub fn failure() -> Option<Failure> {
    let e = BROKEN.get().filter(|e| e.kind() != ErrorKind::BrokenPipe)?;
    Some(Failure::failed(format!(
        "not everything could be printed: {e}"
    )))
}

/// Writes a note to stderr. A closed stderr is ignored.
pub fn note(text: impl std::fmt::Display) {
    stderr::note(shown::lines(&text.to_string()));
}

/// Writes a JSON value to stdout, on one line.
pub fn json(value: &impl std::fmt::Display) -> Result<(), Failure> {
    line(value)
}

/// Prints rows under a header: a plain table, or a JSON array of objects with the header's names in
/// lower case.
pub fn rows(format: OutputFormat, header: &[&str], rows: &[Vec<Value>]) -> Result<(), Failure> {
    if format == OutputFormat::Json {
        let name = |h: &str| {
            h.to_lowercase()
                .replace([' ', '-'], "_")
                .replace('%', "_percent")
        };

        let objects = rows.iter().map(|r| {
            header
                .iter()
                .map(|h| name(h))
                .zip(r.iter().cloned())
                .collect::<serde_json::Map<_, _>>()
        });

        return json(&Value::Array(objects.map(Value::Object).collect()));
    }

    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    for r in rows {
        table.add_row(
            r.iter()
                .map(|cell| shown::one_line(&plain(cell)).into_owned()),
        );
    }

    line(
        table
            .lines()
            .map(|l| l.trim().to_string())
            .collect::<Vec<_>>()
            .join("\n"),
    )
}

/// A JSON value as plain text.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// True if stderr may use colour.
pub fn colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    if set("NO_COLOR") || std::env::var_os("TERM").is_some_and(|t| t == "dumb") {
        return false;
    }

    set("CLICOLOR_FORCE") || std::io::stderr().is_terminal()
}

/// Progress of a long job: a bar on a terminal, else a line every five seconds.
pub struct JobProgress {
    bar: ProgressBar,
    what: String,
    terminal: bool,
    done: u64,
    total: u64,
    began: Instant,
    said: Instant,
}

impl JobProgress {
    /// Starts at zero of `total` (0: unknown).
    pub fn new(what: &str, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            (total > 0).then_some(total),
            ProgressDrawTarget::stderr_with_hz(8),
        );
        if !terminal {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }

        let template = if total > 0 {
            "{msg} [{wide_bar}] {human_pos}/{human_len} {per_sec} ETA {eta}"
        } else {
            "{msg} {spinner} {human_pos} {per_sec} {elapsed}"
        };

        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }

        bar.set_message(what.to_string());
        JobProgress {
            bar,
            what: what.into(),
            terminal,
            done: 0,
            total,
            began: Instant::now(),
            said: Instant::now(),
        }
    }

    /// Sets the completed amount.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        self.bar.set_position(done);
        if !self.terminal && self.said.elapsed() >= Duration::from_secs(5) {
            self.said = Instant::now();
            note(self.summary());
        }
    }

    /// Adds one to the completed amount.
    pub fn step(&mut self) {
        self.set(self.done + 1);
    }

    /// Completed amount, rate and remaining time, as text.
    pub fn summary(&self) -> String {
        let ms = u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let rate = self.done.saturating_mul(1000) / ms;
        if self.total == 0 {
            return format!("{}: {} ({rate}/s)", self.what, self.done);
        }

        let left = self
            .total
            .saturating_sub(self.done)
            .checked_div(rate)
            .map_or("?".into(), |s| format!("{s} s"));
        let percent = self.done.saturating_mul(100) / self.total;
        format!(
            "{}: {}/{} ({percent} %, {rate}/s, {left} left)",
            self.what, self.done, self.total
        )
    }

    /// Removes the display.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
