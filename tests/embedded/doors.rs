//! Inputs of the command line. All commands read times, numbers and files in the same way. Input
//! that is not understood gives a message and is never dropped silently.

use std::path::Path;

use serde_json::Value;

use crate::support::program::{Answer, Program};

fn embedded(dir: &Path) -> Program {
    let p = Program::embedded(dir, "log");
    p.good(&["topics", "create", "--partitions", "1"]);
    p
}

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), text).expect("a file");
}

fn load(p: &Program, dir: &Path, text: impl AsRef<[u8]>, more: &[&str]) -> Answer {
    write(dir, "in", text);
    p.run(&[&["instruments", "load", "in"], more].concat())
}

/// The newest record of a symbol.
fn listing(p: &Program, symbol: &str) -> Value {
    serde_json::from_str(&p.good(&["instruments", "show", symbol, "--format", "json"]))
        .expect("JSON")
}

/// Regression: a civil day was read out of a civil time, and the clock part was dropped. Both ends
/// of a range became midnight, and an empty export was reported as whole.
#[test]
fn a_time_is_the_same_time_for_every_command() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = embedded(dir.path());
    write(
        dir.path(),
        "t.csv",
        "symbol,timestamp,price\nAAPL,1700000000000,1\n",
    );
    p.good(&["publish", "--file", "t.csv", "--speed", "max"]);
    let commands: &[&[&str]] = &[
        &["audit", "export", "--from", "T"],
        &["audit", "export", "--to", "T"],
        &["audit", "find", "--user", "1", "--from", "T"],
        &["portfolio", "1", "--history", "--from", "T"],
        &["tail", "market-data", "--exit-at-end", "--from", "T"],
        &["replay", "--role", "orders", "--until", "T"],
        &[
            "order",
            "--user",
            "1",
            "--symbol",
            "S",
            "--quantity",
            "1",
            "--side",
            "buy",
            "--type",
            "limit",
            "--limit-price",
            "1",
            "--tif",
            "GTD",
            "--expire-at",
            "T",
        ],
    ];

    let bad = [
        "2026-01-31T09:30:00",
        "2026-01-31 09:30",
        "20260131",
        "yesterday",
        "31.01.2026",
        "1.5",
        "2026-02-30",
    ];

    // Valid times: a command may fail for other reasons, but never for these times.
    let good = [
        "2026-01-31T09:30:00Z",
        "2026-01-31T10:30:00+01:00",
        "2026-01-31",
        "1769851800000",
        "1769851800000000",
    ];

    for command in commands {
        let with = |t: &'static str| {
            command
                .iter()
                .map(|w| if *w == "T" { t } else { *w })
                .collect::<Vec<_>>()
        };

        for t in bad {
            let answer = p.run(&with(t));
            assert!(
                answer.code == Some(2) && answer.out.is_empty(),
                "{command:?} {t}: {answer:?}"
            );
        }

        for t in good {
            let answer = p.run(&with(t));
            assert_ne!(answer.code, Some(2), "{command:?} {t}: {answer:?}");
        }
    }

    p.run(&["audit", "export", "--from", "2026-01-31T09:30:00"])
        .fails(2, &["no zone"]);
    let expire = [
        "order",
        "--user",
        "1",
        "--deposit",
        "1",
        "--expire-at",
        "-5",
        "--side",
        "buy",
    ];

    assert_eq!(p.run(&expire).code, Some(2));

    // The time of the tick, given as a time and as a number that looks like an offset.
    let tail = |from: &str| {
        p.good(&["tail", "market-data", "--exit-at-end", "--from", from])
            .lines()
            .count()
    };

    assert_eq!(
        (tail("2023-11-14"), tail("0"), tail("+20260131")),
        (1, 1, 0)
    );
}

