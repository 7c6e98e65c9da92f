//! One incarnation of one group member: a consumer that delivers only what it was told to resume,
//! and the producer of its transactions.
//!
//! The member's one thread serves the consumer's own queue, which carries rebalances and client
//! errors, with `BaseConsumer::poll`, which runs the callback of [`super::stale_requests`]; records wait
//! in a queue for each partition (see [`super::fetch`]). All of them ring one bell, which an idle
//! member waits for.
//!
//! **Why no record is ever committed under a generation that it does not belong to.** The group
//! metadata is taken once, in the callback that hands over an assignment, and serves until the
//! assignment is revoked; a transaction without it is refused here. Records are delivered only from
//! positions that were set after that callback, and a revocation or a new assignment voids what was
//! taken before it and the metadata with it. So what a transaction carries was read under the very
//! assignment whose generation it names. When the group has moved on and this thread has not heard
//! of it yet, the generation is an old one, and the broker refuses the transaction: that is right,
//! because somebody else may own the partitions. (To ask for the metadata after each poll, as was
//! done before, could only pick up a generation that is *newer* than the assignment.) The callback
//! cannot meet a newer generation either: librdkafka joins again only after the assignment was
//! handed over and taken back, or when this thread has not polled for `max.poll.interval.ms`, and
//! then the generation is -1, which is refused too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::admin::{Admin, Askers};
use super::bell::Bell;
use super::classify::{self, Read};
use super::config::KafkaSettings;
use super::fencing;
use super::fetch::Slots;
use super::ffi::{ClientHandle, EventQueue, GroupMetadata};
use super::refused::{self, forbidden};
use super::stale_requests::{AssignmentChange, MemberWatch};
use super::survey;
use super::takeover::{GroupLook, SeenMembers};
use super::transact::{MarkerPacing, Parts, TransactError, TransactionalProducer};
use super::watchdog;
use faults::crash::{self, Point};
use ports::records::Records;
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Limits, LogError, Member, MemberSpec, Polled, Transaction, TransactionOutcome};

/// How often an idle member looks at what rings no bell: the log lines of its producer.
const SLICE: Duration = Duration::from_millis(50);
/// How long a farewell may take.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
/// How much longer than its time a transaction's calls may take on a machine that is short of
/// everything. After that one of them hangs.
const OVERSTAY: Duration = Duration::from_secs(10);
/// The consumer's own queue; no partition has this number.
const CONTROL: u32 = u32::MAX;
/// How often it is told that the group has no partitions for this member.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// A member of a consumer group over Kafka.
pub(super) struct KafkaMember {
    settings: Arc<KafkaSettings>,
    askers: Arc<Askers>,
    names: Arc<TopicTable>,
    seen: Arc<SeenMembers>,
    spec: MemberSpec,
    /// Whether the group has put this incarnation out since it joined, so that somebody may have
    /// ended our transactions for us.
    was_out: bool,
    pace: MarkerPacing,
    slots: Slots,
    bell: Arc<Bell>,
    /// Since when the group has not taken this member in, and when that was told last.
    waiting: Option<(Instant, Instant)>,
    /// Why this incarnation cannot write any more.
    ended: Option<String>,
    /// Topics with records that the broker did not stamp, and whose settings were found to be right
    /// again.
    told_unstamped: Vec<TopicId>,
    clients: Option<MemberClients>,
}

/// The parts of a log that its members share.
pub(super) struct SharedParts {
    pub(super) settings: Arc<KafkaSettings>,
    pub(super) askers: Arc<Askers>,
    pub(super) names: Arc<TopicTable>,
    pub(super) seen: Arc<SeenMembers>,
}

/// Everything that has to be closed, in this order.
struct MemberClients {
    group: Option<GroupMetadata>,
    /// Rings when the consumer's own queue gets something; that is polled through the consumer.
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

    /// The group has given our place to somebody: to a newer process, or to nobody (see
    /// [`super::fencing`]).
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
                if !fencing::epoch_is_over(&c.sender, &list, &group, self.settings.request_wait)
                    // The epoch proves nothing if others have ended our transactions while we were
                    // out of the group.
                    || self.was_out && !fencing::is_alive(&c.consumer, &self.settings, &self.spec) =>
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

        // Asked every time: the event that told of it may have been consumed elsewhere, the
        // client's state stays.
        if c.consumer
            .client()
            .fatal_error()
            .is_some_and(|(code, _)| code == Code::FencedInstanceId)
        {
            return Err(self.place_lost());
        }

