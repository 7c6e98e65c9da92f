//! `repair ...` as typed.

use clap::Subcommand;

const OFFSETS: &str = "\
Kafka forgets the offsets of a group that has not run for a week (offsets.retention.minutes); a tool, a restored backup or a deleted group can change them
too. Where each task of a role really stands is in its changelog: the last record of every transaction says so. This command puts the group's offsets
there. It takes the role's place in the group first, as a start with the same --instance does, and refuses while any instance of the role runs.

Nothing else is changed: no record is written, local state is not touched. A position that its topic does not reach back to any more, because records
were deleted before the role read them, is named, and then nothing is changed at all.

Exit codes: 0 the offsets are right (now, or were before); 1 try again; 70 positions that cannot be right; 78 the role runs.

Examples:
  processor repair offsets --role orders --dry-run --brokers localhost:9092      what would be done
  processor repair offsets --role all --brokers localhost:9092";

/// `repair ...`
#[derive(Debug, Subcommand)]
pub enum Repair {
    /// Put the committed offsets of a role's group to where its changelog says that each task
    /// stands
    #[command(after_help = OFFSETS)]
    Offsets {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}
