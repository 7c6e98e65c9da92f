//! Positions of a role's tasks in the log: committed offsets and last meta records, and whether
//! they agree. A start makes the same comparison.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use engine::last_meta::{LastMeta, OffsetComparison, fit, last_meta_within};
use os::clock::SystemClock;
use ports::LogError;
use ports::topics::TopicPartition;
use roles::Role;

use super::system::Installation;

/// A difference counts only if it lasts this long without a change: a running role moves offsets
/// and meta records, but not at the same moment.
const LASTING: Duration = Duration::from_secs(3);
/// A role whose difference still changes after this time is running. The next start compares again.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Longest silence during the read of a changelog.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Positions of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The inputs with the committed offsets of the group.
    pub committed: Vec<(TopicPartition, Option<u64>)>,
    /// Last meta record of the changelog.
    pub last: Option<LastMeta>,
    /// Result of the comparison.
    pub fit: OffsetComparison,
}

/// Inputs of every task of a role, in the order of meta records.
pub fn inputs(
    system: &Installation,
    role: Role,
) -> Result<BTreeMap<u32, Vec<TopicPartition>>, LogError> {
    let spec = role.spec();
    let partitions = system.partitions()?;
    let tasks = 0..partitions[spec.changelog.0 as usize];
    Ok(tasks
        .map(|task| (task, spec.inputs_of(task, &partitions)))
        .collect())
}

/// Compares the positions, even while the role runs. Reports a difference only if it lasts.
pub fn look(system: &Installation, role: Role) -> Result<BTreeMap<u32, Standing>, LogError> {
    let inputs = inputs(system, role)?;
    let began = Instant::now();
    let mut done = BTreeMap::new();
    let mut differ: BTreeMap<u32, (Instant, Standing)> = BTreeMap::new();
    loop {
        let left: BTreeMap<_, _> = inputs
            .iter()
            .filter(|(task, _)| !done.contains_key(*task))
            .map(|(t, i)| (*t, i.as_slice()))
            .collect();
        for (task, standing) in once(system, role, &left)? {
            let before = differ
                .remove(&task)
                .filter(|(_, before)| *before == standing);
            let since = before.map_or_else(Instant::now, |(since, _)| since);
            match standing.fit {
                OffsetComparison::Differ(_)
                    if since.elapsed() < LASTING && began.elapsed() < PATIENCE =>
                {
                    drop(differ.insert(task, (since, standing)))
                }
                // The difference keeps changing, so the role is running.
                OffsetComparison::Differ(_) if since.elapsed() < LASTING => drop(done.insert(
                    task,
                    Standing {
                        fit: OffsetComparison::Equal,
                        ..standing
                    },
                )),
                _ => drop(done.insert(task, standing)),
            }
        }

        if done.len() == inputs.len() {
            return Ok(done);
        }

        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Compares once. Reads the committed offsets before and after the changelog, because a transaction
/// in between moves them.
fn once(
    system: &Installation,
    role: Role,
    inputs: &BTreeMap<u32, &[TopicPartition]>,
) -> Result<Vec<(u32, Standing)>, LogError> {
    let spec = role.spec();
    let all = inputs
        .values()
        .flat_map(|i| i.iter().copied())
        .collect::<Vec<_>>();
    let committed = || -> Result<BTreeMap<TopicPartition, Option<u64>>, LogError> {
        Ok(all
            .iter()
            .copied()
            .zip(system.log.group_offsets(&system.group(role), &all)?)
            .collect())
    };

    let before = committed()?;
    let mut bounds = BTreeMap::new();
    for task in inputs.keys() {
        bounds.insert(
            *task,
            system
                .log
                .bounds(TopicPartition::new(spec.changelog, *task))?,
        );
    }

    let mut last = last_meta_within(
        &*system.log,
        &SystemClock::new(),
        &system.topics,
        spec.changelog,
        &bounds,
        GIVE_UP,
    )?;

    let after = committed()?;
    let standing = |(task, inputs): (&u32, &&[TopicPartition])| {
        let last = last.remove(task);
        let of = |all: &BTreeMap<TopicPartition, Option<u64>>| {
            inputs
                .iter()
                .map(|at| (*at, all.get(at).copied().flatten()))
                .collect()
        };

        let (before, after): (Vec<_>, Vec<_>) = (of(&before), of(&after));
        let meta = last.as_ref().map(|l| &l.meta);
        let (committed, fit) = match fit(&before, meta) {
            OffsetComparison::Differ(_) => (after.clone(), fit(&after, meta)),
            fits => (before, fits),
        };

        (
            *task,
            Standing {
                committed,
                last,
                fit,
            },
        )
    };

    Ok(inputs.iter().map(standing).collect())
}

/// The differences as text, for messages.
pub fn differences(system: &Installation, role: Role, task: u32, standing: &Standing) -> String {
    let OffsetComparison::Differ(differ) = &standing.fit else {
        return String::new();
    };

    let offset = |o: &Option<u64>| o.map_or("nothing".to_string(), |o| o.to_string());
    let changelog = system
        .topics
        .show(TopicPartition::new(role.spec().changelog, task))
        .to_string();
    let source = match &standing.last {
        Some(last) => format!(
            "transaction {} ({changelog} offset {})",
            last.meta.transaction, last.offset
        ),
        None => format!("{changelog}, which has no transaction,"),
    };

    let each = differ.iter().map(|(at, c, m)| {
        format!(
            "{} is committed at {}, {source} says {}",
            system.topics.show(*at),
            offset(c),
            offset(m)
        )
    });

    each.collect::<Vec<_>>().join("; ")
}
