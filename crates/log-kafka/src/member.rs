//! One incarnation of one group member: a consumer that delivers only resumed partitions, and the
//! producer of the transactions.
//!
//! The thread of the member serves the consumer's own queue with `BaseConsumer::poll`. That queue
//! carries rebalances and client errors, and `poll` runs the callback of [`super::stale_requests`].
//! Records wait in a queue for each partition (see [`super::fetch`]). All queues ring one bell, and
//! an idle member waits for the bell.
//!
//! **No record is committed under a generation that the record does not belong to (KIP-447).**
//!
//! * The callback of an assignment takes the group metadata once. The metadata is valid until the
//!   revocation, and a transaction without metadata is refused here.
//! * Records are delivered only from positions that were set after that callback. A revocation or a
//!   new assignment voids the fetched records and the metadata.
//! * Therefore all records of a transaction were read under the assignment whose generation the
//!   transaction names.
//! * The group may have a newer generation that this thread does not know yet. The broker then
//!   refuses the transaction (ILLEGAL_GENERATION). The refusal is right, because another member may
//!   own the partitions.
//! * Earlier code asked for the metadata after each poll. A poll can return a generation *newer*
//!   than the assignment.
//! * The callback cannot see a newer generation either. librdkafka joins again only after the
//!   assignment was handed over and revoked. The exception is a thread that has not polled for
//!   `max.poll.interval.ms`: the generation is then -1, and -1 is refused too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use faults::crash::{self, Point};
use ports::records::Records;
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Limits, LogError, Member, MemberSpec, Polled, Transaction, TransactionOutcome};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::admin::{Admin, Askers};
use super::bell::Bell;
use super::classify::{self, Read};
use super::config::KafkaSettings;
use super::fence_diagnosis;
use super::fetch::Slots;
use super::ffi::{ClientHandle, EventQueue, GroupMetadata};
use super::refused::{self, forbidden};
use super::stale_requests::{AssignmentChange, MemberWatch};
use super::survey;
use super::takeover::{GroupLook, SeenMembers};
use super::transact::{MarkerPacing, Parts, TransactError, TransactionalProducer};
use super::watchdog;

/// An idle member checks its producer at this interval: the producer's log lines ring no bell.
const SLICE: Duration = Duration::from_millis(50);
/// Limit for leaving the group.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
/// Extra time for the calls of a transaction on an overloaded machine. A call that takes longer
/// hangs.
const OVERSTAY: Duration = Duration::from_secs(10);
/// Number of the consumer's own queue. No partition has this number.
const CONTROL: u32 = u32::MAX;
/// Interval of the warning that the group gives this member no partitions.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// A member of a consumer group over Kafka.
pub(super) struct KafkaMember {
    settings: Arc<KafkaSettings>,
    askers: Arc<Askers>,
    names: Arc<TopicTable>,
    seen: Arc<SeenMembers>,
    spec: MemberSpec,
    /// True if the group has removed this incarnation since the join. Another instance may then
    /// have ended our transactions (see [`super::takeover`]).
    was_out: bool,
    pace: MarkerPacing,
    slots: Slots,
    bell: Arc<Bell>,
    /// Start of the wait for an assignment, and time of the last warning.
    waiting: Option<(Instant, Instant)>,
    /// Reason why this incarnation cannot write any more.
    ended: Option<String>,
    /// Topics with records that the broker did not stamp, although the topic's settings are right
    /// again.
    told_unstamped: Vec<TopicId>,
    clients: Option<MemberClients>,
}

/// The parts of a log that all members share.
pub(super) struct SharedParts {
    pub(super) settings: Arc<KafkaSettings>,
    pub(super) askers: Arc<Askers>,
    pub(super) names: Arc<TopicTable>,
    pub(super) seen: Arc<SeenMembers>,
}

/// Clients that must be closed, in this order.
struct MemberClients {
    group: Option<GroupMetadata>,
    /// Rings the bell for the consumer's own queue. The consumer polls that queue.
    _control: Option<EventQueue>,
    sender: TransactionalProducer,
    consumer: BaseConsumer<MemberWatch>,
}

