//! Requirements for topics and brokers, the cost of each wrong setting, and the settings that a
//! program may correct. Only tables: [`super::survey`] queries the cluster.
//!
//! An *error* is a setting that breaks a promise: the cluster deletes records or state, the time is
//! not the broker's, no transaction can begin, or a role would retry for ever. With a *warning* the
//! promise holds until another failure happens.

use std::collections::BTreeMap;
use std::time::Duration;

use ports::topics::{Cleanup, Severity, TopicSpec};

/// Settings of a topic or broker, by name. Settings that a broker's version does not have are
/// absent and not reported.
pub(super) type BrokerSettings = BTreeMap<String, String>;

/// Kafka's value for "no bound" of a time.
pub(super) const UNBOUNDED: &str = "9223372036854775807";
/// Kafka's own bound for timestamps ahead of a broker's clock. Ordinary clock errors exceed a
/// shorter bound.
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A wrong setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) severity: Severity,
    pub(super) text: String,
    /// The setting and the value that correct the problem without loss of data.
    pub(super) fix: Option<(&'static str, String)>,
}

fn error(text: String, fix: Option<(&'static str, String)>) -> Misfit {
    Misfit {
        severity: Severity::Error,
        text,
        fix,
    }
}

fn warning(text: String, fix: Option<(&'static str, String)>) -> Misfit {
    Misfit {
        severity: Severity::Warning,
        text,
        fix,
    }
}

pub(super) fn cleanup(spec: &TopicSpec) -> &'static str {
    match spec.cleanup {
        Cleanup::Keep => "delete",
        Cleanup::Compact => "compact",
    }
}

pub(super) fn timestamps(spec: &TopicSpec) -> &'static str {
    if spec.append_time {
        "LogAppendTime"
    } else {
        "CreateTime"
    }
}

/// Number of replicas that must have a record before the acknowledgement: all but one. One replica
/// may then be lost or down.
pub(super) fn insync(replicas: usize) -> usize {
    replicas.saturating_sub(1).max(1)
}

/// The settings of a new topic, without `min.insync.replicas`, which depends on the number of
/// replicas.
pub(super) fn wanted(spec: &TopicSpec) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("cleanup.policy", cleanup(spec).to_string()),
        ("message.timestamp.type", timestamps(spec).to_string()),
        ("max.message.bytes", spec.record_bytes_max.to_string()),
        ("unclean.leader.election.enable", "false".to_string()),
    ];
    if spec.cleanup == Cleanup::Keep {
        all.extend([
            ("retention.ms", "-1".to_string()),
            ("retention.bytes", "-1".to_string()),
        ]);
    }

    if !spec.append_time {
        all.extend(BOUNDS.map(|name| (name, UNBOUNDED.to_string())));
    }

    all
}

/// Bounds of a record's timestamp, behind and ahead of the broker's clock.
const BOUNDS: [&str; 2] = [
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
];

/// Compares a topic with its requirements. `replicas`: number of replicas of its weakest partition.
pub(super) fn of_topic(
    spec: &TopicSpec,
    replicas: usize,
    settings: &BrokerSettings,
) -> Vec<Misfit> {
    let mut check = SettingsCheck {
        settings,
        all: Vec::new(),
    };

    check.history(spec);
    check.largest_record(i64::from(spec.record_bytes_max));
    let number = |name: &str| number(settings, name);
    let mut all = check.all;
    if !spec.append_time {
        all.extend(BOUNDS.iter().filter_map(|name| bound(name, number(name)?)));
        all.extend(
            number("message.timestamp.difference.max.ms")
                .and_then(|ms| bound("message.timestamp.difference.max.ms", ms)),
        );
    }

    all.extend(replication(
        replicas,
        number("min.insync.replicas").and_then(|n| usize::try_from(n).ok()),
    ));
    if spec.cleanup == Cleanup::Compact {
        let ratio = settings.get("min.cleanable.dirty.ratio");
        all.extend(compaction(&number, ratio.map(String::as_str)));
    }

    all
}

fn number(settings: &BrokerSettings, name: &str) -> Option<i64> {
    settings.get(name).and_then(|v| v.parse::<i64>().ok())
}

/// The settings of one topic, and the misfits found so far.
struct SettingsCheck<'a> {
    settings: &'a BrokerSettings,
    all: Vec<Misfit>,
}

