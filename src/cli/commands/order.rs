//! `order`: one command, and what becomes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::cli::args::{Order, SideArg};
use crate::cli::config::{self, Config, Target};
use crate::cli::exit::{Code, Failure};
use crate::cli::open::Access;
use crate::cli::output::Format;
use crate::cli::{decode, output, read, system};
use crate::client::instruments::Instruments;
use crate::client::{KeyedAppender, check_id, now_ms, partitions};
use crate::domain::partitioner;
use crate::engine::ports::{From, Log};
use crate::engine::records::Records;
use crate::engine::topics::TopicPartition;
use crate::roles::Role;
use crate::runtime::{signals, supervisor::Supervisor};
use crate::wire::topics::{ORDER_COMMANDS, ORDER_EVENTS};

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
        let (config, log) = (config.clone(), system.log.clone());
        let grace = system::grace(&config);
        let mut outcome = Ok(());
        let sent = tokio::task::spawn_blocking(move || send(&config, &*log, &sending, wait));
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
    let partition = partitioner::partition(sending.user.as_bytes(), partitions(log, ORDER_EVENTS)?);
    let mut commands = KeyedAppender::new(log, ORDER_COMMANDS)?;
    // The end before sending: whatever the command causes comes after it.
    let end = log.bounds(TopicPartition::new(ORDER_EVENTS, partition))?.stable_end;
    let mut events = log.reader(ORDER_EVENTS, &[(partition, From::Offset(end))], true)?;
    commands.append(&sending.user, Some(&sending.value))?;
    commands.flush(Duration::from_secs(30))?;
    let Some(wait) = wait else {
        return match config.format {
            Format::Json => output::json(&json!({"sent": true, "user_id": sending.user, "order_id": sending.id})),
            Format::Text => output::line(format_args!("sent {} for user {}", sending.id, sending.user)),
        };
    };
    let began = Instant::now();
    let mut batch = Records::new();
    loop {
        let left = wait.saturating_sub(began.elapsed());
        batch.clear();
        events.poll(left.min(Duration::from_millis(100)), read::LIMITS, &mut batch)?;
        for r in batch.iter() {
            let Some(Value::Object(event)) = r.value.map(decode::value) else { continue };
            let ours = |field: &str| event.get(field).and_then(Value::as_str) == Some(sending.id.as_str());
            if event.get("user_id").and_then(Value::as_str) != Some(sending.user.as_str()) || !(ours("order_id") || ours("cause_id")) {
                continue;
            }
            show(config, &event)?;
            match verdict(&event, ours("order_id")) {
                None => {}
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => return Err(Failure::failed(why)),
            }
        }
        if left.is_zero() {
            return Err(Failure::failed(format!(
                "no final event within {} ms; the command is in the log and will be handled once: is the role `orders` running (`processor status`)? \
                 Sending {} again is safe",
                wait.as_millis(),
                sending.id
            )));
        }
    }
}

/// Whether an event ends the wait, and how. `own`: the event talks about the command's own id.
fn verdict(event: &Map<String, Value>, own: bool) -> Option<Result<(), String>> {
    let text = |field: &str| event.get(field).and_then(Value::as_str).unwrap_or_default();
    let because =
        || Some(Err([text("event"), text("reason"), text("text")].iter().filter(|t| !t.is_empty()).copied().collect::<Vec<_>>().join(" ")));
    match (text("event"), text("status")) {
        ("OrderRejected" | "DuplicateRejected" | "CancelRejected", _) => because(),
        ("OrderStatus", "rejected") => because(),
        ("OrderStatus" | "OrderReplaced", _) => Some(Ok(())),
        ("OrderCancelled", _) if !own => Some(Ok(())),
        // The opening deposit is caused by a user's first command, but does not end it.
        ("Deposited" | "Withdrawn", _) => own.then_some(Ok(())),
        (_, "filled") => Some(Ok(())),
        (_, "cancelled" | "expired" | "rejected") => because(),
        _ => None,
    }
}

fn show(config: &Config, event: &Map<String, Value>) -> Result<(), Failure> {
    if config.format == Format::Json {
        return output::json(&Value::Object(event.clone()));
    }
    let mut rest = event.clone();
    let name = rest.shift_remove("event").as_ref().map(output::plain).unwrap_or_default();
    output::line(format_args!("{name:<22} {}", decode::fields(&rest)))
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
    check_id("user_id", &user).map_err(wrong)?;
    check_id("order_id", &id).map_err(wrong)?;
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.into(), value);
    set("order_id", id.as_str().into());
    set("user_id", user.as_str().into());
    let mut symbol = None;
    if let Some(orig) = &order.cancel {
        set("command", "cancel".into());
        set("orig_order_id", orig.as_str().into());
    } else if let Some((command, amount)) =
        order.deposit.as_ref().map(|a| ("deposit", a)).or_else(|| order.withdraw.as_ref().map(|a| ("withdraw", a)))
    {
        crate::client::decimal::parse_e4(amount).map_err(|e| Failure::usage(format!("--{command}: {e}")))?;
        set("command", command.into());
        set("amount", amount.as_str().into());
    } else {
        let (Some(s), Some(quantity), Some(side)) = (&order.symbol, &order.quantity, order.side) else {
            return Err(Failure::usage("an order needs --symbol, --quantity and --side; or say --deposit, --withdraw, --cancel or --json"));
        };
        check_id("symbol", s).map_err(wrong)?;
        let quantity: u64 = quantity.parse().map_err(|_| Failure::usage(format!("--quantity {quantity}: must be a whole number")))?;
        set("symbol", s.as_str().into());
        set("quantity", quantity.into());
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
        symbol = Some(s.clone());
    }
    set("timestamp", now_ms().into());
    let value = rmp_serde::to_vec_named(&fields).map_err(|e| Failure::failed(format!("the command cannot be encoded: {e}")))?;
    Ok(Sending { user, id, symbol, value })
}
