//! Runs the commands of README and of the pages about the audit log on the demo's log. All must
//! succeed.

use std::path::Path;
use std::process::Command;

use super::commands::{commands_in, pages};

#[test]
fn what_pages_type_on_the_demos_log_succeeds() {
    let dir = tempfile::tempdir().expect("a directory");
    let began = date("+%Y-%m-%dT%H:%M:%SZ", "now");
    typed(dir.path(), &["demo", "--for", "3s", "--users", "10"]);
    let user = "trader-7";
    let buy = ["--symbol", "AAPL", "--quantity", "1", "--side", "buy"];
    let order = [
        &["order", "--user", user, "--id", "o-1"],
        &buy[..],
        &["--embedded", "state/demo"],
    ];
    typed(dir.path(), &order.concat());

    // The times in the pages are in the past, and their order does not exist here.
    let replaced = [
        ("ORDER_ID", "o-1".to_string()),
        ("/safe/", String::new()),
        ("2026-01-31T09:30:00Z", began),
        (
            "2026-01-31T10:00:00Z",
            date("+%Y-%m-%dT%H:%M:%SZ", "now + 1 hour"),
        ),
        ("2026-01-31", date("+%Y-%m-%d", "now")),
        ("2026-02-01", date("+%Y-%m-%d", "now + 1 day")),
    ];
    let mut done = 0;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = pages();
    all.sort();
    for page in all
        .iter()
        .filter(|p| *p == &root.join("README.md") || p.starts_with(root.join("docs/audit")))
    {
        let text = std::fs::read_to_string(page).expect("a page");
        for (_, words, whole) in commands_in(&text) {
            let line = words[1..].join(" ");
            let here = line.contains("--embedded state/demo") || line.contains("--file day.jsonl");
            if !whole || !here {
                continue;
            }

            let line = replaced
                .iter()
                .fold(line, |line, (this, that)| line.replace(this, that));
            typed(dir.path(), &line.split_whitespace().collect::<Vec<_>>());
            done += 1;
        }
    }

    assert!(done >= 14, "pages type on the demo's log: {done} commands");
}

fn typed(dir: &Path, args: &[&str]) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_processor"));
    let of_ours = |name: &String| name.starts_with("PROCESSOR_") || name == "KAFKA_BROKERS";
    for name in std::env::vars().map(|(name, _)| name).filter(of_ours) {
        program.env_remove(name);
    }

    let end = program
        .args(args)
        .current_dir(dir)
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&end.stderr);
    assert_eq!(end.status.code(), Some(0), "{args:?}: {said}");
}

fn date(format: &str, when: &str) -> String {
    let said = Command::new("date")
        .args(["-u", "-d", when, format])
        .output();
    let said = String::from_utf8(said.expect("date").stdout).expect("text");
    said.trim().to_string()
}
