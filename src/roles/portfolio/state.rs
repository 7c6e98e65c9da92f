//! What `portfolio` keeps: one record per user, and one row per open sell, which says how many shares it holds.
//!
//! Rows, because a user may have ten thousand open sells and one event is about one of them: kept in the user's record (its version 1 did), they were
//! written again with every batch, and enough of them made a record that the changelog does not take.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::domain::portfolio::{self as arithmetic, Holding};
use crate::domain::status::Side;
use crate::engine::varint::{put, put_bytes, put_signed, take, take_bytes, take_i64, take_u64};
use crate::wire::portfolio::Portfolio;

/// Version of a user's record.
const VERSION: u8 = 2;

/// The user's record that had the open sells in it.
const WITH_SELLS: u8 = 1;

/// Version of an open sell's row.
const SELL_VERSION: u8 = 1;

/// Between user and order in the key of a row. Ids are printable, so the key of a user's record has none.
const SEPARATOR: u8 = 0;

/// Reads an open sell from its row, if there is one.
pub(super) type Rows<'a> = &'a mut dyn FnMut(&str) -> Result<Option<Sell>, &'static str>;

/// An open sell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sell {
    symbol: String,
    leaves: i64,
}

impl Sell {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(SELL_VERSION);
        put_bytes(out, self.symbol.as_bytes());
        put_signed(out, i128::from(self.leaves));
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Sell> {
        let (&SELL_VERSION, mut rest) = bytes.split_first()? else { return None };
        let sell = Sell { symbol: text(&mut rest)?, leaves: take_i64(&mut rest)? };
        rest.is_empty().then_some(sell)
    }
}

/// The key of an open sell's row.
pub(super) fn row_key(user: &str, order_id: &str, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(user.as_bytes());
    out.push(SEPARATOR);
    out.extend_from_slice(order_id.as_bytes());
}

/// A sell that events have come for since the state was read.
#[derive(Debug, PartialEq, Eq)]
struct InHand {
    /// Its row, as it is in the store.
    stored: Option<Sell>,
    /// What it is now; none once it has ended.
    now: Option<Sell>,
}

/// One user's state, as far as it is needed: of the open sells only those that something happened to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    /// What is published; positions of nothing are left out.
    pub portfolio: Portfolio,
    /// By order.
    sells: BTreeMap<String, InHand>,
}

impl State {
    pub(super) fn new(user: &str) -> Self {
        State { portfolio: Portfolio { user_id: user.to_string(), ..Portfolio::default() }, sells: BTreeMap::new() }
    }

