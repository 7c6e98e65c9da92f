//! `portfolios`: the latest portfolio of a user.
//!
//! A portfolio of up to 256 positions is one record. A larger portfolio is split: the user's record
//! has the totals, and each position has a record of its own. So an event rewrites only changed
//! positions, and no record grows without a bound. [`PortfolioFold`] is the only reader of both
//! forms.

use std::collections::BTreeMap;

use domain::portfolio::Holding;

use super::input::{Fault, FieldValue, read_map};
use super::writer::MapWriter;

/// `type` header of portfolios.
pub const PORTFOLIO: &str = "Portfolio";

/// `type` header of positions in records of their own.
pub const POSITION: &str = "Position";

/// Separates user and symbol in the key of a position's record. Ids never contain this character.
const SEPARATOR: char = '/';

/// A portfolio. The contract defines the field names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PortfolioRecord {
    pub user_id: String,
    pub user_seq: u64,
    pub cash_available_e4: i64,
    pub cash_reserved_e4: i64,
    pub realised_e4: i64,
    pub fees_e4: i64,
    pub positions: BTreeMap<String, Holding>,
    /// Number of further positions, in records of their own; 0 if the portfolio is whole.
    pub positions_apart: u64,
}

impl PortfolioRecord {
    /// Appends the portfolio as MessagePack. Positions of zero are left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let int = |n: u64| i64::try_from(n).expect("nobody has 2^63 events or positions");
        let mut w = MapWriter::begin(out);
        w.text("user_id", &self.user_id)
            .int("user_seq", int(self.user_seq));
        w.int("cash_available_e4", self.cash_available_e4)
            .int("cash_reserved_e4", self.cash_reserved_e4);
        w.int("realised_e4", self.realised_e4)
            .int("fees_e4", self.fees_e4);
        w.map("positions", |w| {
            for (symbol, h) in self.positions.iter().filter(|(_, h)| h.quantity != 0) {
                w.map(symbol, |w| put_holding(w, h));
            }
        });

        w.maybe_int(
            "positions_apart",
            Some(int(self.positions_apart)).filter(|n| *n > 0),
        );
        w.end();
    }

    /// Decodes a portfolio that [`PortfolioRecord::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let mut p = PortfolioRecord::default();
        let mut wrong = None;
        let fault = read_map(bytes, |name, v| {
            let natural = |v: FieldValue<'_>| v.i64().and_then(|n| u64::try_from(n).ok());
            let done = match name {
                "user_id" => v.plain_text().map(|t| p.user_id = t.to_string()),
                "user_seq" => natural(v).map(|n| p.user_seq = n),
                "cash_available_e4" => v.i64().map(|n| p.cash_available_e4 = n),
                "cash_reserved_e4" => v.i64().map(|n| p.cash_reserved_e4 = n),
                "realised_e4" => v.i64().map(|n| p.realised_e4 = n),
                "fees_e4" => v.i64().map(|n| p.fees_e4 = n),
                "positions" => positions(v).map(|m| p.positions = m),
                "positions_apart" => natural(v).map(|n| p.positions_apart = n),
                _ => Some(()),
            };

            if done.is_none() {
                wrong.get_or_insert("a field of a portfolio has a value that we do not write");
            }
        })?;

        fault.or(wrong).map_or(Ok(p), Err)
    }
}

fn put_holding(w: &mut MapWriter<'_>, h: &Holding) {
    w.int("quantity", h.quantity)
        .int("reserved", h.reserved)
        .int("cost_basis_e4", h.cost_basis_e4);
}

fn positions(v: FieldValue<'_>) -> Option<BTreeMap<String, Holding>> {
    let FieldValue::Nested(raw) = v else {
        return None;
    };
    let mut all = BTreeMap::new();
    let mut wrong = false;
    let read = read_map(raw, |symbol, v| match holding(v) {
        Some(h) => drop(all.insert(symbol.to_string(), h)),
        None => wrong = true,
    });

    (read == Ok(None) && !wrong).then_some(all)
}

fn holding(v: FieldValue<'_>) -> Option<Holding> {
    let FieldValue::Nested(raw) = v else {
        return None;
    };
    let mut quantity = None;
    let mut reserved = None;
    let mut basis = None;
    let read = read_map(raw, |name, v| match name {
        "quantity" => quantity = v.i64(),
        "reserved" => reserved = v.i64(),
        "cost_basis_e4" => basis = v.i64(),
        _ => {}
    });

    (read == Ok(None)).then_some(Holding {
        quantity: quantity?,
        reserved: reserved?,
        cost_basis_e4: basis?,
    })
}

/// A position in a record of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionRecord<'a> {
    pub user_id: &'a str,
    /// `user_seq` of the last event included in this position, and in the user's record that
    /// follows.
    pub user_seq: u64,
    pub symbol: &'a str,
    /// Quantity, reserved quantity and cost basis.
    pub holding: Holding,
}

