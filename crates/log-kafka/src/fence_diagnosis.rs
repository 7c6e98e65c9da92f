//! Distinguishes a fenced producer from an expired transaction.
//!
//! "Fenced" from the producer has two causes that look the same:
//!
//! 1. Another process started with our instance number. We must stop.
//! 2. The broker aborted a transaction that stayed open too long, for example because this process
//!    was frozen. We must recover.
//!
//! A recovery in the first case would fence the other process in turn, and both could go on for
//! ever. The consumer group decides (static membership, KIP-345). Of two processes with the same
//! `group.instance.id`, the group keeps the last one that joined. The other process gets
//! `FENCED_INSTANCE_ID` at its next heartbeat, and this error is final. A new incarnation first
//! fences the producer and joins the group at once. So after a fenced producer we keep the consumer
//! alive for a few heartbeats. If the group does not report that our membership is taken, no
//! successor exists, and we recover. A member joins only after fencing and after this check. So the
//! last process to join stays, and the older of two instances ends.
//!
//! The group alone is not reliable either. The group gives a membership to the last request, and
//! this request may be late, for example because the coordinator was frozen. The request may come
//! from a dead predecessor, or may be our own request, sent again. In both cases no successor
//! exists, and this member must not stop. A real successor takes a new epoch before the join. So
//! when the group reports that our membership is taken, we ask the transaction coordinator about
//! our epoch. If our epoch is still valid, we recover.
//!
//! Both signs together prove nothing if our transaction was open for so long that the broker may
//! have aborted it. The abort itself ends the epoch, and a late request may have taken the
//! membership. A live member keeps its membership by heartbeats, and the group removes a dead
//! member at the session timeout. So we check the membership again after the session timeout.

use std::time::{Duration, Instant};

use ports::{MemberSpec, TransactionOutcome};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::classify::{self, TxErrorClass, TxStep};
use super::config::{KafkaSettings, group_instance};
use super::ffi::{self, GroupMetadata};
use super::stale_requests::MemberWatch;
use super::transact::TransactionalProducer;

/// Interval between two queries of the group.
const LOOK: Duration = Duration::from_millis(500);

/// True if another producer has a newer epoch of our transactional id. Returns false if no answer
/// comes in time: we then join again, and a real successor gets a certain answer. The check begins
/// a transaction. The next incarnation finishes that transaction, like any other.
pub(super) fn epoch_is_over(
    sender: &TransactionalProducer,
    offsets: &TopicPartitionList,
    group: &GroupMetadata,
    within: Duration,
) -> bool {
    let deadline = Instant::now() + within;
    if sender.fenced().is_none() && ffi::begin_transaction(sender.handle).is_ok() {
        // The fate of the offsets does not matter. The request first adds the offsets to the
        // transaction, and the coordinator refuses the request if the epoch is over.
        while let Err(e) = ffi::send_offsets(sender.handle, offsets, group, within) {
            match classify::transaction(TxStep::BeforeCommit, &e) {
                TxErrorClass::ProducerFenced => return true,
                TxErrorClass::Again if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20))
                }
                _ => break,
            }
        }
    }

    sender.fenced().is_some()
}

/// Outcome of a transaction whose producer was fenced. `open`: age of the transaction.
pub(super) fn fenced_or_expired(
    why: &str,
    open: Duration,
    consumer: &BaseConsumer<MemberWatch>,
    settings: &KafkaSettings,
    spec: &MemberSpec,
) -> TransactionOutcome {
    let Some(taken) = place_taken(consumer, settings.heartbeat() * 2 + Duration::from_secs(2))
    else {
        return TransactionOutcome::Unknown(format!(
            "{why}; no other instance has joined, so the broker has given the transaction up"
        ));
    };

    // Use half of the timeout, because the broker measures with its own clock.
    let may_have_expired = open > settings.transaction_timeout / 2;
    if may_have_expired {
        tracing::warn!("{why}, and {taken}: asking the group whether another instance lives");
        if !is_alive(consumer, settings, spec) {
            return TransactionOutcome::Unknown(format!(
                "{why}; and a late request, of somebody who is not there any more, has taken our place in the group"
            ));
        }
    }

    TransactionOutcome::Fenced(taken)
}

