//! All roles over an in-memory log, in one thread, without the engine. Tests can read all outputs
//! and all states.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use engine::broadcast::{TableView, Tables, UsedBroadcastRow};
use engine::context::{Cause, Ctx, Outbox};
use engine::overlay::Overlay;
use engine::role::{InvariantViolation, RoleFactory, RoleLogic as Logic};
use engine::sequence_check::{self, InSequences, OutSequences, SequenceCheck};
use ports::partitioner;
use ports::records::{HeaderBuf, Headers, Record, Records};
use ports::topics::{Partitions, TopicId, TopicPartition, TopicTable};
use ports::{StateStore, StoreError, StoreWrite};
use roles::reconciliation::Reconciliation;
use roles::{Role, RoleSettings, factory};
use serde_json::Value;
use wire::event::OrderEvent;
use wire::{command, topics};

/// A record in the log.
#[derive(Clone, Debug)]
pub struct Stored {
    pub time_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    headers: Vec<u8>,
}

impl Stored {
    pub fn header(&self, name: &str) -> String {
        Headers::packed(&self.headers)
            .text(name)
            .unwrap_or_default()
            .to_string()
    }

    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        Headers::packed(&self.headers).iter()
    }

    /// The value as a JSON tree.
    pub fn tree(&self) -> Value {
        rmp_serde::from_slice(self.value.as_deref().expect("a value")).expect("MessagePack")
    }
}

#[derive(Default)]
pub struct Memory(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl StateStore for Memory {
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool, StoreError> {
        into.clear();
        into.extend_from_slice(self.0.get(key).map_or(&[][..], |v| v));
        Ok(self.0.contains_key(key))
    }

    fn write(
        &mut self,
        changes: &mut dyn Iterator<Item = StoreWrite<'_>>,
        _meta: &[u8],
    ) -> Result<(), StoreError> {
        for (key, value) in changes {
            match value {
                Some(v) => drop(self.0.insert(key.to_vec(), v.to_vec())),
                None => drop(self.0.remove(key)),
            }
        }

        Ok(())
    }

    fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        for (k, v) in self
            .0
            .range(prefix.to_vec()..)
            .take_while(|(k, _)| k.starts_with(prefix))
        {
            if !visit(k, v) {
                break;
            }
        }

        Ok(())
    }

    fn scan_after(
        &self,
        key: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let from = key.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_vec()));
        for (k, v) in self.0.range((from, Bound::Unbounded)) {
            if !visit(k, v) {
                break;
            }
        }

        Ok(())
    }
}

struct Task {
    role: Role,
    number: u32,
    logic: Box<dyn Logic>,
    overlay: Overlay,
    store: Memory,
    view: TableView,
    outbox: Outbox,
    seen: InSequences,
    read: BTreeMap<TopicPartition, usize>,
}

/// The world: a log and the tasks of all roles.
pub struct World {
    pub now_ms: i64,
    names: Arc<TopicTable>,
    counts: Arc<[u32]>,
    log: BTreeMap<TopicPartition, Vec<Stored>>,
    factories: Vec<(Role, Box<dyn RoleFactory>)>,
    tasks: Vec<Task>,
    tables: Arc<Tables>,
    tables_read: BTreeMap<TopicId, usize>,
    largest_turn: usize,
    largest_turns: BTreeMap<Role, usize>,
    /// Most records of an input that a task handles in a turn.
    pub turn_max: usize,
}

pub const START_MS: i64 = 1_800_000_000_000;

impl World {
    pub fn new(partitions: u32, settings: RoleSettings) -> World {
        let names = Arc::new(topics::table("t-"));
        let counts: Arc<[u32]> = names
            .iter()
            .map(|t| {
                if names.spec(t).partitions == Partitions::One {
                    1
                } else {
                    partitions
                }
            })
            .collect();

        let mut w = World {
            now_ms: START_MS,
            names: names.clone(),
            counts: counts.clone(),
            log: BTreeMap::new(),
            factories: Vec::new(),
            tasks: Vec::new(),
            tables: Arc::default(),
            tables_read: BTreeMap::new(),
            largest_turn: 0,
            largest_turns: BTreeMap::new(),
            turn_max: usize::MAX,
        };

        for role in Role::all() {
            let f = factory(role, settings, names.clone(), partitions);
            for number in 0..partitions {
                let spec = f.spec();
                w.tasks.push(Task {
                    role,
                    number,
                    logic: f.make(number),
                    overlay: Overlay::new(1 << 20),
                    store: Memory::default(),
                    view: TableView::new(Arc::default(), spec.journal.is_some()),
                    outbox: Outbox::new(
                        names.clone(),
                        counts.clone(),
                        OutSequences::new(&spec.guarded_outputs),
                    ),
                    seen: InSequences::default(),
                    read: BTreeMap::new(),
                });
            }

            w.factories.push((role, f));
        }

        w
    }

