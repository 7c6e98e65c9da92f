//! The expected outputs. Beside the system the oracle runs the same role code, in one thread, over
//! stores that never fail.
//!
//! The oracle acts whenever the cluster decides to commit a transaction. It takes the inputs
//! between the last positions and the new ones *from the log* and processes them. The oracle then
//! compares every record of the transaction, byte for byte: outputs, state changes, journal,
//! digest, position. At every commit each output is therefore a prefix of the oracle's output, and
//! every input counts exactly once and in order. The oracle checks the claims of a journal and does
//! not trust them.

mod finish;
mod follow;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use engine::broadcast::{TableView, Tables, UsedBroadcastRow};
use engine::checkpoint::{Checkpoint, JournalEntry, META_KEY, StoreMeta};
use engine::digest::Digest;
use engine::journal::Assembler;
use engine::pace::TransactionRoom;
use engine::role::{RoleFactory, RoleSpec};
use engine::task::{Task, TaskParts};
use faults::mutants;
use ports::Stores;
use ports::records::{Headers, Record, Records};
use ports::topics::{TopicPartition, TopicTable};
use roles::{Role, RoleSettings, factory};
use store::memory::MemoryStores;
use wire::topics;

use self::follow::Follower;
use super::cluster::coordinator::Txn;
use super::cluster::{Cluster, INSTANCES};
use super::world::World;

/// One task in its expected state.
pub struct Expected {
    task: Task,
    tables: Tables,
    /// Positions at the start.
    first: Vec<(TopicPartition, u64)>,
    /// Digest and position after each transaction.
    done: Vec<(Digest, Vec<(TopicPartition, u64)>)>,
}

pub struct RoleOracle {
    spec: Arc<RoleSpec>,
    logic: Box<dyn RoleFactory>,
    pub tasks: Vec<Expected>,
    pub stores: MemoryStores,
}

pub struct Oracle {
    roles: Vec<Option<RoleOracle>>,
    followers: Vec<Follower>,
    out: Records,
    batch: Records,
}

impl Oracle {
    pub fn new(
        table: &Arc<TopicTable>,
        counts: &[u32],
        settings: RoleSettings,
        running: &[Role],
    ) -> Oracle {
        let counts: Arc<[u32]> = counts.into();
        let many = counts[topics::ORDER_COMMANDS.0 as usize];
        let roles = Role::all().into_iter().map(|role| {
            running.contains(&role).then(|| {
                RoleOracle::new(factory(role, settings, table.clone(), many), table, &counts)
            })
        });

        Oracle {
            roles: roles.collect(),
            followers: Vec::new(),
            out: Records::new(),
            batch: Records::new(),
        }
    }

    pub fn role(&self, role: Role) -> Option<&RoleOracle> {
        self.roles[role as usize].as_ref()
    }

    /// Sets the part size for the rows of journal entries, for all roles. Call before the run
    /// starts.
    pub fn set_journal_part(&mut self, bytes: usize) {
        self.roles
            .iter_mut()
            .flatten()
            .flat_map(|r| &mut r.tasks)
            .for_each(|t| t.task.journal_part = bytes);
    }

    /// A transaction is committed: compare it with the expected transaction.
    fn commit(&mut self, role: usize, cluster: &Cluster, txn: &Txn) -> Result<Vec<u32>, String> {
        let Oracle {
            roles, out, batch, ..
        } = self;
        let Some(oracle) = roles[role].as_mut() else {
            return Err("a role that does not run has committed".into());
        };

        let spec = oracle.spec.clone();
        let mut touched: Vec<(u32, Checkpoint)> = Vec::new();
        let mut written = 0;
        for at in &txn.partitions {
            let part = cluster.part(*at);
            let Some(last) = part.written_by(txn.pid).last() else {
                continue;
            };

            written += 1;
            if at.topic == spec.changelog {
                let r = part.record(last);
                if r.key != Some(META_KEY) {
                    return Err(format!(
                        "torn transaction: what {} got does not end with a position",
                        cluster.table.show(*at)
                    ));
                }

                let meta =
                    Checkpoint::decode(r.value.unwrap_or_default()).map_err(|e| e.to_string())?;
                touched.push((at.partition, meta));
            }
        }

        if touched.is_empty() {
            return if written > 0 {
                Err("torn transaction: committed output without a position".into())
            } else {
                Ok(Vec::new())
            };
        }

        touched.sort_by_key(|(task, _)| *task);
        out.clear();
        for (number, meta) in &touched {
            let expected = &mut oracle.tasks[*number as usize];
            expected.process(
                &spec,
                &*oracle.logic,
                *number,
                meta,
                cluster,
                txn.pid,
                batch,
                out,
            )?;
        }

        for (number, meta) in &touched {
            let expected = &mut oracle.tasks[*number as usize];
            let prepared = expected.task.prepare(out).clone();
            if prepared != *meta {
                return Err(format!(
                    "state digest and position: {} task {number} wrote {meta:?} where {prepared:?} was due",
                    spec.name
                ));
            }

            expected.task.post_commit(0).map_err(|e| e.to_string())?;
            expected.done.push((meta.digest, meta.offsets.clone()));
            for (at, next) in &meta.offsets {
                let committed = cluster.groups[role].after(txn.pid, *at);
                if committed != Some(*next) {
                    let at = cluster.table.show(*at);
                    return Err(format!(
                        "meta = committed offsets: {at} is committed to {committed:?} and the state goes to {next}"
                    ));
                }
            }
        }

        compare(out, cluster, txn)?;
        Ok(touched.into_iter().map(|(task, _)| task).collect())
    }

