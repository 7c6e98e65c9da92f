//! Bad environments, as a person meets them. Each ends in a message with an instruction and in the
//! exit code of troubleshooting.md. After the repair the run continues without a loss.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::program::{Program, SmallDisk};

const AAPL: [&str; 12] = [
    "order",
    "--user",
    "501",
    "--symbol",
    "AAPL",
    "--quantity",
    "1",
    "--side",
    "buy",
    "--format",
    "json",
    "--id",
];

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Creates the topics, one listing and one price.
fn set_up(p: &Program) {
    std::fs::write(p.dir.join("l.csv"), "symbol\nAAPL\n").expect("file");
    p.good(&["topics", "create", "--partitions", "3"]);
    p.good(&["instruments", "load", "l.csv"]);
    price(p);
}

fn price(p: &Program) {
    p.price_aapl();
}

/// Checks local state against changelogs, offsets, sequences and audit chains.
fn all_is_right(p: &Program) {
    let checks = p.good(&["verify", "--format", "json"]);
    let all: Vec<Value> = checks
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON lines"))
        .collect();
    assert!(
        all.len() > 10 && all.iter().all(|c| c["ok"] == true),
        "{checks}"
    );
}

const ONE_ORDER: [&str; 4] = ["Deposited", "OrderPending", "OrderAccepted", "OrderFilled"];

#[test]
fn a_full_disk_under_everything_stops_the_demo_without_loss() {
    let Some(disk) = SmallDisk::new(200) else {
        return;
    };

    let dir = temp();
    let p = Program::embedded(dir.path(), disk.path.join("log").to_str().expect("text"));
    p.good(&["demo", "--for", "2s"]);
    let running = p.start(&["demo"]);

    // The disk may be full at any moment of the load; this is one of them.
    std::thread::sleep(Duration::from_secs(1));
    disk.fill();
    running
        .ends(Duration::from_secs(90))
        .fails(1, &["No space left", "free some space", "start again"]);

    // While the disk is full, a start gives the same message.
    p.run(&["demo", "--for", "1s"])
        .fails(1, &["No space left", "free some space"]);
    disk.free();
    let said = p.good(&["demo", "--for", "2s"]);
    assert!(said.contains("0 violations"), "{said}");
    all_is_right(&p);
}

#[test]
fn a_full_disk_under_local_state_stops_roles_without_loss() {
    let Some(disk) = SmallDisk::new(48) else {
        return;
    };

    let dir = temp();
    let p =
        Program::embedded(dir.path(), "log").with(&["--state", disk.path.to_str().expect("text")]);
    set_up(&p);
    assert_eq!(p.order_aapl("1"), ONE_ORDER);
    disk.fill();
    p.run(&["demo", "--for", "20s", "--orders-per-second", "2000"])
        .fails(
            1,
            &[
                "No space left",
                "free some space and start again; nothing is lost",
            ],
        );

    disk.free();
    let said = p.good(&["demo", "--for", "1s", "--orders-per-second", "10"]);
    assert!(said.contains("0 violations"), "{said}");
    all_is_right(&p);
}

#[test]
fn a_directory_that_cannot_be_written() {
    let Some(disk) = SmallDisk::new(64) else {
        return;
    };

    let dir = temp();
    let state = disk.path.join("state");
    let p = Program::embedded(dir.path(), "log").with(&["--state", state.to_str().expect("text")]);
    set_up(&p);
    assert_eq!(p.order_aapl("1"), ONE_ORDER);
    disk.remount("ro");
    p.run(&["run", "--role", "all"]).fails(
        1,
        &[
            "Read-only file system",
            "make the directory writable",
            "--state",
        ],
    );

    let q = Program::embedded(dir.path(), disk.path.join("log").to_str().expect("text"));
    q.run(&["topics", "create"])
        .fails(1, &["Read-only file system", "permissions"]);
    disk.remount("rw");
    price(&p);
    assert_eq!(p.order_aapl("2"), ONE_ORDER[1..]);
    all_is_right(&p);
}