impl KafkaMember {
    pub(super) fn new(
        shared: SharedParts,
        spec: &MemberSpec,
        sender: TransactionalProducer,
        consumer: BaseConsumer<MemberWatch>,
    ) -> Self {
        let SharedParts {
            settings,
            askers,
            names,
            seen,
        } = shared;
        let bell = Arc::new(Bell::default());
        let mut control = EventQueue::control(ClientHandle::of(consumer.client()));
        if let Some(queue) = &mut control {
            queue.connect(&bell, CONTROL);
        }

        let now = Instant::now();
        KafkaMember {
            settings,
            askers,
            names,
            seen,
            spec: spec.clone(),
            was_out: false,
            pace: MarkerPacing::new(),
            slots: Slots::new(Arc::clone(&bell)),
            bell,
            waiting: Some((now, now)),
            ended: None,
            told_unstamped: Vec::new(),
            clients: Some(MemberClients {
                group: None,
                _control: control,
                sender,
                consumer,
            }),
        }
    }

    fn clients(&mut self) -> &mut MemberClients {
        self.clients
            .as_mut()
            .expect("the clients are there until the member is dropped")
    }

    fn watched_for(&self) -> Duration {
        self.settings.transaction_timeout * 2
            + self.settings.successor_wait()
            + self.settings.stuck_after
    }

    fn fenced(&self) -> LogError {
        LogError::Fenced(format!(
            "another process runs as {}, and it started later",
            self.spec.instance
        ))
    }

    /// Judges the loss of our group membership. A newer process may have taken the membership, or a
    /// late request of our own or of a dead predecessor (see [`super::fence_diagnosis`]).
    fn place_lost(&self) -> LogError {
        let c = self
            .clients
            .as_ref()
            .expect("the clients are there until the member is dropped");
        let here = self
            .slots
            .any()
            .map(|(at, next)| (at, Offset::Offset(i64::try_from(next).unwrap_or(0))));
        let any = self
            .spec
            .inputs
            .first()
            .map(|i| (TopicPartition::new(i.topic, 0), Offset::Offset(0)));
        let list = self.list(here.or(any).into_iter());
        let group = GroupMetadata::of(ClientHandle::of(c.consumer.client()));
        match (list, group) {
            (Ok(list), Some(group))
                if !fence_diagnosis::epoch_is_over(&c.sender, &list, &group, self.settings.request_wait)
                    // The epoch proves nothing if another instance has ended our transactions while
                    // we were out of the group.
                    || self.was_out && !fence_diagnosis::is_alive(&c.consumer, &self.settings, &self.spec) =>
            {
                LogError::Unavailable("the group gave our place to a late request of our own or of a predecessor; taking it again".into())
            }
            _ => self.fenced(),
        }
    }

    /// Serves the consumer's own queue.
    fn serve_control(&mut self) -> Result<(), LogError> {
        let c = self
            .clients
            .as_ref()
            .expect("the clients are there until the member is dropped");

        // Check the client's fatal state on every call. Another poll may have consumed the event,
        // but the state stays.
        if c.consumer
            .client()
            .fatal_error()
            .is_some_and(|(code, _)| code == Code::FencedInstanceId)
        {
            return Err(self.place_lost());
        }

        while let Some(event) = c.consumer.poll(Duration::ZERO) {
            // A record in this queue was fetched before its partition was resumed and got its own
            // queue. Such a record is void.
            let Err(error) = event else { continue };
            let (code, fatal) = match (&error, c.consumer.client().fatal_error()) {
                (_, Some((code, _))) => (code, true),
                (KafkaError::MessageConsumption(code), None) => (*code, false),
                (KafkaError::MessageConsumptionFatal(code), None) => (*code, true),
                _ => continue,
            };

            match classify::read(code, fatal) {
                Read::Passing => tracing::debug!("{}: {error}", self.spec.instance),
                // The partition is paused, and `resume` will set another offset. Delivered
                // partitions report to their own queues.
                Read::PositionGone | Read::Unreadable => {}
                Read::GroupRefuses => {
                    let admin = Admin {
                        settings: &self.settings,
                        askers: &self.askers,
                    };

                    return Err(refused::by_group(
                        code,
                        &error.to_string(),
                        &self.spec.group,
                        &self.settings,
                        Some(&admin),
                    ));
                }
                Read::Fenced => return Err(self.place_lost()),
                // The topic may be deleted, or its cluster may be moving. The next incarnation
                // checks the topic before the join.
                Read::NoTopic => {
                    return Err(LogError::Unavailable(format!(
                        "a topic that {} reads is not known: {error}",
                        self.spec.group
                    )));
                }
                Read::Forbidden => return Err(forbidden(&error.to_string())),
                Read::Broken => {
                    return Err(LogError::Unavailable(format!(
                        "{}: {error}",
                        self.spec.instance
                    )));
                }
            }
        }

        Ok(())
    }

