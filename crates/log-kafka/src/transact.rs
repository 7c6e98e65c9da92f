//! The one transaction: send the outputs, wait for their delivery, add the offsets, commit. This
//! file also maps each outcome (KIP-98, KIP-447).
//!
//! The order serves speed as well as safety:
//!
//! * Offsets go **last**. The broker may still be finishing the previous transaction. librdkafka
//!   then retries the first request of a transaction after 20 ms, but retries offsets with a
//!   growing back-off.
//! * The event queue reports deliveries. The flush of rdkafka waits in steps of 100 ms.
//! * The first record waits until a short gap after the previous commit has passed. A commit
//!   returns before the broker writes the transaction markers, and a record in that moment is
//!   refused for 20 ms. The gap is measured: the gap grows when deliveries stall after a short gap,
//!   and shrinks otherwise. An idle member never waits.
//!
//! This file never aborts a transaction. The engine drops a failed incarnation, and
//! `init_transactions` of the next incarnation finishes the open transaction.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use faults::crash::{self, Point};
use ports::records::{Record, Records};
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{LogError, MemberSpec, Rejection, Transaction};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::classify::{self, TxErrorClass, TxStep};
use super::ffi::{self, ClientHandle, EventQueue, GroupMetadata, ProducerEvent, ProducerTopic};
use super::in_flight;
use super::rejection::{self, size};
use super::stale_requests::{self, ProducerWatch};
use super::takeover;
use super::throttle::Throttle;

const GAP_MIN: Duration = Duration::from_micros(500);
const GAP_MAX: Duration = Duration::from_micros(4_000);
/// librdkafka waits this long after the broker has refused the first request.
const REFUSED: Duration = Duration::from_millis(20);

/// The failure of a call.
pub(super) enum TransactError {
    Not(String),
    /// The time of the transaction was up before the commit was requested. The number counts the
    /// records that were accepted.
    Late(String, usize),
    /// The brokers refuse a record.
    Rejected(Rejection),
    Unknown(String),
    ProducerFenced(String),
    InstanceFenced(String),
    Forbidden(String),
}

/// A record that did not reach the log.
#[derive(Clone, Copy)]
pub(super) struct FailedRecord {
    /// librdkafka's handle of the topic.
    topic: usize,
    partition: i32,
    code: Code,
}

impl TransactError {
    /// Converts the failure for a writer outside transactions.
    pub(super) fn of_a_record(self) -> LogError {
        match self {
            TransactError::Late(why, _) => LogError::Unavailable(why),
            TransactError::Rejected(rejection) => LogError::Invalid(rejection.text),
            TransactError::Not(why)
            | TransactError::Unknown(why)
            | TransactError::ProducerFenced(why)
            | TransactError::InstanceFenced(why)
            | TransactError::Forbidden(why) => LogError::Unavailable(why),
        }
    }
}

/// A producer with its event queue. Rust drops the fields in this order: topics and queue must go
/// before their client.
pub(super) struct TransactionalProducer {
    topics: Vec<Option<ProducerTopic>>,
    events: EventQueue,
    pub(super) handle: ClientHandle,
    client: BaseProducer<ProducerWatch>,
    sent: u64,
    reported: u64,
    failure: Option<FailedRecord>,
    appended: Vec<(usize, i32, i64)>,
    suspect: bool,
    throttle: Throttle,
    /// True while a transaction is open, or after a transaction failed. Only in these cases can a
    /// lost connection leave a request in flight.
    busy: bool,
}

impl TransactionalProducer {
    pub(super) fn new(
        client: BaseProducer<ProducerWatch>,
        topics: &TopicTable,
        whose: &str,
    ) -> Self {
        let handle = ClientHandle::of(client.client());
        TransactionalProducer {
            topics: topics.iter().map(|_| None).collect(),
            events: EventQueue::main(handle),
            handle,
            client,
            sent: 0,
            reported: 0,
            failure: None,
            appended: Vec::new(),
            suspect: false,
            throttle: Throttle::of(whose),
            busy: false,
        }
    }

    /// Number of records that are neither delivered nor failed yet.
    pub(super) fn outstanding(&self) -> u64 {
        self.sent - self.reported
    }

