//! `audit find`: a timeline for people, or one JSON object per record.

use ::audit::decision_inputs::{DecisionRow, Inputs};
use ::audit::find::{FindError, Hit, Proof, Timeline, find, name};
use ::audit::query_filter::Query;
use client::check_id;
use client::decimal::show_e4;
use domain::control::EVERYBODY;
use ports::records::Record;
use ports::topics::TopicTable;
use roles::RoleSettings;
use wire::book::{BookAction, BookCommand};
use wire::command::{self, Kind};
use wire::control::OPERATOR;
use wire::topics;

use super::audit;
use crate::cli::args::audit::Find;
use crate::cli::config::Config;
use crate::cli::exit::{Code, Failure};
use crate::cli::open::Access;
use crate::cli::output::{self, OutputFormat};
use crate::cli::shown::{self, Fields, SentValue};
use crate::cli::{decode, open};

pub(crate) fn run(config: &Config, args: &Find) -> Result<(), Failure> {
    for (field, id) in [
        ("--order", &args.order),
        ("--user", &args.user),
        ("--symbol", &args.symbol),
    ] {
        if let Some(id) = id {
            check_id(field, id).map_err(|e| Failure::usage(e.to_string()))?;
        }
    }

    let (from_ms, to_ms) = audit::range(args.from.as_ref(), args.to.as_ref())?;
    let query = Query {
        order: args.order.clone(),
        user: args.user.clone(),
        symbol: args.symbol.clone(),
        from_ms,
        to_ms,
        limit: args.limit,
        ticks: args.ticks,
    };

    let log = open::log(config, Access::Read)?;
    let table = topics::table(&config.topic_prefix);
    let timeline = find(&*log, &table, &query).map_err(|e| match e {
        FindError::Log(e) => e.into(),
        FindError::TooMany(_) => Failure::usage(e.to_string()),
    })?;

    for (r, hit) in timeline.iter() {
        match config.format {
            OutputFormat::Json => output::json(&as_json(&table, &r, hit))?,
            OutputFormat::Text => as_text(&table, &r, hit)?,
        }
    }

    sum_up(config, &timeline)
}

fn sum_up(config: &Config, timeline: &Timeline) -> Result<(), Failure> {
    let count = |proof| timeline.iter().filter(|(_, h)| h.proof == proof).count();
    let chained = count(Proof::Chained);
    let differs = count(Proof::Differs);
    let missing = count(Proof::Missing);
    if config.format == OutputFormat::Text {
        match timeline.hits.len() {
            0 => output::note(
                "nothing is on record; --from and --to may be too narrow, or the id is another",
            ),
            n => output::note(format_args!(
                "{n} records: {chained} as audited, {differs} not as audited, {missing} not audited yet"
            )),
        }
    }

    match differs {
        0 => Ok(()),
        n => Err(Failure::new(
            Code::Bug,
            format!(
                "{n} records differ from the audit log; run `processor audit verify` to see what was done to them"
            ),
        )),
    }
}

fn mark(proof: Proof) -> (char, &'static str) {
    match proof {
        Proof::Chained => ('+', "chained"),
        Proof::Differs => ('!', "differs"),
        Proof::Missing => ('?', "missing"),
        Proof::Internal => ('.', "internal"),
    }
}