    /// Converts the next change of assignment for the engine.
    fn next_change(&mut self) -> Result<Option<Polled>, LogError> {
        let c = self.clients();
        let Some(change) = c.consumer.context().next_change() else {
            return Ok(None);
        };

        c.group = None;
        self.slots.clear();
        match change.map_err(LogError::Unavailable)? {
            AssignmentChange::Revoked { lost } => {
                self.waiting.get_or_insert((Instant::now(), Instant::now()));
                self.was_out |= lost;
                Ok(Some(Polled::Revoked { lost }))
            }
            AssignmentChange::Assigned { partitions, group } => {
                self.waiting = None;
                let mut assigned = Vec::with_capacity(partitions.len());
                for (topic, partition) in &partitions {
                    let id = self
                        .names
                        .find(topic)
                        .filter(|t| self.spec.inputs.iter().any(|i| i.topic == *t));
                    let (Some(id), Ok(number)) = (id, u32::try_from(*partition)) else {
                        return Err(LogError::Invalid(format!(
                            "{} was given {topic}/{partition}, which it does not read: is another program in this group?",
                            self.spec.instance
                        )));
                    };

                    assigned.push(TopicPartition::new(id, number));
                }

                assigned.sort_unstable();
                let c = self
                    .clients
                    .as_mut()
                    .expect("the clients are there until the member is dropped");
                self.slots.assign(
                    ClientHandle::of(c.consumer.client()),
                    &self.names,
                    &self.spec.inputs,
                    &assigned,
                )?;
                c.group = group;
                self.look_after(&assigned);
                Ok(Some(Polled::Assigned(assigned)))
            }
        }
    }

    /// Aborts open transactions of dead instances that owned these partitions before.
    fn look_after(&self, assigned: &[TopicPartition]) {
        let look = GroupLook {
            settings: Arc::clone(&self.settings),
            askers: Arc::clone(&self.askers),
            names: Arc::clone(&self.names),
            seen: Arc::clone(&self.seen),
            group: self.spec.group.clone(),
            instance: self.spec.instance.clone(),
        };

        look.after(assigned.to_vec());
    }

    /// Warns about a member that the group does not take in. Such a member reads nothing and
    /// librdkafka reports no error. Returns an error if waiting is useless: all brokers advertise
    /// an unreachable address, or the wait was too long.
    fn tell_waiting(&mut self) -> Result<(), LogError> {
        let Some((since, told)) = &mut self.waiting else {
            return Ok(());
        };

        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            let what = format!(
                "group {} has given {} no partitions for {} s",
                self.spec.group,
                self.spec.instance,
                since.elapsed().as_secs()
            );
            if let Some(cause) = survey::nowhere(&self.settings) {
                return Err(LogError::Unavailable(format!("{what}: {cause}")));
            }

            // No group takes this long. A client with wrong broker addresses keeps trying the
            // addresses for minutes, even after a correction.
            if since.elapsed() >= TELL_EVERY * 2 {
                return Err(LogError::Unavailable(format!(
                    "{what}: asking for them again with new clients"
                )));
            }

            tracing::warn!("{what}: waiting for its coordinator and its other members");
        }

        Ok(())
    }

    fn list(
        &self,
        partitions: impl Iterator<Item = (TopicPartition, Offset)>,
    ) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::new();
        for (at, offset) in partitions {
            let added =
                list.add_partition_offset(self.names.name(at.topic), at.partition as i32, offset);
            added.map_err(|e| LogError::Invalid(format!("{}: {e}", self.names.show(at))))?;
        }

        Ok(list)
    }
}

