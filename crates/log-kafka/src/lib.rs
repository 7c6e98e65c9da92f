//! The log on Apache Kafka, through librdkafka (the crate rdkafka).
//!
//! | file | contents |
//! |---|---|
//! | `config` | every setting of every client, with the reason |
//! | `member` | a consumer group member: assignment, resume, committed offsets |
//! | `fetch`, `bell` | a queue for each partition, read in turns; a wait for all queues at once |
//! | `trouble`, `refused` | partition errors: retry, report or stop; refusals, with the remedy |
//! | `transact` | the one transaction, and the meaning of each outcome |
//! | `classify` | the meaning of each error code |
//! | `stale_requests` | log lines that hint at a request still in flight; the client contexts |
//! | `fence_diagnosis`, `takeover` | was our producer fenced, or did its transaction expire; abort of a dead instance's transactions |
//! | `watchdog` | ends the process when a call never returns |
//! | `reader`, `appender`, `admin` | reads outside groups, client writes, topics and offsets |
//! | `survey`, `requirements` | actual and required settings of topics and brokers |
//! | `diagnose` | the reason why a reachable broker does not do its work |
//! | `outside` | for operators: members of a group, the transaction that holds back the LSO |
//! | `in_flight` | for tests: the process dies while a request is in flight |
//! | `ffi` | the only unsafe code |
#![warn(unreachable_pub)]

mod admin;
mod appender;
mod bell;
mod classify;
mod config;
mod diagnose;
mod fence_diagnosis;
mod fetch;
mod ffi;
mod in_flight;
mod member;
mod outside;
mod reader;
mod refused;
mod rejection;
mod requirements;
mod stale_requests;
mod survey;
mod takeover;
mod throttle;
mod transact;
mod trouble;
mod watchdog;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use faults::crash::{self, Point};
use ports::records::Records;
use ports::topics::{Finding, TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Appender, Bounds, Committed, Limits, Log, LogError, Member, MemberSpec, Reader, StartOffset,
    TopicState,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use self::admin::{Admin, Askers};
use self::ffi::{ClientHandle, EventQueue};
use self::stale_requests::{MemberWatch, Quiet};
use self::transact::TransactionalProducer;
use self::trouble::Trouble;
pub use config::KafkaSettings;
pub use watchdog::EXIT_STUCK;

/// A Kafka cluster as the engine's log.
pub struct KafkaLog {
    settings: Arc<KafkaSettings>,
    topics: Arc<TopicTable>,
    askers: Arc<Askers>,
    /// Members that this process has seen, for each group.
    seen: Mutex<BTreeMap<String, Arc<takeover::SeenMembers>>>,
}

/// Reports a setting that librdkafka refuses.
fn bad_config(e: &KafkaError) -> LogError {
    // The text leaves the value out, because the value may be a password.
    let said = match e {
        KafkaError::ClientConfig(_, why, key, _) => format!("{key}: {why}"),
        e => e.to_string(),
    };

    LogError::Invalid(format!(
        "a client could not be made: {said}; check the properties (-X, or [kafka] in the file)"
    ))
}

impl KafkaLog {
    /// Creates a log on these brokers. The first request connects.
    pub fn new(settings: KafkaSettings, topics: Arc<TopicTable>) -> Self {
        ffi::disable_openssl_atexit();
        KafkaLog {
            settings: Arc::new(settings),
            topics,
            askers: Arc::default(),
            seen: Mutex::default(),
        }
    }

    fn admin(&self) -> Admin<'_> {
        Admin {
            settings: &self.settings,
            askers: &self.askers,
        }
    }

    fn existing(&self, topic: TopicId) -> Result<u32, LogError> {
        let name = self.topics.name(topic);
        let missing = || match self.askers.knew(name) {
            true => LogError::Unavailable(format!("topic {name} is not known at the moment")),
            false => LogError::Invalid(format!(
                "topic {name} does not exist; run `processor topics create`"
            )),
        };

        self.admin().partitions(name)?.ok_or_else(missing)
    }

    /// Creates a producer. The predecessor with the same transactional id is then fenced, and the
    /// predecessor's open transaction is finished.
    fn fencing_producer(&self, instance: &str) -> Result<TransactionalProducer, LogError> {
        let config = self.settings.transactional(&self.topics, instance);
        let client: BaseProducer<Quiet> = config
            .create_with_context(Quiet)
            .map_err(|e| bad_config(&e))?;

        // The metadata request waits for a connection. Without a connection, librdkafka does not
        // find the transaction coordinator and sleeps for 500 ms. Two requests are needed: the
        // first answer names the brokers, and librdkafka replaces the bootstrap connection.
        let any_topic = self.topics.iter().next().map(|t| self.topics.name(t));
        for _ in 0..2 {
            if let Err(e) = client
                .client()
                .fetch_metadata(any_topic, Duration::from_secs(1))
            {
                tracing::debug!("{instance}: {e}");
            }
        }

        let mut sender = TransactionalProducer::new(
            client,
            &self.topics,
            &format!("the producer of {instance}"),
        );

        // Brokers that still finish the predecessor's transaction answer with a retriable error.
        // Brokers that start up do not answer at all.
        let deadline = Instant::now() + self.settings.transaction_timeout * 3;
        let result = loop {
            let handle = ClientHandle::of(sender.client().client());
            let result = in_flight::call(Point::JoinFencing, handle, || {
                ffi::init_transactions(handle, Duration::from_secs(5))
            });

            sender.serve(Duration::ZERO);
            match &result {
                Err(e) if e.retriable && !e.fatal && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20))
                }
                _ => break result,
            }
        };

        let refused = |e: &ffi::TxError| match e.code {
            code if let Some(missing) = classify::missing_right(code, "", "", instance) => {
                LogError::Refused(transact::refused(instance, &missing, &e.text))
            }
            Code::InvalidTransactionTimeout => LogError::Invalid(format!(
                "the brokers do not allow transactions of {:?}: {}; raise their transaction.max.timeout.ms",
                self.settings.transaction_timeout, e.text
            )),
            _ => {
                let what = format!(
                    "starting transactions as {instance}: {} ({:?})",
                    e.text, e.code
                );
                LogError::Unavailable(survey::diagnosed(&self.settings, what, &[]))
            }
        };

        if let Err(e) = &result {
            let error = refused(e);
            watchdog::drop_aside("closing a producer", sender);
            return Err(error);
        }

        sender.trust();
        Ok(sender)
    }
}

