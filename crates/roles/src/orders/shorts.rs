//! Margin of short positions at the current price. Each access to an account adjusts the collateral
//! to the due amount, as far as cash allows, so available cash is free cash. Margin calls do not
//! exist. An account with too little collateral can neither withdraw nor add to its orders.

use domain::checks::due_for_short;
use domain::instrument::Instrument;
use engine::role::InvariantViolation;

use super::account_tx::AccountTx;
use super::state;
use crate::decoded_table::DecodedTable;
use crate::ingress::bug;

/// Adjusts the collateral of all short positions of the account. Positions with too much collateral
/// come first, so that the released cash can serve the others.
pub(super) fn mark(
    desk: &mut AccountTx<'_, '_>,
    instruments: &mut DecodedTable<Instrument>,
    references: &mut DecodedTable<(i64, i64)>,
) -> Result<(), InvariantViolation> {
    if desk.account.shorts == 0 || !desk.buffers.margin {
        return Ok(());
    }

    let symbols = state::shorts(desk.ctx, desk.buffers, desk.user);
    for frees in [true, false] {
        for symbol in &symbols {
            // Without a price, the due amount is unknown.
            let Some((price_e4, _)) = references.get(desk.ctx, symbol) else {
                continue;
            };

            let margin_bps = instruments
                .get(desk.ctx, symbol)
                .unwrap_or_default()
                .short_margin_bps;
            let mut position = desk.position(symbol)?;
            let due = due_for_short(position.short, price_e4, margin_bps);
            let held = i128::from(position.collateral_e4);
            if due != held && (due < held) == frees {
                desk.account
                    .mark(&mut position, due)
                    .map_err(|e| bug(desk.ctx, e))?;
                desk.save_position(symbol, &position)?;
            }
        }
    }

    Ok(())
}