impl<'a> PositionRecord<'a> {
    /// Appends the position as MessagePack.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = MapWriter::begin(out);
        w.text("user_id", self.user_id).int(
            "user_seq",
            i64::try_from(self.user_seq).expect("nobody has 2^63 events"),
        );
        w.text("symbol", self.symbol);
        put_holding(&mut w, &self.holding);
        w.end();
    }

    /// Decodes a position that [`PositionRecord::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut user = None;
        let mut seq = None;
        let mut symbol = None;
        let mut quantity = None;
        let mut reserved = None;
        let mut basis = None;
        let fault = read_map(bytes, |name, v| match name {
            "user_id" => user = v.plain_text(),
            "user_seq" => seq = v.i64().and_then(|n| u64::try_from(n).ok()),
            "symbol" => symbol = v.plain_text(),
            "quantity" => quantity = v.i64(),
            "reserved" => reserved = v.i64(),
            "cost_basis_e4" => basis = v.i64(),
            _ => {}
        })?;

        const ODD: Fault = "a position without one of its fields";
        if let Some(fault) = fault {
            return Err(fault);
        }

        let holding = Holding {
            quantity: quantity.ok_or(ODD)?,
            reserved: reserved.ok_or(ODD)?,
            cost_basis_e4: basis.ok_or(ODD)?,
        };

        Ok(PositionRecord {
            user_id: user.ok_or(ODD)?,
            user_seq: seq.ok_or(ODD)?,
            symbol: symbol.ok_or(ODD)?,
            holding,
        })
    }
}

/// Writes the key of a position's record into `out`. The user alone determines the record's
/// partition, not this key.
pub fn position_key(user_id: &str, symbol: &str, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(user_id.as_bytes());
    out.push(SEPARATOR as u8);
    out.extend_from_slice(symbol.as_bytes());
}

/// The user in a key of `portfolios`, and the symbol if the record is a position's.
pub fn read_key(key: &[u8]) -> Option<(&str, Option<&str>)> {
    let text = std::str::from_utf8(key).ok()?;
    Some(
        text.split_once(SEPARATOR)
            .map_or((text, None), |(user, symbol)| (user, Some(symbol))),
    )
}

/// Records of positions are missing: the topic has not been read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} of the {due} positions that lie in records of their own were read")]
pub struct Incomplete {
    /// Number of positions that were read.
    pub found: u64,
    /// Number of positions in the user's record.
    pub due: u64,
}

/// Builds one user's latest portfolio from the records of the topic, in their order. The user's
/// record follows the positions that changed with the record. Positions after the last user's
/// record count only with the next user's record. So a reader that stops between two records has
/// the previous portfolio, never a part of a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortfolioFold {
    user: Option<PortfolioRecord>,
    apart: BTreeMap<String, Holding>,
    changed: BTreeMap<String, Option<Holding>>,
}

impl PortfolioFold {
    /// Takes in the user's next record. With `symbol`, the record is a position's (see
    /// [`read_key`]).
    pub fn take(&mut self, symbol: Option<&str>, value: Option<&[u8]>) -> Result<(), Fault> {
        match (symbol, value) {
            (Some(symbol), value) => {
                let holding = value
                    .map(PositionRecord::decode)
                    .transpose()?
                    .map(|p| p.holding);
                self.changed.insert(symbol.to_string(), holding);
            }
            (None, Some(value)) => {
                let user = PortfolioRecord::decode(value)?;
                for (symbol, holding) in std::mem::take(&mut self.changed) {
                    match holding {
                        Some(holding) => self.apart.insert(symbol, holding),
                        None => self.apart.remove(&symbol),
                    };
                }

                if user.positions_apart == 0 {
                    self.apart.clear();
                }

                self.user = Some(user);
            }
            (None, None) => *self = PortfolioFold::default(),
        }

        Ok(())
    }

    /// Reports that no position is in a record of its own: the user's record is complete.
    pub fn is_whole(&self) -> bool {
        self.changed.is_empty()
            && self
                .user
                .as_ref()
                .is_none_or(|user| user.positions_apart == 0)
    }

