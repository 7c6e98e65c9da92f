//! The request that ends transaction N is held on the wire. The client times out, tries again on
//! another connection, and is told Ok. The held request arrives in the middle of N+1. The effect
//! was measured on Apache Kafka 4.4 with a client of the old protocol, and the model must do the
//! same.

use super::client::pause;
use super::model::{self, Model};
use super::scripts::Side;
use super::timing::*;
use super::world::with;

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    Abort,
    Dies,
}

/// The end of N; true if the second half of N+1 goes to a new partition; the end of N+1. Then the
/// measured results: the answer to the second half, the answer to the end, partition 0, partition
/// 1.
const MEASURED: [(End, bool, End, [&str; 4]); 7] = [
    (
        End::Commit,
        false,
        End::Commit,
        ["invalid state", "ok", "[a,first]", "[]"],
    ),
    (
        End::Commit,
        true,
        End::Commit,
        ["ok", "ok", "[a,first]", "[second]"],
    ),
    (
        End::Commit,
        false,
        End::Abort,
        ["invalid state", "invalid state", "[a,first]", "[]"],
    ),
    (
        End::Commit,
        true,
        End::Abort,
        ["ok", "ok", "[a,first]", "[]"],
    ),
    (
        End::Commit,
        true,
        End::Dies,
        ["ok", "dead", "[a,first]", "[]"],
    ),
    (
        End::Abort,
        false,
        End::Commit,
        ["invalid state", "invalid state", "[]", "[]"],
    ),
    (
        End::Abort,
        true,
        End::Commit,
        ["ok", "ok", "[]", "[second]"],
    ),
];

fn end(m: &mut Model, p: usize, how: End) -> String {
    match how {
        End::Commit => m.commit(p),
        End::Abort => m.abort(p),
        End::Dies => {
            m.open("p");
            "dead".into()
        }
    }
}

fn delayed(n: End, new_partition: bool, next: End, new_producer: bool) -> Vec<String> {
    model::run(move |m| {
        let mut p = m.open("p");
        m.begin(p);
        m.send(p, 0, "a");

        // Longer than the client waits for an answer.
        with(|w| w.hold_end = Some(REQUEST_TIMEOUT + 400 * MS));
        assert_eq!(end(m, p, n), "ok", "the second try is answered");
        m.settle(0);
        if new_producer {
            p = m.open("p");
        }

        m.begin(p);
        assert_eq!(m.send(p, 0, "first"), "ok");
        pause(600 * MS);
        let mut seen = vec![
            m.send(p, u32::from(new_partition), "second"),
            end(m, p, next),
        ];
        m.settle(0);
        m.settle(1);
        seen.extend([m.visible(0), m.visible(1)]);
        seen
    })
}

#[test]
fn a_delayed_end_does_to_the_next_transaction_what_was_seen() {
    for (i, (n, new_partition, next, expected)) in MEASURED.into_iter().enumerate() {
        assert_eq!(
            delayed(n, new_partition, next, false),
            expected,
            "script {}",
            i + 1
        );
    }
}

/// The same with a new producer in between, as our client does after a timeout: whole, all seven
/// times.
#[test]
fn with_a_new_producer_the_next_transaction_is_whole() {
    for (i, (n, new_partition, next, _)) in MEASURED.into_iter().enumerate() {
        let a = if n == End::Commit { "a," } else { "" };
        let none = format!("[{}]", a.trim_end_matches(','));
        let expected = match (next, new_partition) {
            (End::Commit, false) => [
                "ok".to_string(),
                "ok".into(),
                format!("[{a}first,second]"),
                "[]".into(),
            ],
            (End::Commit, true) => [
                "ok".to_string(),
                "ok".into(),
                format!("[{a}first]"),
                "[second]".into(),
            ],
            (End::Abort, _) => ["ok".to_string(), "ok".into(), none, "[]".into()],
            (End::Dies, _) => ["ok".to_string(), "dead".into(), none, "[]".into()],
        };

        assert_eq!(
            delayed(n, new_partition, next, true),
            expected,
            "script {}",
            i + 1
        );
    }
}
