//! `repair ...` as typed.

use clap::Subcommand;

const OFFSETS: &str = "\
Kafka forgets the offsets of a group that has not run for a week
(offsets.retention.minutes). A tool, a restored backup or a deleted group can
change them too. The true position of each task is in its changelog: the last
record of every transaction has it. This command sets the group's offsets to
those positions.

It first takes the place of the role in the group, as a start with the same
--instance does, and fails while an instance of the role runs. It writes no
record and does not touch local state. If records that a task still needs were
deleted, the command names the position and changes nothing.

Exit code: 0 the offsets are right; 1 try again; 70 a position cannot be right;
78 the role runs.

Examples:
  processor repair offsets --role orders --dry-run --brokers localhost:9092
  processor repair offsets --role all --brokers localhost:9092";

/// `repair ...`
#[derive(Debug, Subcommand)]
pub enum Repair {
    /// Set the committed offsets of a role's group to the positions in its changelogs
    #[command(after_help = OFFSETS)]
    Offsets {
        /// Print the changes, and make none
        #[arg(long)]
        dry_run: bool,
    },
}
