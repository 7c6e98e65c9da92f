//! State for people: keys as `kind/id/id`, values as JSON, for every role. Read only. Each role
//! exports the schema of its keys, and the modules that write the bytes define their meaning.

use data_encoding::HEXLOWER;
use ports::partitioner;
use serde_json::Value;

use super::{Role, audit, orders, portfolio, trading};

/// A kind of key in the state of a role.
#[derive(Clone, Copy, Debug)]
pub struct StateKey {
    /// Printed form: the name of the kind, then the ids, such as `position/USER/SYMBOL`.
    pub form: &'static str,
    /// First byte of the key in the store, if the keys of the role begin with a letter.
    pub letter: Option<u8>,
    /// Meaning of the value.
    pub value: &'static str,
}

impl StateKey {
    pub(crate) const fn lettered(letter: u8, form: &'static str, value: &'static str) -> Self {
        StateKey {
            form,
            letter: Some(letter),
            value,
        }
    }

    pub(crate) const fn plain(form: &'static str, value: &'static str) -> Self {
        StateKey {
            form,
            letter: None,
            value,
        }
    }

    /// Name of the kind.
    fn name(&self) -> &'static str {
        self.form.split('/').next().unwrap_or_default()
    }

    /// Maximum of separators between the ids of a key. The last id may contain a separator: a
    /// source name may contain any byte.
    fn separators(&self) -> usize {
        self.form.matches('/').count().saturating_sub(1)
    }

    /// The second id is a 32-byte hash, not text.
    fn is_hashed(&self) -> bool {
        self.form.ends_with("/HASH")
    }
}

/// All kinds of keys in the state of a role.
pub fn schema(role: Role) -> &'static [StateKey] {
    match role {
        Role::Orders => orders::STATE_SCHEMA,
        Role::Trading => trading::STATE_SCHEMA,
        Role::Portfolio => portfolio::STATE_SCHEMA,
        Role::Notifications => &[],
        Role::Audit => audit::STATE_SCHEMA,
    }
}

fn kind_of_letter(role: Role, letter: u8) -> Option<&'static StateKey> {
    schema(role).iter().find(|k| k.letter == Some(letter))
}

fn kind_of_name(role: Role, name: &str) -> Option<&'static StateKey> {
    schema(role).iter().find(|k| k.name() == name)
}

/// Key and value as text and JSON; `None` if this version cannot read them.
pub fn show(role: Role, key: &[u8], value: &[u8]) -> Option<(String, Value)> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_string);
    match role {
        Role::Orders | Role::Trading => {
            let (&letter, ids) = key.split_first()?;
            let kind = kind_of_letter(role, letter)?;
            let mut shown = kind.name().to_string();
            if kind.is_hashed() {
                let (symbol, hash) = ids.split_at_checked(ids.iter().position(|b| *b == 0)?)?;
                shown.extend(["/", &text(symbol)?, "/"]);
                shown.push_str(&HEXLOWER.encode(&hash[1..]));
            } else if !ids.is_empty() {
                shown.push('/');
                shown.push_str(&text(ids)?.replacen('\0', "/", kind.separators()));
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
        // Without a slash, the word may be the start of a longer word.
        Role::Orders | Role::Trading if text.len() > word.len() => {
            let Some(kind) = kind_of_name(role, word) else {
                return Vec::new();
            };

            let ids = match kind.is_hashed() {
                true => ids.split('/').next().unwrap_or_default().to_string(),
                false => ids.replacen('/', "\0", kind.separators()),
            };

            kind.letter.into_iter().chain(ids.into_bytes()).collect()
        }
        Role::Portfolio if text.len() > word.len() => portfolio::prefix(word, ids),
        Role::Audit => text.into(),
        Role::Orders | Role::Trading | Role::Portfolio | Role::Notifications => Vec::new(),
    }
}

/// Task of a key, if the key determines the task. House positions and totals exist in every task.
pub fn task_of(role: Role, text: &str, partitions: u32) -> Option<u32> {
    let mut parts = text.split('/');
    let word = parts.next()?;
    let first = parts.next()?;
    let of_user = || kind_of_name(role, word).is_some_and(|k| k.form.contains("/USER"));
    match role {
        Role::Orders if !of_user() => None,
        Role::Orders | Role::Trading | Role::Portfolio => {
            (partitions > 0).then(|| partitioner::partition(first.as_bytes(), partitions))
        }
        Role::Audit => first.parse().ok(),
        Role::Notifications => None,
    }
}

/// Kinds that a user may enter.
pub fn kinds(role: Role) -> String {
    let forms: Vec<&str> = schema(role).iter().map(|k| k.form).collect();
    match forms.is_empty() {
        true => "none: this role keeps nothing".to_string(),
        false => forms.join(", "),
    }
}

/// Columns of [`key_table`].
const TABLE_WIDTH: usize = 100;

/// Table of the roles that keep state, with the kinds of their keys.
pub fn key_table() -> String {
    let mut table = String::new();
    for role in Role::all().into_iter().filter(|r| !schema(*r).is_empty()) {
        let mut line = format!("  {:<9}", role.name());
        for kind in schema(role) {
            if line.len() + 2 + kind.form.len() > TABLE_WIDTH {
                table.extend([&line, "\n"]);
                line = " ".repeat(11);
            }

            line.extend(["  ", kind.form]);
        }

        table.extend([&line, "\n"]);
    }

    table
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
        assert_eq!(task_of(Role::Orders, "house/AAPL", 6), None);
        assert_eq!(
            task_of(Role::Orders, "short/501/AAPL", 6),
            Some(partitioner::partition(b"501", 6))
        );
        assert_eq!(task_of(Role::Audit, "trades/4", 6), Some(4));
        assert_eq!(
            task_of(Role::Orders, "order/501/1", 6),
            Some(partitioner::partition(b"501", 6))
        );
    }

    #[test]
    fn kinds_have_their_own_names_and_letters() {
        for role in Role::all() {
            for kind in schema(role) {
                assert_eq!(
                    kind_of_name(role, kind.name()).map(|k| k.form),
                    Some(kind.form)
                );
                if let Some(letter) = kind.letter {
                    assert_eq!(
                        kind_of_letter(role, letter).map(|k| k.form),
                        Some(kind.form)
                    );
                }
            }
        }
    }

    #[test]
    fn large_numbers_stay_exact() {
        assert_eq!(number(-5), Value::from(-5));
        assert_eq!(number(i128::MAX), Value::from(i128::MAX.to_string()));
    }
}
