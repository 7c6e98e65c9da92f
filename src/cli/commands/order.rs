//! `order`: sends one command, and shows its events.

use client::check_id;
use client::instruments::Listings;
use serde_json::{Map, Value};
use wire::command;

use super::send::{Sending, carry_out, new_id, patience};
use crate::cli::args::{OrderArgs, SideArg};
use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::{moment, number, shown};

/// Sends the command, and waits unless `--no-wait` is given.
pub(crate) fn run(config: &Config, order: &OrderArgs) -> Result<(), Failure> {
    let timeout = patience(&order.timeout)?;
    let sending = match &order.json {
        Some(text) => raw(text)?,
        None => build(order)?,
    };

    // Without a wait, a raw command is sent unchecked.
    if order.json.is_none() || !order.no_wait {
        super::user(&sending.user)?;
    }

    let wait = (!order.no_wait).then_some(timeout);
    carry_out(config, wait, |log| {
        // Same check as in the client library: report an unlisted symbol before the command is
        // sent.
        if let Some(symbol) = order.side.and(order.symbol.as_ref()) {
            Listings::load(log)?.check(symbol)?;
        }

        Ok(sending)
    })
}

fn raw(text: &str) -> Result<Sending, Failure> {
    let Ok(Value::Object(command)) = serde_json::from_str(text) else {
        return Err(Failure::usage("--json: must be one JSON object"));
    };

    let field = |name: &str| {
        let value = command.get(name).and_then(Value::as_str);
        value.map(String::from).ok_or_else(|| {
            Failure::usage(format!(
                "--json: needs {name}, a text: it says whose partition the command goes to"
            ))
        })
    };

    Ok(Sending {
        user: field("user_id")?,
        id: field("order_id")?,
        value: text.as_bytes().to_vec(),
    })
}

fn build(order: &OrderArgs) -> Result<Sending, Failure> {
    let user = order
        .user
        .clone()
        .ok_or_else(|| Failure::usage("--user is missing"))?;
    let id = order.id.clone().unwrap_or_else(new_id);
    checked("order_id", &id)?;
    if order.post_only && order.side.is_none() {
        return Err(Failure::usage(
            "--post-only is for a new order: one with --side",
        ));
    }

    let fields = if let Some(orig) = &order.cancel {
        fields([
            ("command", "cancel".into()),
            ("orig_order_id", checked("orig_order_id", orig)?.into()),
        ])
    } else if let Some(orig) = &order.replace {
        replace(order, orig)?
    } else if order.mass_cancel {
        mass_cancel(order.symbol.as_deref())?
    } else if let Some(amount) = &order.deposit {
        transfer("deposit", amount)?
    } else if let Some(amount) = &order.withdraw {
        transfer("withdraw", amount)?
    } else {
        new_order(order)?
    };

    let sending = Sending::new(user, id, fields)?;
    if order.side.is_some() {
        fits(order, &sending)?;
    }

    Ok(sending)
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields
        .map(|(name, v)| (name.to_string(), v))
        .into_iter()
        .collect()
}

fn checked<'a>(field: &'static str, id: &'a str) -> Result<&'a str, Failure> {
    check_id(field, id).map_err(|e| Failure::usage(e.to_string()))?;
    Ok(id)
}

fn replace(order: &OrderArgs, orig: &str) -> Result<Map<String, Value>, Failure> {
    let mut fields = fields([
        ("command", "replace".into()),
        ("orig_order_id", checked("orig_order_id", orig)?.into()),
    ]);
    if order.quantity.is_none() && order.limit_price.is_none() {
        return Err(Failure::usage(
            "--replace needs what is to change: --quantity (what has traded included), --limit-price, or both",
        ));
    }

    if let Some(q) = &order.quantity {
        fields.insert("quantity".into(), quantity(q)?.into());
    }

    if let Some(price) = &order.limit_price {
        let price = price_of("--limit-price", price)?;
        fields.insert("limit_price".into(), price.into());
    }

    Ok(fields)
}

