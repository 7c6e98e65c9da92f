//! `gateway`: orders and notifications over HTTP. With `--role`, the roles run in the same process: only one
//! process can open the embedded log for writing.

use std::net::SocketAddr;
use std::time::Duration;

use engine::instance::FatalError;
use gateway::access::{self, AccessControl};
use gateway::{self, GatewaySettings, RunningGateway};
use serde_json::json;

use crate::cli::args::{Gateway, GatewayCommand};
use crate::cli::config::{Config, duration_ms};
use crate::cli::exit::Failure;
use crate::cli::open::Access as LogAccess;
use crate::cli::output::{self, OutputFormat};
use crate::cli::system;
use crate::runtime::system::Installation;
use crate::runtime::{signals, supervisor::Supervisor};

/// Threads that serve connections. The log is read in other threads.
const WORKERS: usize = 2;

/// Runs the gateway, or makes a token.
pub(crate) fn run(config: &Config, typed: &Gateway) -> Result<(), Failure> {
    if let Some(GatewayCommand::Token { user, admin }) = &typed.command {
        if user.is_none() && !admin {
            return Err(Failure::usage(
                "say whose token: `processor gateway token USER`, or `processor gateway token --admin`",
            ));
        }

        return token(config, user.as_deref());
    }

    let settings = settings(config, typed)?;
    let access = access(typed)?;

    // Check before the log is opened: a gateway open to the network must not start.
    if !settings.listen.ip().is_loopback() && !access.needs_token() {
        return Err(Failure::config(format!(
            "--listen {} lets other machines in, and without tokens everybody could read everything: give --token-file FILE \
             (`processor gateway token USER` makes its lines), or listen on 127.0.0.1",
            settings.listen
        )));
    }

    let system = system::of(config, LogAccess::Write)?;
    if !config.roles.is_empty() {
        system::check_partitions(&system)?;
    }

    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let signal = signals::first_of()?;
        let mut running = start(&system, settings, access).await?;
        let mut failed = None;
        let until = async {
            tokio::select! {
                () = signal => {}
                e = running.failed() => failed = Some(e),
            }
        };

        let mut ended = Ok(());
        if config.roles.is_empty() {
            until.await;
        } else {
            let members = config.roles.iter().map(|r| system.member(*r)).collect();
            let supervisor = Supervisor::start(
                members,
                system.topics.clone(),
                system.state.clone(),
                config.ends(),
            );
            ended = supervisor.run(until, system::grace(config)).await;
        }

        running.stop().await;
        match (ended, failed) {
            (Err(stop), _) => Err(Failure::from(stop)),
            (_, Some(e)) => Err(Failure::from(e)),
            _ => Ok(()),
        }
    });

    runtime.shutdown_background();
    result
}

/// A gateway in a process that also runs something else on the same log.
pub(crate) struct GatewayBeside {
    runtime: tokio::runtime::Runtime,
    running: RunningGateway,
}

impl GatewayBeside {
    /// Starts the gateway, for this machine only.
    pub(crate) fn start(
        system: &Installation,
        listen: SocketAddr,
    ) -> Result<GatewayBeside, Failure> {
        let runtime = runtime()?;
        let running = runtime.block_on(start(
            system,
            GatewaySettings {
                listen,
                ..GatewaySettings::default()
            },
            AccessControl::open(),
        ))?;

        Ok(GatewayBeside { runtime, running })
    }

    pub(crate) fn stop(self) {
        self.runtime.block_on(self.running.stop());
        self.runtime.shutdown_background();
    }
}

/// Parses an address of this machine.
pub(crate) fn local_address(text: &str) -> Result<SocketAddr, Failure> {
    let listen = address(text)?;
    if !listen.ip().is_loopback() {
        return Err(Failure::usage(format!(
            "--listen {listen}: the demo serves only this machine; give an address such as 127.0.0.1:8080, or run `processor gateway` for other machines"
        )));
    }

    Ok(listen)
}

async fn start(
    system: &Installation,
    settings: GatewaySettings,
    access: AccessControl,
) -> Result<RunningGateway, Failure> {
    let running =
        gateway::start(system.log.clone(), system.topics.clone(), access, settings).await?;
    output::note(format_args!("listening on http://{}", running.address));
    Ok(running)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build();
    built.map_err(|e| FatalError::Failed(format!("no threads can be started: {e}")).into())
}

fn address(text: &str) -> Result<SocketAddr, Failure> {
    text.parse().map_err(|_| {
        Failure::usage(format!(
            "--listen {text}: say ADDRESS:PORT, for example 127.0.0.1:8080 or [::1]:8080"
        ))
    })
}

fn access(typed: &Gateway) -> Result<AccessControl, Failure> {
    match &typed.token_file {
        Some(file) => AccessControl::with_file(file).map_err(Failure::config),
        None if typed.open => Ok(AccessControl::open_to_proxies()),
        None => Ok(AccessControl::open()),
    }
}

fn settings(config: &Config, typed: &Gateway) -> Result<GatewaySettings, Failure> {
    let time = |name: &str, text: &str| match duration_ms(text) {
        Ok(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        Ok(_) => Err(Failure::usage(format!("--{name} {text}: must be above 0"))),
        Err(e) => Err(Failure::usage(format!("--{name}: {e}"))),
    };

    let history = if typed.history == "all" {
        None
    } else {
        Some(time("history", &typed.history)?)
    };

    let retries = typed
        .webhook_retries
        .split(',')
        .map(|t| time("webhook-retries", t))
        .collect::<Result<_, _>>()?;
    Ok(GatewaySettings {
        listen: address(&typed.listen)?,
        history,
        memory: usize::try_from(typed.memory_mb)
            .unwrap_or(usize::MAX)
            .saturating_mul(1 << 20),
        connections: usize::try_from(typed.max_connections)
            .unwrap_or(usize::MAX)
            .min(tokio::sync::Semaphore::MAX_PERMITS),
        heartbeat: time("heartbeat", &typed.heartbeat)?,
        stall: time("stall", &typed.stall)?,
        webhooks: !typed.no_webhooks,
        private_webhooks: typed.allow_private_webhooks,
        schedule: retries,
        give_up: time("webhook-give-up", &typed.webhook_give_up)?,
        instance: config.instance,
        read_only: typed.read_only,
        orders_memory: usize::try_from(typed.orders_memory_mb)
            .unwrap_or(usize::MAX)
            .saturating_mul(1 << 20),
        token_rate: typed.token_rate,
        address_rate: typed.address_rate,
        half_open_per_address: usize::try_from(typed.half_open_per_address).unwrap_or(usize::MAX),
        ..GatewaySettings::default()
    })
}

/// Makes a token of a user; without a user, an admin token.
fn token(config: &Config, user: Option<&str>) -> Result<(), Failure> {
    let (token, line) = user
        .map_or_else(access::new_admin_token, access::new_token)
        .map_err(Failure::usage)?;
    if config.format == OutputFormat::Json {
        return output::json(&json!({ "token": token, "line": line }));
    }

    output::note(
        "the first line is the token, for the user; the second belongs into the file of --token-file, and nobody can make the token out of it",
    );
    output::line(token)?;
    output::line(line)
}
