//! Finds the reason why reachable brokers do not do their work. A failed call mostly reports only a
//! timeout. The cluster's metadata shows more: unreachable addresses, missing internal topics,
//! missing replicas.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use ports::LogError;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::metadata::Metadata;

use super::admin::{Admin, Askers, Who, stale};
use super::requirements::{BrokerSettings, INTERNAL, Internal};

/// Longest wait for the metadata of one topic, and for one connection.
const WAIT: Duration = Duration::from_secs(1);
/// Longest wait for the first answer, which includes the connection.
const FIRST_WAIT: Duration = Duration::from_secs(3);
/// Maximum number of brokers to try, because each costs up to [`WAIT`].
const BROKERS_MAX: usize = 5;

#[derive(Clone, Copy)]
struct PartitionMetadata {
    number: i32,
    leader: i32,
    replicas: usize,
    in_sync: usize,
}

impl Admin<'_> {
    /// The problem of brokers that answer, as far as this client can see. `topics`: topics of the
    /// failed call. `None` if no broker answers, or no problem is visible.
    pub(super) fn diagnose(&self, topics: &[&str]) -> Option<String> {
        // Use a new client: an old client with unreachable broker addresses may have closed the
        // bootstrap connection that works.
        let askers = Askers::default();
        let asker = askers.get(self.settings, Who::Everything).ok()?;
        let mut names = INTERNAL
            .iter()
            .map(|kind| kind.name)
            .chain(topics.iter().copied());
        let first = names.next()?;
        let metadata = asker.fetch_metadata(Some(first), FIRST_WAIT).ok()?;
        let brokers = addresses(&metadata);
        if let Some(cause) = unreachable(&self.settings.brokers, &brokers) {
            return Some(cause);
        }

        let mut shapes = BTreeMap::from([(first, places(&metadata, first))]);
        for name in names {
            // A topic without an answer is no finding, and must not hide the other topics.
            if let Ok(metadata) = asker.fetch_metadata(Some(name), WAIT) {
                shapes.insert(name, places(&metadata, name));
            }
        }

        let ids: Vec<_> = brokers.iter().map(|(id, ..)| *id).collect();
        self.replicas_missing(&shapes)
            .or_else(|| self.internal(&shapes, &ids))
    }

    /// Fails if the brokers answer at the bootstrap address but no advertised address is reachable.
    /// Every query after the first one would wait for its timeout.
    pub(super) fn reach(&self, topic: &str) -> Result<(), LogError> {
        let wait = self.settings.request_wait;
        let brokers = self.ask(&Who::Everything, &|| false, |c| {
            c.fetch_metadata(Some(topic), wait).map(|m| addresses(&m))
        })?;

        none_reachable(&self.settings.brokers, &brokers)
            .map_or(Ok(()), |cause| Err(LogError::Unavailable(cause)))
    }

    /// The first unreachable address, if the brokers answer at the bootstrap address but no
    /// advertised address is reachable.
    pub(super) fn nowhere(&self) -> Option<String> {
        let askers = Askers::default();
        let metadata = askers
            .get(self.settings, Who::Everything)
            .ok()?
            .fetch_metadata(Some(INTERNAL.first()?.name), FIRST_WAIT)
            .ok()?;
        none_reachable(&self.settings.brokers, &addresses(&metadata))
    }

    /// Checks for internal topics of Kafka that the brokers cannot create.
    fn internal(
        &self,
        shapes: &BTreeMap<&str, Option<Vec<PartitionMetadata>>>,
        brokers: &[i32],
    ) -> Option<String> {
        let missing = |kind: &&Internal| shapes.get(kind.name).is_some_and(Option::is_none);
        let missing: Vec<_> = INTERNAL.iter().filter(missing).collect();
        if missing.is_empty() {
            return None;
        }

        let settings = self.broker_settings(brokers);
        missing
            .into_iter()
            .find_map(|kind| impossible(kind, &settings, brokers.len()))
    }

    /// Partitions without a leader, or with fewer in-sync replicas than a write needs.
    fn replicas_missing(
        &self,
        shapes: &BTreeMap<&str, Option<Vec<PartitionMetadata>>>,
    ) -> Option<String> {
        for (name, places) in shapes
            .iter()
            .filter_map(|(name, places)| Some((*name, places.as_ref()?)))
        {
            if let Some(p) = places.iter().find(|p| p.leader < 0) {
                return Some(format!(
                    "{name}/{} has no leader: the brokers with its {} replicas are down; nobody can read or write it until one is back",
                    p.number, p.replicas
                ));
            }

            // A principal without the right to see the topic is told of no partitions.
            let Some(weakest) = places.iter().min_by_key(|p| p.in_sync) else {
                continue;
            };

            let least = self
                .settings_of(name)
                .get("min.insync.replicas")
                .and_then(|v| v.parse::<usize>().ok())
                .unwrap_or(1);
            if weakest.in_sync < least {
                return Some(unmet(name, weakest, least));
            }
        }

        None
    }

    /// The settings of the first broker in the list. Empty if the broker does not answer.
    pub(super) fn broker_settings(&self, brokers: &[i32]) -> BrokerSettings {
        let Ok(admin) = self.admin() else {
            return BrokerSettings::new();
        };

        let answers = self.describe_brokers(&admin, &brokers[..brokers.len().min(1)]);
        super::watchdog::drop_aside("closing a client", admin);
        answers
            .into_iter()
            .find_map(|(_, answer)| answer.ok())
            .unwrap_or_default()
    }
}

