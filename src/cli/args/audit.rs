//! `audit ...` as typed.

use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs, Subcommand};

const VERIFY: &str = "\
Reads every chain from its first entry and compares it with the records that are
still there. For a damaged chain the command names the first bad record, the
kind of damage (changed, deleted, swapped, truncated, inserted, rewritten), and
how far the chain is whole.

A chain shows changes inside it. If somebody cut or rewrote a whole chain with
its records, only an anchor kept in another place shows it. A chain that an
anchor names and that is gone counts as damage.

In an exported file, anchors prove the records that they cover; the command
prints how many. Record contents may be missing from a file only where
compaction drops records; the command prints how many are missing.

Exit code: 0 whole; 70 damaged; 78 the anchors are damaged, or of another log or
prefix; 1 the log or the file cannot be read, or anchors are given and none
covers some chain.

Examples:
  processor audit verify --brokers localhost:9092
  processor audit verify --anchors /safe/anchors.jsonl --brokers localhost:9092
  processor audit verify --file 2026-01.jsonl --anchors /safe/anchors.jsonl";

const ANCHOR: &str = "\
An anchor is one line of JSON: the head of every chain (entries, offset, hash)
and a Merkle root over all heads. Keep it where people who can change the log
cannot change it: another machine, write-once storage, a mail.

With -o the command first compares the chains with the anchors in the file, then
appends the new one. It reads the chains from the last anchor in the file. It
reads them from their start with --from-start, without a file, or if the log
differs from the anchor.

Exit code: 0 done. With any other code nothing is written: 70 a chain is damaged
or differs from an anchor in the file; 78 the anchors are of another log or
prefix; 1 no record has been audited yet.

Examples:
  processor audit anchor --brokers localhost:9092 \\
      | ssh vault 'cat >> anchors.jsonl'
  processor audit anchor -o anchors.jsonl --embedded state/demo";

const FIND: &str = "\
Shows all records, internal ones too, in the order of time and cause. Below each
command stand the inputs of the decision: the listing with its limits, the
reference price, the last tick, settings that are not the default, and whether
the user or everybody was stopped or disabled. The first column compares a
record with the audit log:
  +  the audit log has the hash of this record
  !  the audit log has another hash: the record was changed
  ?  not audited (yet)
  .  internal, never audited

Exit code: 0 done, even if nothing was found; 70 a record was changed.

Examples:
  processor audit find --order 1001 --user 501 --brokers localhost:9092
  processor audit find --user 501 --from 2026-01-31T09:30:00Z \\
      --to 2026-01-31T16:00:00Z --format json --brokers localhost:9092
  processor audit find --symbol AAPL --from 2026-01-31 --to 2026-02-01 \\
      --embedded state/demo";

const EXPORT: &str = "\
The file has the records, the links of the chains, and the heads before and
after: one JSON object per line, each with a checksum. `processor audit verify
--file` checks it without the log. docs/contract.md says how to check it without
this program. Damaged records are not exported.

Exit code: 0 done; 70 a chain is damaged, and no file is left; 1 the file cannot
be written.

Examples:
  processor audit export --from 2026-01-01 --to 2026-02-01 -o 2026-01.jsonl \\
      --brokers localhost:9092
  processor audit export --embedded state/demo | gzip > all.jsonl.gz";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check that every chain of the audit log, or an exported file, is whole
    #[command(after_help = VERIFY)]
    Verify(Verify),
    /// Print the heads of all chains on one line, to keep in another place
    #[command(after_help = ANCHOR)]
    Anchor(Anchor),
    /// Show everything that happened to an order, a user or a symbol, and why
    #[command(after_help = FIND)]
    Find(Find),
    /// Write the records of a period to a file that `audit verify` can check
    #[command(after_help = EXPORT)]
    Export(Export),
}

/// Options of `audit verify`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Verify {
    /// File of anchors to compare with, one anchor per line
    #[arg(long, value_name = "FILE")]
    pub anchors: Option<PathBuf>,
    /// Check this exported file instead of the log; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Options of `audit anchor`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Anchor {
    /// Append the anchor to this file; `-` writes to stdout [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Read all chains from their start, not from the last anchor in the file
    #[arg(long)]
    pub from_start: bool,
}

/// Options of `audit find`.
#[derive(Debug, Default, Clone, ClapArgs)]
#[command(group = ArgGroup::new("about").args(["order", "user", "symbol"]).required(true).multiple(true))]
pub struct Find {
    /// Id of an order or transfer
    #[arg(long, value_name = "ID")]
    pub order: Option<String>,
    /// User id
    #[arg(long, value_name = "ID")]
    pub user: Option<String>,
    /// Symbol
    #[arg(long, value_name = "S")]
    pub symbol: Option<String>,
    /// Start: a time (2026-01-31T09:30:00Z), a day (from 00:00 UTC), or a number since 1970
    /// [default: the first record]
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// End; this moment itself is not included [default: the last record]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Most records to find. If there are more, the command fails; choose a shorter period
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub limit: usize,
    /// With --symbol alone: also show the prices of the symbol
    #[arg(long)]
    pub ticks: bool,
}

/// Options of `audit export`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Export {
    /// Start: a time (2026-01-31T09:30:00Z), a day (from 00:00 UTC), or a number since 1970
    /// [default: the first record]
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// End; this moment itself is not included [default: now]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// File to write; it must not exist. `-` writes to stdout [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
