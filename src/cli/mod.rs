//! The command line: arguments, configuration, output, and one file per command.

pub mod args;
pub mod args_gateway;
mod as_before;
mod commands;
pub mod config;
pub mod decode;
pub mod exit;
pub mod listings;
mod moment;
mod number;
mod open;
pub mod output;
mod pace;
pub mod properties;
mod read;
pub mod shown;
mod system;
pub mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use domain::control::Control;

use crate::runtime::limits;
use crate::runtime::stderr::Stderr;
use args::account::{AccountCommand, Whom};
use args::{Args, CliCommand, ConfigCommand, Instruments, Repair, Topics};
use config::Config;
use exit::{Code, Failure};

/// Instructions that RocksDB in this build uses; `scripts/rocksdb` sets the variable.
const CPU_NEEDS: &str = match option_env!("PROCESSOR_CPU_NEEDS") {
    Some(needs) => needs,
    None => "",
};

/// Runs the program, and returns the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let missing = os::cpu::missing(CPU_NEEDS);
    if !missing.is_empty() {
        let missing = missing.join(" and ");
        output::note(format_args!(
            "processor: this build computes checksums with instructions that this machine's \
             processor lacks ({missing}): build with `make build PORTABLE=1`"
        ));
        return ExitCode::from(Code::Config as u8);
    }

    os::files::owner_only();
    let args: Vec<_> = args.into_iter().collect();
    let args = match Args::command()
        .try_get_matches_from(args)
        .and_then(|m| Args::from_arg_matches(&m))
    {
        Ok(args) => args,
        Err(e) => {
            // clap prints help to stdout and errors to stderr. If the print fails, no reader is
            // left.
            e.print().ok();
            return ExitCode::from(if e.use_stderr() {
                Code::Usage as u8
            } else {
                Code::Ok as u8
            });
        }
    };

    match run(&args).and_then(|()| output::failure().map_or(Ok(()), Err)) {
        Ok(()) => ExitCode::from(Code::Ok as u8),
        Err(failure) => {
            if !failure.message.is_empty() {
                output::note(format_args!("processor: {failure}"));
            }

            ExitCode::from(failure.code as u8)
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let env = |name: &str| std::env::var(name).ok();
    let mut config = Config::load(&args.common, &env)?;
    if let Some(CliCommand::Tail(tail)) = &args.command
        && tail.json
    {
        config.format = output::OutputFormat::Json;
    }

    init_log(&config, args.command.as_ref());
    limits::raise_open_files();
    match &args.command {
        None if config.roles.is_empty() => Err(Failure::usage(
            "nothing to do: name a command (`processor --help` lists them) or a role, such as --role orders",
        )),
        None | Some(CliCommand::Run) => commands::run::run(&config),
        Some(CliCommand::Gateway(gateway)) => commands::gateway::run(&config, gateway),
        Some(CliCommand::Demo(demo)) => commands::demo::run(&config, demo),
        Some(CliCommand::Topics(Topics::Create {
            partitions,
            replication,
            fix,
        })) => commands::topics::create(&config, *partitions, *replication, *fix),
        Some(CliCommand::Topics(Topics::Check { strict })) => {
            commands::topics::check(&config, *strict)
        }
        Some(CliCommand::Instruments(instruments)) => listings_of(&config, instruments),
        Some(CliCommand::Account(account)) => switch(&config, account),
        Some(CliCommand::Publish(publish)) => commands::publish::run(&config, publish),
        Some(CliCommand::Traders(traders)) => commands::traders::run(&config, traders),
        Some(CliCommand::Order(order)) => commands::order::run(&config, order),
        Some(CliCommand::Tail(tail)) => commands::tail::run(&config, tail),
        Some(CliCommand::Status) => commands::status::run(&config),
        Some(CliCommand::Portfolio(p)) if p.history => commands::history::run(&config, p),
        Some(CliCommand::Portfolio(p)) => commands::portfolio::run(&config, &p.user),
        Some(CliCommand::Audit(audit)) => commands::audit::run(&config, audit),
        Some(CliCommand::Repair(Repair::Offsets { dry_run })) => {
            commands::repair::offsets(&config, *dry_run)
        }
        Some(CliCommand::Rebuild) => commands::rebuild::run(&config),
        Some(CliCommand::Replay(replay)) => commands::replay::run(&config, replay),
        Some(CliCommand::State(state)) => commands::state::run(&config, state),
        Some(CliCommand::Verify) => commands::verify::run(&config),
        Some(CliCommand::Config(ConfigCommand::Show)) => commands::config::show(&config),
        Some(CliCommand::Completions { shell }) => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "processor", &mut text);
            output::line(String::from_utf8_lossy(&text).trim_end())
        }
    }
}

fn listings_of(config: &Config, instruments: &Instruments) -> Result<(), Failure> {
    use commands::instruments::{delist, load};
    use commands::listed::{list, set_status, show};
    match instruments {
        Instruments::Load { file, replace } => load(config, file, *replace),
        Instruments::Delist { symbols } => delist(config, symbols),
        Instruments::Halt {
            symbols,
            cancel_only: true,
        } => set_status(config, symbols, "cancel_only", &["listed", "halted"]),
        Instruments::Halt {
            symbols,
            cancel_only: false,
        } => set_status(config, symbols, "halted", &["listed", "cancel_only"]),
        Instruments::Resume { symbols } => {
            set_status(config, symbols, "listed", &["halted", "cancel_only"])
        }
        Instruments::List => list(config),
        Instruments::Show { symbol } => show(config, symbol),
    }
}

fn switch(config: &Config, account: &AccountCommand) -> Result<(), Failure> {
    use commands::account::{list, resume, switch_off};
    use commands::operator;
    match account {
        AccountCommand::Stop {
            whom,
            keep_orders,
            text,
            operator,
        } => switch_off(
            config,
            whom,
            Control::Stopped,
            *keep_orders,
            text.as_deref(),
            operator,
        ),
        AccountCommand::Disable {
            user,
            keep_orders,
            text,
            operator,
        } => switch_off(
            config,
            &Whom {
                user: Some(user.clone()),
                all: false,
            },
            Control::Disabled,
            *keep_orders,
            text.as_deref(),
            operator,
        ),
        AccountCommand::Resume { whom, operator } => resume(config, whom, operator),
        AccountCommand::List => list(config),
        AccountCommand::Cancel(cancel) => operator::cancel(config, cancel),
        AccountCommand::Bust(bust) => operator::bust(config, bust),
    }
}

/// Sends log lines to stderr; a failed write never ends a role. Roles log at level info, one-shot
/// commands at level warn.
fn init_log(config: &Config, command: Option<&CliCommand>) {
    let quiet = !matches!(
        command,
        None | Some(CliCommand::Run | CliCommand::Gateway(_))
    );
    let filter = match config.log.as_str() {
        // Log lines of the rdkafka wrapper are redundant: its errors come back to this program,
        // which logs them with their effect.
        "" if quiet => "warn,rdkafka=off",
        "" => "info,rdkafka=off",
        filter => filter,
    };

    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Stderr)
        .log_internal_errors(false)
        .with_ansi(output::colour());

    // A second call (tests in one process) keeps the first subscriber.
    if config.log_json {
        lines.json().try_init().ok()
    } else {
        lines.try_init().ok()
    };
}