impl SettingsCheck<'_> {
    /// A setting that must have exactly one value. `cost`: the consequence of another value.
    fn must(&mut self, name: &'static str, wanted: &str, cost: &str) {
        if let Some(found) = self.settings.get(name).filter(|found| *found != wanted) {
            self.all.push(error(
                format!("{name} is {found}, must be {wanted}: {cost}"),
                Some((name, wanted.to_string())),
            ));
        }
    }

    /// A setting whose larger values do no harm. `fix`: the value that a repair sets.
    fn at_least(&mut self, name: &'static str, least: i64, fix: String, cost: &str) {
        if let Some(found) = number(self.settings, name).filter(|found| *found < least) {
            self.all.push(error(
                format!("{name} is {found}, must be at least {least}: {cost}"),
                Some((name, fix)),
            ));
        }
    }

    /// Records must stay, with the right times, whatever broker fails.
    fn history(&mut self, spec: &TopicSpec) {
        self.must(
            "cleanup.policy",
            cleanup(spec),
            match spec.cleanup {
                Cleanup::Keep => {
                    "records that have the same key are thrown away, and with them history that nothing brings back"
                }
                Cleanup::Compact => {
                    "the last record of a key is deleted after the retention time, and with it state that nothing brings back"
                }
            },
        );

        self.must(
            "message.timestamp.type",
            timestamps(spec),
            if spec.append_time {
                "clients choose the time that rate limits, deadlines and the age of prices go by"
            } else {
                "records lose the time of the command that caused them"
            },
        );

        if spec.cleanup == Cleanup::Keep {
            for name in ["retention.ms", "retention.bytes"] {
                self.must(
                    name,
                    "-1",
                    "older records are deleted, and with them what a role or a replay has not read",
                );
            }
        }

        self.must(
            "unclean.leader.election.enable",
            "false",
            "a replica that misses acknowledged records may become the leader, and they are gone",
        );
    }

    /// The topic must take the largest record of the roles.
    fn largest_record(&mut self, bytes: i64) {
        let refused =
            "brokers refuse the largest records that roles write, and the role stops there";
        self.at_least("max.message.bytes", bytes, bytes.to_string(), refused);
        self.at_least("segment.bytes", bytes + 1_024, "1073741824".into(), refused);
    }
}

/// Checks the timestamp bounds of a topic whose timestamps come from roles. The timestamp of an
/// output is the time of the command that caused the output.
fn bound(name: &'static str, ms: i64) -> Option<Misfit> {
    if ms == i64::MAX {
        return None;
    }

    let fix = Some((name, UNBOUNDED.to_string()));
    let head = format!("{name} is {ms}, must be {UNBOUNDED}");
    if name == BOUNDS[1] && ms >= HOUR_MS {
        let cost = "a broker's clock that is further ahead for a moment stops the roles until the real time has caught up";
        return Some(warning(format!("{head}: {cost}"), fix));
    }

    let cost = if name == BOUNDS[1] {
        "a broker's clock that is a little ahead stops the roles until the real time has caught up"
    } else {
        "roles that are down or behind for longer cannot write any more, and recover without end"
    };

    Some(error(format!("{head}: {cost}"), fix))
}

/// Checks the number of replicas, and the number of in-sync replicas for a write.
fn replication(replicas: usize, insync_min: Option<usize>) -> Vec<Misfit> {
    let mut all = Vec::new();
    match replicas {
        // The number is unknown.
        0 => return all,
        1 => all.push(warning(
            "has 1 replica: a broker that is down stops the roles, and a disk that is lost takes the records along".into(),
            None,
        )),
        2 => all.push(warning("has 2 replicas: after one is lost the other one is the only copy of acknowledged records".into(), None)),
        _ => {}
    }

    let fix = Some(("min.insync.replicas", insync(replicas).to_string()));
    match insync_min {
        Some(n) if n > replicas => {
            let cost =
                "brokers before Kafka 3.7 acknowledge no write, later ones take it for that number";
            all.push(warning(format!("min.insync.replicas is {n}, must be at most {replicas}, the number of replicas: {cost}"), fix));
        }
        Some(n) if n == replicas && n > 1 => {
            all.push(warning(
                format!("min.insync.replicas is {n}, as many as there are replicas: one broker that is down stops the roles"),
                fix,
            ));
        }
        Some(n) if n < 2 && replicas > 2 => {
            let cost = "a record that is acknowledged may be on one broker alone, and is lost with that broker's disk";
            all.push(warning(
                format!("min.insync.replicas is {n}, must be at least 2: {cost}"),
                fix,
            ));
        }
        _ => {}
    }

    all
}

