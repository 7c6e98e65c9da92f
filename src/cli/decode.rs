//! Decodes any record for people: MessagePack and JSON values as they were sent, other bytes as
//! hexadecimal. No record is refused.

use std::borrow::Cow;

use data_encoding::HEXLOWER;
use ports::records::Record;
use ports::topics::TopicId;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Number, Value};
use wire::topics as t;

use super::shown::{self, Fields, SentValue, word};

/// Deepest nesting to decode; deeper values are shown as raw text.
const DEPTH_MAX: usize = 64;

/// A record's value, for programs. See [`SentValue::into_value`] for the losses.
pub fn value(bytes: &[u8]) -> Value {
    shown(bytes).into_value()
}

/// A record's value as it was sent. Secrets are masked.
pub fn shown(bytes: &[u8]) -> SentValue {
    let bytes = &*masked(bytes);
    if bytes.first() == Some(&b'{')
        && let Some(v) = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| serde_json::from_str(text).ok())
            .and_then(|raw| json(raw, 0))
    {
        return v;
    }

    let mut rest = bytes;
    let decoded = {
        let mut d = rmp_serde::Deserializer::new(&mut rest);
        d.set_max_depth(DEPTH_MAX);
        Any::deserialize(&mut d)
    };

    match decoded {
        // A single number or text is probably the first byte of another encoding.
        Ok(Any(v @ (SentValue::Map(_) | SentValue::List(_)))) if rest.is_empty() => v,
        _ => SentValue::Bytes(HEXLOWER.encode(bytes)),
    }
}

/// Decodes JSON from its text, so that numbers keep their digits and maps keep repeated keys.
fn json(raw: &RawValue, depth: usize) -> Option<SentValue> {
    let text = raw.get();
    Some(match text.as_bytes().first()? {
        b'{' | b'[' if depth == DEPTH_MAX => SentValue::Text(text.into()),
        b'{' => {
            let pairs: Pairs<'_> = serde_json::from_str(text).ok()?;
            SentValue::Map(
                pairs
                    .0
                    .into_iter()
                    .map(|(name, v)| Some((name, json(v, depth + 1)?)))
                    .collect::<Option<_>>()?,
            )
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            SentValue::List(
                items
                    .into_iter()
                    .map(|v| json(v, depth + 1))
                    .collect::<Option<_>>()?,
            )
        }
        b'"' => SentValue::Text(serde_json::from_str(text).ok()?),
        b't' | b'f' => SentValue::Bool(text == "true"),
        b'n' => SentValue::Null,
        _ => SentValue::Number(text.into()),
    })
}

/// Prefix of webhook secrets, in any record.
const SECRET: &[u8] = b"whsec_";

/// The bytes with `*` in place of every secret. The length stays the same, so that length prefixes
/// of the encoding stay valid.
fn masked(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut masked = Cow::Borrowed(bytes);
    let mut at = 0;
    let end = bytes.len();
    while let Some(found) = bytes[at..end]
        .windows(SECRET.len())
        .position(|w| w == SECRET)
    {
        at += found + SECRET.len();
        while at < end && (bytes[at].is_ascii_alphanumeric() || b"+/=_-".contains(&bytes[at])) {
            masked.to_mut()[at] = b'*';
            at += 1;
        }
    }

    masked
}

/// Printable text as text, other bytes as hexadecimal. Secrets are masked.
pub fn text(bytes: &[u8]) -> String {
    let bytes = &*masked(bytes);
    match std::str::from_utf8(bytes) {
        Ok(s) if !s.chars().any(char::is_control) => s.to_string(),
        _ => format!("0x{}", HEXLOWER.encode(bytes)),
    }
}

/// Bytes as one word in a line. Text that looks like hexadecimal output is quoted.
pub fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(&masked(bytes)) {
        Ok(s) if s.starts_with("0x") => shown::quoted(s),
        Ok(s) => word(s).into_owned(),
        Err(_) => format!("0x{}", HEXLOWER.encode(bytes)),
    }
}

/// Topics with trusted headers, because only roles write them. On other topics, clients may write
/// any header.
const OURS: [TopicId; 9] = [
    t::ORDER_EVENTS,
    t::TRADES,
    t::REFERENCE_PRICES,
    t::PORTFOLIOS,
    t::NOTIFICATIONS,
    t::AUDIT_LOG,
    t::BOOK_COMMANDS,
    t::EXECUTIONS,
    t::DEAD_LETTERS,
];

