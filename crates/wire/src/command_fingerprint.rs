//! Canonical bytes of a command. The bytes decide whether a second command with the same id is the
//! same command.
//!
//! The bytes hold the compared fields of the command's kind, after defaults, with numbers by value.
//! `timestamp` is not compared. The order of the fields is that of the contract's table, so that
//! the first difference is the field to name. The bytes stay in state for ever, so the encoding may
//! only grow at its end.

use domain::decimal::{Num, Odd};
use domain::status::Side;
use ports::varint;
use sha2::{Digest, Sha256};

use super::command::{Choice, Command, Kind, OrderType, TimeInForce};

/// Mark of an unknown word.
pub fn mark_of(word: &str) -> [u8; 16] {
    Sha256::digest(word.as_bytes())[..16]
        .try_into()
        .expect("sixteen bytes")
}

/// The compared fields of each kind, in order.
fn fields(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::New => &[
            "symbol",
            "quantity",
            "order_type",
            "type",
            "limit_price",
            "stop_price",
            "tif",
            "expire_at",
            "post_only",
        ],
        Kind::Cancel => &["orig_order_id", "operator"],
        Kind::Replace => &["orig_order_id", "quantity", "limit_price"],
        Kind::MassCancel => &["symbol", "operator"],
        Kind::Deposit | Kind::Withdraw => &["amount"],
        Kind::Bust => &[
            "orig_order_id",
            "trade_id",
            "quantity",
            "price",
            "fee",
            "operator",
            "symbol",
            "order_type",
        ],
    }
}

/// Appends the fingerprint: the kind, then each field with its length before the field.
pub fn put(c: &Command<'_>, out: &mut Vec<u8>) {
    out.push(c.kind as u8);
    for name in fields(c.kind) {
        // `operator` was added later. Without an operator the bytes end here, as in earlier
        // versions. (A bust always has an operator.)
        if *name == "operator" && c.operator.is_none() {
            break;
        }

        // Both fields were added later, at the end of a bust.
        if c.kind == Kind::Bust && *name == "symbol" && c.symbol.is_none() && c.side.is_none() {
            break;
        }

        let at = out.len();
        out.push(0);
        match *name {
            "symbol" => out.extend_from_slice(c.symbol.as_deref().unwrap_or_default().as_bytes()),
            "quantity" => put_num(out, c.quantity),
            "order_type" => out.extend(c.side.map(|s| s as u8)),
            "type" => put_choice(out, c.order_type, |t| t as u8),
            "limit_price" => put_num(out, c.limit_price),
            "stop_price" => put_num(out, c.stop_price),
            "tif" => put_choice(out, c.tif, |t| t as u8),
            "expire_at" => c
                .expire_at_ns
                .into_iter()
                .for_each(|n| varint::put_signed(out, n)),
            "post_only" => out.extend(c.post_only.then_some(1)),
            "orig_order_id" => {
                out.extend_from_slice(c.orig_order_id.as_deref().unwrap_or_default().as_bytes())
            }
            "amount" => put_num(out, c.amount),
            "trade_id" => {
                out.extend_from_slice(c.trade_id.as_deref().unwrap_or_default().as_bytes())
            }
            "price" => put_num(out, c.price),
            "fee" => put_num(out, c.fee),
            "operator" => {
                out.extend_from_slice(c.operator.as_deref().unwrap_or_default().as_bytes())
            }
            _ => unreachable!("a field of the table"),
        }

        out[at] = u8::try_from(out.len() - at - 1).expect("no field is longer than an id");
    }
}

fn put_num(out: &mut Vec<u8>, n: Option<Num>) {
    match n {
        None => {}
        Some(Num::Exact(n)) => {
            out.push(0);
            varint::put_signed(out, i128::from(n));
        }
        Some(Num::Odd(why, mark)) => {
            out.push(match why {
                Odd::TooFine => 1,
                Odd::TooLarge => 2,
                Odd::NotANumber => 3,
            });

            out.extend_from_slice(&mark);
        }
    }
}

fn put_choice<T>(out: &mut Vec<u8>, c: Choice<T>, number: impl Fn(T) -> u8) {
    match c {
        Choice::Known(t) => out.push(number(t)),
        Choice::Unknown(mark) => out.extend_from_slice(&mark),
    }
}

/// The stored fingerprint of a command.
#[derive(Clone, Copy, Debug)]
pub struct CommandFingerprint<'a>(pub &'a [u8]);