/// Cancels the orders of one symbol, or all orders.
fn mass_cancel(symbol: Option<&str>) -> Result<Map<String, Value>, Failure> {
    let mut fields = fields([("command", "mass_cancel".into())]);
    if let Some(s) = symbol {
        fields.insert("symbol".into(), checked("symbol", s)?.into());
    }

    Ok(fields)
}

/// A `deposit` or a `withdraw`.
fn transfer(command: &str, amount: &str) -> Result<Map<String, Value>, Failure> {
    client::decimal::parse_e4(amount).map_err(|e| Failure::usage(format!("--{command}: {e}")))?;
    Ok(fields([
        ("command", command.into()),
        ("amount", amount.trim().into()),
    ]))
}

fn new_order(order: &OrderArgs) -> Result<Map<String, Value>, Failure> {
    let (Some(s), Some(q), Some(side)) = (&order.symbol, &order.quantity, order.side) else {
        return Err(Failure::usage(
            "an order needs --symbol, --quantity and --side; or say --cancel, --replace, --mass-cancel, --deposit, --withdraw or --json",
        ));
    };

    let side = match side {
        SideArg::Buy => "buy",
        SideArg::Sell => "sell",
    };

    let mut fields = fields([
        ("symbol", checked("symbol", s)?.into()),
        ("quantity", quantity(q)?.into()),
        ("order_type", side.into()),
    ]);
    let word = |text: &Option<String>| text.as_ref().map(|t| t.trim().to_string());
    let price =
        |flag: &str, text: &Option<String>| text.as_ref().map(|t| price_of(flag, t)).transpose();

    let texts = [
        ("type", word(&order.order_type)),
        ("limit_price", price("--limit-price", &order.limit_price)?),
        ("stop_price", price("--stop-price", &order.stop_price)?),
        ("tif", word(&order.tif)),
    ];
    for (name, value) in texts {
        fields.extend(value.map(|v| (name.to_string(), v.into())));
    }

    if let Some(time) = &order.expire_at {
        let time =
            moment::timestamp(time).map_err(|why| Failure::usage(format!("--expire-at: {why}")))?;
        fields.insert("expire_at".into(), time.into());
    }

    if order.post_only {
        fields.insert("post_only".into(), true.into());
    }

    Ok(fields)
}

/// Rejects options that contradict each other: the roles would reject the command, and its id would
/// be used up.
fn fits(order: &OrderArgs, sending: &Sending) -> Result<(), Failure> {
    if command::decode(&sending.value).is_ok_and(|c| c.served().is_some()) {
        return Ok(());
    }

    let kind = order.order_type.as_deref().unwrap_or("market").trim();
    Err(Failure::usage(format!(
        "these options do not go together: {}. market takes no price and --tif IOC or FOK; limit --limit-price; stop --stop-price; stop_limit both; GTD, \
         and nothing else, needs --expire-at; --post-only goes with a limit order that may rest",
        match (kind, &order.limit_price, &order.stop_price) {
            ("market", Some(_), None) => "--limit-price needs --type limit".into(),
            ("market", None, Some(_)) => "--stop-price needs --type stop".into(),
            ("market", Some(_), Some(_)) => "both prices need --type stop_limit".into(),
            ("limit" | "stop_limit", None, _) => format!("--type {kind} needs --limit-price"),
            ("stop" | "stop_limit", _, None) => format!("--type {kind} needs --stop-price"),
            ("market" | "limit" | "stop" | "stop_limit", ..) =>
                format!("--type {kind} is not served with the rest"),
            _ => format!(
                "--type {} is not market, limit, stop or stop_limit",
                shown::word(kind)
            ),
        }
    )))
}

fn quantity(text: &str) -> Result<u64, Failure> {
    number::whole(text).map_err(|why| Failure::usage(format!("--quantity: {why}")))
}

fn price_of(flag: &str, text: &str) -> Result<String, Failure> {
    number::decimal(text)
        .map(String::from)
        .map_err(|why| Failure::usage(format!("{flag}: {why}")))
}