/// Starts all roles and expects a refusal.
fn refused(p: &Program, code: i32, parts: &[&str]) {
    p.run(&["run", "--role", "all", "--fail-fast"])
        .fails(code, parts);
}

fn identity_of(state: &Path) -> std::path::PathBuf {
    state.join("orders/1/identity")
}

#[test]
fn local_state_of_another_world() {
    let dir = temp();
    let here = Program::embedded(dir.path(), "here").with(&["--state", "state"]);
    set_up(&here);
    assert_eq!(here.order_aapl("1"), ONE_ORDER);

    // Another cluster, another prefix, another number of partitions, another role.
    let there = Program::embedded(dir.path(), "there").with(&["--state", "state"]);
    there.good(&["topics", "create", "--partitions", "3"]);
    refused(
        &there,
        78,
        &[
            "belongs to cluster",
            "use another --state directory, or delete this one",
        ],
    );

    let tenant = here.with(&["--topic-prefix", "tenant-"]);
    tenant.good(&["topics", "create", "--partitions", "3"]);
    refused(
        &tenant,
        78,
        &[
            "tenant-",
            "use another --state directory, or delete this one",
        ],
    );

    let identity = identity_of(&dir.path().join("state"));
    let kept = std::fs::read_to_string(&identity).expect("an identity");
    let change = |key: &str, value: Value| {
        let mut changed: Value = serde_json::from_str(&kept).expect("JSON");
        assert!(!changed[key].is_null(), "{kept}");
        changed[key] = value;
        changed["unheard_of"] = 1.into();
        std::fs::write(&identity, changed.to_string()).expect("file");
    };

    change("partitions", 7.into());
    refused(&here, 78, &["made for 7 partitions, the topics have 3"]);
    change("format", 99.into());
    refused(
        &here,
        78,
        &[
            "newer version (format 99",
            "use that version, or delete the directory and it is rebuilt",
        ],
    );

    std::fs::write(&identity, "{").expect("file");
    refused(&here, 78, &["unreadable", "delete", "rebuilt from the log"]);

    // Follows the message: the state is deleted and rebuilt from the log.
    std::fs::remove_dir_all(dir.path().join("state/orders")).expect("it is there");
    price(&here);
    assert_eq!(here.order_aapl("1"), ["OrderStatus"], "nothing was lost");
    assert_eq!(here.order_aapl("2"), ONE_ORDER[1..]);
    all_is_right(&here);
}

/// Regression: stores without their identity were taken for the present cluster's stores.
#[test]
fn state_without_its_identity() {
    let dir = temp();
    let p = Program::embedded(dir.path(), "log");
    set_up(&p);
    assert_eq!(p.order_aapl("1"), ONE_ORDER);
    let state = dir.path().join("log/state");
    let kept = std::fs::read(identity_of(&state)).expect("an identity");
    std::fs::remove_file(identity_of(&state)).expect("it is there");
    let says = [
        "orders/1 holds stores, but its identity file is gone",
        "put the file back, or delete",
        "rebuilt from the log",
    ];
    refused(&p, 78, &says);
    p.run(&["rebuild", "--role", "orders"]).fails(78, &says);

    // Follows the message: the identity is put back, ...
    std::fs::write(identity_of(&state), kept).expect("file");
    assert_eq!(p.order_aapl("2"), ONE_ORDER[1..]);

    // ... or the state is deleted and rebuilt from the log.
    std::fs::remove_file(identity_of(&state)).expect("it is there");
    std::fs::remove_dir_all(state.join("orders/1")).expect("it is there");
    assert_eq!(p.order_aapl("1"), ["OrderStatus"], "nothing was lost");
    all_is_right(&p);

    // An empty directory needs no identity.
    std::fs::remove_dir_all(state.join("orders/1")).expect("it is there");
    std::fs::create_dir_all(state.join("orders/1/0")).expect("a directory");
    assert_eq!(p.order_aapl("3"), ONE_ORDER[1..]);
}

