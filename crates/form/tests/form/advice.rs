//! Every instruction in an error message belongs to a test. The test follows the instruction, and
//! checks that the instruction helps and loses no data. A message with new advice fails here until
//! a test is named. Advice to delete or reset data must also say which data is not lost.
use std::path::{Path, PathBuf};

use crate::root;

/// Words that mark advice to make a change.
const WORDS: &[&str] = &[
    "topics create`",
    "create --fix`",
    "use another ",
    "be deleted",
    "delete this",
    "remove it",
    "raise their",
    "start again",
    "kafka-acls.sh",
    "smaller --replication",
    "smaller {}",
    "processor rebuild",
    "lower the topic",
    "stop that program",
    "correct the broker",
];

/// A part of each message (in one line of source), and the test that follows its advice: file and
/// function. `-` marks advice about brokers or other programs, for the people who run them.
const CARRIED_OUT: &[(&str, &str)] = &[
    (
        "LogAppendTime. Run `processor topics create --fix`",
        "campaigns/topic_settings.rs::a_time_that_the_client_chose_decides_nothing",
    ),
    (
        "create --fix` changes",
        "campaigns/topic_settings.rs::new_topics_fit_and_wrong_settings_are_named_and_put_right",
    ),
    (
        "create --fix` changes their settings",
        "campaigns/topic_settings.rs::new_topics_fit_and_wrong_settings_are_named_and_put_right",
    ),
    (
        "does not exist: run `processor topics create`",
        "kafka/bad_kafka.rs::topics_that_are_missing_or_do_not_fit",
    ),
    (
        "does not exist; run `processor topics create`",
        "kafka/bad_kafka.rs::topics_that_are_missing_or_do_not_fit",
    ),
    (
        "a topic does not exist ({e}); run",
        "kafka/bad_kafka.rs::topics_that_are_missing_or_do_not_fit",
    ),
    (
        "`processor demo` or `processor topics create` makes one",
        "embedded/bad_world.rs::topics_that_are_missing",
    ),
    (
        "may be deleted, and made again",
        "kafka/bad_kafka.rs::topics_that_are_missing_or_do_not_fit",
    ),
    (
        "A partition count cannot change",
        "kafka/bad_kafka.rs::topics_that_are_missing_or_do_not_fit",
    ),
    (
        "partitions cannot be taken away again",
        "kafka/bad_kafka.rs::topics_that_are_missing_or_do_not_fit",
    ),
    (
        "this one's), and allows 249 letters",
        "campaigns/topic_settings.rs::a_prefix_that_collides_is_told_why",
    ),
    (
        "smaller --replication",
        "campaigns/topic_settings.rs::one_broker_that_must_make_three_replicas_of_its_own_topics",
    ),
    ("a smaller {}\"", "-"),
    ("correct the broker's advertised.listeners", "-"),
    ("raise their transaction.max.timeout.ms", "-"),
    ("another kind of program is in this group", "-"),
    ("lower the topic's max.message.bytes", "-"),
    (
        "transaction, then start again",
        "campaigns/repair.rs::offsets_that_are_gone_or_were_moved_are_put_back",
    ),
    (
        "kafka-acls.sh",
        "campaigns/kafka_acls.rs::a_missing_right_is_named_and_ends_the_role",
    ),
    (
        "processor rebuild --role",
        "embedded/cli_embedded.rs::a_demo_that_is_killed_carries_on_and_everything_adds_up",
    ),
    (
        "use another --instance or --state",
        "kafka/bad_kafka.rs::a_living_twin",
    ),
    (
        "use another --state directory, or delete this one",
        "embedded/bad_world.rs::local_state_of_another_world",
    ),
    (
        "free some space and start again",
        "embedded/bad_world.rs::a_full_disk_under_local_state_stops_roles_without_loss",
    ),
    (
        "put that right and start again",
        "embedded/bad_world.rs::a_directory_that_cannot_be_written",
    ),
    (
        "is there already; name another directory",
        "embedded/cli_embedded.rs::the_past_can_be_kept_and_looked_at",
    ),
    (
        "another export is writing it, or broke off",
        "kafka/audit_commands.rs::verify_anchor_find_and_export_as_typed",
    ),
];

#[test]
fn every_advice_is_carried_out_by_a_test() {
    let mut unknown = Vec::new();
    for dir in [
        "crates/log-kafka/src",
        "crates/engine/src",
        "crates/store/src",
        "src",
    ] {
        for file in rust_files(&root().join(dir)) {
            for (n, line) in messages(&file) {
                if !WORDS.iter().any(|word| line.contains(word)) {
                    continue;
                }

                if !CARRIED_OUT.iter().any(|(part, _)| line.contains(part)) {
                    unknown.push(format!("{}:{n}: {}", file.display(), line.trim()));
                }
            }
        }
    }

    assert!(
        unknown.is_empty(),
        "no test is named for\n{}",
        unknown.join("\n")
    );
}

#[test]
fn the_tests_that_carry_advice_out_exist() {
    for (part, test) in CARRIED_OUT.iter().filter(|(_, test)| *test != "-") {
        let (file, function) = test.split_once("::").expect("file::function");
        let text = std::fs::read_to_string(root().join("tests").join(file))
            .unwrap_or_else(|e| panic!("{part}: tests/{file}: {e}"));
        assert!(
            text.contains(&format!("fn {function}(")),
            "{part}: tests/{file} has no {function}"
        );
    }
}

/// Numbered lines with text in quotes, without comments, help texts and the tests at the end of a
/// file.
fn messages(file: &Path) -> Vec<(usize, String)> {
    if file.file_name().is_some_and(|n| {
        ["args.rs", "args_gateway.rs", "properties.rs", "tests.rs"]
            .iter()
            .any(|skipped| n == *skipped)
    }) || file.parent().is_some_and(|p| p.ends_with("args"))
    {
        return Vec::new();
    }

    let text = std::fs::read_to_string(file).expect("a source file");
    let lines = text
        .lines()
        .enumerate()
        .take_while(|(_, l)| !l.trim_start().starts_with("#[cfg(test)]"));
    lines
        .filter(|(_, l)| !l.trim_start().starts_with("//"))
        .map(|(i, l)| (i + 1, l.to_string()))
        .collect()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in std::fs::read_dir(dir)
        .expect("a directory")
        .map(|e| e.expect("an entry").path())
    {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }

    files
}
