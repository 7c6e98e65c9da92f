//! `processor repair offsets`: sets a group's committed offsets to the positions in the last meta
//! records of its changelogs.
//!
//! A transaction commits the meta record and the offsets together. If the group has lost its
//! offsets, the last meta record therefore holds them. The repair is safe only if no other member
//! commits meanwhile, so:
//! 1. The group must be empty.
//! 2. The repair joins under the name of the instance, which fences an older process (KIP-345).
//! 3. The repair must own every partition, so no other member has one.
//! 4. Open transactions must end first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use engine::last_meta::{OffsetComparison, fit, last_meta};
use faults::crash::{self, Point};
use os::clock::SystemClock;
use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{
    Committed, Limits, Log, LogError, Member, MemberInput, MemberSpec, Polled, Transaction,
    TransactionOutcome,
};
use roles::Role;

use super::standing::{self, Standing};
use super::system::Installation;

/// A killed instance stays a member until its session times out.
const EMPTY_WAIT: Duration = Duration::from_secs(30);
/// Longest wait for the assignment of all partitions, and for the committed offsets.
const JOIN_WAIT: Duration = Duration::from_secs(60);
/// Same wait as a start: transaction timeout, the brokers' check interval, and slack.
const OPEN_WAIT: Duration = Duration::from_secs(45);
const LIMITS: Limits = Limits {
    records: 1,
    bytes: 1 << 20,
    age: Duration::from_millis(1),
};

/// Action of the repair for one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The offsets are right; no change.
    Fits,
    /// Neither the task nor the group has committed anything.
    Fresh,
    /// The offsets are set (or would be, in a plan).
    Set,
}

/// One task, before the repair.
#[derive(Clone, Debug)]
pub struct RepairTask {
    /// Positions before the repair.
    pub standing: Standing,
    pub action: Action,
}

/// Reasons for a repair without any change.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    Runs(String),
    /// The log does not hold the positions of the meta records.
    #[error("{0}")]
    Impossible(String),
}

/// The plan, without any change. The positions may move before the repair runs.
pub fn plan(system: &Installation, role: Role) -> Result<BTreeMap<u32, RepairTask>, RepairError> {
    judge(system, role, standing::look(system, role)?)
}

/// Repairs the offsets. Returns the state before the repair.
pub fn offsets(
    system: &Installation,
    role: Role,
) -> Result<BTreeMap<u32, RepairTask>, RepairError> {
    let group = system.group(role);
    wait_until_empty(system, &group)?;
    let inputs = role
        .spec()
        .inputs
        .iter()
        .map(|i| MemberInput {
            topic: i.topic,
            headers: false,
        })
        .collect();

    let instance = format!("{group}-{}", system.instance);
    let mut member = system.log.join(&MemberSpec {
        group,
        instance,
        inputs,
        linger: Duration::ZERO,
    })?;

    let done = put_right(system, role, &mut *member);

    // Leave the group, so that the next start need not wait for the session timeout.
    member.leave();
    done
}

/// The repair itself. `member` must be the only member of the group.
fn put_right(
    system: &Installation,
    role: Role,
    member: &mut dyn Member,
) -> Result<BTreeMap<u32, RepairTask>, RepairError> {
    let spec = role.spec();
    let group = system.group(role);
    let inputs = standing::inputs(system, role)?;
    let tasks: Vec<u32> = inputs.keys().copied().collect();
    let wanted: BTreeSet<_> = inputs.values().flatten().copied().collect();
    take_all(member, &group, &wanted)?;
    crash::point(Point::RepairJoined);

    // From here on, only this member can commit. Transactions that were open before the fence end
    // by themselves.
    let mut last = last_meta(
        &*system.log,
        &SystemClock::new(),
        &system.topics,
        spec.changelog,
        &tasks,
        OPEN_WAIT,
    )?;

    let mut found = BTreeMap::new();
    for (task, inputs) in inputs {
        let committed: Vec<_> = inputs
            .iter()
            .copied()
            .zip(committed(&*system.log, &group, &inputs)?)
            .collect();
        let last = last.remove(&task);
        let fit = fit(&committed, last.as_ref().map(|l| &l.meta));
        found.insert(
            task,
            Standing {
                committed,
                last,
                fit,
            },
        );
    }

    let judged = judge(system, role, found)?;
    let positions: Vec<(TopicPartition, u64)> = judged
        .values()
        .filter(|t| t.action == Action::Set)
        .flat_map(positions)
        .collect();
    crash::point(Point::RepairJudged);
    if !positions.is_empty() {
        commit(&*system.log, &group, member, &positions)?;
        crash::point(Point::RepairCommitted);
    }

    Ok(judged)
}

/// Positions of a task's last meta record.
fn positions(task: &RepairTask) -> Vec<(TopicPartition, u64)> {
    let meta = task.standing.last.as_ref().map(|l| &l.meta);
    task.standing
        .committed
        .iter()
        .filter_map(|(at, _)| Some((*at, meta?.next(*at)?)))
        .collect()
}

