//! The fuzz targets with their valid samples. A target returns a number that distinguishes its
//! results: the fault, or the shape of the value.

use std::sync::{Arc, OnceLock};

use domain::book::Life;
use domain::price::Priced;
use domain::reason::Reason;
use domain::status::{Liquidity, Side, Status};
use engine::broadcast::{TableView, Tables, UsedBroadcastRow};
use engine::checkpoint::{Checkpoint, JournalEntry, StoreMeta};
use engine::context::{Cause, Ctx, Outbox};
use engine::digest::Digest;
use engine::journal::{Assembler, JournalPart};
use engine::overlay::Overlay;
use engine::sequence_check::{self, OutSequences};
use log_local::batch::{Builder, PackedBatch};
use log_local::format;
use ports::records::{HeaderBuf, Headers, Record, Records};
use ports::topics::{Partitions, TopicId, TopicPartition};
use ports::varint;
use roles::{Role, RoleSettings, factory, show};
use store::memory::MemoryStore;
use wire::audit::AuditEntry;
use wire::book::{BookAction, BookCommand, Execution, NewOrder, OrderOutcome};
use wire::command_fingerprint::{self, CommandFingerprint};
use wire::event::{Event, OrderEvent};
use wire::notification::{self, Notification};
use wire::portfolio::PortfolioRecord;
use wire::trade::{ReferencePrice, Trade};
use wire::{command, control, instrument, tick, topics};

pub struct Target {
    pub name: &'static str,
    /// Share of a campaign.
    pub weight: u64,
    pub samples: fn() -> Vec<Vec<u8>>,
    /// Byte strings with a meaning for the target.
    pub words: &'static [&'static [u8]],
    pub run: fn(&[u8]) -> u64,
}

pub fn all() -> Vec<Target> {
    let all = vec![
        Target {
            name: "commands",
            weight: 24,
            samples: commands,
            words: WORDS,
            run: read_command,
        },
        Target {
            name: "ticks",
            weight: 8,
            samples: ticks,
            words: WORDS,
            run: read_tick,
        },
        Target {
            name: "instruments",
            weight: 6,
            samples: instruments,
            words: WORDS,
            run: read_instrument,
        },
        Target {
            name: "controls",
            weight: 3,
            samples: controls,
            words: WORDS,
            run: read_control,
        },
        Target {
            name: "events",
            weight: 8,
            samples: events,
            words: WORDS,
            run: read_ours,
        },
        Target {
            name: "meta",
            weight: 8,
            samples: metas,
            words: &[],
            run: read_meta,
        },
        Target {
            name: "guard",
            weight: 4,
            samples: || vec![b"7/12".to_vec()],
            words: &[b"/", b"4294967296"],
            run: read_guard,
        },
        Target {
            name: "batch",
            weight: 12,
            samples: batches,
            words: &[],
            run: read_batch,
        },
        Target {
            name: "log-values",
            weight: 4,
            samples: log_values,
            words: &[b"\"v\":", b"number", b"65536"],
            run: read_log_value,
        },
        Target {
            name: "state",
            weight: 10,
            samples: states,
            words: &[],
            run: read_state,
        },
        Target {
            name: "varint",
            weight: 8,
            samples: || vec![vec![0xac, 2], vec![0xff; 19]],
            words: &[],
            run: read_varint,
        },
        Target {
            name: "decimal",
            weight: 6,
            samples: decimals,
            words: &[b"e", b"-", b".", b"+", b"_"],
            run: read_decimal,
        },
        Target {
            name: "roles",
            weight: 3,
            samples: role_inputs,
            words: WORDS,
            run: run_roles,
        },
    ];

    let all = all.into_iter().chain(gateway::all());

    #[cfg(feature = "rocks")]
    let all = all.chain(cli::all());
    all.collect()
}

#[path = "gateway.rs"]
mod gateway;

#[cfg(feature = "rocks")]
#[path = "cli.rs"]
mod cli;

