//! Assigns users' endpoints to gateways. As for roles, a consumer group of the log decides. A
//! gateway joins the group `processor-gateway` over the partitions of `notifications`, and serves
//! the users of its assigned partitions. When a gateway dies, another gateway gets the partitions
//! and continues from the positions in `subscriptions`. At that moment a notification may repeat,
//! with the same `webhook-id`, but none is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ports::records::Records;
use ports::topics::{TopicId, TopicPartition};
use ports::{Limits, Log, LogError, Member, MemberInput, MemberSpec, Polled};
use tokio::sync::watch;
use wire::topics::SUBSCRIPTIONS;

use crate::retry_policy::RetryPolicy;

/// Partitions assigned to this gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Partitions of `notifications`.
    pub partitions: BTreeSet<u32>,
    /// Offset of `subscriptions` after all positions that previous owners wrote.
    pub subscriptions_end: u64,
}

const WAIT: Duration = Duration::from_millis(250);
const BACKOFF: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits {
    records: 1,
    bytes: 1,
    age: Duration::ZERO,
};

/// Stays a member of the group until `stop` is set. Returns an error that a retry cannot help.
pub fn run(
    log: &Arc<dyn Log>,
    topic: TopicId,
    group: &str,
    instance: &str,
    stop: &AtomicBool,
    owned: &watch::Sender<Owned>,
) -> Result<(), LogError> {
    let inputs = vec![MemberInput {
        topic,
        headers: false,
    }];
    let spec = MemberSpec {
        group: group.into(),
        instance: instance.into(),
        inputs,
        linger: Duration::ZERO,
    };

    let mut passing = RetryPolicy::default();
    while !stop.load(Ordering::Acquire) {
        let ended = log
            .join(&spec)
            .and_then(|member| stay(&**log, member, stop, owned, &mut passing));
        owned.send_replace(Owned::default());
        if let Err(e) = ended {
            let why = passing.wait(e)?;
            tracing::warn!(
                "webhook delivery paused: {why}; joining the group again in {BACKOFF:?}"
            );
            std::thread::sleep(BACKOFF);
        }
    }

    Ok(())
}

fn stay(
    log: &dyn Log,
    mut member: Box<dyn Member>,
    stop: &AtomicBool,
    owned: &watch::Sender<Owned>,
    passing: &mut RetryPolicy,
) -> Result<(), LogError> {
    let mut nothing = Records::new();
    while !stop.load(Ordering::Acquire) {
        // The member never resumes its assigned partitions. The feed reads the topic; this member
        // only holds the assignment.
        match member.poll(WAIT, LIMITS, &mut nothing)? {
            Polled::Records => {}
            Polled::Revoked { .. } => drop(owned.send_replace(Owned::default())),
            Polled::Assigned(partitions) => {
                passing.works();
                let subscriptions_end = log
                    .bounds(TopicPartition::new(SUBSCRIPTIONS, 0))?
                    .stable_end;
                let partitions: BTreeSet<u32> = partitions.iter().map(|at| at.partition).collect();
                tracing::info!(?partitions, "serving the webhooks of these partitions");
                owned.send_replace(Owned {
                    partitions,
                    subscriptions_end,
                });
            }
        }
    }

    Ok(())
}
