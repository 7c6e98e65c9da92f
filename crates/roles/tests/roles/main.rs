//! The five roles together, without engine, log or store: the flows of the contract, and every row
//! of its lists of bad input.

// The name by which all other crates know this crate.
extern crate processor_roles as roles;

mod authority;
mod bad_input;
mod busts;
mod changes;
mod clocks;
mod conservation;
mod controls;
mod decoders;
mod driver;
mod duplicates;
mod feeds;
mod flow;
mod house;
mod kill_switch;
mod market;
mod market_large;
mod mass_cancel;
mod messages;
mod money;
mod operators;
mod portfolio;
mod prices;
mod production;
mod seed;
mod shorts;
mod stops;
mod sweeps;
mod terms;