impl Log for KafkaLog {
    fn cluster_id(&self) -> Result<String, LogError> {
        self.admin().cluster_id()
    }

    fn partitions(&self, topic: TopicId) -> Result<Option<u32>, LogError> {
        self.admin().partitions(self.topics.name(topic))
    }

    /// Fences first and subscribes second. Progress that is read before fencing may still be
    /// changed by the predecessor.
    fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
        let _guard = watchdog::exit_after(
            "joining",
            self.settings.transaction_timeout * 4 + self.settings.stuck_after,
        );
        let mut partitions = 0;
        for input in &spec.inputs {
            partitions += self.existing(input.topic)?;
        }

        let sender = self.fencing_producer(&spec.instance)?;
        crash::point(Point::JoinFenced);
        let config = self.settings.member(spec, partitions);
        let consumer: BaseConsumer<MemberWatch> = config
            .create_with_context(MemberWatch::of(&spec.instance))
            .map_err(|e| bad_config(&e))?;
        let names: Vec<_> = spec
            .inputs
            .iter()
            .map(|i| self.topics.name(i.topic))
            .collect();
        consumer
            .subscribe(&names)
            .map_err(|e| LogError::Invalid(format!("subscribing to {names:?}: {e}")))?;
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(spec.group.clone())
            .or_default()
            .clone();

        let shared = member::SharedParts {
            settings: Arc::clone(&self.settings),
            askers: Arc::clone(&self.askers),
            names: Arc::clone(&self.topics),
            seen,
        };

