//! The state of `orders` as JSON.

use domain::account::{Account, CashTotals, HousePosition};
use domain::rate_limit::Messages;
use domain::status::Side;
use serde_json::{Map, Value, json};

use super::dedup_window::{ExpiryMark, ExpiryQueue, ExpiryRow};
use super::mass;
use super::open_orders::OpenOrderRow;
use super::order_trades::{self, Fill};
use super::state::{self, OrderRecord};
use crate::show::number;

/// A value as JSON, by the letter of its key; `None` if the value is unreadable.
pub(crate) fn show(letter: u8, value: &[u8]) -> Option<Value> {
    // Fields that are newer than the first version are shown only if set.
    Some(match letter {
        b'a' => account(&state::read_account(value)?),
        b'p' => {
            let p = state::read_position(value)?;
            let shown = json!({"quantity": p.net(), "reserved": p.reserved});
            with(
                shown,
                &[
                    ("short", p.short.into()),
                    ("collateral_e4", p.collateral_e4.into()),
                ],
            )
        }
        b'o' => order(&OrderRecord::read(value)?)?,
        b'h' => house(&state::read_house(value)?),
        b't' => totals(&state::read_totals(value)?),
        b'f' => trades(order_trades::each(state::body(value)?))?,
        b'b' | b's' | b'x' => json!({}),
        b'n' => with(
            json!({}),
            &[(
                "since_user_seq",
                i128::from(OpenOrderRow::read(value)?.since()),
            )],
        ),
        b'c' => {
            let mass::UnderWay {
                symbol,
                reason,
                since,
                after,
            } = mass::UnderWay::read(value)?;
            json!({"symbol": symbol, "reason": reason.name(), "up_to_user_seq": since, "after_symbol": after.0, "after_order_id": after.1})
        }
        b'e' => {
            let ExpiryRow { user, order_id } = ExpiryRow::read(value)?;
            json!({"user_id": user, "order_id": order_id})
        }
        b'm' => {
            let ExpiryMark { below, time_ms } = ExpiryMark::read(value)?;
            json!({"ended_below": below, "time_ms": time_ms})
        }
        b'w' => {
            let e = ExpiryQueue::read(value)?;
            json!({"ended": [e.first, e.next], "marks": [e.first_mark, e.next_mark], "marked": e.marked, "marked_ms": e.marked_ms})
        }
        _ => return None,
    })
}

fn account(a: &Account) -> Value {
    let shown = json!({
        "available_e4": a.available_e4,
        "reserved_e4": a.reserved_e4,
        "incoming_e4": a.incoming_e4,
        "turnover_e4": a.turnover_e4,
        "user_seq": a.user_seq,
        "rate_limit": {"tat_us": a.clock.tat_us, "last_seen_us": a.clock.last_seen_us},
    });

    let mut shown = with(
        shown,
        &[
            ("open_orders", a.open_orders.into()),
            ("short_positions", a.shorts.into()),
            ("owed_e4", a.owed_e4.into()),
        ],
    );

    if a.messages != Messages::default() {
        let Messages {
            clock,
            told_ms,
            unanswered,
        } = a.messages;
        shown["message_rate_limit"] = json!({"tat_us": clock.tat_us, "last_seen_us": clock.last_seen_us, "told_ms": told_ms, "unanswered": unanswered});
    }

    shown
}

fn house(h: &HousePosition) -> Value {
    let shown = json!({"cash_e4": number(h.cash_e4), "quantity": number(h.quantity), "users_quantity": number(h.users_quantity)});
    with(
        shown,
        &[
            ("clearing_e4", h.clearing_e4),
            ("clearing_quantity", h.clearing_quantity),
        ],
    )
}

fn totals(t: &CashTotals) -> Value {
    let shown = json!({"users_e4": number(t.users_e4), "house_e4": number(t.house_e4), "external_e4": number(t.external_e4)});
    with(
        shown,
        &[
            ("clearing_e4", t.clearing_e4),
            ("fees_e4", t.fees_e4),
            ("rounding_e4", t.rounding_e4),
        ],
    )
}

/// Adds the fields that are not zero.
fn with(mut shown: Value, more: &[(&str, i128)]) -> Value {
    if let Value::Object(map) = &mut shown {
        map.extend(
            more.iter()
                .filter(|(_, n)| *n != 0)
                .map(|(name, n)| (name.to_string(), number(*n))),
        );
    }

    shown
}

/// Trades of an order; `None` if a trade is unreadable.
fn trades<'a>(all: impl Iterator<Item = Option<Fill<'a>>>) -> Option<Value> {
    all.map(|fill| {
        let f = fill?;
        let shown = json!({"trade_id": f.trade_id, "quantity": f.quantity, "price_e4": f.price_e4, "fee_e4": f.fee.charged_e4, "with_house": f.with_house});
        Some(with(shown, &[("taken_back", f.back.into())]))
    })
    .collect()
}

fn order(e: &OrderRecord<'_>) -> Option<Value> {
    let mut shown = Map::new();
    let mut put =
        |name: &str, value: Option<Value>| shown.extend(value.map(|v| (name.to_string(), v)));
    put("command", e.content.kind().map(|k| k.name().into()));
    put("status", Some(e.status.name().into()));
    put("reason", e.reason.map(|r| r.name().into()));
    put("symbol", e.content.symbol().map(Into::into));
    put("side", e.content.side().map(|s| s.name().into()));
    put("quantity", e.quantity().map(Into::into));
    put("cum_quantity", Some(e.cum.into()));
    put("leaves_quantity", Some(e.leaves().into()));
    put("limit_price_e4", e.limit_price().map(Into::into));
    put("amount_e4", e.content.amount().map(Into::into));
    let sells = e.content.side() == Some(Side::Sell);
    put(
        "hold_e4",
        Some(
            if sells {
                e.hold.incoming_e4
            } else {
                e.hold.cash_e4
            }
            .into(),
        ),
    );

    let more = [
        ("hold_shares", e.hold.shares.into()),
        (
            "hold_short_e4",
            if sells { e.hold.cash_e4 } else { 0 }.into(),
        ),
        ("pending_changes", e.pending.into()),
        ("cancels_without_room", e.ending.into()),
    ];

    let mut shown = with(Value::Object(shown), &more);
    if !e.fills.is_empty() {
        (shown["cum_value_e4"], shown["trades"]) = (e.value_e4.into(), trades(e.fills.in_entry())?);
    }

    Some(shown)
}
