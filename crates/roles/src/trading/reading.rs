//! The books of one task as stored in state, for `verify`, for people and for tests.

use domain::status::Side;
use ports::StateStore;

use super::execution_writer::OrderKey;
use super::state;

/// An order in a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookLine {
    pub symbol: String,
    /// Place among all orders of the symbol.
    pub place: u64,
    pub side: Side,
    /// The order is a stop that has not triggered.
    pub waits: bool,
    /// Worst price, in 10^-4.
    pub limit_e4: i64,
    /// LeavesQty: quantity that may still trade.
    pub leaves: i64,
    /// Owner.
    pub user_id: String,
    pub order_id: String,
}

/// All orders in the books of a task, by symbol, then by place.
pub fn read_books(store: &dyn StateStore) -> Result<Vec<BookLine>, String> {
    let mut all = Vec::new();
    let mut wrong = None;
    let scanned = store.scan(b"o", &mut |key, value| {
        match line(key, value) {
            Some(line) => all.push(line),
            None => {
                wrong = Some(format!(
                    "the order {} cannot be read",
                    String::from_utf8_lossy(key).escape_debug()
                ))
            }
        }

        wrong.is_none()
    });

    scanned.map_err(|e| e.to_string())?;
    wrong.map_or(Ok(()), Err)?;
    all.sort_by(|a, b| (&a.symbol, a.place).cmp(&(&b.symbol, b.place)));
    Ok(all)
}

fn line(key: &[u8], value: &[u8]) -> Option<BookLine> {
    let end = key.iter().position(|b| *b == 0)?;
    let symbol = std::str::from_utf8(key.get(1..end)?).ok()?;
    let o = state::read_order(value, OrderKey::read(key.get(end + 1..)?)?)?;
    Some(BookLine {
        symbol: symbol.to_string(),
        place: o.seq,
        side: o.side,
        waits: o.stop_e4.is_some(),
        limit_e4: o.limit_e4,
        leaves: o.leaves,
        user_id: o.party.user_id().to_string(),
        order_id: o.party.order_id().to_string(),
    })
}
