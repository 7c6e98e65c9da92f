//! The state of `portfolio`: one record per user, one row per open sell with its reserved shares,
//! and in a large portfolio one row per position.
//!
//! A user may have ten thousand open sells or positions, and an event touches one of them. In the
//! user's record, all would be rewritten with every batch, and a large record would exceed the
//! limit of the changelog. A small portfolio stays in the user's record. One bounded read and write
//! costs less than a row each.
//!
//! The form of a portfolio depends only on its user's events, not on the batches. So a replay ends
//! with the same state.

use std::collections::BTreeMap;

use domain::portfolio::{self as arithmetic, Holding};
use domain::status::Side;
use ports::varint::{put, put_bytes, put_signed, take, take_bytes, take_i64, take_u64};
use serde_json::{Map, Value, json};
use wire::portfolio::PortfolioRecord;

use crate::show::StateKey;

pub(crate) const STATE_SCHEMA: &[StateKey] = &[
    StateKey::plain("portfolio/USER", "portfolio of a user"),
    StateKey::plain("sell/USER/ORDER", "open sell, with its reserved shares"),
    StateKey::plain("position/USER/SYMBOL", "position of a large portfolio"),
];

/// Versions of a user's record: with the open sells inside; with all positions inside; with
/// positions in rows, or with version 1 sells that are not rows yet.
const WITH_SELLS: u8 = 1;
const WHOLE: u8 = 2;
const APART: u8 = 3;

/// Version of rows of open sells and positions.
const ROW_VERSION: u8 = 1;

/// Separator in row keys: between user and order for a sell, between user and symbol for a
/// position. Ids are printable, so the key of a user's record contains no separator.
const SELL: u8 = 0;
const POSITION: u8 = 1;

/// Positions move to rows above this number, ...
pub(super) const WHOLE_MAX: usize = 256;
/// ... and return to the record at this number. The gap between both keeps a user near the bound
/// from moving all positions again and again.
const WHOLE_AGAIN: u64 = 128;
/// Positions that one event moves to rows, from a record of an older version.
pub(super) const MOVED_AT_ONCE: usize = 500;

/// Reads the user's rows.
pub(super) trait PortfolioRows {
    fn sell(&mut self, order_id: &str) -> Result<Option<Sell>, &'static str>;
    fn position(&mut self, symbol: &str) -> Result<Option<Holding>, &'static str>;
    fn positions(&mut self) -> Result<Vec<(String, Holding)>, &'static str>;
}

/// An open sell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sell {
    symbol: String,
    leaves: i64,
}

/// Value that can be a row.
pub(super) trait PortfolioRow: Sized + Clone + PartialEq {
    fn put(&self, out: &mut Vec<u8>);
    fn take(bytes: &mut &[u8]) -> Option<Self>;

    /// Appends the value of a row.
    fn put_row(&self, out: &mut Vec<u8>) {
        out.push(ROW_VERSION);
        self.put(out);
    }

    fn read_row(bytes: &[u8]) -> Option<Self> {
        let (&ROW_VERSION, mut rest) = bytes.split_first()? else {
            return None;
        };

        Self::take(&mut rest).filter(|_| rest.is_empty())
    }
}

impl PortfolioRow for Sell {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.symbol.as_bytes());
        put_signed(out, i128::from(self.leaves));
    }

    fn take(r: &mut &[u8]) -> Option<Sell> {
        Some(Sell {
            symbol: text(r)?,
            leaves: take_i64(r)?,
        })
    }
}

impl PortfolioRow for Holding {
    fn put(&self, out: &mut Vec<u8>) {
        [self.quantity, self.reserved, self.cost_basis_e4]
            .into_iter()
            .for_each(|n| put_signed(out, i128::from(n)));
    }

    fn take(r: &mut &[u8]) -> Option<Holding> {
        Some(Holding {
            quantity: take_i64(r)?,
            reserved: take_i64(r)?,
            cost_basis_e4: take_i64(r)?,
        })
    }
}

fn key(user: &str, separator: u8, id: &str, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(user.as_bytes());
    out.push(separator);
    out.extend_from_slice(id.as_bytes());
}

/// Key of an open sell's row.
pub(super) fn sell_key(user: &str, order_id: &str, out: &mut Vec<u8>) {
    key(user, SELL, order_id, out);
}

/// Key of a position's row; an empty symbol gives the common prefix.
pub(super) fn position_key(user: &str, symbol: &str, out: &mut Vec<u8>) {
    key(user, POSITION, symbol, out);
}

/// A cached row that events have touched.
#[derive(Debug, PartialEq, Eq)]
struct InHand<T> {
    /// Row in the store.
    stored: Option<T>,
    /// Current value; `None` after the end of the order or position.
    now: Option<T>,
}

