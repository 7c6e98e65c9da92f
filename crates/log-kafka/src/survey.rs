//! Looks at the settings of all topics and brokers, and changes those of topics.
//!
//! One question about all topics together and one to each broker, so that a start costs a few round
//! trips. Whoever may not ask is told which right is missing, and goes on: a role needs none of
//! these answers to be exact, only to be told in time.

use std::collections::BTreeMap;
use std::time::Instant;

use rdkafka::admin::{AdminClient, ConfigResource, ResourceSpecifier};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::admin::{Admin, Askers, Who, block_on, failed, stale};
use super::config::KafkaSettings;
use super::ffi::{self, ClientHandle};
use super::refused::forbidden;
use super::requirements::{self as req, BrokerSettings, Misfit, Needs};
use super::stale_requests::Quiet;
use super::watchdog;
use ports::LogError;
use ports::topics::{Finding, Severity, TopicId, TopicTable};

/// The shape of a topic.
struct Shape {
    /// Replicas of its weakest partition.
    replicas: usize,
    /// The brokers that are there.
    brokers: Vec<i32>,
}

/// More brokers are not asked: their settings are as good as always those of the others.
const BROKERS_MAX: usize = 32;

impl Admin<'_> {
    /// The settings of topics and brokers that do not fit. Topics that do not exist are not spoken
    /// of.
    pub(super) fn findings(&self, topics: &TopicTable) -> Result<Vec<Finding>, LogError> {
        let _guard = watchdog::exit_after(
            "looking at the cluster's settings",
            self.settings.request_wait * 6 + self.settings.stuck_after,
        );
        if let Some(id) = topics.iter().next() {
            self.reach(topics.name(id))?;
        }

        let mut there = Vec::new();
        let mut brokers = Vec::new();
        for id in topics.iter() {
            if let Some(shape) = self.shape(topics.name(id))? {
                there.push((id, shape.replicas));
                brokers = shape.brokers;
            }
        }

        // Kafka's own topics: not everybody may see them, and then there is nothing to say.
        let internal: Vec<_> = req::INTERNAL
            .into_iter()
            .filter_map(|kind| Some((kind, self.shape(kind.name).ok()?)))
            .collect();
        let mut names: Vec<_> = there.iter().map(|(id, _)| topics.name(*id)).collect();
        names.extend(
            internal
                .iter()
                .filter(|(_, shape)| shape.is_some())
                .map(|(kind, _)| kind.name),
        );
        let admin = self.admin()?;
        let answers = self.describe_by(&admin, &names);
        let of_brokers = self.describe_brokers(&admin, &brokers);

        // The client looks for its end only ten times a second.
        watchdog::drop_aside("closing a client", admin);
        let mut answers = answers.map_err(|e| failed(self, &e, || None))?.into_iter();
        let mut all = Vec::new();
        for ((id, replicas), answer) in there.iter().zip(answers.by_ref()) {
            let found = match answer {
                Ok(settings) => req::of_topic(topics.spec(*id), *replicas, &settings),
                Err(code) => vec![unreadable(
                    "DescribeConfigs on the topic",
                    code,
                    Severity::Unknown,
                )],
            };

            all.extend(
                found
                    .into_iter()
                    .map(|f| finding(Some(*id), topics.name(*id), f)),
            );
        }

        let any = of_brokers
            .iter()
            .find_map(|(_, answer)| answer.as_ref().ok())
            .cloned()
            .unwrap_or_default();
        all.extend(self.of_brokers(of_brokers));
        for (kind, shape) in internal {
            let settings = if shape.is_some() {
                answers.next().and_then(Result::ok).unwrap_or_default()
            } else {
                any.clone()
            };

            let found = req::of_internal(kind, shape.map(|s| s.replicas), brokers.len(), &settings);
            all.extend(found.into_iter().map(|f| finding(None, "brokers", f)));
        }

        Ok(all)
    }

    /// The settings of brokers that do not fit; the same of several is said once.
    fn of_brokers(&self, answers: Vec<(i32, Result<BrokerSettings, Code>)>) -> Vec<Finding> {
        let needs = Needs {
            session: self.settings.session(),
            transaction: self.settings.transaction_timeout,
        };

        let mut said: BTreeMap<String, (Misfit, Vec<String>)> = BTreeMap::new();
        for (id, answer) in answers {
            let found = match answer {
                Ok(settings) => req::of_broker(&needs, &settings),
                Err(code) => vec![unreadable(
                    "DescribeConfigs on the cluster",
                    code,
                    Severity::Warning,
                )],
            };

            for f in found {
                said.entry(f.text.clone())
                    .or_insert((f, Vec::new()))
                    .1
                    .push(id.to_string());
            }
        }

        said.into_values()
            .map(|(f, ids)| finding(None, &format!("broker {}", ids.join(", ")), f))
            .collect()
    }

    fn shape(&self, name: &str) -> Result<Option<Shape>, LogError> {
        let wait = self.settings.request_wait;
        self.ask(&Who::Everything, &|| false, |c| {
            let metadata = c.fetch_metadata(Some(name), wait)?;
            let Some(found) = metadata.topics().iter().find(|t| t.name() == name) else {
                return Ok(None);
            };

            match found.error().map(Code::from) {
                None => {}
                Some(code) if stale(code) => return Ok(None),
                Some(code) => return Err(KafkaError::MetadataFetch(code)),
            }

            let replicas = found
                .partitions()
                .iter()
                .map(|p| p.replicas().len())
                .min()
                .unwrap_or(0);
            Ok(Some(Shape {
                replicas,
                brokers: metadata
                    .brokers()
                    .iter()
                    .map(rdkafka::metadata::MetadataBroker::id)
                    .collect(),
            }))
        })
    }

    /// How many replicas the weakest partition of a topic has.
    pub(super) fn replicas(&self, name: &str) -> Result<usize, LogError> {
        Ok(self.shape(name)?.map_or(0, |shape| shape.replicas))
    }

    /// The settings of topics, in their order.
    pub(super) fn describe(
        &self,
        names: &[&str],
    ) -> Result<Vec<Result<BrokerSettings, Code>>, LogError> {
        let admin = self.admin()?;
        let answers = self.describe_by(&admin, names);
        watchdog::drop_aside("closing a client", admin);
        answers.map_err(|e| failed(self, &e, || None))
    }

    /// The same for those who look for the cause of a failure, and must not look for the cause of
    /// their own.
    pub(super) fn settings_of(&self, name: &str) -> BrokerSettings {
        let Ok(admin) = self.admin() else {
            return BrokerSettings::new();
        };

        let answers = self.describe_by(&admin, &[name]);
        watchdog::drop_aside("closing a client", admin);
        answers
            .ok()
            .and_then(|mut all| all.pop())
            .and_then(Result::ok)
            .unwrap_or_default()
    }

    fn describe_by(
        &self,
        admin: &AdminClient<Quiet>,
        names: &[&str],
    ) -> Result<Vec<Result<BrokerSettings, Code>>, KafkaError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }

        let asked: Vec<_> = names
            .iter()
            .map(|name| ResourceSpecifier::Topic(name))
            .collect();
        let answers = block_on(admin.describe_configs(&asked, &self.options()))?;
        Ok(answers
            .into_iter()
            .map(|answer| readable(answer, Code::TopicAuthorizationFailed))
            .collect())
    }

    pub(super) fn describe_brokers(
        &self,
        admin: &AdminClient<Quiet>,
        brokers: &[i32],
    ) -> Vec<(i32, Result<BrokerSettings, Code>)> {
        let mut all = Vec::new();
        let deadline = Instant::now() + self.settings.request_wait;
        for &id in brokers.iter().take(BROKERS_MAX) {
            if Instant::now() >= deadline {
                break;
            }

            let answer =
                block_on(admin.describe_configs(&[ResourceSpecifier::Broker(id)], &self.options()));
            match answer.map(|mut answers| answers.pop()) {
                Ok(Some(answer)) => {
                    all.push((id, readable(answer, Code::ClusterAuthorizationFailed)))
                }
                Ok(None) => {}
                // The broker was there a moment ago; its own settings are no reason to wait for it.
                Err(KafkaError::AdminOp(code)) => all.push((id, Err(code))),
                Err(e) => all.push((id, Err(e.rdkafka_error_code().unwrap_or(Code::Unknown)))),
            }
        }

        all
    }

    /// Gives a topic these settings and leaves its others as they are.
    pub(super) fn alter_topic(&self, name: &str, changes: &[(&str, &str)]) -> Result<(), LogError> {
        let _guard = watchdog::exit_after(
            "changing a topic",
            self.settings.request_wait * 2 + self.settings.stuck_after,
        );
        let admin = self.admin()?;
        let outcome = ffi::alter_topic(
            ClientHandle::of(admin.inner()),
            name,
            changes,
            self.settings.request_wait,
        );
        watchdog::drop_aside("closing a client", admin);
        outcome.map_err(|(code, text)| match code {
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => forbidden(
                &format!("changing {name}: the right AlterConfigs on it is missing"),
            ),
            Code::PolicyViolation
            | Code::InvalidConfig
            | Code::InvalidRequest
            | Code::UnknownTopicOrPartition => {
                LogError::Invalid(format!("the brokers refuse to change {name}: {text}"))
            }
            _ => LogError::Unavailable(format!("changing {name}: {text} ({code})")),
        })
    }
}

