//! `order`: one command, and what becomes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::answers::Answers;
use crate::cli::args::{Order, SideArg};
use crate::cli::config::{self, Config, Target};
use crate::cli::exit::{Code, Failure};
use crate::cli::open::Access;
use crate::cli::output::Format;
use crate::cli::{output, system};
use crate::client::instruments::Instruments;
use crate::client::{KeyedAppender, check_id, now_ms};
use crate::engine::ports::Log;
use crate::roles::Role;
use crate::runtime::signals;
use crate::runtime::supervisor::Supervisor;
use crate::runtime::system::System;
use crate::wire::topics::ORDER_COMMANDS;

/// How long to wait for what follows from a command. What takes longer is done by whoever runs the roles next.
const SETTLE: Duration = Duration::from_secs(10);

/// A command ready to be sent.
struct Sending {
    user: String,
    id: String,
    symbol: Option<String>,
    value: Vec<u8>,
}

/// Sends, and waits unless told not to. On the embedded log, which one process has to itself, the roles run here as long as the order does.
pub fn run(config: &Config, order: &Order) -> Result<(), Failure> {
    let timeout = config::duration_ms(&order.timeout).map_err(|e| Failure::usage(format!("--timeout: {e}")))?;
    let sending = match &order.json {
        Some(text) => raw(text)?,
        None => build(order)?,
    };
    // Sent as it is, whatever it is, if nobody waits for what comes of it.
    if order.json.is_none() || !order.no_wait {
        super::user(&sending.user)?;
    }
    let wait = (!order.no_wait).then_some(Duration::from_millis(timeout));
    let host = wait.is_some() && matches!(config.target, Target::Embedded { .. });
    let system = system::of(config, Access::Write).map_err(|f| in_use(config, f))?;
    allowed(&system.log, &sending)?;
    if !host {
        return send(config, &*system.log, &sending, wait);
    }
    system::block_on(async {
        let signal = signals::first_of()?;
        let members = Role::all().iter().map(|r| system.member(*r)).collect();
        let supervisor = Supervisor::start(members, system.topics.clone(), system.state.clone());
        let config = config.clone();
        let grace = system::grace(&config);
        let mut outcome = Ok(());
        let sent = tokio::task::spawn_blocking(move || {
            let sent = send(&config, &*system.log, &sending, wait);
            settle(&system).and(sent)
        });
        let until = async {
            tokio::select! {
                sent = sent => outcome = sent.unwrap_or_else(|e| Err(Failure::new(Code::Bug, e.to_string()))),
                () = signal => outcome = Err(Failure::failed("stopped before the final event; the command is handled once by the next start")),
            }
        };
        supervisor.run(until, grace).await?;
        outcome
    })
}