fn wait_until_empty(system: &Installation, group: &str) -> Result<(), RepairError> {
    let until = Instant::now() + EMPTY_WAIT;
    let mut told = false;
    loop {
        let members = system.log.group_members(group)?;
        if members.is_empty() {
            return Ok(());
        }

        if Instant::now() >= until {
            return Err(RepairError::Runs(format!(
                "group {group} has members ({}), so the role runs: stop all its instances first. Nothing was changed",
                members.join(", ")
            )));
        }

        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%group, ?members, "the group has members that may have ended; waiting up to {EMPTY_WAIT:?} until the brokers remove them");
        }

        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Polls until every partition is assigned, and once more: a transaction is committed under the
/// generation of the last poll.
fn take_all(
    member: &mut dyn Member,
    group: &str,
    wanted: &BTreeSet<TopicPartition>,
) -> Result<(), RepairError> {
    let until = Instant::now() + JOIN_WAIT;
    let mut ours = None;
    let mut records = Records::new();
    while Instant::now() < until {
        match member.poll(Duration::from_millis(100), LIMITS, &mut records)? {
            Polled::Assigned(got) => ours = Some(got.into_iter().collect::<BTreeSet<_>>()),
            Polled::Revoked { .. } => ours = None,
            Polled::Records if ours.as_ref() == Some(wanted) => return Ok(()),
            Polled::Records => {}
        }
    }

    Err(match ours {
        Some(ours) => RepairError::Runs(format!(
            "group {group} gave us {} of {} partitions, so another instance of the role runs: stop it first. Nothing was changed",
            ours.len(),
            wanted.len()
        )),
        None => LogError::Unavailable(format!(
            "group {group} did not give us its partitions in {} s",
            JOIN_WAIT.as_secs()
        ))
        .into(),
    })
}

fn committed(
    log: &dyn Log,
    group: &str,
    inputs: &[TopicPartition],
) -> Result<Vec<Option<u64>>, LogError> {
    let until = Instant::now() + JOIN_WAIT;
    loop {
        match log.committed(group, inputs)? {
            Committed::Stable(offsets) => return Ok(offsets),
            Committed::Pending if Instant::now() >= until => {
                return Err(LogError::Unavailable(
                    "committed offsets stay pending: a transaction hangs in the cluster".into(),
                ));
            }
            Committed::Pending => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Decides the action for each task. A position outside the bounds of its input is not committed:
/// the next start would skip records or stop.
fn judge(
    system: &Installation,
    role: Role,
    found: BTreeMap<u32, Standing>,
) -> Result<BTreeMap<u32, RepairTask>, RepairError> {
    let mut judged = BTreeMap::new();
    let mut wrong = Vec::new();
    for (task, standing) in found {
        let action = match &standing.fit {
            OffsetComparison::Fresh => Action::Fresh,
            OffsetComparison::Equal => Action::Fits,
            OffsetComparison::Absent | OffsetComparison::Differ(_) => Action::Set,
        };

        if action == Action::Set && standing.last.is_none() {
            wrong.push(format!(
                "task {task}: the group has committed offsets, but the changelog has no transaction: was it deleted? Bring it back from a backup or a \
                 mirror; no offsets can be put to it"
            ));
        }

        let task_found = RepairTask { standing, action };
        if action != Action::Fresh {
            for (at, next) in positions(&task_found) {
                let bounds = system.log.bounds(at)?;
                let name = system.topics.show(at).to_string();
                if next < bounds.start {
                    wrong.push(format!(
                        "{name}: offset {next} is next, and the topic begins at {}: records {next} to {} were deleted before they were read",
                        bounds.start,
                        bounds.start - 1
                    ));
                } else if next > bounds.end {
                    wrong.push(format!("{name}: offset {next} is next, and the topic ends at {}: records were lost", bounds.end));
                }
            }
        }

        judged.insert(task, task_found);
    }

    if wrong.is_empty() {
        return Ok(judged);
    }

    Err(RepairError::Impossible(format!(
        "the offsets of {} cannot be repaired; nothing was changed:\n  {}",
        role.name(),
        wrong.join("\n  ")
    )))
}

fn commit(
    log: &dyn Log,
    group: &str,
    member: &mut dyn Member,
    positions: &[(TopicPartition, u64)],
) -> Result<(), RepairError> {
    let again = |why: String| {
        LogError::Unavailable(format!("{why}; run the command again").replace("; ;", ";"))
    };

    match member.transact(&Transaction {
        outputs: &Records::new(),
        offsets: positions,
    }) {
        TransactionOutcome::Committed { .. } => {}
        TransactionOutcome::NotCommitted(why) | TransactionOutcome::Late { why, .. } => {
            return Err(again(format!("nothing was changed: {why}")).into());
        }
        TransactionOutcome::Rejected(r) => return Err(LogError::Invalid(r.text).into()),
        TransactionOutcome::Unknown(why) => {
            return Err(again(format!(
                "nobody knows whether the offsets were committed: {why}"
            ))
            .into());
        }
        TransactionOutcome::Fenced(why) => return Err(LogError::Fenced(why).into()),
        TransactionOutcome::Refused(why) => return Err(LogError::Invalid(why).into()),
    }

    let asked: Vec<_> = positions.iter().map(|(at, _)| *at).collect();
    let now = committed(log, group, &asked)?;
    if positions
        .iter()
        .zip(&now)
        .any(|((_, wanted), now)| Some(*wanted) != *now)
    {
        return Err(again("the offsets were committed, and are others already".into()).into());
    }

    Ok(())
}
