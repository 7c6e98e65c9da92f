//! One incarnation of one group member: a consumer that delivers only what it was told to resume, and the producer of its transactions.
//!
//! Two queues are served by the member's one thread. The consumer's own queue carries rebalances and client errors and is polled with
//! `BaseConsumer::poll`, which runs the callback of [`super::suspect`]; records of all partitions go to a queue of ours, from which they are
//! taken in bulk. A member's generation cannot move on before a revocation was served on the first queue, so records that were taken and the group
//! metadata captured right after belong together, unless a change was found in between; then the records are dropped.

use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::classify::{self, Read};
use super::config::KafkaSettings;
use super::ffi::{GroupMetadata, Handle, Message, Queue};
use super::successor;
use super::suspect::{Change, MemberWatch};
use super::transact::{Pace, Parts, Sender, Stop};
use super::watchdog;
use crate::engine::crash::{self, Point};
use crate::engine::ports::{Committed, Limits, LogError, Member, MemberSpec, Outcome, Polled, Transaction};
use crate::engine::records::{HeaderBuf, Record, Records};
use crate::engine::topics::{TopicId, TopicPartition, TopicTable};

/// How long a wait for records may delay a rebalance.
const SLICE: Duration = Duration::from_millis(10);
/// After this long without an answer, committed offsets count as pending.
const COMMITTED_WAIT: Duration = Duration::from_millis(1_000);
const CHUNK: usize = 1_024;

/// A member of a consumer group over Kafka.
pub(super) struct KafkaMember {
    settings: Arc<KafkaSettings>,
    names: Arc<TopicTable>,
    spec: MemberSpec,
    pace: Pace,
    positions: Positions,
    /// Why this incarnation cannot write any more.
    ended: Option<String>,
    clients: Option<Clients>,
}

/// What has to be closed, in this order.
struct Clients {
    group: Option<GroupMetadata>,
    data: Queue,
    sender: Sender,
    consumer: BaseConsumer<MemberWatch>,
}

/// Which partitions are delivered, and from where.
#[derive(Default)]
struct Positions {
    /// Sorted. `None` while paused.
    slots: Vec<(TopicPartition, Option<u64>)>,
    last: usize,
    /// Handles of topics seen, with what to do with their headers.
    topics: Vec<(usize, Option<(TopicId, bool)>)>,
    buffer: Vec<usize>,
    headers: HeaderBuf,
    /// Running guess of a record's size, to take no more than asked for.
    record_bytes: usize,
    /// Taken from the queue, but too much for the poll that took it; delivered by the next one.
    held: Records,
}

/// What one poll may add to a batch.
struct Room {
    records: usize,
    bytes: usize,
}

impl Room {
    fn full(&self, into: &Records) -> bool {
        into.len() >= self.records || into.size_bytes() >= self.bytes
    }
}

impl Positions {
    fn assign(&mut self, mut partitions: Vec<TopicPartition>) {
        partitions.sort_unstable();
        self.slots = partitions.into_iter().map(|at| (at, None)).collect();
        self.last = 0;
        self.topics.clear();
        self.held.clear();
    }

    /// Drops held records of partitions whose position is set anew.
    fn reposition(&mut self, positions: &[(TopicPartition, u64)]) {
        let held = std::mem::take(&mut self.held);
        held.iter().filter(|r| !positions.iter().any(|(at, _)| *at == r.at)).for_each(|r| self.held.push(&r));
        for &(at, offset) in positions {
            if let Some(slot) = self.slot(at) {
                *slot = Some(offset);
            }
        }
    }

    /// Delivers what the last poll had too much of, as far as this one's limits allow.
    fn release(&mut self, room: &Room, into: &mut Records) {
        if self.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        held.iter().for_each(|r| if room.full(into) { self.held.push(&r) } else { into.push(&r) });
    }

    fn slot(&mut self, at: TopicPartition) -> Option<&mut Option<u64>> {
        if self.slots.get(self.last).is_none_or(|(p, _)| *p != at) {
            self.last = self.slots.binary_search_by_key(&at, |(p, _)| *p).ok()?;
        }
        Some(&mut self.slots[self.last].1)
    }
}

impl KafkaMember {
    pub(super) fn new(
        settings: Arc<KafkaSettings>,
        names: Arc<TopicTable>,
        spec: &MemberSpec,
        sender: Sender,
        consumer: BaseConsumer<MemberWatch>,
    ) -> Self {
        let data = Queue::new(Handle::of(consumer.client()));
        KafkaMember {
            settings,
            names,
            spec: spec.clone(),
            pace: Pace::new(),
            positions: Positions { record_bytes: 256, ..Positions::default() },
            ended: None,
            clients: Some(Clients { group: None, data, sender, consumer }),
        }
    }