/// The group's message if our membership is taken. Keeps the consumer alive to receive the message.
fn place_taken(consumer: &BaseConsumer<MemberWatch>, within: Duration) -> Option<String> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        // The incarnation is over, so the result of the poll is void. Only the call and the
        // client's fatal state matter.
        drop(consumer.poll(Duration::from_millis(50)));
        if let Some((Code::FencedInstanceId, text)) = consumer.client().fatal_error() {
            return Some(text);
        }
    }

    None
}

/// True if the member with our membership keeps it for longer than a session without heartbeats.
/// Returns false if no answer comes in time, for the same reason as [`epoch_is_over`].
pub(super) fn is_alive(
    consumer: &BaseConsumer<MemberWatch>,
    settings: &KafkaSettings,
    spec: &MemberSpec,
) -> bool {
    let instance = group_instance(&spec.instance);
    let silent = settings.session() + settings.heartbeat() * 2;
    let deadline = Instant::now() + settings.successor_wait();

    // The member that has the membership, and the start of an unbroken series of such answers.
    let mut seen: Option<(String, Instant)> = None;
    while Instant::now() < deadline {
        seen = match place(consumer, &spec.group, &instance, settings.session() / 2) {
            MembershipSlot::Free => return false,
            MembershipSlot::Taken(member) => seen
                .filter(|(before, _)| *before == member)
                .or_else(|| Some((member, Instant::now()))),
            MembershipSlot::Unknown => None,
        };

        if seen
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() > silent)
        {
            return true;
        }

        std::thread::sleep(LOOK);
    }

    false
}

/// The membership slot of a static member (KIP-345).
enum MembershipSlot {
    Free,
    /// The id of the member in the slot.
    Taken(String),
    /// No answer came, or a rebalance is going on. During a rebalance a silent member is removed
    /// only at the end of the rebalance.
    Unknown,
}

/// Asks all brokers. The request to the coordinator only (DescribeConsumerGroups) is not used:
/// librdkafka 2.12 aborted the process during a move of the coordinator (`eonce->refcnt > 0`).
fn place(
    consumer: &BaseConsumer<MemberWatch>,
    group: &str,
    instance: &str,
    wait: Duration,
) -> MembershipSlot {
    let Ok(list) = consumer.client().fetch_group_list(Some(group), wait) else {
        return MembershipSlot::Unknown;
    };

    let group = list.groups().iter().find(|g| g.name() == group);
    match group.map(|g| g.state()) {
        Some("Stable") => {}
        Some("Empty" | "Dead") => return MembershipSlot::Free,
        _ => return MembershipSlot::Unknown,
    }

    let ours = group.and_then(|g| {
        g.members()
            .iter()
            .find(|m| static_name(m.id()) == Some(instance))
    });

    ours.map_or(MembershipSlot::Free, |m| {
        MembershipSlot::Taken(m.id().to_string())
    })
}

/// Name of the static member with this member id. Brokers build the id from the name, a dash and a
/// UUID.
pub(super) fn static_name(id: &str) -> Option<&str> {
    let (name, uuid) = id.split_at_checked(id.len().checked_sub(37)?)?;
    (!name.is_empty() && uuid.starts_with('-')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::static_name;

    #[test]
    fn the_name_of_a_static_member_is_in_its_id() {
        assert_eq!(
            static_name("processor-orders-000002-0a1b2c3d-0000-4000-8000-0123456789ab"),
            Some("processor-orders-000002")
        );
        assert_eq!(static_name("-0a1b2c3d-0000-4000-8000-0123456789ab"), None);
        assert_eq!(static_name("short"), None);
    }
}
