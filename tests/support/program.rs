//! The program as a person runs it: typed commands with their answers, and roles in the background
//! with their logs.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::load::wait_for;

/// A working directory and a log.
#[derive(Clone)]
pub struct Program {
    pub dir: PathBuf,
    /// `--embedded DIR` or `--brokers ...`, and the other flags of every command.
    pub flags: Vec<String>,
}

#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Answer {
    /// The command must have failed with this code, and stderr must contain each part.
    pub fn fails(&self, code: i32, parts: &[&str]) {
        let said = self.err.replace("\u{1b}", "");
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        for part in parts {
            assert!(said.contains(part), "it should say `{part}`:\n{}", self.err);
        }

        let last = self.err.lines().rev().take(8).collect::<Vec<_>>();
        assert!(
            !last.is_empty() && !self.err.contains("panicked"),
            "{}",
            self.err
        );
        println!(
            "{code}: {}",
            self.err
                .lines()
                .rfind(|l| l.contains("processor:"))
                .unwrap_or(last[0])
        );
    }

    /// Exit code and last lines of stdout and stderr, for the report of a failed test.
    fn last_lines(&self, count: usize) -> String {
        let last = |text: &str| {
            text.lines()
                .skip(text.lines().count().saturating_sub(count))
                .fold(String::new(), |all, line| all + line + "\n")
        };

        format!("{:?}\n{}{}", self.code, last(&self.out), last(&self.err))
    }

    pub fn is_good(&self) -> &str {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        &self.out
    }
}

impl Program {
    pub fn embedded(dir: &Path, log: &str) -> Program {
        Program {
            dir: dir.to_path_buf(),
            flags: vec!["--embedded".into(), log.into()],
        }
    }

    pub fn kafka(dir: &Path, brokers: &str, prefix: &str) -> Program {
        Program {
            dir: dir.to_path_buf(),
            flags: ["--brokers", brokers, "--topic-prefix", prefix]
                .map(String::from)
                .to_vec(),
        }
    }

    /// A copy with further flags.
    pub fn with(&self, more: &[&str]) -> Program {
        let flags = self
            .flags
            .iter()
            .cloned()
            .chain(more.iter().map(|s| (*s).to_string()))
            .collect();
        Program {
            dir: self.dir.clone(),
            flags,
        }
    }

    /// The command, for a caller that starts it in another way.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_processor"));
        c.args(args)
            .args(&self.flags)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in
            std::env::vars().filter(|(n, _)| n.starts_with("PROCESSOR_") || n == "KAFKA_BROKERS")
        {
            c.env_remove(name);
        }

        // SAFETY: prctl is async-signal-safe and touches no memory of ours. The child then ends
        // with the test, even by kill -9.
        unsafe {
            c.pre_exec(|| {
                // A test run under nohup ignores SIGHUP, and children inherit the setting.
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }

        c
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Answer {
        self.start(args).ends(Duration::from_secs(120))
    }

    pub fn good(&self, args: &[&str]) -> String {
        let answer = self.run(args);
        assert_eq!(
            answer.code,
            Some(0),
            "{args:?}\n{}\n{}",
            answer.out,
            answer.err
        );

        answer.out
    }

    /// Publishes three prices of AAPL.
    pub fn price_aapl(&self) {
        let what = ["--symbols", "AAPL", "--count", "3", "--rate", "0"];
        self.good(&[&["publish"][..], &what].concat());
    }

    /// User 501 buys one AAPL under this id. Returns the names of the resulting events; the roles
    /// must be running.
    pub fn order_aapl(&self, id: &str) -> Vec<String> {
        let order = [
            "order",
            "--user",
            "501",
            "--symbol",
            "AAPL",
            "--quantity",
            "1",
        ];
        let rest = ["--side", "buy", "--format", "json", "--id", id];
        let answer = self.good(&[&order[..], &rest].concat());
        let event = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON lines");
            event["event"].as_str().expect("a name").to_string()
        };

        answer.lines().map(event).collect()
    }

    /// Starts a command and collects its output.
    pub fn start(&self, args: &[&str]) -> Background {
        Program::collect(self.command(args))
    }

    /// Runs a command that must die at a crash point: `point:visit`.
    pub fn dies(&self, args: &[&str], at: &str) {
        let mut command = self.command(args);
        command.env("PROCESSOR_CRASH", at);
        let end = Program::collect(command).ends(Duration::from_secs(120));
        let point = at.split(':').next().unwrap_or(at);
        assert!(
            end.code.is_none() && end.err.contains(&format!("crash point {point}: ")),
            "{at}: {:?}\n{}\n{}",
            end.code,
            end.out,
            end.err
        );
    }

    fn collect(mut command: Command) -> Background {
        let mut child = command.spawn().expect("the program starts");
        let collect = |mut from: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut all = Vec::new();

                // Output that was read before an error is still used.
                from.read_to_end(&mut all).unwrap_or_default();
                String::from_utf8_lossy(&all).into_owned()
            })
        };

        let out = collect(Box::new(child.stdout.take().expect("stdout")));
        let err = collect(Box::new(child.stderr.take().expect("stderr")));
        Background {
            child,
            said: Some((out, err)),
        }
    }

    /// Starts roles and waits until all of them run.
    pub fn start_roles(&self, roles: &str) -> Background {
        let mut running = self.start(&["run", "--role", roles]);
        let pid = running.pid();
        wait_for("all roles run", Duration::from_secs(60), || {
            assert!(running.is_running(), "{:?}", running.take_end());
            let status = self.run(&["status", "--format", "json"]);
            let rows: serde_json::Value = serde_json::from_str(&status.out).unwrap_or_default();
            let of = |r: &&serde_json::Value| {
                roles == "all" || roles.split(',').any(|name| r["role"] == name)
            };

            rows.as_array().is_some_and(|rows| {
                !rows.is_empty() && rows.iter().filter(of).all(|r| r["state"] == "running")
            }) && self.statuses(pid)
                == if roles == "all" {
                    5
                } else {
                    roles.split(',').count()
                }
        });

        running
    }

    /// Number of status files written by this process.
    fn statuses(&self, pid: u32) -> usize {
        let mut found = 0;
        let state = self
            .flags
            .iter()
            .position(|f| f == "--state")
            .map(|i| PathBuf::from(&self.flags[i + 1]));
        let mut open = vec![self.dir.clone()];
        open.extend(state.filter(|s| s.is_absolute()));
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if path.ends_with("status.json") {
                    let text = std::fs::read_to_string(&path).unwrap_or_default();
                    let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                    found += usize::from(status["pid"] == pid && status["state"] == "running");
                }
            }
        }

        found
    }
}