/// Id, stored value and current value of a row that differs from the store.
type Changed<'a, T> = (&'a str, Option<&'a T>, Option<&'a T>);

/// One user's state, with only the rows that events have touched.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PortfolioState {
    /// Figures, and the positions in the record.
    pub portfolio: PortfolioRecord,
    /// Number of positions in rows.
    rows: u64,
    /// Cached position rows, by symbol.
    positions: BTreeMap<String, InHand<Holding>>,
    /// Cached sell rows, by order id.
    sells: BTreeMap<String, InHand<Sell>>,
    /// Sells of a version 1 record that are not rows yet.
    kept_sells: BTreeMap<String, Sell>,
    /// Maximum of positions in the record.
    whole_max: usize,
}

impl PortfolioState {
    pub(super) fn new(user: &str) -> Self {
        PortfolioState {
            portfolio: PortfolioRecord {
                user_id: user.to_string(),
                ..PortfolioRecord::default()
            },
            rows: 0,
            positions: BTreeMap::new(),
            sells: BTreeMap::new(),
            kept_sells: BTreeMap::new(),
            whole_max: WHOLE_MAX,
        }
    }

    /// State of a fold outside the role, without rows.
    pub(super) fn in_memory(user: &str) -> Self {
        PortfolioState {
            whole_max: usize::MAX,
            ..PortfolioState::new(user)
        }
    }

    /// Position of a symbol, if it exists.
    fn position(
        &mut self,
        symbol: &str,
        rows: &mut dyn PortfolioRows,
    ) -> Result<Option<&mut Holding>, &'static str> {
        if let Some(holding) = self.portfolio.positions.get_mut(symbol) {
            return Ok(Some(holding));
        }

        if self.rows > 0
            && !self.positions.contains_key(symbol)
            && let Some(stored) = rows.position(symbol)?
        {
            self.positions.insert(
                symbol.to_string(),
                InHand {
                    now: Some(stored),
                    stored: Some(stored),
                },
            );
        }

