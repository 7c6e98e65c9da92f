//! Builds an installation from the configuration.

use std::sync::Arc;
use std::time::Duration;

use engine::instance::FatalError;
use engine::replay::ReplayError;
use engine::task::TaskError;
use ports::topics::{Finding, Severity};
use ports::{Limits, Log, LogError};
use roles::RoleSettings;
use store::rocks::SharedMemory;
use wire::topics;

use super::config::Config;
use super::exit::{Code, Failure};
use super::open::{self, Access};
use crate::runtime::system::Installation;
use crate::runtime::verify::VerifyError;

/// Longest wait of a new instance for the local state of its predecessor. Longer than the
/// predecessor needs to see that it was replaced.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// Builds the installation.
pub(super) fn of(config: &Config, access: Access) -> Result<Installation, Failure> {
    Ok(Installation {
        log: open::log(config, access)?,
        topics: Arc::new(topics::table(&config.topic_prefix)),
        state: config.state.clone(),
        instance: config.instance,
        roles: RoleSettings {
            rate_limit: config.rate_limit,
            burst: config.burst,
            message_rate_factor: config.message_rate_factor,
            stale_ms: config.stale_ms,
            opening_cash_e4: config.opening_cash_e4,
            max_command_age_ms: (config.max_command_age_ms > 0)
                .then_some(config.max_command_age_ms),
            dedup_window_ms: i64::try_from(config.dedup_window_ms)
                .ok()
                .filter(|ms| *ms > 0),
            open_orders_max: config.open_orders_max,
            client_transfers: config.client_transfers,
            day_ends_ms: config.day_ends_ms,
            ..RoleSettings::default()
        },
        limits: Limits {
            records: config.batch_records_max,
            bytes: config.batch_bytes_max,
            age: Duration::from_millis(config.commit_interval_ms),
        },
        scrub_every: Duration::from_millis(config.scrub_every_ms),
        leave: config.leave,
        standby: config.standby,
        lock_wait: LOCK_WAIT,
        memory: SharedMemory::default(),
    })
}

/// Checks the partition counts of the topics before roles run or state is deleted.
pub(super) fn check_partitions(system: &Installation) -> Result<(), Failure> {
    let counts = system.partitions()?;
    system
        .topics
        .misfit(&counts)
        .map_or(Ok(()), |why| Err(Failure::config(why)))
}

/// Checks the settings of topics and brokers before roles run. An error refuses the start; a
/// warning is logged once. If the settings cannot be read (a missing right, a broker restart), the
/// roles start anyway: exactly-once does not depend on this check.
pub(super) fn check_settings(system: &Installation) -> Result<(), Failure> {
    let findings = match system.log.findings() {
        Ok(findings) => findings,
        Err(e) => {
            tracing::warn!(
                "the settings of topics and brokers could not be checked: {e}; the roles start without this check"
            );
            return Ok(());
        }
    };

    let mut wrong = Vec::new();

    // One line for equal findings of several topics.
    let mut said: Vec<(String, Vec<String>)> = Vec::new();
    for f in findings {
        if f.severity == Severity::Error {
            wrong.push(format!("{}: {}", f.subject, f.text));
            continue;
        }

        match said.iter_mut().find(|(text, _)| *text == f.text) {
            Some((_, subjects)) => subjects.push(f.subject),
            None => said.push((f.text, vec![f.subject])),
        }
    }

    for (text, subjects) in said {
        tracing::warn!(
            "{}: {text}; `processor topics check` shows all",
            named(&subjects)
        );
    }

    if wrong.is_empty() {
        return Ok(());
    }

    Err(Failure::config(format!(
        "topics or brokers do not fit, and no role was started:\n  {}\n`processor topics check` shows all; `processor topics create --fix` changes \
         settings of topics, with the same --partitions and --topic-prefix; no record is lost by that.",
        wrong.join("\n  ")
    )))
}

