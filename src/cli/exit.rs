//! Exit codes and failures. Scripts and service managers act on the exit code, so each code has one
//! meaning.

use ports::{LogError, StoreError};

/// Exit codes; `docs/operating/troubleshooting.md` gives the action for each code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Success, or a graceful stop.
    Ok = 0,
    /// A temporary failure: restart the process.
    Failed = 1,
    /// Wrong use of the command line.
    Usage = 2,
    /// An invariant is broken, or data is corrupt: a person must act.
    Bug = 70,
    /// A newer instance of the same name took over: do not restart in a tight loop.
    Fenced = 75,
    /// Invalid configuration. Also: topics that do not fit, a store of another cluster, a log in
    /// use by another process.
    Config = 78,
    /// A second signal ended the graceful stop.
    Forced = crate::runtime::signals::FORCED as isize,
}

/// A failed command: the exit code, and a message for the user.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: Code,
    /// One or more sentences: the cause, and the action to take.
    pub message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: message.into(),
        }
    }

    /// Wrong use of the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(Code::Usage, message)
    }

    pub fn config(message: impl Into<String>) -> Self {
        Failure::new(Code::Config, message)
    }

    /// A temporary failure.
    pub fn failed(message: impl Into<String>) -> Self {
        Failure::new(Code::Failed, message)
    }
}

impl From<LogError> for Failure {
    fn from(e: LogError) -> Self {
        let code = match &e {
            LogError::Unavailable(_) | LogError::Io(_) => Code::Failed,
            LogError::Fenced(_) => Code::Fenced,
            LogError::Invalid(_) | LogError::Refused(_) => Code::Config,
            LogError::Corrupt(_) => Code::Bug,
        };

        Failure::new(code, e.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        let code = match &e {
            StoreError::Io(_) => Code::Failed,
            StoreError::Corrupt(_) => Code::Bug,
            StoreError::Held(_) | StoreError::Invalid(_) => Code::Config,
        };

        Failure::new(code, e.to_string())
    }
}

impl From<super::table::TableError> for Failure {
    fn from(e: super::table::TableError) -> Self {
        Failure::failed(e.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Failure::failed(e.to_string())
    }
}

impl From<client::ClientError> for Failure {
    fn from(e: client::ClientError) -> Self {
        match e {
            client::ClientError::Log(e) => e.into(),
            refused => Failure::failed(refused.to_string()),
        }
    }
}