/// True if only roles write the values of the topic. The value of a dead letter comes from its
/// sender.
pub fn is_ours(topic: TopicId) -> bool {
    topic != t::DEAD_LETTERS && OURS.contains(&topic)
}

/// A header's text as one word, on topics that only roles write.
pub fn header(r: &Record<'_>, name: &str) -> Option<String> {
    r.headers
        .text(name)
        .filter(|_| OURS.contains(&r.at.topic))
        .map(|text| word(text).into_owned())
}

/// A whole record: offset, log time, key, headers and value.
pub fn record(topic: &str, r: &Record<'_>) -> Fields {
    let headers = r
        .headers
        .iter()
        .map(|(n, v)| (n.to_string(), SentValue::Text(text(v))))
        .collect();
    let number = |n: &dyn std::fmt::Display| SentValue::Number(n.to_string());
    [
        ("topic", SentValue::Text(topic.into())),
        ("partition", number(&r.at.partition)),
        ("offset", number(&r.offset)),
        ("time", SentValue::Text(time(r.timestamp_ms))),
        ("timestamp_ms", number(&r.timestamp_ms)),
        (
            "key",
            r.key.map_or(SentValue::Null, |k| SentValue::Text(text(k))),
        ),
        ("headers", SentValue::Map(headers)),
        ("value", r.value.map_or(SentValue::Null, shown)),
    ]
    .into_iter()
    .map(|(name, v)| (name.to_string(), v))
    .collect()
}

/// A record on one line for people: `time partition/offset key type fields`.
pub fn record_line(r: &Record<'_>) -> String {
    let kind = header(r, "type")
        .map(|t| format!(" {t}"))
        .unwrap_or_default();
    let why = match (header(r, "reason"), r.headers.text("text")) {
        (Some(reason), Some(text)) => format!(" {reason} ({})", shown::one_line(text)),
        (Some(reason), None) => format!(" {reason}"),
        _ => String::new(),
    };

    let key = r.key.map_or("-".into(), name);
    let fields = match r.value.map(shown) {
        None => "tombstone".to_string(),
        Some(SentValue::Map(map)) => shown::fields(&map),
        Some(v) => v.to_string(),
    };

    format!(
        "{} {}/{} {key}{kind}{why} {fields}",
        time(r.timestamp_ms),
        r.at.partition,
        r.offset
    )
}

/// Milliseconds since 1970 in RFC 3339.
pub fn time(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(t) => format!("{t:.3}"),
        Err(_) => ms.to_string(),
    }
}

/// A JSON object with repeated keys.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }

                Ok(Pairs(pairs))
            }
        }
        d.deserialize_map(PairsVisitor)
    }
}