/// These files contain every balance and the secrets of webhooks.
#[test]
fn what_is_kept_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = temp();
    let p = Program::embedded(dir.path(), "log");
    set_up(&p);
    p.order_aapl("1");
    p.good(&["audit", "export", "-o", "day.jsonl"]);
    p.good(&["audit", "anchor", "-o", "anchors.jsonl"]);

    let open_to_others = |ours: &dyn Fn(&Path) -> bool| {
        let mut found = Vec::new();
        let mut look = vec![dir.path().to_path_buf()];
        while let Some(path) = look.pop() {
            for entry in std::fs::read_dir(&path).expect("a directory").flatten() {
                let meta = entry.metadata().expect("metadata");
                if meta.is_dir() {
                    look.push(entry.path());
                }

                if meta.permissions().mode() & 0o077 != 0 && ours(&entry.path()) {
                    found.push(entry.path());
                }
            }
        }

        found
    };

    let all = |path: &Path| !path.ends_with("l.csv");
    assert!(
        open_to_others(&all).is_empty(),
        "{:?}",
        open_to_others(&all)
    );

    // An installation of an older version with open permissions gets closed permissions.
    let role = dir.path().join("log/state/orders");
    for path in [
        role.clone(),
        role.join("1"),
        role.join("1/0"),
        dir.path().join("log/log"),
    ] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
            .expect("opened to all");
    }

    p.order_aapl("2");
    assert!(
        open_to_others(&all).is_empty(),
        "{:?}",
        open_to_others(&all)
    );
}

/// Each command runs the roles for a moment. The roles must use the installation's settings, not
/// the defaults.
#[test]
fn a_command_decides_by_the_settings_of_the_installation() {
    let dir = temp();
    let p = Program::embedded(dir.path(), "log");
    set_up(&p);
    let opening_0 = p.with(&["--opening-cash", "0"]);
    let first = opening_0.run(&[&AAPL[..], &["1"]].concat());
    assert!(
        first.out.contains("INSUFFICIENT_FUNDS"),
        "{}{}",
        first.out,
        first.err
    );
    price(&p);
    let mut another = AAPL;
    another[2] = "502";
    let second = p.run(&[&another[..], &["1"]].concat());
    assert!(
        second.out.contains("INSUFFICIENT_FUNDS"),
        "an account with nothing: {}{}",
        second.out,
        second.err
    );
    assert!(
        second.err.contains(
            "--opening-cash 0.00, as this installation last ran, and not the default 1000000.00"
        ),
        "{}",
        second.err
    );

    another[2] = "503";
    let third = p
        .with(&["--opening-cash", "500"])
        .run(&[&another[..], &["1"]].concat());
    assert!(
        third.out.contains("OrderFilled"),
        "as was said: {}{}",
        third.out,
        third.err
    );
    assert!(
        third
            .err
            .contains("--opening-cash 500.00, from: flag; this installation last ran with 0.00"),
        "{}",
        third.err
    );

    all_is_right(&p);
}

#[test]
fn an_embedded_log_of_a_newer_version_or_without_its_identity() {
    let dir = temp();
    let p = Program::embedded(dir.path(), "log");
    set_up(&p);
    let identity = dir.path().join("log/identity");
    let kept = std::fs::read_to_string(&identity).expect("an identity");
    let mut newer: Value = serde_json::from_str(&kept).expect("JSON");
    newer["format"] = 99.into();
    std::fs::write(&identity, newer.to_string()).expect("file");
    refused(&p, 78, &["newer version (format 99", "use that version"]);
    std::fs::write(&identity, "rubbish").expect("file");
    refused(
        &p,
        78,
        &["unreadable", "put it back, or use another directory"],
    );
    std::fs::remove_file(&identity).expect("it is there");
    refused(
        &p,
        78,
        &[
            "identity file is gone",
            "put it back, or use another directory",
        ],
    );

    std::fs::write(&identity, kept).expect("file");
    assert_eq!(p.order_aapl("1"), ONE_ORDER);
}