/// The first few names, and the number of the others.
fn named(subjects: &[String]) -> String {
    match subjects {
        [first, second, third, _, rest @ ..] => {
            format!("{first}, {second}, {third} and {} more", rest.len() + 1)
        }
        few => few.join(", "),
    }
}

/// Checks the settings again, every `every`, in a separate thread: settings may change while roles
/// run. A new error is logged once. A running role continues, but the next start will refuse the
/// error. The thread ends when no other owner of the log is left.
pub(super) fn watch_settings(log: &Arc<dyn Log>, every: Duration) -> Result<(), Failure> {
    let log = Arc::downgrade(log);
    std::thread::Builder::new().name("settings".into()).spawn(move || {
        let mut known: Option<Vec<Finding>> = None;
        while let Some(log) = log.upgrade() {
            if let Ok(found) = log.findings() {
                // Findings of the first check were reported at the start.
                for f in found.iter().filter(|f| known.as_ref().is_some_and(|known| !known.contains(f))) {
                    match f.severity {
                        Severity::Error => {
                            tracing::error!("{}: {}; the next start refuses this: run `processor topics check`", f.subject, f.text)
                        }
                        _ => tracing::warn!("{}: {}", f.subject, f.text),
                    }
                }

                known = Some(found);
            }

            drop(log);
            std::thread::sleep(every);
        }
    })?;

    Ok(())
}

/// Longest duration of a graceful stop.
pub(super) fn grace(config: &Config) -> Duration {
    Duration::from_millis(config.shutdown_grace_ms)
}

/// Runs a future to its end, with signals and timers.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);

    // Leave threads that still run after the grace period to the next start. Waiting here would
    // extend the grace period.
    runtime.shutdown_background();
    result
}

impl From<FatalError> for Failure {
    fn from(stop: FatalError) -> Self {
        let code = match &stop {
            FatalError::Fenced(_) => Code::Fenced,
            FatalError::Invalid(_) => Code::Config,
            FatalError::Bug(_) | FatalError::Refused(_) => Code::Bug,
            FatalError::Failed(_) => Code::Failed,
        };

        Failure::new(code, stop.to_string())
    }
}

impl From<ReplayError> for Failure {
    fn from(e: ReplayError) -> Self {
        match e {
            ReplayError::Log(e) => e.into(),
            ReplayError::Task(TaskError::Store(e)) => e.into(),
            ReplayError::Task(TaskError::Newer(e)) => Failure::config(e),
            ReplayError::Task(TaskError::Bug(e)) => Failure::new(Code::Bug, e.to_string()),
            ReplayError::Journal(e) => Failure::new(Code::Bug, e),
            ReplayError::Unreadable(e) => LogError::from(e).into(),
            ReplayError::Moment(e) => Failure::failed(e),
        }
    }
}

