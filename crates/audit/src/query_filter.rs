//! Selects the records of a query. The filter compares raw bytes before it decodes a record,
//! because most records belong to other users and orders.

use std::collections::BTreeSet;

use domain::decimal::{Num, WHOLE};
use ports::partitioner;
use ports::records::Record;
use ports::topics::TopicId;
use wire::input::{FieldValue, read_map};
use wire::topics as t;

/// A query on the audit log.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Order id or transfer id.
    pub order: Option<String>,
    pub user: Option<String>,
    pub symbol: Option<String>,
    /// Lowest log time, milliseconds.
    pub from_ms: Option<i64>,
    /// Log time before which the search stops, milliseconds.
    pub to_ms: Option<i64>,
    /// Largest number of records to hold.
    pub limit: usize,
    /// Include the ticks of a symbol.
    pub ticks: bool,
}

/// The wanted records, and the ids learned from the records found so far.
pub struct QueryFilter {
    user: Option<String>,
    order: Option<String>,
    symbol: Option<String>,
    /// Users whose records are read; none: all users.
    users: Option<BTreeSet<String>>,
    /// Users of the commands found so far.
    met: BTreeSet<String>,
    /// Symbols of the records found so far.
    symbols: BTreeSet<String>,
    /// Orders of the wanted symbol: cancels and executions name only the order id.
    orders: BTreeSet<(String, String)>,
}

impl QueryFilter {
    pub fn new(q: &Query) -> QueryFilter {
        QueryFilter {
            user: q.user.clone(),
            order: q.order.clone(),
            symbol: q.symbol.clone(),
            users: q.user.clone().map(|u| BTreeSet::from([u])),
            met: BTreeSet::new(),
            symbols: q.symbol.clone().into_iter().collect(),
            orders: BTreeSet::new(),
        }
    }

    /// Call after all commands are read: the users of the wanted order are then known, if a command
    /// was found.
    pub fn finish_command_pass(&mut self) {
        if self.order.is_some() && self.users.is_none() && !self.met.is_empty() {
            self.users = Some(self.met.clone());
        }
    }

    /// Partitions of a topic that may hold wanted records.
    pub fn partitions(&self, topic: TopicId, count: u32) -> Vec<u32> {
        let of = |keys: &BTreeSet<String>| {
            keys.iter()
                .map(|k| partitioner::partition(k.as_bytes(), count))
                .collect::<BTreeSet<_>>()
        };

        let by_symbol = matches!(
            topic,
            t::BOOK_COMMANDS | t::TRADES | t::MARKET_DATA | t::INSTRUMENTS | t::REFERENCE_PRICES
        );
        match (by_symbol, &self.users) {
            (true, _) => of(&self.symbols).into_iter().collect(),
            // A dead letter has the key of its source record: a symbol, a user, or none.
            (false, Some(users)) if topic != t::DEAD_LETTERS => of(users).into_iter().collect(),
            _ => (0..count).collect(),
        }
    }

    /// True if the key alone is that of the wanted user, or of the wanted symbol.
    fn matches_key(&self, key: &[u8]) -> bool {
        let is = |id: &Option<String>| id.as_deref().is_some_and(|id| key == id.as_bytes());
        self.order.is_none() && (is(&self.user) || self.user.is_none() && is(&self.symbol))
    }

    /// True if the record is wanted. Remembers the ids of a wanted record.
    pub fn matches(&mut self, r: &Record<'_>) -> bool {
        if !self.may_match(r) {
            return false;
        }

        let key = r.key.unwrap_or_default();
        let value = r.value.unwrap_or_default();
        if value.is_empty() {
            // A tombstone or an empty value: only the key can match.
            return self.matches_key(key);
        }

        let mut ids = Ids::default();
        if read_map(value, |name, v| ids.take(name, v)).is_err() {
            // The record cannot be decoded, but its key, or its bytes with the order id, match.
            return match &self.order {
                Some(order) => contains(value, order.as_bytes()),
                None => self.matches_key(key),
            };
        }

        if ids.users.is_empty() {
            ids.users
                .extend(std::str::from_utf8(key).ok().map(str::to_string));
        }

        let matches = self.matches_ids(&ids);
        if matches
            && matches!(
                r.at.topic,
                t::ORDER_COMMANDS | t::OPERATOR_COMMANDS | t::ORDER_EVENTS
            )
        {
            self.remember(ids);
        }

        matches
    }