        Ok(Box::new(member::KafkaMember::new(
            shared, spec, sender, consumer,
        )))
    }

    fn reader(
        &self,
        topic: TopicId,
        from: &[(u32, StartOffset)],
        headers: bool,
    ) -> Result<Box<dyn Reader>, LogError> {
        let _guard = watchdog::exit_after(
            "making a reader",
            self.settings.request_wait * 4 + self.settings.stuck_after,
        );
        let name = self.topics.name(topic);
        self.existing(topic)?;
        let invalid = |e: KafkaError| LogError::Invalid(format!("reading {name}: {e}"));
        let mut goals = Vec::with_capacity(from.len());
        let mut list = TopicPartitionList::new();
        for &(partition, from) in from {
            let Bounds {
                start,
                stable_end,
                end,
            } = self.admin().bounds(name, partition)?;
            let next = match from {
                StartOffset::Start => start,
                StartOffset::End => stable_end,
                StartOffset::Offset(o) if o < start || o > end => {
                    return Err(LogError::Invalid(format!(
                        "{name}/{partition} holds offsets {start} to {end}; {o} is not there"
                    )));
                }
                StartOffset::Offset(o) => o,
            };

            // Always use a number. A new client that knows no leader sleeps for 500 ms if the
            // position is "beginning".
            list.add_partition_offset(name, partition as i32, Offset::Offset(next as i64))
                .map_err(invalid)?;
            let start = (from == StartOffset::Start).then_some(next);
            goals.push(reader::ReadGoal {
                partition,
                next,
                end: stable_end,
                start,
                trouble: Trouble::default(),
            });
        }

        let consumer: BaseConsumer<Quiet> = self
            .settings
            .reader(u32::try_from(from.len()).unwrap_or(u32::MAX))
            .create_with_context(Quiet)
            .map_err(|e| bad_config(&e))?;
        let handle = ClientHandle::of(consumer.client());
        let data = EventQueue::new(handle);
        let c_name = CString::new(name).map_err(|e| LogError::Invalid(e.to_string()))?;

        // Attach before the assignment, so that the first records already use this queue.
        for &(partition, _) in from {
            data.attach(handle, &c_name, partition as i32);
        }

        consumer.assign(&list).map_err(invalid)?;
        Ok(Box::new(reader::KafkaReader::new(
            Arc::clone(&self.topics),
            topic,
            headers,
            goals,
            data,
            consumer,
        )))
    }

    fn appender(&self) -> Result<Box<dyn Appender>, LogError> {
        let client: BaseProducer<Quiet> = self
            .settings
            .appender(&self.topics)
            .create_with_context(Quiet)
            .map_err(|e| bad_config(&e))?;
        let sender = TransactionalProducer::new(client, &self.topics, "a client's producer");
        Ok(Box::new(appender::KafkaAppender::new(
            Arc::clone(&self.topics),
            Arc::clone(&self.settings),
            sender,
        )))
    }

    fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError> {
        self.admin()
            .bounds(self.topics.name(at.topic), at.partition)
    }

    fn bounds_of(&self, at: &[TopicPartition]) -> Vec<Result<Bounds, LogError>> {
        let named: Vec<_> = at
            .iter()
            .map(|at| (self.topics.name(at.topic), at.partition))
            .collect();
        self.admin().bounds_of(&named)
    }

    fn markers_take_offsets(&self) -> bool {
        true
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Committed, LogError> {
        let named: Vec<_> = partitions
            .iter()
            .map(|at| (self.topics.name(at.topic), at.partition))
            .collect();
        self.admin().committed(group, &named)
    }

    /// Kafka may answer with the offset of a transaction marker if clients set the timestamps of
    /// the topic. A marker carries the broker's current time, which is later than the records
    /// around the marker. Therefore this function reads on to the first record at or after the
    /// time.
    fn offset_at(&self, at: TopicPartition, time_ms: i64) -> Result<u64, LogError> {
        let Some(found) =
            self.admin()
                .offset_at(self.topics.name(at.topic), at.partition, time_ms)?
        else {
            return Ok(self.bounds(at)?.stable_end);
        };

        if self.topics.spec(at.topic).append_time {
            return Ok(found);
        }

        let mut reader = self.reader(
            at.topic,
            &[(at.partition, StartOffset::Offset(found))],
            false,
        )?;
        let limits = Limits {
            records: 10_000,
            bytes: 4 << 20,
            age: Duration::from_secs(1),
        };

        let mut records = Records::new();
        loop {
            records.clear();
            reader.poll(Duration::from_millis(100), limits, &mut records)?;
            if let Some(record) = records.iter().find(|r| r.timestamp_ms >= time_ms) {
                return Ok(record.offset);
            }

            if reader.caught_up() {
                return Ok(self.bounds(at)?.stable_end);
            }
        }
    }

    fn held_since_ms(&self, at: TopicPartition, stable_end: u64) -> Result<Option<i64>, LogError> {
        outside::time_of(
            &self.settings,
            self.topics.name(at.topic),
            at.partition,
            stable_end,
        )
    }

    fn group_members(&self, group: &str) -> Result<Vec<String>, LogError> {
        outside::members(&self.settings, group)
    }

    fn group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<u64>>, LogError> {
        let named: Vec<_> = partitions
            .iter()
            .map(|at| (self.topics.name(at.topic), at.partition))
            .collect();
        self.admin().group_offsets(group, &named)
    }

    fn create_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
        partitions: u32,
    ) -> Result<(), LogError> {
        self.admin()
            .create_topic(self.topics.name(topic), spec, partitions)
    }

    fn describe_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
    ) -> Result<Option<TopicState>, LogError> {
        self.admin().describe_topic(self.topics.name(topic), spec)
    }

    fn findings(&self) -> Result<Vec<Finding>, LogError> {
        self.admin().findings(&self.topics)
    }

    fn alter_topic(&self, topic: TopicId, changes: &[(&str, &str)]) -> Result<(), LogError> {
        self.admin().alter_topic(self.topics.name(topic), changes)
    }
}