impl Member for KafkaMember {
    fn poll(
        &mut self,
        wait: Duration,
        limits: Limits,
        into: &mut Records,
    ) -> Result<Polled, LogError> {
        let _guard = watchdog::exit_after("polling", wait + self.settings.stuck_after);
        let deadline = Instant::now() + wait;
        let before = into.len();
        loop {
            self.clients().sender.serve(Duration::ZERO);
            self.serve_control()?;
            if let Some(change) = self.next_change()? {
                into.clear();
                return Ok(change);
            }

            self.slots.take(&self.names, limits, into)?;
            if let Some((at, offset)) = self
                .slots
                .take_unstamped()
                .filter(|(at, _)| !self.told_unstamped.contains(&at.topic))
            {
                survey::judge_unstamped(
                    &self.settings,
                    self.names.name(at.topic),
                    at.partition,
                    offset,
                )?;
                self.told_unstamped.push(at.topic);
            }

            if into.len() > before {
                break;
            }

            self.tell_waiting()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Polled::Records);
            }

            self.bell.wait(left.min(SLICE));
        }

        // Serve the control queue again. Records of an assignment that has just ended would be
        // processed in vain.
        self.serve_control()?;
        if let Some(change) = self.next_change()? {
            into.clear();
            return Ok(change);
        }

        Ok(Polled::Records)
    }

    fn resume(&mut self, positions: &[(TopicPartition, u64)]) -> Result<(), LogError> {
        let _guard = watchdog::exit_after(
            "resuming",
            self.settings.request_wait * 2 + self.settings.stuck_after,
        );
        let deadline = Instant::now() + self.settings.request_wait;
        for &(at, _) in positions {
            if !self.slots.has(at) {
                return Err(LogError::Unavailable(format!(
                    "{} is not assigned to {}",
                    self.names.show(at),
                    self.spec.instance
                )));
            }
        }

        let mut left: Vec<_> = positions.to_vec();
        loop {
            let list = self.list(
                left.iter()
                    .map(|&(at, o)| (at, Offset::Offset(i64::try_from(o).unwrap_or(i64::MAX)))),
            )?;
            let wait = self.settings.request_wait;
            let sought = self.clients().consumer.seek_partitions(list, wait);
            let sought =
                sought.map_err(|e| LogError::Unavailable(format!("setting positions: {e}")))?;

            // The call succeeds as a whole even if a partition failed. Right after an assignment,
            // the fetcher of a partition may not run yet.
            let mut why = String::new();
            left.retain(|(at, _)| {
                match sought
                    .find_partition(self.names.name(at.topic), at.partition as i32)
                    .map(|e| e.error())
                {
                    Some(Ok(())) => false,
                    Some(Err(e)) => {
                        why = format!("{}: {e}", self.names.show(*at));
                        true
                    }
                    None => true,
                }
            });

            if left.is_empty() {
                break;
            }

            if Instant::now() >= deadline {
                return Err(LogError::Unavailable(format!(
                    "the position could not be set for {why}"
                )));
            }

            std::thread::sleep(Duration::from_millis(10));
        }

        let list = self.list(positions.iter().map(|&(at, _)| (at, Offset::Invalid)))?;
        self.clients()
            .consumer
            .resume(&list)
            .map_err(|e| LogError::Unavailable(format!("resuming: {e}")))?;
        self.slots.resume(positions);
        Ok(())
    }

    fn skip_partitions(&mut self, partitions: &[TopicPartition]) {
        self.slots.skip_partitions(partitions);
    }

    fn transact(&mut self, tx: &Transaction<'_>) -> TransactionOutcome {
        let _guard = watchdog::exit_after("a transaction", self.watched_for());
        if let Some(why) = &self.ended {
            return TransactionOutcome::NotCommitted(format!("this incarnation has ended: {why}"));
        }

        let timeout = self.settings.transaction_timeout;
        let c = self
            .clients
            .as_mut()
            .expect("the clients are there until the member is dropped");
        let Some(group) = &c.group else {
            return TransactionOutcome::NotCommitted("no partitions are assigned".into());
        };

        let begun = Instant::now();
        let run = {
            // Every call inside has a limit within the transaction's time. A call that ignores the
            // limit also blocks the group: a member that sends heartbeats but does not poll holds
            // up every rebalance.
            let _guard = watchdog::exit_after("a call of a transaction", timeout + OVERSTAY);
            Parts {
                names: &self.names,
                spec: &self.spec,
                sender: &mut c.sender,
                pace: &mut self.pace,
                group,
                timeout,
            }
            .run(tx)
        };

        let failed = match (run, c.sender.fenced()) {
            (Ok(appended), _) => {
                return TransactionOutcome::Committed {
                    appended,
                    suspect: c.sender.is_suspect(),
                };
            }
            (
                Err(TransactError::Not(_) | TransactError::Late(..) | TransactError::Unknown(_)),
                Some(why),
            ) => TransactError::ProducerFenced(why),
            (Err(failed), _) => failed,
        };

        let outcome = self.outcome_of(failed, begun.elapsed(), tx);
        self.ended = Some(format!("{outcome:?}"));
        outcome
    }

    /// A static member does not leave the group on close (KIP-345). Therefore the member
    /// unsubscribes first, and librdkafka then sends LeaveGroup.
    fn leave(&mut self) {
        let _guard = watchdog::exit_after(
            "leaving the group",
            LEAVE_WAIT * 2 + self.settings.stuck_after,
        );
        self.slots.clear();
        let Some(clients) = self.clients.take() else {
            return;
        };

        let deadline = Instant::now() + LEAVE_WAIT;
        clients.consumer.unsubscribe();

        // librdkafka sends LeaveGroup after the revocation was answered.
        let mut revoked = false;
        while !revoked && Instant::now() < deadline {
            drop(clients.consumer.poll(Duration::from_millis(20)));
            while let Some(change) = clients.consumer.context().next_change() {
                revoked |= matches!(change, Ok(AssignmentChange::Revoked { .. }));
            }
        }

        clients.consumer.context().close();

        // Closing the consumer waits for the answer.
        let (closed, done) = std::sync::mpsc::channel::<()>();
        watchdog::drop_aside("closing a member's clients", (clients, closed));
        let left = deadline.saturating_duration_since(Instant::now());
        match done.recv_timeout(left) {
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) if revoked => {
                tracing::info!(
                    "{} has left group {}: its tasks go to the others at once",
                    self.spec.instance,
                    self.spec.group
                );
            }
            _ => tracing::warn!(
                "{} could not leave group {} in {LEAVE_WAIT:?}: its tasks go to the others when its session ends",
                self.spec.instance,
                self.spec.group
            ),
        }
    }

    fn suspect(&self) -> bool {
        self.clients.as_ref().is_some_and(|c| c.sender.is_suspect())
    }
}