        Ok(self
            .positions
            .get_mut(symbol)
            .and_then(|in_hand| in_hand.now.as_mut()))
    }

    /// Position of a symbol; a missing position starts at zero.
    fn position_or_new(
        &mut self,
        symbol: &str,
        rows: &mut dyn PortfolioRows,
    ) -> Result<&mut Holding, &'static str> {
        if self.position(symbol, rows)?.is_none() {
            if self.rows == 0 && self.portfolio.positions.len() < self.whole_max {
                self.portfolio
                    .positions
                    .insert(symbol.to_string(), Holding::default());
            } else {
                self.put_row(symbol, Holding::default());
            }
        }

        self.position(symbol, rows)?
            .ok_or("a position that was just made is not there")
    }

    fn put_row(&mut self, symbol: &str, holding: Holding) {
        self.positions
            .entry(symbol.to_string())
            .or_insert(InHand {
                stored: None,
                now: None,
            })
            .now = Some(holding);

        self.rows += 1;
    }

    /// Removes a position that is zero.
    pub(super) fn drop_empty(&mut self, symbol: &str) {
        let nothing = Holding::default();
        if self.portfolio.positions.get(symbol) == Some(&nothing) {
            self.portfolio.positions.remove(symbol);
        }

        if let Some(in_hand) = self
            .positions
            .get_mut(symbol)
            .filter(|in_hand| in_hand.now == Some(nothing))
        {
            (in_hand.now, self.rows) = (None, self.rows - 1);
            if in_hand.stored.is_none() {
                self.positions.remove(symbol);
            }
        }
    }

    /// Caches the row of a sell; returns false if the sell does not exist.
    fn sell(&mut self, order_id: &str, rows: &mut dyn PortfolioRows) -> Result<bool, &'static str> {
        if self.sells.contains_key(order_id) {
            return Ok(true);
        }

        let in_hand = match self.kept_sells.remove(order_id) {
            Some(kept) => InHand {
                stored: None,
                now: Some(kept),
            },
            None => match rows.sell(order_id)? {
                Some(stored) => InHand {
                    now: Some(stored.clone()),
                    stored: Some(stored),
                },
                None => return Ok(false),
            },
        };

        self.sells.insert(order_id.to_string(), in_hand);
        Ok(true)
    }

    /// Reserves shares for an open sell; a short sale reserves shares that it will owe.
    pub(super) fn hold(
        &mut self,
        order_id: &str,
        symbol: &str,
        quantity: i64,
        rows: &mut dyn PortfolioRows,
    ) -> Result<(), &'static str> {
        if quantity == 0 {
            return Ok(());
        }

        let holding = self.position_or_new(symbol, rows)?;
        holding.reserved = holding
            .reserved
            .checked_add(quantity)
            .ok_or("the shares that are held left their bounds")?;
        self.sell(order_id, rows)?;
        let sell = self.sells.entry(order_id.to_string()).or_insert(InHand {
            stored: None,
            now: None,
        });

        if sell.now.is_some() {
            return Err("a sell that is open was opened again");
        }

        sell.now = Some(Sell {
            symbol: symbol.to_string(),
            leaves: quantity,
        });

        Ok(())
    }

    /// Releases `quantity` of a sell's hold; `None` releases all. Orders without a hold are
    /// ignored.
    pub(super) fn release(
        &mut self,
        order_id: &str,
        quantity: Option<i64>,
        rows: &mut dyn PortfolioRows,
    ) -> Result<(), &'static str> {
        if !self.sell(order_id, rows)? {
            return Ok(());
        }

        let in_hand = self.sells.get_mut(order_id).expect("just taken in hand");
        let Some(sell) = &mut in_hand.now else {
            return Ok(());
        };

        let quantity = quantity.unwrap_or(sell.leaves);
        sell.leaves -= quantity;
        let left = sell.leaves;
        let symbol = sell.symbol.clone();
        if left == 0 {
            in_hand.now = None;

            // The row was never stored, so drop the entry. A fold of a long history then keeps no
            // ended orders.
            if in_hand.stored.is_none() {
                self.sells.remove(order_id);
            }
        }

        let holding = self
            .position(&symbol, rows)?
            .ok_or("a sell of a position that is not there")?;
        holding.reserved -= quantity;
        if left < 0 || holding.reserved < 0 {
            return Err("more shares were released than held");
        }

        Ok(())
    }

    /// Applies a trade.
    pub(super) fn trade(
        &mut self,
        symbol: &str,
        side: Side,
        (quantity, price_e4, fee_e4): (i64, i64, i64),
        rows: &mut dyn PortfolioRows,
    ) -> Result<(), &'static str> {
        let holding = self.position_or_new(symbol, rows)?;
        let realised = arithmetic::fill(holding, side, quantity, price_e4)
            .ok_or("a position left its bounds")?;
        let add = |a: i64, b: i64| a.checked_add(b).ok_or("a total left its bounds");
        let p = &mut self.portfolio;
        p.realised_e4 = add(p.realised_e4, realised)?;
        p.fees_e4 = add(p.fees_e4, fee_e4)?;
        self.drop_empty(symbol);
        Ok(())
    }

    /// Runs after each event. Moves positions of a large portfolio, and sells of version 1 records,
    /// to rows: a bounded number per event. Moves the positions of a portfolio that became small
    /// back to the record.
    pub(super) fn settle(&mut self, rows: &mut dyn PortfolioRows) -> Result<(), &'static str> {
        let inline = self.portfolio.positions.len();
        if self.rows > 0 && self.rows + inline as u64 <= WHOLE_AGAIN {
            for (symbol, holding) in rows.positions()? {
                self.positions.entry(symbol).or_insert(InHand {
                    stored: Some(holding),
                    now: Some(holding),
                });
            }

            for (symbol, in_hand) in &mut self.positions {
                self.portfolio
                    .positions
                    .extend(in_hand.now.take().map(|holding| (symbol.clone(), holding)));
            }

            self.positions.retain(|_, in_hand| in_hand.stored.is_some());
            self.rows = 0;
        } else if self.rows > 0 || inline > self.whole_max {
            for _ in 0..MOVED_AT_ONCE.min(inline) {
                let Some((symbol, holding)) = self.portfolio.positions.pop_first() else {
                    break;
                };

                self.put_row(&symbol, holding);
            }
        }

        for _ in 0..MOVED_AT_ONCE.min(self.kept_sells.len()) {
            let Some((order_id, sell)) = self.kept_sells.pop_first() else {
                break;
            };

            self.sells.insert(
                order_id,
                InHand {
                    stored: None,
                    now: Some(sell),
                },
            );
        }

        Ok(())
    }

    /// Sells that differ from the store, by order id.
    pub(super) fn changed_sells(&self) -> impl Iterator<Item = Changed<'_, Sell>> {
        changed(&self.sells)
    }

    /// Positions that differ from the store, by symbol.
    pub(super) fn changed_positions(&self) -> impl Iterator<Item = Changed<'_, Holding>> {
        changed(&self.positions)
    }

    /// Runs before the record is written: updates the count of positions that are published in
    /// records of their own.
    pub(super) fn count_apart(&mut self) {
        let shown = |h: Option<&Holding>| u64::from(h.is_some_and(|h| h.quantity != 0));
        let apart = self.portfolio.positions_apart;
        self.portfolio.positions_apart = self
            .changed_positions()
            .fold(apart, |n, (_, stored, now)| n + shown(now) - shown(stored));
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let p = &self.portfolio;
        let apart = self.rows > 0 || !self.kept_sells.is_empty();
        out.push(if apart { APART } else { WHOLE });
        put(out, p.user_seq);
        [
            p.cash_available_e4,
            p.cash_reserved_e4,
            p.realised_e4,
            p.fees_e4,
        ]
        .into_iter()
        .for_each(|n| put_signed(out, i128::from(n)));

        if apart {
            put(out, self.rows);
            put(out, p.positions_apart);
        }

        put_all(out, &p.positions);
        if apart {
            put_all(out, &self.kept_sells);
        }
    }

    /// Reads a record of any version.
    pub(super) fn read(user: &str, bytes: &[u8]) -> Option<PortfolioState> {
        let (&version, mut rest) = bytes.split_first()?;
        if ![WITH_SELLS, WHOLE, APART].contains(&version) {
            return None;
        }

        let r = &mut rest;
        let mut s = PortfolioState::new(user);
        let p = &mut s.portfolio;
        p.user_seq = take_u64(r)?;
        for slot in [
            &mut p.cash_available_e4,
            &mut p.cash_reserved_e4,
            &mut p.realised_e4,
            &mut p.fees_e4,
        ] {
            *slot = take_i64(r)?;
        }

        if version == APART {
            (s.rows, p.positions_apart) = (take_u64(r)?, take_u64(r)?);
        }

        p.positions = take_all(r)?;
        if version != WHOLE {
            s.kept_sells = take_all(r)?;
        }

        rest.is_empty().then_some(s)
    }
}