    /// The log must contain every transaction that a store claims to hold.
    fn store(&self, role: Role, task: u32, record: &StoreMeta) -> Result<(), String> {
        let Some(oracle) = self.role(role) else {
            return Ok(());
        };

        let known = &oracle.tasks[task as usize].done;
        let n = record.meta.transaction as usize;
        if n > known.len() {
            return Err(format!(
                "store ahead of the log: {role} task {task} holds transaction {n}, of {} decided",
                known.len()
            ));
        }

        if n > 0 && known[n - 1].0 != record.meta.digest {
            return Err(format!(
                "state digest: the store of {role} task {task} holds another transaction {n} than the log"
            ));
        }

        Ok(())
    }
}

impl RoleOracle {
    fn new(
        factory: Box<dyn RoleFactory>,
        table: &Arc<TopicTable>,
        counts: &Arc<[u32]>,
    ) -> RoleOracle {
        let spec = Arc::new(factory.spec().clone());
        let stores = MemoryStores::default();
        let tasks = (0..counts[spec.changelog.0 as usize]).map(|number| {
            let mut offsets: Vec<_> = spec
                .inputs
                .iter()
                .map(|i| (TopicPartition::new(i.topic, number), 0))
                .collect();
            offsets.retain(|(at, _)| at.partition < counts[at.topic.0 as usize]);
            offsets.sort_unstable();
            let parts = TaskParts {
                spec: spec.clone(),
                role: factory.make(number),
                topics: table.clone(),
                partitions: counts.clone(),
                cache_bytes: 1 << 20,
            };

            let store = stores.open(number).expect("memory");
            let first = offsets.clone();
            let task = Task::new(
                number,
                parts,
                store,
                Checkpoint {
                    offsets,
                    ..Checkpoint::default()
                },
            );

            Expected {
                task,
                tables: Tables::default(),
                first,
                done: Vec::new(),
            }
        });

        let tasks = tasks.collect();
        RoleOracle {
            spec,
            logic: factory,
            tasks,
            stores,
        }
    }
}

impl RoleOracle {
    /// Position of the role in a partition.
    pub fn read_to(&self, at: TopicPartition) -> u64 {
        let task = self.tasks.get(at.partition as usize);
        task.and_then(|t| t.position().iter().find(|(a, _)| *a == at))
            .map_or(0, |(_, next)| *next)
    }
}

impl Expected {
    pub fn transactions(&self) -> u64 {
        self.task.meta().transaction
    }

    /// Next offsets after the last transaction.
    pub fn position(&self) -> &[(TopicPartition, u64)] {
        &self.task.meta().offsets
    }

