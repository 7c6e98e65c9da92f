//! How the program ends. Scripts and service managers act on these codes, so each says one thing
//! only.

use ports::{LogError, StoreError};

/// Exit codes; `docs/operating/troubleshooting.md` says what to do about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Done, or stopped gracefully.
    Ok = 0,
    /// Something passing went wrong: restart me.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// An invariant broke, or data is corrupt: a person must look.
    Bug = 70,
    /// A newer instance of the same name took over: do not restart in a tight loop.
    Fenced = 75,
    /// Configuration invalid: also topics that do not fit, a store of another cluster, a log in use
    /// by another process.
    Config = 78,
    /// A second signal cut the graceful stop short.
    Forced = crate::runtime::signals::FORCED as isize,
}

/// Why a command did not succeed: what is said to the person, and the code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// One or more sentences; what happened and what to do.
    pub message: String,
}

impl Failure {
    /// A failure of any kind.
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

    /// Invalid configuration.
    pub fn config(message: impl Into<String>) -> Self {
        Failure::new(Code::Config, message)
    }

    /// Something passing.
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