fn as_text(table: &TopicTable, r: &Record<'_>, hit: &Hit) -> Result<(), Failure> {
    let kind = decode::header(r, "type").unwrap_or_else(|| {
        let named = match r.at.topic {
            topics::ORDER_COMMANDS => "command",
            topics::OPERATOR_COMMANDS => "operator's command",
            topics::MARKET_DATA => "tick",
            topics::INSTRUMENTS => "listing",
            topics::CONTROLS => "control",
            topics::CLOCK => "wake-up",
            _ => "record",
        };

        named.to_string()
    });

    let said = match r.value.map(decode::shown) {
        // A tombstone lifts the control; only a header can name the operator.
        None if r.at.topic == topics::CONTROLS => match r.headers.text(OPERATOR) {
            Some(operator) => format!("lifted operator={}", shown::word(operator)),
            None => "lifted".to_string(),
        },
        None => "deleted".to_string(),
        // A wake-up has no fields: a time has come, or a listing has changed.
        Some(SentValue::Map(map)) if r.at.topic == topics::CLOCK && map.is_empty() => {
            format!("of trading task {}", r.at.partition)
        }
        Some(SentValue::Map(mut map)) => {
            // In records of the roles, drop the fields that are already shown, and format the
            // amounts. Records of others are shown unchanged.
            if decode::is_ours(r.at.topic) {
                map.retain(|(name, _)| name != "event" && name != "time_us");
                map = readable(map);
            }

            shown::fields(&map)
        }
        Some(other) => other.to_string(),
    };

    let why = decode::header(r, "reason")
        .map(|reason| format!(" {reason}"))
        .unwrap_or_default();
    let indent = "  ".repeat(usize::try_from(hit.depth.min(8)).unwrap_or(0));
    let place = name(table, r);
    output::line(format_args!(
        "{} {} {place:<24} {indent}{kind}{why} {said}",
        mark(hit.proof).0,
        decode::time(r.timestamp_ms)
    ))?;
    match &hit.inputs {
        Some(inputs) => output::line(format_args!(
            "{:52}{indent}  {}",
            "",
            inputs_text(table, inputs, is_new(r))
        )),
        None => Ok(()),
    }
}

/// Formats money for people: `last_price_e4=1892500` becomes `last_price=189.25`.
fn readable(map: Fields) -> Fields {
    let entry = |(name, value): (String, SentValue)| match (
        name.strip_suffix("_e4"),
        value.as_i64(),
        value,
    ) {
        (Some(short), Some(e4), _) => (short.to_string(), SentValue::Text(show_e4(e4))),
        (_, _, SentValue::Map(inner)) => (name, SentValue::Map(readable(inner))),
        (_, _, value) => (name, value),
    };

    map.into_iter().map(entry).collect()
}

/// True for a request for a new order. Its decision always reads the listing, so a missing listing
/// is worth showing. For a cancel or an unreadable record, a missing listing means nothing.
fn is_new(r: &Record<'_>) -> bool {
    let value = r.value.unwrap_or_default();
    match r.at.topic {
        topics::ORDER_COMMANDS | topics::OPERATOR_COMMANDS => {
            command::decode(value).is_ok_and(|c| c.kind == Kind::New)
        }
        _ => BookCommand::decode(value).is_ok_and(|c| matches!(c.ask, BookAction::New(_))),
    }
}

fn inputs_text(table: &TopicTable, i: &Inputs, new: bool) -> String {
    let place = |topic, row: &DecisionRow| match row.offset {
        Some(offset) => format!("{}/0/{offset}", table.name(topic)),
        None => "the ticks".to_string(),
    };

    let mut parts = Vec::new();
    match &i.instrument {
        Some(row) => parts.push(format!(
            "listing {} {}",
            place(topics::INSTRUMENTS, row),
            brief(&row.value)
        )),
        None if new => parts.push("no listing".into()),
        None => {}
    }

    if let Some(row) = &i.reference {
        let v = decode::value(&row.value);
        let price = v["price_e4"].as_i64().unwrap_or(0);
        let time = v["time_us"].as_i64().unwrap_or(0) / 1000;
        parts.push(format!(
            "reference price {} of {} ({})",
            show_e4(price),
            decode::time(time),
            place(topics::REFERENCE_PRICES, row)
        ));
    }

    if let Some(t) = &i.tick {
        let market = table.name(topics::MARKET_DATA);
        parts.push(format!(
            "last tick {} of {} ({market}/{}/{})",
            show_e4(t.price_e4),
            decode::time(t.time_ms),
            i.task,
            t.offset
        ));
    }

    for (whose, row) in &i.controls {
        let place = place(topics::CONTROLS, row);
        parts.push(format!("{} ({place})", control_text(whose, row)));
    }

    if let Some(set) = i
        .settings
        .as_deref()
        .map(unusual)
        .filter(|set| !set.is_empty())
    {
        parts.push(format!("set to {}", shown::fields(&readable(set))));
    }

    let colon = if parts.is_empty() { "" } else { ": " };
    format!(
        "^ decided by {} task {}, transaction {}{colon}{}",
        i.role,
        i.task,
        i.transaction,
        parts.join("; ")
    )
}

