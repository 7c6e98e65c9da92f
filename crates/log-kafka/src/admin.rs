//! Queries about the cluster and its topics, and creation of topics.
//!
//! Query clients are kept: a new connection per query would make `status` slow. A client that asked
//! about a topic before the topic existed may answer "unknown partition" for a long time. So only a
//! new client's "unknown partition" is trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use ports::topics::{Partitions, Severity, TopicSpec};
use ports::{Bounds, Committed, LogError, TopicState};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};

use super::config::KafkaSettings;
use super::refused::forbidden;
use super::requirements as req;
use super::stale_requests::Quiet;
use super::watchdog;

/// Committed offsets count as pending after this time without an answer.
const COMMITTED_WAIT: Duration = Duration::from_millis(1_000);
/// A new client asks after this number of consecutive "pending" answers.
const AFRESH: u32 = 10;
/// Wait for the ends of many partitions. After this time each partition is queried alone.
const ENDS_WAIT: Duration = Duration::from_secs(2);
/// Special times of ListOffsets: the end (for the isolation level of the client) and the start.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// The kind of client that asks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// Sees stable records only (read_committed).
    Committed,
    /// Sees all records (read_uncommitted).
    Everything,
    /// Asks about a group, and does not wait for pending transactions.
    Group(String),
    /// Asks about a group, and waits for pending transactions (KIP-447).
    Stable(String),
}

pub(super) type Asker = Arc<BaseConsumer<LastFailure>>;

/// Stores the last connection failure. A query without an answer reports only a timeout.
#[derive(Default)]
pub(super) struct LastFailure(Mutex<Option<(KafkaError, String)>>);

impl LastFailure {
    /// A closed connection does not overwrite an authentication failure: the broker may reject
    /// credentials by closing the connection.
    fn note(&self, error: KafkaError, reason: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last
            .as_ref()
            .is_none_or(|(before, _)| !refuses(before) || refuses(&error))
        {
            *last = Some((error, reason.to_string()));
        }
    }
}

impl ClientContext for LastFailure {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Quiet.log(level, facility, line);

        // librdkafka only logs a closed connection and reports no error. The line begins with a
        // thread name.
        if facility == "FAIL" {
            let said = line.split_once("]: ").map_or(line, |(_, said)| said);
            self.note(KafkaError::Global(Code::BrokerTransportFailure), said);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error.clone(), reason);

        // "All brokers down" follows from the failures of single brokers, which were reported
        // before.
        if error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            self.note(error, reason);
        }
    }
}

impl ConsumerContext for LastFailure {}

