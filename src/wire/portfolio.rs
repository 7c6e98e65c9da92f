//! `portfolios`: the latest portfolio of a user.

use std::collections::BTreeMap;

use super::input::{Fault, Value, read_map};
use super::writer::MapWriter;
use crate::domain::portfolio::Holding;

/// `type` header of portfolios.
pub const PORTFOLIO: &str = "Portfolio";

/// A portfolio. Field names are the contract's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Portfolio {
    pub user_id: String,
    pub user_seq: u64,
    pub cash_available_e4: i64,
    pub cash_reserved_e4: i64,
    pub realised_e4: i64,
    pub fees_e4: i64,
    pub positions: BTreeMap<String, Holding>,
}

impl Portfolio {
    /// Appends its MessagePack form; positions of zero are left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = MapWriter::begin(out);
        w.text("user_id", &self.user_id).int("user_seq", i64::try_from(self.user_seq).expect("nobody has 2^63 events"));
        w.int("cash_available_e4", self.cash_available_e4).int("cash_reserved_e4", self.cash_reserved_e4);
        w.int("realised_e4", self.realised_e4).int("fees_e4", self.fees_e4);
        w.map("positions", |w| {
            for (symbol, h) in self.positions.iter().filter(|(_, h)| h.quantity != 0) {
                w.map(symbol, |w| {
                    w.int("quantity", h.quantity).int("reserved", h.reserved).int("cost_basis_e4", h.cost_basis_e4);
                });
            }
        });
        w.end();
    }

    /// Reads what [`Portfolio::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let (mut p, mut wrong) = (Portfolio::default(), None);
        let fault = read_map(bytes, |name, v| {
            let done = match name {
                "user_id" => v.plain_text().map(|t| p.user_id = t.to_string()),
                "user_seq" => v.i64().and_then(|n| u64::try_from(n).ok()).map(|n| p.user_seq = n),
                "cash_available_e4" => v.i64().map(|n| p.cash_available_e4 = n),
                "cash_reserved_e4" => v.i64().map(|n| p.cash_reserved_e4 = n),
                "realised_e4" => v.i64().map(|n| p.realised_e4 = n),
                "fees_e4" => v.i64().map(|n| p.fees_e4 = n),
                "positions" => positions(v).map(|m| p.positions = m),
                _ => Some(()),
            };
            if done.is_none() {
                wrong.get_or_insert("a field of a portfolio has a value that we do not write");
            }
        })?;
        fault.or(wrong).map_or(Ok(p), Err)
    }
}

fn positions(v: Value<'_>) -> Option<BTreeMap<String, Holding>> {
    let Value::Nested(raw) = v else { return None };
    let (mut all, mut wrong) = (BTreeMap::new(), false);
    let read = read_map(raw, |symbol, v| match holding(v) {
        Some(h) => drop(all.insert(symbol.to_string(), h)),
        None => wrong = true,
    });
    (read == Ok(None) && !wrong).then_some(all)
}

fn holding(v: Value<'_>) -> Option<Holding> {
    let Value::Nested(raw) = v else { return None };
    let (mut quantity, mut reserved, mut basis) = (None, None, None);
    let read = read_map(raw, |name, v| match name {
        "quantity" => quantity = v.i64(),
        "reserved" => reserved = v.i64(),
        "cost_basis_e4" => basis = v.i64(),
        _ => {}
    });
    (read == Ok(None)).then_some(Holding { quantity: quantity?, reserved: reserved?, cost_basis_e4: basis? })
}