const WORDS: &[&[u8]] = &[
    b"order_id",
    b"user_id",
    b"symbol",
    b"quantity",
    b"order_type",
    b"timestamp",
    b"command",
    b"cancel",
    b"replace",
    b"deposit",
    b"withdraw",
    b"mass_cancel",
    b"bust",
    b"operator",
    b"trade_id",
    b"price",
    b"fee",
    b"amount",
    b"limit_price",
    b"stop_price",
    b"expire_at",
    b"post_only",
    b"orig_order_id",
    b"tif",
    b"type",
    b"price",
    b"seq",
    b"source",
    b"size",
    b"status",
    b"listed",
    b"state",
    b"stopped",
    b"disabled",
    b"text",
    b"halted",
    b"tick",
    b"lot",
    b"name",
    b"user_seq",
    b"time_us",
    b"event",
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
    b"1e308",
    b"1e-400",
    b"4611686018427387904",
    b"9223372036854775808",
    b"\\u0000",
    b"\\ud83d\\ude00",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xde\x00\x01",
    b"\xd9\x01",
    b"\xc0",
    b"\xc1",
    b"\xc7\x01\x02\x03",
    b"\x91",
];

/// A number that distinguishes answers.
pub fn answer(parts: &[&[u8]]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for b in part.iter().chain(&[0xff]) {
            h = (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
        }
    }

    h
}

fn both(json: &str) -> [Vec<u8>; 2] {
    let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
    [
        json.into(),
        rmp_serde::to_vec_named(&value).expect("MessagePack"),
    ]
}

fn commands() -> Vec<Vec<u8>> {
    [
        r#"{"order_id":"1001","user_id":"501","symbol":"AAPL","quantity":10,"order_type":"buy","timestamp":1625159076}"#,
        r#"{"order_id":"1","user_id":"u","symbol":"BRK.B","quantity":"1.5","order_type":"sell","type":"limit","limit_price":"189.2500","tif":"GTD","expire_at":1900000000,"post_only":true}"#,
        r#"{"order_id":"d","user_id":"u","command":"deposit","amount":250.25}"#,
        r#"{"order_id":"c","user_id":"u","command":"cancel","orig_order_id":"1"}"#,
        r#"{"order_id":"c","user_id":"u","command":"mass_cancel","more":{"a":[1,null,true,{"b":-1.5e3}]}}"#,
    ]
    .into_iter()
    .flat_map(both)
    .collect()
}

fn read_command(bytes: &[u8]) -> u64 {
    match command::decode(bytes) {
        Err(m) => answer(&[
            b"bad",
            m.text.as_bytes(),
            &[
                u8::from(m.user_id.is_some()),
                u8::from(m.order_id.is_some()),
            ],
        ]),
        Ok(c) => {
            let mut packed = Vec::new();
            command_fingerprint::put(&c, &mut packed);
            let content = CommandFingerprint(&packed);
            assert_eq!(content.kind(), Some(c.kind));
            assert_eq!(content.conflict(content), None);
            assert_eq!(
                content.symbol(),
                c.symbol.as_deref().filter(|s| !s.is_empty()),
                "{c:?}"
            );
            let odd = |n: &Option<domain::decimal::Num>| match n {
                None => 0,
                Some(domain::decimal::Num::Exact(_)) => 1,
                Some(domain::decimal::Num::Odd(..)) => 2,
            };

            answer(&[
                b"ok",
                &[
                    c.kind as u8,
                    odd(&c.quantity),
                    odd(&c.limit_price),
                    odd(&c.amount),
                    u8::from(c.served().is_some()),
                ],
            ])
        }
    }
}

fn ticks() -> Vec<Vec<u8>> {
    [
        r#"{"symbol":"AAPL","price":189.25}"#,
        r#"{"symbol":"AAPL","price":"189.2500","seq":18446744073709551615,"source":"nyse","size":100,"timestamp":1800000001000}"#,
    ]
    .into_iter()
    .flat_map(both)
    .collect()
}

