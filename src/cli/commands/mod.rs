//! One file per command.

pub(super) mod account;
pub(super) mod answers;
pub(super) mod audit;
pub(super) mod config;
pub(super) mod demo;
pub(super) mod find;
pub(super) mod gateway;
pub(super) mod history;
pub(super) mod instruments;
pub(super) mod listed;
pub(super) mod operator;
pub(super) mod order;
pub(super) mod portfolio;
pub(super) mod publish;
pub(super) mod rebuild;
pub(super) mod repair;
pub(super) mod replay;
pub(super) mod run;
pub(super) mod send;
pub(super) mod state;
pub(super) mod status;
pub(super) mod tail;
pub(super) mod topics;
pub(super) mod traders;
pub(super) mod verify;

use domain::ids;

use super::exit::Failure;

/// Checks a user id. A command for one of the system's own accounts becomes a dead letter, and
/// nobody answers it.
fn user(user: &str) -> Result<&str, Failure> {
    match ids::valid_user(user) {
        true => Ok(user),
        false => Err(Failure::usage(format!(
            "user_id `{user}`: must be 1 to 64 printable ASCII characters without blanks and `/`, and not an account of the system itself \
             (`external`, `house:*`)"
        ))),
    }
}
