//! Checks across tasks. At rest, a trade between users has been settled in the tasks of both users.
//! An order is open in `orders` if and only if a book contains it. Used by `verify` and by tests.

use ports::StateStore;

use super::{orders, trading};

/// User, order id and LeavesQty.
pub type ReconciledOrder = (String, String, i64);

/// Collected state of the tasks of both roles.
#[derive(Default)]
pub struct Reconciliation {
    accounts: orders::SharedSums,
    in_books: Vec<ReconciledOrder>,
}

impl Reconciliation {
    /// Adds a task of `orders`.
    pub fn add_orders(&mut self, store: &dyn StateStore) -> Result<(), String> {
        self.accounts.add(store)
    }

    /// Adds a task of `trading`.
    pub fn add_trading(&mut self, store: &dyn StateStore) -> Result<(), String> {
        self.in_books.extend(
            trading::read_books(store)?
                .into_iter()
                .map(|l| (l.user_id, l.order_id, l.leaves)),
        );
        Ok(())
    }

    /// Returns the open orders, sorted; or the first difference.
    pub fn check(self) -> Result<Vec<ReconciledOrder>, String> {
        let Reconciliation {
            accounts,
            mut in_books,
        } = self;
        if let Some((symbol, (cash, shares))) =
            accounts.clearing.iter().find(|(_, sum)| **sum != (0, 0))
        {
            return Err(format!(
                "{symbol}: {cash} of cash and {shares} shares are on their way (nothing is, at rest)"
            ));
        }

        if let Some((user, id)) = accounts.mass_cancels.first() {
            return Err(format!(
                "mass cancel {id} of user {user} is not through (none is under way, at rest)"
            ));
        }

        let mut open = accounts.open;
        open.sort();
        in_books.sort();
        let differs = open
            .iter()
            .zip(&in_books)
            .find(|(a, b)| a != b)
            .map(|(a, b)| (Some(a), Some(b)));
        let a = open.len();
        let b = in_books.len();
        match differs.or_else(|| (a != b).then(|| (open.get(b), in_books.get(a)))) {
            None => Ok(open),
            Some(pair) => Err(format!(
                "{a} orders are open, {b} are in a book; the first that differ (equal at rest): {pair:?}"
            )),
        }
    }
}