    /// A world with AAPL listed and priced at 189.25.
    pub fn ready(settings: RoleSettings) -> World {
        let mut w = World::new(1, settings);
        w.list("AAPL", "{\"symbol\":\"AAPL\"}");
        w.tick("AAPL", "189.25");
        w.pump();
        w
    }

    pub fn append(&mut self, topic: TopicId, key: &str, value: &[u8]) {
        let partition = partitioner::partition(key.as_bytes(), self.counts[topic.0 as usize]);
        self.append_at(
            TopicPartition::new(topic, partition),
            Some(key.as_bytes()),
            Some(value),
        );
    }

    pub fn append_at(&mut self, at: TopicPartition, key: Option<&[u8]>, value: Option<&[u8]>) {
        let stored = Stored {
            time_ms: self.now_ms,
            key: key.map(Into::into),
            value: value.map(Into::into),
            headers: Vec::new(),
        };

        self.log.entry(at).or_default().push(stored);
    }

    /// Appends an event of a user, as `orders` would have written it.
    pub fn event(&mut self, e: &OrderEvent<'_>) {
        let key = e.user_id.as_bytes();
        let mut value = Vec::new();
        let mut headers = HeaderBuf::default();
        e.encode(&mut value);
        let at = TopicPartition::new(
            topics::ORDER_EVENTS,
            partitioner::partition(key, self.counts[topics::ORDER_EVENTS.0 as usize]),
        );
        let events = self.log.entry(at).or_default();
        headers.push(
            sequence_check::HEADER,
            format!("{}/{}", at.partition, events.len() + 1).as_bytes(),
        );
        let headers = headers.headers().as_bytes().to_vec();
        events.push(Stored {
            time_ms: self.now_ms,
            key: Some(key.into()),
            value: Some(value),
            headers,
        });
    }

    pub fn partition(&self, at: TopicPartition) -> &[Stored] {
        self.log.get(&at).map_or(&[], Vec::as_slice)
    }

    pub fn list(&mut self, symbol: &str, json: &str) {
        self.append(topics::INSTRUMENTS, symbol, json.as_bytes());
    }

    /// An operator's switch for a user or, with `*`, for all users. An empty state lifts the
    /// switch.
    pub fn control(&mut self, key: &str, state: &str) {
        let value = format!("{{\"state\":\"{state}\"}}");
        let at = TopicPartition::new(topics::CONTROLS, 0);
        self.append_at(
            at,
            Some(key.as_bytes()),
            (!state.is_empty()).then_some(value.as_bytes()),
        );
    }

    pub fn tick(&mut self, symbol: &str, price: &str) {
        self.append(
            topics::MARKET_DATA,
            symbol,
            format!("{{\"symbol\":\"{symbol}\",\"price\":{price}}}").as_bytes(),
        );
    }

    /// A command of a user, as JSON without its `user_id`, in the topic where the command belongs.
    pub fn command(&mut self, user: &str, fields: &str) {
        let value = format!("{{\"user_id\":\"{user}\",{fields}}}");
        self.append(command::topic(value.as_bytes()), user, value.as_bytes());
    }

    /// A market order.
    pub fn order(&mut self, user: &str, id: &str, symbol: &str, quantity: &str, side: &str) {
        let fields = format!(
            "\"order_id\":\"{id}\",\"symbol\":\"{symbol}\",\"quantity\":{quantity},\"order_type\":\"{side}\""
        );
        self.command(user, &fields);
    }

