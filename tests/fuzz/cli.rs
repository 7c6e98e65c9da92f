//! Inputs written by people: the configuration in all its layers, listings, and any record for
//! `tail`.

use std::path::Path;

use processor::cli::args::Common;
use processor::cli::config::Config;
use processor::cli::{decode, listings};

use super::{Target, answer};

pub fn all() -> Vec<Target> {
    vec![
        Target {
            name: "config",
            weight: 2,
            samples: configs,
            words: NAMES,
            run: read_config,
        },
        Target {
            name: "listings",
            weight: 3,
            samples: rows,
            words: NAMES,
            run: read_listing,
        },
        Target {
            name: "tail",
            weight: 4,
            samples: records,
            words: super::WORDS,
            run: read_any,
        },
    ]
}

const NAMES: &[&[u8]] = &[
    b"brokers",
    b"embedded",
    b"rate_limit",
    b"burst",
    b"opening_cash",
    b"max_command_age",
    b"dedup_window",
    b"role",
    b"instance",
    b"log",
    b"log_format",
    b"format",
    b"topic_prefix",
    b"[kafka]",
    b"\"ssl.ca.location\"",
    b"transactional.id",
    b"=",
    b"\n",
    b"\0",
    b"all",
    b"json",
    b"1d",
    b"30s",
    b"-1",
    b"1e9",
    b"9223372036854775808",
    b"localhost:9092",
    b":",
    b",",
    b"info,rdkafka=off",
    b"\"\"\"",
    b"[[",
    b"]]",
    b"{",
    b"}",
    b"1979-05-27T07:32:00Z",
    b"symbol",
    b"lot",
    b"tick",
    b"status",
    b"true",
    b"inf",
    b"nan",
    b"0x",
    b"#",
    b"'''",
    b"\\u",
];

/// The file, the environment, properties and flags, one after another with a zero byte between.
fn configs() -> Vec<Vec<u8>> {
    vec![
        b"brokers = \"kafka1:9093,kafka2:9093\"\nrate_limit = 200\nburst = 5\n[kafka]\n\"security.protocol\" = \"ssl\"\n\0PROCESSOR_ROLE=orders,trading\nPROCESSOR_LOG=info,x=debug\0ssl.ca.location=/etc/ca.pem\0opening_cash=100.50\nmax_command_age=30s".to_vec(),
        b"role = [\"orders\", \"audit\"]\nopening-cash = \"0\"\n\0KAFKA_BROKERS=a:1\0\0stale_ms=1000\ninstance=3\nformat=json\nlog_format=json".to_vec(),
        b"\0\0\0embedded=state/x\nshutdown_grace_ms=5\ncommit_interval_ms=1\nbatch_records_max=7".to_vec(),
    ]
}

fn read_config(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let pairs = |part: Option<&str>| -> Vec<(String, String)> {
        part.unwrap_or_default()
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect()
    };

    let environment = pairs(parts.next());
    let property = parts
        .next()
        .unwrap_or_default()
        .lines()
        .map(str::to_string)
        .collect();
    let mut flags = Common {
        property,
        ..Default::default()
    };

    for (name, value) in pairs(parts.next()) {
        let slot = match name.as_str() {
            "embedded" => &mut flags.embedded,
            "brokers" => &mut flags.brokers,
            "opening_cash" => &mut flags.opening_cash,
            "max_command_age" => &mut flags.max_command_age,
            "dedup_window" => &mut flags.dedup_window,
            "stale_ms" => &mut flags.stale_ms,
            "instance" => &mut flags.instance,
            "format" => &mut flags.format,
            "log_format" => &mut flags.log_format,
            "log" => &mut flags.log,
            "role" => &mut flags.role,
            "topic_prefix" => &mut flags.topic_prefix,
            "standby" => &mut flags.standby,
            "shutdown_grace_ms" => &mut flags.shutdown_grace_ms,
            "commit_interval_ms" => &mut flags.commit_interval_ms,
            "batch_records_max" => &mut flags.batch_records_max,
            _ => &mut flags.rate_limit,
        };

        *slot = Some(value);
    }

    let env = |name: &str| {
        environment
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
    };

    match Config::with_file(&flags, &env, Path::new("processor.toml"), file) {
        Ok(config) => answer(&[
            b"ok",
            &[
                config.roles.len() as u8,
                config.properties.len().min(3) as u8,
            ],
        ]),
        // The kind of error, without the wrong value.
        Err(e) => {
            let said = e.message.split('`').next().unwrap_or_default();
            let said = if said.starts_with("-X") { "-X" } else { said };
            answer(&[
                &[e.code as u8],
                said.chars()
                    .take(28)
                    .filter(|c| c.is_ascii_lowercase())
                    .collect::<String>()
                    .as_bytes(),
            ])
        }
    }
}

fn rows() -> Vec<Vec<u8>> {
    vec![
        br#"{"symbol":"AAPL","name":"Apple","status":"listed","tick":"0.01","lot":1,"house":true}"#
            .to_vec(),
        b"ACT Symbol,Security Name,Test Issue\nAAPL,Apple Inc.,N\nFile Creation Time: 1,,\n"
            .to_vec(),
        b"symbol,lot,tick,status\nMSFT,10,0.05,halted\n".to_vec(),
    ]
}

fn read_listing(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    let line = listings::json_line(text.lines().next().unwrap_or_default());
    let mut lines = text.lines().map(|l| l.split(',').collect::<Vec<_>>());
    let rows: Vec<bool> = match lines
        .next()
        .map(|header| listings::ListingColumns::find(header.into_iter()))
    {
        Some(Ok(columns)) => lines
            .take(4)
            .map(|cells| columns.row(|i| cells.get(i).copied()).is_ok())
            .collect(),
        _ => Vec::new(),
    };

    answer(&[&[
        u8::from(line.is_ok()),
        rows.len() as u8,
        rows.iter().filter(|ok| **ok).count() as u8,
    ]])
}

fn records() -> Vec<Vec<u8>> {
    super::commands()
        .into_iter()
        .chain(super::events())
        .collect()
}

fn read_any(bytes: &[u8]) -> u64 {
    let value = decode::value(bytes);
    let fields = value.as_object().map_or(0, |o| o.len().min(9));
    answer(&[&[
        u8::from(value.get("bytes").is_some()),
        fields as u8,
        u8::from(decode::text(bytes).starts_with("0x")),
    ]])
}
