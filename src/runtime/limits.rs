//! Limit of open files of this process.
//!
//! An idle store needs five descriptors and one per table. A Kafka client needs one per broker. The
//! usual soft limit of 1024 exists for old programs that use `select`; the hard limit is the limit
//! of the machine. At the start, the process therefore raises the soft limit to the hard limit, as
//! a JVM does.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit; no privilege is needed. A failure is logged at debug
/// level only.
pub fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        tracing::debug!(?current, "open files: the limit is as high as it may be");
        return;
    }

    match setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        Ok(()) => {
            tracing::debug!(from = ?current, to = ?maximum, "open files: the limit is raised to what is allowed")
        }
        Err(e) => tracing::debug!(
            ?current,
            ?maximum,
            "open files: the limit cannot be raised: {e}"
        ),
    }
}