/// The last connection failure of this client.
fn why(asker: &BaseConsumer<LastFailure>) -> Option<(KafkaError, String)> {
    // librdkafka delivers errors only while the client is polled.
    let deadline = Instant::now() + Duration::from_millis(200);
    while Instant::now() < deadline {
        drop(asker.poll(Duration::from_millis(20)));
    }

    asker
        .context()
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Clears errors from the time before a query. These errors do not explain the answer.
fn forget_why(asker: &BaseConsumer<LastFailure>) {
    // Each call takes one event of librdkafka and does not wait.
    for _ in 0..64 {
        drop(asker.poll(Duration::ZERO));
    }

    *asker
        .context()
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = None;
}

/// The clients that query the cluster.
#[derive(Default)]
pub(super) struct Askers {
    clients: Mutex<BTreeMap<Who, Asker>>,
    /// Topics that the cluster knew at an earlier query. Such a topic counts as existing: a broker
    /// that does not know the topic has just started.
    known: Mutex<BTreeSet<String>>,
    /// Number of consecutive "pending" answers about each group.
    pending: Mutex<BTreeMap<String, u32>>,
}

impl Askers {
    pub(super) fn get(&self, settings: &KafkaSettings, who: Who) -> Result<Asker, LogError> {
        let mut all = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = all.get(&who) {
            return Ok(Arc::clone(asker));
        }

        let config = match &who {
            Who::Committed => settings.inquirer(None, true),
            Who::Everything => settings.inquirer(None, false),
            Who::Group(group) => settings.inquirer(Some(group), false),
            Who::Stable(group) => settings.inquirer(Some(group), true),
        };

        let made: BaseConsumer<LastFailure> = config
            .create_with_context(LastFailure::default())
            .map_err(|e| super::bad_config(&e))?;
        let asker = Arc::new(made);
        all.insert(who, Arc::clone(&asker));
        Ok(asker)
    }

    /// True if an earlier query found the topic.
    pub(super) fn knew(&self, topic: &str) -> bool {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(topic)
    }

    /// Counts the answers "pending" about a group in a row. Returns true if a new client should ask
    /// next: a client with a wrong coordinator address returns the same answer for ever.
    fn is_pending_for_long(&self, group: &str, pending: bool) -> bool {
        let mut counts = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if !pending {
            counts.remove(group);
            return false;
        }

        let count = counts.entry(group.to_string()).or_default();
        *count = (*count + 1) % AFRESH;
        *count == 0
    }

    fn forget(&self, who: &Who) {
        if let Some(asker) = self
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(who)
        {
            watchdog::drop_aside("closing a client", asker);
        }
    }

    /// Runs a query. If the answer may come from a stale client, a new client asks until the time
    /// is up. `exists`: true if the cluster's metadata has the topic or partition; an "unknown"
    /// answer then comes from a cluster whose leaders are moving.
    pub(super) fn ask<T>(
        &self,
        settings: &KafkaSettings,
        who: &Who,
        exists: &dyn Fn() -> bool,
        question: impl Fn(&BaseConsumer<LastFailure>) -> Result<T, KafkaError>,
    ) -> Result<T, LogError> {
        let _guard = watchdog::exit_after(
            "asking the cluster",
            settings.request_wait * 2 + settings.stuck_after,
        );
        let asker = self.get(settings, who.clone())?;
        forget_why(&asker);
        let code = |answer: &Result<T, KafkaError>| {
            answer
                .as_ref()
                .err()
                .and_then(KafkaError::rdkafka_error_code)
        };

        let mut answer = question(&asker);
        if code(&answer).is_some_and(stale) {
            self.forget(who);
            let asker = self.get(settings, who.clone())?;
            answer = question(&asker);
        }

        // A moving or loading coordinator or leader reports its state and works again after a
        // moment. The only remedy is a retry. librdkafka reports "unknown" both for a partition
        // whose leader has just gone and for a partition that never existed.
        let deadline = Instant::now() + settings.request_wait;
        while let Some(found) = code(&answer).filter(|c| moving(*c) || stale(*c) && exists()) {
            if Instant::now() >= deadline {
                let cause = Admin {
                    settings,
                    askers: self,
                }
                .diagnose(&[]);
                return Err(LogError::Unavailable(
                    cause.unwrap_or_else(|| format!("the cluster is on the move: {found}")),
                ));
            }

            if stale(found) {
                self.forget(who);
                std::thread::sleep(Duration::from_millis(200));
            }

            std::thread::sleep(Duration::from_millis(50));
            let asker = self.get(settings, who.clone())?;
            answer = question(&asker);
        }

        let unanswered = code(&answer).is_some_and(unanswered);
        if unanswered && let Some(refusal) = self.group_refused(settings, who) {
            return Err(refusal);
        }

        let answer = answer.map_err(|e| {
            failed(
                &Admin {
                    settings,
                    askers: self,
                },
                &e,
                || why(&*self.get(settings, who.clone()).ok()?),
            )
        });

        if unanswered {
            // A client with unreachable broker addresses tries these addresses for minutes. A new
            // client begins with the bootstrap addresses.
            self.forget(who);
        }

        answer
    }
}

impl Askers {
    /// The refusal of a query about a group. librdkafka reports only a missing answer. A separate
    /// event tells why librdkafka cannot find the group coordinator.
    fn group_refused(&self, settings: &KafkaSettings, who: &Who) -> Option<LogError> {
        let (Who::Group(group) | Who::Stable(group)) = who else {
            return None;
        };

        let (told, _) = why(&*self.get(settings, who.clone()).ok()?)?;
        let refused = told.rdkafka_error_code() == Some(Code::GroupAuthorizationFailed);
        refused.then(|| forbidden(&format!("Describe on group {group} is not granted")))
    }
}

impl Drop for Askers {
    fn drop(&mut self) {
        let all = std::mem::take(
            self.clients
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        if !all.is_empty() {
            watchdog::drop_aside("closing clients", all);
        }
    }
}

fn moving(code: Code) -> bool {
    use Code::{
        CoordinatorLoadInProgress, CoordinatorNotAvailable, LeaderNotAvailable, NotCoordinator,
        NotLeaderForPartition,
    };

    matches!(
        code,
        NotCoordinator
            | CoordinatorNotAvailable
            | CoordinatorLoadInProgress
            | LeaderNotAvailable
            | NotLeaderForPartition
    )
}

fn unanswered(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::OperationTimedOut
            | Code::AllBrokersDown
            | Code::Resolve
    )
}

pub(super) fn stale(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownPartition | Code::UnknownTopic | Code::UnknownTopicOrPartition
    )
}