    /// Takes the delivery failure since the last call. A record that the brokers refused for its
    /// content comes first, then the earliest failure. If a record of a transaction is refused,
    /// librdkafka reports all other records as purged.
    pub(super) fn take_failure(&mut self) -> Option<FailedRecord> {
        self.failure.take()
    }

    /// Text for a failed record: target partition and cause. If the brokers refuse the producer,
    /// its records come back as purged, and the producer's fatal error has the cause.
    pub(super) fn show(&self, names: &TopicTable, failed: &FailedRecord) -> String {
        let purged = matches!(failed.code, Code::PurgeQueue | Code::PurgeInflight);
        let fatal = self.client.client().fatal_error().filter(|_| purged);
        format!(
            "{}: {}",
            self.place_of(failed)
                .map_or("a topic".into(), |at| names.show(at).to_string()),
            fatal.map_or_else(|| failed.code.to_string(), |(_, text)| text)
        )
    }

    fn place_of(&self, failed: &FailedRecord) -> Option<TopicPartition> {
        let topic = self
            .topics
            .iter()
            .position(|t| t.as_ref().is_some_and(|t| t.handle() == failed.topic))?;
        Some(TopicPartition::new(
            TopicId(u16::try_from(topic).ok()?),
            u32::try_from(failed.partition).ok()?,
        ))
    }

    /// True if a request may still be in flight since the last [`TransactionalProducer::trust`].
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect && !stale_requests::keeps_producer()
    }

    /// Clears the suspicion. A new epoch makes old requests harmless.
    pub(super) fn trust(&mut self) {
        self.suspect = false;
    }

    pub(super) fn client(&self) -> &BaseProducer<ProducerWatch> {
        &self.client
    }

    /// Serves deliveries, log lines and errors. Waits for the first event, then takes all events
    /// that are already in the queue.
    pub(super) fn serve(&mut self, wait: Duration) {
        let TransactionalProducer {
            events,
            reported,
            failure,
            appended,
            suspect,
            throttle,
            busy,
            ..
        } = self;

        let mut on = |event: ProducerEvent<'_>| match event {
            ProducerEvent::Delivery {
                topic,
                partition,
                offset,
                error,
            } => {
                *reported += 1;
                match error {
                    Some(code) => {
                        let tells_more = |known: &mut FailedRecord| {
                            classify::refusal(code).is_some()
                                && classify::refusal(known.code).is_none()
                        };

                        if failure.as_mut().is_none_or(tells_more) {
                            *failure = Some(FailedRecord {
                                topic,
                                partition,
                                code,
                            });
                        }
                    }
                    // Deliveries arrive in batches, so the partition is nearly always the last
                    // entry.
                    None => match appended
                        .iter_mut()
                        .rfind(|(t, p, _)| *t == topic && *p == partition)
                    {
                        Some((_, _, last)) => *last = offset.max(*last),
                        None => appended.push((topic, partition, offset)),
                    },
                }
            }
            ProducerEvent::Log {
                level,
                facility,
                line,
            } => {
                *suspect |= stale_requests::is_suspect(facility, line, *busy);
                stale_requests::trace_line(level, facility, line);
            }
            ProducerEvent::Statistics(json) => throttle.note(json, Instant::now()),
            ProducerEvent::Error { code, fatal, line } => {
                tracing::debug!(target: "librdkafka", "producer: {line} ({code:?}{})", if fatal { ", fatal" } else { "" });
            }
        };

        let mut wait = wait;
        while events.next_event(wait, &mut on) {
            wait = Duration::ZERO;
        }
    }

    /// The fatal error if the epoch of this producer is over. The failed call may report another
    /// error: records of a fenced producer come back as purged.
    pub(super) fn fenced(&self) -> Option<String> {
        let (code, text) = self.client.client().fatal_error()?;
        matches!(
            code,
            Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch
        )
        .then_some(text)
    }

    /// Queues one record. Waits for space in librdkafka's queue until the deadline.
    pub(super) fn send(
        &mut self,
        names: &TopicTable,
        r: &Record<'_>,
        deadline: Instant,
    ) -> Result<(), TransactError> {
        if size(r) > names.spec(r.at.topic).record_bytes_max as usize {
            return Err(TransactError::Rejected(rejection::of(
                names,
                Code::MessageSizeTooLarge,
                Some(r),
            )));
        }

        let slot = r.at.topic.0 as usize;
        if self.topics[slot].is_none() {
            self.topics[slot] = ProducerTopic::open(self.handle, names.name(r.at.topic));
        }

        loop {
            let topic = self.topics[slot].as_ref();
            let topic = topic.ok_or_else(|| {
                TransactError::Not(format!("{} is not a topic name", names.name(r.at.topic)))
            })?;

            match topic.produce(self.handle, r) {
                Ok(()) => {
                    self.sent += 1;
                    return Ok(());
                }
                Err(Code::QueueFull) if Instant::now() < deadline => {
                    self.serve(Duration::from_millis(5))
                }
                Err(Code::QueueFull) => {
                    return Err(TransactError::Late(
                        "the client's queue was full until the transaction's time was up".into(),
                        0,
                    ));
                }
                Err(Code::UnknownPartition) => {
                    return Err(TransactError::Not(format!(
                        "{} does not exist; `processor topics check` says what differs",
                        names.show(r.at)
                    )));
                }
                Err(code) if classify::refusal(code).is_some() => {
                    return Err(TransactError::Rejected(rejection::of(names, code, Some(r))));
                }
                Err(e) => return Err(TransactError::Not(format!("{}: {e}", names.show(r.at)))),
            }
        }
    }

    /// Waits until all sent records are delivered or failed. Returns false if the deadline passed
    /// first.
    pub(super) fn drain(&mut self, deadline: Instant) -> bool {
        while self.outstanding() > 0 {
            let now = Instant::now();
            if now >= deadline {
                return false;
            }

            self.serve((deadline - now).min(Duration::from_millis(100)));
        }

        true
    }

    fn take_appended(&mut self) -> Vec<(TopicPartition, u64)> {
        let place = |handle: usize| {
            self.topics
                .iter()
                .position(|t| t.as_ref().is_some_and(|t| t.handle() == handle))
        };

        let mut all: Vec<_> = (self.appended.iter())
            .filter_map(|&(t, p, o)| {
                let topic = TopicId(u16::try_from(place(t)?).ok()?);
                Some((
                    TopicPartition::new(topic, u32::try_from(p).ok()?),
                    u64::try_from(o).ok()?,
                ))
            })
            .collect();

        all.sort_unstable();
        self.appended.clear();
        all
    }
}

