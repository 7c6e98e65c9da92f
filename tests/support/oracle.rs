//! Computes the right state of a system at rest from the inputs alone: a plain, slow implementation
//! of the contract without any code of the roles. The oracle knows the loads of `load.rs` (market
//! orders of accounts with ample cash, one price per symbol). Every answer to these loads is
//! determined.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ports::records::Records;
use ports::topics::{TopicId, TopicTable};
use ports::{Limits, Log, StartOffset};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use wire::topics as t;

/// One record, decoded as far as possible.
#[derive(Clone, Debug)]
pub struct Seen {
    pub partition: u32,
    pub offset: u64,
    pub time_ms: i64,
    pub key: Vec<u8>,
    /// The key, or the value, is absent. Absent is not the same as empty.
    pub keyless: bool,
    pub tombstone: bool,
    pub raw: Vec<u8>,
    pub value: Value,
    pub headers: BTreeMap<String, String>,
    /// The headers in the form that the audit chain hashes: each name and value after its length.
    pub bound: Vec<u8>,
}

impl Seen {
    pub fn text(&self, field: &str) -> &str {
        self.value[field].as_str().unwrap_or("")
    }

    pub fn number(&self, field: &str) -> i64 {
        self.value[field]
            .as_i64()
            .unwrap_or_else(|| panic!("no number {field} in {:?}", self.value))
    }

    /// `topic/partition/offset`.
    pub fn src(&self, topics: &TopicTable, topic: TopicId) -> String {
        format!("{}/{}/{}", topics.name(topic), self.partition, self.offset)
    }
}

/// Decodes MessagePack or JSON to a JSON value; binary becomes hexadecimal text.
pub fn decode(bytes: &[u8]) -> Value {
    if bytes.first() == Some(&b'{') {
        return serde_json::from_slice(bytes).unwrap_or(Value::Null);
    }

    rmp_serde::from_slice::<Loose>(bytes).map_or(Value::Null, |l| l.0)
}

struct Loose(Value);

