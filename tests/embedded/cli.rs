//! The program as typed: help, exit codes, sources of the configuration, and the commands that work
//! without a running role.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use clap::Parser;
use processor::cli::args::Args;
use serde_json::Value;

/// Runs the program in a directory, without this machine's configuration.
fn processor(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().expect("the program starts")
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_processor"));
    c.args(args).current_dir(dir).stdin(Stdio::null());
    for (name, _) in
        std::env::vars().filter(|(n, _)| n.starts_with("PROCESSOR_") || n == "KAFKA_BROKERS")
    {
        c.env_remove(name);
    }

    c
}

fn code(o: &Output) -> i32 {
    o.status.code().expect("not killed")
}

fn out(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Runs the program with `input` on stdin.
fn with_input(dir: &Path, args: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut child = command(dir, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(input.as_bytes())
        .expect("input is taken");
    child.wait_with_output().expect("the program ends")
}

#[test]
fn help_goes_to_stdout_and_teaches() {
    let dir = temp();
    let help = processor(dir.path(), &["--help"]);
    assert_eq!(code(&help), 0);
    for part in [
        "Examples:",
        "Exit codes:",
        "--brokers",
        "--embedded",
        "--rate-limit",
        "KAFKA_BROKERS",
        "demo",
        "rebuild",
        "completions",
    ] {
        assert!(out(&help).contains(part), "{part} is missing");
    }

    for command in [
        "run",
        "demo",
        "gateway",
        "publish",
        "traders",
        "order",
        "tail",
        "rebuild",
        "replay",
        "status",
        "verify",
        "portfolio",
        "completions",
    ] {
        let help = processor(dir.path(), &[command, "--help"]);
        assert!(
            code(&help) == 0 && out(&help).contains("Usage: processor"),
            "{command}"
        );
    }

    assert!(out(&processor(dir.path(), &["completions", "bash"])).contains("_processor"));
    assert!(out(&processor(dir.path(), &["--version"])).starts_with("processor "));
}

#[test]
fn wrong_use_ends_with_2_and_says_what_to_do() {
    let dir = temp();
    for (args, part) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["tial", "trades"], "tail"),
        (&[], "--help"),
        (&["run", "--embedded", "e"], "--role"),
        (&["status"], "--embedded DIR"),
        (&["status"], "--brokers HOST:PORT"),
        (&["status", "--embedded", "e", "--brokers", "h:1"], "choose"),
        (&["status", "--brokers", "localhost"], "host:port"),
        (&["status", "--brokers", "localhost:0"], "host:port"),
        (&["run", "--role", "order"], "orders, trading"),
        (
            &["run", "--role", "all", "--instance", "10000"],
            "whole number",
        ),
        (&["run", "--rate-limit", "many"], "whole number"),
        (&["run", "--opening-cash", "1.23456"], "four decimals"),
        (&["run", "--max-command-age", "soon"], "30s"),
        (&["run", "--dedup-window", "1h"], "--max-command-age"),
        (
            &["run", "--dedup-window", "31s", "--max-command-age", "30s"],
            "more than a second longer",
        ),
        (&["run", "-X", "no-equals-sign"], "key=value"),
        (&["run", "-X", "group.id=mine"], "cannot be set"),
        (
            &["run", "-X", "auto.offset.reset=earliest"],
            "skipped without a word",
        ),
        (
            &[
                "run",
                "-X",
                "partition.assignment.strategy=cooperative-sticky",
            ],
            "cannot be set",
        ),
        (
            &["run", "-X", "sesion.timeout.ms=6000"],
            "session.timeout.ms",
        ),
        (
            &["run", "-X", "session.timeout.ms=100"],
            "from 3000 to 300000",
        ),
        (
            &[
                "run",
                "-X",
                "session.timeout.ms=6000",
                "-X",
                "heartbeat.interval.ms=3000",
            ],
            "a third",
        ),
        (&["run", "--topic-prefix", "a b"], "letters"),
        (&["config", "show", "--format", "yaml"], "text or json"),
        (&["tail", "nothing", "--embedded", "e"], "order-events"),
        (
            &["tail", "trades", "--from", "yesterday", "--embedded", "e"],
            "start, end",
        ),
        (&["order", "--user", "1", "--embedded", "e"], "--symbol"),
        (
            &[
                "order",
                "--user",
                "a b",
                "--deposit",
                "1",
                "--embedded",
                "e",
            ],
            "user_id",
        ),
        (&["order", "--json", "[]", "--embedded", "e"], "JSON object"),
        (
            &[
                "order",
                "--user",
                "house:AAPL",
                "--deposit",
                "1",
                "--embedded",
                "e",
            ],
            "account of the system",
        ),
        (
            &[
                "order",
                "--json",
                "{\"user_id\":\"external\",\"order_id\":\"1\"}",
                "--embedded",
                "e",
            ],
            "account of the system",
        ),
        (
            &["order", "--user", "1", "--replace", "2", "--embedded", "e"],
            "what is to change",
        ),
        (
            &[
                "order",
                "--user",
                "1",
                "--cancel",
                "2",
                "--mass-cancel",
                "--embedded",
                "e",
            ],
            "cannot be used with",
        ),
        (
            &[
                "order",
                "--user",
                "1",
                "--cancel",
                "2",
                "--post-only",
                "--embedded",
                "e",
            ],
            "--side",
        ),
        (&["instruments", "delist", "--embedded", "e"], "SYMBOL"),
        (
            &["instruments", "delist", "A B", "--embedded", "e"],
            "printable",
        ),
        (
            &["account", "stop", "--operator", "ana", "--embedded", "e"],
            "--all",
        ),
        (&["account", "stop", "501", "--embedded", "e"], "--operator"),
        (
            &["account", "resume", "--all", "--embedded", "e"],
            "--operator",
        ),
        (
            &[
                "account",
                "stop",
                "501",
                "--operator",
                "a b",
                "--embedded",
                "e",
            ],
            "operator",
        ),
        (
            &[
                "account",
                "stop",
                "501",
                "--all",
                "--operator",
                "ana",
                "--embedded",
                "e",
            ],
            "--all",
        ),
        (
            &[
                "account",
                "stop",
                "*",
                "--operator",
                "ana",
                "--embedded",
                "e",
            ],
            "--all",
        ),
        (
            &[
                "account",
                "resume",
                "house:AAPL",
                "--operator",
                "ana",
                "--embedded",
                "e",
            ],
            "account of the system",
        ),
        (
            &[
                "account",
                "disable",
                "--all",
                "--operator",
                "ana",
                "--embedded",
                "e",
            ],
            "--all",
        ),
        (
            &[
                "account",
                "disable",
                "a b",
                "--operator",
                "ana",
                "--embedded",
                "e",
            ],
            "printable",
        ),
        (
            &[
                "publish",
                "--file",
                "x.csv",
                "--speed",
                "fast",
                "--symbol",
                "S",
                "--embedded",
                "e",
            ],
            "max",
        ),
        (
            &["topics", "create", "--partitions", "0", "--embedded", "e"],
            "1 to 1000",
        ),
        (
            &["gateway", "--listen", "8080", "--embedded", "e"],
            "127.0.0.1:8080",
        ),
        (&["gateway", "--history", "long", "--embedded", "e"], "30s"),
        (
            &["gateway", "--webhook-retries", "1s,0s", "--embedded", "e"],
            "must be above 0",
        ),
        (&["gateway", "token", "a b"], "user"),
        (&["gateway", "token"], "--admin"),
        (&["gateway", "token", "501", "--admin"], "--admin"),
        (
            &["demo", "--listen", "0.0.0.0:8080", "--embedded", "e"],
            "processor gateway",
        ),
    ] {
        let o = processor(dir.path(), args);
        assert_eq!(code(&o), 2, "{args:?}: {}", err(&o));
        assert!(
            err(&o).contains(part),
            "{args:?} should mention {part}: {}",
            err(&o)
        );
        assert!(o.stdout.is_empty(), "{args:?} wrote to stdout");
    }

    assert_eq!(
        std::fs::read_dir(dir.path()).expect("directory").count(),
        0,
        "wrong use leaves nothing behind"
    );
}

