//! The shape of the code, held by a test: who may use whom, how long a file may be, what may not be
//! left lying about.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file of more lines is probably two rooms.
const LINES_MAX: usize = 1_200;
/// A function of more lines is hard to read in one go.
const FUNCTION_LINES_MAX: usize = 70;
/// So many functions of the product are longer today. The number may only fall.
const LONG_FUNCTIONS: usize = 67;

/// Each module of the crate and the modules it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("engine", &["domain"]),
    ("wire", &["domain", "engine"]),
    ("roles", &["domain", "engine", "wire"]),
    ("files", &[]),
    ("store", &["domain", "engine", "files"]),
    ("log", &["domain", "engine", "wire", "files"]),
    ("client", &["domain", "engine", "wire"]),
    ("gateway", &["domain", "engine", "wire", "client"]),
    (
        "runtime",
        &[
            "domain", "engine", "wire", "roles", "store", "log", "client", "files",
        ],
    ),
    (
        "cli",
        &[
            "domain", "engine", "wire", "roles", "store", "log", "client", "gateway", "runtime",
            "files",
        ],
    ),
];

/// Modules whose result may depend on nothing but their input.
const PURE: &[&str] = &["domain", "engine", "roles"];

#[test]
fn modules_use_each_other_in_one_direction() {
    let mut wrong = Vec::new();
    for (module, allowed) in MAY_USE {
        for file in module_files(module) {
            for (n, line) in product_lines(&file) {
                for used in used_modules(&line) {
                    if used != *module && !allowed.contains(&used.as_str()) {
                        wrong.push(format!(
                            "{}:{n}: {module} may not use {used}",
                            file.display()
                        ));
                    }
                }
            }
        }
    }

    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    for entry in std::fs::read_dir(root().join("src")).expect("src") {
        let name = entry
            .expect("entry")
            .file_name()
            .to_string_lossy()
            .replace(".rs", "");
        let known =
            ["lib", "main"].contains(&name.as_str()) || MAY_USE.iter().any(|(m, _)| *m == name);
        assert!(known, "src/{name} is in no layer: add it to MAY_USE");
    }
}

#[test]
fn files_are_short_enough_to_read() {
    let long: Vec<_> = ["src", "tests", "benches"]
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

/// Lines of code are counted, with the blank ones, from `fn` to the brace that closes its body.
#[test]
fn no_more_functions_are_long_than_before() {
    let mut long = Vec::new();
    for file in rust_files(&root().join("src")) {
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
    // Put together here, or this file would find itself.
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
    for file in ["src", "tests", "benches"]
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
fn the_pure_part_has_no_clock_no_float_no_thread_and_no_unordered_map() {
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

    // The one place where a float from the wire becomes decimal text, and is never computed with.
    let reads_floats = |file: &Path, word: &str| {
        file.ends_with("src/domain/decimal.rs") && ["f32", "f64"].contains(&word)
    };

    let mut found = Vec::new();
    for file in PURE.iter().flat_map(|m| module_files(m)) {
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

/// A crash point that nobody passes is a test that waits for ever. One was lost in a merge like
/// that.
#[test]
fn every_crash_point_is_somewhere() {
    let list = read(&root().join("src/engine/crash.rs"));
    let points = list
        .lines()
        .skip_while(|l| *l != "points! {")
        .skip(1)
        .take_while(|l| *l != "}");
    let points: Vec<_> = points.filter_map(|l| l.split_whitespace().next()).collect();
    assert!(points.len() > 30, "{points:?}");
    let files = rust_files(&root().join("src"))
        .into_iter()
        .filter(|f| !f.ends_with("engine/crash.rs"));
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

#[test]
fn one_place_commits() {
    let mut calls: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in module_files("engine") {
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

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// A module's files: `src/x.rs` and everything under `src/x/`.
fn module_files(module: &str) -> Vec<PathBuf> {
    let single = root().join("src").join(format!("{module}.rs"));
    let mut files = rust_files(&root().join("src").join(module));
    if single.exists() {
        files.push(single);
    }

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

/// Numbered lines without comments, up to the tests at the end of the file (which may use whatever
/// helps them).
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

/// Modules named after `crate::` (also in a group: `use crate::{domain::x, wire}`).
fn used_modules(line: &str) -> Vec<String> {
    let mut used = Vec::new();
    for rest in line.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or_default();
            used.extend(group.split(',').filter_map(first_name));
        } else {
            used.extend(first_name(rest));
        }
    }

    used.retain(|name| MAY_USE.iter().any(|(m, _)| m == name));
    used
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text
        .trim()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}