impl From<VerifyError> for Failure {
    fn from(e: VerifyError) -> Self {
        match e {
            VerifyError::Log(e) => e.into(),
            VerifyError::Store(e) => e.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;
    use crate::runtime::said::Said;
    use log_local::LocalLog;
    use ports::topics::{TopicId, TopicPartition, TopicSpec};
    use ports::{Appender, Bounds, Committed, Member, MemberSpec, Reader, StartOffset, TopicState};

    /// A log with fixed findings; `None` means that the settings cannot be read.
    struct StatedSettings {
        log: LocalLog,
        findings: Mutex<Option<Vec<Finding>>>,
        looks: Mutex<u64>,
    }

    impl StatedSettings {
        /// Sets the findings, and waits until they were read.
        fn are(&self, findings: Option<Vec<Finding>>) {
            *self.findings.lock().expect("whole") = findings;
            let looks = || *self.looks.lock().expect("whole");
            let before = looks();
            let began = Instant::now();

            // The current read may have started before the change, so wait for two reads.
            while looks() < before + 2 {
                assert!(began.elapsed() < Duration::from_secs(60), "nobody looks");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    impl Log for StatedSettings {
        fn findings(&self) -> Result<Vec<Finding>, LogError> {
            *self.looks.lock().expect("whole") += 1;
            self.findings
                .lock()
                .expect("whole")
                .clone()
                .ok_or(LogError::Unavailable("no broker".into()))
        }
        fn cluster_id(&self) -> Result<String, LogError> {
            self.log.cluster_id()
        }
        fn partitions(&self, topic: TopicId) -> Result<Option<u32>, LogError> {
            self.log.partitions(topic)
        }
        fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
            self.log.join(spec)
        }
        fn reader(
            &self,
            topic: TopicId,
            from: &[(u32, StartOffset)],
            headers: bool,
        ) -> Result<Box<dyn Reader>, LogError> {
            self.log.reader(topic, from, headers)
        }
        fn appender(&self) -> Result<Box<dyn Appender>, LogError> {
            self.log.appender()
        }
        fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError> {
            self.log.bounds(at)
        }
        fn committed(
            &self,
            group: &str,
            partitions: &[TopicPartition],
        ) -> Result<Committed, LogError> {
            self.log.committed(group, partitions)
        }
        fn offset_at(&self, at: TopicPartition, time_ms: i64) -> Result<u64, LogError> {
            self.log.offset_at(at, time_ms)
        }
        fn group_offsets(
            &self,
            group: &str,
            partitions: &[TopicPartition],
        ) -> Result<Vec<Option<u64>>, LogError> {
            self.log.group_offsets(group, partitions)
        }
        fn create_topic(
            &self,
            topic: TopicId,
            spec: &TopicSpec,
            partitions: u32,
        ) -> Result<(), LogError> {
            self.log.create_topic(topic, spec, partitions)
        }
        fn describe_topic(
            &self,
            topic: TopicId,
            spec: &TopicSpec,
        ) -> Result<Option<TopicState>, LogError> {
            self.log.describe_topic(topic, spec)
        }
    }

    #[test]
    fn what_becomes_wrong_is_told_once_and_what_was_there_is_not() {
        let said = Said::default();
        let writer = said.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).expect("the only one of this program");
        let finding = |text: &str, severity| Finding {
            topic: None,
            subject: "watched-settings".into(),
            severity,
            text: text.into(),
            fix: None,
        };

        let (old, wrong, odd) = (
            finding("was so", Severity::Error),
            finding("is wrong now", Severity::Error),
            finding("is odd now", Severity::Warning),
        );
        let settings = Arc::new(StatedSettings {
            log: LocalLog::in_memory(&topics::table("")),
            findings: Mutex::new(Some(vec![old.clone()])),
            looks: Mutex::new(0),
        });

        let log: Arc<dyn Log> = settings.clone();
        watch_settings(&log, Duration::from_millis(1)).expect("a thread");
        drop(log);
        settings.are(Some(vec![old.clone()]));
        settings.are(Some(vec![old.clone(), wrong.clone(), odd.clone()]));
        settings.are(Some(vec![old.clone(), wrong.clone(), odd.clone()]));

        // A failed read does not clear the known findings.
        settings.are(None);
        settings.are(Some(vec![old.clone(), wrong.clone(), odd]));
        let told = || said.lines(&["watched-settings"]);
        let lines = told();
        let [first, second] = &lines[..] else {
            panic!("{lines:#?}")
        };

        assert!(
            first.contains("ERROR") && first.contains("is wrong now; the next start refuses this"),
            "{first}"
        );
        assert!(
            second.contains("WARN") && second.contains("is odd now"),
            "{second}"
        );

        // An error that was fixed and came back is reported again.
        settings.are(Some(vec![old.clone()]));
        settings.are(Some(vec![old, wrong]));
        assert_eq!(told().len(), 3, "{:#?}", told());
        let gone = Arc::downgrade(&settings);
        let began = Instant::now();
        drop(settings);
        while gone.upgrade().is_some() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the thread keeps the log"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
