//! Many runs over seeds and over mutants, on all cores, and the printed summary.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use faults::mutants::{self, Mutant};

use super::coverage::{Coverage, Kind};
use super::plan::set_untransacted;
use super::progress::Silence;
use super::run::{Finding, run};
use super::trace::Trace;

/// Number of seeds in `make test`.
const SEEDS: u64 = 20_000;
/// A mutant that survives this number of seeds counts as not caught.
const MUTANT_SEEDS: u64 = 20_000;
/// Number of seeds without transactions and with the sequence guard.
const CONTROL_SEEDS: u64 = 1_000;
/// Every seed divisible by this number runs twice, and both runs must be equal.
const TWICE_EVERY: u64 = 64;

#[derive(Default)]
struct Options {
    seeds: Option<u64>,
    from: u64,
    seed: Option<u64>,
    mutant: Option<Mutant>,
    mutants: bool,
    write: bool,
    keep_going: bool,
    /// `orders` writes outside transactions.
    untransacted: bool,
    threads: u64,
}

fn options() -> Result<Options, String> {
    let mut o = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            args.next()
                .and_then(|n| n.parse::<u64>().ok())
                .ok_or(format!("{arg} wants a number"))
        };

        match arg.as_str() {
            "--seeds" => o.seeds = Some(number()?),
            "--from" => o.from = number()?,
            "--seed" => o.seed = Some(number()?),
            "--threads" => o.threads = number()?,
            "--mutant" => {
                let name = args.next().unwrap_or_default();
                let names: Vec<_> = Mutant::ALL.iter().map(|m| m.name()).collect();
                let found = Mutant::ALL.into_iter().find(|m| m.name() == name);
                o.mutant = Some(found.ok_or(format!(
                    "there is no mutant \"{name}\"; they are {}",
                    names.join(", ")
                ))?);
            }
            "--mutants" => o.mutants = true,
            "--write" => o.write = true,
            "--keep-going" => o.keep_going = true,
            "--untransacted" => o.untransacted = true,
            // `cargo test` passes these arguments to every test program.
            other if other.starts_with("--") || other == "sim" => {}
            other => {
                return Err(format!(
                    "{other}? Known: --seeds N, --from S, --seed N, --mutant NAME, --mutants, --write, --keep-going, --untransacted, --threads N"
                ));
            }
        }
    }

    Ok(o)
}

pub fn main() -> ExitCode {
    if std::env::args().any(|a| a == "--list") {
        println!("sim: test");
        return ExitCode::SUCCESS;
    }

    let o = match options() {
        Ok(o) => o,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };

    quiet_panics(o.seed.is_some());
    if let Some(seed) = o.seed {
        set_untransacted(o.untransacted || o.mutant == Some(Mutant::GuardOff));
        return one(seed, o.mutant);
    }

    if o.mutants {
        return if all_mutants(&o) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }

    let ok = seeds(&o, o.seeds.unwrap_or(SEEDS));
    let more = o.seeds.is_none() && o.mutant.is_none();
    if ok && (!more || all_mutants(&o)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A panic inside a run is a finding, printed with the other findings.
fn quiet_panics(loud: bool) {
    if !loud {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !super::process::is_running() {
                usual(info);
            }
        }));
    }
}

fn command(seed: u64, mutant: Option<Mutant>) -> String {
    match mutant {
        None => format!("make sim SEED={seed}"),
        Some(m) => format!("make sim SEED={seed} MUTANT={}", m.name()),
    }
}

fn one(seed: u64, mutant: Option<Mutant>) -> ExitCode {
    mutants::switch(mutant);
    let found = run(seed, Trace::Print);
    println!(
        "seed {seed}: {} events, {} s of virtual time, hash {:016x}",
        found.steps,
        found.virtual_us / 1_000_000,
        found.hash
    );
    println!(
        "longest silence of a task: {} ms, of one while all was well: {} ms",
        found.silence.any / 1_000,
        found.silence.well / 1_000
    );
    println!(
        "most transactions in a row that passed over a partition with something to read: {}",
        found.silence.passed
    );
    for (kind, text) in Kind::ALL {
        let n = found.coverage.0[*kind as usize];
        if n > 0 {
            println!("{n:>8} {text}");
        }
    }

    match found.violation {
        None => {
            println!("nothing wrong");
            ExitCode::SUCCESS
        }
        Some(why) => {
            println!("VIOLATION: {why}");
            ExitCode::FAILURE
        }
    }
}

