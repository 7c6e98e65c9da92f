//! Fenced, or merely timed out? Whether somebody has come after us.
//!
//! "Fenced" from the producer has two causes that look the same: another process started under our
//! name (stop!), or the broker aborted a transaction that stayed open too long, say because this
//! process was frozen (recover!). Recovering in the first case would fence the other process in
//! turn, and both could go on like that for ever. The group decides: of two processes with the same
//! static member name it keeps the one that joined last, and tells the other one
//! `FENCED_INSTANCE_ID` at its next heartbeat, finally. A new incarnation first fences the producer
//! and at once joins the group. So when our producer was fenced we keep the consumer alive for a
//! few heartbeats: if the group does not say that our place is taken, nobody is there, and we
//! recover. Since a member joins only after that, the last to join stays, and of two instances the
//! older one ends.
//!
//! The group alone is not to be believed either. It gives a place to whoever asks for it last, and
//! that may be a request that was under way for long, in front of a frozen coordinator, say: of a
//! predecessor that is dead, or our own, sent a second time. Nobody is there then, and a member
//! that stopped would be missed. But whoever really comes after us takes a new epoch before it
//! joins. So when the group says that our place is taken, we ask the transaction coordinator
//! whether our epoch is over. If it is not, we recover.
//!
//! Both at once still prove nothing if our transaction was open for so long that the broker may
//! have given it up: then the epoch is over because of that, and the place may have gone to a late
//! request. What is alive sends heartbeats and keeps the place; what is not is put out when its
//! session ends. So we look whether it is still there after that.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::classify::{self, TxErrorClass, TxStep};
use super::config::{KafkaSettings, group_instance};
use super::ffi::{self, GroupMetadata};
use super::stale_requests::MemberWatch;
use super::transact::TransactionalProducer;
use ports::{MemberSpec, TransactionOutcome};

/// Between two looks at the group.
const LOOK: Duration = Duration::from_millis(500);

/// Whether somebody has taken a newer epoch of our transactional id. No, if that cannot be found
/// out in good time: then we join again, and whoever may be there finds out for certain. Begins a
/// transaction to ask, which is left to the next incarnation to finish, like any other.
pub(super) fn epoch_is_over(
    sender: &TransactionalProducer,
    offsets: &TopicPartitionList,
    group: &GroupMetadata,
    within: Duration,
) -> bool {
    let deadline = Instant::now() + within;
    if sender.fenced().is_none() && ffi::begin_transaction(sender.handle).is_ok() {
        // The fate of the offsets does not matter: they are added to the transaction first, and
        // that is refused when the epoch is over.
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

/// The outcome of a transaction whose producer was fenced after it had been open for so long.
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

    // Half of it, because the broker measures by a clock of its own.
    let may_have_expired = open > settings.transaction_timeout / 2;
    if may_have_expired {
        tracing::warn!(
            "{why}, and {taken}: waiting until it is clear whether there is another instance"
        );
        if !is_alive(consumer, settings, spec) {
            return TransactionOutcome::Unknown(format!(
                "{why}; and a late request, of somebody who is not there any more, has taken our place in the group"
            ));
        }
    }

    TransactionOutcome::Fenced(taken)
}

/// The group's message when it has given our place away; keeps the consumer alive for some time to
/// hear it.
fn place_taken(consumer: &BaseConsumer<MemberWatch>, within: Duration) -> Option<String> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        // The result of the poll is void with this incarnation; only the call matters, and the
        // client's fatal state.
        drop(consumer.poll(Duration::from_millis(50)));
        if let Some((Code::FencedInstanceId, text)) = consumer.client().fatal_error() {
            return Some(text);
        }
    }

    None
}

/// Whether who has our place keeps it for longer than its session lasts without heartbeats. No, if
/// that cannot be found out in good time, for the same reason as above.
pub(super) fn is_alive(
    consumer: &BaseConsumer<MemberWatch>,
    settings: &KafkaSettings,
    spec: &MemberSpec,
) -> bool {
    let instance = group_instance(&spec.instance);
    let silent = settings.session() + settings.heartbeat() * 2;
    let deadline = Instant::now() + settings.successor_wait();

    // Since when it was said without a break that this member has the place.
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

/// A static member's place in its group.
enum MembershipSlot {
    Free,
    /// By this member.
    Taken(String),
    /// No answer, or a rebalance is going on: then a member that says nothing has as long as that
    /// takes.
    Unknown,
}

/// Asks the brokers, all of them. The request that goes to the group's coordinator only
/// (DescribeConsumerGroups) is not used: librdkafka 2.12 ended the process over it when the
/// coordinator was on the move (`eonce->refcnt > 0`).
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

/// The name of the static member that has this id: brokers make it of the name, a dash and a UUID.
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