impl<'de> serde::Deserialize<'de> for Loose {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Loose, D::Error> {
        struct V;
        impl<'de> serde::de::Visitor<'de> for V {
            type Value = Loose;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("any MessagePack value")
            }
            fn visit_str<E>(self, s: &str) -> Result<Loose, E> {
                Ok(Loose(s.into()))
            }
            fn visit_u64<E>(self, n: u64) -> Result<Loose, E> {
                Ok(Loose(n.into()))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Loose, E> {
                Ok(Loose(n.into()))
            }
            fn visit_f64<E>(self, n: f64) -> Result<Loose, E> {
                Ok(Loose(n.into()))
            }
            fn visit_bool<E>(self, b: bool) -> Result<Loose, E> {
                Ok(Loose(b.into()))
            }
            fn visit_unit<E>(self) -> Result<Loose, E> {
                Ok(Loose(Value::Null))
            }
            fn visit_bytes<E>(self, b: &[u8]) -> Result<Loose, E> {
                Ok(Loose(hex(b).into()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut a: A) -> Result<Loose, A::Error> {
                let mut all = Vec::new();
                while let Some(Loose(v)) = a.next_element()? {
                    all.push(v);
                }

                Ok(Loose(all.into()))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut a: A) -> Result<Loose, A::Error> {
                let mut map = serde_json::Map::new();
                while let Some((k, Loose(v))) = a.next_entry::<String, Loose>()? {
                    map.insert(k, v);
                }

                Ok(Loose(map.into()))
            }
        }
        d.deserialize_any(V)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// All committed records of a topic, partition by partition.
pub fn read_all(log: &dyn Log, topic: TopicId) -> Vec<Seen> {
    let count = log
        .partitions(topic)
        .expect("the log answers")
        .expect("the topic exists");
    let from: Vec<_> = (0..count).map(|p| (p, StartOffset::Start)).collect();
    let mut reader = log.reader(topic, &from, true).expect("a reader");
    let mut all = Vec::new();
    let mut chunk = Records::new();
    let limits = Limits {
        records: 50_000,
        bytes: 32 << 20,
        age: Duration::from_millis(500),
    };

    loop {
        chunk.clear();

        // This check comes before the poll: the poll then returns all records up to that moment.
        let last = reader.caught_up();
        let wait = if last {
            Duration::ZERO
        } else {
            Duration::from_millis(50)
        };

        reader.poll(wait, limits, &mut chunk).expect("a read");
        all.extend(chunk.iter().map(|r| {
            Seen {
                partition: r.at.partition,
                offset: r.offset,
                time_ms: r.timestamp_ms,
                key: r.key.unwrap_or_default().to_vec(),
                keyless: r.key.is_none(),
                tombstone: r.value.is_none(),
                raw: r.value.unwrap_or_default().to_vec(),
                value: decode(r.value.unwrap_or_default()),
                headers: r
                    .headers
                    .iter()
                    .map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v).into_owned()))
                    .collect(),
                bound: r
                    .headers
                    .iter()
                    .flat_map(|(k, v)| [k.as_bytes(), v])
                    .flat_map(|p| [&(p.len() as u32).to_be_bytes()[..], p].concat())
                    .collect(),
            }
        }));

        if chunk.is_empty() && last {
            all.sort_by_key(|r| (r.partition, r.offset));
            return all;
        }
    }
}

/// Counts and findings, for the printed summary.
#[derive(Debug, Default)]
pub struct Verdict {
    pub commands: usize,
    pub events: usize,
    pub trades: usize,
    pub notifications: usize,
    pub audit_entries: usize,
    pub wrong: Vec<String>,
}

impl Verdict {
    /// Fails the test if any check failed; prints the first findings.
    pub fn assert_clean(&self) {
        assert!(
            self.wrong.is_empty(),
            "{} findings, the first: {:#?}",
            self.wrong.len(),
            &self.wrong[..self.wrong.len().min(10)]
        );
    }
}

/// Price of each symbol of the load, in 10^-4 units: the last tick.
fn prices(log: &dyn Log) -> BTreeMap<String, i64> {
    let mut prices = BTreeMap::new();
    for tick in read_all(log, t::MARKET_DATA) {
        let text = match &tick.value["price"] {
            Value::String(s) => s.clone(),
            other => other.to_string(),
        };

        prices.insert(tick.text("symbol").to_string(), e4(&text));
    }

    prices
}

fn e4(text: &str) -> i64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<4}")
        .parse()
        .expect("a price of at most four decimals")
}

#[derive(Default)]
struct User {
    cash: i64,
    positions: BTreeMap<String, (i64, i64)>,
    expected: Vec<(String, String)>,
}

/// Checks every public topic against the inputs. Call only at rest.
pub fn check(log: &dyn Log, topics: &TopicTable, opening_cash_e4: i64) -> Verdict {
    check_of(log, topics, opening_cash_e4, &|_| true)
}

/// As [`check`], for loads with users whose commands this oracle does not know. Other checks must
/// judge the orders and money of these users.
pub fn check_of(
    log: &dyn Log,
    topics: &TopicTable,
    opening_cash_e4: i64,
    known: &dyn Fn(&str) -> bool,
) -> Verdict {
    let mut v = Verdict::default();
    let mut commands = read_all(log, t::ORDER_COMMANDS);
    let mut events = read_all(log, t::ORDER_EVENTS);
    let prices = prices(log);
    v.commands = commands.len();
    v.events = events.len();
    check_notifications(&mut v, log, &events);
    check_unstamped(&mut v, log, topics, &commands);
    commands.retain(|c| known(c.text("user_id")) && c.time_ms != UNSTAMPED);
    events.retain(|e| known(e.text("user_id")));
    let users = expect(&commands, &prices, opening_cash_e4);
    check_events(&mut v, &events, &users);
    check_trades(&mut v, log, &users, known);
    check_portfolios(&mut v, log, &events, &users);
    check_audit(&mut v, log, topics);
    v
}