impl<'a> CommandFingerprint<'a> {
    /// Kind of the command.
    pub fn kind(self) -> Option<Kind> {
        Kind::from_number(*self.0.first()?)
    }

    fn parts(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.0.get(1..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (&n, tail) = rest.split_first()?;
            let (part, tail) = tail.split_at_checked(usize::from(n))?;
            rest = tail;
            Some(part)
        })
    }

    fn part(self, name: &str) -> Option<&'a [u8]> {
        let i = fields(self.kind()?).iter().position(|f| *f == name)?;
        self.parts().nth(i).filter(|p| !p.is_empty())
    }

    /// The first field in which two fingerprints differ; `None` if they are equal.
    pub fn conflict(self, other: CommandFingerprint<'_>) -> Option<&'static str> {
        if self.0 == other.0 {
            return None;
        }

        let Some(kind) = self.kind().filter(|k| Some(*k) == other.kind()) else {
            return Some("command");
        };

        // An older version may have written fewer fields. A missing field counts as its default,
        // which is empty.
        let mut a = self.parts();
        let mut b = other.parts();
        fields(kind)
            .iter()
            .copied()
            .find(|_| a.next().unwrap_or_default() != b.next().unwrap_or_default())
    }

    /// The symbol; `None` if the kind has none.
    pub fn symbol(self) -> Option<&'a str> {
        std::str::from_utf8(self.part("symbol")?).ok()
    }

    /// Buy or sell.
    pub fn side(self) -> Option<Side> {
        Side::from_number(*self.part("order_type")?.first()?)
    }

    /// The quantity, if the value can be shown.
    pub fn quantity(self) -> Option<i64> {
        exact(self.part("quantity")?)
    }

    /// The amount in 10^-4 units, if the value can be shown.
    pub fn amount(self) -> Option<i64> {
        exact(self.part("amount")?)
    }

    /// The stop price in 10^-4 units, if the value can be shown.
    pub fn stop_price(self) -> Option<i64> {
        exact(self.part("stop_price")?)
    }

    /// The limit price in 10^-4 units, if the value can be shown.
    pub fn limit_price(self) -> Option<i64> {
        exact(self.part("limit_price")?)
    }

    /// The order type; `None` for an unknown word.
    pub fn order_type(self) -> Option<OrderType> {
        OrderType::from_number(word(self.part("type")?)?)
    }

    /// Time in force; `None` for an unknown word.
    pub fn tif(self) -> Option<TimeInForce> {
        TimeInForce::from_number(word(self.part("tif")?)?)
    }

    /// The deadline in microseconds, rounded up, if the value can be shown.
    pub fn expire_at_us(self) -> Option<i64> {
        let ns = varint::take_signed(&mut self.part("expire_at")?)?;
        let us = ns.checked_add(999)?.div_euclid(1_000);
        i64::try_from(us).ok().and_then(|n| Num::Exact(n).shown())
    }

    /// True if the order may only rest.
    pub fn post_only(self) -> bool {
        self.part("post_only").is_some()
    }
}

/// The number of a known word. An unknown word has a mark of sixteen bytes instead.
fn word(part: &[u8]) -> Option<u8> {
    match part {
        [number] => Some(*number),
        _ => None,
    }
}

fn exact(part: &[u8]) -> Option<i64> {
    let (0, mut rest) = part.split_first().map(|(tag, rest)| (*tag, rest))? else {
        return None;
    };

    Num::Exact(varint::take_i64(&mut rest)?).shown()
}

#[cfg(test)]
mod tests {
    use super::super::command::decode;
    use super::*;

    fn content(json: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put(
            &decode(json.as_bytes()).unwrap_or_else(|m| panic!("{json}: {m:?}")),
            &mut out,
        );
        out
    }

    const BASE: &str = r#"{"order_id":"1","user_id":"u","symbol":"AAPL","quantity":10,"order_type":"buy","timestamp":1}"#;

    #[test]
    fn d1_d10_the_same_in_other_words() {
        let base = content(BASE);
        for same in [
            r#"{"user_id":"u","order_id":"1","timestamp":2,"order_type":"buy","quantity":"10.0","symbol":"AAPL"}"#,
            r#"{"user_id":"u","order_id":"1","order_type":"buy","quantity":1e1,"symbol":"AAPL","command":"new","type":"market","tif":"IOC","post_only":false,"limit_price":null,"unknown":[1]}"#,
        ] {
            assert_eq!(content(same), base, "{same}");
        }
    }

