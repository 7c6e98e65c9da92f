//! Every decoder and the configuration parser against hostile bytes. No input may cause a panic,
//! and a decoded value that is encoded and decoded again must be the same.
//!
//! Valid samples are mutated: flips, cuts, splices, false lengths, words from other places. An
//! input with a new answer joins the samples, so the search goes deeper by itself. The search is
//! seeded and repeats exactly. `tests/fuzz_corpus` holds the shortest input found for each answer,
//! and all inputs that ever found a defect. Each run reads them first.
//!
//! ```text
//! cargo test --test fuzz                                      100 000 inputs for each target
//! cargo test --test fuzz -- --inputs 100000000 --seed 7       a campaign: so many in all
//! cargo test --test fuzz -- --target batch --inputs 1000000   one target
//! cargo test --test fuzz -- --keep                            writes the corpus anew
//! ```

mod mutate;
mod targets;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use mutate::Mutator;
use targets::Target;

/// Default number of inputs for each target.
const INPUTS: u64 = 100_000;
/// Longest input that is worth its time.
const LENGTH_MAX: usize = 4096;
/// Number of answers of a target that are kept as samples and in the corpus.
const KEPT_MAX: usize = 60;

struct Options {
    inputs: Option<u64>,
    seed: u64,
    target: Option<String>,
    keep: bool,
}

impl Options {
    /// Skips words that are meant for other test programs (`cargo test some_name`).
    fn read(args: impl Iterator<Item = String>) -> Options {
        let mut options = Options {
            inputs: None,
            seed: 1,
            target: None,
            keep: false,
        };

        let mut args = args.skip(1);
        while let Some(arg) = args.next() {
            let mut number = || {
                args.next()
                    .and_then(|n| n.replace('_', "").parse::<u64>().ok())
                    .unwrap_or_else(|| panic!("{arg} needs a number"))
            };

            match arg.as_str() {
                "--inputs" => options.inputs = Some(number()),
                "--seed" => options.seed = number(),
                "--keep" => options.keep = true,
                "--target" => options.target = args.next(),
                _ => {}
            }
        }

        options
    }
}

thread_local! {
    /// The present input, for the message of a panic.
    static IN_HAND: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn main() -> ExitCode {
    let options = Options::read(std::env::args());
    if std::env::args().any(|a| a == "--list") {
        println!("fuzz: test");
        return ExitCode::SUCCESS;
    }

    let all: Vec<Target> = targets::all()
        .into_iter()
        .filter(|t| options.target.as_deref().is_none_or(|name| name == t.name))
        .collect();
    assert!(!all.is_empty(), "there is no such target");
    let weights: u64 = all.iter().map(|t| t.weight).sum();
    let began = Instant::now();
    let mut total = 0_u64;
    let mut broken = 0;
    println!(
        "{:<14} {:>11} {:>10} {:>8} {:>7}",
        "target", "inputs", "inputs/s", "answers", "corpus"
    );
    for target in &all {
        let inputs = options
            .inputs
            .map_or(INPUTS, |n| n.saturating_mul(target.weight) / weights);
        match Campaign::new(target, options.seed).run(inputs, options.keep) {
            Ok(done) => total += done,
            Err(()) => broken += 1,
        }
    }

    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{total} inputs in {seconds:.1} s, {:.0}/s, seed {}; {broken} targets broken",
        total as f64 / seconds,
        options.seed
    );
    if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Campaign<'a> {
    target: &'a Target,
    mutator: Mutator,
    samples: Vec<Vec<u8>>,
    /// The shortest input for each answer.
    answers: BTreeMap<u64, Vec<u8>>,
}

impl<'a> Campaign<'a> {
    fn new(target: &'a Target, seed: u64) -> Self {
        let name = target
            .name
            .bytes()
            .fold(seed, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
        Campaign {
            target,
            mutator: Mutator::new(name),
            samples: (target.samples)(),
            answers: BTreeMap::new(),
        }
    }

    fn run(mut self, inputs: u64, keep: bool) -> Result<u64, ()> {
        let corpus = read_corpus(self.target.name);
        let known = corpus.len();
        let began = Instant::now();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|what| {
            IN_HAND.with(|input| eprintln!("{what}\nwith the input {}", hex(&input.borrow())));
        }));

        let result = catch_unwind(AssertUnwindSafe(|| self.feed(corpus, inputs)));
        std::panic::set_hook(hook);
        let name = self.target.name;
        match result {
            Ok(done) => {
                let rate = done as f64 / began.elapsed().as_secs_f64();
                println!(
                    "{name:<14} {done:>11} {rate:>10.0} {:>8} {known:>7}",
                    self.answers.len()
                );
                if keep {
                    self.write_corpus();
                }

                Ok(done)
            }
            Err(_) => {
                println!(
                    "{name:<14} BROKEN, see above; put the input into {} and mend it",
                    corpus_dir(name).display()
                );
                Err(())
            }
        }
    }

    fn feed(&mut self, corpus: Vec<Vec<u8>>, inputs: u64) -> u64 {
        for input in corpus.into_iter().chain(self.samples.clone()) {
            self.one(&input);
            self.samples.push(input);
        }

        let mut input = Vec::new();
        for _ in 0..inputs {
            self.mutator
                .make(&self.samples, self.target.words, &mut input);
            input.truncate(LENGTH_MAX);
            if self.one(&input) && self.samples.len() < 400 {
                self.samples.push(input.clone());
            }
        }

        inputs
    }

    /// Runs one input; true if the answer is new.
    fn one(&mut self, input: &[u8]) -> bool {
        IN_HAND.with(|hand| {
            let mut hand = hand.borrow_mut();
            hand.clear();
            hand.extend_from_slice(input);
        });

        let answer = (self.target.run)(input);
        match self.answers.get_mut(&answer) {
            Some(shortest) => {
                if input.len() < shortest.len() {
                    *shortest = input.to_vec();
                }

                false
            }
            None => {
                self.answers.insert(answer, input.to_vec());
                true
            }
        }
    }

    fn write_corpus(&self) {
        let dir = corpus_dir(self.target.name);
        std::fs::create_dir_all(&dir).expect("a directory");
        for (answer, input) in self.answers.iter().take(KEPT_MAX) {
            let path = dir.join(format!("{answer:016x}"));
            let shorter = std::fs::read(&path).map_or(true, |old| input.len() < old.len());
            if shorter {
                std::fs::write(path, input).expect("a file");
            }
        }
    }
}

fn corpus_dir(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz_corpus")
        .join(target)
}

/// In the order of their names, so that a run repeats.
fn read_corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus_dir(target))
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|f| std::fs::read(f).expect("a readable file"))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
