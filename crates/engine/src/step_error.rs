//! The error of a turn: recover or stop. This file maps every error of every port to an action; no
//! other file does.

use ports::{LogError, StoreError, TransactionOutcome};

use super::instance::FatalError;
use super::restore::RestoreError;
use super::role::InvariantViolation;
use super::task::TaskError;

/// Error of a turn.
pub(super) enum StepError {
    /// End this incarnation and join again.
    Recover(String),
    /// An invariant does not hold, or this process is a zombie with stale state. A zombie was
    /// frozen for longer than its session and continues with old state and old answers. Records may
    /// follow from work of the tasks' new owner, positions may be gone, and answers about committed
    /// offsets may be old. The first finding therefore ends only the incarnation, and the next
    /// incarnation checks again with fresh state. A second finding stops the instance. The number
    /// is the task with the finding, if any.
    Doubt(Option<u32>, String),
    /// The log refuses a request. Recover, or stop if the log never allowed the request or if the
    /// refusal lasts.
    Refused(String),
    /// Stop for good.
    Stop(FatalError),
}

impl StepError {
    /// The error of a failed restore.
    pub(super) fn of_restore(task: u32, e: RestoreError) -> StepError {
        match e {
            RestoreError::Log(e) => e.into(),
            RestoreError::Store(e) => e.into(),
            RestoreError::Doubt(text) => StepError::Doubt(Some(task), text),
            RestoreError::Stop(text) => StepError::Stop(FatalError::Bug(text)),
        }
    }

    /// The error of a transaction that ended with this outcome.
    pub(super) fn of_transaction(outcome: TransactionOutcome) -> StepError {
        match outcome {
            TransactionOutcome::Committed { .. } => StepError::suspect(),
            TransactionOutcome::NotCommitted(why) | TransactionOutcome::Late { why, .. } => {
                StepError::Recover(format!("not committed: {why}"))
            }
            TransactionOutcome::Rejected(rejection) => {
                StepError::Recover(format!("not committed: {}", rejection.text))
            }
            TransactionOutcome::Unknown(why) => {
                StepError::Recover(format!("outcome unknown: {why}"))
            }
            TransactionOutcome::Fenced(why) => StepError::Stop(FatalError::Fenced(why)),
            TransactionOutcome::Refused(why) => StepError::Refused(why),
        }
    }

    /// A late request of a suspect transaction could arrive inside the next one. A new producer
    /// epoch fences such a request.
    pub(super) fn suspect() -> StepError {
        StepError::Recover(
            "the transaction committed, but a connection or request failed inside it; taking a new \
             producer epoch"
                .into(),
        )
    }

    /// Configuration, topics or local state do not fit.
    pub(super) fn invalid(text: String) -> StepError {
        StepError::Stop(FatalError::Invalid(text))
    }
}

impl std::convert::From<LogError> for StepError {
    fn from(e: LogError) -> StepError {
        match e {
            LogError::Unavailable(_) => StepError::Recover(e.to_string()),
            LogError::Io(why) => StepError::Stop(FatalError::Failed(why)),
            LogError::Fenced(why) => StepError::Stop(FatalError::Fenced(why)),
            LogError::Invalid(why) => StepError::invalid(why),
            LogError::Refused(why) => StepError::Refused(why),
            LogError::Corrupt(_) => StepError::Doubt(None, e.to_string()),
        }
    }
}

impl std::convert::From<StoreError> for StepError {
    fn from(e: StoreError) -> StepError {
        match e {
            // Damage found while running. The restore of the next incarnation checks the store and
            // quarantines a damaged store.
            StoreError::Corrupt(_) => StepError::Recover(e.to_string()),
            // The process that holds the store ends some day, so a later start helps.
            StoreError::Io(_) | StoreError::Held(_) => {
                StepError::Stop(FatalError::Failed(e.to_string()))
            }
            StoreError::Invalid(why) => StepError::invalid(why),
        }
    }
}

impl std::convert::From<InvariantViolation> for StepError {
    fn from(e: InvariantViolation) -> StepError {
        StepError::Stop(FatalError::Bug(e.0))
    }
}

impl std::convert::From<TaskError> for StepError {
    fn from(e: TaskError) -> StepError {
        match e {
            TaskError::Bug(b) => b.into(),
            TaskError::Store(s) => s.into(),
            TaskError::Newer(why) => StepError::invalid(why),
        }
    }
}
