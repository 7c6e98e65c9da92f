//! Aborts transactions that a dead instance left open.
//!
//! A transaction belongs to the transactional id of an instance, not to partitions. If an instance
//! dies for good, no process uses the id again. The open transaction then holds back the last
//! stable offset of its output partitions. The next owner of the instance's partitions must wait,
//! too. The broker aborts the transaction after 20 s, and needs up to 10 s more until the next
//! check.
//!
//! So each commit signs its offsets with the instance's id, in the metadata that Kafka stores
//! beside an offset. An instance with new partitions reads the last signature. If the signer is no
//! longer a member of the group, a temporary producer calls `init_transactions` once with the
//! signer's id. The broker then aborts the open transaction at once.
//!
//! **The abort is safe in every state of the other instance.** Each instance calls
//! `init_transactions` for its own id at each start. The owner may be alive after all: frozen, or
//! starting at this moment. The abort then fences the owner as a *producer* but not as a member.
//! The owner finds that the membership is free or still its own, and begins a new incarnation (see
//! [`super::fence_diagnosis`]). The owner loses only seconds. Instances that start together must not abort
//! each other. So an instance that was never seen in the group gets a moment to appear.
//!
//! All work runs in threads beside the loop, with a time limit. A failure is only logged: the
//! broker's own transaction timeout then does the work.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ports::LogError;
use ports::topics::{TopicPartition, TopicTable};
use rdkafka::producer::{BaseProducer, Producer};

use super::admin::{Admin, Askers};
use super::config::{KafkaSettings, group_instance};
use super::fence_diagnosis;
use super::ffi::{self, ClientHandle};
use super::stale_requests::Quiet;
use super::watchdog;

/// Prefix of the id in the metadata of an offset. Metadata of other programs has no such prefix and
/// names no instance.
const SIGNED: &str = "processor:";
/// Time for an instance that was never seen in the group to appear.
const GRACE: Duration = Duration::from_secs(4);
/// Time limit for all work after one assignment.
const BOUND: Duration = Duration::from_secs(30);
/// Maximum number of dead instances to handle at a time. In practice only a few are dead.
const OWNERS_MAX: usize = 16;

/// The signature that a commit of this instance stores beside its offsets.
pub(super) fn signature(instance: &str) -> String {
    format!("{SIGNED}{instance}")
}

/// The instance that wrote this signature.
fn signer(metadata: &str) -> Option<&str> {
    metadata.strip_prefix(SIGNED).filter(|s| !s.is_empty())
}

/// Names of the group's static members at the last query. All incarnations of one process share the
/// set.
#[derive(Default)]
pub(super) struct SeenMembers(Mutex<BTreeSet<String>>);

/// One check after an assignment.
pub(super) struct GroupLook {
    pub(super) settings: Arc<KafkaSettings>,
    pub(super) askers: Arc<Askers>,
    pub(super) names: Arc<TopicTable>,
    pub(super) seen: Arc<SeenMembers>,
    pub(super) group: String,
    pub(super) instance: String,
}

impl GroupLook {
    /// Finds the instances that committed these partitions last, and aborts open transactions of
    /// the dead instances. Runs in threads of its own.
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

    /// Owners of the last commits that are not in the group. The flag is true if the owner was seen
    /// in the group before.
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

    /// The static members of the group. An answer without this instance is old, or does not come
    /// from the group coordinator.
    fn members(&self, admin: &Admin<'_>) -> Result<BTreeSet<String>, LogError> {
        let ids = admin.group_members(&self.group)?;
        let there: BTreeSet<String> = ids
            .iter()
            .filter_map(|id| fence_diagnosis::static_name(id))
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

    /// Aborts the open transaction of one owner.
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