/// Converts the error of a query, with a remedy. `why`, the reason for the connection failure, is
/// only called if no answer came.
pub(super) fn failed(
    admin: &Admin<'_>,
    e: &KafkaError,
    why: impl FnOnce() -> Option<(KafkaError, String)>,
) -> LogError {
    let code = match e {
        KafkaError::AdminOp(code) => Some(*code),
        _ => e.rdkafka_error_code(),
    };

    match code {
        Some(code) if unanswered(code) => match why() {
            Some((e, why)) if refuses(&e) => forbidden(&why),
            why => no_answer(admin, why.map(|(_, why)| why)),
        },
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed,
        ) => forbidden(&e.to_string()),
        Some(code) if stale(code) => LogError::Invalid(format!(
            "a topic does not exist ({e}); run `processor topics create`"
        )),
        _ => LogError::Unavailable(e.to_string()),
    }
}

fn refuses(e: &KafkaError) -> bool {
    matches!(
        e.rdkafka_error_code(),
        Some(Code::Authentication | Code::SaslAuthenticationFailed)
    )
}

fn no_answer(admin: &Admin<'_>, why: Option<String>) -> LogError {
    let settings = admin.settings;

    // Brokers that answer some queries do run. The question "is it running?" would mislead the
    // operator.
    if let Some(cause) = admin.diagnose(&[]) {
        return LogError::Unavailable(cause);
    }

    let wait = settings.request_wait.as_secs();
    let why = why.map_or(String::new(), |why| format!(" ({why})"));

    // A listener with another protocol closes the connection at our first request.
    let hint = if ["APIVERSION_QUERY", "SSL_HANDSHAKE"]
        .iter()
        .any(|s| why.contains(&format!("in state {s}")))
    {
        "check security.protocol and what belongs to it (-X, or [kafka] in the file)"
    } else {
        "is it running? check --brokers"
    };

    LogError::Unavailable(format!(
        "no answer from {} in {wait} s{why}; {hint}",
        settings.brokers
    ))
}

/// The queries of this adapter.
pub(super) struct Admin<'a> {
    pub(super) settings: &'a KafkaSettings,
    pub(super) askers: &'a Askers,
}