    fn clients(&mut self) -> &mut Clients {
        self.clients.as_mut().expect("the clients are there until the member is dropped")
    }

    fn watched_for(&self) -> Duration {
        self.settings.transaction_timeout * 2 + self.settings.successor_wait() + self.settings.stuck_after
    }

    fn fenced(&self) -> LogError {
        LogError::Fenced(format!("another process runs as {}, and it started later", self.spec.instance))
    }

    /// The group has given our place to somebody: to a newer process, or to nobody (see [`super::successor`]).
    fn place_lost(&self) -> LogError {
        let c = self.clients.as_ref().expect("the clients are there until the member is dropped");
        let here =
            self.positions.slots.first().map(|(at, next)| (*at, Offset::Offset(next.and_then(|n| i64::try_from(n).ok()).unwrap_or(0))));
        let any = self.spec.inputs.first().map(|i| (TopicPartition::new(i.topic, 0), Offset::Offset(0)));
        let list = self.list(here.or(any).into_iter());
        let group = GroupMetadata::of(Handle::of(c.consumer.client()));
        match (list, group) {
            (Ok(list), Some(group)) if !successor::epoch_is_over(&c.sender, &list, &group, self.settings.request_wait) => {
                LogError::Unavailable("the group gave our place to a late request of our own or of a predecessor; taking it again".into())
            }
            _ => self.fenced(),
        }
    }

    /// Serves the consumer's own queue.
    fn serve_control(&mut self) -> Result<(), LogError> {
        let c = self.clients.as_ref().expect("the clients are there until the member is dropped");
        // Asked every time: the event that told of it may have been consumed elsewhere, the client's state stays.
        if c.consumer.client().fatal_error().is_some_and(|(code, _)| code == Code::FencedInstanceId) {
            return Err(self.place_lost());
        }
        while let Some(event) = c.consumer.poll(Duration::ZERO) {
            // A record here was fetched before its partition was attached to our queue, that is, before it was resumed: void.
            let Err(error) = event else { continue };
            let (code, fatal) = match (&error, c.consumer.client().fatal_error()) {
                (_, Some((code, _))) => (code, true),
                (KafkaError::MessageConsumption(code), None) => (*code, false),
                (KafkaError::MessageConsumptionFatal(code), None) => (*code, true),
                _ => continue,
            };
            match classify::read(code, fatal) {
                Read::Passing => tracing::debug!("{}: {error}", self.spec.instance),
                // Of a paused partition, on its way to being resumed elsewhere; delivered ones report to our queue.
                Read::PositionGone => {}
                Read::Fenced => return Err(self.place_lost()),
                // Whether it is gone or its cluster is on the move, the next incarnation finds out before it joins.
                Read::NoTopic => {
                    return Err(LogError::Unavailable(format!("a topic that {} reads is not known: {error}", self.spec.group)));
                }
                Read::Forbidden => return Err(forbidden(&error.to_string())),
                Read::Broken => return Err(LogError::Unavailable(format!("{}: {error}", self.spec.instance))),
            }
        }
        Ok(())
    }

    /// The next change of assignment, in the engine's terms.
    fn next_change(&mut self) -> Result<Option<Polled>, LogError> {
        let c = self.clients();
        let Some(change) = c.consumer.context().next_change() else { return Ok(None) };
        c.group = None;
        match change.map_err(LogError::Unavailable)? {
            Change::Revoked { lost } => {
                self.positions.assign(Vec::new());
                Ok(Some(Polled::Revoked { lost }))
            }
            Change::Assigned(list) => {
                let mut assigned = Vec::with_capacity(list.len());
                for (topic, partition) in &list {
                    let id = self.names.find(topic).filter(|t| self.spec.inputs.iter().any(|i| i.topic == *t));
                    let (Some(id), Ok(number)) = (id, u32::try_from(*partition)) else {
                        return Err(LogError::Invalid(format!(
                            "{} was given {topic}/{partition}, which it does not read: is another program in this group?",
                            self.spec.instance
                        )));
                    };
                    let name = CString::new(topic.as_str()).map_err(|e| LogError::Invalid(e.to_string()))?;
                    let c = self.clients.as_ref().expect("the clients are there until the member is dropped");
                    c.data.attach(Handle::of(c.consumer.client()), &name, *partition);
                    assigned.push(TopicPartition::new(id, number));
                }
                assigned.sort_unstable();
                self.positions.assign(assigned.clone());
                Ok(Some(Polled::Assigned(assigned)))
            }
        }
    }

