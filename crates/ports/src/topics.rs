//! Topics as the engine knows them: small numbers into a table that the wire contract fills. Names
//! matter only at the edges.

use std::fmt;

/// A topic, as a place in the [`TopicTable`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicId(pub u16);

/// One partition of one topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition's number.
    pub partition: u32,
}

impl TopicPartition {
    /// Shorthand.
    pub const fn new(topic: TopicId, partition: u32) -> Self {
        TopicPartition { topic, partition }
    }
}

/// How many partitions a topic has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Partitions {
    /// The number chosen when the topics are created; the same for all of these.
    Many,
    /// Always one: broadcast tables.
    One,
}

/// The log's treatment of old records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cleanup {
    /// Kept for ever.
    Keep,
    /// The last record of each key is kept.
    Compact,
}

/// The requirements of a topic; `topics create` makes it so and `topics check` compares.
#[derive(Clone, Debug)]
pub struct TopicSpec {
    /// Name without the prefix.
    pub name: &'static str,
    /// How many partitions.
    pub partitions: Partitions,
    /// Retention.
    pub cleanup: Cleanup,
    /// True: the broker stamps records on append (clients write here). False: we set the time.
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

/// How much it matters that something does not fit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The promises hold until something else goes wrong.
    Warning,
    /// The setting could not be looked at.
    Unknown,
    /// The promises cannot hold.
    Error,
}

/// Something about a topic or the cluster that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The topic; none: the brokers, or topics of their own.
    pub topic: Option<TopicId>,
    /// The topic's full name, or the brokers.
    pub subject: String,
    /// How much it matters.
    pub severity: Severity,
    /// The value that is there, the value that must be there, and the cost of the difference.
    pub text: String,
    /// The setting and value that put it right, where such a change loses nothing.
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
    /// The table for a prefix. A [`TopicId`] is a place in `specs`.
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

    /// The prefix of every name.
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

    /// The topic of a full name.
    pub fn find(&self, name: &str) -> Option<TopicId> {
        self.names
            .iter()
            .position(|n| n == name)
            .map(|i| TopicId(i as u16))
    }

    /// All topics.
    pub fn iter(&self) -> impl Iterator<Item = TopicId> {
        (0..self.specs.len()).map(|i| TopicId(i as u16))
    }

    /// The fault of these partition counts, by topic number, if there is one. Work is shared out by
    /// partition number, so all topics that may have many partitions must have as many as the first
    /// of them.
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
