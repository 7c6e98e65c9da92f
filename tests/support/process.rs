//! The real binary in a separate process: started, killed, frozen, thawed. The process always ends
//! with the test.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
#[cfg(feature = "kafka")]
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "kafka")]
use {
    log_kafka::{KafkaLog, KafkaSettings},
    ports::Log,
    wire::topics,
};

/// Builds command lines for one installation.
#[derive(Clone)]
pub struct Installation {
    pub brokers: String,
    pub prefix: String,
    pub state: PathBuf,
    pub logs: PathBuf,
    /// Further flags for every command.
    pub flags: Vec<String>,
}

impl Installation {
    /// An installation with all files in `dir`: ample accounts, no rate limit, prices that never
    /// become stale, and a short session.
    pub fn ample(brokers: &str, prefix: &str, dir: &Path, cash: i64) -> Installation {
        let cash = cash.to_string();
        let flags = [
            "--rate-limit",
            "0",
            "--client-transfers",
            "--opening-cash",
            &cash,
            "--stale-ms",
            "1000000000",
        ];

        let flags = [&flags[..], &["-X", "session.timeout.ms=6000"]].concat();
        let state = dir.join("state");
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs).expect("a directory");
        Installation {
            brokers: brokers.into(),
            prefix: prefix.into(),
            state,
            logs,
            flags: flags.into_iter().map(String::from).collect(),
        }
    }

    /// The log of the installation, as a client sees it.
    #[cfg(feature = "kafka")]
    pub fn log(&self) -> Arc<dyn Log> {
        Arc::new(KafkaLog::new(
            KafkaSettings::new(&self.brokers),
            Arc::new(topics::table(&self.prefix)),
        ))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        // A long run names a copy of the binary, because a build at the same time replaces the
        // original.
        let binary = std::env::var_os("PROCESSOR_UNDER_TEST")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_processor").into());
        let mut c = Command::new(binary);
        c.args(args)
            .args(["--brokers", &self.brokers, "--topic-prefix", &self.prefix])
            .arg("--state")
            .arg(&self.state)
            .args(&self.flags);
        c.env_remove("KAFKA_BROKERS");
        c
    }

    /// Runs a command to its end; returns stdout. Any exit code other than 0 fails the test.
    pub fn run(&self, args: &[&str]) -> String {
        let out = self.command(args).output().expect("the binary starts");
        let stdout = String::from_utf8_lossy(&out.stdout);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "{args:?}: {}\n{stdout}\n{stderr}",
            out.status
        );
        stdout.into_owned()
    }

    /// Log file of an instance, for all its processes one after the other.
    pub fn log_of(&self, role: &str, instance: u32) -> PathBuf {
        self.logs.join(format!("{role}-{instance}.log"))
    }

    /// Starts an instance of a role in the background, with its output in a log file. The instance
    /// ends with the calling thread.
    pub fn start(&self, role: &str, instance: u32) -> Process {
        self.start_with(role, instance, &[])
    }

    /// As [`Installation::start`], with further environment variables.
    pub fn start_with(&self, role: &str, instance: u32, variables: &[(&str, &str)]) -> Process {
        self.spawn(role, instance, &["--role", role], variables)
    }

    /// As [`Installation::start_with`], with another target for stderr.
    pub fn start_into(
        &self,
        role: &str,
        instance: u32,
        variables: &[(&str, &str)],
        err: Stdio,
    ) -> Process {
        self.spawn_into(role, instance, &["--role", role], variables, Some(err))
    }

    /// Starts a process with another command line: the gateway.
    pub fn spawn(
        &self,
        role: &str,
        instance: u32,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Process {
        self.spawn_into(role, instance, args, variables, None)
    }

    fn spawn_into(
        &self,
        role: &str,
        instance: u32,
        args: &[&str],
        variables: &[(&str, &str)],
        err: Option<Stdio>,
    ) -> Process {
        let log = self.log_of(role, instance);
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let err = err.unwrap_or_else(|| out.try_clone().expect("a second handle").into());
        let mut command = self.command(args);
        command.args(["--instance", &instance.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .envs(variables.iter().copied());

        // SAFETY: prctl is async-signal-safe and touches no memory of ours. The child then ends
        // with the test, even by kill -9.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }

        Process {
            child: command.spawn().expect("the binary starts"),
            log,
            role: role.to_string(),
            instance,
        }
    }
}

/// A running instance.
pub struct Process {
    child: Child,
    pub log: PathBuf,
    pub role: String,
    pub instance: u32,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn kill9(&mut self) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("an end");
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid");

        // SAFETY: sends a signal to a child that we started and have not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }

    /// Exit code of a process that ends by itself within `within`.
    pub fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let began = Instant::now();
        while began.elapsed() < within {
            if let Some(status) = self.ended() {
                return status.code();
            }

            std::thread::sleep(Duration::from_millis(20));
        }

        None
    }

    /// Exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a status")
    }

    /// SIGTERM and a graceful end.
    pub fn stop(mut self) {
        self.signal(libc::SIGTERM);
        let code = self.exit_code(Duration::from_secs(30));
        assert_eq!(
            code,
            Some(0),
            "{}-{} did not stop gracefully:\n{}",
            self.role,
            self.instance,
            tail(&self.log)
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill9();
        }
    }
}

/// The last lines of a log file, for messages.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// The rows of a `replay`, without the number of transactions. Two runs must agree in these rows.
/// Without a journal the number of transactions depends on the arrival of the records.
pub fn replayed(table: &str) -> Vec<String> {
    let columns = |line: &str| {
        line.split_whitespace()
            .enumerate()
            .filter(|(i, _)| *i != 2)
            .map(|(_, c)| format!("{c} "))
            .collect::<String>()
    };

    table.lines().map(columns).collect()
}
