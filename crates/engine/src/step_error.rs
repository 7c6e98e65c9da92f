//! How a turn of the loop ends when it does not end well: recover or stop. Every error of every
//! port is sorted here, and nowhere else.

use super::instance::FatalError;
use super::restore::RestoreError;
use super::role::Bug;
use super::task::TaskError;
use ports::{LogError, StoreError};

/// How a turn ends when it does not end well.
pub(super) enum StepError {
    /// Give this incarnation up and join again.
    Recover(String),
    /// Something cannot be, or only looks so. A process that was frozen for longer than its session
    /// goes on with old state and old answers: records may follow from what its tasks' new owner
    /// has done, positions may be gone, and committed offsets may have been asked for long ago. So
    /// the first time a new incarnation looks at the same thing again, with the state of that
    /// moment; only then it stops for good. With the task that found it, if one did.
    Doubt(Option<u32>, String),
    /// The log refuses us: recover, or stop if that was never otherwise or lasts.
    Refused(String),
    /// For good.
    Stop(FatalError),
}

impl StepError {
    /// A task could not be restored.
    pub(super) fn of_restore(task: u32, e: RestoreError) -> StepError {
        match e {
            RestoreError::Log(e) => e.into(),
            RestoreError::Store(e) => e.into(),
            RestoreError::Doubt(text) => StepError::Doubt(Some(task), text),
            RestoreError::Stop(text) => StepError::Stop(FatalError::Bug(text)),
        }
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
            // Found while running: the next incarnation's restore looks closer and puts the store
            // aside if it must.
            StoreError::Corrupt(_) => StepError::Recover(e.to_string()),
            // The process that holds the store ends some day: starting again later helps.
            StoreError::Io(_) | StoreError::Held(_) => {
                StepError::Stop(FatalError::Failed(e.to_string()))
            }
            StoreError::Invalid(why) => StepError::invalid(why),
        }
    }
}

impl std::convert::From<Bug> for StepError {
    fn from(e: Bug) -> StepError {
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