impl KafkaMember {
    /// The outcome of a transaction that failed after `took`.
    fn outcome_of(
        &self,
        failed: TransactError,
        took: Duration,
        tx: &Transaction<'_>,
    ) -> TransactionOutcome {
        match failed {
            TransactError::Not(why) => {
                TransactionOutcome::NotCommitted(self.diagnosed(why, took, tx))
            }
            TransactError::Late(why, done) => TransactionOutcome::Late {
                why: self.diagnosed(why, took, tx),
                done,
                of: tx.outputs.len(),
            },
            TransactError::Rejected(rejection) => TransactionOutcome::Rejected(rejection),
            TransactError::Unknown(why) => {
                TransactionOutcome::Unknown(self.diagnosed(why, took, tx))
            }
            TransactError::Forbidden(why) => TransactionOutcome::Refused(why),
            // Our epoch was valid a moment ago, when the offsets were added. So no successor
            // exists.
            TransactError::InstanceFenced(why) => TransactionOutcome::NotCommitted(format!(
                "{why}; taking our place in the group again"
            )),
            TransactError::ProducerFenced(why) => {
                let clients = self
                    .clients
                    .as_ref()
                    .expect("the clients are there until the member is dropped");
                fence_diagnosis::fenced_or_expired(
                    &why,
                    took,
                    &clients.consumer,
                    &self.settings,
                    &self.spec,
                )
            }
        }
    }

    /// Adds the cause to a transaction timeout, if the cluster shows a cause. Brokers with a
    /// missing requirement or a wrong advertised address do not report the problem to the waiting
    /// client.
    fn diagnosed(&self, why: String, took: Duration, tx: &Transaction<'_>) -> String {
        if took < self.settings.transaction_timeout / 2 {
            return why;
        }

        let mut topics: Vec<_> = tx
            .outputs
            .iter()
            .map(|r| self.names.name(r.at.topic))
            .collect();
        topics.sort_unstable();
        topics.dedup();
        topics.truncate(4);
        survey::diagnosed(&self.settings, why, &topics)
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        // The partition queues must be dropped before their client.
        self.slots.clear();
        if let Some(clients) = self.clients.take() {
            clients.consumer.context().close();
            crash::point(Point::StopClosing);
            watchdog::drop_aside("closing a member's clients", clients);
        }
    }
}
