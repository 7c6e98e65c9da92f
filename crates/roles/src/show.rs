//! State for people: keys as `kind/id/id`, values as JSON, for every role. Read only. The modules
//! that write the bytes define their meaning.
//!
//! | role | keys |
//! |---|---|
//! | `orders` | `account/USER`, `position/USER/SYMBOL`, `order/USER/ORDER`, `house/SYMBOL`, `totals`, `open/USER/SYMBOL/ORDER`, `ending/USER/SYMBOL/ORDER`, `mass-cancel/USER/ORDER`, `busted/USER/ORDER/TRADE`, `fills/USER/ORDER/NUMBER`, `ended/NUMBER`, `mark/NUMBER`, `window` |
//! | `trading` | `price/SYMBOL`, `source/SYMBOL/NAME`, `source-hash/SYMBOL/HASH`, `trades`, `book/SYMBOL`, `resting/SYMBOL/USER/ORDER`, `crossing/SYMBOL`, `waiting/SYMBOL/NUMBER`, `goes-on` |
//! | `portfolio` | `portfolio/USER`, `sell/USER/ORDER`, `position/USER/SYMBOL` |
//! | `audit` | `TOPIC/PARTITION` |
//! | `notifications` | no state |

use data_encoding::HEXLOWER;
use ports::partitioner;
use serde_json::Value;

use super::{Role, audit, orders, portfolio, trading};

/// Kind names, and the first byte of their state keys. Kinds are tried in this order.
const KINDS: &[(Role, &str, u8)] = &[
    (Role::Orders, "account", b'a'),
    (Role::Orders, "position", b'p'),
    (Role::Orders, "short", b's'),
    (Role::Orders, "order", b'o'),
    (Role::Orders, "house", b'h'),
    (Role::Orders, "totals", b't'),
    (Role::Orders, "open", b'n'),
    (Role::Orders, "ending", b'x'),
    (Role::Orders, "mass-cancel", b'c'),
    (Role::Orders, "busted", b'b'),
    (Role::Orders, "fills", b'f'),
    (Role::Orders, "ended", b'e'),
    (Role::Orders, "mark", b'm'),
    (Role::Orders, "window", b'w'),
    (Role::Trading, "price", b's'),
    (Role::Trading, "source", b'q'),
    (Role::Trading, "source-hash", HASHED),
    (Role::Trading, "trades", b't'),
    (Role::Trading, "book", b'b'),
    (Role::Trading, "resting", b'o'),
    (Role::Trading, "crossing", b'u'),
    (Role::Trading, "waiting", b'w'),
    (Role::Trading, "goes-on", b'c'),
    (Role::Trading, "ends-orders", b'k'),
];

/// Key letter whose second part is a 32-byte hash, not text.
const HASHED: u8 = b'Q';

/// Maximum of separators in a key's ids. A source name may contain any byte, an id contains no
/// separator.
fn parts(letter: u8) -> usize {
    if [b'q', HASHED].contains(&letter) {
        1
    } else {
        2
    }
}

/// Key and value as text and JSON; `None` if this version cannot read them.
pub fn show(role: Role, key: &[u8], value: &[u8]) -> Option<(String, Value)> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_string);
    match role {
        Role::Orders | Role::Trading => {
            let (&letter, ids) = key.split_first()?;
            let (_, word, _) = KINDS.iter().find(|(r, _, l)| *r == role && *l == letter)?;
            let mut shown = (*word).to_string();
            if letter == HASHED {
                let (symbol, hash) = ids.split_at_checked(ids.iter().position(|b| *b == 0)?)?;
                shown.extend(["/", &text(symbol)?, "/"]);
                shown.push_str(&HEXLOWER.encode(&hash[1..]));
            } else if !ids.is_empty() {
                shown.push('/');

                // A source name may contain any byte, so only the first zero byte separates.
                shown.push_str(&text(ids)?.replacen('\0', "/", parts(letter)));
            }

            let value = if role == Role::Orders {
                orders::show(letter, value)
            } else {
                trading::show(letter, value)
            };

            Some((shown, value?))
        }
        Role::Portfolio => portfolio::show(&text(key)?, value),
        Role::Audit => Some((text(key)?, audit::show(value)?)),
        Role::Notifications => None,
    }
}

/// Common prefix of all state keys whose printed form starts with `text`. The caller must still
/// compare the matches with `text`.
pub fn prefix(role: Role, text: &str) -> Vec<u8> {
    let (word, ids) = text.split_once('/').unwrap_or((text, ""));
    match role {
        Role::Orders | Role::Trading => {
            match KINDS.iter().find(|(r, w, _)| *r == role && *w == word) {
                // Without a slash, the word may be the start of a longer word.
                Some((_, _, letter)) if text.len() > word.len() => {
                    let ids = if *letter == HASHED {
                        ids.split('/').next().unwrap_or_default()
                    } else {
                        ids
                    };

                    [
                        &[*letter],
                        ids.replacen('/', "\0", parts(*letter)).as_bytes(),
                    ]
                    .concat()
                }
                _ => Vec::new(),
            }
        }
        Role::Portfolio if text.len() > word.len() => portfolio::prefix(word, ids),
        Role::Audit => text.into(),
        Role::Portfolio | Role::Notifications => Vec::new(),
    }
}

