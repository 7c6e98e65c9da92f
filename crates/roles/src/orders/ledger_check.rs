//! Checks the ledger of one task from scratch. The check sums every account, position, open order
//! and house position, and compares the sums with the role's running totals. Used by `verify` and
//! by tests; the role itself checks every posting.

use std::collections::{BTreeMap, BTreeSet};

use ports::StateStore;

use super::order_trades::{self, Fill};
use super::state::{self, OrderRecord};

/// Checks invariants I1 to I3 over a whole store. Returns figures for people, or the first
/// violation.
pub fn check_books(store: &dyn StateStore) -> Result<String, String> {
    let mut sums = Sums::default();
    let mut unreadable = None;
    let scanned = store.scan(b"", &mut |key, value| {
        let known = sums.add(key, value);
        if known.is_none() {
            unreadable = Some(format!(
                "the entry {} cannot be read",
                String::from_utf8_lossy(key).escape_debug()
            ));
        }

        known.is_some()
    });

    scanned.map_err(|e| e.to_string())?;
    unreadable.map_or(Ok(()), Err)?;
    sums.compare()
}

/// Sums that one task cannot check alone: the task's share of clearing, and its open orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SharedSums {
    /// Clearing: cash and shares in flight per symbol. At rest, each sum over all tasks is zero.
    pub clearing: BTreeMap<String, (i128, i128)>,
    /// User, order id and LeavesQty of all open orders.
    pub open: Vec<(String, String, i64)>,
    /// User and id of incomplete mass cancels. None exists at rest.
    pub mass_cancels: Vec<(String, String)>,
}

impl SharedSums {
    /// Adds the share of one task.
    pub(crate) fn add(&mut self, store: &dyn StateStore) -> Result<(), String> {
        let mut unreadable = None;
        let scanned = store.scan(b"", &mut |key, value| {
            let known = self.line(key, value);
            if known.is_none() {
                unreadable = Some(format!(
                    "the entry {} cannot be read",
                    String::from_utf8_lossy(key).escape_debug()
                ));
            }

            known.is_some()
        });

        scanned.map_err(|e| e.to_string())?;
        unreadable.map_or(Ok(()), Err)
    }

    fn line(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (&letter, rest) = key.split_first()?;
        let rest = std::str::from_utf8(rest).ok()?;
        match letter {
            b'h' => {
                let h = state::read_house(value)?;
                let sum = self.clearing.entry(rest.into()).or_default();
                *sum = (sum.0 + h.clearing_e4, sum.1 + h.clearing_quantity);
            }
            b'o' => {
                let (user, order) = rest.split_once('\0')?;
                let e = OrderRecord::read(value)?;
                if e.is_open() {
                    self.open.push((user.into(), order.into(), e.leaves()));
                }
            }
            b'c' => {
                let (user, id) = rest.split_once('\0')?;
                self.mass_cancels.push((user.into(), id.into()));
            }
            _ => {}
        }

        Some(())
    }
}

#[derive(Default)]
struct Sums {
    users: BTreeMap<String, UserSums>,
    /// Per symbol: shares in users' positions, and users' shares by the house position.
    shares: BTreeMap<String, (i128, i128)>,
    /// Per user and symbol: shares reserved by the position, and by open sells.
    reserved: BTreeMap<(String, String), (i64, i64)>,
    /// Per user and order: unbusted shares of trades in rows, by the order record and by the rows.
    in_rows: BTreeMap<(String, String), (i64, i64)>,
    /// Orders with deleted trade rows.
    forgotten: BTreeSet<(String, String)>,
    totals: domain::account::CashTotals,
    house_cash: i128,
    clearing_cash: i128,
    open: u64,
    orders: u64,
}

#[derive(Default)]
struct UserSums {
    available: i64,
    reserved: i64,
    owed: i64,
    incoming: i64,
    /// Cash that open orders and short positions hold.
    held: i128,
    held_by_sells: i128,
    /// Orders that may stay open: by the account's count, by index rows, and by order records.
    open: u64,
    marked: u64,
    staying: u64,
    /// Short positions: by the account's count, and by marker rows.
    shorts: (u64, u64),
}

impl UserSums {
    /// Compares the account of a user with the orders and positions of the user.
    fn compare(&self, name: &str) -> Result<(), String> {
        if self.available < 0
            || self.reserved < 0
            || self.owed < 0
            || (self.owed > 0 && self.available > 0)
        {
            return Err(format!(
                "user {name} has {} available and {} reserved, and owes {}",
                self.available, self.reserved, self.owed
            ));
        }

        if (i128::from(self.reserved), i128::from(self.incoming)) != (self.held, self.held_by_sells)
        {
            return Err(format!(
                "user {name}: {} reserved and {} incoming, but open orders and short positions hold {} and {}",
                self.reserved, self.incoming, self.held, self.held_by_sells
            ));
        }

        if self.shorts.0 != self.shorts.1 {
            return Err(format!(
                "user {name}: {} short positions counted, {} noted",
                self.shorts.0, self.shorts.1
            ));
        }

        if (self.open, self.open) != (self.marked, self.staying) {
            return Err(format!(
                "user {name}: {} open orders counted, {} marked, {} there",
                self.open, self.marked, self.staying
            ));
        }

        Ok(())
    }
}