impl Admin<'_> {
    pub(super) fn ask<T>(
        &self,
        who: &Who,
        exists: &dyn Fn() -> bool,
        question: impl Fn(&BaseConsumer<LastFailure>) -> Result<T, KafkaError>,
    ) -> Result<T, LogError> {
        self.askers.ask(self.settings, who, exists, question)
    }

    pub(super) fn cluster_id(&self) -> Result<String, LogError> {
        let wait = self.settings.request_wait;
        self.ask(&Who::Everything, &|| false, |c| {
            c.client()
                .fetch_cluster_id(wait)
                .ok_or(KafkaError::MetadataFetch(Code::OperationTimedOut))
        })
    }

    pub(super) fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        let wait = self.settings.request_wait;
        let found = self.ask(&Who::Everything, &|| false, |c| {
            let metadata = c.fetch_metadata(Some(topic), wait)?;
            let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
                return Ok(Ok(None));
            };

            match found.error().map(Code::from) {
                None => Ok(Ok(u32::try_from(found.partitions().len())
                    .ok()
                    .filter(|n| *n > 0))),
                Some(code) if stale(code) => Ok(Ok(None)),
                // The broker answered, and the answer names no topic.
                Some(Code::TopicAuthorizationFailed) => Ok(Err(())),
                Some(code) => Err(KafkaError::MetadataFetch(code)),
            }
        })?;

        let found = found.map_err(|()| {
            forbidden(&format!(
                "neither Read nor Write on topic {topic} is granted"
            ))
        })?;

        if found.is_some() && !self.askers.knew(topic) {
            self.askers
                .known
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(topic.to_string());
        }

        Ok(found)
    }

    /// True if the cluster's metadata names the partition, or named the topic before. Also true if
    /// the query fails: a missing answer is not a "no".
    fn exists(&self, topic: &str, partition: u32) -> bool {
        self.askers.knew(topic)
            || self
                .partitions(topic)
                .map_or(true, |n| n.is_some_and(|n| partition < n))
    }

    pub(super) fn bounds(&self, topic: &str, partition: u32) -> Result<Bounds, LogError> {
        let wait = self.settings.request_wait;
        let exists = || self.exists(topic, partition);
        let ask = |who| {
            self.ask(who, &exists, |c| {
                c.fetch_watermarks(topic, partition as i32, wait)
            })
        };

        // Query the stable end first: the stable end then cannot exceed the end that is queried
        // later.
        let (_, stable_end) = ask(&Who::Committed)?;
        let (start, end) = ask(&Who::Everything)?;
        let offset = |o: i64| {
            u64::try_from(o)
                .map_err(|_| LogError::Corrupt(format!("{topic}/{partition} has offset {o}")))
        };

        Ok(Bounds {
            start: offset(start)?,
            stable_end: offset(stable_end)?,
            end: offset(end)?,
        })
    }

    /// The first offset at or after a time. `None` if the log ends before that time.
    pub(super) fn offset_at(
        &self,
        topic: &str,
        partition: u32,
        time_ms: i64,
    ) -> Result<Option<u64>, LogError> {
        let wait = self.settings.request_wait;
        self.ask(&Who::Committed, &|| self.exists(topic, partition), |c| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition as i32, Offset::Offset(time_ms.max(0)))?;
            let found = c.offsets_for_times(list, wait)?;
            let element = found
                .find_partition(topic, partition as i32)
                .ok_or(KafkaError::MetadataFetch(Code::UnknownPartition))?;
            element.error()?;
            Ok(match element.offset() {
                Offset::Offset(o) => u64::try_from(o).ok(),
                _ => None,
            })
        })
    }

    pub(super) fn group_offsets(
        &self,
        group: &str,
        partitions: &[(&str, u32)],
    ) -> Result<Vec<Option<u64>>, LogError> {
        self.group_commits(group, partitions, offset_in)
    }

    /// The metadata beside the committed offsets of a group.
    pub(super) fn group_metadata(
        &self,
        group: &str,
        partitions: &[(&str, u32)],
    ) -> Result<Vec<String>, LogError> {
        self.group_commits(group, partitions, |element| element.metadata().to_string())
    }

    /// Member ids of a group.
    pub(super) fn group_members(&self, group: &str) -> Result<Vec<String>, LogError> {
        let wait = self.settings.request_wait;
        self.ask(&Who::Group(group.to_string()), &|| false, |c| {
            let list = c.client().fetch_group_list(Some(group), wait)?;
            let members = list
                .groups()
                .iter()
                .filter(|g| g.name() == group)
                .flat_map(|g| g.members());
            Ok(members.map(|m| m.id().to_string()).collect())
        })
    }

    /// One field of each partition's commit. Does not wait for pending commits.
    fn group_commits<T>(
        &self,
        group: &str,
        partitions: &[(&str, u32)],
        wanted: impl Fn(&TopicPartitionListElem<'_>) -> T,
    ) -> Result<Vec<T>, LogError> {
        let wait = self.settings.request_wait;
        let exist = || {
            partitions
                .iter()
                .all(|(topic, partition)| self.exists(topic, *partition))
        };

        self.ask(&Who::Group(group.to_string()), &exist, |c| {
            commits_of(c, partitions, wait, &wanted)
        })
    }

    /// The committed offsets, or "pending" while a transaction with offsets is open.
    pub(super) fn committed(
        &self,
        group: &str,
        partitions: &[(&str, u32)],
    ) -> Result<Committed, LogError> {
        let exist = || {
            partitions
                .iter()
                .all(|(topic, partition)| self.exists(topic, *partition))
        };

        let ask = |c: &BaseConsumer<LastFailure>| match commits_of(
            c,
            partitions,
            COMMITTED_WAIT,
            &offset_in,
        ) {
            // librdkafka repeats the query while offsets are unstable, until the time is up.
            Err(KafkaError::MetadataFetch(
                Code::OperationTimedOut | Code::WaitingForCoordinator,
            )) => Ok(Committed::Pending),
            answer => answer.map(Committed::Stable),
        };

        let who = Who::Stable(group.to_string());
        let answer = self.ask(&who, &exist, ask);
        if let Ok(committed) = &answer
            && self
                .askers
                .is_pending_for_long(group, matches!(committed, Committed::Pending))
        {
            self.askers.forget(&who);
        }

        answer
    }

    /// Bounds of many partitions: one request to each broker for the starts, the stable ends and
    /// the ends. If a request fails, each partition is queried alone. A partition without a leader
    /// is then an error of its own.
    pub(super) fn bounds_of(&self, partitions: &[(&str, u32)]) -> Vec<Result<Bounds, LogError>> {
        if partitions.len() > 1
            && let Ok(all) = self.all_bounds(partitions)
        {
            return all.into_iter().map(Ok).collect();
        }

        partitions
            .iter()
            .map(|(topic, partition)| self.bounds(topic, *partition))
            .collect()
    }

    fn all_bounds(&self, partitions: &[(&str, u32)]) -> Result<Vec<Bounds>, LogError> {
        let ask = |who: &Who, time: i64| self.ask(who, &|| false, |c| ends_of(c, partitions, time));

        // Query the stable ends first: a stable end then cannot exceed the end that is queried
        // later.
        let stable = ask(&Who::Committed, LATEST)?;
        let starts = ask(&Who::Everything, EARLIEST)?;
        let ends = ask(&Who::Everything, LATEST)?;
        let all = starts.into_iter().zip(stable).zip(ends);
        Ok(all
            .map(|((start, stable_end), end)| Bounds {
                start,
                stable_end,
                end,
            })
            .collect())
    }

    pub(super) fn create_topic(
        &self,
        name: &str,
        spec: &TopicSpec,
        partitions: u32,
    ) -> Result<(), LogError> {
        let _guard = watchdog::exit_after(
            "creating a topic",
            self.settings.request_wait * 4 + self.settings.stuck_after,
        );
        match self.partitions(name)? {
            Some(found) if found == partitions => return Ok(()),
            Some(found) => {
                return Err(LogError::Invalid(format!(
                    "{name} exists with {found} partitions, not {partitions}; counts are fixed when topics are made: choose {found} or another prefix"
                )));
            }
            None => {}
        }

        let count = i32::try_from(partitions)
            .map_err(|_| LogError::Invalid(format!("{partitions} partitions are too many")))?;
        let replicas = self.settings.replication.map_or(-1, i32::from);
        let wanted = req::wanted(spec);
        let insync = self
            .settings
            .replication
            .map(|n| req::insync(n.into()).to_string());
        let mut topic = NewTopic::new(name, count, TopicReplication::Fixed(replicas));
        for (setting, value) in &wanted {
            topic = topic.set(setting, value);
        }

        if let Some(insync) = &insync {
            topic = topic.set("min.insync.replicas", insync);
        }

        let admin = self.admin()?;
        let results = block_on(admin.create_topics([&topic], &self.options()))
            .map_err(|e| failed(self, &e, || None))?;
        for result in results {
            match result {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((name, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)) => {
                    return Err(forbidden(&format!("creating {name}")));
                }
                Err((name, Code::RequestTimedOut | Code::OperationTimedOut)) => {
                    return Err(LogError::Unavailable(format!(
                        "creating {name} took too long"
                    )));
                }
                Err((name, code)) => return Err(self.not_created(&name, code)),
            }
        }

        // Each broker learns of the new topic at a different time.
        let deadline = Instant::now() + self.settings.request_wait;
        while self.partitions(name)?.is_none() {
            if Instant::now() >= deadline {
                return Err(LogError::Unavailable(format!(
                    "{name} was created but does not show up"
                )));
            }

            std::thread::sleep(Duration::from_millis(20));
        }

        if self.settings.replication.is_none() {
            self.set_insync(name)?;
        }

        Ok(())
    }

    /// Sets `min.insync.replicas` after the creation: only the cluster knows its default number of
    /// replicas.
    fn set_insync(&self, name: &str) -> Result<(), LogError> {
        let replicas = self.replicas(name)?;
        let insync = req::insync(replicas).to_string();
        let settings = self.describe(&[name])?.pop().and_then(Result::ok);
        if replicas == 0 || settings.is_none_or(|s| s.get("min.insync.replicas") == Some(&insync)) {
            return Ok(());
        }

        match self.alter_topic(name, &[("min.insync.replicas", &insync)]) {
            // The topic exists and works. `topics check` reports the missing setting.
            Err(LogError::Invalid(why)) => {
                tracing::warn!("{why}");
                Ok(())
            }
            other => other,
        }
    }

    fn not_created(&self, name: &str, code: Code) -> LogError {
        LogError::Invalid(match code {
            Code::InvalidTopic => format!(
                "{name} could not be created: the brokers refuse its name. Kafka takes two names that differ only in `.` and `_` for the same (a topic \
                 of another --topic-prefix may have this one's), and allows 249 letters, digits, `.`, `_` and `-`: use another --topic-prefix"
            ),
            Code::InvalidReplicationFactor => format!(
                "{name} could not be created: the brokers cannot give it {} replicas, because fewer of them are there; start the others, or say \
                 a smaller --replication",
                self.settings
                    .replication
                    .map_or("default.replication.factor".to_string(), |n| n.to_string())
            ),
            Code::PolicyViolation => format!(
                "{name} could not be created: a policy of the cluster forbids it; ask its operators"
            ),
            code => format!("{name} could not be created: {code}"),
        })
    }

    pub(super) fn describe_topic(
        &self,
        name: &str,
        spec: &TopicSpec,
    ) -> Result<Option<TopicState>, LogError> {
        let _guard = watchdog::exit_after(
            "describing a topic",
            self.settings.request_wait * 4 + self.settings.stuck_after,
        );
        let Some(partitions) = self.partitions(name)? else {
            return Ok(None);
        };

        let settings = self.describe(&[name])?.pop().unwrap_or(Err(Code::Unknown));
        let settings = settings
            .map_err(|code| LogError::Unavailable(format!("settings of {name}: {code}")))?;
        let mut mismatches = Vec::new();
        if spec.partitions == Partitions::One && partitions != 1 {
            mismatches.push(format!("has {partitions} partitions, must have 1"));
        }

        let found = req::of_topic(spec, self.replicas(name)?, &settings);
        mismatches.extend(
            found
                .into_iter()
                .filter(|f| f.severity == Severity::Error)
                .map(|f| f.text),
        );
        Ok(Some(TopicState {
            partitions,
            mismatches,
        }))
    }

    /// A setting of a broker. `None` if the broker does not answer. Any broker will do: a sane
    /// cluster has the same value on all brokers.
    pub(super) fn broker_setting(&self, name: &str) -> Option<String> {
        let wait = self.settings.request_wait;
        let broker = self.ask(&Who::Everything, &|| false, |c| {
            let metadata = c.fetch_metadata(None, wait)?;
            Ok(metadata
                .brokers()
                .first()
                .map(rdkafka::metadata::MetadataBroker::id))
        });

        self.broker_settings(&[broker.ok()??]).remove(name)
    }

    pub(super) fn admin(&self) -> Result<AdminClient<Quiet>, LogError> {
        self.settings
            .admin()
            .create_with_context(Quiet)
            .map_err(|e| super::bad_config(&e))
    }

    pub(super) fn options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(self.settings.request_wait))
            .operation_timeout(Some(self.settings.request_wait))
    }
}

