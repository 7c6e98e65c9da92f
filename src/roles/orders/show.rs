//! What `orders` keeps, as JSON.

use serde_json::{Map, Value, json};

use super::state::{self, Entry};
use crate::roles::show::number;

/// A value by the letter of its key; none if it cannot be read.
pub(in crate::roles) fn show(letter: u8, value: &[u8]) -> Option<Value> {
    Some(match letter {
        b'a' => {
            let a = state::read_account(value)?;
            json!({
                "available_e4": a.available_e4,
                "reserved_e4": a.reserved_e4,
                "incoming_e4": a.incoming_e4,
                "turnover_e4": a.turnover_e4,
                "user_seq": a.user_seq,
                "rate_limit": {"tat_us": a.clock.tat_us, "last_seen_us": a.clock.last_seen_us},
            })
        }
        b'p' => {
            let p = state::read_position(value)?;
            json!({"quantity": p.quantity, "reserved": p.reserved})
        }
        b'o' => order(&Entry::read(value)?),
        b'h' => {
            let h = state::read_house(value)?;
            json!({"cash_e4": number(h.cash_e4), "quantity": number(h.quantity), "users_quantity": number(h.users_quantity)})
        }
        b't' => {
            let t = state::read_totals(value)?;
            json!({"users_e4": number(t.users_e4), "house_e4": number(t.house_e4), "external_e4": number(t.external_e4)})
        }
        _ => return None,
    })
}

fn order(e: &Entry<'_>) -> Value {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Option<Value>| shown.extend(value.map(|v| (name.to_string(), v)));
    put("command", e.content.kind().map(|k| k.name().into()));
    put("status", Some(e.status.name().into()));
    put("reason", e.reason.map(|r| r.name().into()));
    put("symbol", e.content.symbol().map(Into::into));
    put("side", e.content.side().map(|s| s.name().into()));
    put("quantity", e.content.quantity().map(Into::into));
    put("cum_quantity", Some(e.cum.into()));
    put("leaves_quantity", Some(e.leaves().into()));
    put("limit_price_e4", e.content.limit_price().map(Into::into));
    put("amount_e4", e.content.amount().map(Into::into));
    put("hold_e4", Some(e.hold_e4.into()));
    Value::Object(shown)
}