/// Settings under which a compacted topic is compacted never, or too soon.
fn compaction(number: &dyn Fn(&str) -> Option<i64>, dirty_ratio: Option<&str>) -> Vec<Misfit> {
    let mut all = Vec::new();
    if let Some(ms) = number("min.compaction.lag.ms").filter(|ms| *ms > 7 * DAY_MS) {
        let cost = "the topic grows without end, and so does the time of a restore";
        all.push(warning(
            format!("min.compaction.lag.ms is {ms}: {cost}"),
            Some(("min.compaction.lag.ms", "0".into())),
        ));
    }

    if let Some(ratio) = dirty_ratio.filter(|v| {
        v.parse::<u8>().is_ok_and(|n| n >= 1) || v.starts_with("1.") || v.starts_with("0.99")
    }) {
        let cost = "the topic is never compacted, and grows without end";
        all.push(warning(
            format!("min.cleanable.dirty.ratio is {ratio}: {cost}"),
            Some(("min.cleanable.dirty.ratio", "0.5".into())),
        ));
    }

    if let Some(ms) = number("segment.ms").filter(|ms| *ms > 30 * DAY_MS) {
        let cost = "a segment is compacted only after it was closed, so a quiet topic keeps all records for that long";
        all.push(warning(
            format!("segment.ms is {ms}: {cost}"),
            Some(("segment.ms", (7 * DAY_MS).to_string())),
        ));
    }

    if let Some(ms) = number("delete.retention.ms").filter(|ms| *ms < HOUR_MS) {
        let cost =
            "a restore that takes longer misses deletions, finds a wrong digest and begins anew";
        all.push(warning(
            format!("delete.retention.ms is {ms}, must be at least {HOUR_MS}: {cost}"),
            Some(("delete.retention.ms", DAY_MS.to_string())),
        ));
    }

    all
}

/// Requirements of the program for brokers.
pub(super) struct Needs {
    pub(super) session: Duration,
    pub(super) transaction: Duration,
}

/// Compares a broker with the requirements of roles.
pub(super) fn of_broker(needs: &Needs, settings: &BrokerSettings) -> Vec<Misfit> {
    let mut all = Vec::new();
    let number = |name: &str| settings.get(name).and_then(|v| v.parse::<i64>().ok());
    let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let session = millis(needs.session);
    let transaction = millis(needs.transaction);
    if let Some(ms) = number("group.min.session.timeout.ms").filter(|ms| *ms > session) {
        all.push(error(
            format!("group.min.session.timeout.ms is {ms}, above the roles' session.timeout.ms ({session}): no role can join its group"),
            None,
        ));
    }

    if let Some(ms) = number("group.max.session.timeout.ms").filter(|ms| *ms < session) {
        all.push(error(
            format!("group.max.session.timeout.ms is {ms}, below the roles' session.timeout.ms ({session}): no role can join its group"),
            None,
        ));
    }

    if let Some(ms) = number("transaction.max.timeout.ms").filter(|ms| *ms < transaction) {
        all.push(error(
            format!("transaction.max.timeout.ms is {ms}, must be at least {transaction}: no role can begin a transaction"),
            None,
        ));
    }

    if let Some(bytes) = number("socket.request.max.bytes").filter(|bytes| *bytes < 4 << 20) {
        let cost = "the broker closes the connection on a large request, and the role tries again without end";
        all.push(error(
            format!(
                "socket.request.max.bytes is {bytes}, must be at least {}: {cost}",
                4 << 20
            ),
            None,
        ));
    }

    if let Some(minutes) =
        number("offsets.retention.minutes").filter(|minutes| *minutes < 7 * 24 * 60)
    {
        let cost = "the brokers forget the reading positions of a role that is down for longer";
        all.push(warning(
            format!("offsets.retention.minutes is {minutes}, less than a week (10080): {cost}"),
            None,
        ));
    }

    if settings
        .get("log.cleaner.enable")
        .is_some_and(|v| v == "false")
    {
        all.push(warning("log.cleaner.enable is false: compacted topics grow without end, and so does the time of a restore".into(), None));
    }

    all
}

