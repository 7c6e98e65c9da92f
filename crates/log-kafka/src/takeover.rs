//! Ends what a dead instance left open.
//!
//! A transaction belongs to its instance's transactional id, not to the partitions. When an
//! instance dies for good, nobody takes its id over, and its open transaction holds up everybody
//! who reads what it wrote, and the one who gets its partitions, until the broker gives it up: 20
//! s, and up to 10 s more until the broker looks. So each commit signs its offsets with the
//! instance's id, as the metadata that Kafka keeps beside an offset. An instance that is given
//! partitions looks who signed them last; an owner that is no member of the group any more gets its
//! id initialised once, by a producer that does nothing else, which makes the broker abort the open
//! transaction at once.
//!
//! **That is safe whatever the other one is doing.** To initialise an id is what its owner does
//! itself at each start. If the owner is alive after all (it was frozen, or is starting this very
//! moment), it is fenced as a *producer* and not as a member, finds that its place in the group is
//! free or its own, and begins a new incarnation (see [`super::fencing`]): it loses seconds and
//! nothing else. So that instances which start together do not do this to each other, one that was
//! not seen in the group before is given a moment to appear.
//!
//! All of it runs beside the loop, with a bound on time, and what fails is only logged: then the
//! broker's own time-out does the work, as ever.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, Producer};

use super::admin::{Admin, Askers};
use super::config::{KafkaSettings, group_instance};
use super::fencing;
use super::ffi::{self, ClientHandle};
use super::stale_requests::Quiet;
use super::watchdog;
use ports::LogError;
use ports::topics::{TopicPartition, TopicTable};

/// Before the id in the metadata of an offset. Metadata that somebody else wrote is nobody's name.
const SIGNED: &str = "processor:";
/// How long an instance that was never seen in the group may take to appear.
const GRACE: Duration = Duration::from_secs(4);
/// All of it takes at most this long.
const BOUND: Duration = Duration::from_secs(30);
/// So many dead instances are looked after at a time; there are never more than a few.
const OWNERS_MAX: usize = 16;

/// The signature that a commit of this instance leaves beside its offsets.
pub(super) fn signature(instance: &str) -> String {
    format!("{SIGNED}{instance}")
}

/// The instance that left this signature.
fn signer(metadata: &str) -> Option<&str> {
    metadata.strip_prefix(SIGNED).filter(|s| !s.is_empty())
}

/// The group's static members when somebody looked last, by name. Shared by the incarnations of one
/// process.
#[derive(Default)]
pub(super) struct SeenMembers(Mutex<BTreeSet<String>>);

/// One look after an assignment.
pub(super) struct GroupLook {
    pub(super) settings: Arc<KafkaSettings>,
    pub(super) askers: Arc<Askers>,
    pub(super) names: Arc<TopicTable>,
    pub(super) seen: Arc<SeenMembers>,
    pub(super) group: String,
    pub(super) instance: String,
}

impl GroupLook {
    /// Looks who committed these partitions last, and ends what those have open who are gone. In
    /// threads of its own.
    pub(super) fn after(self, partitions: Vec<TopicPartition>) {
        let look = Arc::new(self);
        in_thread(move || {
            let began = Instant::now();
            let gone = match look.gone(&partitions) {
                Ok(gone) => gone,
                Err(e) => {
                    return tracing::debug!(
                        "{}: who left transactions open is not known: {e}",
                        look.instance
                    );
                }
            };

            for (owner, known) in gone {
                let look = Arc::clone(&look);
                in_thread(move || look.end(&owner, known, began + BOUND));
            }
        });
    }

    /// Owners of the last commits that are not in the group, and whether they were seen there
    /// before.
    fn gone(&self, partitions: &[TopicPartition]) -> Result<Vec<(String, bool)>, LogError> {
        let admin = Admin {
            settings: &self.settings,
            askers: &self.askers,
        };

        let named: Vec<_> = partitions
            .iter()
            .map(|at| (self.names.name(at.topic), at.partition))
            .collect();
        let signed = admin.group_metadata(&self.group, &named)?;
        let mut owners: BTreeSet<&str> = signed
            .iter()
            .filter_map(|m| signer(m))
            .filter(|s| *s != self.instance)
            .collect();
        while owners.len() > OWNERS_MAX {
            owners.pop_last();
        }

        let there = self.members(&admin)?;
        let before = {
            let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *seen, there.clone())
        };

        let gone = owners
            .into_iter()
            .map(|o| (o, group_instance(o)))
            .filter(|(_, name)| !there.contains(name));
        Ok(gone
            .map(|(owner, name)| (owner.to_string(), before.contains(&name)))
            .collect())
    }

    /// The static members of the group. An answer without ourselves is old, or not from the group's
    /// coordinator.
    fn members(&self, admin: &Admin<'_>) -> Result<BTreeSet<String>, LogError> {
        let ids = admin.group_members(&self.group)?;
        let there: BTreeSet<String> = ids
            .iter()
            .filter_map(|id| fencing::static_name(id))
            .map(str::to_string)
            .collect();
        if there.contains(&group_instance(&self.instance)) {
            return Ok(there);
        }

        Err(LogError::Unavailable(format!(
            "group {} does not list us",
            self.group
        )))
    }

    /// Ends what one owner has open.
    fn end(&self, owner: &str, known: bool, deadline: Instant) {
        if !known {
            std::thread::sleep(GRACE);
            let admin = Admin {
                settings: &self.settings,
                askers: &self.askers,
            };

            match self.members(&admin) {
                Ok(there) if !there.contains(&group_instance(owner)) => {}
                Ok(_) => return,
                Err(e) => {
                    return tracing::debug!(
                        "{}: whether {owner} is gone is not known: {e}",
                        self.instance
                    );
                }
            }
        }

        let client = self
            .settings
            .transactional(&self.names, owner)
            .create_with_context(Quiet);
        let client: BaseProducer<Quiet> = match client {
            Ok(client) => client,
            Err(e) => {
                return tracing::debug!(
                    "{}: no producer to end what {owner} left: {e}",
                    self.instance
                );
            }
        };

        let handle = ClientHandle::of(client.client());
        let result = loop {
            let left = deadline
                .saturating_duration_since(Instant::now())
                .min(Duration::from_secs(5));
            match ffi::init_transactions(handle, left) {
                Err(e) if e.retriable && !e.fatal && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20))
                }
                result => break result,
            }
        };

        match result {
            Ok(()) => tracing::info!(
                "{owner} is no member of group {} any more: what it left open is ended",
                self.group
            ),
            Err(e) => tracing::warn!(
                "{owner} is no member of group {} any more, and what it left open could not be ended ({}): the brokers do that after {:?}",
                self.group,
                e.text,
                self.settings.transaction_timeout
            ),
        }

        watchdog::drop_aside("closing a producer", client);
    }
}

fn in_thread(work: impl FnOnce() + Send + 'static) {
    if let Err(e) = std::thread::Builder::new()
        .name("kafka-takeover".into())
        .spawn(work)
    {
        tracing::warn!("no thread to end what dead instances left open: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_signatures_name_somebody() {
        assert_eq!(
            signer(&signature("p-processor-orders-2")),
            Some("p-processor-orders-2")
        );
        assert!(
            ["", "orders-2", "processor:"]
                .iter()
                .all(|m| signer(m).is_none()),
            "what strangers and older versions leave is nobody"
        );
    }
}