/// Time that a reader reports for a record with the client's timestamp in a topic with broker
/// timestamps.
pub const UNSTAMPED: i64 = -1;

/// Commands that arrived while the topic kept the clients' timestamps are never executed. Each such
/// command gets exactly one dead letter, and all other commands get none.
fn check_unstamped(v: &mut Verdict, log: &dyn Log, topics: &TopicTable, commands: &[Seen]) {
    let due: BTreeSet<String> = commands
        .iter()
        .filter(|c| c.time_ms == UNSTAMPED)
        .map(|c| c.src(topics, t::ORDER_COMMANDS))
        .collect();
    let letters = read_all(log, t::DEAD_LETTERS);
    let told: Vec<_> = letters
        .iter()
        .filter(|d| d.headers.get("reason").is_some_and(|r| r == "NO_LOG_TIME"))
        .collect();
    let sources: BTreeSet<String> = told.iter().map(|d| d.headers["src"].clone()).collect();
    if told.len() != due.len() || sources != due {
        v.wrong.push(format!(
            "{} dead letters for {} commands that no broker stamped",
            told.len(),
            due.len()
        ));
    }
}

/// For each user: the answers to its commands in order, `(order id, first answer)`, and the final
/// account.
fn expect(
    commands: &[Seen],
    prices: &BTreeMap<String, i64>,
    opening: i64,
) -> BTreeMap<String, User> {
    let mut users = BTreeMap::<String, User>::new();
    let mut known = BTreeMap::<(String, String), (String, i64, String)>::new();
    for c in commands {
        let user = c.text("user_id").to_string();
        let id = c.text("order_id").to_string();
        let u = users.entry(user.clone()).or_insert_with(|| User {
            cash: opening,
            ..Default::default()
        });

        let content = (
            c.text("symbol").to_string(),
            c.number("quantity"),
            c.text("order_type").to_string(),
        );
        let answer = match known.get(&(user.clone(), id.clone())) {
            Some(first) if *first == content => "OrderStatus",
            Some(_) => "DuplicateRejected",
            None => {
                known.insert((user, id.clone()), content.clone());
                match prices.get(&content.0) {
                    None => "OrderRejected",
                    Some(price) => {
                        assert_eq!(content.2, "buy", "the load buys only");
                        let p = u.positions.entry(content.0.clone()).or_default();
                        (p.0, p.1) = (p.0 + content.1, p.1 + content.1 * price);
                        u.cash -= content.1 * price;
                        "OrderPending"
                    }
                }
            }
        };

        u.expected.push((id, answer.to_string()));
    }

    users
}