    /// An order with a limit and further fields, such as `"tif":"IOC"`.
    #[expect(
        clippy::too_many_arguments,
        reason = "read as a sentence where it is called"
    )]
    pub fn limit(
        &mut self,
        user: &str,
        id: &str,
        symbol: &str,
        quantity: i64,
        side: &str,
        price: &str,
        more: &str,
    ) {
        let more = if more.is_empty() {
            String::new()
        } else {
            format!(",{more}")
        };

        self.command(
            user,
            &format!(
                "\"order_id\":\"{id}\",\"symbol\":\"{symbol}\",\"quantity\":{quantity},\"order_type\":\"{side}\",\"type\":\"limit\",\"limit_price\":{price}{more}"
            ),
        );
    }

    /// A stop that becomes a market order.
    pub fn stop(
        &mut self,
        user: &str,
        id: &str,
        symbol: &str,
        quantity: i64,
        side: &str,
        price: &str,
    ) {
        self.command(
            user,
            &format!(
                "\"order_id\":\"{id}\",\"symbol\":\"{symbol}\",\"quantity\":{quantity},\"order_type\":\"{side}\",\"type\":\"stop\",\"stop_price\":{price}"
            ),
        );
    }

    pub fn cancel(&mut self, user: &str, id: &str, orig: &str) {
        self.command(
            user,
            &format!("\"command\":\"cancel\",\"order_id\":\"{id}\",\"orig_order_id\":\"{orig}\""),
        );
    }

    pub fn replace(&mut self, user: &str, id: &str, orig: &str, fields: &str) {
        self.command(user, &format!("\"command\":\"replace\",\"order_id\":\"{id}\",\"orig_order_id\":\"{orig}\",{fields}"));
    }

    /// Sends the wake-ups that the engine sends after an alarm, a changed listing, or the start of
    /// a task.
    pub fn wake(&mut self) {
        for partition in 0..self.counts[topics::CLOCK.0 as usize] {
            self.append_at(
                TopicPartition::new(topics::CLOCK, partition),
                None,
                Some(b"\x80"),
            );
        }
    }

    /// Restarts the tasks of a role with only their stored state.
    pub fn restart(&mut self, role: Role) {
        let factory = &self
            .factories
            .iter()
            .find(|(r, _)| *r == role)
            .expect("made")
            .1;
        for t in self.tasks.iter_mut().filter(|t| t.role == role) {
            t.logic = factory.make(t.number);
            t.overlay = Overlay::new(1 << 20);
            t.view = TableView::new(Arc::default(), factory.spec().journal.is_some());
        }

        self.wake();
    }

    /// As [`World::restart`], with other settings, as after an update.
    pub fn restart_under(&mut self, role: Role, settings: RoleSettings) {
        let slot = self
            .factories
            .iter_mut()
            .find(|(r, _)| *r == role)
            .expect("made");
        slot.1 = factory(role, settings, self.names.clone(), 1);
        self.restart(role);
    }

    /// Checks the ledgers of all tasks of `orders`, as `verify` does.
    pub fn check_books(&self) {
        for t in self.tasks.iter().filter(|t| t.role == Role::Orders) {
            roles::orders::check_books(&t.store).expect("books that balance");
        }
    }

    pub fn reset_largest_turn(&mut self) {
        self.largest_turn = 0;
        self.largest_turns.clear();
    }

    /// Most records that one turn of a role has written, state changes included.
    pub fn largest_turn_of(&self, role: Role) -> usize {
        self.largest_turns.get(&role).copied().unwrap_or(0)
    }

    /// A check over all tasks: at rest no command is in flight, and an order is open if and only if
    /// it is in a book.
    pub fn check_rest(&self) {
        let mut all = Reconciliation::default();
        for t in &self.tasks {
            match t.role {
                Role::Orders => all.add_orders(&t.store).expect("readable"),
                Role::Trading => all.add_trading(&t.store).expect("readable"),
                _ => {}
            }
        }

        all.check().expect("a market at rest");
    }

    /// Largest number of records that one turn of a task has written so far.
    pub fn largest_turn(&self) -> usize {
        self.largest_turn
    }

    /// Runs all roles to rest.
    pub fn pump(&mut self) {
        self.try_pump().expect("no bug");
    }

    pub fn try_pump(&mut self) -> Result<(), InvariantViolation> {
        loop {
            self.read_tables();
            let mut busy = false;
            for i in 0..self.tasks.len() {
                busy |= self.turn(i)?;
            }

            if !busy {
                return Ok(());
            }
        }
    }

    /// Runs one batch for each task of `role`.
    pub fn turn_of(&mut self, role: Role) {
        self.read_tables();
        for i in 0..self.tasks.len() {
            if self.tasks[i].role == role {
                self.turn(i).expect("no bug");
            }
        }
    }

    fn read_tables(&mut self) {
        let orders = &self.factories[0].1;
        let log = &self.log;
        let all = [
            topics::INSTRUMENTS,
            topics::REFERENCE_PRICES,
            topics::CONTROLS,
        ];
        let new = |t: &TopicId| {
            log.get(&TopicPartition::new(*t, 0)).map_or(0, Vec::len)
                > self.tables_read.get(t).copied().unwrap_or(0)
        };

        if !all.iter().any(new) {
            return;
        }

        let mut tables = (*self.tables).clone();
        for topic in all {
            let at = TopicPartition::new(topic, 0);
            let read = self.tables_read.entry(topic).or_default();
            for (offset, s) in log.get(&at).into_iter().flatten().enumerate().skip(*read) {
                let record = borrow(at, offset, s);
                if orders.accepts_broadcast(&record) {
                    tables.apply(&record);
                }

                *read = offset + 1;
            }
        }

        self.tables = Arc::new(tables);
    }

    /// Runs one batch of a task; false if the task had no input.
    fn turn(&mut self, i: usize) -> Result<bool, InvariantViolation> {
        let t = &mut self.tasks[i];
        let spec = self
            .factories
            .iter()
            .find(|(r, _)| *r == t.role)
            .expect("made")
            .1
            .spec()
            .clone();

        t.view.tables = self.tables.clone();
        let mut out = Records::new();
        let mut ctx = Ctx::new(
            t.number,
            &mut t.overlay,
            &t.store,
            &mut t.view,
            &mut t.outbox,
            &mut out,
            spec.dead_letters,
        );

        let mut busy = false;
        for input in &spec.inputs {
            let at = TopicPartition::new(input.topic, t.number);
            let read = t.read.entry(at).or_default();
            for (offset, s) in self
                .log
                .get(&at)
                .into_iter()
                .flatten()
                .enumerate()
                .skip(*read)
                .take(self.turn_max)
            {
                *read = offset + 1;
                busy = true;
                let record = borrow(at, offset, s);
                if input.guarded {
                    let (task, sequence) = sequence_check::parse(
                        record.headers.get(sequence_check::HEADER).expect("guarded"),
                    )
                    .expect("task/sequence");
                    assert_eq!(
                        t.seen.check(input.topic, task, sequence),
                        SequenceCheck::Next
                    );
                }

                ctx.set_cause(Cause {
                    at,
                    offset: record.offset,
                    timestamp_ms: record.timestamp_ms,
                });

                t.logic.process(&mut ctx, &record)?;
            }
        }

        if !busy {
            return Ok(false);
        }

        t.logic.batch_end(&mut ctx)?;
        assert!(ctx.take_failure().is_none());
        let size = out.len() + t.overlay.changes().count();
        let largest = self.largest_turns.entry(t.role).or_default();
        *largest = size.max(*largest);
        t.store
            .write(&mut t.overlay.changes(), b"")
            .expect("memory");
        t.overlay.committed();
        if t.role == Role::Trading {
            self.largest_turn = self.largest_turn.max(out.len());
        }

        for r in out.iter() {
            let mut headers = HeaderBuf::default();
            for (name, value) in r.headers.iter() {
                headers.push(name, value);
            }

            self.log.entry(r.at).or_default().push(Stored {
                time_ms: r.timestamp_ms,
                key: r.key.map(Into::into),
                value: r.value.map(Into::into),
                headers: headers.headers().as_bytes().to_vec(),
            });
        }

        Ok(true)
    }

    /// All records of a topic, partition by partition.
    pub fn records(&self, topic: TopicId) -> Vec<&Stored> {
        self.log
            .iter()
            .filter(|(at, _)| at.topic == topic)
            .flat_map(|(_, r)| r)
            .collect()
    }

    pub fn events(&self, user: &str) -> Vec<Value> {
        let all = self.records(topics::ORDER_EVENTS);
        all.iter()
            .filter(|r| r.key.as_deref() == Some(user.as_bytes()))
            .map(|r| r.tree())
            .collect()
    }

    pub fn names(&self, user: &str) -> Vec<String> {
        self.events(user)
            .iter()
            .map(|e| e["event"].as_str().expect("a name").to_string())
            .collect()
    }

    /// The last event of a user.
    pub fn last(&self, user: &str) -> Value {
        self.events(user).pop().expect("an event")
    }

    /// Reasons in `dead-letters`.
    pub fn dead(&self) -> Vec<String> {
        self.records(topics::DEAD_LETTERS)
            .iter()
            .map(|r| r.header("reason"))
            .collect()
    }

    /// The state of a role's tasks, in order.
    pub fn state(&self, role: Role) -> Vec<&BTreeMap<Vec<u8>, Vec<u8>>> {
        self.tasks
            .iter()
            .filter(|t| t.role == role)
            .map(|t| &t.store.0)
            .collect()
    }

    /// Sets the state of a task, as if another version had written it, and restarts the role.
    pub fn set_state(&mut self, role: Role, number: u32, state: BTreeMap<Vec<u8>, Vec<u8>>) {
        let task = self
            .tasks
            .iter_mut()
            .find(|t| t.role == role && t.number == number)
            .expect("a task");
        task.store = Memory(state);
        self.restart(role);
    }

    /// Broadcast rows that the tasks of a role have used since the last call. The engine writes
    /// these rows into the journals.
    pub fn used(&mut self, role: Role) -> Vec<UsedBroadcastRow> {
        self.tasks
            .iter_mut()
            .filter(|t| t.role == role)
            .flat_map(|t| t.view.take_fresh().1)
            .collect()
    }

    pub fn topics(&self) -> &TopicTable {
        &self.names
    }
}

fn borrow(at: TopicPartition, offset: usize, s: &Stored) -> Record<'_> {
    Record {
        at,
        offset: offset as u64,
        timestamp_ms: s.time_ms,
        key: s.key.as_deref(),
        value: s.value.as_deref(),
        headers: Headers::packed(&s.headers),
    }
}