#[test]
fn configuration_goes_flags_environment_file_defaults() {
    let dir = temp();
    std::fs::write(
        dir.path().join("processor.toml"),
        "rate_limit = 1\nburst = 2\nstale-ms = 3\nrole = [\"orders\", \"audit\"]\n[kafka]\n\"sasl.password\" = \"hush\"\n\"security.protocol\" = \"ssl\"\n",
    )
    .expect("file");
    let mut c = command(
        dir.path(),
        &[
            "--rate-limit",
            "30",
            "config",
            "show",
            "--format",
            "json",
            "-X",
            "security.protocol=sasl_ssl",
        ],
    );

    let o = c
        .env("PROCESSOR_RATE_LIMIT", "20")
        .env("PROCESSOR_BURST", "21")
        .env("KAFKA_BROKERS", "a:1,b:2")
        .output()
        .expect("runs");
    assert_eq!(code(&o), 0, "{}", err(&o));
    let shown: Value = serde_json::from_str(&out(&o)).expect("JSON");
    let is = |name: &str, value: &str, origin: &str| {
        assert_eq!(shown[name]["value"], value, "{name}");
        assert_eq!(shown[name]["origin"], origin, "{name}");
    };

    is("rate_limit", "30", "flag");
    is("burst", "21", "environment PROCESSOR_BURST");
    is("stale_ms", "3", "file processor.toml");
    is("role", "orders,audit", "file processor.toml");
    is("brokers", "a:1,b:2", "environment KAFKA_BROKERS");
    is("opening_cash", "1000000.00", "default");
    is("kafka.security.protocol", "sasl_ssl", "flag");
    is("kafka.sasl.password", "********", "file processor.toml");
    assert!(!out(&o).contains("hush"));
    let text = out(&processor(dir.path(), &["config", "show"]));
    assert!(
        text.contains("rate_limit") && text.contains("file processor.toml"),
        "{text}"
    );
}

