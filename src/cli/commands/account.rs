//! `account stop`, `disable`, `resume`, `list`: the kill switch of operators.

use std::collections::BTreeMap;
use std::time::Duration;

use client::{KeyedAppender, check_id};
use domain::control::{Control, EVERYBODY};
use ports::Log;
use ports::records::HeaderBuf;
use serde_json::{Value, json};
use wire::control::{self, ControlRow};
use wire::topics::{CONTROLS, INPUT_BYTES_MAX};

use crate::cli::args::account::Whom;
use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open::Access;
use crate::cli::output::{self, OutputFormat};
use crate::cli::{decode, open, read};

const FLUSH: Duration = Duration::from_secs(60);

/// Stops or disables a user or everybody, by `state`.
pub(crate) fn switch_off(
    config: &Config,
    whom: &Whom,
    state: Control,
    keep_orders: bool,
    text: Option<&str>,
    operator: &str,
) -> Result<(), Failure> {
    let key = key(whom)?;
    check_id("operator", operator).map_err(|e| Failure::usage(e.to_string()))?;
    let log = open::log(config, Access::Write)?;
    let table = Switched::load(&*log)?;

    // Each user has one row. Merge with the present row, so that a new stop never allows more than
    // before.
    let before = table.rows.get(key);
    let keep_orders = keep_orders && before.is_none_or(|before| before.keep_orders);
    let kept = before.filter(|before| before.state > state && before.keep_orders == keep_orders);
    let now = before.map_or(state, |before| before.state.max(state));
    if kept.is_none() {
        let mut value = Vec::new();
        ControlRow {
            state: now,
            keep_orders,
            text: text.map(Into::into),
            operator: Some(operator.into()),
        }
        .encode(&mut value);

        if value.len() > INPUT_BYTES_MAX {
            return Err(Failure::usage(
                "--text: is too long; a record may have 64 KiB",
            ));
        }

        write(&*log, key, Some(&value), operator)?;
    }

    match config.format {
        OutputFormat::Json => {
            output::json(&json!({"user": key, "state": now.name(), "changed": kept.is_none()}))?
        }
        OutputFormat::Text => output::line(format_args!("{} {}", whom_text(key), now.name()))?,
    }

    if kept.is_some() {
        output::note(format_args!(
            "It was so before, which is more than {}: nothing was written.",
            state.name()
        ));
    }

    let (user, each) = if key == EVERYBODY {
        ("USER".into(), " (for each user)")
    } else {
        (typed(key), "")
    };

    if keep_orders && kept.is_none() {
        output::note(format_args!(
            "Orders that rest stay and may trade. To end them: processor account cancel {user} --operator NAME{each}"
        ));
    }

    Ok(())
}

/// Removes the control of a user, or of everybody.
pub(crate) fn resume(config: &Config, whom: &Whom, operator: &str) -> Result<(), Failure> {
    let key = key(whom)?;
    check_id("operator", operator).map_err(|e| Failure::usage(e.to_string()))?;
    let log = open::log(config, Access::Write)?;
    let mut table = Switched::load(&*log)?;

    // Delete an unreadable record, too.
    let there = table.bad.contains_key(key) || table.rows.contains_key(key);
    if there {
        write(&*log, key, None, operator)?;
        table.rows.remove(key);
    }

    match config.format {
        OutputFormat::Json => output::json(&json!({"user": key, "state": null, "changed": there}))?,
        OutputFormat::Text if there => output::line(format_args!("{} resumed", whom_text(key)))?,
        OutputFormat::Text => {}
    }

    match table.rows.get(EVERYBODY) {
        Some(row) if key != EVERYBODY => {
            output::note(format_args!(
                "Everybody is {}, and {key} with them; `processor account resume --all` lifts that.",
                row.state.name()
            ));
        }
        None if key == EVERYBODY && !table.rows.is_empty() => output::note(format_args!(
            "Still stopped or disabled one by one: {} (`processor account list` names them).",
            table.rows.len()
        )),
        _ => {}
    }

    match there {
        true => Ok(()),
        false if key == EVERYBODY => Err(Failure::failed(
            "`account stop --all` is not in effect, so there is nothing to resume; `processor account list` shows who is stopped or disabled",
        )),
        false => Err(Failure::failed(format!(
            "{key} is neither stopped nor disabled; `processor account list` shows who is"
        ))),
    }
}