/// Changes some bytes in the middle of every file of this kind below a directory; returns the
/// number of files.
fn damage(dir: &Path, kind: &str) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found += damage(&path, kind);
        } else if path
            .file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| n.contains(kind))
        {
            let mut bytes = std::fs::read(&path).expect("a file");
            if bytes.len() > 40 {
                let middle = bytes.len() / 2;
                bytes[middle - 8..middle + 8]
                    .iter_mut()
                    .for_each(|b| *b ^= 0x5a);
                std::fs::write(&path, bytes).expect("a file");
                found += 1;
            }
        }
    }

    found
}

fn remove(dir: &Path, name: &str) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found += remove(&path, name);
        } else if path.file_name().is_some_and(|n| n == name) {
            std::fs::remove_file(&path).expect("it is there");
            found += 1;
        }
    }

    found
}

#[test]
fn damaged_local_state_is_put_aside_and_rebuilt() {
    let dir = temp();
    let p = Program::embedded(dir.path(), "log").with(&["--state", "state", "--log", "warn"]);
    p.good(&[
        "demo",
        "--for",
        "3s",
        "--orders-per-second",
        "3000",
        "--partitions",
        "3",
    ]);

    p.good(&["instruments", "load", {
        std::fs::write(dir.path().join("l.csv"), "symbol\nAAPL\n").expect("file");
        "l.csv"
    }]);
    price(&p);
    assert_eq!(p.order_aapl("0"), ONE_ORDER);
    let state = dir.path().join("state");
    type Hurt = fn(&Path) -> usize;
    let ways: [(&str, bool, Hurt); 5] = [
        ("CURRENT deleted", true, |s| remove(s, "CURRENT")),
        ("MANIFEST damaged", true, |s| damage(s, "MANIFEST")),
        ("tables damaged", false, |s| damage(s, ".sst")),
        ("write-ahead logs damaged", false, |s| damage(s, ".log")),
        ("CURRENT damaged", true, |s| {
            let found = remove(s, "CURRENT");
            write_everywhere(s, "CURRENT", b"MANIFEST-999999\n");
            found
        }),
    ];

    for (i, (name, aside, hurt)) in ways.into_iter().enumerate() {
        let files = hurt(&state);
        let answer = p.run(&[&AAPL[..], &[&i.to_string()[..], "--symbol"][..1]].concat());
        println!(
            "{name}: {files} files; {}",
            answer.err.lines().next().unwrap_or("nothing to tell")
        );
        let events = answer.is_good().lines().count();
        assert_eq!(
            events,
            if i == 0 { 1 } else { 3 },
            "{name}: {}\n{}",
            answer.out,
            answer.err
        );

        if aside {
            assert!(
                files >= 15
                    && answer
                        .err
                        .contains("put aside; rebuilding it from the changelog"),
                "{name}: {}",
                answer.err
            );
        }

        all_is_right(&p);
    }

    let kept = std::fs::read_dir(state.join("orders/1")).expect("a directory");
    let aside = kept
        .filter(|e| {
            e.as_ref()
                .is_ok_and(|e| e.file_name().to_string_lossy().contains("quarantine"))
        })
        .count();
    assert!(aside >= 3, "what was put aside can be looked at");
}

/// Writes a file beside every MANIFEST.
fn write_everywhere(dir: &Path, name: &str, content: &[u8]) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            write_everywhere(&path, name, content);
        } else if path
            .file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| n.starts_with("MANIFEST"))
        {
            std::fs::write(dir.join(name), content).expect("a file");
        }
    }
}