    /// Next offsets after a transaction; before the first transaction, the start positions.
    pub fn offsets_after(
        &self,
        transaction: u64,
    ) -> impl Iterator<Item = (TopicPartition, u64)> + Clone + '_ {
        let at = (transaction as usize)
            .checked_sub(1)
            .map_or(&self.first, |i| &self.done[i].1);
        at.iter().copied()
    }

    #[allow(clippy::too_many_arguments)]
    fn process(
        &mut self,
        spec: &RoleSpec,
        logic: &dyn RoleFactory,
        number: u32,
        meta: &Checkpoint,
        cluster: &Cluster,
        pid: u64,
        batch: &mut Records,
        out: &mut Records,
    ) -> Result<(), String> {
        let before = self.task.meta().clone();
        let name = format!("{} task {number}", spec.name);
        if meta.transaction != before.transaction + 1 {
            let due = before.transaction + 1;
            return Err(format!(
                "transactions in one chain: {name} committed number {} where {due} was due",
                meta.transaction
            ));
        }

        if let Some(journal) = spec.journal {
            self.journal(
                &name,
                TopicPartition::new(journal, number),
                logic,
                cluster,
                pid,
            )?;
        }

        let mut inputs = Vec::new();
        for input in &spec.inputs {
            let at = TopicPartition::new(input.topic, number);
            let mut records = Vec::new();
            let Some(from) = before.next(at) else {
                continue;
            };

            let to = meta.next(at).ok_or_else(|| {
                format!(
                    "inputs exactly once: {name} has no position in {}",
                    cluster.table.show(at)
                )
            })?;

            let part = cluster.part(at);
            if to < from || to > part.end() {
                let at = cluster.table.show(at);
                return Err(format!(
                    "inputs exactly once: {name} went from {from} to {to} in {at}, which ends at {}",
                    part.end()
                ));
            }

            for offset in (from..to).filter(|o| !part.entry(*o).gone) {
                match part.entry(offset).state {
                    super::cluster::partition::State::Committed => {
                        let r = part.record(offset);
                        records.push(if input.guarded || spec.headers {
                            r
                        } else {
                            Record {
                                headers: Headers::default(),
                                ..r
                            }
                        });
                    }
                    super::cluster::partition::State::Open => {
                        return Err(format!(
                            "only stable records: {name} read past the undecided {}/{offset}",
                            cluster.table.show(at)
                        ));
                    }
                    _ => {}
                }
            }

            inputs.push(records.into_iter());
        }

        // The oldest of the inputs' next records; at equal times, the record of the first input.
        batch.clear();
        let time = |input: &std::vec::IntoIter<Record<'_>>| {
            input.as_slice().first().map(|r| r.timestamp_ms)
        };

        while let Some(input) = inputs
            .iter_mut()
            .filter(|i| i.len() > 0)
            .min_by_key(|i| time(i))
        {
            batch.push(&input.next().expect("looked at"));
        }

        self.task.view.tables = Arc::new(std::mem::take(&mut self.tables));
        let done = self
            .task
            .process(batch.iter(), out, TransactionRoom::UNBOUNDED)
            .map(drop);
        self.tables = Arc::try_unwrap(std::mem::take(&mut self.task.view.tables))
            .unwrap_or_else(|shared| (*shared).clone());
        done.map_err(|e| format!("replay: {name} fails where the system committed: {e}"))
    }

    /// Takes the broadcast rows that the transaction claims to have used, and checks each against
    /// its topic. Also takes the settings of a new incarnation.
    fn journal(
        &mut self,
        name: &str,
        at: TopicPartition,
        logic: &dyn RoleFactory,
        cluster: &Cluster,
        pid: u64,
    ) -> Result<(), String> {
        let part = cluster.part(at);
        let written: Vec<u64> = part.written_by(pid).collect();
        let mut whole = Assembler::default();
        let mut entries = Vec::new();
        for offset in written {
            entries.extend(
                whole
                    .take(part.record(offset).value.unwrap_or_default())
                    .map_err(|e| e.to_string())?,
            );
        }

        let Ok([entry]) = <[JournalEntry; 1]>::try_from(entries) else {
            return Err(format!(
                "torn transaction: {name} wrote no whole journal entry, or several"
            ));
        };

        if entry.forget {
            self.tables = Tables::default();
            self.task.view = TableView::new(Arc::default(), true);
            let settings = entry.settings.as_deref().ok_or_else(|| {
                format!("settings: {name} begins anew and does not say under which")
            })?;

            self.task
                .decide_by(logic.make_under(settings, at.partition)?);
        }

        for row in &entry.rows {
            check_row(row, cluster)
                .map_err(|why| format!("broadcast rows: {name} used {row:?}: {why}"))?;
            self.tables.force(row);
        }

        Ok(())
    }
}

