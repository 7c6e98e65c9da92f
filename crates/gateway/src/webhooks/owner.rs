//! Which gateway serves which user's endpoints: the log's consumer groups decide, as they do for
//! roles. A gateway joins the group `processor-gateway` over the partitions of `notifications`, and
//! serves the users of those it was given. When it dies, another one gets them and goes on from the
//! positions in `subscriptions`. A repeat is possible at such a moment, with the same `webhook-id`;
//! a loss is not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::passing::Passing;
use ports::records::Records;
use ports::topics::{TopicId, TopicPartition};
use ports::{Limits, Log, LogError, Member, MemberInput, MemberSpec, Polled};
use wire::topics::SUBSCRIPTIONS;

/// What is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Partitions of `notifications`.
    pub partitions: BTreeSet<u32>,
    /// Positions that our predecessors wrote lie before this offset of `subscriptions`.
    pub subscriptions_end: u64,
}

const WAIT: Duration = Duration::from_millis(250);
const BACKOFF: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits {
    records: 1,
    bytes: 1,
    age: Duration::ZERO,
};

/// Keeps the membership until told to stop. An error that waiting does not mend is returned.
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

    let mut passing = Passing::default();
    while !stop.load(Ordering::Acquire) {
        let ended = log
            .join(&spec)
            .and_then(|member| stay(&**log, member, stop, owned, &mut passing));
        owned.send_replace(Owned::default());
        if let Err(e) = ended {
            let why = passing.wait(e)?;
            tracing::warn!("webhooks pause: {why}");
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
    passing: &mut Passing,
) -> Result<(), LogError> {
    let mut nothing = Records::new();
    while !stop.load(Ordering::Acquire) {
        // Assigned partitions are never resumed: the feed reads the topic for everybody, this only
        // holds the place.
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
