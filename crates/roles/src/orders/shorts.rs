//! Margin of short positions at the current price. Each access to an account adjusts the collateral
//! to the due amount, as far as cash allows, so available cash is free cash. Margin calls do not
//! exist. An account with too little collateral can neither withdraw nor add to its orders.

use domain::checks::due_for_short;
use engine::role::InvariantViolation;

use super::account_tx::AccountTx;
use super::decision::MarketTables;
use super::state;
use crate::ingress::violation;

/// Adjusts the collateral of all short positions of the account. Positions with too much collateral
/// come first, so that the released cash can serve the others.
pub(super) fn mark(
    tx: &mut AccountTx<'_, '_>,
    tables: &mut MarketTables,
) -> Result<(), InvariantViolation> {
    if tx.account.shorts == 0 || !tx.buffers.margin {
        return Ok(());
    }

    let symbols = state::shorts(tx.ctx, tx.buffers, tx.user);
    for frees in [true, false] {
        for symbol in &symbols {
            // Without a price, the due amount is unknown.
            let Some((price_e4, _)) = tables.references.get(tx.ctx, symbol) else {
                continue;
            };

            let margin_bps = tables
                .instruments
                .get(tx.ctx, symbol)
                .unwrap_or_default()
                .short_margin_bps;
            let mut position = tx.load_position(symbol)?;
            let due = due_for_short(position.short, price_e4, margin_bps);
            let held = i128::from(position.collateral_e4);
            if due != held && (due < held) == frees {
                tx.account
                    .mark(&mut position, due)
                    .map_err(|e| violation(tx.ctx, e))?;
                tx.save_position(symbol, &position)?;
            }
        }
    }

    Ok(())
}