    /// False if the bytes of the record show that the record is not wanted.
    fn may_match(&self, r: &Record<'_>) -> bool {
        let key = r.key.unwrap_or_default();
        let value = r.value.unwrap_or_default();

        // JSON may write a character as an escape sequence, so a value with a backslash must be
        // decoded.
        let has = |id: &str| {
            key == id.as_bytes()
                || contains(value, id.as_bytes())
                || value.contains(&b'\\')
                || packed(id).is_some_and(|n| contains(value, &n))
        };

        let by_order = self.order.as_deref().is_none_or(has);
        let by_user = self.user.as_deref().is_none_or(has);

        // A record of other topics may name the order only, and no symbol.
        let by_symbol = self.symbol.as_deref().is_none_or(has)
            || !matches!(r.at.topic, t::TRADES | t::BOOK_COMMANDS | t::MARKET_DATA);
        by_order && by_user && by_symbol
    }

    fn matches_ids(&self, ids: &Ids) -> bool {
        let named =
            |id: &Option<String>, among: &[String]| id.as_ref().is_none_or(|id| among.contains(id));
        let mine = |o: &String| {
            ids.users
                .iter()
                .any(|u| self.orders.contains(&(u.clone(), o.clone())))
        };

        let symbol = match (&self.symbol, &ids.symbol) {
            (None, _) => true,
            (Some(want), Some(has)) => want == has,
            (Some(_), None) => ids.orders.iter().any(mine),
        };

        named(&self.user, &ids.users) && named(&self.order, &ids.orders) && symbol
    }

    fn remember(&mut self, ids: Ids) {
        if self.symbol.is_some() && ids.symbol.is_some() {
            let user = ids.users.first().cloned().unwrap_or_default();
            self.orders
                .extend(ids.orders.into_iter().map(|o| (user.clone(), o)));
        }

        self.met.extend(ids.users);
        self.symbols.extend(ids.symbol);
    }
}

/// Ids in a record.
#[derive(Default)]
struct Ids {
    users: Vec<String>,
    orders: Vec<String>,
    symbol: Option<String>,
}

impl Ids {
    fn take(&mut self, name: &str, v: FieldValue<'_>) {
        let to = match name {
            "user_id" | "buyer" | "seller" => &mut self.users,
            "order_id" | "orig_order_id" | "cause_id" | "buy_order_id" | "sell_order_id" => {
                &mut self.orders
            }
            "symbol" => {
                self.symbol = v.text().map(Into::into);
                return;
            }
            // A notification contains the whole event. Some ids are only in the event.
            "event" => {
                if let FieldValue::Nested(inner) = v {
                    let mut ids = Ids::default();
                    if read_map(inner, |name, v| ids.take(name, v)).is_ok() {
                        self.orders.extend(ids.orders);
                        self.symbol = self.symbol.take().or(ids.symbol);
                    }
                }

                return;
            }
            _ => return,
        };

        // An id sent as a number is invalid, and its record is a dead letter. A query for the order
        // must still find that record.
        to.extend(match v {
            FieldValue::Text(t) => Some(t.to_string()),
            v => match v.num(WHOLE) {
                Some(Num::Exact(n)) => Some(n.to_string()),
                _ => None,
            },
        });
    }
}

/// Some fields of a record as text, in the order of `names`.
pub fn text_fields<const N: usize>(value: &[u8], names: [&str; N]) -> [Option<String>; N] {
    let mut found = [const { None }; N];
    let read = read_map(value, |name, v| {
        if let Some(i) = names.iter().position(|n| *n == name) {
            found[i] = v.text().map(|t| t.to_string());
        }
    });

    if read.is_ok() {
        found
    } else {
        [const { None }; N]
    }
}

/// The bytes of a number in MessagePack, for any width.
fn packed(id: &str) -> Option<Vec<u8>> {
    let bytes = id.parse::<u64>().ok()?.to_be_bytes();
    let first = bytes.iter().position(|b| *b != 0).unwrap_or(7);
    Some(bytes[first..].to_vec())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    let Some((first, rest)) = part.split_first() else {
        return true;
    };

    let mut from = 0;
    while let Some(i) = bytes[from..].iter().position(|b| b == first) {
        from += i + 1;
        if bytes[from..].starts_with(rest) {
            return true;
        }
    }

    false
}