    /// Takes records that are there, waiting for the first.
    fn take(&mut self, wait: Duration, limits: Limits, into: &mut Records) -> Result<(), LogError> {
        let Self { clients, positions, names, spec, .. } = self;
        let data = &clients.as_ref().expect("the clients are there until the member is dropped").data;
        let (start, start_bytes) = (into.len(), into.size_bytes());
        let room = Room { records: start.saturating_add(limits.records), bytes: start_bytes.saturating_add(limits.bytes) };
        positions.release(&room, into);
        let mut first = (into.len() > start).then(Instant::now);
        let mut failed = None;
        let mut buffer = std::mem::take(&mut positions.buffer);
        while !room.full(into) && first.is_none_or(|t| t.elapsed() < limits.age) {
            let by_bytes = (room.bytes - into.size_bytes()) / positions.record_bytes.max(1) + 1;
            let max = (room.records - into.len()).min(by_bytes).min(CHUNK);
            let wait = if first.is_none() { wait } else { Duration::ZERO };
            let n = data.take(wait, max, &mut buffer, &mut |m| {
                if let Err(e) = deliver(positions, names, spec, m, &room, into) {
                    failed.get_or_insert(e);
                }
            });
            first.get_or_insert_with(Instant::now);
            if into.len() > start {
                positions.record_bytes = (into.size_bytes() - start_bytes).div_ceil(into.len() - start);
            }
            if n == 0 || failed.is_some() {
                break;
            }
        }
        positions.buffer = buffer;
        failed.map_or(Ok(()), Err)
    }

    fn list(&self, partitions: impl Iterator<Item = (TopicPartition, Offset)>) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::new();
        for (at, offset) in partitions {
            let added = list.add_partition_offset(self.names.name(at.topic), at.partition as i32, offset);
            added.map_err(|e| LogError::Invalid(format!("{}: {e}", self.names.show(at))))?;
        }
        Ok(list)
    }
}

/// Copies one record into the batch, if its partition was resumed at or before it.
fn deliver(
    p: &mut Positions,
    names: &TopicTable,
    spec: &MemberSpec,
    m: &Message<'_>,
    room: &Room,
    into: &mut Records,
) -> Result<(), LogError> {
    let handle = m.topic_handle();
    let known = match p.topics.iter().find(|(h, _)| *h == handle) {
        Some((_, known)) => *known,
        None => {
            let known = names.find(&m.topic()).and_then(|t| spec.inputs.iter().find(|i| i.topic == t)).map(|i| (i.topic, i.headers));
            p.topics.push((handle, known));
            known
        }
    };
    let (Some((topic, wants_headers)), Ok(partition)) = (known, u32::try_from(m.partition())) else { return Ok(()) };
    let at = TopicPartition::new(topic, partition);
    let Some(Some(next)) = p.slot(at) else { return Ok(()) };
    if let Some(code) = m.error() {
        return match classify::read(code, false) {
            Read::PositionGone => Err(LogError::Corrupt(format!(
                "{} has no offset {next} any more ({}): were records deleted before they were processed? Its retention must be unlimited",
                names.show(at),
                m.error_text()
            ))),
            Read::Forbidden => Err(forbidden(&m.error_text())),
            _ => {
                tracing::debug!("{}: {}", names.show(at), m.error_text());
                Ok(())
            }
        };
    }
    let Ok(offset) = u64::try_from(m.offset()) else { return Ok(()) };
    if offset < *next {
        return Ok(());
    }
    *next = offset + 1;
    if wants_headers {
        m.headers(&mut p.headers);
    } else {
        p.headers.clear();
    }
    let into = if room.full(into) { &mut p.held } else { into };
    into.push(&Record { at, offset, timestamp_ms: m.timestamp_ms(), key: m.key(), value: m.value(), headers: p.headers.headers() });
    Ok(())
}

pub(super) fn forbidden(what: &str) -> LogError {
    LogError::Invalid(format!(
        "the brokers refuse access ({what}); check the credentials (-X, or [kafka] in the file) and the cluster's ACLs"
    ))
}