/// Task of a key, if the key determines the task. House positions and totals exist in every task.
pub fn task_of(role: Role, text: &str, partitions: u32) -> Option<u32> {
    let mut parts = text.split('/');
    let word = parts.next()?;
    let first = parts.next()?;
    match (role, word) {
        (
            Role::Orders,
            "account" | "position" | "order" | "open" | "ending" | "mass-cancel" | "busted"
            | "fills",
        )
        | (Role::Trading, _)
        | (Role::Portfolio, _) => {
            (partitions > 0).then(|| partitioner::partition(first.as_bytes(), partitions))
        }
        (Role::Audit, _) => first.parse().ok(),
        _ => None,
    }
}

/// Kinds that a user may enter.
pub fn kinds(role: Role) -> &'static str {
    match role {
        Role::Orders => {
            "account/USER, position/USER/SYMBOL, order/USER/ORDER, open/USER/SYMBOL/ORDER, ending/USER/SYMBOL/ORDER, mass-cancel/USER/ORDER, busted/USER/ORDER/TRADE, fills/USER/ORDER/NUMBER, house/SYMBOL, totals, ended/NUMBER, mark/NUMBER, window"
        }
        Role::Trading => {
            "price/SYMBOL, source/SYMBOL/NAME, trades, book/SYMBOL, resting/SYMBOL/USER/ORDER, crossing/SYMBOL, waiting/SYMBOL/NUMBER, goes-on"
        }
        Role::Portfolio => "portfolio/USER, sell/USER/ORDER, position/USER/SYMBOL",
        Role::Audit => "TOPIC/PARTITION, such as order-commands/0",
        Role::Notifications => "none: this role keeps nothing",
    }
}

/// A JSON number if JSON holds the value exactly, else a string of digits.
pub(super) fn number(n: i128) -> Value {
    i64::try_from(n).map_or_else(|_| Value::String(n.to_string()), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_there_and_back() {
        let hash = [b"QAAPL\0", &[0xab; 32][..]].concat();
        let cases: &[(Role, &[u8], &[u8], &str)] = &[
            (
                Role::Orders,
                b"a501",
                &[1, 2, 4, 6, 8, 9, 1, 12],
                "account/501",
            ),
            (
                Role::Orders,
                b"p501\0BRK.B",
                &[1, 20, 2],
                "position/501/BRK.B",
            ),
            (Role::Orders, b"t", &[1, 20, 0, 19], "totals"),
            (Role::Orders, b"b501\x001\x000-7", &[1], "busted/501/1/0-7"),
            (
                Role::Orders,
                b"f501\x001\x000",
                &[1, 1, b'7', 2, 2, 0, 0, 0, 0],
                "fills/501/1/0",
            ),
            (Role::Orders, b"n501\0AAPL\x001", &[2, 7], "open/501/AAPL/1"),
            (Role::Orders, b"x501\0AAPL\x001", &[1], "ending/501/AAPL/1"),
            (Role::Trading, b"qAAPL\0ny/se", &[1, 0], "source/AAPL/ny/se"),
            (Role::Trading, b"qAAPL\0", &[1, 0], "source/AAPL/"),
            (
                Role::Trading,
                &hash,
                &[1, 0],
                &format!("source-hash/AAPL/{}", "ab".repeat(32)),
            ),
            (
                Role::Audit,
                b"order-events/2",
                &[&[1][..], &[7; 32], &[3]].concat(),
                "order-events/2",
            ),
            (
                Role::Portfolio,
                b"501",
                &[1, 0, 0, 0, 0, 0, 0, 0],
                "portfolio/501",
            ),
            (
                Role::Portfolio,
                b"501",
                &[2, 0, 0, 0, 0, 0, 0],
                "portfolio/501",
            ),
            (
                Role::Portfolio,
                b"501\x01BRK.B",
                &[1, 2, 0, 4],
                "position/501/BRK.B",
            ),
            (
                Role::Portfolio,
                b"501\x001001",
                &[1, 1, b'A', 4],
                "sell/501/1001",
            ),
        ];

        for (role, key, value, text) in cases {
            let (shown, _) =
                show(*role, key, value).unwrap_or_else(|| panic!("{text} is readable"));
            assert_eq!(shown, *text);
            for cut in 0..=text.len() {
                let begin = prefix(*role, &text[..cut]);
                assert!(
                    key.starts_with(&begin),
                    "{} must lead to {text}, not to {begin:?}",
                    &text[..cut]
                );
            }
        }

        assert_eq!(prefix(Role::Orders, "order/501/"), b"o501\0");
        assert_eq!(show(Role::Orders, b"z501", &[1]), None);
        assert_eq!(
            show(Role::Orders, b"a501", &[2, 2, 4, 6, 8, 9, 1, 12]),
            None,
            "a newer version"
        );
        assert_eq!(task_of(Role::Orders, "totals", 6), None);
        assert_eq!(task_of(Role::Audit, "trades/4", 6), Some(4));
        assert_eq!(
            task_of(Role::Orders, "order/501/1", 6),
            Some(partitioner::partition(b"501", 6))
        );
    }

    #[test]
    fn large_numbers_stay_exact() {
        assert_eq!(number(-5), Value::from(-5));
        assert_eq!(number(i128::MAX), Value::from(i128::MAX.to_string()));
    }
}
