//! Anchors: the heads of all chains at one moment, and one hash over the heads. A hash chain shows
//! that no entry was changed *in place*. But a chain that was cut off, or rewritten from the start,
//! is still consistent. A copy of the heads, kept outside the log, shows both changes. An anchor is
//! a copy of this kind: one line of JSON.

use domain::chain::Hash;
use ports::topics::TopicId;
use serde_json::{Value, json};
use wire::topics::{self, AUDITED};

use super::hex::{hash_of, hex};
use super::merkle;

/// Version of the line format.
pub const FORMAT: u64 = 1;

/// The last entry of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// `topic/partition` of the source, prefix included.
    pub chain: String,
    /// Number of entries from the start up to this head.
    pub entries: u64,
    /// Source offset of the last entry.
    pub offset: u64,
    /// Hash of the last entry.
    pub hash: Hash,
}

/// The heads of all chains at one moment. One line of an anchor file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Time of the anchor, RFC 3339. A claim of the machine that made the anchor.
    pub time: String,
    /// Id of the cluster with the log.
    pub cluster: String,
    /// Heads of all chains with entries, sorted by name.
    pub heads: Vec<ChainHead>,
    /// Hash over time, cluster and heads.
    pub root: Hash,
    /// Offset up to which each partition of the audit log was read; the next anchor can start
    /// there. Empty if unknown. No hash covers the positions. A wrong position leads to a record
    /// that is no head of the anchor. The next run then reads the whole audit log.
    pub positions: Vec<u64>,
}

impl Anchor {
    /// Makes an anchor of `heads`.
    pub fn new(time: String, cluster: String, mut heads: Vec<ChainHead>) -> Anchor {
        heads.sort_by(|a, b| a.chain.cmp(&b.chain));
        let root = root(&time, &cluster, &heads);
        Anchor {
            time,
            cluster,
            heads,
            root,
            positions: Vec::new(),
        }
    }

    /// Adds the offsets up to which the audit log was read.
    pub fn read_to(self, positions: Vec<u64>) -> Anchor {
        Anchor { positions, ..self }
    }

    /// True if one of the chains has a topic with this prefix. An anchor covers one prefix. Several
    /// prefixes may share a log and a file of anchors.
    pub fn is_of(&self, prefix: &str) -> bool {
        self.heads
            .iter()
            .any(|h| prefix_of(&h.chain) == Some(prefix))
    }

    /// The anchor as one line of JSON.
    pub fn line(&self) -> Value {
        let heads: Vec<Value> = self.heads.iter().map(head_json).collect();
        let mut line = json!({"anchor": FORMAT, "time": self.time, "cluster": self.cluster, "chains": heads, "root": hex(&self.root)});
        if !self.positions.is_empty() {
            line["positions"] = self.positions.clone().into();
        }

        line
    }

    /// Parses a line. The root must match the heads.
    pub fn parse(line: &[u8]) -> Result<Anchor, String> {
        let v: Value = serde_json::from_slice(line).map_err(|e| format!("no JSON: {e}"))?;
        match v["anchor"].as_u64() {
            Some(FORMAT) => {}
            Some(n) => {
                return Err(format!(
                    "format {n}, which this version does not know; use the one that wrote it"
                ));
            }
            None => return Err("not an anchor: `processor audit anchor` writes them".into()),
        }

        let text = |name: &str| {
            v[name]
                .as_str()
                .map(str::to_string)
                .ok_or_else(|| format!("{name} is missing"))
        };

        let heads = v["chains"]
            .as_array()
            .ok_or("chains is missing")?
            .iter()
            .map(parse_head)
            .collect::<Option<Vec<_>>>();
        let heads = heads.ok_or("a chain without one of its fields")?;
        let positions = v["positions"]
            .as_array()
            .map(|all| all.iter().filter_map(Value::as_u64).collect());
        let anchor = Anchor::new(text("time")?, text("cluster")?, heads)
            .read_to(positions.unwrap_or_default());
        match v["root"].as_str().and_then(hash_of) {
            Some(root) if root == anchor.root => Ok(anchor),
            _ => Err("changed: its root is not that of its chains".into()),
        }
    }
}

/// Parses an anchor file, one anchor per line. Empty lines are skipped. The error names the line.
pub fn parse_all(text: &[u8]) -> Result<Vec<Anchor>, String> {
    let lines = text
        .split(|b| *b == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.trim_ascii().is_empty());
    lines
        .map(|(i, line)| Anchor::parse(line).map_err(|why| format!("line {}: {why}", i + 1)))
        .collect()
}