struct Sum {
    coverage: Coverage,
    steps: u64,
    virtual_us: u64,
    runs: u64,
    guard: (u64, u64),
    silences: Vec<Silence>,
    findings: Vec<Finding>,
}

/// Runs seeds on all cores until a run fails or all seeds are done. With a mutant, the lowest seed
/// that finds the mutant counts.
fn explore(
    from: u64,
    count: u64,
    mutant: Option<Mutant>,
    o: &Options,
    told: &(dyn Fn(u64) + Sync),
) -> Sum {
    let threads = if o.threads > 0 {
        o.threads
    } else {
        std::thread::available_parallelism().map_or(2, |n| n.get() as u64)
    };

    let next = AtomicU64::new(from);
    let done = AtomicU64::new(0);
    let found = AtomicBool::new(false);
    let sum = Mutex::new(Sum {
        coverage: Coverage::default(),
        steps: 0,
        virtual_us: 0,
        runs: 0,
        guard: (0, 0),
        silences: Vec::new(),
        findings: Vec::new(),
    });

    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                mutants::switch(mutant);
                set_untransacted(o.untransacted || mutant == Some(Mutant::GuardOff));
                let mut silences = Vec::new();
                let mut coverage = Coverage::default();
                let mut steps = 0;
                let mut virtual_us = 0;
                let mut runs = 0;
                let mut guard = (0, 0);
                while !found.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        break;
                    }

                    let mut result = run(seed, Trace::Off);
                    if mutant.is_none()
                        && seed.is_multiple_of(TWICE_EVERY)
                        && result.violation.is_none()
                    {
                        let again = run(seed, Trace::Off);
                        if again.hash != result.hash {
                            result.violation =
                                Some("determinism: two runs of one seed differ".into());
                        }
                    }

                    coverage.add(&result.coverage);
                    silences.push(result.silence);
                    steps += result.steps;
                    virtual_us += result.virtual_us;
                    runs += 1;
                    guard = (guard.0 + result.guard.0, guard.1 + result.guard.1);
                    told(done.fetch_add(1, Ordering::Relaxed) + 1);
                    if let Some(why) = &result.violation {
                        if mutant.is_none() {
                            println!("seed {seed}: {why}");
                        }

                        found.store(!o.keep_going, Ordering::Relaxed);
                        sum.lock().expect("no panic in here").findings.push(result);
                    }
                }

                let mut sum = sum.lock().expect("no panic in here");
                sum.coverage.add(&coverage);
                sum.silences.append(&mut silences);
                sum.steps += steps;
                sum.virtual_us += virtual_us;
                sum.runs += runs;
                sum.guard = (sum.guard.0 + guard.0, sum.guard.1 + guard.1);
            });
        }
    });

    let mut sum = sum.into_inner().expect("all threads have ended");
    sum.findings.sort_by_key(|f| f.seed);
    sum
}

fn seeds(o: &Options, count: u64) -> bool {
    let from = o.from;
    let mutant = o.mutant;
    let begun = Instant::now();
    let last = Mutex::new(Instant::now());
    let sum = explore(from, count, mutant, o, &|done| {
        if let Ok(mut last) = last.try_lock()
            && last.elapsed() > Duration::from_secs(10)
        {
            *last = Instant::now();
            println!(
                "sim: {done} of {count} seeds, {:.0} per second",
                done as f64 / begun.elapsed().as_secs_f64()
            );
        }
    });

    let time = begun.elapsed();
    println!(
        "sim: {} seeds from {from} in {:.1} s ({:.0} per second), {} events, {:.1} h of virtual time",
        sum.runs,
        time.as_secs_f64(),
        sum.runs as f64 / time.as_secs_f64(),
        sum.steps,
        sum.virtual_us as f64 / 3.6e9
    );

    tell_silences(&sum.silences);
    for found in &sum.findings {
        println!(
            "seed {}: {}",
            found.seed,
            found.violation.as_deref().unwrap_or_default()
        );
        println!("again, with a trace: {}", command(found.seed, mutant));
    }

    if !sum.findings.is_empty() && !o.keep_going {
        return false;
    }

    if count >= 1_000 && !o.untransacted {
        for (kind, text) in Kind::ALL {
            println!("{:>12} {text}", sum.coverage.0[*kind as usize]);
        }

        let never = sum.coverage.never();
        if !never.is_empty() {
            println!("never happened: {}", never.join("; "));
            return false;
        }
    }

    sum.findings.is_empty()
}

