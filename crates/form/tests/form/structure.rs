//! Rules for the structure of the code: dependencies between crates, length of files and functions,
//! and forbidden leftovers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::root;

/// A longer file should probably be split.
const LINES_MAX: usize = 1_200;
/// A longer function is hard to read in one go.
const FUNCTION_LINES_MAX: usize = 70;
/// Number of functions of the product that are longer today. The number may only fall.
const LONG_FUNCTIONS: usize = 11;

/// Each crate and the crates of this repository that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("ports", &[]),
    ("faults", &[]),
    ("os", &["ports"]),
    ("wire", &["domain", "ports"]),
    ("engine", &["ports", "faults"]),
    ("roles", &["domain", "ports", "faults", "engine", "wire"]),
    ("store", &["ports", "faults", "os"]),
    ("log-local", &["ports", "faults", "os"]),
    ("log-kafka", &["ports", "faults", "wire"]),
    ("client", &["domain", "os", "ports", "wire"]),
    (
        "audit",
        &["domain", "ports", "engine", "wire", "roles", "os"],
    ),
    ("gateway", &["domain", "os", "ports", "wire", "client"]),
    (
        "testing",
        &["ports", "engine", "wire", "roles", "store", "client"],
    ),
    ("form", &[]),
];

/// Crates whose result may depend only on their input.
const PURE: &[&str] = &["domain", "ports", "engine", "roles"];

/// The compiler enforces the `Cargo.toml` of a crate. This test checks the contents of each
/// `Cargo.toml`.
#[test]
fn crates_use_each_other_in_one_direction() {
    for entry in std::fs::read_dir(root().join("crates")).expect("crates") {
        let name = entry.expect("entry").file_name();
        let name = name.to_string_lossy();
        let allowed = MAY_USE.iter().find(|(c, _)| *c == name);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("crates/{name} is in no layer"));
        let manifest = read(&root().join("crates").join(&*name).join("Cargo.toml"));
        let used = manifest
            .lines()
            .skip_while(|l| *l != "[dependencies]")
            .skip(1)
            .take_while(|l| !l.starts_with('['))
            .filter_map(|l| l.split(['.', ' ']).next())
            .filter(|used| MAY_USE.iter().any(|(c, _)| c == used));
        let wrong: Vec<_> = used.filter(|u| !allowed.contains(u)).collect();
        assert!(wrong.is_empty(), "{name} may not use {wrong:?}");
    }
}

#[test]
fn files_are_short_enough_to_read() {
    let long: Vec<_> = ["src", "crates", "tests", "benches"]
        .iter()
        .flat_map(|dir| rust_files(&root().join(dir)))
        .map(|f| (read(&f).lines().count(), f))
        .filter(|(n, _)| *n > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines: {long:?}");
    let main = read(&root().join("src/main.rs")).lines().count();
    assert!(
        main <= 60,
        "main.rs only starts the command line, yet has {main} lines"
    );
}

/// Counts all lines, including blank ones, from `fn` to the brace that closes its body.
#[test]
fn no_more_functions_are_long_than_before() {
    let mut long = Vec::new();
    for file in product_files() {
        let lines = product_lines(&file);
        for (at, (n, line)) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let names_a_function = line.split_whitespace().any(|word| word == "fn");
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[at..].iter().position(|(_, l)| l.trim_end() == end);
            if names_a_function && length.is_some_and(|l| l >= FUNCTION_LINES_MAX) {
                long.push(format!(
                    "{}:{n}: {}",
                    file.display(),
                    length.unwrap_or_default() + 1
                ));
            }
        }
    }

    assert_eq!(
        long.len(),
        LONG_FUNCTIONS,
        "functions over {FUNCTION_LINES_MAX} lines; set LONG_FUNCTIONS when there are fewer:\n{}",
        long.join("\n")
    );
}

