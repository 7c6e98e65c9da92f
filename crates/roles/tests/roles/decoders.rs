//! No decoder panics on any bytes, and JSON and MessagePack give the same result.

use proptest::prelude::*;
use wire::audit::AuditEntry;
use wire::book::{BookCommand, Execution};
use wire::event::OrderEvent;
use wire::input::read_map;
use wire::notification::Notification;
use wire::portfolio::PortfolioRecord;
use wire::trade::{ReferencePrice, Trade, TradeBusted};
use wire::{command, control, instrument, tick};

fn throw(bytes: &[u8]) {
    let _ = command::decode(bytes);
    let _ = tick::decode(bytes);
    let _ = instrument::decode(Some(b"AAPL"), Some(bytes));
    let _ = instrument::decode(Some(bytes), Some(bytes));
    let _ = (
        control::decode(Some(b"*"), Some(bytes)),
        control::decode(Some(bytes), None),
    );
    let _ = (
        OrderEvent::decode(bytes),
        Trade::decode(bytes),
        TradeBusted::decode(bytes),
        ReferencePrice::decode(bytes),
        Notification::decode(bytes),
    );

    let _ = (
        PortfolioRecord::decode(bytes),
        AuditEntry::decode(bytes),
        BookCommand::decode(bytes),
        Execution::decode(bytes),
    );
}

const ORDER: &str = r#"{"order_id":"1001","user_id":"501","symbol":"AAPL","quantity":10,"order_type":"buy","timestamp":1625159076}"#;

fn tree() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "\\PC{0,8}".prop_map(Into::into),
    ];

    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..6)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        throw(&bytes);
        throw(&[b"{", &bytes[..]].concat());
        throw(&[b"\x8f", &bytes[..]].concat());
    }

    #[test]
    fn nearly_an_order(at in 0..ORDER.len(), byte: u8, cut in 0..ORDER.len()) {
        let mut bytes = ORDER.as_bytes().to_vec();
        bytes[at] = byte;
        throw(&bytes);
        throw(&bytes[..cut]);
        let value: serde_json::Value = serde_json::from_str(ORDER).expect("JSON");
        let mut packed = rmp_serde::to_vec_named(&value).expect("MessagePack");
        let at = at % packed.len();
        packed[at] = byte;
        throw(&packed);
        throw(&packed[..cut.min(packed.len())]);
    }

    #[test]
    fn every_map_is_readable_in_both_forms(fields in prop::collection::btree_map("\\PC{0,8}", tree(), 0..40)) {
        let value = serde_json::Value::Object(fields.into_iter().collect());
        let json = serde_json::to_vec(&value).expect("JSON");
        let packed = rmp_serde::to_vec_named(&value).expect("MessagePack");
        let names = |bytes: &[u8]| {
            let mut names = Vec::new();
            let read = read_map(bytes, |name, _| names.push(name.to_string()));
            (read, names)
        };

        prop_assert_eq!(names(&json), names(&packed));
        prop_assert_eq!(names(&json).0, Ok(None));
        throw(&json);
        throw(&packed);
    }
}

#[test]
fn escapes_and_repeated_keys() {
    let read = |json: &str| {
        let mut seen = Vec::new();
        let fault = read_map(json.as_bytes(), |name, v| {
            seen.push((name.to_string(), v.text().map(|t| t.to_string())))
        });

        (fault, seen)
    };

    let (fault, seen) = read(r#"{"\u0061":"\ud83d\ude00\n\"\\\/","b":"é"}"#);
    assert_eq!(fault, Ok(None));
    assert_eq!(seen[0], ("a".to_string(), Some("😀\n\"\\/".to_string())));
    for bad in [
        r#"{"a":"\ud83d"}"#,
        r#"{"a":"\ud83dx"}"#,
        r#"{"a":"\ude00"}"#,
        r#"{"a":"\x"}"#,
        "{\"a\":\"\n\"}",
        r#"{"a":"\u00g0"}"#,
    ] {
        assert!(read(bad).0.is_err(), "{bad}");
    }

    assert!(matches!(read(r#"{"a":"1","\u0061":"2"}"#).0, Ok(Some(_))));
    let many: String = (0..30).map(|i| format!("\"k{i}\":\"\",")).collect();
    assert!(
        matches!(read(&format!("{{{many}\"k29\":\"\"}}")).0, Ok(Some(_))),
        "also among many keys"
    );
    assert!(matches!(
        read(&format!("{{{many}\"k30\":\"\"}}")).0,
        Ok(None)
    ));
    assert!(matches!(read("{}\n \t\r").0, Ok(None)));
}