/// Adds to a failure what the cluster's metadata says about it.
pub(super) fn diagnosed(settings: &KafkaSettings, why: String, topics: &[&str]) -> String {
    let admin = Admin {
        settings,
        askers: &Askers::default(),
    };

    match admin.diagnose(topics) {
        Some(cause) => format!("{why}; {cause}"),
        None => why,
    }
}

/// The address that all brokers give for themselves and that leads nowhere, if that is so.
pub(super) fn nowhere(settings: &KafkaSettings) -> Option<String> {
    Admin {
        settings,
        askers: &Askers::default(),
    }
    .nowhere()
}

/// The meaning of a record without the broker's time. A topic that is still told to take the
/// clients' time stops the role; one that is right again has records of the time when that was not
/// so, which go to `dead-letters`.
pub(super) fn judge_unstamped(
    settings: &KafkaSettings,
    topic: &str,
    partition: u32,
    offset: u64,
) -> Result<(), LogError> {
    let admin = Admin {
        settings,
        askers: &Askers::default(),
    };

    match admin
        .settings_of(topic)
        .get("message.timestamp.type")
        .filter(|kind| *kind != "LogAppendTime")
    {
        Some(kind) => Err(LogError::Invalid(format!(
            "the record {topic}/{partition}/{offset} has a time that its client chose: message.timestamp.type of {topic} is {kind}, must be \
             LogAppendTime. Run `processor topics create --fix` with the same --partitions and --topic-prefix, then start again: records with such a \
             time go to dead-letters (NO_LOG_TIME), all others are processed"
        ))),
        None => {
            tracing::warn!(
                "the record {topic}/{partition}/{offset}, and perhaps others, have a time that their clients chose, because the topic's \
                 message.timestamp.type was CreateTime; they go to dead-letters (NO_LOG_TIME)"
            );
            Ok(())
        }
    }
}

/// The settings in an answer. rdkafka drops the error of a resource and hands over an empty list;
/// every topic and every broker has settings, so an empty list is a refusal.
fn readable(answer: Result<ConfigResource, Code>, refused: Code) -> Result<BrokerSettings, Code> {
    answer.map(entries).and_then(|found| {
        if found.is_empty() {
            Err(refused)
        } else {
            Ok(found)
        }
    })
}

fn entries(resource: ConfigResource) -> BrokerSettings {
    resource
        .entries
        .into_iter()
        .map(|e| (e.name, e.value.unwrap_or_default()))
        .collect()
}

fn unreadable(right: &str, code: Code, severity: Severity) -> Misfit {
    let text = match code {
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            format!("the settings cannot be looked at, because the right {right} is missing")
        }
        _ => format!("the settings cannot be looked at: {code}"),
    };

    Misfit {
        severity,
        text,
        fix: None,
    }
}

fn finding(topic: Option<TopicId>, subject: &str, f: Misfit) -> Finding {
    Finding {
        topic,
        subject: subject.to_string(),
        severity: f.severity,
        text: f.text,
        fix: f.fix,
    }
}