fn read_tick(bytes: &[u8]) -> u64 {
    match tick::decode(bytes) {
        Err(fault) => answer(&[fault.as_bytes()]),
        Ok(t) => answer(&[
            b"ok",
            &[
                u8::from(t.price.positive().is_some()),
                u8::from(t.seq.is_some()),
                u8::from(t.timestamp_ns.is_some()),
            ],
        ]),
    }
}

fn instruments() -> Vec<Vec<u8>> {
    let full = r#"{"symbol":"AAPL","name":"Apple","status":"listed","tick":0.01,"lot":1,"max_quantity":1000000,"max_notional":"1e9","collar_bps":500,"band_bps":1000,"short_ok":false,"half_spread_bps":0,"house":true,"currency":"USD","test_issue":false}"#;
    [full, r#"{"symbol":"AAPL","status":"cancel_only"}"#]
        .into_iter()
        .flat_map(both)
        .collect()
}

fn read_instrument(bytes: &[u8]) -> u64 {
    let odd_key = instrument::decode(Some(bytes), Some(bytes)).is_ok();
    match instrument::decode(Some(b"AAPL"), Some(bytes)) {
        Err(fault) => answer(&[fault.as_bytes(), &[u8::from(odd_key)]]),
        Ok(None) => answer(&[b"none"]),
        Ok(Some(i)) => answer(&[
            b"ok",
            &[
                u8::from(i.is_open()),
                u8::from(i.house),
                u8::from(i.is_listed()),
            ],
        ]),
    }
}

fn controls() -> Vec<Vec<u8>> {
    [
        r#"{"state":"stopped","text":"why"}"#,
        r#"{"state":"disabled"}"#,
    ]
    .into_iter()
    .flat_map(both)
    .collect()
}

fn read_control(bytes: &[u8]) -> u64 {
    let odd_key = control::decode(Some(bytes), None).is_ok();
    match control::decode(Some(b"*"), Some(bytes)) {
        Err(fault) => answer(&[fault.as_bytes(), &[u8::from(odd_key)]]),
        Ok(None) => answer(&[b"none"]),
        Ok(Some(row)) => {
            let again = packed(|o| row.encode(o));
            assert_eq!(
                control::decode(Some(b"*"), Some(&again)),
                Ok(Some(row.clone()))
            );
            answer(&[
                b"ok",
                row.state.name().as_bytes(),
                &[u8::from(row.text.is_some())],
            ])
        }
    }
}

fn packed(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn event() -> OrderEvent<'static> {
    OrderEvent {
        user_seq: 4,
        time_us: 1,
        order_id: Some("1001"),
        symbol: Some("AAPL"),
        side: Some(Side::Buy),
        quantity: Some(10),
        status: Some(Status::Filled),
        reason: Some(Reason::RateLimited),
        trade_id: Some("3-7"),
        last_price_e4: Some(1_892_500),
        ..OrderEvent::new(Event::OrderFilled, "501")
    }
}

fn events() -> Vec<Vec<u8>> {
    let raw = packed(|o| event().encode(o));
    let trade = Trade {
        trade_id: "3-7",
        symbol: "AAPL",
        price_e4: 5,
        quantity: 10,
        buyer: "501",
        seller: "house:AAPL",
        buy_order_id: Some("1001"),
        sell_order_id: None,
        maker_side: Side::Sell,
        time_us: 7,
    };

    let new = NewOrder {
        side: Side::Sell,
        quantity: 10,
        market: false,
        limit_e4: 9,
        ceiling_e4: 18,
        stop_e4: Some(10),
        life: Life::Rest,
        deadline_ms: 5,
        post_only: true,
        reference: Some(Priced {
            price_e4: 4,
            time_ms: 5,
        }),
    };

    let book = |ask| {
        packed(|o| {
            BookCommand {
                user_id: "501",
                order_id: "1001",
                symbol: "AAPL",
                ask,
            }
            .encode(o)
        })
    };

    let mut portfolio = PortfolioRecord {
        user_id: "501".into(),
        user_seq: 3,
        cash_available_e4: -1,
        ..Default::default()
    };

    portfolio
        .positions
        .insert("AAPL".into(), Default::default());
    let audit = AuditEntry {
        src_topic: "trades",
        src_partition: 1,
        src_offset: 2,
        log_time_ms: 3,
        payload_hash: [1; 32],
        meta_hash: Some([4; 32]),
        prev_hash: [2; 32],
        hash: [3; 32],
    };

    let execution = |outcome| {
        packed(|o| {
            Execution {
                user_id: "501",
                order_id: "1001",
                cause_id: Some("1002"),
                outcome,
            }
            .encode(o)
        })
    };

    vec![
        packed(|o| notification::encode(&event(), "Order 1001 is filled.", &raw, o)),
        raw.clone(),
        packed(|o| trade.encode(o)),
        packed(|o| {
            ReferencePrice {
                symbol: "AAPL",
                price_e4: 5,
                time_us: 6,
            }
            .encode(o)
        }),
        packed(|o| portfolio.encode(o)),
        packed(|o| audit.encode(o)),
        book(BookAction::New(new)),
        book(BookAction::Cancel {
            cause_id: "1002",
            reason: Reason::UserRequest,
        }),
        book(BookAction::Replace {
            cause_id: "1002",
            quantity: 10,
            limit_e4: 9,
            ceiling_e4: 18,
        }),
        execution(OrderOutcome::Fill {
            trade_id: "3-7",
            price_e4: 5,
            quantity: 10,
            liquidity: Liquidity::Maker,
        }),
        execution(OrderOutcome::Replaced {
            quantity: 5,
            limit_e4: 6,
        }),
        execution(OrderOutcome::CancelRefused(Reason::TooLateToCancel)),
        execution(OrderOutcome::Done(Reason::PriceBand)),
        execution(OrderOutcome::Rejected(Reason::StalePrice)),
    ]
}

/// Decodes, encodes and decodes again; both values must be the same. The texts of all faults are
/// the answer.
macro_rules! there_and_back {
    ($bytes:expr, $($kind:ty),*) => {{
        let mut said: Vec<&[u8]> = Vec::new();
        $(match <$kind>::decode($bytes) {
            Ok(value) => {
                let again = packed(|o| value.encode(o));
                assert_eq!(<$kind>::decode(&again).as_ref(), Ok(&value), "{}", stringify!($kind));
                said.push(b"ok");
            }
            Err(fault) => said.push(fault.as_bytes()),
        })*
        answer(&said)
    }};
}

fn read_ours(bytes: &[u8]) -> u64 {
    let told = Notification::decode(bytes).is_ok();
    there_and_back!(
        bytes,
        OrderEvent,
        Trade,
        ReferencePrice,
        PortfolioRecord,
        AuditEntry,
        BookCommand,
        Execution
    ) ^ u64::from(told)
}

fn metas() -> Vec<Vec<u8>> {
    let at = |t, p| TopicPartition::new(TopicId(t), p);
    let meta = Checkpoint {
        transaction: 300,
        offsets: vec![(at(0, 2), 17), (at(11, 2), 0)],
        digest: Digest(7 << 90),
        sent: vec![(at(3, 2), 9)],
        seen: vec![(TopicId(11), 4, 12)],
    };

    let store = StoreMeta {
        changelog_offset: 77,
        verified: true,
        meta: meta.clone(),
    };

    let rows = vec![UsedBroadcastRow {
        table: TopicId(2),
        key: (*b"AAPL").into(),
        version: 3,
        value: (*b"x").into(),
    }];
    let offsets = meta.offsets.clone();
    let settings = Some(b"{}".to_vec());
    let entry = JournalEntry {
        transaction: 1,
        offsets,
        digest: meta.digest,
        forget: true,
        rows,
        settings,
    };

    [
        vec![meta.encode(), store.encode(), entry.encode()],
        entry.encode_all(0),
    ]
    .concat()
}

fn read_meta(bytes: &[u8]) -> u64 {
    let mut said = Vec::new();
    macro_rules! read {
        ($($kind:ty),*) => {$(match <$kind>::decode(bytes) {
            Ok(value) => {
                assert_eq!(<$kind>::decode(&value.encode()).expect("what was encoded"), value);
                said.push("ok".to_string());
            }
            // Without the version number, because there are many versions.
            Err(e) => said.push(e.to_string().split("format").next().unwrap_or_default().to_string()),
        })*};
    }

    read!(Checkpoint, StoreMeta, JournalEntry);
    match JournalPart::decode(bytes) {
        Ok(Some(part)) => {
            assert_eq!(
                JournalPart::decode(&part.encode()).expect("what was encoded"),
                Some(part)
            );

            // One part alone completes no entry.
            assert!(!matches!(Assembler::default().take(bytes), Ok(Some(_))));
            said.push("part".to_string());
        }
        other => said.push(other.map_or("bad part", |_| "no part").to_string()),
    }

    answer(&said.iter().map(String::as_bytes).collect::<Vec<_>>())
}

fn read_guard(bytes: &[u8]) -> u64 {
    match sequence_check::parse(bytes) {
        Some((task, sequence)) => {
            assert_eq!(
                sequence_check::parse(format!("{task}/{sequence}").as_bytes()),
                Some((task, sequence))
            );
            1
        }
        None => 0,
    }
}

const AT: TopicPartition = TopicPartition::new(TopicId(1), 2);

/// Eight bytes of base offset, then the batch.
fn batches() -> Vec<Vec<u8>> {
    let mut headers = HeaderBuf::default();
    headers.push("src", b"order-commands/0/1").push("n", b"0");
    let mut builder = Builder::default();
    for (key, value, headers) in [
        (Some(&b"k"[..]), None, Headers::default()),
        (None, Some(&b"value"[..]), headers.headers()),
    ] {
        builder.push(&Record {
            at: AT,
            offset: 0,
            timestamp_ms: 7,
            key,
            value,
            headers,
        });
    }

    let batch = builder.append(100, Some(9), (6, 1_000));
    vec![[&100_u64.to_le_bytes(), batch.as_bytes()].concat()]
}

fn read_batch(bytes: &[u8]) -> u64 {
    let Some((base, bytes)) = bytes.split_first_chunk::<8>() else {
        return 0;
    };

    match PackedBatch::parse(u64::from_le_bytes(*base), bytes.to_vec()) {
        Err(e) => {
            let text: String = e
                .to_string()
                .chars()
                .filter(|c| !c.is_ascii_digit())
                .collect();
            answer(&[text.as_bytes()])
        }
        Ok(batch) => {
            let mut seen = 0_u32;
            let mut last = None;
            for r in batch.iter(AT) {
                assert!(Some(r.offset) > last && r.offset <= batch.last());
                (last, seen) = (Some(r.offset), seen + 1);
                r.headers
                    .iter()
                    .for_each(|(name, value)| assert!(name.len() + value.len() <= bytes.len()));
                let mut at = batch.seek(r.offset);
                assert_eq!(
                    batch.next(AT, true, &mut at).map(|found| found.offset),
                    Some(r.offset)
                );
            }

            assert_eq!(seen, batch.count());
            let _figures = (batch.max_time(), batch.log_bytes(), batch.last() + 1);
            answer(&[b"ok", &seen.min(3).to_le_bytes()])
        }
    }
}

/// The first byte selects the kind.
fn log_values() -> Vec<Vec<u8>> {
    let row = br#"{"v":1,"number":3,"name":"t","partitions":2,"compact":true,"append_time":false,"record_bytes_max":9}"#;
    let progress = log_local::format::put_progress(Default::default());
    vec![
        [&[0], &format::put_offset(300)[..]].concat(),
        [&[1], &progress[..]].concat(),
        [&[2], &row[..]].concat(),
    ]
}

fn read_log_value(bytes: &[u8]) -> u64 {
    let Some((which, value)) = bytes.split_first() else {
        return 0;
    };

    let told = match which % 3 {
        0 => format::offset(value)
            .map(|o| assert_eq!(format::offset(&format::put_offset(o)).ok(), Some(o))),
        1 => format::progress(value)
            .map(|c| assert_eq!(format::progress(&format::put_progress(c)).ok(), Some(c))),
        _ => format::topic(value)
            .map(|row| assert_eq!(format::topic(&format::put_topic(&row)).ok(), Some(row))),
    };

    match told {
        Ok(()) => answer(&[b"ok", &[which % 3]]),
        Err(format::UnreadableValue::Newer { what, .. }) => answer(&[b"newer", what.as_bytes()]),
        Err(format::UnreadableValue::Damaged(what)) => answer(&[b"bad", what.as_bytes()]),
    }
}

/// A byte for the role, one for the length of the key, the key, the value.
fn states() -> Vec<Vec<u8>> {
    let one = |role: u8, key: &[u8], value: &[u8]| [&[role, key.len() as u8], key, value].concat();
    vec![
        one(0, b"a501", &[1, 2, 4, 6, 8, 0xac, 2, 1, 12]),
        one(0, b"p501\0AAPL", &[1, 20, 2]),
        one(0, b"o501\x001001", &[1, 6, 19, 0, 10, 5, 2, 0, 2]),
        one(
            0,
            b"o501\x001",
            &[1, 1, 0, 2, 10, 1, 4, b'A', b'A', b'P', b'L', 1, 1, 2, 0, 20],
        ),
        one(0, b"hAAPL", &[1, 20, 1, 2]),
        one(0, b"t", &[1, 20, 0, 19]),
        one(1, b"sAAPL", &[1, 1, 10, 12, 0, 1, 1, 2, 0xac, 2, 1]),
        one(1, b"qAAPL\0x", &[1, 3, 7, 16]),
        one(1, b"t", &[1, 5]),
        one(
            2,
            b"501",
            &[
                1, 3, 2, 0, 1, 0, 1, 1, b'A', 10, 4, 12, 1, 1, b'1', 1, b'A', 4,
            ],
        ),
        one(2, b"501", &[2, 3, 2, 0, 1, 0, 1, 1, b'A', 10, 4, 12]),
        one(2, b"501\x001001", &[1, 1, b'A', 4]),
        one(4, b"trades/1", &[&[1][..], &[7; 32], &[0xac, 2]].concat()),
    ]
}

fn read_state(bytes: &[u8]) -> u64 {
    let [role, length, rest @ ..] = bytes else {
        return 0;
    };

    let role = Role::all()[usize::from(*role) % 5];
    let (key, value) = rest.split_at(usize::from(*length).min(rest.len()));
    match show::show(role, key, value) {
        Some((shown, value)) => {
            // Ids have no slash; the name of a source may have one.
            assert!(
                key.contains(&b'/') || key.starts_with(&show::prefix(role, &shown)),
                "{shown}"
            );
            let fields: Vec<String> = value
                .as_object()
                .into_iter()
                .flat_map(|o| o.keys().cloned())
                .collect();
            answer(&[b"ok", fields.join(" ").as_bytes()])
        }
        None => answer(&[role.name().as_bytes()]),
    }
}

fn read_varint(bytes: &[u8]) -> u64 {
    let mut rest = bytes;
    let mut seen = 0_u8;
    while let Some(n) = varint::take(&mut rest) {
        let mut out = Vec::new();
        varint::put(&mut out, n);
        varint::put_signed(&mut out, n as i128);
        let mut again = &out[..];
        assert_eq!(
            (varint::take(&mut again), varint::take_signed(&mut again)),
            (Some(n), Some(n as i128))
        );
        seen = seen.saturating_add(1);
    }

    let mut a = bytes;
    let mut b = bytes;
    let mut c = bytes;
    while varint::take_bytes(&mut a).is_some() {}
    while varint::take_u64(&mut b).is_some() {}
    while varint::take_i64(&mut c).is_some() {}
    answer(&[&[seen.min(3), a.len().min(2) as u8, b.len().min(2) as u8]])
}

fn decimals() -> Vec<Vec<u8>> {
    [
        "189.2500",
        "-1",
        "1e3",
        "+0.00001",
        "123456789012345678901234567890",
        ".5",
        "1_000",
        "0x10",
        "1.",
        "NaN",
    ]
    .map(Into::into)
    .into()
}

fn read_decimal(bytes: &[u8]) -> u64 {
    let money = domain::decimal::parse(bytes, 4);
    let whole = domain::decimal::parse(bytes, 0);
    let text = String::from_utf8_lossy(bytes);
    let ours = client::decimal::parse_e4(&text);
    if let Ok(n) = ours {
        assert_eq!(
            client::decimal::parse_e4(&client::decimal::show_e4(n)),
            Ok(n),
            "{text}"
        );
    }

    answer(&[&[
        money.is_some(),
        money.is_some_and(|n| n.shown().is_some()),
        whole.is_some(),
        ours.is_ok(),
    ]
    .map(u8::from)])
}

/// The first byte selects role and topic of a record.
fn role_inputs() -> Vec<Vec<u8>> {
    let to = |which: u8, values: Vec<Vec<u8>>| {
        values.into_iter().map(move |v| [&[which], &v[..]].concat())
    };

    to(0, commands())
        .chain(to(1, ticks()))
        .chain(to(2, instruments()))
        .collect()
}

/// For any input of a client, a role writes an answer or a dead letter, and never stops.
fn run_roles(bytes: &[u8]) -> u64 {
    static TABLES: OnceLock<Arc<Tables>> = OnceLock::new();
    let tables = TABLES.get_or_init(|| {
        let mut tables = Tables::default();
        tables.set(topics::INSTRUMENTS, b"AAPL", 1, br#"{"symbol":"AAPL"}"#);
        let price = packed(|o| {
            ReferencePrice {
                symbol: "AAPL",
                price_e4: 1_892_500,
                time_us: 0,
            }
            .encode(o)
        });

        tables.set(topics::REFERENCE_PRICES, b"AAPL", 1, &price);
        Arc::new(tables)
    });

    let Some((which, value)) = bytes.split_first() else {
        return 0;
    };

    let (role, topic, keys): (_, _, &[&[u8]]) = match which % 3 {
        0 => (Role::Orders, topics::ORDER_COMMANDS, &[b"501", b"u"]),
        1 => (Role::Trading, topics::MARKET_DATA, &[b"AAPL"]),
        _ => (Role::Audit, topics::INSTRUMENTS, &[b"AAPL"]),
    };

    let names = Arc::new(topics::table(""));
    let counts: Arc<[u32]> = names
        .iter()
        .map(|t| u32::from(names.spec(t).partitions == Partitions::One).max(1))
        .collect();
    let logic = factory(role, RoleSettings::default(), names.clone(), 1);
    let mut role_logic = logic.make(0);
    let spec = logic.spec();
    let mut overlay = Overlay::new(1 << 16);
    let store = MemoryStore::default();
    let mut out = Records::new();
    let mut view = TableView::new(tables.clone(), spec.journal.is_some());
    let mut outbox = Outbox::new(names, counts, OutSequences::new(&spec.guarded_outputs));
    let mut ctx = Ctx::new(
        0,
        &mut overlay,
        &store,
        &mut view,
        &mut outbox,
        &mut out,
        spec.dead_letters,
    );

    let at = TopicPartition::new(topic, 0);

    // Twice, so that the second run reads the state of the first.
    for (offset, key) in keys.iter().chain(keys).enumerate() {
        let record = Record {
            at,
            offset: offset as u64,
            timestamp_ms: 1_000,
            key: Some(key),
            value: Some(value),
            headers: Headers::default(),
        };

        ctx.set_cause(Cause {
            at,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
        });

        role_logic
            .process(&mut ctx, &record)
            .expect("no client's bytes stop a role");
    }

    role_logic
        .batch_end(&mut ctx)
        .expect("no client's bytes stop a role");
    let kinds: Vec<String> = out
        .iter()
        .map(|r| {
            r.headers.text("type").unwrap_or_default().to_string()
                + r.headers.text("text").unwrap_or_default()
        })
        .collect();

    answer(&kinds.iter().map(String::as_bytes).collect::<Vec<_>>())
}