#[test]
fn nothing_is_left_lying_about() {
    // Built from halves, or this file would find itself.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["to", "do!"],
        ["unimpl", "emented!"],
        ["db", "g!("],
        ["#[ig", "nore"],
    ]
    .map(|w| w.concat());

    let mut found = Vec::new();
    for file in ["src", "crates", "tests", "benches"]
        .iter()
        .flat_map(|dir| rust_files(&root().join(dir)))
    {
        for (n, line) in read(&file).lines().enumerate() {
            found.extend(
                words
                    .iter()
                    .filter(|w| line.contains(w.as_str()))
                    .map(|w| format!("{}:{}: {w}", file.display(), n + 1)),
            );
        }
    }

    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_pure_part_has_no_clock_float_thread_or_unordered_map() {
    let words = [
        "f32",
        "f64",
        "SystemTime",
        "Instant",
        "HashMap",
        "HashSet",
        "thread",
        "rand",
        "tokio",
        "rdkafka",
        "rocksdb",
    ];

    // The only place where a float from the wire becomes decimal text. No code computes with this
    // float.
    let reads_floats = |file: &Path, word: &str| {
        file.ends_with("domain/src/decimal.rs") && ["f32", "f64"].contains(&word)
    };

    let mut found = Vec::new();
    for file in PURE.iter().flat_map(|m| crate_files(m)) {
        for (n, line) in product_lines(&file) {
            let mut names = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            found.extend(
                names
                    .find(|w| words.contains(w) && !reads_floats(&file, w))
                    .map(|w| format!("{}:{n}: {w}", file.display())),
            );
        }
    }

    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// A crash point that no code passes makes its test wait for ever. A merge once lost a point.
#[test]
fn every_crash_point_is_somewhere() {
    let list = read(&root().join("crates/faults/src/crash.rs"));
    let points = list
        .lines()
        .skip_while(|l| *l != "points! {")
        .skip(1)
        .take_while(|l| *l != "}");
    let points: Vec<_> = points.filter_map(|l| l.split_whitespace().next()).collect();
    assert!(points.len() > 30, "{points:?}");
    let files = product_files()
        .into_iter()
        .filter(|f| !f.ends_with("faults/src/crash.rs"));
    let code: Vec<_> = files
        .flat_map(|f| product_lines(&f))
        .map(|(_, line)| line)
        .collect();
    let passed = |point: &str| {
        let name = format!("Point::{point}");
        code.iter().any(|l| {
            l.split(&name)
                .skip(1)
                .any(|after| !after.starts_with(char::is_alphanumeric))
        })
    };

    let lost: Vec<_> = points.into_iter().filter(|p| !passed(p)).collect();
    assert!(lost.is_empty(), "no code passes {lost:?}");
}

/// A profile without these would compute money unchecked. `crates/domain` refuses to be compiled
/// without assertions; for overflow checks the language has no such question yet.
#[test]
fn every_profile_checks_arithmetic_and_asserts_invariants() {
    let manifest = read(&root().join("Cargo.toml"));
    let profiles: Vec<_> = manifest
        .split("\n[profile.")
        .skip(1)
        .filter(|p| !p.split(']').next().unwrap_or_default().contains("package"))
        .collect();
    assert_eq!(profiles.len(), 2, "dev and release: {profiles:?}");
    for profile in profiles {
        for setting in ["overflow-checks = true", "debug-assertions = true"] {
            assert!(
                profile.contains(setting),
                "{setting} is missing in {profile}"
            );
        }
    }
}

#[test]
fn one_place_commits() {
    let mut calls: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in crate_files("engine") {
        let n = product_lines(&file)
            .iter()
            .filter(|(_, line)| line.contains(".transact("))
            .count();
        if n > 0 {
            calls.insert(file, n);
        }
    }

    assert!(
        calls.len() == 1 && calls.values().all(|n| *n == 1),
        "the engine commits in one place only: {calls:?}"
    );
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// The files of a crate's `src`.
fn crate_files(name: &str) -> Vec<PathBuf> {
    rust_files(&root().join("crates").join(name).join("src"))
}

/// Crates that only tests use.
const OF_TESTS: &[&str] = &["testing", "form"];

/// The files of the product: the program and the crates, without their tests.
fn product_files() -> Vec<PathBuf> {
    let crates = MAY_USE.iter().map(|(name, _)| *name);
    let mut files = rust_files(&root().join("src"));
    files.extend(
        crates
            .filter(|c| !OF_TESTS.contains(c))
            .flat_map(crate_files),
    );
    files
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };

    let mut files = Vec::new();
    for path in entries.map(|e| e.expect("a readable directory").path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }

    files.sort();
    files
}

/// Numbered lines without comments, up to the tests at the end of the file, which may use any
/// helper.
fn product_lines(file: &Path) -> Vec<(usize, String)> {
    if file.file_name().is_some_and(|n| n == "tests.rs") {
        return Vec::new();
    }

    let text = read(file);
    let lines = text
        .lines()
        .enumerate()
        .map(|(i, l)| (i + 1, l.split("//").next().unwrap_or_default().to_string()));
    lines
        .take_while(|(_, l)| {
            !l.trim_start().starts_with("#[cfg(test)]")
                && !l.trim_start().starts_with("#[cfg(all(test")
        })
        .collect()
}
