//! `audit ...` as typed.

use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs, Subcommand};

const VERIFY: &str = "\
Walks every chain from its first entry and compares it with the records that are still there. Of a damaged chain the first bad record is
named, with what was done to it (changed, deleted, swapped, truncated, inserted, rewritten) and how far all is well.
A chain shows what was done inside it. That all of it was cut short or rewritten, records and entries together, only an anchor shows that
was kept elsewhere. A chain that an anchor saw and that is not there is damage.
Of a file anchors bind the records that they saw; how many these are is said. One that is as late as an anchor must hold what it saw.
Contents may be left out of a file only where compaction drops records; how many are gone is said.

Exit code: 0 whole; 70 damaged; 1 the log or the file could not be read, or anchors were given and a chain is bound by none; 78 the anchors are damaged, or of another log or prefix.

Examples:
  processor audit verify --brokers localhost:9092
  processor audit verify --anchors /safe/anchors.jsonl --brokers localhost:9092
  processor audit verify --file 2026-01.jsonl --anchors /safe/anchors.jsonl";

const ANCHOR: &str = "\
One line of JSON: the head of every chain (entries, offset, hash) and a Merkle root over all of them. Keep it where those who can change
the log cannot: another machine, write-once storage, a mail. With -o it is added to a file, after the anchors there were found to agree. The chains
are read from where the file's last anchor left off (--from-start: all of them); without a file, or where the log is not as it was, from their start.

Exit code: 0 done. Else nothing is written: 70 a chain is damaged or does not agree with the file's anchors; 78 these are of another log or
prefix; 1 no record has been audited yet.

Examples:
  processor audit anchor --brokers localhost:9092 | ssh vault 'cat >> anchors.jsonl'
  processor audit anchor -o anchors.jsonl --embedded state/demo";

const FIND: &str = "\
Shows all records about it in the order of time and cause, internal ones too, and below each command what was decided upon: the listing's
version with its limits, the reference price, the tick, and what was switched off. The first column says what the audit log knows of a record:
  +  its entry has its hash       !  it is not the record that was audited
  ?  not audited (yet)            .  internal, not audited

Exit code: 0 found (or nothing there); 70 a record is not the one that was audited.

Examples:
  processor audit find --order 1001 --user 501 --brokers localhost:9092
  processor audit find --user 501 --from 2026-01-31T09:30:00Z --to 2026-01-31T16:00:00Z --format json --brokers ...
  processor audit find --symbol AAPL --from 2026-01-31 --to 2026-02-01 --embedded state/demo";

const EXPORT: &str = "\
Records, chain links, and the heads before and after, one JSON object on each line, each with a sum. `processor audit verify --file` checks
it without the log; docs/contract.md says how to do it without this program. What is damaged is not exported.

Exit code: 0 done; 70 a chain is damaged, and no file is left; 1 it could not be written.

Examples:
  processor audit export --from 2026-01-01 --to 2026-02-01 -o 2026-01.jsonl --brokers localhost:9092
  processor audit export --embedded state/demo | gzip > all.jsonl.gz";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Is every chain, or an exported file, whole?
    #[command(after_help = VERIFY)]
    Verify(Verify),
    /// The heads of all chains on one line, to be kept elsewhere
    #[command(after_help = ANCHOR)]
    Anchor(Anchor),
    /// Everything that happened to an order, a user or a symbol, and why
    #[command(after_help = FIND)]
    Find(Find),
    /// A range of time as a file that proves itself
    #[command(after_help = EXPORT)]
    Export(Export),
}

/// Options of `audit verify`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Verify {
    /// Anchors to compare with, one on each line
    #[arg(long, value_name = "FILE")]
    pub anchors: Option<PathBuf>,
    /// Verify this export instead of the log; `-` is stdin
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Options of `audit anchor`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Anchor {
    /// Add it to this file; `-` is stdout [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Walk all chains from their start, not from where the file's last anchor left off
    #[arg(long)]
    pub from_start: bool,
}

/// Options of `audit find`.
#[derive(Debug, Default, Clone, ClapArgs)]
#[command(group = ArgGroup::new("about").args(["order", "user", "symbol"]).required(true).multiple(true))]
pub struct Find {
    /// Order or transfer id
    #[arg(long, value_name = "ID")]
    pub order: Option<String>,
    /// User
    #[arg(long, value_name = "ID")]
    pub user: Option<String>,
    /// Symbol
    #[arg(long, value_name = "S")]
    pub symbol: Option<String>,
    /// First time (2026-01-31T09:30:00Z, a day from 00:00 UTC, or a number since 1970)
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Time before which to stop
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Most records to put in order; more is refused
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub limit: usize,
    /// With --symbol alone: its ticks, too
    #[arg(long)]
    pub ticks: bool,
}

/// Options of `audit export`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Export {
    /// First time (2026-01-31T09:30:00Z, a day from 00:00 UTC, or a number since 1970) [default:
    /// the beginning]
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Time before which to stop [default: now]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// The file; it must not exist; `-` is stdout [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