#[test]
fn invalid_configuration_ends_with_78() {
    let dir = temp();
    for (file, part) in [
        ("rate_limits = 1", "rate_limits"),
        ("rate_limit = ", "TOML"),
        ("rate_limit = \"x\"", "--rate-limit"),
        ("burst = 0", "--burst"),
        ("brokers = \"h\"", "host:port"),
        ("[kafka]\n\"transactional.id\" = \"x\"", "transactional.id"),
        (
            "[kafka]\n\"auto.offset.reset\" = \"latest\"",
            "auto.offset.reset",
        ),
        (
            "[kafka]\n\"enable.partition.eof\" = false",
            "enable.partition.eof",
        ),
        ("[kafka]\n\"fetch.min.bytes\" = 0", "from 1 to"),
    ] {
        std::fs::write(dir.path().join("c.toml"), file).expect("file");
        let o = processor(dir.path(), &["config", "show", "--config", "c.toml"]);
        assert_eq!(code(&o), 78, "{file}: {}", err(&o));
        assert!(
            err(&o).contains(part) && err(&o).contains("c.toml"),
            "{file}: {}",
            err(&o)
        );
    }

    assert_eq!(
        code(&processor(
            dir.path(),
            &["config", "show", "--config", "absent.toml"]
        )),
        78
    );

    let o = command(dir.path(), &["config", "show"])
        .env("PROCESSOR_INSTANCE", "x")
        .output()
        .expect("runs");
    assert!(
        code(&o) == 78 && err(&o).contains("PROCESSOR_INSTANCE"),
        "{}",
        err(&o)
    );
}