fn changed<T: PartialEq>(
    all: &BTreeMap<String, InHand<T>>,
) -> impl Iterator<Item = Changed<'_, T>> {
    all.iter()
        .filter(|(_, h)| h.stored != h.now)
        .map(|(id, h)| (id.as_str(), h.stored.as_ref(), h.now.as_ref()))
}

fn put_all<T: PortfolioRow>(out: &mut Vec<u8>, all: &BTreeMap<String, T>) {
    put(out, all.len() as u128);
    for (id, value) in all {
        put_bytes(out, id.as_bytes());
        value.put(out);
    }
}

fn take_all<T: PortfolioRow>(r: &mut &[u8]) -> Option<BTreeMap<String, T>> {
    let mut all = BTreeMap::new();
    for _ in 0..take(r)? {
        all.insert(text(r)?, T::take(r)?);
    }

    Some(all)
}

fn text(r: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(r)?.to_vec()).ok()
}

/// Key and value as text and JSON; `None` if unreadable.
pub(crate) fn show(key: &str, value: &[u8]) -> Option<(String, Value)> {
    let sell = |s: &Sell| json!({"symbol": s.symbol, "leaves_quantity": s.leaves});
    let position = |h: &Holding| json!({"quantity": h.quantity, "reserved": h.reserved, "cost_basis_e4": h.cost_basis_e4});
    if let Some((user, order_id)) = key.split_once(char::from(SELL)) {
        return Some((
            format!("sell/{user}/{order_id}"),
            sell(&Sell::read_row(value)?),
        ));
    }

    if let Some((user, symbol)) = key.split_once(char::from(POSITION)) {
        return Some((
            format!("position/{user}/{symbol}"),
            position(&Holding::read_row(value)?),
        ));
    }

    let s = PortfolioState::read(key, value)?;
    let p = &s.portfolio;
    let mut shown = json!({
        "user_seq": p.user_seq,
        "cash_available_e4": p.cash_available_e4,
        "cash_reserved_e4": p.cash_reserved_e4,
        "realised_e4": p.realised_e4,
        "fees_e4": p.fees_e4,
        "positions": p.positions.iter().map(|(symbol, h)| (symbol.clone(), position(h))).collect::<Map<_, _>>(),
    });

    if s.rows > 0 {
        shown["positions_apart"] = s.rows.into();
    }

    if value.first() == Some(&WITH_SELLS) || !s.kept_sells.is_empty() {
        shown["open_sells"] = s
            .kept_sells
            .iter()
            .map(|(id, now)| (id.clone(), sell(now)))
            .collect::<Map<_, _>>()
            .into();
    }

    Some((format!("portfolio/{key}"), shown))
}

/// Converts a printed key, or its start, to a state key: `word` and the ids after its slash.
pub(crate) fn prefix(word: &str, ids: &str) -> Vec<u8> {
    let separated = |by: u8| {
        ids.replacen('/', char::from(by).encode_utf8(&mut [0]), 1)
            .into_bytes()
    };

    match word {
        "portfolio" => ids.into(),
        "sell" => separated(SELL),
        "position" => separated(POSITION),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
