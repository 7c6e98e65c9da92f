//! How many files this process may open.
//!
//! An idle store needs five descriptors and one for each of its tables, a client of the cluster one
//! for each broker. The usual soft limit of 1024 is there for old programs that use `select`; the
//! hard limit is what the machine allows. So the soft limit is raised to the hard one at the start,
//! as a JVM does.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as it goes without rights. What fails is only worth a line for who looks
/// for it.
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
