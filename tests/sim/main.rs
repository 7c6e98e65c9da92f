//! The simulation: the shipping loop and the shipping roles over a model of a Kafka cluster, with
//! everything that can go wrong drawn from one seed.
//!
//! ```text
//! make sim                 the seeds that `make test` runs, and all mutants
//! make sim SEEDS=n         that many seeds
//! make sim SEED=n          one seed, with a trace
//! ```
//! `docs/internals/reliability.md` says what it covers; `docs/internals/mutants.md` is made by it.

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
