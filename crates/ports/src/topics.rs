//! Topics in the engine: small numbers into a table from the wire contract. Names matter only at
//! the edges.

use std::fmt;

/// A topic, as an index of the [`TopicTable`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicId(pub u16);

/// One partition of one topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    pub topic: TopicId,
    pub partition: u32,
}

impl TopicPartition {
    pub const fn new(topic: TopicId, partition: u32) -> Self {
        TopicPartition { topic, partition }
    }
}

/// Number of partitions of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Partitions {
    /// The number chosen at the creation of the topics, equal for all topics of this kind.
    Many,
    /// Always one partition, for broadcast tables.
    One,
}

/// Retention rule for old records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cleanup {
    /// Keep all records for ever.
    Keep,
    /// Keep the last record of each key.
    Compact,
}

/// Requirements of a topic. `topics create` applies them, and `topics check` compares them.
#[derive(Clone, Debug)]
pub struct TopicSpec {
    /// Name without the prefix.
    pub name: &'static str,
    pub partitions: Partitions,
    pub cleanup: Cleanup,
    /// True: the broker stamps records on append, because clients write the topic. False: the
    /// writer sets the time.
    pub append_time: bool,
    /// Largest record batch in bytes (`max.message.bytes`).
    pub record_bytes_max: u32,
}

impl TopicSpec {
    /// A topic with as many partitions as the installation, times of its writer, and records of
    /// up to 1 MiB.
    pub fn new(name: &'static str, cleanup: Cleanup) -> TopicSpec {
        TopicSpec {
            name,
            partitions: Partitions::Many,
            cleanup,
            append_time: false,
            record_bytes_max: 1 << 20,
        }
    }
}

/// Severity of a wrong setting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The guarantees hold until another fault happens.
    Warning,
    /// The setting could not be read.
    Unknown,
    /// The guarantees cannot hold.
    Error,
}

/// A wrong setting of a topic or of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The topic. `None` for the brokers, or for their internal topics.
    pub topic: Option<TopicId>,
    /// The topic's full name, or the brokers.
    pub subject: String,
    pub severity: Severity,
    /// Current value, required value, and consequence of the difference.
    pub text: String,
    /// The setting and value for a repair. `None` if the change could lose data.
    pub fix: Option<(&'static str, String)>,
}

/// All topics of one installation, under one prefix.
#[derive(Clone, Debug)]
pub struct TopicTable {
    prefix: String,
    specs: Vec<TopicSpec>,
    names: Vec<String>,
}

impl TopicTable {
    /// The table for a prefix. A [`TopicId`] is an index of `specs`.
    pub fn new(prefix: &str, specs: Vec<TopicSpec>) -> Self {
        let names = specs
            .iter()
            .map(|s| format!("{prefix}{}", s.name))
            .collect();
        TopicTable {
            prefix: prefix.to_string(),
            specs,
            names,
        }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The full name, prefix included.
    pub fn name(&self, topic: TopicId) -> &str {
        &self.names[topic.0 as usize]
    }

    /// The requirements of the topic.
    pub fn spec(&self, topic: TopicId) -> &TopicSpec {
        &self.specs[topic.0 as usize]
    }

    /// The topic with the full name.
    pub fn find(&self, name: &str) -> Option<TopicId> {
        self.names
            .iter()
            .position(|n| n == name)
            .map(|i| TopicId(i as u16))
    }

    pub fn iter(&self) -> impl Iterator<Item = TopicId> {
        (0..self.specs.len()).map(|i| TopicId(i as u16))
    }

    /// The first wrong partition count, as a message. `counts` is indexed by topic number. Tasks
    /// are shared out by partition number, so all topics of kind [`Partitions::Many`] need the same
    /// count.
    pub fn misfit(&self, counts: &[u32]) -> Option<String> {
        let count = |t: TopicId| counts[t.0 as usize];
        let first = self
            .iter()
            .find(|t| self.spec(*t).partitions == Partitions::Many);
        for topic in self.iter() {
            let (want, like) = match (self.spec(topic).partitions, first) {
                (Partitions::Many, Some(first)) => {
                    (count(first), format!(" like {}", self.name(first)))
                }
                _ => (1, String::new()),
            };

            if count(topic) != want {
                return Some(format!(
                    "topic {} has {} partitions, not {want}{like}: `processor topics check` shows all topics; partitions cannot be taken away again, \
                     so use another --topic-prefix (only a topic that never held a record may be deleted, and made again with `processor topics create`)",
                    self.name(topic),
                    count(topic)
                ));
            }
        }

        None
    }

    /// `topic/partition`, for messages and headers.
    pub fn show(&self, at: TopicPartition) -> impl fmt::Display + '_ {
        struct TopicDisplay<'a>(&'a str, u32);
        impl fmt::Display for TopicDisplay<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.0, self.1)
            }
        }

        TopicDisplay(self.name(at.topic), at.partition)
    }
}
