//! The allow-list of librdkafka properties against librdkafka's own list. A new property of a newer
//! librdkafka fails here until its effect on exactly-once has been examined.
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use processor::cli::properties::{self, Rule};

/// Source directory of the linked librdkafka.
fn librdkafka() -> PathBuf {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let all: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let packages = all["packages"].as_array().expect("packages");
    let found = packages
        .iter()
        .find(|p| p["name"] == "rdkafka-sys")
        .expect("rdkafka-sys is a dependency");
    PathBuf::from(found["manifest_path"].as_str().expect("a path"))
        .parent()
        .expect("a directory")
        .join("librdkafka")
}

#[test]
fn every_property_of_librdkafka_is_allowed_or_refused() {
    let page =
        std::fs::read_to_string(librdkafka().join("CONFIGURATION.md")).expect("librdkafka's list");
    let names: BTreeSet<&str> = page
        .lines()
        .filter(|l| {
            l.matches('|').count() >= 5 && !l.starts_with("Property") && !l.starts_with("---")
        })
        .filter_map(|l| l.split('|').next())
        .map(str::trim)
        .collect();

    assert!(
        names.len() > 150 && names.contains("auto.offset.reset"),
        "{names:?}"
    );
    let silent: Vec<_> = names
        .iter()
        .filter(|name| properties::rule(name).is_none())
        .collect();
    assert!(silent.is_empty(), "nobody has decided about {silent:?}");
    let gone: Vec<_> = properties::names()
        .filter(|name| !names.contains(name))
        .collect();
    assert!(gone.is_empty(), "librdkafka has no {gone:?}");
}

#[test]
fn what_librdkafka_calls_sensitive_is_masked() {
    let source = std::fs::read_to_string(librdkafka().join("src/rdkafka_conf.c"))
        .expect("librdkafka's source");
    let sensitive: Vec<_> = source
        .split("_RK_SENSITIVE")
        .skip(1)
        .filter_map(|rest| {
            rest.split_once('"')
                .filter(|(before, _)| before.trim() == ",")
                .and_then(|(_, rest)| rest.split('"').next())
        })
        .collect();

    assert!(sensitive.len() > 8, "{sensitive:?}");

    // Paths and a name are not secret, and a person needs them to find a mistake. A pointer cannot
    // be set in a file.
    let open = [
        "ssl.key.location",
        "sasl.username",
        "sasl.oauthbearer.assertion.private.key.file",
    ];
    for name in sensitive.into_iter().filter(|name| {
        !open.contains(name) && !matches!(properties::rule(name), Some(Rule::Refused(_)))
    }) {
        assert!(properties::is_secret(name), "{name} is shown");
    }
}