#[test]
fn numbers_are_those_of_the_contract() {
    let dir = tempfile::tempdir().expect("a directory");
    write(
        dir.path(),
        "processor.toml",
        "opening_cash = 250000.50\nrate_limit = 100.0\nburst = 1e3\n",
    );
    let p = embedded(dir.path());
    let shown = p.good(&["config", "show"]);
    assert!(
        shown.contains("250000.5") && shown.contains("100"),
        "{shown}"
    );
    assert_eq!(
        load(&p, dir.path(), "symbol,lot\nAAPL,10.0\n", &[]).code,
        Some(0)
    );
    assert_eq!(listing(&p, "AAPL")["lot"], 10);
    write(
        dir.path(),
        "t.csv",
        "symbol,timestamp,price\nAAPL,1616662743.0,100\nAAPL,2021-03-25T09:00:00Z,1e2\n",
    );
    p.good(&["publish", "--file", "t.csv", "--speed", "max"]);
    let order = ["order", "--user", "u", "--symbol", "AAPL", "--side", "buy"];
    assert!(
        p.good(&["order", "--user", "u", "--deposit", " 250"])
            .contains("250")
    );
    let events = p.run(
        &[
            &order[..],
            &[
                "--quantity",
                "10.0",
                "--type",
                "limit",
                "--limit-price",
                " 100",
            ],
        ]
        .concat(),
    );

    assert!(events.is_good().contains("OrderAccepted"), "{events:?}");
    for quantity in ["ten", "1.5", "1,0"] {
        p.run(&[&order[..], &["--quantity", quantity]].concat())
            .fails(2, &["whole number"]);
    }

    // Contradictory options do not use up an order id.
    for (more, part) in [
        (&["--limit-price", "99"][..], "--type limit"),
        (&["--stop-price", "99"], "--type stop"),
        (&["--type", "limit"], "--limit-price"),
        (
            &["--type", "stop_limit", "--limit-price", "1"],
            "--stop-price",
        ),
        (&["--type", "lmit"], "lmit"),
        (&["--tif", "GTD"], "--expire-at"),
        (&["--tif", "gtc"], "go together"),
        (&["--limit-price", "1,5", "--type", "limit"], "no number"),
    ] {
        p.run(&[&order[..], &["--quantity", "10"], more].concat())
            .fails(2, &[part]);
    }
}

/// Regression: `1,012.75` without quotes was read as a price of 1, and a market buy was filled at
/// this price.
#[test]
fn rows_that_do_not_fit_are_named_and_skipped() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = embedded(dir.path());
    let publish = |text: &str, more: &[&str]| {
        write(dir.path(), "t.csv", text);
        p.run(
            &[
                &[
                    "publish", "--file", "t.csv", "--symbol", "ABC", "--speed", "max",
                ],
                more,
            ]
            .concat(),
        )
    };

    let ticks = || p.good(&["tail", "market-data", "--exit-at-end", "--from", "start"]);
    for (text, line) in [
        (
            "timestamp,price\n1700000000,999.50\n1700000001,1,012.75\n",
            "line 3",
        ),
        ("timestamp,price\n1700000000,189,25\n", "line 2"),
        ("timestamp;price\n1700000000;189,25\n", "line 2"),
        ("timestamp,price\n1700000000\n", "line 2"),
        (
            "timestamp,price\n1700000000,\"1\n1700000001,2\n",
            "never closed",
        ),
        ("timestamp,price\n2023-11-14T22:13:20,1\n", "no zone"),
    ] {
        publish(text, &[]).fails(1, &[line, "skipped"]);
    }

    assert!(
        !ticks().contains("price=1 ") && ticks().lines().count() == 1,
        "{}",
        ticks()
    );
    for d in [",", ";", "\t", "|"] {
        publish(&format!("timestamp{d}price\n1700000000{d}7.25\n"), &[]).is_good();
    }

    publish("timestamp,price,price\n", &[]).fails(1, &["two columns"]);

    // Regression: float noise was published without a warning, and every tick became a dead letter.
    let noise = "timestamp,price\n1700000000,1112.050049\n1700000000,0\n1700000000,5\n";
    let refused = publish(noise, &[]);
    refused.fails(
        1,
        &[
            "more than four decimals",
            "is not above zero",
            "2 of the prices",
            "--round",
        ],
    );

    assert!(refused.out.starts_with("3 ticks"), "{}", refused.out);
    let json = publish(noise, &["--round", "--format", "json"]);
    assert!(
        json.out.contains("\"published\":3,\"skipped\":0") && json.out.contains("\"refused\":1"),
        "{json:?}"
    );
    assert!(ticks().contains("price=1112.05 "), "{}", ticks());
}