/// What follows from a command (the portfolio, the notification, the audit entries) is there too before the roles stop: who looks next wants to find it.
fn settle(system: &System) -> Result<(), Failure> {
    let began = Instant::now();
    while system.unread()? > 0 && began.elapsed() < SETTLE {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Says what to do about an embedded log that another process has.
fn in_use(config: &Config, failure: Failure) -> Failure {
    match &config.target {
        Target::Embedded { .. } => Failure::new(
            failure.code,
            format!(
                "{failure}\nOrders for an embedded log are sent by the process that has it: stop that one first, or use Kafka (--brokers)"
            ),
        ),
        _ => failure,
    }
}

/// The same check that the client library makes: an unlisted symbol is told before anything is sent.
fn allowed(log: &Arc<dyn Log>, sending: &Sending) -> Result<(), Failure> {
    match &sending.symbol {
        Some(symbol) => Ok(Instruments::load(log)?.check(symbol)?),
        None => Ok(()),
    }
}

fn send(config: &Config, log: &dyn Log, sending: &Sending, wait: Option<Duration>) -> Result<(), Failure> {
    let answers = wait.map(|_| Answers::listen(config, log, &sending.user, &sending.id, &sending.value)).transpose()?;
    let mut commands = KeyedAppender::new(log, ORDER_COMMANDS)?;
    commands.append(&sending.user, Some(&sending.value))?;
    commands.flush(Duration::from_secs(30))?;
    match (answers, wait) {
        (Some(answers), Some(wait)) => answers.wait(wait),
        _ => match config.format {
            Format::Json => output::json(&json!({"sent": true, "user_id": sending.user, "order_id": sending.id})),
            Format::Text => output::line(format_args!("sent {} for user {}", sending.id, sending.user)),
        },
    }
}

fn raw(text: &str) -> Result<Sending, Failure> {
    let Ok(Value::Object(command)) = serde_json::from_str(text) else {
        return Err(Failure::usage("--json: must be one JSON object"));
    };
    let field = |name: &str| {
        let value = command.get(name).and_then(Value::as_str);
        value
            .map(String::from)
            .ok_or_else(|| Failure::usage(format!("--json: needs {name}, a text: it says whose partition the command goes to")))
    };
    Ok(Sending { user: field("user_id")?, id: field("order_id")?, symbol: None, value: text.as_bytes().to_vec() })
}

fn build(order: &Order) -> Result<Sending, Failure> {
    let wrong = |e: crate::client::ClientError| Failure::usage(e.to_string());
    let user = order.user.clone().ok_or_else(|| Failure::usage("--user is missing"))?;
    let id = order.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    check_id("order_id", &id).map_err(wrong)?;
    if order.post_only && order.side.is_none() {
        return Err(Failure::usage("--post-only is for a new order: one with --side"));
    }
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.into(), value);
    set("order_id", id.as_str().into());
    set("user_id", user.as_str().into());
    let mut symbol = None;
    if let Some((command, orig)) = order.cancel.as_ref().map(|o| ("cancel", o)).or_else(|| order.replace.as_ref().map(|o| ("replace", o))) {
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
                set("limit_price", price.as_str().into());
            }
        }
    } else if order.mass_cancel {
        set("command", "mass_cancel".into());
        if let Some(s) = &order.symbol {
            check_id("symbol", s).map_err(wrong)?;
            set("symbol", s.as_str().into());
        }
    } else if let Some((command, amount)) =
        order.deposit.as_ref().map(|a| ("deposit", a)).or_else(|| order.withdraw.as_ref().map(|a| ("withdraw", a)))
    {
        crate::client::decimal::parse_e4(amount).map_err(|e| Failure::usage(format!("--{command}: {e}")))?;
        set("command", command.into());
        set("amount", amount.as_str().into());
    } else {
        let (Some(s), Some(q), Some(side)) = (&order.symbol, &order.quantity, order.side) else {
            return Err(Failure::usage(
                "an order needs --symbol, --quantity and --side; or say --cancel, --replace, --mass-cancel, --deposit, --withdraw or --json",
            ));
        };
        check_id("symbol", s).map_err(wrong)?;
        set("symbol", s.as_str().into());
        set("quantity", quantity(q)?.into());
        set("order_type", if side == SideArg::Buy { "buy".into() } else { "sell".into() });
        let texts =
            [("type", &order.order_type), ("limit_price", &order.limit_price), ("stop_price", &order.stop_price), ("tif", &order.tif)];
        for (name, value) in texts {
            if let Some(v) = value {
                set(name, v.as_str().into());
            }
        }
        if let Some(t) = order.expire_at {
            set("expire_at", t.into());
        }
        if order.post_only {
            set("post_only", true.into());
        }
        symbol = Some(s.clone());
    }
    set("timestamp", now_ms().into());
    let value = rmp_serde::to_vec_named(&fields).map_err(|e| Failure::failed(format!("the command cannot be encoded: {e}")))?;
    Ok(Sending { user, id, symbol, value })
}

fn quantity(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| Failure::usage(format!("--quantity {text}: must be a whole number")))
}