/// Prints the median, the 99th percentile and the maximum of the seeds' longest silences.
fn tell_silences(all: &[Silence]) {
    let told = |name: &str, unit: &str, of: &dyn Fn(&Silence) -> u64| {
        let mut each: Vec<u64> = all.iter().map(of).collect();
        each.sort_unstable();
        let at = |permille: usize| {
            each.get(each.len().saturating_sub(1) * permille / 1_000)
                .copied()
                .unwrap_or(0)
        };

        println!(
            "{name}: half of the seeds {}, p99 {}, most {} {unit}",
            at(500),
            at(990),
            at(1_000)
        );
    };

    told(
        "longest silence of a task with something to read",
        "ms",
        &|s| s.any / 1_000,
    );
    told("the same while all was well", "ms", &|s| s.well / 1_000);
    told("longest restore while all was well", "ms", &|s| {
        s.restore / 1_000
    });

    told(
        "a partition with something to read was passed over by",
        "transactions in a row",
        &|s| s.passed,
    );
}

/// How a mutant was found.
struct Caught {
    mutant: Mutant,
    /// The seed, and the number of seeds up to it.
    seed: Option<(u64, u64)>,
    invariant: String,
}

fn all_mutants(o: &Options) -> bool {
    let mut rows = Vec::new();

    // The control first: the invariants must hold while the guard is on. Afterwards a mutant
    // switches the guard off.
    let control = Options {
        untransacted: true,
        keep_going: true,
        threads: o.threads,
        ..Options::default()
    };

    let sum = explore(o.from, CONTROL_SEEDS, None, &control, &|_| {});
    let (dropped, stopped) = sum.guard;
    println!(
        "transactions off, guard on: {CONTROL_SEEDS} seeds, {dropped} repeats dropped, {stopped} stops, {} passed on",
        sum.findings.len()
    );
    for f in &sum.findings {
        println!(
            "seed {}: {}",
            f.seed,
            f.violation.as_deref().unwrap_or_default()
        );
    }

    let mut ok = sum.findings.is_empty() && dropped > 0;
    for mutant in Mutant::ALL {
        let begun = Instant::now();
        let sum = explore(o.from, MUTANT_SEEDS, Some(mutant), o, &|_| {});
        let found = sum.findings.first();
        let why = found
            .and_then(|f| f.violation.as_deref())
            .unwrap_or("NOT CAUGHT");
        let invariant = why
            .split_once(": ")
            .map_or(why, |(invariant, _)| invariant)
            .to_string();
        let row = Caught {
            mutant,
            seed: found.map(|f| (f.seed, f.seed - o.from + 1)),
            invariant,
        };

        ok &= row.seed.is_some();
        let seeds = row
            .seed
            .map_or(format!("> {MUTANT_SEEDS}"), |(_, n)| n.to_string());
        println!(
            "mutant {:<22} seeds {seeds:>8}  {:>5.1} s  {}",
            mutant.name(),
            begun.elapsed().as_secs_f64(),
            row.invariant
        );
        rows.push(row);
    }

    if o.write {
        write(&rows);
    }

    ok
}

fn write(rows: &[Caught]) {
    let mut text = String::from(
        "\
# Mutants

For people who change the loop. Each row is a mistake that a loop like ours could contain. It is
switched on in the shipping code (or, for what the Kafka adapter decides, in the model client), and
the simulation must find it. Made by `make mutants`.

| mutant | seeds needed | invariant that caught it | again |
|---|---|---|---|
",
    );
    for Caught {
        mutant,
        seed,
        invariant,
    } in rows
    {
        let (seeds, again) = match seed {
            Some((seed, n)) => (
                n.to_string(),
                format!("`{}`", command(*seed, Some(*mutant))),
            ),
            None => ("not found".to_string(), String::new()),
        };
        text.push_str(&format!(
            "| {} (`{}`) | {seeds} | {invariant} | {again} |\n",
            mutant.idea(),
            mutant.name()
        ));
    }
    std::fs::write(
        concat!(env!("CARGO_MANIFEST_DIR"), "/docs/internals/mutants.md"),
        text,
    )
    .expect("docs can be written");
}