/// Sum of the unbusted shares; `None` if a trade is unreadable.
fn standing<'a>(all: impl Iterator<Item = Option<Fill<'a>>>) -> Option<i64> {
    all.map(|fill| fill.map(|fill| fill.stands())).sum()
}

impl Sums {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (&letter, rest) = key.split_first()?;
        let (first, second) = std::str::from_utf8(rest)
            .ok()?
            .split_once('\0')
            .unwrap_or((std::str::from_utf8(rest).ok()?, ""));
        match letter {
            b'a' => {
                let a = state::read_account(value)?;
                let u = self.users.entry(first.into()).or_default();
                (u.available, u.reserved, u.incoming, u.open) =
                    (a.available_e4, a.reserved_e4, a.incoming_e4, a.open_orders);
                (u.owed, u.shorts.0) = (a.owed_e4, a.shorts);
            }
            b'p' => {
                let p = state::read_position(value)?;
                self.shares.entry(second.into()).or_default().0 += i128::from(p.net());
                self.reserved
                    .entry((first.into(), second.into()))
                    .or_default()
                    .0 = p.reserved;
                self.users.entry(first.into()).or_default().held += i128::from(p.collateral_e4);
            }
            b'o' => self.order(first, second, &OrderRecord::read(value)?)?,
            b'h' => {
                let h = state::read_house(value)?;
                self.shares.entry(first.into()).or_default().1 = h.users_quantity;
                self.house_cash += h.cash_e4;
                self.clearing_cash += h.clearing_e4;
                if h.quantity + h.users_quantity + h.clearing_quantity != 0 {
                    return None;
                }
            }
            b't' => self.totals = state::read_totals(value)?,
            b'b' | b'c' | b'e' | b'm' | b'w' => {}
            b'f' => {
                let (order, _) = second.split_once('\0')?;
                self.in_rows
                    .entry((first.into(), order.into()))
                    .or_default()
                    .1 += standing(order_trades::each(state::body(value)?))?;
            }
            b's' => self.users.entry(first.into()).or_default().shorts.1 += 1,
            b'n' | b'x' => self.users.entry(first.into()).or_default().marked += 1,
            _ => return None,
        }

        Some(())
    }

    fn order(&mut self, user: &str, id: &str, e: &OrderRecord<'_>) -> Option<()> {
        self.orders += 1;
        if e.fills.stand > e.cum {
            return None;
        }

        let elsewhere = e.fills.stand - standing(e.fills.in_entry())?;
        if e.fills.forgotten {
            self.forgotten.insert((user.into(), id.into()));
        } else if elsewhere != 0 {
            self.in_rows.entry((user.into(), id.into())).or_default().0 += elsewhere;
        }

        if !e.is_open() {
            return Some(());
        }

        self.open += 1;
        let u = self.users.entry(user.into()).or_default();
        u.held += i128::from(e.hold.cash_e4);
        u.held_by_sells += i128::from(e.hold.incoming_e4);
        u.staying += u64::from(e.stays);
        self.reserved
            .entry((user.into(), e.content.symbol()?.into()))
            .or_default()
            .1 += e.hold.shares;
        Some(())
    }

    fn compare(self) -> Result<String, String> {
        let mut cash = 0i128;
        for (name, u) in &self.users {
            cash += i128::from(u.available) + i128::from(u.reserved) - i128::from(u.owed);
            u.compare(name)?;
        }

        for ((user, symbol), (position, orders)) in &self.reserved {
            if position != orders {
                return Err(format!(
                    "user {user}: {position} {symbol} reserved, but open sells hold {orders}"
                ));
            }
        }

        if let Some(((user, order), (counted, kept))) = self
            .in_rows
            .iter()
            .find(|(order, (counted, kept))| counted != kept && !self.forgotten.contains(order))
        {
            return Err(format!(
                "user {user}: order {order} counts {counted} shares in rows of trades, {kept} are there"
            ));
        }

        for (symbol, (positions, house)) in &self.shares {
            if positions != house {
                return Err(format!(
                    "users hold {positions} {symbol}, the house's book says {house}"
                ));
            }
        }

        let t = &self.totals;
        if (cash, self.house_cash, self.clearing_cash) != (t.users_e4, t.house_e4, t.clearing_e4) {
            let house = self.house_cash;
            let clearing = self.clearing_cash;
            return Err(format!(
                "users have {cash}, the house {house}, clearing {clearing}; the totals say {t:?}"
            ));
        }

        if t.users_e4 + t.house_e4 + t.external_e4 + t.clearing_e4 + t.fees_e4 + t.rounding_e4 != 0
        {
            return Err(format!("cash does not sum to zero: {t:?}"));
        }

        Ok(format!(
            "{} accounts, {} ids, {} open orders; cash and shares sum to zero",
            self.users.len(),
            self.orders,
            self.open
        ))
    }
}