fn check_events(v: &mut Verdict, events: &[Seen], users: &BTreeMap<String, User>) {
    let mut by_user = BTreeMap::<&str, Vec<&Seen>>::new();
    let mut names = BTreeSet::new();
    for e in events {
        by_user.entry(e.text("user_id")).or_default().push(e);
        if !names.insert((&e.headers["src"], &e.headers["n"])) {
            v.wrong.push(format!(
                "two events are named {} {}",
                e.headers["src"], e.headers["n"]
            ));
        }
    }

    for user in by_user.keys().filter(|u| !users.contains_key(**u)) {
        v.wrong
            .push(format!("events for user {user}, who sent nothing"));
    }

    for (name, user) in users {
        let mine = by_user.remove(name.as_str()).unwrap_or_default();
        for (i, e) in mine.iter().enumerate() {
            if e.number("user_seq") != i as i64 + 1 {
                v.wrong.push(format!(
                    "user {name}: user_seq {} where {} was due",
                    e.number("user_seq"),
                    i + 1
                ));
                break;
            }
        }

        let first_hop = [
            "OrderPending",
            "OrderRejected",
            "OrderStatus",
            "DuplicateRejected",
        ];
        let answers: Vec<(String, String)> = mine
            .iter()
            .filter(|e| first_hop.contains(&e.text("event")))
            .map(|e| (e.text("order_id").to_string(), e.text("event").to_string()))
            .collect();
        if answers != user.expected {
            let at = answers
                .iter()
                .zip(&user.expected)
                .position(|(a, b)| a != b)
                .unwrap_or(answers.len().min(user.expected.len()));
            let got = answers.get(at);
            let want = user.expected.get(at);
            v.wrong.push(format!(
                "user {name}: answer {at} of {} is {got:?} where {want:?} was due",
                user.expected.len()
            ));
        }

        let mut steps = BTreeMap::<&str, Vec<&str>>::new();
        for e in mine
            .iter()
            .filter(|e| ["OrderPending", "OrderAccepted", "OrderFilled"].contains(&e.text("event")))
        {
            steps
                .entry(e.text("order_id"))
                .or_default()
                .push(e.text("event"));
        }

        for (id, steps) in steps {
            if steps != ["OrderPending", "OrderAccepted", "OrderFilled"] {
                v.wrong
                    .push(format!("user {name}: order {id} went {steps:?}"));
            }
        }

        if let Some(last) = mine.last() {
            let cash = last.number("cash_available_e4");
            let reserved = last.number("cash_reserved_e4");
            if (cash, reserved) != (user.cash, 0) {
                v.wrong.push(format!("user {name}: ends with {cash} available and {reserved} reserved where {} and 0 were due", user.cash));
            }
        }
    }
}

fn check_trades(
    v: &mut Verdict,
    log: &dyn Log,
    users: &BTreeMap<String, User>,
    known: &dyn Fn(&str) -> bool,
) {
    let mut trades = read_all(log, t::TRADES);

    // The users of this oracle only buy. If the house is the buyer, the seller is another user.
    trades.retain(|trade| known(trade.text("buyer")) && !trade.text("buyer").starts_with("house:"));
    v.trades = trades.len();
    let filled: usize = users
        .values()
        .map(|u| {
            u.expected
                .iter()
                .filter(|(_, a)| a == "OrderPending")
                .count()
        })
        .sum();

    if trades.len() != filled {
        v.wrong
            .push(format!("{} trades where {filled} were due", trades.len()));
    }

    let mut ids = BTreeSet::new();
    let mut orders = BTreeSet::new();
    for trade in &trades {
        if !ids.insert(trade.text("trade_id"))
            || !orders.insert((trade.text("buyer"), trade.text("buy_order_id")))
        {
            v.wrong.push(format!("traded twice: {:?}", trade.value));
        }
    }
}

/// Every event has one notification, in the same order.
pub fn check_notifications(v: &mut Verdict, log: &dyn Log, events: &[Seen]) {
    let notifications = read_all(log, t::NOTIFICATIONS);
    v.notifications = notifications.len();
    let told: Vec<_> = notifications
        .iter()
        .map(|n| (n.partition, n.value["event"].clone()))
        .collect();
    let happened: Vec<_> = events
        .iter()
        .map(|e| (e.partition, e.value.clone()))
        .collect();
    if told.len() != happened.len() {
        v.wrong.push(format!(
            "{} notifications for {} events",
            told.len(),
            happened.len()
        ));
    } else if let Some(at) = told.iter().zip(&happened).position(|(a, b)| a != b) {
        v.wrong.push(format!(
            "notification {at} tells {:?} where {:?} happened",
            told[at], happened[at]
        ));
    }
}