/// Any MessagePack value. Unlike `serde_json::Value`, this type accepts bytes, keys that are not
/// text, and repeated keys.
struct Any(SentValue);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(AnyVisitor).map(Any)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = SentValue;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<SentValue, E> {
        Ok(SentValue::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<SentValue, E> {
        Ok(SentValue::Number(v.to_string()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<SentValue, E> {
        Ok(SentValue::Number(v.to_string()))
    }

    /// The shortest decimal form, as the roles read the number.
    fn visit_f32<E>(self, v: f32) -> Result<SentValue, E> {
        Ok(SentValue::Number(format!("{v:?}")))
    }

    fn visit_f64<E>(self, v: f64) -> Result<SentValue, E> {
        Ok(SentValue::Number(
            Number::from_f64(v).map_or_else(|| v.to_string(), |n| n.to_string()),
        ))
    }

    fn visit_str<E>(self, v: &str) -> Result<SentValue, E> {
        Ok(SentValue::Text(v.into()))
    }

    fn visit_bytes<E>(self, v: &[u8]) -> Result<SentValue, E> {
        Ok(SentValue::Text(HEXLOWER.encode(v)))
    }

    fn visit_unit<E>(self) -> Result<SentValue, E> {
        Ok(SentValue::Null)
    }

    fn visit_none<E>(self) -> Result<SentValue, E> {
        Ok(SentValue::Null)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<SentValue, D::Error> {
        d.deserialize_any(AnyVisitor)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<SentValue, A::Error> {
        let mut items = Vec::new();
        while let Some(Any(v)) = seq.next_element()? {
            items.push(v);
        }

        Ok(SentValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SentValue, A::Error> {
        let mut items = Fields::new();
        while let Some((Any(k), Any(v))) = map.next_entry()? {
            let key = match k {
                SentValue::Text(text) => text,
                other => other.to_string(),
            };

            items.push((key, v));
        }

        Ok(SentValue::Map(items))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_masked_in_whatever_they_lie() {
        let hook = json!({"url": "https://x/", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "kinds": null});
        let hidden = json!({"url": "https://x/", "secret": format!("whsec_{}", "*".repeat(32)), "kinds": null});
        assert_eq!(
            value(&rmp_serde::to_vec_named(&hook).expect("encodes")),
            hidden
        );
        assert_eq!(value(hook.to_string().as_bytes()), hidden);

        // A dead letter: no decoder can read the value, but the secret must be masked.
        let broken = &hook.to_string().into_bytes()[1..];
        let shown = value(broken).to_string();
        assert!(
            !shown.contains(&HEXLOWER.encode(b"MfKQ9r8G"))
                && shown.contains(&HEXLOWER.encode(b"whsec_***")),
            "{shown}"
        );
        assert_eq!(text(b"a whsec_ab+/= whsec_"), "a whsec_***** whsec_");
    }

    #[test]
    fn messagepack_json_and_anything_else() {
        let packed = rmp_serde::to_vec_named(
            &json!({"symbol": "AAPL", "quantity": 10, "deep": [1, null, true]}),
        )
        .expect("encodes");
        assert_eq!(
            value(&packed),
            json!({"symbol": "AAPL", "quantity": 10, "deep": [1, null, true]})
        );
        assert_eq!(value(b"{\"a\": 1}\n"), json!({"a": 1}));
        let mut hash = vec![0x81, 0xa1, b'h', 0xc4, 2, 0xab, 0xcd];
        assert_eq!(value(&hash), json!({"h": "abcd"}));
        hash.push(0);
        assert_eq!(
            value(&hash),
            json!({"bytes": "81a168c402abcd00"}),
            "trailing bytes are not hidden"
        );
        for bad in [
            &b""[..],
            b"{",
            b"\xc1",
            b"\xdf\xff\xff\xff\xff",
            &[0x91; 5000],
        ] {
            assert_eq!(value(bad), json!({"bytes": HEXLOWER.encode(bad)}));
        }

        assert_eq!(text(b"a\x00"), "0x6100");
    }

    /// Regression: numbers went through a float, and only the last of two equal keys was shown.
    #[test]
    fn what_was_sent_is_what_is_shown() {
        for text in [
            r#"{"amount":90071992547409.9301}"#,
            r#"{"amount":1.10,"amount":2e0,"deep":{"x":-0,"x":12345678901234567890123}}"#,
            r#"{"l":[1.000,[],{}],"n":null,"t":true}"#,
        ] {
            assert_eq!(shown(text.as_bytes()).to_string(), text);
            assert_eq!(
                shown(text.replace(':', " : ").as_bytes()).to_string(),
                text,
                "blanks between values are no content"
            );
        }

        assert_eq!(
            shown(b"\x82\xa1a\x01\xa1a\x02").to_string(),
            r#"{"a":1,"a":2}"#
        );
        assert_eq!(
            shown(b"\x81\xa1a\xca\x3d\xcc\xcc\xcd").to_string(),
            r#"{"a":0.1}"#
        );
        assert_eq!(
            shown(b"\x81\xa1a\xcb\x7f\xf8\0\0\0\0\0\0").to_string(),
            r#"{"a":"NaN"}"#
        );
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(
            shown(deep.as_bytes()).to_string().len() > 9000,
            "as far as it goes, and then as text"
        );
    }

    #[test]
    fn headers_are_believed_on_our_own_topics_only() {
        use ports::records::HeaderBuf;
        use ports::topics::TopicPartition;
        let mut headers = HeaderBuf::default();
        headers.push("type", b"OrderFilled user_id:victim");
        let line = |topic| {
            let at = TopicPartition::new(topic, 0);
            let value = &b"{\"note\":\"\\u001b[1A\\n+ x\"}"[..];
            let key = Some(&b"0x61"[..]);
            record_line(&Record {
                at,
                offset: 1,
                timestamp_ms: 0,
                key,
                value: Some(value),
                headers: headers.headers(),
            })
        };

        let note = "note=\"\\u001b[1A\\n+ x\"";
        assert_eq!(
            line(t::ORDER_COMMANDS),
            format!("1970-01-01T00:00:00.000Z 0/1 \"0x61\" {note}")
        );
        assert_eq!(
            line(t::ORDER_EVENTS),
            format!("1970-01-01T00:00:00.000Z 0/1 \"0x61\" \"OrderFilled user_id:victim\" {note}")
        );
    }
}
