//! Operator commands for the orders of users: `account cancel` and `account bust`.

use client::decimal::show_e4;
use client::{check_id, partitions};
use domain::hold;
use ports::Log;
use ports::partitioner;
use serde_json::{Map, Value};
use wire::event::{Event, OrderEvent};
use wire::topics::ORDER_EVENTS;

use super::send::{Sending, carry_out, new_id, patience};
use crate::cli::args::account::{Bust, Cancel};
use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::read;

/// Cancels one order of a user, all orders, or those of a symbol.
pub(crate) fn cancel(config: &Config, cancel: &Cancel) -> Result<(), Failure> {
    let mut fields = Map::new();
    let command = match (&cancel.order_id, &cancel.symbol) {
        (Some(id), _) => {
            set(&mut fields, "orig_order_id", id)?;
            "cancel"
        }
        (None, symbol) => {
            symbol
                .iter()
                .try_for_each(|s| set(&mut fields, "symbol", s))?;
            "mass_cancel"
        }
    };

    set(&mut fields, "command", command)?;
    set(&mut fields, "operator", &cancel.operator)?;
    let sending = Sending::new(super::user(&cancel.user)?.to_string(), new_id(), fields)?;
    carry_out(config, Some(patience(&cancel.timeout)?), |_| Ok(sending))
}

/// Busts a trade of a user's order, with the data of the user's events.
pub(crate) fn bust(config: &Config, bust: &Bust) -> Result<(), Failure> {
    let mut fields = Map::new();
    let named = [
        ("command", "bust"),
        ("orig_order_id", &bust.order_id),
        ("trade_id", &bust.trade_id),
        ("operator", &bust.operator),
    ];
    named
        .into_iter()
        .try_for_each(|(name, value)| set(&mut fields, name, value))?;
    let user = super::user(&bust.user)?;
    bust.id
        .iter()
        .try_for_each(|id| check_id("id", id).map_err(|e| Failure::usage(e.to_string())))?;
    carry_out(config, Some(patience(&bust.timeout)?), |log| {
        let (quantity, price_e4, fee_e4) = part(&**log, bust)?;
        fields.insert("quantity".into(), quantity.into());
        fields.insert("price".into(), show_e4(price_e4).into());

        // The fee changes with each busted part. With a given command id, the command may be sent
        // again, and both commands must be equal.
        if bust.id.is_none() {
            fields.insert("fee".into(), show_e4(fee_e4).into());
        }

        Sending::new(
            user.to_string(),
            bust.id.clone().unwrap_or_else(new_id),
            fields,
        )
    })
}

/// Quantity, price and fee of the busted part.
fn part(log: &dyn Log, bust: &Bust) -> Result<(i64, i64, i64), Failure> {
    let partition = partitioner::partition(bust.user.as_bytes(), partitions(log, ORDER_EVENTS)?);
    let mut fill = None;
    let mut back = 0;
    read::to_end(log, ORDER_EVENTS, &[partition], |r| {
        let Ok(e) = OrderEvent::decode(r.value.unwrap_or_default()) else {
            return;
        };

        if (e.user_id, e.order_id, e.trade_id)
            != (&*bust.user, Some(&*bust.order_id), Some(&*bust.trade_id))
        {
            return;
        }

        match e.event {
            Event::OrderFilled | Event::OrderPartiallyFilled => {
                fill = e
                    .last_quantity
                    .zip(e.last_price_e4)
                    .map(|(quantity, price)| (quantity, price, e.fee_e4.unwrap_or(0)));
            }
            Event::TradeBusted => back += e.last_quantity.unwrap_or(0),
            _ => {}
        }
    })?;

    let Bust {
        user,
        order_id,
        trade_id,
        ..
    } = bust;
    let (whole, price_e4, fee_e4) = fill.ok_or_else(|| {
        Failure::failed(format!(
            "order {order_id} of user {user} has no trade {trade_id}; `processor audit find --user {user} --order {order_id}` shows what it has"
        ))
    })?;

    // If no quantity is left, send the command anyway: `orders` gives the answer.
    let quantity = bust
        .quantity
        .unwrap_or(if back < whole { whole - back } else { whole });
    let fee = |quantity| hold::part_of(fee_e4, quantity, whole);
    Ok((
        quantity,
        price_e4,
        fee(back.saturating_add(quantity)).saturating_sub(fee(back)),
    ))
}

fn set(fields: &mut Map<String, Value>, name: &'static str, value: &str) -> Result<(), Failure> {
    check_id(name, value).map_err(|e| Failure::usage(e.to_string()))?;
    fields.insert(name.into(), value.into());
    Ok(())
}