/// Compares an internal topic of Kafka (committed offsets, transactions) with the requirements of
/// roles. `brokers`: number of brokers. If the topic does not exist yet, `settings` are a broker's
/// defaults for the topic.
pub(super) fn of_internal(
    kind: Internal,
    replicas: Option<usize>,
    brokers: usize,
    settings: &BrokerSettings,
) -> Vec<Misfit> {
    let mut all = Vec::new();
    let number = |name: &str| settings.get(name).and_then(|v| v.parse::<usize>().ok());
    let Some(replicas) = replicas else {
        if let Some(n) = number(kind.factor).filter(|n| *n > brokers) {
            all.push(warning(
                format!(
                    "{} does not exist yet, the brokers want it with {n} replicas ({}), and {brokers} of them {} there: roles wait for the others",
                    kind.name,
                    kind.factor,
                    if brokers == 1 { "is" } else { "are" }
                ),
                None,
            ));
        }

        return all;
    };

    if replicas < 3 {
        let s = if replicas == 1 { "" } else { "s" };
        let lost = kind.lost;
        all.push(warning(
            format!(
                "{} has {replicas} replica{s}: a cluster that loses them loses {lost}",
                kind.name
            ),
            None,
        ));
    }

    if settings
        .get("unclean.leader.election.enable")
        .is_some_and(|v| v == "true")
    {
        all.push(error(
            format!("unclean.leader.election.enable of {} is true, must be false: the cluster may lose {}", kind.name, kind.lost),
            None,
        ));
    }

    if settings
        .get("cleanup.policy")
        .is_some_and(|v| !v.contains("compact") || v.contains("delete"))
    {
        all.push(error(
            format!(
                "cleanup.policy of {} must be compact: the cluster loses {}",
                kind.name, kind.lost
            ),
            None,
        ));
    }

    all
}

/// An internal topic of Kafka.
#[derive(Clone, Copy)]
pub(super) struct Internal {
    pub(super) name: &'static str,
    pub(super) factor: &'static str,
    lost: &'static str,
}

