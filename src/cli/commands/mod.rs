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
pub mod order;
pub mod portfolio;
pub mod publish;
pub mod rebuild;
pub mod replay;
pub mod run;
pub mod state;
pub mod status;
pub mod tail;
pub mod topics;
pub mod traders;
pub mod verify;