/// The topic prefix in a chain's name; none if no audited topic matches.
pub fn prefix_of(chain: &str) -> Option<&str> {
    let (topic, _) = chain.rsplit_once('/')?;
    let plain = topics::table("");
    AUDITED
        .iter()
        .find_map(|t| topic.strip_suffix(plain.name(*t)))
}

/// The topic of a chain, for any prefix.
pub fn topic_of(chain: &str) -> Option<TopicId> {
    let (topic, _) = chain.rsplit_once('/')?;
    let plain = topics::table("");
    AUDITED
        .into_iter()
        .find(|t| topic.ends_with(plain.name(*t)))
}

pub fn head_json(h: &ChainHead) -> Value {
    json!({"chain": h.chain, "entries": h.entries, "offset": h.offset, "hash": hex(&h.hash)})
}

pub fn parse_head(v: &Value) -> Option<ChainHead> {
    Some(ChainHead {
        chain: v["chain"].as_str()?.to_string(),
        entries: v["entries"].as_u64()?,
        offset: v["offset"].as_u64()?,
        hash: hash_of(v["hash"].as_str()?)?,
    })
}

/// Merkle root. The first leaf holds time and cluster; the other leaves are the heads, sorted by
/// name.
fn root(time: &str, cluster: &str, heads: &[ChainHead]) -> Hash {
    let mut leaves = vec![merkle::leaf(&[time.as_bytes(), b"\n", cluster.as_bytes()])];
    leaves.extend(heads.iter().map(|h| {
        let name = format!("{}/{}", h.chain, h.offset);
        merkle::leaf(&[name.as_bytes(), &h.entries.to_be_bytes(), &h.hash])
    }));

    merkle::root(&leaves)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor() -> Anchor {
        let head = |chain: &str, n: u64| ChainHead {
            chain: chain.into(),
            entries: n,
            offset: n + 1,
            hash: [n as u8; 32],
        };

        Anchor::new(
            "2026-01-31T09:30:00Z".into(),
            "c".into(),
            vec![head("trades/0", 3), head("order-events/1", 7)],
        )
    }

    #[test]
    fn a_line_reads_back_and_a_changed_one_does_not() {
        let line = anchor().line().to_string();
        assert_eq!(Anchor::parse(line.as_bytes()), Ok(anchor()));
        assert_eq!(
            anchor().heads[0].chain,
            "order-events/1",
            "sorted, whatever the order was"
        );
        for (from, to) in [
            ("\"entries\":7", "\"entries\":8"),
            ("09:30", "09:31"),
            ("trades/0", "trades/1"),
            ("0303", "0304"),
        ] {
            let changed = line.replacen(from, to, 1);
            assert_ne!(changed, line);
            assert!(
                Anchor::parse(changed.as_bytes()).is_err_and(|e| e.contains("root")),
                "{changed}"
            );
        }

        assert!(Anchor::parse(b"{\"anchor\":2}").is_err_and(|e| e.contains("format 2")));
        let two = format!("{line}\n\n{}\n", line.replacen(":7", ":8", 1));
        assert!(parse_all(two.as_bytes()).is_err_and(|e| e.starts_with("line 3: changed")));
        assert_eq!(
            parse_all(format!("{line}\n").as_bytes()),
            Ok(vec![anchor()])
        );
        assert!(Anchor::parse(b"{}").is_err() && Anchor::parse(b"x").is_err());
    }

    #[test]
    fn an_anchor_is_of_the_prefix_of_its_chains() {
        assert!(anchor().is_of("") && !anchor().is_of("a-"));
        assert_eq!(prefix_of("a-order-events/12"), Some("a-"));
        assert_eq!((prefix_of("clock/0"), prefix_of("trades")), (None, None));
        assert!(
            !Anchor::new("t".into(), "c".into(), Vec::new()).is_of(""),
            "one without chains is of none"
        );
        for (i, a) in AUDITED.iter().enumerate() {
            let (table, name) = (topics::table(""), |t| topics::table("").name(t).to_string());
            assert!(
                AUDITED
                    .iter()
                    .enumerate()
                    .all(|(j, b)| i == j || !name(*a).ends_with(table.name(*b))),
                "else names are ambiguous"
            );
        }
    }
}