/// Decides when the next transaction may send its first record.
pub(super) struct MarkerPacing {
    gap: Duration,
    last_commit: Option<Instant>,
}

impl MarkerPacing {
    pub(super) fn new() -> Self {
        MarkerPacing {
            gap: Duration::from_micros(1_500),
            last_commit: None,
        }
    }

    /// Waits for the rest of the gap. Returns true if a wait was necessary.
    fn hold_back(&self) -> bool {
        let Some(rest) = self
            .last_commit
            .and_then(|at| self.gap.checked_sub(at.elapsed()))
        else {
            return false;
        };

        std::thread::sleep(rest);
        true
    }

    /// Adapts the gap to the delivery time after a wait of exactly the gap.
    fn learn(&mut self, waited: bool, deliveries: Duration) {
        if !waited {
            return;
        }

        self.gap = if deliveries >= REFUSED {
            self.gap * 5 / 4
        } else {
            self.gap - self.gap / 128
        }
        .clamp(GAP_MIN, GAP_MAX);
    }
}

/// The parts of a member that a transaction needs.
pub(super) struct Parts<'a> {
    pub(super) names: &'a TopicTable,
    pub(super) spec: &'a MemberSpec,
    pub(super) sender: &'a mut TransactionalProducer,
    pub(super) pace: &'a mut MarkerPacing,
    pub(super) group: &'a GroupMetadata,
    pub(super) timeout: Duration,
}

