//! What `portfolio` keeps: one record per user with everything in it, also the open sells, which say how many shares are held.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::domain::portfolio::Holding;
use crate::engine::varint::{put, put_bytes, put_signed, take, take_bytes, take_i64, take_u64};
use crate::wire::portfolio::Portfolio;

const VERSION: u8 = 1;

/// One user's state.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    /// What is published; positions of nothing are left out.
    pub portfolio: Portfolio,
    /// Symbol and leaves of each open sell.
    open_sells: BTreeMap<String, (String, i64)>,
}

impl State {
    pub(super) fn new(user: &str) -> Self {
        State { portfolio: Portfolio { user_id: user.to_string(), ..Portfolio::default() }, open_sells: BTreeMap::new() }
    }

    /// An open sell holds shares.
    pub(super) fn hold(&mut self, order_id: &str, symbol: &str, quantity: i64) {
        self.open_sells.insert(order_id.to_string(), (symbol.to_string(), quantity));
        self.portfolio.positions.entry(symbol.to_string()).or_default().reserved += quantity;
    }

    /// So much of a sell's hold ends (all of it: none). Orders without a hold are passed over.
    pub(super) fn release(&mut self, order_id: &str, quantity: Option<i64>) -> Result<(), &'static str> {
        let Some((symbol, leaves)) = self.open_sells.get_mut(order_id) else { return Ok(()) };
        let quantity = quantity.unwrap_or(*leaves);
        *leaves -= quantity;
        let holding = self.portfolio.positions.get_mut(symbol).ok_or("a sell of a position that is not there")?;
        holding.reserved -= quantity;
        if *leaves < 0 || holding.reserved < 0 {
            return Err("more shares were released than held");
        }
        if *leaves == 0 {
            self.open_sells.remove(order_id);
        }
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
        put(out, self.open_sells.len() as u128);
        for (order_id, (symbol, leaves)) in &self.open_sells {
            put_bytes(out, order_id.as_bytes());
            put_bytes(out, symbol.as_bytes());
            put_signed(out, i128::from(*leaves));
        }
    }

    pub(super) fn read(user: &str, bytes: &[u8]) -> Option<State> {
        let (&VERSION, mut rest) = bytes.split_first()? else { return None };
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
        for _ in 0..take(r)? {
            let order_id = text(r)?;
            s.open_sells.insert(order_id, (text(r)?, take_i64(r)?));
        }
        rest.is_empty().then_some(s)
    }
}

fn text(r: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(r)?.to_vec()).ok()
}

/// A user's value, readable; none if it cannot be read.
pub(in crate::roles) fn show(user: &str, value: &[u8]) -> Option<Value> {
    let s = State::read(user, value)?;
    let p = &s.portfolio;
    let position = |(symbol, h): (&String, &Holding)| {
        (symbol.clone(), json!({"quantity": h.quantity, "reserved": h.reserved, "cost_basis_e4": h.cost_basis_e4}))
    };
    let sell = |(id, (symbol, leaves)): (&String, &(String, i64))| (id.clone(), json!({"symbol": symbol, "leaves_quantity": leaves}));
    Some(json!({
        "user_seq": p.user_seq,
        "cash_available_e4": p.cash_available_e4,
        "cash_reserved_e4": p.cash_reserved_e4,
        "realised_e4": p.realised_e4,
        "fees_e4": p.fees_e4,
        "positions": p.positions.iter().map(position).collect::<Map<_, _>>(),
        "open_sells": s.open_sells.iter().map(sell).collect::<Map<_, _>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Later versions must read what this one wrote.
    #[test]
    fn golden_bytes() {
        let mut s = State::new("u");
        s.portfolio.user_seq = 3;
        s.portfolio.realised_e4 = -1;
        s.portfolio.positions.insert("A".into(), Holding { quantity: 5, reserved: 0, cost_basis_e4: 6 });
        s.hold("1", "A", 2);
        let mut out = Vec::new();
        s.put(&mut out);
        assert_eq!(out, [1, 3, 0, 0, 1, 0, 1, 1, b'A', 10, 4, 12, 1, 1, b'1', 1, b'A', 4]);
        assert_eq!(State::read("u", &out), Some(s));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let _ = State::read("u", &bytes);
        }
    }
}