    /// The portfolio with all its positions; `None` if the user has no portfolio.
    pub fn portfolio(&self) -> Result<Option<PortfolioRecord>, Incomplete> {
        let Some(user) = &self.user else {
            return Ok(None);
        };

        let found = self.apart.len() as u64;
        if found != user.positions_apart {
            return Err(Incomplete {
                found,
                due: user.positions_apart,
            });
        }

        let mut all = PortfolioRecord {
            positions_apart: 0,
            ..user.clone()
        };

        all.positions
            .extend(self.apart.iter().map(|(symbol, h)| (symbol.clone(), *h)));
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out);
        out
    }

    fn user(seq: u64, inline: &[(&str, i64)], apart: u64) -> Vec<u8> {
        let positions = inline
            .iter()
            .map(|(s, q)| {
                (
                    s.to_string(),
                    Holding {
                        quantity: *q,
                        ..Holding::default()
                    },
                )
            })
            .collect();

        let p = PortfolioRecord {
            user_id: "u".into(),
            user_seq: seq,
            positions,
            positions_apart: apart,
            ..PortfolioRecord::default()
        };

        bytes(|out| p.encode(out))
    }

    fn position(seq: u64, symbol: &str, quantity: i64) -> Vec<u8> {
        let holding = Holding {
            quantity,
            ..Holding::default()
        };

        bytes(|out| {
            PositionRecord {
                user_id: "u",
                user_seq: seq,
                symbol,
                holding,
            }
            .encode(out)
        })
    }

    fn quantities(fold: &PortfolioFold) -> Result<Vec<(String, i64)>, Incomplete> {
        Ok(fold
            .portfolio()?
            .map(|p| {
                p.positions
                    .into_iter()
                    .map(|(s, h)| (s, h.quantity))
                    .collect()
            })
            .unwrap_or_default())
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let holding = Holding {
            quantity: -5,
            reserved: 2,
            cost_basis_e4: i64::MIN,
        };

        let p = PositionRecord {
            user_id: "u",
            user_seq: 300,
            symbol: "A",
            holding,
        };

        let out = bytes(|out| p.encode(out));
        assert_eq!(PositionRecord::decode(&out), Ok(p));
        assert!(PositionRecord::decode(&out[..out.len() - 1]).is_err());
        assert!(
            PositionRecord::decode(&user(1, &[], 0)).is_err(),
            "a field is missing"
        );
        let whole = PortfolioRecord::decode(&user(3, &[("A", 1)], 0)).expect("readable");
        assert_eq!((whole.positions_apart, whole.positions.len()), (0, 1));
        assert!(
            !String::from_utf8_lossy(&user(3, &[("A", 1)], 0)).contains("apart"),
            "a small one is as it always was"
        );
        assert_eq!(
            PortfolioRecord::decode(&user(3, &[], 7)).map(|p| p.positions_apart),
            Ok(7)
        );
    }

    #[test]
    fn keys_tell_positions_from_users() {
        let key = bytes(|out| position_key("u", "BRK.B", out));
        assert_eq!(key, b"u/BRK.B");
        assert_eq!(
            (read_key(&key), read_key(b"u")),
            (Some(("u", Some("BRK.B"))), Some(("u", None)))
        );
    }

    #[test]
    fn events_since_the_users_last_record_count_with_the_next() {
        let named = |all: &[(&str, i64)]| {
            Ok(all
                .iter()
                .map(|(s, q)| (s.to_string(), *q))
                .collect::<Vec<_>>())
        };

        let mut fold = PortfolioFold::default();
        assert_eq!((fold.portfolio(), fold.is_whole()), (Ok(None), true));
        fold.take(None, Some(&user(1, &[("A", 1), ("B", 2)], 0)))
            .expect("readable");
        assert_eq!(
            (quantities(&fold), fold.is_whole()),
            (named(&[("A", 1), ("B", 2)]), true)
        );

        // The portfolio is split in two steps. Each step is seen as a whole.
        fold.take(Some("A"), Some(&position(2, "A", 9)))
            .expect("readable");
        assert_eq!(
            (quantities(&fold), fold.is_whole()),
            (named(&[("A", 1), ("B", 2)]), false)
        );
        fold.take(None, Some(&user(2, &[("B", 2)], 1)))
            .expect("readable");
        assert_eq!(quantities(&fold), named(&[("A", 9), ("B", 2)]));
        fold.take(Some("B"), Some(&position(3, "B", 2)))
            .expect("readable");
        fold.take(Some("C"), Some(&position(3, "C", 3)))
            .expect("readable");
        fold.take(None, Some(&user(3, &[], 3))).expect("readable");
        assert_eq!(quantities(&fold), named(&[("A", 9), ("B", 2), ("C", 3)]));

        // A position closes.
        fold.take(Some("A"), None).expect("readable");
        fold.take(None, Some(&user(4, &[], 2))).expect("readable");
        assert_eq!(quantities(&fold), named(&[("B", 2), ("C", 3)]));

        // The portfolio becomes one record again.
        ["B", "C"]
            .into_iter()
            .for_each(|s| fold.take(Some(s), None).expect("readable"));
        fold.take(None, Some(&user(5, &[("B", 2), ("C", 3)], 0)))
            .expect("readable");
        assert_eq!(
            (quantities(&fold), fold.is_whole()),
            (named(&[("B", 2), ("C", 3)]), true)
        );
    }

    #[test]
    fn a_portfolio_without_some_of_its_positions_is_not_shown() {
        let mut fold = PortfolioFold::default();
        fold.take(Some("A"), Some(&position(2, "A", 9)))
            .expect("readable");
        fold.take(None, Some(&user(2, &[], 2))).expect("readable");
        assert_eq!(fold.portfolio(), Err(Incomplete { found: 1, due: 2 }));
        assert!(fold.take(None, Some(b"x")).is_err() && fold.take(Some("A"), Some(b"x")).is_err());
    }
}
