//! The simulation: the shipping loop and the shipping roles over a model of a Kafka cluster. One
//! seed determines all faults.
//!
//! ```text
//! make sim                 the seeds that `make test` runs, and all mutants
//! make sim SEEDS=n         that many seeds
//! make sim SEED=n          one seed, with a trace
//! ```
//! `docs/internals/reliability.md` describes the coverage; the simulation writes
//! `docs/internals/mutants.md`.

mod campaign;
mod client;
mod cluster;
mod coverage;
mod nemesis;
mod operator;
mod oracle;
mod plan;
mod process;
mod progress;
mod rng;
mod run;
mod store;
mod timing;
mod trace;
mod traffic;
mod workload;
mod world;

fn main() -> std::process::ExitCode {
    campaign::main()
}
