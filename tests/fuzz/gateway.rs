//! What people send to the gateway: bodies of orders, and paths.

use ::gateway::doors::{command_record, path_segments};
use wire::command::{self, Kind};

use super::{Target, WORDS, answer};

pub fn all() -> Vec<Target> {
    vec![
        Target {
            name: "http-orders",
            weight: 8,
            samples: bodies,
            words: WORDS,
            run: read_body,
        },
        Target {
            name: "http-paths",
            weight: 2,
            samples: paths,
            words: &[b"/", b"%", b"%2F", b"..", b"orders", b"v1", b"users"],
            run: read_path,
        },
    ]
}

fn bodies() -> Vec<Vec<u8>> {
    [
        r#"{"symbol":"AAPL","quantity":10,"order_type":"buy"}"#,
        r#" {"order_id":"key","symbol":"AAPL","quantity":1e1,"order_type":"sell","type":"limit","limit_price":189.2500,"tif":"GTC"} "#,
        r#"{"quantity":5,"limit_price":"189.25"}"#,
        r#"{"symbol":"AAPL","quantity":1,"order_type":"buy","user\u005fid":"502","operator":null}"#,
        "{}",
    ]
    .map(|body| body.as_bytes().to_vec())
    .to_vec()
}

/// A body never speaks for another user, another order or an operator, and never is another kind of
/// command than the path and the method say.
fn read_body(body: &[u8]) -> u64 {
    let mut answers = Vec::new();
    for (replaced, kind) in [(None, Kind::New), (Some("o-1"), Kind::Replace)] {
        match command_record("5\"1", body, replaced) {
            Err(text) => answers.push(answer(&[b"bad", text.as_bytes()])),
            Ok(value) => {
                let c = command::decode(&value).expect("a draft is a command");
                assert_eq!((c.kind, &*c.user_id, &*c.order_id), (kind, "5\"1", "key"));
                assert_eq!(c.orig_order_id.as_deref(), replaced);
                assert_eq!((&c.operator, &c.unlike), (&None, &None));
                assert!(kind != Kind::New || c.served().is_some());
                let stays = c.served().is_some_and(|order| order.stays());
                answers.push(answer(&[b"ok", &[kind as u8, u8::from(stays)]]));
            }
        }
    }

    answer(&[&answers[0].to_be_bytes(), &answers[1].to_be_bytes()])
}

fn paths() -> Vec<Vec<u8>> {
    [
        "/v1/users/501/orders",
        "/v1/users/a%3Fb/orders/a%20b",
        "/v1/users/501/webhooks/%2e%2e",
        "//metrics",
    ]
    .map(|path| path.as_bytes().to_vec())
    .to_vec()
}

/// Only ids have escapes: whatever else a path has is written as it is.
fn read_path(bytes: &[u8]) -> u64 {
    let Ok(path) = std::str::from_utf8(bytes) else {
        return 0;
    };

    let Some(segments) = path_segments(path) else {
        return answer(&[b"bad"]);
    };

    let raw: Vec<&str> = path.split('/').skip(1).collect();
    assert_eq!(segments.len(), raw.len());
    let changed: Vec<usize> = (0..raw.len()).filter(|i| segments[*i] != raw[*i]).collect();
    assert!(changed.iter().all(|i| matches!(i, 2 | 4)), "{path}");
    answer(&[
        b"ok",
        &[u8::try_from(segments.len()).unwrap_or(u8::MAX)],
        &[u8::try_from(changed.len()).unwrap_or(u8::MAX)],
    ])
}
