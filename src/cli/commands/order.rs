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
    let wrong = |e: client::ClientError| Failure::usage(e.to_string());
    let user = order
        .user
        .clone()
        .ok_or_else(|| Failure::usage("--user is missing"))?;
    let id = order.id.clone().unwrap_or_else(new_id);
    check_id("order_id", &id).map_err(wrong)?;
    if order.post_only && order.side.is_none() {
        return Err(Failure::usage(
            "--post-only is for a new order: one with --side",
        ));
    }

    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.into(), value);
    if let Some((command, orig)) = order
        .cancel
        .as_ref()
        .map(|o| ("cancel", o))
        .or_else(|| order.replace.as_ref().map(|o| ("replace", o)))
    {
        check_id("orig_order_id", orig).map_err(wrong)?;
        set("command", command.into());
        set("orig_order_id", orig.as_str().into());
        if command == "replace" {
            if order.quantity.is_none() && order.limit_price.is_none() {
                return Err(Failure::usage(
                    "--replace needs what is to change: --quantity (what has traded included), --limit-price, or both",
                ));
            }

            if let Some(q) = &order.quantity {
                set("quantity", quantity(q)?.into());
            }

            if let Some(price) = &order.limit_price {
                set("limit_price", price_of("--limit-price", price)?.into());
            }
        }
    } else if order.mass_cancel {
        set("command", "mass_cancel".into());
        if let Some(s) = &order.symbol {
            check_id("symbol", s).map_err(wrong)?;
            set("symbol", s.as_str().into());
        }
    } else if let Some((command, amount)) = order
        .deposit
        .as_ref()
        .map(|a| ("deposit", a))
        .or_else(|| order.withdraw.as_ref().map(|a| ("withdraw", a)))
    {
        client::decimal::parse_e4(amount)
            .map_err(|e| Failure::usage(format!("--{command}: {e}")))?;
        set("command", command.into());
        set("amount", amount.trim().into());
    } else {
        let (Some(s), Some(q), Some(side)) = (&order.symbol, &order.quantity, order.side) else {
            return Err(Failure::usage(
                "an order needs --symbol, --quantity and --side; or say --cancel, --replace, --mass-cancel, --deposit, --withdraw or --json",
            ));
        };

        check_id("symbol", s).map_err(wrong)?;
        set("symbol", s.as_str().into());
        set("quantity", quantity(q)?.into());
        set(
            "order_type",
            if side == SideArg::Buy {
                "buy".into()
            } else {
                "sell".into()
            },
        );

        let word = |text: &Option<String>| text.as_ref().map(|t| t.trim().to_string());
        let price = |flag: &str, text: &Option<String>| {
            text.as_ref().map(|t| price_of(flag, t)).transpose()
        };

        let texts = [
            ("type", word(&order.order_type)),
            ("limit_price", price("--limit-price", &order.limit_price)?),
            ("stop_price", price("--stop-price", &order.stop_price)?),
            ("tif", word(&order.tif)),
        ];
        for (name, value) in texts {
            if let Some(v) = value {
                set(name, v.into());
            }
        }

        if let Some(time) = &order.expire_at {
            set(
                "expire_at",
                moment::timestamp(time)
                    .map_err(|why| Failure::usage(format!("--expire-at: {why}")))?
                    .into(),
            );
        }

        if order.post_only {
            set("post_only", true.into());
        }
    }

    let sending = Sending::new(user, id, fields)?;
    if order.side.is_some() {
        fits(order, &sending)?;
    }

    Ok(sending)
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