/// A used row must exist in its topic.
fn check_row(row: &UsedBroadcastRow, cluster: &Cluster) -> Result<(), &'static str> {
    let part = cluster.part(TopicPartition::new(row.table, 0));
    match row.version {
        engine::broadcast::ABSENT => Ok(()),
        // Version 0 is a price that was read ahead from a tick; the tick must exist.
        0 => {
            let price =
                wire::trade::ReferencePrice::decode(&row.value).map_err(|_| "it cannot be read")?;
            let known = cluster.topic(topics::MARKET_DATA).any(|p| {
                p.committed(0, p.end()).any(|o| {
                    let r = p.record(o);
                    r.key == Some(&*row.key)
                        && r.timestamp_ms.saturating_mul(1_000) == price.time_us
                })
            });

            if known {
                Ok(())
            } else {
                Err("no tick has that time")
            }
        }
        version if version > part.end() => Err("its topic is not that long"),
        version => {
            let offset = version - 1;
            let fits = part.entry(offset).state == super::cluster::partition::State::Committed && {
                let r = part.record(offset);
                r.key == Some(&*row.key) && r.value.unwrap_or_default() == &*row.value
            };

            if fits {
                Ok(())
            } else {
                Err("its topic says otherwise")
            }
        }
    }
}

/// The task that wrote a record. An output names its input record in `src`; any other record is in
/// the partition of its task.
fn task_of(r: &Record<'_>) -> u32 {
    r.headers
        .text("src")
        .and_then(|src| src.rsplit('/').nth(1)?.parse().ok())
        .unwrap_or(r.at.partition)
}

/// Compares byte by byte, by partition and in each task's order. An instance may process its tasks
/// in any order.
fn compare(out: &Records, cluster: &Cluster, txn: &Txn) -> Result<(), String> {
    let show = |r: &Record<'_>| {
        let text =
            |b: Option<&[u8]>| b.map(|b| String::from_utf8_lossy(b).escape_debug().to_string());
        format!(
            "key {:?}, value {:?}, headers {:?}, time {}",
            text(r.key),
            text(r.value),
            r.headers,
            r.timestamp_ms
        )
    };

    let mut total = 0;
    for at in &txn.partitions {
        let part = cluster.part(*at);
        let mut due: BTreeMap<u32, VecDeque<Record<'_>>> = BTreeMap::new();
        out.iter()
            .filter(|r| r.at == *at)
            .for_each(|r| due.entry(task_of(&r)).or_default().push_back(r));
        for offset in part.written_by(txn.pid) {
            total += 1;
            let is = part.record(offset);
            let must = due.get_mut(&task_of(&is)).and_then(VecDeque::pop_front);
            let same = must.is_some_and(|m| {
                // A topic with broker timestamps has the broker's time.
                let time = part.append_time || m.timestamp_ms == is.timestamp_ms;
                m.key == is.key
                    && m.value == is.value
                    && m.headers.as_bytes() == is.headers.as_bytes()
                    && time
            });

            if !same {
                let at = cluster.table.show(*at);
                let must = must.map(|m| show(&m));
                return Err(format!(
                    "outputs bit-identical: {at}/{offset} is {} where {must:?} was due",
                    show(&is)
                ));
            }
        }

        if let Some(missing) = due.values().flatten().next() {
            return Err(format!(
                "torn transaction: {} lacks {}",
                cluster.table.show(*at),
                show(missing)
            ));
        }
    }

    if total != out.len() {
        return Err(format!(
            "torn transaction: {total} records where {} were due",
            out.len()
        ));
    }

    Ok(())
}

impl World {
    /// The cluster has decided to commit.
    pub fn check_commit(&mut self, txn: usize) {
        let role = txn / INSTANCES;
        if self.roles.is_empty() || self.plan.untransacted && role == Role::Orders as usize {
            return;
        }

        // The oracle runs without mutants.
        let mutant = mutants::switch(None);
        let result = self
            .oracle
            .commit(role, &self.cluster, &self.cluster.txns[txn]);
        mutants::switch(mutant);
        match result {
            Ok(touched) => touched
                .into_iter()
                .for_each(|task| self.moved_on(role, task)),
            Err(why) => self.violated(why),
        }
    }

    pub fn check_store(&mut self, role: Role, task: u32, record: &StoreMeta) {
        if self.plan.untransacted && role == Role::Orders {
            return;
        }

        if let Err(why) = self.oracle.store(role, task, record) {
            self.violated(why);
        }
    }
}