pub(super) const INTERNAL: [Internal; 2] = [
    Internal {
        name: "__consumer_offsets",
        factor: "offsets.topic.replication.factor",
        lost: "the reading positions of roles",
    },
    Internal {
        name: "__transaction_state",
        factor: "transaction.state.log.replication.factor",
        lost: "the outcome of transactions",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use wire::topics;

    fn settings(pairs: &[(&str, &str)]) -> BrokerSettings {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_string(), (*v).to_string()))
            .collect()
    }

    fn fitting(spec: &TopicSpec) -> BrokerSettings {
        let mut all: BrokerSettings = wanted(spec)
            .into_iter()
            .map(|(k, v)| (k.to_string(), v))
            .collect();
        all.insert("min.insync.replicas".into(), "2".into());
        all
    }

    /// Each wrong setting alone, on an otherwise correct topic: the finding, its severity, and the
    /// fix.
    #[test]
    fn each_wrong_setting_is_named_with_its_cost() {
        const KEEP_OURS: usize = 3;
        const KEEP_INPUT: usize = 0;
        const COMPACT: usize = 12;
        let table = topics::table("");
        let specs: Vec<_> = table.iter().map(|t| table.spec(t).clone()).collect();
        use Severity::{Error, Warning};
        for (topic, name, value, severity) in [
            (KEEP_OURS, "cleanup.policy", "compact", Error),
            (KEEP_OURS, "cleanup.policy", "compact,delete", Error),
            (COMPACT, "cleanup.policy", "delete", Error),
            (COMPACT, "cleanup.policy", "compact,delete", Error),
            (KEEP_INPUT, "message.timestamp.type", "CreateTime", Error),
            (KEEP_OURS, "message.timestamp.type", "LogAppendTime", Error),
            (KEEP_INPUT, "retention.ms", "604800000", Error),
            (KEEP_OURS, "retention.bytes", "1000", Error),
            (COMPACT, "unclean.leader.election.enable", "true", Error),
            (KEEP_OURS, "max.message.bytes", "1000000", Error),
            (KEEP_OURS, "segment.bytes", "1048576", Error),
            (KEEP_OURS, "message.timestamp.before.max.ms", "60000", Error),
            (COMPACT, "message.timestamp.before.max.ms", "60000", Error),
            (
                KEEP_OURS,
                "message.timestamp.difference.max.ms",
                "60000",
                Error,
            ),
            (KEEP_OURS, "message.timestamp.after.max.ms", "60000", Error),
            (
                KEEP_OURS,
                "message.timestamp.after.max.ms",
                "3600000",
                Warning,
            ),
            (KEEP_OURS, "min.insync.replicas", "4", Warning),
            (KEEP_OURS, "min.insync.replicas", "3", Warning),
            (KEEP_OURS, "min.insync.replicas", "1", Warning),
            (COMPACT, "min.compaction.lag.ms", UNBOUNDED, Warning),
            (COMPACT, "min.cleanable.dirty.ratio", "1.0", Warning),
            (COMPACT, "segment.ms", UNBOUNDED, Warning),
            (COMPACT, "delete.retention.ms", "0", Warning),
        ] {
            let mut all = fitting(&specs[topic]);
            assert_eq!(
                of_topic(&specs[topic], 3, &all),
                [],
                "{}",
                specs[topic].name
            );
            all.insert(name.into(), value.into());
            let found = of_topic(&specs[topic], 3, &all);
            let [one] = &found[..] else {
                panic!("{name}={value}: {found:?}")
            };

            assert_eq!(one.severity, severity, "{}", one.text);
            assert!(
                one.text.contains(name) && one.text.contains(value) && one.text.contains(": "),
                "{}",
                one.text
            );

            // With the fix applied, the topic is correct again.
            let (fixed, to) = one
                .fix
                .clone()
                .expect("all of these can be changed without a loss");
            all.insert(fixed.into(), to);
            assert_eq!(of_topic(&specs[topic], 3, &all), [], "after {fixed}");
        }
    }

    #[test]
    fn bounds_do_not_matter_where_the_broker_stamps() {
        let table = topics::table("");
        let spec = table.spec(topics::ORDER_COMMANDS);
        let mut all = fitting(spec);
        all.insert("message.timestamp.after.max.ms".into(), "3600000".into());
        assert_eq!(of_topic(spec, 3, &all), []);
    }

    #[test]
    fn few_replicas_are_warned_about_and_impossible_ones_refused() {
        let said = |replicas, insync| {
            replication(replicas, Some(insync))
                .into_iter()
                .map(|f| (f.severity, f.fix.map(|(_, v)| v)))
                .collect::<Vec<_>>()
        };

        use Severity::Warning;
        assert_eq!(said(3, 2), []);
        assert_eq!(said(5, 4), []);
        assert_eq!(said(1, 1), [(Warning, None)]);
        assert_eq!(said(1, 2), [(Warning, None), (Warning, Some("1".into()))]);
        assert_eq!(said(2, 1), [(Warning, None)]);
        assert_eq!(said(2, 2), [(Warning, None), (Warning, Some("1".into()))]);
        assert_eq!(said(0, 2), [], "unknown");
    }

    #[test]
    fn brokers_that_no_role_can_work_on_are_named() {
        let needs = Needs {
            session: Duration::from_secs(10),
            transaction: Duration::from_secs(20),
        };

        let good = [
            ("group.min.session.timeout.ms", "6000"),
            ("group.max.session.timeout.ms", "1800000"),
            ("transaction.max.timeout.ms", "900000"),
            ("offsets.retention.minutes", "10080"),
            ("socket.request.max.bytes", "104857600"),
        ];

        assert_eq!(of_broker(&needs, &settings(&good)), []);
        use Severity::{Error, Warning};
        for (name, value, severity) in [
            ("group.min.session.timeout.ms", "20000", Error),
            ("group.max.session.timeout.ms", "8000", Error),
            ("transaction.max.timeout.ms", "10000", Error),
            ("socket.request.max.bytes", "1000000", Error),
            ("offsets.retention.minutes", "1440", Warning),
            ("log.cleaner.enable", "false", Warning),
        ] {
            let found = of_broker(&needs, &settings(&[(name, value)]));
            assert!(
                found.len() == 1 && found[0].severity == severity && found[0].text.contains(name),
                "{found:?}"
            );
        }
    }

    #[test]
    fn kafkas_own_topics_are_looked_at_too() {
        let factor = settings(&[("transaction.state.log.replication.factor", "3")]);
        let found = of_internal(INTERNAL[1], None, 1, &factor);
        assert!(
            found[0].text.contains("3 replicas") && found[0].text.contains("1 of them is there"),
            "{found:?}"
        );
        assert_eq!(of_internal(INTERNAL[1], None, 3, &factor), []);
        let good = settings(&[
            ("min.insync.replicas", "2"),
            ("unclean.leader.election.enable", "false"),
            ("cleanup.policy", "compact"),
        ]);
        assert_eq!(of_internal(INTERNAL[0], Some(3), 3, &good), []);
        for (name, value) in [
            ("unclean.leader.election.enable", "true"),
            ("cleanup.policy", "delete"),
        ] {
            let found = of_internal(INTERNAL[0], Some(3), 3, &settings(&[(name, value)]));
            assert!(
                found[0].severity == Severity::Error && found[0].text.contains(name),
                "{found:?}"
            );
        }
    }
}
