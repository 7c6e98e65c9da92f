//! `verify`: checks digests, meta records, books, sequences and audit chains.

use serde_json::json;

use crate::cli::config::Config;
use crate::cli::exit::{Code, Failure};
use crate::cli::open::Access;
use crate::cli::output::{self, OutputFormat};
use crate::cli::system;
use crate::runtime::verify;

/// Prints each check at once.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    // Open for writing, so that no other process moves the embedded log: a read view of a moving
    // log would be older than the compared stores. Kafka needs no such lock.
    let system = system::of(config, Access::Write)?;
    let mut bad = 0_u64;
    let mut all = 0_u64;
    let done = verify::run(&system, &config.roles_or_all(), &mut |check| {
        all += 1;
        bad += u64::from(!check.ok);
        let printed = match config.format {
            OutputFormat::Json => {
                output::json(&json!({"check": check.name, "ok": check.ok, "detail": check.detail}))
            }
            OutputFormat::Text => output::line(format_args!(
                "{:<4} {}: {}",
                if check.ok { "ok" } else { "BAD" },
                check.name,
                check.detail
            )),
        };

        // Never an error: a failed write is reported at the end.
        printed.unwrap_or_default();
    });

    // Report the findings even if later checks could not run.
    match (bad, done) {
        (0, Ok(_)) => Ok(()),
        (0, Err(e)) => Err(e.into()),
        (n, Ok(_)) => Err(Failure::new(
            Code::Bug,
            format!(
                "{n} of {all} checks failed; the lines above name them. Keep the state directory and the log as they are, for a person to look at"
            ),
        )),
        (n, Err(e)) => Err(Failure::new(
            Code::Bug,
            format!(
                "{n} of {all} checks failed; the lines above name them. The other checks could not be made: {e}"
            ),
        )),
    }
}