/// Prints the stopped and disabled users.
pub(crate) fn list(config: &Config) -> Result<(), Failure> {
    let log = open::log(config, Access::Read)?;
    let table = Switched::load(&*log)?;
    let row = |(key, row): (&String, &Switch)| -> Vec<Value> {
        vec![
            key.as_str().into(),
            row.state.name().into(),
            if row.keep_orders { "kept" } else { "end" }.into(),
            decode::time(row.since_ms).into(),
            row.operator.clone().into(),
            row.text.clone().into(),
        ]
    };

    let rows: Vec<_> = table.rows.iter().map(row).collect();
    output::rows(
        config.format,
        &["USER", "STATE", "ORDERS", "SINCE", "OPERATOR", "TEXT"],
        &rows,
    )?;
    for (key, bad) in &table.bad {
        output::note(format_args!(
            "controls/0/{} of `{key}` changes nothing: {}",
            bad.offset, bad.why
        ));
    }

    Ok(())
}

/// Control of one user, or of everybody.
struct Switch {
    state: Control,
    keep_orders: bool,
    text: Option<String>,
    operator: Option<String>,
    since_ms: i64,
}

/// A record that the roles skip as unreadable.
struct Bad {
    offset: u64,
    why: &'static str,
}

/// The controls, as the roles read them.
#[derive(Default)]
struct Switched {
    rows: BTreeMap<String, Switch>,
    /// Keys whose newest record is unreadable.
    bad: BTreeMap<String, Bad>,
}

impl Switched {
    fn load(log: &dyn Log) -> Result<Switched, Failure> {
        let mut all = Switched::default();
        read::to_end(log, CONTROLS, &read::all_partitions(log, CONTROLS)?, |r| {
            let key = r.key.map_or("-".into(), decode::text);
            all.bad.remove(&key);
            match control::decode(r.key, r.value) {
                Ok(Some(row)) => {
                    let text = row.text.map(|t| t.into_owned());
                    let operator = row.operator.map(|t| t.into_owned());
                    let state = row.state;
                    let keep_orders = row.keep_orders;
                    all.rows.insert(
                        key,
                        Switch {
                            state,
                            keep_orders,
                            text,
                            operator,
                            since_ms: r.timestamp_ms,
                        },
                    );
                }
                Ok(None) => drop(all.rows.remove(&key)),
                Err(why) => drop(all.bad.insert(
                    key,
                    Bad {
                        offset: r.offset,
                        why,
                    },
                )),
            }
        })?;

        Ok(all)
    }
}

/// The key of a user, or of everybody.
fn key(whom: &Whom) -> Result<&str, Failure> {
    match whom.user.as_deref() {
        None => Ok(EVERYBODY),
        Some(EVERYBODY) => Err(Failure::usage(
            "`*` stands for everybody among controls: say --all if that is meant. A user of that very name cannot be stopped or disabled alone",
        )),
        Some(user) => super::user(user),
    }
}

/// The user id, quoted for a shell if necessary: an id may contain shell characters.
fn typed(user: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@:+".contains(c);
    if user.chars().all(plain) {
        user.into()
    } else {
        format!("'{}'", user.replace('\'', r"'\''"))
    }
}

fn whom_text(key: &str) -> String {
    if key == EVERYBODY {
        "everybody is".into()
    } else {
        format!("{key} is")
    }
}

fn write(log: &dyn Log, key: &str, value: Option<&[u8]>, operator: &str) -> Result<(), Failure> {
    let mut topic = KeyedAppender::new(log, CONTROLS)?;
    let mut headers = HeaderBuf::default();
    headers.push(control::OPERATOR, operator.as_bytes());
    topic.append_with(key, value, headers.headers())?;
    Ok(topic.flush(FLUSH)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(user: &str) -> Whom {
        Whom {
            user: Some(user.into()),
            all: false,
        }
    }

    #[test]
    fn everybody_is_said_and_not_meant_by_accident() {
        assert_eq!(key(&of("501")).ok(), Some("501"));
        assert_eq!(
            key(&Whom {
                user: None,
                all: true
            })
            .ok(),
            Some("*")
        );

        for (user, part) in [
            ("*", "--all"),
            ("a b", "printable"),
            ("house:AAPL", "account of the system"),
            ("", "printable"),
        ] {
            let e = key(&of(user)).expect_err("no user to stop");
            assert!(e.message.contains(part), "{user}: {e}");
        }
    }

    #[test]
    fn a_user_can_be_typed_into_a_shell() {
        assert_eq!(
            [typed("trader-7"), typed("a;b"), typed("it's")],
            ["trader-7", "'a;b'", r"'it'\''s'"]
        );
    }
}