#[test]
fn a_damaged_embedded_log_is_never_guessed_at() {
    let dir = temp();
    let p = Program::embedded(dir.path(), "log").with(&["--state", "state"]);
    p.good(&["demo", "--for", "2s", "--partitions", "2"]);
    let log = dir.path().join("log/log");
    let backup = dir.path().join("backup");
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to).expect("a directory");
        for entry in std::fs::read_dir(from).expect("a directory") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
        }
    };

    copy(&log, &backup);
    assert!(damage(&log, "MANIFEST") > 0);
    refused(
        &p,
        70,
        &[
            "corrupt",
            "restore the directory from a backup, or begin anew in another one",
        ],
    );

    std::fs::remove_dir_all(&log).expect("it is there");
    copy(&backup, &log);
    let said = p.good(&["demo", "--for", "1s"]);
    assert!(said.contains("0 violations"), "{said}");
    all_is_right(&p);
}

#[test]
fn a_second_process_on_the_same_embedded_directory() {
    let dir = temp();
    let p = Program::embedded(dir.path(), "log");
    set_up(&p);
    let mut first = p.start_roles("all");
    let held = format!("in use by process {}", first.pid());
    for args in [
        &["run", "--role", "all"][..],
        &["demo", "--for", "1s"],
        &["publish", "--symbols", "AAPL", "--count", "1"],
        &["verify"],
        &["replay"],
    ] {
        p.run(args).fails(
            78,
            &[
                &held,
                "stop it, or use another --embedded directory, or Kafka",
            ],
        );
    }

    // Read-only commands are allowed.
    p.good(&["status"]);
    p.good(&["tail", "instruments", "--from", "start", "--exit-at-end"]);
    assert!(first.is_running());
    first.stop();
    assert_eq!(p.order_aapl("1"), ONE_ORDER);
}

#[test]
fn topics_that_are_missing() {
    let dir = temp();
    let p = Program::embedded(dir.path(), "log");

    // Another tenant's topics exist, ours do not.
    p.with(&["--topic-prefix", "other-"])
        .good(&["topics", "create", "--partitions", "2"]);
    std::fs::write(dir.path().join("l.csv"), "symbol\nAAPL\n").expect("file");
    for args in missing_topics() {
        p.run(args)
            .fails(78, &["does not exist", "`processor topics create`"]);
    }

    set_up(&p);
    assert_eq!(p.order_aapl("1"), ONE_ORDER);
}

/// Every command that needs topics.
fn missing_topics() -> [&'static [&'static str]; 10] {
    [
        &["run", "--role", "orders"],
        &["instruments", "load", "l.csv"],
        &["publish", "--symbols", "AAPL", "--count", "1"],
        &[
            "order",
            "--user",
            "1",
            "--symbol",
            "AAPL",
            "--quantity",
            "1",
            "--side",
            "buy",
        ],
        &["tail", "trades", "--from", "start", "--exit-at-end"],
        &["status"],
        &["portfolio", "501"],
        &["replay"],
        &["verify"],
        &["topics", "check"],
    ]
}

/// The first signal stops gracefully. A second signal ends the process at once, which is as safe as
/// a crash.
#[test]
fn signals() {
    let dir = temp();
    let p = Program::embedded(dir.path(), "log");
    set_up(&p);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let running = p.start_roles("all");
        running.signal(signal);
        let answer = running.ends(Duration::from_secs(20));
        answer.is_good();
        assert!(
            answer.err.contains("a second signal ends it at once"),
            "{}",
            answer.err
        );
    }

    // Both signals are pending at the wake-up, so the second comes before the end of the graceful
    // stop.
    let running = p.start_roles("all");
    running.signal(libc::SIGSTOP);
    running.signal(libc::SIGTERM);
    running.signal(libc::SIGINT);
    running.signal(libc::SIGCONT);
    let began = Instant::now();
    let answer = running.ends(Duration::from_secs(20));
    assert_eq!(answer.code, Some(130), "{}", answer.err);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(p.order_aapl("1"), ONE_ORDER);
    all_is_right(&p);
}
