//! The last reference price of every symbol, and what a portfolio is worth at these prices.

use std::sync::RwLock;

use client::decimal::{show_e4, show_e4_wide};
use ports::records::Record;
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use wire::portfolio::PortfolioRecord;
use wire::trade::ReferencePrice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LastPrice {
    price_e4: i64,
    time_us: i64,
}

/// Last prices by symbol.
#[derive(Debug, Default)]
pub(crate) struct MarkTable(RwLock<FxHashMap<Box<str>, LastPrice>>);

impl MarkTable {
    /// Takes in records of `reference-prices`.
    pub(crate) fn take<'a>(&self, records: impl Iterator<Item = Record<'a>>) {
        let mut prices = self.0.write().expect("plain data");
        for r in records {
            let Some(p) = r.value.and_then(|v| ReferencePrice::decode(v).ok()) else {
                continue;
            };

            let last = LastPrice {
                price_e4: p.price_e4,
                time_us: p.time_us,
            };
            match prices.get_mut(p.symbol) {
                Some(known) => *known = last,
                None => drop(prices.insert(p.symbol.into(), last)),
            }
        }
    }

    /// A portfolio as JSON with marks, money as text. Equity is the cash, available and reserved,
    /// plus quantity x mark of each position, in integers of 10^-4. Without a price of one of the
    /// positions the sums are unknown, and null.
    pub(crate) fn shown(&self, p: &PortfolioRecord) -> Value {
        let prices = self.0.read().expect("plain data");
        let cash = i128::from(p.cash_available_e4) + i128::from(p.cash_reserved_e4);
        let mut positions = json!({});
        let mut sums = Some((cash, 0_i128));
        for (symbol, holding) in &p.positions {
            let mark = prices.get(symbol.as_str());
            let worth = mark.map(|m| i128::from(m.price_e4) * i128::from(holding.quantity));
            let unrealised = worth.map(|w| w - i128::from(holding.cost_basis_e4));
            sums = sums.zip(worth.zip(unrealised)).and_then(
                |((equity, profit), (worth, unrealised))| {
                    Some((equity.checked_add(worth)?, profit.checked_add(unrealised)?))
                },
            );
            positions[symbol] = json!({
                "quantity": holding.quantity,
                "reserved": holding.reserved,
                "cost_basis": show_e4(holding.cost_basis_e4),
                "mark": mark.map(|m| show_e4(m.price_e4)),
                "mark_time_us": mark.map(|m| m.time_us),
                "market_value": worth.map(show_e4_wide),
                "unrealised": unrealised.map(show_e4_wide),
            });
        }

        json!({
            "user_id": p.user_id,
            "user_seq": p.user_seq,
            "cash_available": show_e4(p.cash_available_e4),
            "cash_reserved": show_e4(p.cash_reserved_e4),
            "realised": show_e4(p.realised_e4),
            "fees": show_e4(p.fees_e4),
            "unrealised": sums.map(|(_, unrealised)| show_e4_wide(unrealised)),
            "equity": sums.map(|(equity, _)| show_e4_wide(equity)),
            "positions": positions,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::portfolio::Holding;
    use ports::records::Headers;
    use ports::topics::TopicPartition;
    use wire::topics::REFERENCE_PRICES;

    use super::*;

    fn price(marks: &MarkTable, symbol: &str, price_e4: i64) {
        let price = ReferencePrice {
            symbol,
            price_e4,
            time_us: 7,
        };
        let mut value = Vec::new();
        price.encode(&mut value);
        marks.take(std::iter::once(Record {
            at: TopicPartition::new(REFERENCE_PRICES, 0),
            offset: 0,
            timestamp_ms: 0,
            key: Some(symbol.as_bytes()),
            value: Some(&value),
            headers: Headers::default(),
        }));
    }

    #[test]
    fn equity_is_cash_and_all_positions_at_their_marks() {
        let holding = |quantity, cost_basis_e4| Holding {
            quantity,
            reserved: 0,
            cost_basis_e4,
        };
        let p = PortfolioRecord {
            user_id: "501".into(),
            user_seq: 9,
            cash_available_e4: 1_000_000,
            cash_reserved_e4: 500_000,
            realised_e4: 0,
            fees_e4: 0,
            positions: BTreeMap::from([
                ("AAPL".to_string(), holding(10, 90_000)),
                ("MSFT".to_string(), holding(-3, -60_000)),
            ]),
            positions_apart: 0,
        };
        let marks = MarkTable::default();
        price(&marks, "AAPL", 10_001);
        let shown = marks.shown(&p);
        assert_eq!(
            (&shown["equity"], &shown["unrealised"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(shown["positions"]["AAPL"]["unrealised"], "1.001");
        assert_eq!(shown["positions"]["MSFT"]["mark"], Value::Null);
        price(&marks, "MSFT", 25_000);
        let shown = marks.shown(&p);
        assert_eq!(shown["equity"], "152.501");
        assert_eq!(shown["unrealised"], "-0.499");
        assert_eq!(shown["positions"]["MSFT"]["market_value"], "-7.50");
        assert_eq!(shown["positions"]["MSFT"]["mark_time_us"], 7);
    }
}
