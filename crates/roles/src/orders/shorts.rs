//! Short positions by the price of now: what is due for them is held whenever their account is
//! looked at, as far as there is cash. So what is available is what is free. There are no margin
//! calls: an account that holds less than is due can neither withdraw nor add to its orders, and
//! that is all.

use crate::decoded_table::DecodedTable;
use crate::ingress::bug;
use domain::checks::due_for_short;
use domain::instrument::Instrument;
use engine::role::Bug;

use super::account_tx::AccountTx;
use super::state;

/// Marks all short positions of the account in hand. First those that hold more than is due, so
/// that the others can have that.
pub(super) fn mark(
    desk: &mut AccountTx<'_, '_>,
    instruments: &mut DecodedTable<Instrument>,
    references: &mut DecodedTable<(i64, i64)>,
) -> Result<(), Bug> {
    if desk.account.shorts == 0 || !desk.buffers.margin {
        return Ok(());
    }

    let symbols = state::shorts(desk.ctx, desk.buffers, desk.user);
    for frees in [true, false] {
        for symbol in &symbols {
            // Without a price there is nothing to mark by.
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