#[test]
fn the_exchanges_own_files_and_a_brokers_list() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = embedded(dir.path());
    let nasdaq = "Symbol|Security Name|Market Category|Test Issue|Financial Status|Round Lot Size|ETF|NextShares\r\n\
                  AAPL|Apple Inc. - Common Stock|Q|N|N|100|N|N\r\nZVZZT|NASDAQ TEST STOCK|G|Y|N|100|N|N\r\nFile Creation Time: 0101202521:30|||||||\r\n";
    let loaded = load(&p, dir.path(), nasdaq, &[]);
    assert!(
        loaded
            .is_good()
            .contains("2 listings loaded (1 test issues"),
        "{loaded:?}"
    );
    let other = "ACT Symbol|Security Name|Exchange|CQS Symbol|ETF|Round Lot Size|Test Issue|NASDAQ Symbol\n\
                 BRK.B|Berkshire|N|BRK.B|N|100|N|BRK.B\nABR$D|Arbor|N|ABRpD|N|100|N|ABR-D\nFile Creation Time: 0101202521:30|||||||\n";
    assert!(
        load(&p, dir.path(), other, &[])
            .is_good()
            .contains("2 listings loaded")
    );
    assert_eq!(listing(&p, "ABR$D")["name"], "Arbor");
    for d in [";", "\t"] {
        assert!(
            load(
                &p,
                dir.path(),
                format!("symbol{d}name{d}tick\nMSFT{d}Microsoft{d}0.05\n"),
                &[]
            )
            .is_good()
            .contains("1 listings")
        );
    }

    load(&p, dir.path(), "symbol;tick\nIBM;0,01\n", &[]).fails(1, &["line 2", "tick `0,01`"]);
    let utf_16: Vec<u8> = "\u{feff}symbol,name\nAAPL,Apple\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    load(&p, dir.path(), utf_16, &[]).fails(1, &["UTF-16", "iconv"]);
    let assets: Vec<_> = (0..2000)
        .map(|i| format!(r#"{{"symbol":"S{i}","class":"us_equity"}}"#))
        .collect();
    let list = load(&p, dir.path(), format!("[{}]", assets.join(",")), &[]);
    assert!(
        list.is_good().contains("2000 listings loaded") && list.err.contains("left out: class"),
        "{list:?}"
    );
    let bad = load(
        &p,
        dir.path(),
        format!("{{\"symbol\":{}}}", assets.join(",")),
        &[],
    );
    assert!(
        bad.code == Some(1) && bad.err.len() < 2000,
        "{} bytes",
        bad.err.len()
    );
    let cut = load(&p, dir.path(), format!("[{}", assets.join(",")), &[]);
    assert!(
        cut.code == Some(1) && cut.err.len() < 2000,
        "{} bytes",
        cut.err.len()
    );
}

/// Regression: a halt erased the limits of a symbol, and a plain file of symbols and names reopened
/// the symbol with fee 0.
#[test]
fn a_file_changes_what_it_says_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = embedded(dir.path());
    let own = r#"{"symbol":"AAPL","name":"Apple","fee_bps":10,"band_bps":500,"collar_bps":200,"max_notional":"100000","house":false}"#;
    load(&p, dir.path(), own, &[]).is_good();
    let before = listing(&p, "AAPL");
    assert_eq!(
        p.good(&["instruments", "halt", "AAPL"]),
        "AAPL is halted (was listed)\n"
    );
    assert_eq!(
        p.good(&["instruments", "halt", "AAPL"]),
        "AAPL is halted, as it was\n"
    );
    let plain = load(&p, dir.path(), "Symbol,Security\nAAPL,Apple Inc.\n", &[]);
    assert!(
        plain
            .is_good()
            .contains("AAPL: name Apple -> \"Apple Inc.\"\n"),
        "{plain:?}"
    );
    let mut want = before.clone();
    (want["status"], want["name"]) = ("halted".into(), "Apple Inc.".into());
    assert_eq!(listing(&p, "AAPL"), want);

    // A second load changes no listing and writes no record.
    let records = || {
        p.good(&["tail", "instruments", "--from", "start", "--exit-at-end"])
            .lines()
            .count()
    };

    let count = records();
    assert!(
        load(&p, dir.path(), "Symbol,Security\nAAPL,Apple Inc.\n", &[])
            .is_good()
            .contains("0 changed, 1 as they were")
    );
    assert_eq!(records(), count);

    // A null removes one field. `--replace` sets the whole listing, but keeps the halt.
    load(&p, dir.path(), r#"{"symbol":"AAPL","fee_bps":null}"#, &[]).is_good();
    assert!(listing(&p, "AAPL")["fee_bps"].is_null() && listing(&p, "AAPL")["band_bps"] == 500);
    load(&p, dir.path(), "symbol,fee_bps\nAAPL,7\n", &["--replace"]).is_good();
    assert_eq!(
        listing(&p, "AAPL"),
        serde_json::json!({"status": "halted", "symbol": "AAPL", "fee_bps": 7})
    );
    p.good(&["instruments", "resume", "AAPL"]);
    load(&p, dir.path(), "symbol,status\nAAPL,cancel_only\n", &[]).is_good();
    assert_eq!(listing(&p, "AAPL")["status"], "cancel_only");
    p.run(&["instruments", "halt", "NOPE", "AAPL"])
        .fails(1, &["NOPE is not listed"]);
    assert_eq!(listing(&p, "AAPL")["status"], "halted");
    assert!(
        p.good(&["instruments", "list"])
            .lines()
            .any(|l| l.contains("AAPL") && l.contains("halted") && l.contains("fee_bps=7"))
    );

    // Two columns with one name: the meant one is unknown.
    load(&p, dir.path(), "symbol,tick,tick\nAAPL,0.01,0.05\n", &[])
        .fails(1, &["two columns are named `tick`"]);
    load(
        &p,
        dir.path(),
        "symbol,tick\nAAPL,0.10\nMSFT,1\nAAPL,0.20\n",
        &[],
    )
    .fails(1, &["line 4", "stands in line 2", "2 rows"]);

    assert!(listing(&p, "AAPL")["tick"].is_null() && listing(&p, "MSFT")["tick"] == "1.00");
    load(&p, dir.path(), "symbol,currency\nEURX,eur\nX,US$\n", &[]).fails(1, &["line 3"]);
    assert_eq!(listing(&p, "EURX")["currency"], "EUR");
}

/// A cancel with a number as order id becomes a dead letter. Regression: a search for the order did
/// not find this dead letter.
#[test]
fn a_number_in_the_place_of_an_id_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = embedded(dir.path());
    for (id, orig) in [("c1", "1001"), ("c2", "1001.0")] {
        let cancel = format!(
            r#"{{"command":"cancel","order_id":"{id}","user_id":"u","orig_order_id":{orig}}}"#
        );
        assert_eq!(p.run(&["order", "--json", &cancel]).code, Some(1));
    }

    let found = p.good(&["audit", "find", "--order", "1001"]);
    for part in ["order_id=c1", "order_id=c2", "DeadLetter MALFORMED"] {
        assert!(found.contains(part), "{part}: {found}");
    }
}

/// The program can read the files named in docs/operating/production.md: every setting is known,
/// and every row of the listings is valid.
#[test]
fn the_files_for_a_desk_are_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = embedded(dir.path());
    let file = |name: &str| format!("{}/docker/{name}", env!("CARGO_MANIFEST_DIR"));
    let settings = file("processor.production.toml");
    let shown = p.good(&["config", "show", "--config", &settings]);
    let written = std::fs::read_to_string(&settings).expect("the file");
    let written: Vec<&str> = written
        .lines()
        .filter(|l| l.contains(" = ") && !l.starts_with('#'))
        .collect();
    assert_eq!(
        shown.matches("processor.production.toml").count(),
        written.len(),
        "{shown}"
    );
    let loaded = p.run(&["instruments", "load", &file("listings.production.csv")]);
    assert!(
        loaded.is_good().contains("3 listings loaded") && loaded.is_good().contains("0 bad rows"),
        "{loaded:?}"
    );
}