    /// An open sell holds shares (or will owe them, if it sells short).
    pub(super) fn hold(&mut self, order_id: &str, symbol: &str, quantity: i64, rows: Rows<'_>) -> Result<(), &'static str> {
        if quantity == 0 {
            return Ok(());
        }
        let holding = self.portfolio.positions.entry(symbol.to_string()).or_default();
        holding.reserved = holding.reserved.checked_add(quantity).ok_or("the shares that are held left their bounds")?;
        if !self.sells.contains_key(order_id) {
            let stored = rows(order_id)?;
            self.sells.insert(order_id.to_string(), InHand { now: stored.clone(), stored });
        }
        let sell = self.sells.get_mut(order_id).expect("just put there");
        if sell.now.is_some() {
            return Err("a sell that is open was opened again");
        }
        sell.now = Some(Sell { symbol: symbol.to_string(), leaves: quantity });
        Ok(())
    }

    /// So much of a sell's hold ends (all of it: none). Orders without a hold are passed over.
    pub(super) fn release(&mut self, order_id: &str, quantity: Option<i64>, rows: Rows<'_>) -> Result<(), &'static str> {
        if !self.sells.contains_key(order_id) {
            let Some(stored) = rows(order_id)? else { return Ok(()) };
            self.sells.insert(order_id.to_string(), InHand { now: Some(stored.clone()), stored: Some(stored) });
        }
        let in_hand = self.sells.get_mut(order_id).expect("just put there");
        let Some(sell) = &mut in_hand.now else { return Ok(()) };
        let quantity = quantity.unwrap_or(sell.leaves);
        sell.leaves -= quantity;
        let holding = self.portfolio.positions.get_mut(&sell.symbol).ok_or("a sell of a position that is not there")?;
        holding.reserved -= quantity;
        if sell.leaves < 0 || holding.reserved < 0 {
            return Err("more shares were released than held");
        }
        if sell.leaves == 0 {
            in_hand.now = None;
            // It came and went: no row has to be told, and whoever folds a long history does not keep its dead.
            if in_hand.stored.is_none() {
                self.sells.remove(order_id);
            }
        }
        Ok(())
    }

    /// Rows that differ from the store, by order: what to write, or none to delete it.
    pub(super) fn changed_rows(&self) -> impl Iterator<Item = (&str, Option<&Sell>)> {
        self.sells.iter().filter(|(_, s)| s.stored != s.now).map(|(order_id, s)| (order_id.as_str(), s.now.as_ref()))
    }

    /// Folds a trade in.
    pub(super) fn trade(&mut self, symbol: &str, side: Side, quantity: i64, price_e4: i64, fee_e4: i64) -> Result<(), &'static str> {
        let p = &mut self.portfolio;
        let holding = p.positions.entry(symbol.to_string()).or_default();
        let realised = arithmetic::fill(holding, side, quantity, price_e4).ok_or("a position left its bounds")?;
        let add = |a: i64, b: i64| a.checked_add(b).ok_or("a total left its bounds");
        p.realised_e4 = add(p.realised_e4, realised)?;
        p.fees_e4 = add(p.fees_e4, fee_e4)?;
        self.drop_empty(symbol);
        Ok(())
    }

    /// A position of nothing is left out.
    pub(super) fn drop_empty(&mut self, symbol: &str) {
        if self.portfolio.positions.get(symbol) == Some(&Holding::default()) {
            self.portfolio.positions.remove(symbol);
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let p = &self.portfolio;
        out.push(VERSION);
        put(out, p.user_seq);
        [p.cash_available_e4, p.cash_reserved_e4, p.realised_e4, p.fees_e4].into_iter().for_each(|n| put_signed(out, i128::from(n)));
        put(out, p.positions.len() as u128);
        for (symbol, h) in &p.positions {
            put_bytes(out, symbol.as_bytes());
            [h.quantity, h.reserved, h.cost_basis_e4].into_iter().for_each(|n| put_signed(out, i128::from(n)));
        }
    }

    /// A version that kept the open sells in the record has them all in hand, to become rows.
    pub(super) fn read(user: &str, bytes: &[u8]) -> Option<State> {
        let (&version, mut rest) = bytes.split_first()?;
        if ![WITH_SELLS, VERSION].contains(&version) {
            return None;
        }
        let r = &mut rest;
        let mut s = State::new(user);
        let p = &mut s.portfolio;
        p.user_seq = take_u64(r)?;
        for slot in [&mut p.cash_available_e4, &mut p.cash_reserved_e4, &mut p.realised_e4, &mut p.fees_e4] {
            *slot = take_i64(r)?;
        }
        for _ in 0..take(r)? {
            let symbol = text(r)?;
            p.positions.insert(symbol, Holding { quantity: take_i64(r)?, reserved: take_i64(r)?, cost_basis_e4: take_i64(r)? });
        }
        let sells = if version == WITH_SELLS { take(r)? } else { 0 };
        for _ in 0..sells {
            let order_id = text(r)?;
            s.sells.insert(order_id, InHand { stored: None, now: Some(Sell { symbol: text(r)?, leaves: take_i64(r)? }) });
        }
        rest.is_empty().then_some(s)
    }
}

fn text(r: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(r)?.to_vec()).ok()
}

/// A key and its value, readable; none if they cannot be read.
pub(in crate::roles) fn show(key: &str, value: &[u8]) -> Option<(String, Value)> {
    let sell = |s: &Sell| json!({"symbol": s.symbol, "leaves_quantity": s.leaves});
    if let Some((user, order_id)) = key.split_once(char::from(SEPARATOR)) {
        return Some((format!("sell/{user}/{order_id}"), sell(&Sell::read(value)?)));
    }
    let s = State::read(key, value)?;
    let p = &s.portfolio;
    let position = |(symbol, h): (&String, &Holding)| {
        (symbol.clone(), json!({"quantity": h.quantity, "reserved": h.reserved, "cost_basis_e4": h.cost_basis_e4}))
    };
    let mut shown = json!({
        "user_seq": p.user_seq,
        "cash_available_e4": p.cash_available_e4,
        "cash_reserved_e4": p.cash_reserved_e4,
        "realised_e4": p.realised_e4,
        "fees_e4": p.fees_e4,
        "positions": p.positions.iter().map(position).collect::<Map<_, _>>(),
    });
    if value.first() == Some(&WITH_SELLS) {
        shown["open_sells"] = s.changed_rows().filter_map(|(id, now)| Some((id.to_string(), sell(now?)))).collect::<Map<_, _>>().into();
    }
    Some((format!("portfolio/{key}"), shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out);
        out
    }

    /// A position with a sell of 2 open.
    fn state(stored: Option<Sell>) -> State {
        let mut s = State::new("u");
        s.portfolio.user_seq = 3;
        s.portfolio.realised_e4 = -1;
        s.portfolio.positions.insert("A".into(), Holding { quantity: 5, reserved: 2, cost_basis_e4: 6 });
        s.sells.insert("1".into(), InHand { stored, now: Some(Sell { symbol: "A".into(), leaves: 2 }) });
        s
    }

    /// Later versions must read what this one wrote.
    #[test]
    fn golden_bytes() {
        let s = state(None);
        let user = bytes(|out| s.put(out));
        assert_eq!(user, [2, 3, 0, 0, 1, 0, 1, 1, b'A', 10, 4, 12]);
        let read = State::read("u", &user).expect("readable");
        assert_eq!((&read.portfolio, read.sells.len()), (&s.portfolio, 0));
        let rows: Vec<_> = s.changed_rows().map(|(id, now)| (id, bytes(|out| now.expect("open").put(out)))).collect();
        assert_eq!(rows, [("1", vec![1, 1, b'A', 4])]);
        assert_eq!(Sell::read(&rows[0].1).as_ref(), s.sells["1"].now.as_ref());
        assert_eq!(show("u\x001", &rows[0].1), Some(("sell/u/1".into(), json!({"symbol": "A", "leaves_quantity": 2}))));
        assert_eq!((State::read("u", &[3]), Sell::read(&[2, 1, b'A', 4])), (None, None), "newer versions");
    }

    #[test]
    fn version_1_is_read_for_ever() {
        let with_sells = [1, 3, 0, 0, 1, 0, 1, 1, b'A', 10, 4, 12, 1, 1, b'1', 1, b'A', 4];
        assert_eq!(State::read("u", &with_sells), Some(state(None)), "its sells are in hand, and no row has them yet");
        let (_, shown) = show("u", &with_sells).expect("readable");
        assert_eq!(shown["open_sells"], json!({"1": {"symbol": "A", "leaves_quantity": 2}}));
    }

    #[test]
    fn rows_are_written_if_and_only_if_they_changed() {
        let sell = |leaves| Sell { symbol: "A".into(), leaves };
        let mut s = state(Some(sell(2)));
        let mut asked = Vec::new();
        let mut rows = |id: &str| {
            asked.push(id.to_string());
            Ok((id == "2").then(|| sell(1)))
        };
        s.portfolio.positions.get_mut("A").expect("there").reserved += 1;
        assert_eq!(s.changed_rows().count(), 0);
        for id in ["2", "buy"] {
            s.release(id, None, &mut rows).expect("a good release");
        }
        s.hold("3", "A", 1, &mut rows).expect("a good hold");
        s.hold("4", "A", 1, &mut rows).expect("a good hold");
        s.release("3", Some(1), &mut rows).expect("came and went");
        s.release("1", Some(1), &mut rows).expect("some of it");
        let changed: Vec<_> = s.changed_rows().map(|(id, now)| (id, now.map(|s| s.leaves))).collect();
        assert_eq!(changed, [("1", Some(1)), ("2", None), ("4", Some(1))]);
        assert_eq!(s.portfolio.positions["A"].reserved, 2);
        assert!(s.hold("4", "A", 1, &mut rows).is_err() && s.release("1", Some(2), &mut rows).is_err());
        assert_eq!(asked, ["2", "buy", "3", "4"], "what is in hand is not read again");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let _ = State::read("u", &bytes);
            let _ = Sell::read(&bytes);
        }
    }
}
