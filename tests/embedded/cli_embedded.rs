//! The whole system on the embedded log, as a person meets it: the demo, orders, and the commands
//! that inspect the results.
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_processor"));
    c.args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, _) in
        std::env::vars().filter(|(n, _)| n.starts_with("PROCESSOR_") || n == "KAFKA_BROKERS")
    {
        c.env_remove(name);
    }

    c
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().expect("the program starts")
}

/// Runs on the demo's log and expects success.
fn good(dir: &Path, args: &[&str]) -> String {
    let o = run(dir, &[args, &["--embedded", "state/demo"]].concat());
    let out = String::from_utf8_lossy(&o.stdout).into_owned();
    let err = String::from_utf8_lossy(&o.stderr).into_owned();
    assert_eq!(o.status.code(), Some(0), "{args:?}: {err}\n{out}");
    out
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|l| serde_json::from_str(l).expect("JSON lines"))
        .collect()
}

/// A child process that ends with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // The child may have ended by itself.
        self.0.kill().unwrap_or_default();
        self.0.wait().expect("its end");
    }
}

/// Starts the demo and waits until orders are filled.
fn demo_under_way(dir: &Path) -> Guard {
    let guard = Guard(
        command(dir, &["demo", "--users", "20"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts"),
    );

    let began = Instant::now();
    let mut seen = 0;
    while seen < 50 {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the demo does nothing"
        );
        std::thread::sleep(Duration::from_millis(200));
        let o = run(
            dir,
            &[
                "tail",
                "trades",
                "--from",
                "-50",
                "--exit-at-end",
                "--embedded",
                "state/demo",
            ],
        );

        seen = String::from_utf8_lossy(&o.stdout).lines().count();
    }

    guard
}

/// Waits until the instances report that they run; reports come twice a second.
fn told_to_run(dir: &Path) {
    let began = Instant::now();
    loop {
        let status: Value =
            serde_json::from_str(&good(dir, &["status", "--format", "json"])).expect("JSON");
        if status.as_array().is_some_and(|rows| {
            rows.iter()
                .all(|r| r["state"] == "running" && r["instance"] == 1)
        }) {
            return;
        }

        assert!(
            began.elapsed() < Duration::from_secs(20),
            "not every task runs"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_demo_that_is_killed_carries_on_and_everything_adds_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();

    // Two kills under load (the guard kills with SIGKILL), while other commands read.
    for _ in 0..2 {
        let running = demo_under_way(dir);
        told_to_run(dir);
        let busy = run(
            dir,
            &[
                "order",
                "--user",
                "501",
                "--deposit",
                "1",
                "--embedded",
                "state/demo",
            ],
        );

        assert_eq!(busy.status.code(), Some(78), "the log has an owner");
        assert!(String::from_utf8_lossy(&busy.stderr).contains("in use"));
        drop(running);
    }

    let last = run(dir, &["demo", "--users", "20", "--for", "2s"]);
    let said =
        String::from_utf8_lossy(&last.stdout).into_owned() + &String::from_utf8_lossy(&last.stderr);
    assert_eq!(last.status.code(), Some(0), "{said}");
    assert!(said.contains("0 violations"), "{said}");

    let checks = json_lines(&good(dir, &["verify", "--format", "json"]));
    assert!(checks.len() > 10 && checks.iter().all(|c| c["ok"] == true));
    let replayed: Value =
        serde_json::from_str(&good(dir, &["replay", "--format", "json"])).expect("JSON");
    let replayed = replayed.as_array().expect("rows");
    assert!(
        replayed.len() >= 5
            && replayed
                .iter()
                .all(|r| r["result"] == "equal" && r["live"] == r["replayed"]),
        "{replayed:?}"
    );

    let rebuilt = |_| {
        serde_json::from_str::<Value>(&good(
            dir,
            &["rebuild", "--role", "orders", "--format", "json"],
        ))
        .expect("JSON")
    };

    assert_eq!(rebuilt(1), rebuilt(2), "a rebuild changes nothing");
    let portfolios = || {
        good(
            dir,
            &["state", "list", "--role", "portfolio", "--format", "json"],
        )
    };

    let live = portfolios();
    good(dir, &["rebuild", "--role", "portfolio"]);
    assert!(live.contains("portfolio/trader-"), "{live}");
    assert_eq!(
        portfolios(),
        live,
        "e6: portfolios made anew are the live ones"
    );
    good(dir, &["verify"]);
    let portfolio: Value =
        serde_json::from_str(&good(dir, &["portfolio", "trader-1", "--format", "json"]))
            .expect("JSON");
    assert!(
        portfolio["cash_available"]
            .as_str()
            .is_some_and(|c| c.contains('.')),
        "{portfolio}"
    );
}

#[test]
fn an_order_is_carried_out_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    good(dir, &["topics", "create"]);
    std::fs::write(dir.join("l.csv"), "symbol\nAAPL\n").expect("file");
    good(dir, &["instruments", "load", "l.csv"]);
    good(
        dir,
        &[
            "publish",
            "--symbols",
            "AAPL",
            "--count",
            "3",
            "--rate",
            "0",
        ],
    );

    let order = [
        "order",
        "--user",
        "501",
        "--id",
        "1001",
        "--symbol",
        "AAPL",
        "--quantity",
        "10",
        "--side",
        "buy",
        "--format",
        "json",
    ];

    let names = |text: &str| {
        json_lines(text)
            .iter()
            .map(|e| e["event"].as_str().unwrap_or_default().to_string())
            .collect::<Vec<_>>()
    };

    assert_eq!(
        names(&good(dir, &order)),
        ["Deposited", "OrderPending", "OrderAccepted", "OrderFilled"]
    );
    assert_eq!(names(&good(dir, &order)), ["OrderStatus"]);
    assert_eq!(
        names(&good(
            dir,
            &[
                "order",
                "--user",
                "501",
                "--deposit",
                "25.50",
                "--format",
                "json"
            ]
        )),
        ["Deposited"]
    );

    let refused = run(
        dir,
        &[
            "order",
            "--user",
            "501",
            "--withdraw",
            "99999999",
            "--embedded",
            "state/demo",
        ],
    );

    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("INSUFFICIENT_FUNDS"));
    let portfolio: Value =
        serde_json::from_str(&good(dir, &["portfolio", "501", "--format", "json"])).expect("JSON");
    assert_eq!(portfolio["positions"][0]["quantity"], 10);
    assert_eq!(
        json_lines(&good(
            dir,
            &[
                "tail",
                "trades",
                "--from",
                "start",
                "--exit-at-end",
                "--json"
            ]
        ))
        .len(),
        1
    );
}

/// Regression: the command waited for a resting order until its timeout, and then reported a
/// failure of the roles. For a mass cancel only the first answer was shown.
#[test]
fn resting_orders_are_answered_changed_and_cancelled_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    good(dir, &["topics", "create", "--partitions", "3"]);
    std::fs::write(dir.join("l.csv"), "symbol\nAAPL\nMSFT\nNVDA\n").expect("file");
    good(dir, &["instruments", "load", "l.csv"]);
    std::fs::write(
        dir.join("t.csv"),
        "symbol,timestamp,price\nAAPL,1430438404,100\nMSFT,1430438404,100\nNVDA,1430438404,100\n",
    )
    .expect("file");
    good(dir, &["publish", "--file", "t.csv", "--speed", "max"]);
    let began = Instant::now();
    let send = |args: &[&str]| {
        let answer = good(
            dir,
            &[
                &[
                    "order",
                    "--user",
                    "501",
                    "--timeout",
                    "5m",
                    "--format",
                    "json",
                ],
                args,
            ]
            .concat(),
        );

        json_lines(&answer)
            .iter()
            .map(|e| e["event"].as_str().unwrap_or_default().to_string())
            .collect::<Vec<_>>()
    };

    let limit = |id: &str, symbol: &str, price: &str, more: &[&str]| {
        let order = [
            "--id",
            id,
            "--symbol",
            symbol,
            "--quantity",
            "10",
            "--side",
            "buy",
            "--type",
            "limit",
            "--limit-price",
            price,
        ];

        send(&[&order, more].concat())
    };

    assert_eq!(
        limit("1", "AAPL", "96", &["--post-only"]),
        ["Deposited", "OrderPending", "OrderAccepted"]
    );
    assert_eq!(
        limit("2", "MSFT", "97", &["--tif", "DAY"]),
        ["OrderPending", "OrderAccepted"]
    );
    let stop = [
        "--id",
        "3",
        "--symbol",
        "NVDA",
        "--quantity",
        "1",
        "--side",
        "buy",
        "--type",
        "stop",
        "--stop-price",
        "103",
    ];

    assert_eq!(send(&stop), ["OrderPending", "OrderAccepted"]);
    assert_eq!(
        send(&[
            "--replace",
            "1",
            "--quantity",
            "5",
            "--limit-price",
            "96.50"
        ]),
        ["OrderReplaced"]
    );

    assert_eq!(send(&["--cancel", "2"]), ["OrderCancelled"]);
    assert_eq!(
        limit("4", "MSFT", "97", &[]),
        ["OrderPending", "OrderAccepted"]
    );
    assert_eq!(
        limit("5", "AAPL", "95.50", &[]),
        ["OrderPending", "OrderAccepted"]
    );
    assert_eq!(
        send(&["--mass-cancel", "--symbol", "AAPL"]),
        ["OrderCancelled"; 2]
    );
    assert_eq!(
        limit("6", "AAPL", "95.50", &[]),
        ["OrderPending", "OrderAccepted"]
    );
    assert_eq!(send(&["--mass-cancel"]), ["OrderCancelled"; 3]);
    assert!(
        began.elapsed() < Duration::from_secs(120),
        "nobody waited for the time to be up"
    );
    let none = run(
        dir,
        &[
            "order",
            "--user",
            "501",
            "--mass-cancel",
            "--embedded",
            "state/demo",
        ],
    );

    assert!(
        none.status.code() == Some(1)
            && String::from_utf8_lossy(&none.stderr).contains("UNKNOWN_ORDER"),
        "{none:?}"
    );
    let first = json_lines(&good(
        dir,
        &[
            "tail",
            "order-commands",
            "--from",
            "start",
            "--exit-at-end",
            "--json",
        ],
    ))
    .remove(0);

    assert_eq!(first["value"]["post_only"], true, "{first}");
}

