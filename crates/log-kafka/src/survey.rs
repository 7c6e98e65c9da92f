//! Checks the settings of all topics and brokers, and changes settings of topics.
//!
//! One query covers all topics, and one query goes to each broker, so a start costs few round
//! trips. A program without permission reports the missing right and goes on: a role can run
//! without these answers, and only the warning must come in time.

use std::collections::BTreeMap;
use std::time::Instant;

use ports::LogError;
use ports::topics::{Finding, Severity, TopicId, TopicTable};
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

struct Shape {
    /// Replicas of the topic's weakest partition.
    replicas: usize,
    /// Ids of the brokers in the cluster.
    brokers: Vec<i32>,
}

/// Maximum number of brokers to query. All brokers nearly always have the same settings.
const BROKERS_MAX: usize = 32;

impl Admin<'_> {
    /// Wrong settings of topics and brokers. Missing topics are not reported.
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

        // Internal topics of Kafka. Without permission to see these topics, nothing is reported.
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

        // Dropping the client takes up to 100 ms, because the client checks for its end ten times a
        // second.
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

    /// Wrong settings of brokers. The same finding on several brokers is reported once.
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

    /// Number of replicas of the topic's weakest partition.
    pub(super) fn replicas(&self, name: &str) -> Result<usize, LogError> {
        Ok(self.shape(name)?.map_or(0, |shape| shape.replicas))
    }

    /// The settings of topics, in the order of `names`.
    pub(super) fn describe(
        &self,
        names: &[&str],
    ) -> Result<Vec<Result<BrokerSettings, Code>>, LogError> {
        let admin = self.admin()?;
        let answers = self.describe_by(&admin, names);
        watchdog::drop_aside("closing a client", admin);
        answers.map_err(|e| failed(self, &e, || None))
    }

    /// The settings of a topic, for the search for a failure's cause. This function must not start
    /// a search for its own failure.
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
                // The broker was reachable a moment ago. Its settings are not worth a wait.
                Err(KafkaError::AdminOp(code)) => all.push((id, Err(code))),
                Err(e) => all.push((id, Err(e.rdkafka_error_code().unwrap_or(Code::Unknown)))),
            }
        }

        all
    }

    /// Sets these settings of a topic, and leaves all other settings as they are.
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

/// Adds the cause to a failure, if the cluster's metadata shows a cause.
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

/// The unreachable address, if all brokers advertise unreachable addresses.
pub(super) fn nowhere(settings: &KafkaSettings) -> Option<String> {
    Admin {
        settings,
        askers: &Askers::default(),
    }
    .nowhere()
}

/// Judges a record without the broker's timestamp. A topic that still accepts client timestamps
/// stops the role. A topic with corrected settings still has records from before the correction,
/// and those records go to `dead-letters`.
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

/// The settings in an answer. rdkafka drops the error of a resource and returns an empty list.
/// Every topic and every broker has settings, so an empty list means a refusal.
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