/// Number, host and port of each broker.
fn addresses(metadata: &Metadata) -> Vec<(i32, String, i32)> {
    metadata
        .brokers()
        .iter()
        .map(|b| (b.id(), b.host().to_string(), b.port()))
        .collect()
}

fn places(metadata: &Metadata, name: &str) -> Option<Vec<PartitionMetadata>> {
    let topic = metadata.topics().iter().find(|t| t.name() == name)?;
    if topic.error().map(Code::from).is_some_and(stale) {
        return None;
    }

    let place = |p: &rdkafka::metadata::MetadataPartition| PartitionMetadata {
        number: p.id(),
        leader: p.leader(),
        replicas: p.replicas().len(),
        in_sync: p.isr().len(),
    };

    Some(topic.partitions().iter().map(place).collect())
}

/// The problem, if the brokers want more replicas of an internal topic than there are brokers.
fn impossible(kind: &Internal, settings: &BrokerSettings, brokers: usize) -> Option<String> {
    let wanted = settings.get(kind.factor)?.parse::<usize>().ok()?;
    (wanted > brokers).then(|| cannot_make(kind, wanted, brokers))
}

fn cannot_make(kind: &Internal, wanted: usize, there: usize) -> String {
    let are = if there == 1 {
        "1 broker is"
    } else {
        &format!("{there} brokers are")
    };

    format!(
        "the brokers answer, but cannot make {}: they want {wanted} replicas of it ({}), and {are} there; start the others, or give the brokers \
         a smaller {}",
        kind.name, kind.factor, kind.factor
    )
}

fn unmet(name: &str, p: &PartitionMetadata, least: usize) -> String {
    format!(
        "the brokers acknowledge no write to {name}/{} (NOT_ENOUGH_REPLICAS): min.insync.replicas is {least}, and {} of its {} replicas \
         {} in sync; {}",
        p.number,
        p.in_sync,
        p.replicas,
        if p.in_sync == 1 { "is" } else { "are" },
        if least > p.replicas {
            "`processor topics check` says what to set"
        } else {
            "it goes on when the other brokers are back"
        }
    )
}

/// The first address, if no address is reachable. For a client that starts, one reachable broker is
/// enough. A cluster of more than [`BROKERS_MAX`] brokers is not searched.
fn none_reachable(bootstrap: &str, brokers: &[(i32, String, i32)]) -> Option<String> {
    if brokers.len() > BROKERS_MAX {
        return None;
    }

    let each: Vec<_> = brokers
        .iter()
        .map(|b| unreachable(bootstrap, std::slice::from_ref(b)))
        .collect();
    each.into_iter()
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .next()
}

/// An address that a broker advertises and that is unreachable from here.
fn unreachable(bootstrap: &str, brokers: &[(i32, String, i32)]) -> Option<String> {
    brokers.iter().take(BROKERS_MAX).find_map(|(id, host, port)| {
        let why = connect(host, *port).err()?;
        Some(format!(
            "the brokers answer at {bootstrap}, but broker {id} gives {host}:{port} as its address (advertised.listeners), and that cannot be \
             reached from here ({why}): if the broker is down, start it; else correct its advertised.listeners, or the name service or firewall between"
        ))
    })
}

fn connect(host: &str, port: i32) -> Result<(), String> {
    let port = u16::try_from(port).map_err(|_| "that is no port".to_string())?;
    let all: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|e| e.to_string())?
        .collect();
    let mut why = "the name has no address".to_string();
    for address in all {
        match TcpStream::connect_timeout(&address, WAIT) {
            Ok(_) => return Ok(()),
            Err(e) => why = e.to_string(),
        }
    }

    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_topic_that_wants_more_brokers_than_there_are_is_named() {
        let settings = |factor: &str, n: &str| BrokerSettings::from([(factor.into(), n.into())]);
        let kind = &INTERNAL[0];
        let said = impossible(kind, &settings(kind.factor, "3"), 1).expect("one broker");
        assert!(said.contains("3 replicas"), "{said}");
        assert_eq!(impossible(kind, &settings(kind.factor, "1"), 1), None);
        assert_eq!(impossible(kind, &settings("other", "3"), 1), None);
    }

    #[test]
    fn an_address_that_leads_nowhere_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = i32::from(listener.local_addr().expect("its address").port());
        assert_eq!(unreachable("b:1", &[(1, "127.0.0.1".into(), port)]), None);
        drop(listener);
        let said = unreachable("b:1", &[(7, "127.0.0.1".into(), port)]).expect("nobody listens");
        assert!(
            said.contains("broker 7")
                && said.contains("advertised.listeners")
                && said.contains("refused"),
            "{said}"
        );
        let said =
            unreachable("b:1", &[(7, "no.such.host.invalid".into(), port)]).expect("no such name");
        assert!(said.contains("no.such.host.invalid"), "{said}");
    }
}