/// A value in the wrong place or form may still be a password.
#[test]
fn a_secret_is_not_repeated_by_a_complaint() {
    let dir = temp();
    for file in [
        "[kafka]\n\"sasl.password\" = hush",
        "[kafka]\n\"sasl.password\" = \"hush\"\n\"sasl.password\" = \"hush\"",
        "[kafka]\n\"sasl.pasword\" = \"hush\"",
        "[kafka]\n\"sasl.password\" = \"hush",
        "[kafka]\n\"sasl.oauthbearer.assertion.private.key.passphrase\" = { hush = 1 }",
    ] {
        std::fs::write(dir.path().join("c.toml"), file).expect("file");
        let o = processor(dir.path(), &["config", "show", "--config", "c.toml"]);
        assert_eq!(code(&o), 78, "{file}: {}", err(&o));
        assert!(
            !err(&o).contains("hush") && !out(&o).contains("hush"),
            "{file}: {}",
            err(&o)
        );
    }

    for typed in [
        "sasl.password:hush",
        "sasl.pasword=hush",
        "sasl.oauthbearer.client.secret hush",
        "SASL.PASSWORD=hush",
    ] {
        let o = processor(dir.path(), &["config", "show", "-X", typed]);
        assert_eq!(code(&o), 2, "{typed}: {}", err(&o));
        assert!(!err(&o).contains("hush"), "{typed}: {}", err(&o));
    }

    let key = "sasl.oauthbearer.assertion.private.key.passphrase=hush";
    let o = processor(dir.path(), &["config", "show", "-X", key]);
    assert!(
        code(&o) == 0 && out(&o).contains("********") && !out(&o).contains("hush"),
        "{}{}",
        out(&o),
        err(&o)
    );
}

#[test]
fn a_gateway_for_other_machines_needs_tokens() {
    let dir = temp();
    let open = processor(
        dir.path(),
        &["gateway", "--listen", "0.0.0.0:0", "--embedded", "log"],
    );
    assert!(
        code(&open) == 78 && err(&open).contains("--token-file"),
        "{}",
        err(&open)
    );
    let absent = processor(
        dir.path(),
        &["gateway", "--token-file", "tokens", "--embedded", "log"],
    );
    assert!(
        code(&absent) == 78 && err(&absent).contains("tokens"),
        "{}",
        err(&absent)
    );
    assert_eq!(
        std::fs::read_dir(dir.path()).expect("directory").count(),
        0,
        "nothing is left behind"
    );
    let made = processor(dir.path(), &["gateway", "token", "501"]);
    let text = out(&made);
    let (token, line) = text.trim().split_once('\n').expect("two lines");
    assert!(
        code(&made) == 0 && token.starts_with("ptk_") && line.starts_with("501 sha256:"),
        "{text}"
    );
    assert!(!line.contains(token), "the file does not hold the token");
    let line = |args: &[&str]| {
        out(&processor(dir.path(), args))
            .lines()
            .nth(1)
            .expect("two lines")
            .to_string()
    };

    assert!(
        line(&["gateway", "token", "*"]).starts_with("%2A sha256:"),
        "a user of this name is no admin"
    );
    assert!(line(&["gateway", "token", "--admin"]).starts_with("* sha256:"));
}

#[test]
fn options_of_the_gateway_come_from_the_environment_too() {
    let dir = temp();
    for (name, value, part) in [
        ("PROCESSOR_HISTORY", "zzz", "--history"),
        ("PROCESSOR_HEARTBEAT", "0", "--heartbeat"),
        ("PROCESSOR_STALL", "0s", "--stall"),
        ("PROCESSOR_WEBHOOK_RETRIES", "1s,x", "--webhook-retries"),
        ("PROCESSOR_MEMORY_MB", "0", "--memory-mb"),
        ("PROCESSOR_MAX_CONNECTIONS", "0", "--max-connections"),
        ("PROCESSOR_NO_WEBHOOKS", "perhaps", "--no-webhooks"),
        (
            "PROCESSOR_ALLOW_PRIVATE_WEBHOOKS",
            "perhaps",
            "--allow-private-webhooks",
        ),
    ] {
        let o = command(dir.path(), &["gateway", "--embedded", "e"])
            .env(name, value)
            .output()
            .expect("runs");
        assert!(
            code(&o) == 2 && err(&o).contains(part),
            "{name}: {}",
            err(&o)
        );
    }

    // Two valid values, and an invalid one that ends the program.
    let mut right = command(dir.path(), &["gateway", "--embedded", "e"]);
    let o = right
        .env("PROCESSOR_NO_WEBHOOKS", "yes")
        .env("PROCESSOR_HISTORY", "all")
        .env("PROCESSOR_STALL", "0s")
        .output()
        .expect("runs");
    assert!(code(&o) == 2 && err(&o).contains("--stall"), "{}", err(&o));
}

