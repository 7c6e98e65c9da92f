//! `demo`: everything in one process.

use crate::cli::args::Demo;
use crate::cli::config::{self, Config};
use crate::cli::exit::Failure;

/// Runs the demo.
pub fn run(config: &Config, demo: &Demo) -> Result<(), Failure> {
    let _for_ms = demo.run_for.as_deref().map(config::duration_ms).transpose().map_err(|e| Failure::usage(format!("--for: {e}")))?;
    Err(Failure::failed(format!("this build has no demo ({:?})", config.target)))
}