/// One field of the commit of each partition.
fn commits_of<T>(
    c: &BaseConsumer<LastFailure>,
    partitions: &[(&str, u32)],
    wait: Duration,
    wanted: &dyn Fn(&TopicPartitionListElem<'_>) -> T,
) -> Result<Vec<T>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for &(topic, partition) in partitions {
        list.add_partition(topic, partition as i32);
    }

    let found = c.committed_offsets(list, wait)?;
    let mut all = Vec::with_capacity(partitions.len());
    for &(topic, partition) in partitions {
        let element = found
            .find_partition(topic, partition as i32)
            .ok_or(KafkaError::MetadataFetch(Code::UnknownPartition))?;
        element.error()?;
        all.push(wanted(&element));
    }

    Ok(all)
}

/// The offset in a commit, if the group has a commit.
fn offset_in(element: &TopicPartitionListElem<'_>) -> Option<u64> {
    match element.offset() {
        Offset::Offset(o) => u64::try_from(o).ok(),
        _ => None,
    }
}

/// Offsets for one of the two special times of ListOffsets.
fn ends_of(
    c: &BaseConsumer<LastFailure>,
    partitions: &[(&str, u32)],
    time: i64,
) -> Result<Vec<u64>, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for &(topic, partition) in partitions {
        list.add_partition_offset(topic, partition as i32, Offset::from_raw(time))?;
    }

    let found = c.offsets_for_times(list, ENDS_WAIT)?;
    let mut offsets = Vec::with_capacity(partitions.len());
    for &(topic, partition) in partitions {
        let element = found
            .find_partition(topic, partition as i32)
            .ok_or(KafkaError::MetadataFetch(Code::UnknownPartition))?;
        element.error()?;
        let Offset::Offset(offset) = element.offset() else {
            return Err(KafkaError::MetadataFetch(Code::InvalidArgument));
        };

        offsets.push(
            u64::try_from(offset).map_err(|_| KafkaError::MetadataFetch(Code::InvalidArgument))?,
        );
    }

    Ok(offsets)
}

/// Waits for a future on this thread. Administration is rare and has its own threads inside, so an
/// async runtime is not worth its cost.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AFRESH, Askers};

    #[test]
    fn pending_answers_are_counted_for_each_group() {
        let askers = Askers::default();
        let answers: Vec<bool> = (0..2 * AFRESH)
            .map(|_| {
                askers.is_pending_for_long("trading", false);
                askers.is_pending_for_long("orders", true)
            })
            .collect();
        let tenth = |n: u32| (n + 1).is_multiple_of(AFRESH);
        assert_eq!(answers, (0..2 * AFRESH).map(tenth).collect::<Vec<_>>());

        askers.is_pending_for_long("orders", true);
        askers.is_pending_for_long("orders", false);
        let after: Vec<bool> = (0..AFRESH)
            .map(|_| askers.is_pending_for_long("orders", true))
            .collect();
        assert_eq!(after.iter().position(|new| *new), Some(AFRESH as usize - 1));
    }
}