#[test]
fn the_embedded_log_from_the_command_line() {
    let dir = temp();
    let run = |args: &[&str]| processor(dir.path(), &[args, &["--embedded", "log"]].concat());
    let absent = run(&["tail", "trades"]);
    assert!(
        code(&absent) == 78 && err(&absent).contains("topics create"),
        "{}",
        err(&absent)
    );

    assert_eq!(code(&run(&["topics", "create", "--partitions", "3"])), 0);
    assert_eq!(
        code(&run(&["topics", "create", "--partitions", "3"])),
        0,
        "existing topics that fit are fine"
    );
    let other = run(&["topics", "create", "--partitions", "4"]);
    assert!(
        code(&other) == 78 && err(&other).contains("order-commands"),
        "{}",
        err(&other)
    );
    assert_eq!(code(&run(&["topics", "check"])), 0);
    let prefixed = run(&["topics", "check", "--topic-prefix", "t."]);
    assert!(
        code(&prefixed) == 78 && err(&prefixed).contains("t.order-commands"),
        "{}",
        err(&prefixed)
    );

    let load = |text: &str| {
        with_input(
            dir.path(),
            &[
                "instruments",
                "load",
                "-",
                "--embedded",
                "log",
                "--format",
                "json",
            ],
            text,
        )
    };

    let good = load(
        "Symbol,Security Name,Test Issue\nAAPL,Apple,N\nZVZZT,Test,Y\nFile Creation Time: 1,,\n",
    );
    assert_eq!(
        (code(&good), out(&good).trim()),
        (0, r#"{"loaded":2,"test_issues":1,"skipped":0}"#)
    );
    let bad = load("{\"symbol\":\"MSFT\"}\nnot json\n{\"symbol\":\"A B\"}\n");
    assert_eq!(code(&bad), 1);
    assert!(
        err(&bad).contains("line 2") && err(&bad).contains("line 3"),
        "{}",
        err(&bad)
    );

    let refused =
        load("{\"symbol\":\"NVDA\",\"collar_bps\":20000,\"house\":true,\"colour\":\"red\"}\n");
    assert!(
        code(&refused) == 1 && err(&refused).contains("line 1: skipped: NVDA"),
        "the roles would refuse it: {}",
        err(&refused)
    );
    assert!(
        err(&refused).contains("left out: colour"),
        "{}",
        err(&refused)
    );

    let listed = run(&[
        "tail",
        "instruments",
        "--from",
        "start",
        "--exit-at-end",
        "--json",
    ]);

    let lines: Vec<Value> = out(&listed)
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON lines"))
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["value"]["test_issue"], true);

    std::fs::write(dir.path().join("t.csv"), "id,timestamp,price\n1,1430438404518,236.47\n2,1430438404635,0\n3,x,1\n4,1430438404700,abc\n")
        .expect("file");
    let ticks = run(&[
        "publish", "--file", "t.csv", "--symbol", "AAPL", "--speed", "max",
    ]);
    assert!(
        code(&ticks) == 1 && err(&ticks).contains("line 4") && out(&ticks).starts_with("2 ticks"),
        "{}{}",
        out(&ticks),
        err(&ticks)
    );
    assert!(
        err(&ticks).contains("line 5: skipped: price `abc` is no number"),
        "{}",
        err(&ticks)
    );
    let walked = run(&[
        "publish",
        "--symbols",
        "AAPL,MSFT",
        "--rate",
        "0",
        "--count",
        "1000",
        "--format",
        "json",
    ]);

    assert!(
        out(&walked).starts_with("{\"published\":1000,\"skipped\":0"),
        "{}{}",
        out(&walked),
        err(&walked)
    );
    let all = run(&["tail", "market-data", "--from", "start", "--exit-at-end"]);
    assert_eq!(out(&all).lines().count(), 1002);
    assert_eq!(
        out(&run(&[
            "tail",
            "market-data",
            "--from",
            "start",
            "--count",
            "7"
        ]))
        .lines()
        .count(),
        7
    );

    let unlisted = run(&[
        "order",
        "--user",
        "501",
        "--symbol",
        "NOPE",
        "--quantity",
        "1",
        "--side",
        "buy",
    ]);

    assert!(
        code(&unlisted) == 1 && err(&unlisted).contains("not listed"),
        "{}",
        err(&unlisted)
    );
    let test_issue = run(&[
        "order",
        "--user",
        "501",
        "--symbol",
        "ZVZZT",
        "--quantity",
        "1",
        "--side",
        "buy",
    ]);

    assert!(
        err(&test_issue).contains("test issue"),
        "{}",
        err(&test_issue)
    );
    assert!(
        out(&run(&[
            "tail",
            "order-commands",
            "--from",
            "start",
            "--exit-at-end"
        ]))
        .is_empty(),
        "nothing was sent"
    );

    // A null value removes a listing; unknown symbols are named in the output.
    let delisted = run(&["instruments", "delist", "AAPL", "NOPE", "--format", "json"]);
    assert_eq!(
        (code(&delisted), out(&delisted).trim()),
        (1, r#"{"delisted":["AAPL"],"not_listed":["NOPE"]}"#)
    );
    assert!(
        err(&delisted).contains("not listed: NOPE"),
        "{}",
        err(&delisted)
    );
    let last = run(&[
        "tail",
        "instruments",
        "--from",
        "-1",
        "--exit-at-end",
        "--json",
    ]);

    let last: Value = serde_json::from_str(&out(&last)).expect("JSON");
    assert!(last["key"] == "AAPL" && last["value"].is_null(), "{last}");
    let gone = run(&[
        "order",
        "--user",
        "501",
        "--symbol",
        "AAPL",
        "--quantity",
        "1",
        "--side",
        "buy",
    ]);

    assert!(
        code(&gone) == 1 && err(&gone).contains("not listed"),
        "{}",
        err(&gone)
    );
    assert_eq!(code(&run(&["instruments", "delist", "MSFT"])), 0);

    let status = run(&["status", "--format", "json", "--role", "orders"]);
    let rows: Value = serde_json::from_str(&out(&status)).expect("JSON");
    assert_eq!(
        rows.as_array().map(Vec::len),
        Some(9),
        "three inputs of three partitions: {rows}"
    );
    assert_eq!(rows[0]["lag"], 0);
}

#[test]
fn accounts_are_stopped_disabled_listed_and_resumed() {
    let dir = temp();
    let run = |args: &[&str]| {
        let who = if args[0] == "list" {
            &[][..]
        } else {
            &["--operator", "ana"]
        };

        processor(
            dir.path(),
            &[
                &["account"],
                args,
                who,
                &["--embedded", "log", "--format", "json"],
            ]
            .concat(),
        )
    };

    let old = run(&["list"]);
    assert!(
        code(&old) == 78 && err(&old).contains("topics create"),
        "{}",
        err(&old)
    );
    assert_eq!(
        code(&processor(
            dir.path(),
            &["topics", "create", "--embedded", "log"]
        )),
        0
    );

    let json = |o: &Output| serde_json::from_str::<Value>(&out(o)).expect("JSON");
    let list = || -> Vec<String> {
        let listed = run(&["list"]);
        assert_eq!((code(&listed), err(&listed)), (0, String::new()));
        let rows = json(&listed);
        let row = |r: &Value| {
            format!(
                "{} {} {}",
                r["user"].as_str().unwrap_or("?"),
                r["state"].as_str().unwrap_or("?"),
                r["text"]
            )
        };

        rows.as_array().expect("rows").iter().map(row).collect()
    };

    assert_eq!(list(), [""; 0]);
    let stopped = run(&["stop", "501", "--keep-orders", "--text", "runaway strategy"]);
    assert_eq!(
        (code(&stopped), out(&stopped).trim()),
        (0, r#"{"user":"501","state":"stopped","changed":true}"#)
    );
    assert!(
        err(&stopped).contains("processor account cancel 501 --operator"),
        "{}",
        err(&stopped)
    );
    let all = run(&["stop", "--all", "--keep-orders"]);
    assert!(
        code(&all) == 0 && out(&all).contains(r#""user":"*""#) && err(&all).contains("cancel USER"),
        "{}{}",
        out(&all),
        err(&all)
    );
    assert_eq!(code(&run(&["disable", "502"])), 0);

    // A stop never allows more than before.
    let kept = run(&["stop", "502"]);
    assert_eq!(
        (code(&kept), out(&kept).trim()),
        (0, r#"{"user":"502","state":"disabled","changed":false}"#)
    );
    assert_eq!(
        list(),
        [
            "* stopped null",
            r#"501 stopped "runaway strategy""#,
            "502 disabled null"
        ]
    );

    // A stop never keeps orders that an earlier command ends. A later command may end orders that
    // an earlier command keeps.
    let row = |args: &[&str]| {
        assert_eq!(code(&run(args)), 0, "{args:?}");
        let listed = json(&run(&["list"]));
        let found = listed
            .as_array()
            .expect("rows")
            .iter()
            .find(|r| r["user"] == "503")
            .expect("a row")
            .clone();

        (
            found["state"].as_str().expect("a state").to_string(),
            found["orders"] == "kept",
        )
    };

    assert_eq!(row(&["stop", "503"]), ("stopped".into(), false));
    assert_eq!(
        row(&["stop", "503", "--keep-orders"]),
        ("stopped".into(), false)
    );
    assert_eq!(code(&run(&["resume", "503"])), 0);
    assert_eq!(
        row(&["disable", "503", "--keep-orders"]),
        ("disabled".into(), true)
    );
    assert_eq!(row(&["stop", "503"]), ("disabled".into(), false));
    assert_eq!(code(&run(&["resume", "503"])), 0);
    let resumed = run(&["resume", "501"]);
    assert_eq!(
        (code(&resumed), out(&resumed).trim()),
        (0, r#"{"user":"501","state":null,"changed":true}"#)
    );
    assert!(
        err(&resumed).contains("resume --all"),
        "everybody is stopped: {}",
        err(&resumed)
    );
    let again = run(&["resume", "501"]);
    assert!(
        code(&again) == 1 && err(&again).contains("neither stopped nor disabled"),
        "{}",
        err(&again)
    );
    let all = run(&["resume", "--all"]);
    assert!(
        code(&all) == 0 && err(&all).contains("one by one: 1"),
        "{}",
        err(&all)
    );
    assert_eq!(code(&run(&["resume", "--all"])), 1);
    assert_eq!(list(), ["502 disabled null"]);
}

#[test]
fn a_reader_that_goes_away_is_success() {
    let dir = temp();
    processor(dir.path(), &["topics", "create", "--embedded", "log"]);
    processor(
        dir.path(),
        &[
            "publish",
            "--symbols",
            "A",
            "--rate",
            "0",
            "--count",
            "5000",
            "--embedded",
            "log",
        ],
    );

    let mut child = command(
        dir.path(),
        &[
            "tail",
            "market-data",
            "--from",
            "start",
            "--exit-at-end",
            "--embedded",
            "log",
        ],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .expect("the program starts");

    drop(child.stdout.take());
    let o = child.wait_with_output().expect("the program ends");
    assert_eq!((code(&o), err(&o)), (0, String::new()));
}

#[test]
fn the_compose_file_says_only_what_the_program_understands() {
    let text = include_str!("../../docker/compose.yaml");
    let commands: Vec<Vec<String>> = text
        .lines()
        .filter_map(|l| l.trim().strip_prefix("command: "))
        .map(|list| serde_json::from_str(list).expect("a list of strings"))
        .collect();
    assert_eq!(commands.len(), 8, "topics, listings, five roles, publisher");
    for command in commands {
        let typed = std::iter::once("processor".to_string()).chain(command.iter().cloned());
        assert!(Args::try_parse_from(typed).is_ok(), "{command:?}");
    }
}