type Said = std::thread::JoinHandle<String>;

/// A running command; killed with the test.
pub struct Background {
    child: Child,
    said: Option<(Said, Said)>,
}

impl Background {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid");

        // SAFETY: sends a signal to a child that we started and have not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }

    fn take_end(&mut self) -> Answer {
        let code = self.child.wait().expect("its end").code();
        let (out, err) = self.said.take().expect("it ends once");
        Answer {
            code,
            out: out.join().expect("stdout"),
            err: err.join().expect("stderr"),
        }
    }

    /// Waits for the end of the command.
    pub fn ends(mut self, within: Duration) -> Answer {
        let began = Instant::now();
        while self.is_running() {
            if began.elapsed() > within {
                self.child.kill().expect("a kill");
                let said = self.take_end();
                panic!(
                    "it did not end within {within:?}:\n{}\n{}",
                    said.out, said.err
                );
            }

            std::thread::sleep(Duration::from_millis(20));
        }

        self.take_end()
    }

    /// SIGTERM, and a graceful end.
    pub fn stop(self) -> Answer {
        self.signal(libc::SIGTERM);
        let answer = self.ends(Duration::from_secs(30));
        answer.is_good();
        answer
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.said.is_some() {
            // The process may already have ended by itself.
            self.child.kill().unwrap_or_default();
            let end = self.take_end();
            if std::thread::panicking() {
                println!(
                    "a command was running when the test failed: {}",
                    end.last_lines(60)
                );
            }
        }
    }
}

/// A small separate disk; none without the right to mount.
pub struct SmallDisk {
    pub path: PathBuf,
    _dir: tempfile::TempDir,
}

impl SmallDisk {
    pub fn new(megabytes: u32) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("disk");
        std::fs::create_dir(&path).expect("a directory");
        let options = format!("size={megabytes}m,mode=0777");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .output();
        match done {
            Ok(o) if o.status.success() => Some(SmallDisk { path, _dir: dir }),
            Ok(o) => {
                println!(
                    "skipped: a small disk cannot be mounted here: {}",
                    String::from_utf8_lossy(&o.stderr).trim()
                );
                None
            }
            Err(e) => {
                println!("skipped: a small disk cannot be mounted here: {e}");
                None
            }
        }
    }

    /// Fills all free space.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.path.join("filler")).expect("a file");
        let block = [7_u8; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
    }

    /// Frees the space, unless all files were deleted in the meantime.
    pub fn free(&self) {
        match std::fs::remove_file(self.path.join("filler")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                panic!("the filler can be deleted: {e}")
            }
            _ => {}
        }
    }

    /// Remounts the disk read-only (`ro`) or writable (`rw`).
    pub fn remount(&self, how: &str) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(&self.path)
            .output()
            .expect("mount");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A lazy unmount: a dying process may still have open files.
        let done = Command::new("umount").arg("-l").arg(&self.path).status();
        if !done.is_ok_and(|s| s.success()) {
            eprintln!("{} is still mounted", self.path.display());
        }
    }
}