        while let Some(event) = c.consumer.poll(Duration::ZERO) {
            // A record here was fetched before its partition got a queue of its own, that is,
            // before it was resumed: void.
            let Err(error) = event else { continue };
            let (code, fatal) = match (&error, c.consumer.client().fatal_error()) {
                (_, Some((code, _))) => (code, true),
                (KafkaError::MessageConsumption(code), None) => (*code, false),
                (KafkaError::MessageConsumptionFatal(code), None) => (*code, true),
                _ => continue,
            };

            match classify::read(code, fatal) {
                Read::Passing => tracing::debug!("{}: {error}", self.spec.instance),
                // Of a paused partition, on its way to being resumed elsewhere; delivered ones
                // report to their own queues.
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
                // Whether it is gone or its cluster is on the move, the next incarnation finds out
                // before it joins.
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

    /// The next change of assignment, in the engine's terms.
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

    /// Ends what those have left open who had these partitions before and are gone.
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

    /// A member that the group does not take in reads nothing and reports no error; somebody should
    /// know. An error: there is nothing to wait for, because no broker can be reached where it says
    /// it is, or because it has taken too long.
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

            // No group takes so long. A client that was told addresses that lead nowhere looks
            // there for minutes, also when they are corrected.
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

        // Once more: records of an assignment that has just ended would be processed in vain.
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

            // The call as a whole succeeds even when a partition failed; right after an assignment
            // its fetcher may not be up yet.
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

    fn pass_over(&mut self, partitions: &[TopicPartition]) {
        self.slots.pass_over(partitions);
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
            // Every call in there has a limit within the transaction's time. One that ignores it
            // holds up the group besides: a member that sends heartbeats and does not poll is
            // waited for by all that join.
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

        let run = match (run, c.sender.fenced()) {
            (
                Err(TransactError::Not(_) | TransactError::Late(..) | TransactError::Unknown(_)),
                Some(why),
            ) => Err(TransactError::ProducerFenced(why)),
            (run, _) => run,
        };

        let outcome = match run {
            Ok(appended) => {
                return TransactionOutcome::Committed {
                    appended,
                    suspect: c.sender.is_suspect(),
                };
            }
            Err(TransactError::Not(why)) => {
                TransactionOutcome::NotCommitted(self.diagnosed(why, begun.elapsed(), tx))
            }
            Err(TransactError::Late(why, done)) => TransactionOutcome::Late {
                why: self.diagnosed(why, begun.elapsed(), tx),
                done,
                of: tx.outputs.len(),
            },
            Err(TransactError::Rejected(rejection)) => TransactionOutcome::Rejected(rejection),
            Err(TransactError::Unknown(why)) => {
                TransactionOutcome::Unknown(self.diagnosed(why, begun.elapsed(), tx))
            }
            Err(TransactError::Forbidden(why)) => TransactionOutcome::Refused(why),
            // Our epoch was in force a moment ago, when the offsets were added: nobody has come
            // after us.
            Err(TransactError::InstanceFenced(why)) => TransactionOutcome::NotCommitted(format!(
                "{why}; taking our place in the group again"
            )),
            Err(TransactError::ProducerFenced(why)) => fencing::fenced_or_expired(
                &why,
                begun.elapsed(),
                &c.consumer,
                &self.settings,
                &self.spec,
            ),
        };

        self.ended = Some(format!("{outcome:?}"));
        outcome
    }

    /// A static member does not leave when it is closed, so it gives up its subscription first:
    /// then librdkafka says farewell.
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

        // The farewell goes out when the revocation was answered.
        let mut revoked = false;
        while !revoked && Instant::now() < deadline {
            drop(clients.consumer.poll(Duration::from_millis(20)));
            while let Some(change) = clients.consumer.context().next_change() {
                revoked |= matches!(change, Ok(AssignmentChange::Revoked { .. }));
            }
        }

        clients.consumer.context().close();

        // To close the consumer is to wait for the answer.
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
    /// Where a transaction's time was up: with the cause, as far as the cluster shows one. Brokers
    /// that lack something, or give an address that leads nowhere, do not say so to whoever waits
    /// for their answer.
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
        // The queues of partitions go before their client.
        self.slots.clear();
        if let Some(clients) = self.clients.take() {
            clients.consumer.context().close();
            crash::point(Point::StopClosing);
            watchdog::drop_aside("closing a member's clients", clients);
        }
    }
}