    #[test]
    fn d3_d4_the_first_difference_is_named() {
        let base = content(BASE);
        for (from, to, field) in [
            (
                r#""AAPL","quantity":10"#,
                r#""MSFT","quantity":11"#,
                "symbol",
            ),
            ("10", "20", "quantity"),
            ("10", "10.5", "quantity"),
            ("\"buy\"", "\"sell\",\"tif\":\"FOK\"", "order_type"),
            ("\"buy\"", "\"buy\",\"type\":\"limit\"", "type"),
            ("\"buy\"", "\"buy\",\"type\":\"odd\"", "type"),
            ("\"buy\"", "\"buy\",\"limit_price\":1", "limit_price"),
            ("\"buy\"", "\"buy\",\"stop_price\":1", "stop_price"),
            ("\"buy\"", "\"buy\",\"tif\":\"FOK\"", "tif"),
            ("\"buy\"", "\"buy\",\"expire_at\":1", "expire_at"),
            ("\"buy\"", "\"buy\",\"post_only\":true", "post_only"),
            (
                "\"buy\"",
                "\"buy\",\"command\":\"deposit\",\"amount\":1",
                "command",
            ),
        ] {
            let other = content(&BASE.replace(from, to));
            assert_eq!(
                CommandFingerprint(&base).conflict(CommandFingerprint(&other)),
                Some(field),
                "{to}"
            );
            assert_eq!(
                CommandFingerprint(&other).conflict(CommandFingerprint(&base)),
                Some(field),
                "{to}"
            );
        }

        assert_eq!(
            CommandFingerprint(&base).conflict(CommandFingerprint(&base)),
            None
        );
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(
            content(BASE),
            b"\x01\x04AAPL\x02\x00\x14\x01\x01\x01\x01\x00\x00\x01\x03\x00\x00"
        );
        let c =
            CommandFingerprint(b"\x01\x04AAPL\x02\x00\x14\x01\x01\x01\x01\x00\x00\x01\x03\x00\x00");
        assert_eq!(
            (c.symbol(), c.quantity(), c.side(), c.limit_price()),
            (Some("AAPL"), Some(10), Some(Side::Buy), None)
        );
        let d = content(r#"{"user_id":"u","order_id":"1","command":"deposit","amount":"2.5"}"#);
        assert_eq!(d, b"\x05\x04\x00\xd0\x86\x03");
        assert_eq!(CommandFingerprint(&d).amount(), Some(25_000));
        let (user, operator) = (
            r#"{"user_id":"u","order_id":"1","command":"cancel","orig_order_id":"2"}"#,
            r#""command":"cancel","operator":"ana""#,
        );
        let (user, operator) = (
            content(user),
            content(&user.replace(r#""command":"cancel""#, operator)),
        );
        assert_eq!(
            (&user[..], &operator[..]),
            (&b"\x02\x012"[..], &b"\x02\x012\x03ana"[..])
        );
        assert_eq!(
            CommandFingerprint(&user).conflict(CommandFingerprint(&operator)),
            Some("operator")
        );
    }

    #[test]
    fn terms_are_read_back_and_unknown_words_are_not() {
        let terms = |more: &str| {
            let bytes = content(&BASE.replace("\"buy\"", &format!("\"buy\",{more}")));
            let c = CommandFingerprint(&bytes);
            (c.order_type(), c.tif(), c.expire_at_us(), c.post_only())
        };

        assert_eq!(
            terms(
                r#""type":"limit","limit_price":1,"tif":"GTD","expire_at":1625159076000000001,"post_only":true"#
            ),
            (
                Some(OrderType::Limit),
                Some(TimeInForce::Gtd),
                Some(1_625_159_076_000_001),
                true
            ),
        );
        assert_eq!(
            terms(r#""type":"odd","tif":"odd""#),
            (None, None, None, false),
        );
        assert_eq!(
            terms(r#""post_only":false"#),
            (Some(OrderType::Market), Some(TimeInForce::Ioc), None, false),
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(a: Vec<u8>, b: Vec<u8>) {
            let a = CommandFingerprint(&a);
            let b = CommandFingerprint(&b);
            let _ = (a.conflict(b), a.symbol(), a.quantity(), a.side(), a.amount(), a.limit_price());
            let _ = (a.order_type(), a.tif(), a.stop_price(), a.expire_at_us(), a.post_only());
        }
    }
}