impl Parts<'_> {
    /// Runs the transaction. On success returns the last written offset of each partition.
    pub(super) fn run(
        &mut self,
        tx: &Transaction<'_>,
    ) -> Result<Vec<(TopicPartition, u64)>, TransactError> {
        let handle = self.sender.handle;
        self.check_before(tx)?;
        self.sender.busy = true;
        let deadline = Instant::now() + self.timeout;
        self.step(TxStep::BeforeCommit, deadline, |_| {
            ffi::begin_transaction(handle)
        })?;

        crash::point(Point::TxBegun);
        self.deliver(tx, deadline)?;
        crash::point(Point::TxDelivered);
        let offsets = self.offsets(tx).map_err(TransactError::Not)?;
        self.step(TxStep::BeforeCommit, deadline, |me| {
            let wait = deadline
                .saturating_duration_since(Instant::now())
                .min(Duration::from_secs(5));
            in_flight::call(Point::TxOffsetsInFlight, handle, || {
                ffi::send_offsets(handle, &offsets, me.group, wait)
            })
        })?;

        crash::point(Point::TxOffsets);
        self.step(TxStep::Commit, deadline, |_| {
            let wait = deadline
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(500));
            in_flight::call(Point::TxEndInFlight, handle, || {
                ffi::commit_transaction(handle, wait)
            })
        })?;

        self.pace.last_commit = Some(Instant::now());

        // The log lines of the commit are in the queue now. Serve the queue, so that the next call
        // of `is_suspect` sees the lines.
        self.sender.serve(Duration::ZERO);
        self.sender.busy = false;
        Ok(self.sender.take_appended())
    }

    /// Refuses a transaction that the brokers would not fence, or that a late request could reach.
    fn check_before(&mut self, tx: &Transaction<'_>) -> Result<(), TransactError> {
        // The broker does not check a generation of -1 at all.
        if self.group.generation() < 0 {
            return Err(TransactError::Not(
                "not a member of the group any more".into(),
            ));
        }

        if tx.offsets.is_empty() {
            return Err(TransactError::Not(
                "a transaction without offsets would not be fenced by the group".into(),
            ));
        }

        // A log line may have arrived since the last check. The request behind that line may still
        // be in flight, and must not reach this transaction.
        self.sender.serve(Duration::ZERO);
        if self.sender.is_suspect() {
            return Err(TransactError::Not("a connection or request failed before the transaction began; it begins again under a new epoch".into()));
        }

        Ok(())
    }

    /// Sends the records and waits until the brokers have acknowledged all of them.
    fn deliver(&mut self, tx: &Transaction<'_>, deadline: Instant) -> Result<(), TransactError> {
        let waited = self.pace.hold_back();
        let started = Instant::now();
        self.send_all(tx.outputs, deadline)?;
        crash::point(Point::TxSent);
        if !self.sender.drain(deadline) {
            let left = self.sender.outstanding();
            let all = tx.outputs.len();
            let done = all.saturating_sub(usize::try_from(left).unwrap_or(usize::MAX));
            let cause = self
                .sender
                .throttle
                .why()
                .unwrap_or_else(|| "a slow link, a quota, or brokers that are away".into());
            let why = format!(
                "{left} of {all} records were not acknowledged in {:?} ({cause})",
                self.timeout
            );
            return Err(TransactError::Late(why, done));
        }

        if let Some(failed) = self.sender.take_failure() {
            return Err(self.cause(&failed, tx));
        }

        if !tx.outputs.is_empty() {
            self.pace.learn(waited, started.elapsed());
        }

        Ok(())
    }

    fn send_all(&mut self, outputs: &Records, deadline: Instant) -> Result<(), TransactError> {
        for (sent, r) in outputs.iter().enumerate() {
            self.sender
                .send(self.names, &r, deadline)
                .map_err(|e| match e {
                    TransactError::Late(why, _) => TransactError::Late(
                        why,
                        sent.saturating_sub(
                            usize::try_from(self.sender.outstanding()).unwrap_or(usize::MAX),
                        ),
                    ),
                    e => e,
                })?;

            crash::point(Point::TxSending);
        }

        Ok(())
    }

    fn offsets(&self, tx: &Transaction<'_>) -> Result<TopicPartitionList, String> {
        let mut list = TopicPartitionList::with_capacity(tx.offsets.len());
        for &(at, next) in tx.offsets {
            let next = i64::try_from(next)
                .map_err(|_| format!("offset {next} of {} is no offset", self.names.show(at)))?;
            let mut element = list.add_partition(self.names.name(at.topic), at.partition as i32);
            element
                .set_offset(Offset::Offset(next))
                .map_err(|e| e.to_string())?;
            element.set_metadata(takeover::signature(&self.spec.instance));
        }

        Ok(list)
    }

    /// Repeats the call until success, a final error, or the end of the transaction's time. A
    /// commit that ran out of time may still happen.
    fn step(
        &mut self,
        step: TxStep,
        deadline: Instant,
        mut call: impl FnMut(&mut Self) -> Result<(), ffi::TxError>,
    ) -> Result<(), TransactError> {
        loop {
            let Err(e) = call(self) else { return Ok(()) };
            self.sender.serve(Duration::ZERO);
            let text = format!("{} ({:?})", e.text, e.code);
            match classify::transaction(step, &e) {
                TxErrorClass::Again if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                TxErrorClass::Again if step == TxStep::Commit => {
                    return Err(TransactError::Unknown(text));
                }
                TxErrorClass::Again => return Err(TransactError::Late(text, 0)),
                TxErrorClass::Not => return Err(TransactError::Not(text)),
                TxErrorClass::Unknown => return Err(TransactError::Unknown(text)),
                TxErrorClass::ProducerFenced => return Err(TransactError::ProducerFenced(text)),
                TxErrorClass::InstanceFenced => return Err(TransactError::InstanceFenced(text)),
                // The records are already delivered, so only the right to read the input topics can
                // be missing. The offsets belong to these topics.
                TxErrorClass::Forbidden => {
                    return Err(self.forbidden(
                        &e,
                        "Read",
                        self.spec.inputs.iter().map(|i| i.topic),
                    ));
                }
            }
        }
    }

    /// Finds the reason for refused records. If a transaction fails as a whole, librdkafka reports
    /// the records as purged. The error of the next call has the cause.
    fn cause(&self, failed: &FailedRecord, tx: &Transaction<'_>) -> TransactError {
        let at = self.sender.place_of(failed);
        if classify::refusal(failed.code).is_some() {
            return TransactError::Rejected(rejection::of(
                self.names,
                failed.code,
                at.and_then(|at| rejection::to_blame(failed.code, tx.outputs, at))
                    .as_ref(),
            ));
        }

        let why = self.sender.show(self.names, failed);
        let asked = self.offsets(tx).map(|list| {
            ffi::send_offsets(
                self.sender.handle,
                &list,
                self.group,
                Duration::from_secs(1),
            )
        });

        match asked {
            Ok(Err(e)) if classify::is_forbidden(e.code) => {
                self.forbidden(&e, "Write", tx.outputs.iter().map(|r| r.at.topic))
            }
            Ok(Err(e)) => {
                TransactError::Not(format!("a record was not accepted: {why}; {}", e.text))
            }
            _ => TransactError::Not(format!("a record was not accepted: {why}")),
        }
    }

    fn forbidden(
        &self,
        e: &ffi::TxError,
        right: &str,
        topics: impl Iterator<Item = TopicId>,
    ) -> TransactError {
        let names: BTreeSet<&str> = topics.map(|t| self.names.name(t)).collect();
        let topics = format!(
            "{right} on topics {}",
            names.into_iter().collect::<Vec<_>>().join(", ")
        );
        let missing =
            classify::missing_right(e.code, &topics, &self.spec.group, &self.spec.instance);
        TransactError::Forbidden(refused(
            &self.spec.instance,
            &missing.unwrap_or_default(),
            &e.text,
        ))
    }
}

/// Text for the operator: the right to grant.
pub(super) fn refused(instance: &str, missing: &str, text: &str) -> String {
    format!(
        "the brokers refuse the transactions of {instance} ({text}): allow its principal {missing} (kafka-acls.sh), then start again; nothing is lost"
    )
}
