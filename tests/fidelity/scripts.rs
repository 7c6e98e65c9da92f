//! The scripts and their expected observations. A producer is named by its transactional id.
//! Opening an id again has the effect of a restart.

/// A cluster at the level of the transaction protocol, with the numbered partitions of one topic
/// and one group.
pub trait Side {
    /// A new producer under an id. The predecessor is fenced and its transaction finished when this
    /// returns.
    fn open(&mut self, id: &str) -> usize;
    fn begin(&mut self, producer: usize) -> String;
    /// Writes a record and waits until the record is there or refused.
    fn send(&mut self, producer: usize, partition: u32, value: &str) -> String;
    /// Adds an offset of input partition 0, either without a membership (generation -1) or as a
    /// member that the group does not know.
    fn offset(&mut self, producer: usize, next: u64, as_stranger: bool) -> String;
    fn commit(&mut self, producer: usize) -> String;
    fn abort(&mut self, producer: usize) -> String;
    /// The records that a read_committed reader sees, when no decision is pending.
    fn visible(&mut self, partition: u32) -> String;
    /// Waits until all markers are written.
    fn settle(&mut self, partition: u32);
    /// True if an undecided transaction stands at the end; and the end offset.
    fn ends(&mut self, partition: u32) -> String;
    /// The group's stable offset of input partition 0: `none`, `pending` or a number.
    fn committed(&mut self) -> String;
    /// Waits until the coordinator has aborted the expired transaction.
    fn outlive_the_timeout(&mut self, partition: u32);
}

type Script = fn(&mut dyn Side) -> Vec<String>;

pub const ALL: &[(&str, Script)] = &[
    ("commit", commit),
    ("abort", abort),
    ("fenced", fenced),
    ("timeout", timeout),
    ("interleaved", interleaved),
    ("stranger", stranger),
    ("pending", pending),
    ("again", again),
    ("two-partitions", two_partitions),
];

/// Observations of each script, on any cluster.
pub fn expected(name: &str) -> Vec<String> {
    let lines: &[&str] = match name {
        "commit" => &[
            "ok",
            "ok",
            "ok",
            "[]",
            "undecided, 1",
            "pending",
            "ok",
            "[a]",
            "decided, 2",
            "5",
        ],
        "abort" => &["ok", "ok", "[]", "ok", "[]", "decided, 2", "none"],
        "fenced" => &[
            "ok",
            "[]",
            "decided, 2",
            "fenced",
            "none",
            "ok",
            "ok",
            "[b]",
        ],
        "timeout" => &["ok", "undecided, 1", "decided, 2", "fenced", "[]", "none"],
        "interleaved" => &[
            "ok",
            "ok",
            "ok",
            "[]",
            "undecided, 3",
            "ok",
            "[a,b]",
            "decided, 4",
        ],
        "stranger" => &["ok", "unknown member", "[]", "none"],
        "pending" => &["ok", "ok", "pending", "none", "decided, 2"],
        "again" => &[
            "ok",
            "ok",
            "[a]",
            "ok",
            "ok",
            "[a]",
            "ok",
            "ok",
            "[a,c]",
            "decided, 6",
        ],
        "two-partitions" => &["ok", "ok", "ok", "[a]", "[b]", "decided, 2", "decided, 2"],
        other => panic!("no script is called {other}"),
    };

    lines.iter().map(|s| s.to_string()).collect()
}

fn commit(s: &mut dyn Side) -> Vec<String> {
    let p = s.open("p");
    let mut seen = vec![s.begin(p), s.send(p, 0, "a"), s.offset(p, 5, false)];
    seen.extend([s.visible(0), s.ends(0), s.committed(), s.commit(p)]);
    s.settle(0);
    seen.extend([s.visible(0), s.ends(0), s.committed()]);
    seen
}

fn abort(s: &mut dyn Side) -> Vec<String> {
    let p = s.open("p");
    s.begin(p);
    let mut seen = vec![
        s.send(p, 0, "a"),
        s.offset(p, 5, false),
        s.visible(0),
        s.abort(p),
    ];
    s.settle(0);
    seen.extend([s.visible(0), s.ends(0), s.committed()]);
    seen
}

/// A second producer under the same id finishes the first one's transaction. All later requests of
/// the first are refused.
fn fenced(s: &mut dyn Side) -> Vec<String> {
    let old = s.open("p");
    s.begin(old);
    let mut seen = vec![s.send(old, 0, "a")];
    s.offset(old, 5, false);
    let new = s.open("p");
    seen.extend([s.visible(0), s.ends(0), s.commit(old), s.committed()]);
    s.begin(new);
    seen.extend([s.send(new, 0, "b"), s.commit(new)]);
    s.settle(0);
    seen.push(s.visible(0));
    seen
}

fn timeout(s: &mut dyn Side) -> Vec<String> {
    let p = s.open("p");
    s.begin(p);
    let mut seen = vec![s.send(p, 0, "a"), s.ends(0)];
    s.outlive_the_timeout(0);
    seen.extend([s.ends(0), s.commit(p), s.visible(0), s.committed()]);
    seen
}

/// Committed records behind an open transaction stay invisible.
fn interleaved(s: &mut dyn Side) -> Vec<String> {
    let p = s.open("p");
    let q = s.open("q");
    s.begin(p);
    s.begin(q);
    let mut seen = vec![
        s.send(p, 0, "a"),
        s.send(q, 0, "b"),
        s.commit(q),
        s.visible(0),
    ];

    // Its marker stands behind both records.
    loop {
        let ends = s.ends(0);
        if ends.ends_with('3') {
            seen.push(ends);
            break;
        }
    }

    seen.push(s.commit(p));
    s.settle(0);
    seen.extend([s.visible(0), s.ends(0)]);
    seen
}

fn stranger(s: &mut dyn Side) -> Vec<String> {
    let p = s.open("p");
    s.begin(p);
    let mut seen = vec![s.send(p, 0, "a"), s.offset(p, 5, true)];
    s.open("p");
    seen.extend([s.visible(0), s.committed()]);
    seen
}

/// Offsets of an open transaction hide the earlier offsets, until a successor has finished the
/// transaction.
fn pending(s: &mut dyn Side) -> Vec<String> {
    let p = s.open("p");
    s.begin(p);
    let mut seen = vec![s.send(p, 0, "a"), s.offset(p, 7, false), s.committed()];
    s.open("p");
    seen.extend([s.committed(), s.ends(0)]);
    seen
}

/// One producer, three transactions: committed, aborted, committed.
fn again(s: &mut dyn Side) -> Vec<String> {
    let p = s.open("p");
    let mut seen = Vec::new();
    for (value, commit) in [("a", true), ("b", false), ("c", true)] {
        s.begin(p);
        seen.push(s.send(p, 0, value));
        seen.push(if commit { s.commit(p) } else { s.abort(p) });
        s.settle(0);
        seen.push(s.visible(0));
    }

    seen.push(s.ends(0));
    seen
}

fn two_partitions(s: &mut dyn Side) -> Vec<String> {
    let p = s.open("p");
    s.begin(p);
    let mut seen = vec![s.send(p, 0, "a"), s.send(p, 1, "b"), s.commit(p)];
    s.settle(0);
    s.settle(1);
    seen.extend([s.visible(0), s.visible(1), s.ends(0), s.ends(1)]);
    seen
}
