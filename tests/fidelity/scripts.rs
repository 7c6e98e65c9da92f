//! The scripts, and what they must observe. A producer is named by its transactional id; opening
//! one again is what a restart does.

/// A cluster at the level of the transaction protocol. Partitions are those of one topic, with
/// numbers; the group is one group.
pub trait Side {
    /// A new producer under an id; its predecessor is fenced and finished when this returns.
    fn open(&mut self, id: &str) -> usize;
    fn begin(&mut self, producer: usize) -> String;
    /// Writes a record and waits until it is there or refused.
    fn send(&mut self, producer: usize, partition: u32, value: &str) -> String;
    /// Adds an offset of input partition 0, as nobody in particular (generation -1) or as a member
    /// that the group does not know.
    fn offset(&mut self, producer: usize, next: u64, as_stranger: bool) -> String;
    fn commit(&mut self, producer: usize) -> String;
    fn abort(&mut self, producer: usize) -> String;
    /// What a committed reader sees, when nothing more is about to be decided.
    fn visible(&mut self, partition: u32) -> String;
    /// Waits until all markers are written.
    fn settle(&mut self, partition: u32);
    /// Whether something undecided stands at the end, and the end.
    fn ends(&mut self, partition: u32) -> String;
    /// The group's stable offset of input partition 0: `none`, `pending` or a number.
    fn committed(&mut self) -> String;
    /// Waits until the coordinator has given up what stays open.
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

/// What each script observes, on any cluster.
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

/// A second producer under the same id finishes what the first left, and the first can do nothing
/// more.
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

/// What is committed stays out of sight behind what is open.
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

/// Offsets of an open transaction hide those before them, until a successor has finished it.
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
