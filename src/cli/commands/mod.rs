//! One file per command.

pub mod account;
pub mod answers;
pub mod audit;
pub mod config;
pub mod demo;
pub mod find;
pub mod gateway;
pub mod history;
pub mod instruments;
pub mod listed;
pub mod operator;
pub mod order;
pub mod portfolio;
pub mod publish;
pub mod rebuild;
pub mod repair;
pub mod replay;
pub mod run;
pub mod send;
pub mod state;
pub mod status;
pub mod tail;
pub mod topics;
pub mod traders;
pub mod verify;

use super::exit::Failure;
use crate::domain::ids;

/// A user that may be named. Commands for the system's own accounts are dead letters, and nobody
/// answers them.
fn user(user: &str) -> Result<&str, Failure> {
    match ids::valid_user(user) {
        true => Ok(user),
        false => Err(Failure::usage(format!(
            "user_id `{user}`: must be 1 to 64 printable ASCII characters without blanks and `/`, and not an account of the system itself \
             (`external`, `house:*`)"
        ))),
    }
}
