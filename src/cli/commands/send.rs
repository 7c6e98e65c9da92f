//! Sends one command, and shows its answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::KeyedAppender;
use os::clock::wall_ms;
use ports::Log;
use roles::Role;
use serde_json::{Map, Value, json};
use wire::command;

use super::answers::PendingAnswers;
use crate::cli::config::{self, Config, LogTarget};
use crate::cli::exit::{Code, Failure};
use crate::cli::open::Access;
use crate::cli::output::OutputFormat;
use crate::cli::{as_before, output, system};
use crate::runtime::signals;
use crate::runtime::supervisor::{Ends, Supervisor};
use crate::runtime::system::Installation;

/// Longest wait for the effects of a command. Later effects are left to the next run of the roles.
const SETTLE: Duration = Duration::from_secs(10);

/// A command to send.
pub(crate) struct Sending {
    /// The user: key of the record.
    pub user: String,
    /// Id of the command.
    pub id: String,
    /// Value of the record.
    pub value: Vec<u8>,
}

impl Sending {
    /// A command with these fields and the common fields.
    pub(crate) fn new(
        user: String,
        id: String,
        fields: Map<String, Value>,
    ) -> Result<Sending, Failure> {
        let mut all = Map::from_iter([
            ("order_id".to_string(), id.as_str().into()),
            ("user_id".to_string(), user.as_str().into()),
        ]);
        all.extend(fields);
        all.insert("timestamp".into(), wall_ms().into());
        let value = rmp_serde::to_vec_named(&all)
            .map_err(|e| Failure::failed(format!("the command cannot be encoded: {e}")))?;
        Ok(Sending { user, id, value })
    }
}

/// A new command id, if the user gave none.
pub(crate) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Parses `--timeout`.
pub(crate) fn patience(timeout: &str) -> Result<Duration, Failure> {
    config::duration_ms(timeout)
        .map(Duration::from_millis)
        .map_err(|e| Failure::usage(format!("--timeout: {e}")))
}

/// Sends the command of `make`, and waits for the answers unless `wait` is none. The embedded log
/// belongs to one process, so the roles run in this process during the command.
pub(crate) fn carry_out(
    config: &Config,
    wait: Option<Duration>,
    make: impl FnOnce(&Arc<dyn Log>) -> Result<Sending, Failure>,
) -> Result<(), Failure> {
    let host = wait.is_some() && matches!(config.target, LogTarget::Embedded { .. });
    let mut system = system::of(config, Access::Write).map_err(|f| in_use(config, f))?;
    if host {
        as_before::take_over(config, &mut system)?;
    }

    let sending = make(&system.log)?;
    if !host {
        return send(config, &*system.log, &sending, wait);
    }

    system::block_on(async {
        let signal = signals::first_of()?;
        let members = Role::all().iter().map(|r| system.member(*r)).collect();
        let supervisor = Supervisor::start(
            members,
            system.topics.clone(),
            system.state.clone(),
            Ends::Together,
        );
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

/// Waits for all effects of a command (portfolio, notification, audit entries) before the roles
/// stop: the next command must see them.
fn settle(system: &Installation) -> Result<(), Failure> {
    let began = Instant::now();
    while system.unread()? > 0 && began.elapsed() < SETTLE {
        std::thread::sleep(Duration::from_millis(10));
    }

    Ok(())
}

/// Adds advice if another process holds the embedded log.
fn in_use(config: &Config, failure: Failure) -> Failure {
    match &config.target {
        LogTarget::Embedded { .. } => Failure::new(
            failure.code,
            format!(
                "{failure}\nOrders for an embedded log are sent by the process that has it: stop that one first, or use Kafka (--brokers)"
            ),
        ),
        _ => failure,
    }
}

fn send(
    config: &Config,
    log: &dyn Log,
    sending: &Sending,
    wait: Option<Duration>,
) -> Result<(), Failure> {
    let answers = wait
        .map(|_| PendingAnswers::listen(config, log, &sending.user, &sending.id, &sending.value))
        .transpose()?;
    let mut commands = KeyedAppender::new(log, command::topic(&sending.value))?;
    commands.append(&sending.user, Some(&sending.value))?;
    commands.flush(Duration::from_secs(30))?;
    match (answers, wait) {
        (Some(answers), Some(wait)) => answers.wait(wait),
        _ => match config.format {
            OutputFormat::Json => output::json(
                &json!({"sent": true, "user_id": sending.user, "order_id": sending.id}),
            ),
            OutputFormat::Text => output::line(format_args!(
                "sent {} for user {}",
                sending.id, sending.user
            )),
        },
    }
}