fn check_portfolios(
    v: &mut Verdict,
    log: &dyn Log,
    events: &[Seen],
    users: &BTreeMap<String, User>,
) {
    let mut last = BTreeMap::new();
    for p in read_all(log, t::PORTFOLIOS) {
        let before = last.insert(p.text("user_id").to_string(), p.value.clone());
        if before.is_some_and(|b| b["user_seq"].as_i64() >= p.value["user_seq"].as_i64()) {
            v.wrong.push(format!(
                "portfolio versions of {} do not rise",
                p.text("user_id")
            ));
        }
    }

    let mut seq = BTreeMap::new();
    for e in events {
        seq.insert(e.text("user_id"), e.number("user_seq"));
    }

    for (name, user) in users {
        let positions: serde_json::Map<String, Value> = user
            .positions
            .iter()
            .map(|(s, (q, basis))| {
                (
                    s.clone(),
                    serde_json::json!({"quantity": q, "reserved": 0, "cost_basis_e4": basis}),
                )
            })
            .collect();

        let p = last.get(name).cloned().unwrap_or_default();
        let wants = [
            ("user_seq", seq.get(name.as_str()).copied().into()),
            ("cash_available_e4", user.cash.into()),
            ("cash_reserved_e4", 0.into()),
            ("realised_e4", 0.into()),
            ("positions", Value::from(positions)),
        ];

        for (field, want) in wants {
            if p[field] != want {
                v.wrong.push(format!(
                    "portfolio of {name}: {field} is {} where {want} was due",
                    p[field]
                ));
            }
        }
    }
}

/// Every record of the public topics has one audit entry, in order, and every byte of the chains is
/// right.
pub fn check_audit(v: &mut Verdict, log: &dyn Log, topics: &TopicTable) {
    let mut chains = BTreeMap::<(String, i64), Vec<Seen>>::new();
    for e in read_all(log, t::AUDIT_LOG) {
        v.audit_entries += 1;
        chains
            .entry((e.text("src_topic").to_string(), e.number("src_partition")))
            .or_default()
            .push(e);
    }

    for topic in t::AUDITED {
        let mut sources = BTreeMap::<u32, Vec<Seen>>::new();
        for r in read_all(log, topic) {
            sources.entry(r.partition).or_default().push(r);
        }

        for (partition, records) in sources {
            let name = topics.name(topic);
            let entries = chains
                .remove(&(name.to_string(), i64::from(partition)))
                .unwrap_or_default();
            if entries.len() != records.len() {
                v.wrong.push(format!(
                    "{name}/{partition}: {} audit entries for {} records",
                    entries.len(),
                    records.len()
                ));
                continue;
            }

            let mut previous = [0u8; 32];
            for (r, e) in records.iter().zip(&entries) {
                let mut payload = Sha256::new();
                payload.update((r.key.len() as u32).to_be_bytes());
                payload.update(&r.key);
                payload.update(&r.raw);
                let payload: [u8; 32] = payload.finalize().into();
                let mut meta = Sha256::new();
                meta.update(r.time_ms.to_be_bytes());
                meta.update([u8::from(!r.keyless) + 2 * u8::from(!r.tombstone)]);
                meta.update(&r.bound);
                let meta: [u8; 32] = meta.finalize().into();
                let mut link = Sha256::new();
                link.update(previous);
                link.update(r.src(topics, topic));
                link.update(payload);
                link.update(meta);
                let hash: [u8; 32] = link.finalize().into();
                let want = [hex(&payload), hex(&meta), hex(&previous), hex(&hash)];
                if want
                    != [
                        e.text("payload_hash"),
                        e.text("meta_hash"),
                        e.text("prev_hash"),
                        e.text("hash"),
                    ]
                    || e.number("src_offset") != r.offset as i64
                {
                    v.wrong
                        .push(format!("audit entry for {} is wrong", r.src(topics, topic)));
                    break;
                }

                previous = hash;
            }
        }
    }

    for ((topic, partition), entries) in chains {
        v.wrong.push(format!(
            "{} audit entries of {topic}/{partition}, which has no records",
            entries.len()
        ));
    }
}