impl Member for KafkaMember {
    fn poll(&mut self, wait: Duration, limits: Limits, into: &mut Records) -> Result<Polled, LogError> {
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
            let left = deadline.saturating_duration_since(Instant::now());
            self.take(left.min(SLICE), limits, into)?;
            if into.len() > before {
                break;
            }
            if left.is_zero() {
                return Ok(Polled::Records);
            }
        }
        // Once more, so that nothing slips in between the records and the generation they are committed under.
        self.serve_control()?;
        if let Some(change) = self.next_change()? {
            into.clear();
            return Ok(change);
        }
        let c = self.clients();
        c.group = GroupMetadata::of(Handle::of(c.consumer.client()));
        Ok(Polled::Records)
    }

    fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Committed, LogError> {
        let _guard = watchdog::exit_after("asking for committed offsets", COMMITTED_WAIT + self.settings.stuck_after);
        let list = self.list(partitions.iter().map(|&at| (at, Offset::Invalid)))?;
        let found = match self.clients().consumer.committed_offsets(list, COMMITTED_WAIT) {
            Ok(found) => found,
            Err(KafkaError::MetadataFetch(Code::OperationTimedOut | Code::WaitingForCoordinator)) => return Ok(Committed::Pending),
            Err(e) => return Err(LogError::Unavailable(format!("committed offsets of {}: {e}", self.spec.group))),
        };
        let mut offsets = Vec::with_capacity(partitions.len());
        for &at in partitions {
            let e = found.find_partition(self.names.name(at.topic), at.partition as i32);
            let e = e.ok_or_else(|| LogError::Unavailable(format!("no committed offset was told for {}", self.names.show(at))))?;
            e.error().map_err(|e| LogError::Unavailable(format!("committed offset of {}: {e}", self.names.show(at))))?;
            offsets.push(match e.offset() {
                Offset::Offset(o) => u64::try_from(o).ok(),
                _ => None,
            });
        }
        Ok(Committed::Stable(offsets))
    }

    fn resume(&mut self, positions: &[(TopicPartition, u64)]) -> Result<(), LogError> {
        let _guard = watchdog::exit_after("resuming", self.settings.request_wait * 2 + self.settings.stuck_after);
        let deadline = Instant::now() + self.settings.request_wait;
        for &(at, _) in positions {
            if self.positions.slot(at).is_none() {
                return Err(LogError::Unavailable(format!("{} is not assigned to {}", self.names.show(at), self.spec.instance)));
            }
        }
        let mut left: Vec<_> = positions.to_vec();
        loop {
            let list = self.list(left.iter().map(|&(at, o)| (at, Offset::Offset(i64::try_from(o).unwrap_or(i64::MAX)))))?;
            let wait = self.settings.request_wait;
            let sought = self.clients().consumer.seek_partitions(list, wait);
            let sought = sought.map_err(|e| LogError::Unavailable(format!("setting positions: {e}")))?;
            // The call as a whole succeeds even when a partition failed; right after an assignment its fetcher may not be up yet.
            let mut why = String::new();
            left.retain(|(at, _)| match sought.find_partition(self.names.name(at.topic), at.partition as i32).map(|e| e.error()) {
                Some(Ok(())) => false,
                Some(Err(e)) => {
                    why = format!("{}: {e}", self.names.show(*at));
                    true
                }
                None => true,
            });
            if left.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                return Err(LogError::Unavailable(format!("the position could not be set for {why}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let list = self.list(positions.iter().map(|&(at, _)| (at, Offset::Invalid)))?;
        self.clients().consumer.resume(&list).map_err(|e| LogError::Unavailable(format!("resuming: {e}")))?;
        self.positions.reposition(positions);
        Ok(())
    }

    fn transact(&mut self, tx: &Transaction<'_>) -> Outcome {
        let _guard = watchdog::exit_after("a transaction", self.watched_for());
        if let Some(why) = &self.ended {
            return Outcome::NotCommitted(format!("this incarnation has ended: {why}"));
        }
        let timeout = self.settings.transaction_timeout;
        let c = self.clients.as_mut().expect("the clients are there until the member is dropped");
        let Some(group) = &c.group else {
            return Outcome::NotCommitted("nothing was polled since the assignment changed".into());
        };
        let begun = Instant::now();
        let run = Parts { names: &self.names, spec: &self.spec, sender: &mut c.sender, pace: &mut self.pace, group, timeout }.run(tx);
        let run = match (run, c.sender.fenced()) {
            (Err(Stop::Not(_) | Stop::Unknown(_)), Some(why)) => Err(Stop::ProducerFenced(why)),
            (run, _) => run,
        };
        let outcome = match run {
            Ok(appended) => return Outcome::Committed { appended, suspect: c.sender.is_suspect() },
            Err(Stop::Not(why)) => Outcome::NotCommitted(why),
            Err(Stop::Unknown(why)) => Outcome::Unknown(why),
            Err(Stop::Forbidden(why)) => Outcome::Refused(why),
            // Our epoch was in force a moment ago, when the offsets were added: nobody has come after us.
            Err(Stop::InstanceFenced(why)) => Outcome::NotCommitted(format!("{why}; taking our place in the group again")),
            Err(Stop::ProducerFenced(why)) => successor::fenced_or_expired(&why, begun.elapsed(), &c.consumer, &self.settings, &self.spec),
        };
        self.ended = Some(format!("{outcome:?}"));
        outcome
    }

    fn suspect(&self) -> bool {
        self.clients.as_ref().is_some_and(|c| c.sender.is_suspect())
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        if let Some(clients) = self.clients.take() {
            clients.consumer.context().close();
            crash::point(Point::StopClosing);
            watchdog::drop_aside("closing a member's clients", clients);
        }
    }
}