/// Whom a control is for, and its state.
fn control_text(whose: &str, row: &DecisionRow) -> String {
    let row_value = decode::shown(&row.value);
    let what = shown::word(
        row_value
            .get("state")
            .and_then(SentValue::as_str)
            .unwrap_or("?"),
    );
    let whom = if whose == EVERYBODY {
        "everybody"
    } else {
        "the user"
    };

    format!("{whom} {what}")
}

/// The settings that differ from the defaults.
fn unusual(settings: &[u8]) -> Fields {
    let usual = decode::shown(&RoleSettings::default().encode());
    match decode::shown(settings) {
        SentValue::Map(all) => all
            .into_iter()
            .filter(|(name, value)| usual.get(name) != Some(value))
            .collect(),
        _ => Fields::new(),
    }
}

/// The fields of a listing, without symbol and name.
fn brief(value: &[u8]) -> String {
    match decode::shown(value) {
        SentValue::Map(mut map) => {
            map.retain(|(name, _)| name != "symbol" && name != "name");
            if map.is_empty() {
                "(all defaults)".into()
            } else {
                format!("({})", shown::fields(&map))
            }
        }
        other => other.to_string(),
    }
}

fn as_json(table: &TopicTable, r: &Record<'_>, hit: &Hit) -> SentValue {
    let more = [
        ("audited", SentValue::Text(mark(hit.proof).1.into())),
        ("depth", number(hit.depth)),
        ("context", SentValue::Bool(hit.context)),
        (
            "decision",
            hit.inputs.as_ref().map_or(SentValue::Null, inputs_json),
        ),
    ];

    SentValue::Map(
        decode::record(table.name(r.at.topic), r)
            .into_iter()
            .chain(named(more))
            .collect(),
    )
}

fn named<const N: usize>(fields: [(&str, SentValue); N]) -> Fields {
    fields
        .into_iter()
        .map(|(name, v)| (name.to_string(), v))
        .collect()
}

fn number(n: impl ToString) -> SentValue {
    SentValue::Number(n.to_string())
}

fn inputs_json(i: &Inputs) -> SentValue {
    let offset = |r: &DecisionRow| r.offset.map_or(SentValue::Null, number);
    let row = |row: &Option<DecisionRow>| {
        row.as_ref().map_or(SentValue::Null, |r| {
            SentValue::Map(named([
                ("offset", offset(r)),
                ("value", decode::shown(&r.value)),
            ]))
        })
    };

    let tick = i.tick.as_ref().map_or(SentValue::Null, |t| {
        SentValue::Map(named([
            ("offset", number(t.offset)),
            ("price", SentValue::Text(show_e4(t.price_e4))),
            ("time_ms", number(t.time_ms)),
        ]))
    });

    let control = |(key, r): &(String, DecisionRow)| {
        SentValue::Map(named([
            ("key", SentValue::Text(key.clone())),
            ("offset", offset(r)),
            ("value", decode::shown(&r.value)),
        ]))
    };

    SentValue::Map(named([
        ("role", SentValue::Text(i.role.to_string())),
        ("task", number(i.task)),
        ("transaction", number(i.transaction)),
        ("instrument", row(&i.instrument)),
        ("reference_price", row(&i.reference)),
        ("tick", tick),
        (
            "controls",
            SentValue::List(i.controls.iter().map(control).collect()),
        ),
        (
            "settings",
            i.settings.as_deref().map_or(SentValue::Null, decode::shown),
        ),
    ]))
}