#[test]
fn an_operator_ends_orders_and_takes_trades_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    good(dir, &["topics", "create", "--partitions", "2"]);
    std::fs::write(dir.join("l.csv"), "symbol,fee_bps,clip_size\nAAPL,7,50\n").expect("file");
    good(dir, &["instruments", "load", "l.csv"]);
    std::fs::write(
        dir.join("t.csv"),
        "symbol,timestamp,price\nAAPL,1430438404,100\n",
    )
    .expect("file");
    good(dir, &["publish", "--file", "t.csv", "--speed", "max"]);
    let order = |more: &[&str]| {
        let base = [
            "order",
            "--user",
            "501",
            "--symbol",
            "AAPL",
            "--side",
            "buy",
            "--format",
            "json",
            "--embedded",
            "state/demo",
        ];

        let o = run(dir, &[&base, more].concat());
        (
            o.status.code(),
            json_lines(&String::from_utf8_lossy(&o.stdout)),
        )
    };

    let (code, events) = order(&["--id", "1", "--quantity", "10"]);
    let filled = events.last().expect("events").clone();
    assert_eq!(
        (code, &filled["event"]),
        (Some(0), &Value::from("OrderFilled"))
    );
    let (code, events) = order(&["--id", "big", "--quantity", "51"]);
    assert_eq!(
        (code, &events[0]["reason"]),
        (Some(1), &Value::from("CLIP_SIZE"))
    );
    for id in ["2", "3", "4"] {
        assert_eq!(
            order(&[
                "--id",
                id,
                "--quantity",
                "1",
                "--type",
                "limit",
                "--limit-price",
                "99"
            ])
            .0,
            Some(0)
        );
    }

    let ended = |args: &[&str]| {
        let answer = good(
            dir,
            &[
                &[
                    "account",
                    "cancel",
                    "501",
                    "--operator",
                    "ana",
                    "--format",
                    "json",
                ],
                args,
            ]
            .concat(),
        );

        json_lines(&answer)
            .iter()
            .map(|e| format!("{} {}", e["order_id"], e["reason"]))
            .collect::<Vec<_>>()
    };

    assert_eq!(ended(&["--order-id", "3"]), [r#""3" "OPERATOR""#]);
    assert_eq!(ended(&[]), [r#""2" "OPERATOR""#, r#""4" "OPERATOR""#]);

    let trade = filled["trade_id"].as_str().expect("a trade");
    let none = run(
        dir,
        &[
            "account",
            "bust",
            "501",
            "1",
            "9-9",
            "--operator",
            "ana",
            "--embedded",
            "state/demo",
        ],
    );

    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(
        none.status.code() == Some(1)
            && said.contains("has no trade 9-9")
            && said.contains("audit find"),
        "{said}"
    );
    let bust = |more: &[&str]| {
        json_lines(&good(
            dir,
            &[
                &[
                    "account",
                    "bust",
                    "501",
                    "1",
                    trade,
                    "--operator",
                    "ana",
                    "--format",
                    "json",
                ],
                more,
            ]
            .concat(),
        ))
    };

    let part = bust(&["--quantity", "3", "--id", "b1"]);
    let repeated = bust(&["--quantity", "3", "--id", "b1"]);
    assert_eq!(
        repeated[0]["event"], "OrderStatus",
        "a repeat takes back nothing more: {repeated:?}"
    );
    assert_eq!(
        (
            &part[0]["event"],
            &part[0]["last_quantity"],
            &part[0]["fee_e4"]
        ),
        (&"TradeBusted".into(), &3.into(), &Value::from(-2_100))
    );

    let busted = bust(&[]);
    assert_eq!(
        (
            &busted[0]["event"],
            &busted[0]["last_quantity"],
            &busted[0]["status"]
        ),
        (&"TradeBusted".into(), &7.into(), &"cancelled".into())
    );

    assert_eq!(
        (&busted[0]["fee_e4"], &busted[0]["cash_available_e4"]),
        (&Value::from(-4_900), &Value::from(10_000_000_000_i64))
    );
    let tape = good(dir, &["tail", "trades", "--from", "start", "--exit-at-end"]);
    assert!(
        tape.contains("TradeBusted") && tape.contains("busted_quantity=7"),
        "{tape}"
    );
    let again = run(
        dir,
        &[
            "account",
            "bust",
            "501",
            "1",
            trade,
            "--operator",
            "ana",
            "--embedded",
            "state/demo",
        ],
    );

    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        again.status.code() == Some(1) && said.contains("TOO_LATE_TO_CANCEL"),
        "{said}"
    );

    let portfolio: Value =
        serde_json::from_str(&good(dir, &["portfolio", "501", "--format", "json"])).expect("JSON");
    assert_eq!(
        (
            portfolio["positions"].as_array().map(Vec::len),
            &portfolio["fees"]
        ),
        (Some(0), &Value::from("0.00"))
    );

    let found = good(dir, &["audit", "find", "--user", "501", "--order", "1"]);
    assert!(
        found.contains("TradeBusted") && found.contains("operator=ana"),
        "{found}"
    );
    good(dir, &["verify"]);
    let replayed: Value =
        serde_json::from_str(&good(dir, &["replay", "--format", "json"])).expect("JSON");
    assert!(
        replayed
            .as_array()
            .expect("rows")
            .iter()
            .all(|r| r["result"] == "equal"),
        "{replayed}"
    );

    let state = good(dir, &["state", "get", "order/501/1", "--role", "orders"]);
    assert!(
        state.contains(trade) && state.contains("taken_back"),
        "{state}"
    );

    // A trade that does not exist.
    assert_eq!(order(&["--id", "7", "--quantity", "2"]).0, Some(0));
    let bust = r#"{"command":"bust","user_id":"501","order_id":"b","orig_order_id":"7","trade_id":"x","quantity":1,"price":90,"operator":"ana"}"#;
    let found = run(dir, &["order", "--json", bust, "--embedded", "state/demo"]);
    let said = String::from_utf8_lossy(&found.stderr).into_owned()
        + &String::from_utf8_lossy(&found.stdout);
    assert!(
        found.status.code() == Some(1) && said.contains("UNKNOWN_TRADE"),
        "{found:?}"
    );
    good(dir, &["verify"]);
}

#[test]
fn a_user_who_is_stopped_can_cancel_and_goes_on_when_resumed() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    good(dir, &["topics", "create", "--partitions", "2"]);
    std::fs::write(dir.join("l.csv"), "symbol\nAAPL\n").expect("file");
    good(dir, &["instruments", "load", "l.csv"]);
    std::fs::write(
        dir.join("t.csv"),
        "symbol,timestamp,price\nAAPL,1430438404,100\n",
    )
    .expect("file");
    good(dir, &["publish", "--file", "t.csv", "--speed", "max"]);
    let limit = [
        "--symbol",
        "AAPL",
        "--quantity",
        "1",
        "--side",
        "buy",
        "--type",
        "limit",
        "--limit-price",
        "99",
    ];

    let send = |args: &[&str]| {
        let o = run(
            dir,
            &[
                &["order", "--user", "501", "--embedded", "state/demo"],
                args,
            ]
            .concat(),
        );

        (
            o.status.code(),
            String::from_utf8_lossy(&o.stderr).into_owned(),
        )
    };

    let order = |id: &str| send(&[&["--id", id], &limit[..]].concat());
    assert_eq!(order("1").0, Some(0));
    good(
        dir,
        &[
            "account",
            "stop",
            "--all",
            "--keep-orders",
            "--operator",
            "ana",
        ],
    );

    let (code, said) = order("2");
    assert!(code == Some(1) && said.contains("KILL_SWITCH"), "{said}");
    assert_eq!(send(&["--mass-cancel"]).0, Some(0));
    good(dir, &["account", "resume", "--all", "--operator", "ben"]);
    assert_eq!(order("2").0, Some(0), "the id was not used up");
    good(dir, &["account", "disable", "501", "--operator", "ana"]);
    let (code, said) = send(&["--deposit", "1"]);
    assert!(
        code == Some(1) && said.contains("ACCOUNT_DISABLED"),
        "{said}"
    );
    let found = good(dir, &["audit", "find", "--user", "501"]);
    assert!(
        found.contains("everybody stopped (controls/0/0)")
            && found.contains("the user disabled (controls/0/2)"),
        "{found}"
    );
    assert!(
        found.contains("control state=disabled operator=ana"),
        "{found}"
    );

    // Controls are audited like all other records, including the operator who lifted a control.
    let controls = found
        .lines()
        .filter(|l| l.contains("controls/0/") && !l.contains('^'));
    assert!(
        controls.clone().count() > 0 && controls.clone().all(|l| l.starts_with("+ ")),
        "{found}"
    );
    let tail = good(
        dir,
        &[
            "tail",
            "controls",
            "--from",
            "start",
            "--exit-at-end",
            "--json",
        ],
    );

    assert!(
        tail.lines()
            .any(|l| l.contains(r#""operator":"ben""#) && l.contains(r#""value":null"#)),
        "{tail}"
    );
    assert!(good(dir, &["audit", "verify"]).contains("ok   controls/0: "));

    // Without `--keep-orders`, a stop ends open orders.
    good(dir, &["account", "resume", "501", "--operator", "ana"]);
    assert_eq!(order("3").0, Some(0));
    good(dir, &["account", "stop", "--all", "--operator", "ana"]);
    assert_eq!(order("4").0, Some(1));
    let found = good(dir, &["audit", "find", "--user", "501", "--order", "3"]);
    assert!(
        found.contains("OrderCancelled") && found.contains("KILL_SWITCH"),
        "{found}"
    );

    // A replay with the changed controls makes the same decisions.
    for role in ["orders", "trading"] {
        let replayed: Value =
            serde_json::from_str(&good(dir, &["replay", "--role", role, "--format", "json"]))
                .expect("JSON");
        let rows = replayed.as_array().expect("rows");
        assert!(
            !rows.is_empty() && rows.iter().all(|r| r["result"] == "equal"),
            "{replayed}"
        );
    }
}

/// A replay uses the settings of the journal, not the present ones. Each decision names the
/// settings that were used.
#[test]
fn settings_may_change_between_two_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let demo = |limit: &str| {
        good(
            dir,
            &[
                "demo",
                "--users",
                "3",
                "--for",
                "2s",
                "--rate-limit",
                limit,
                "--burst",
                limit,
            ],
        )
    };

    demo("1");
    demo("500");
    demo("2");
    let events = json_lines(&good(
        dir,
        &[
            "tail",
            "order-events",
            "--from",
            "start",
            "--exit-at-end",
            "--json",
        ],
    ));

    let refused = events
        .iter()
        .find(|e| e["value"]["reason"] == "RATE_LIMITED")
        .expect("more than one order in a second");
    let replayed: Value =
        serde_json::from_str(&good(dir, &["replay", "--format", "json"])).expect("JSON");
    let rows = replayed.as_array().expect("rows");
    assert!(
        rows.len() >= 5 && rows.iter().all(|r| r["result"] == "equal"),
        "{replayed}"
    );
    let order = refused["value"]["order_id"].as_str().expect("an id");
    let found = json_lines(&good(
        dir,
        &["audit", "find", "--order", order, "--format", "json"],
    ));
    let decision = found
        .iter()
        .find(|r| r["decision"]["role"] == "orders")
        .expect("decided");
    assert_eq!(
        decision["decision"]["settings"]["rate_limit"], 1,
        "{decision}"
    );
    let text = good(dir, &["audit", "find", "--order", order]);
    assert!(
        text.lines().any(|line| line.contains("^ decided by orders")
            && line.ends_with("set to rate_limit=1 burst=1")),
        "{text}"
    );
}

#[test]
fn the_past_can_be_kept_and_looked_at() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    good(dir, &["demo", "--users", "10", "--for", "3s"]);
    let one = |text: &str| {
        serde_json::from_str::<Value>(text.lines().next().expect("a line")).expect("JSON")
    };

    let events = json_lines(&good(
        dir,
        &[
            "tail",
            "order-commands",
            "--from",
            "start",
            "--exit-at-end",
            "--json",
        ],
    ));

    let command = &events[events.len() / 2];
    let user = command["key"].as_str().expect("text");
    let partition = &command["partition"];
    let offset = &command["offset"];
    let moment = format!("order-commands/{partition}/{offset}");
    let rows: Value = serde_json::from_str(&good(
        dir,
        &[
            "replay", "--until", &moment, "--keep", "then", "--role", "orders", "--format", "json",
        ],
    ))
    .expect("JSON");

    let row = rows
        .as_array()
        .and_then(|r| {
            r.iter().find(|r| {
                r["topic"]
                    .as_str()
                    .is_some_and(|t| t.starts_with("order-commands/"))
            })
        })
        .expect("a row");

    assert!(
        row["position"].as_u64() > offset.as_u64() && row["transaction"].as_u64() > Some(0),
        "{rows}"
    );
    let key = format!("account/{user}");
    let then = one(&good(
        dir,
        &[
            "state", "get", &key, "--role", "orders", "--at", "then", "--format", "json",
        ],
    ));
    let now = one(&good(
        dir,
        &["state", "get", &key, "--role", "orders", "--format", "json"],
    ));
    assert!(
        then["value"]["user_seq"].as_u64() <= now["value"]["user_seq"].as_u64()
            && then["key"] == key.as_str(),
        "{then} {now}"
    );
    let shown = good(dir, &["state", "show", user]);
    assert!(
        shown.contains(&key) && shown.contains("portfolio/") && shown.contains("order/"),
        "{shown}"
    );
    let listed = good(
        dir,
        &["state", "list", "--role", "trading", "--prefix", "price/A"],
    );
    assert!(
        listed.lines().count() >= 2 && listed.lines().all(|l| l.starts_with("price/A")),
        "{listed}"
    );
    let audit = json_lines(&good(
        dir,
        &[
            "state",
            "list",
            "--role",
            "audit,notifications",
            "--format",
            "json",
        ],
    ));

    assert!(audit.iter().any(|e| {
        e["key"]
            .as_str()
            .is_some_and(|k| k.starts_with("order-events/"))
            && e["value"]["entries"].as_u64() > Some(0)
    }));

    let fails = |args: &[&str], code: i32, part: &str| {
        let o = run(dir, &[args, &["--embedded", "state/demo"]].concat());
        let said = String::from_utf8_lossy(&o.stderr).into_owned();
        assert!(
            o.status.code() == Some(code) && said.contains(part),
            "{args:?}: {said}"
        );
    };

    fails(
        &[
            "replay",
            "--until",
            "order-commands/0/99999999",
            "--role",
            "orders",
        ],
        1,
        "has not been reached",
    );

    fails(
        &["replay", "--until", "2999-01-01T00:00:00Z"],
        1,
        "lies in the future",
    );
    fails(&["replay", "--until", "yesterday"], 2, "say a time such as");
    fails(
        &[
            "replay", "--until", &moment, "--keep", "then", "--role", "orders",
        ],
        78,
        "is there already",
    );

    fails(
        &["state", "get", "account/nobody", "--role", "orders"],
        1,
        "there is no account/nobody",
    );
    fails(
        &["state", "get", "totals", "--role", "orders"],
        2,
        "say --task",
    );
    fails(&["state", "get", &key], 2, "no role given");
}
