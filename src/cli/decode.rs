//! Any record as JSON for people: MessagePack and JSON values decoded, bytes as hexadecimal, nothing refused.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};

use crate::engine::records::Record;

/// A record's value. What is neither JSON nor one whole MessagePack value is shown as `{"bytes": "..."}`. Secrets are masked.
pub fn value(bytes: &[u8]) -> Value {
    let bytes = &*masked(bytes);
    if bytes.first() == Some(&b'{')
        && let Ok(v) = serde_json::from_slice(bytes)
    {
        return v;
    }
    let mut rest = bytes;
    let decoded = {
        let mut d = rmp_serde::Deserializer::new(&mut rest);
        d.set_max_depth(64);
        Any::deserialize(&mut d)
    };
    match decoded {
        // A lone number or text is more likely some other encoding's first byte.
        Ok(Any(v @ (Value::Object(_) | Value::Array(_)))) if rest.is_empty() => v,
        _ => json!({ "bytes": hex(bytes) }),
    }
}

/// How secrets of webhooks begin, wherever they are.
const SECRET: &[u8] = b"whsec_";

/// The same bytes with `*` in the place of every secret. Lengths stay, so that whatever encoding it is can still be read.
fn masked(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut masked = Cow::Borrowed(bytes);
    let (mut at, end) = (0, bytes.len());
    while let Some(found) = bytes[at..end].windows(SECRET.len()).position(|w| w == SECRET) {
        at += found + SECRET.len();
        while at < end && (bytes[at].is_ascii_alphanumeric() || b"+/=_-".contains(&bytes[at])) {
            masked.to_mut()[at] = b'*';
            at += 1;
        }
    }
    masked
}

/// Text if it is text, else hexadecimal. Secrets are masked.
pub fn text(bytes: &[u8]) -> String {
    let bytes = &*masked(bytes);
    match std::str::from_utf8(bytes) {
        Ok(s) if !s.chars().any(char::is_control) => s.to_string(),
        _ => format!("0x{}", hex(bytes)),
    }
}

/// A whole record: where it is, when, its key, headers and value.
pub fn record(topic: &str, r: &Record<'_>) -> Value {
    let headers: Map<String, Value> = r.headers.iter().map(|(n, v)| (n.to_string(), Value::String(text(v)))).collect();
    json!({
        "topic": topic,
        "partition": r.at.partition,
        "offset": r.offset,
        "time": time(r.timestamp_ms),
        "timestamp_ms": r.timestamp_ms,
        "key": r.key.map(text),
        "headers": headers,
        "value": r.value.map(value),
    })
}

/// The same on one line for reading: `time partition/offset key type fields`.
pub fn record_line(r: &Record<'_>) -> String {
    let kind = r.headers.text("type").map(|t| format!(" {t}")).unwrap_or_default();
    let why = match (r.headers.text("reason"), r.headers.text("text")) {
        (Some(reason), Some(text)) => format!(" {reason} ({text})"),
        (Some(reason), None) => format!(" {reason}"),
        _ => String::new(),
    };
    let key = r.key.map_or("-".into(), text);
    let fields = match r.value.map(value) {
        None => "tombstone".to_string(),
        Some(Value::Object(map)) if !map.contains_key("bytes") => fields(&map),
        Some(v) => v.to_string(),
    };
    format!("{} {}/{} {key}{kind}{why} {fields}", time(r.timestamp_ms), r.at.partition, r.offset)
}

/// `name=value` pairs in the record's order.
pub fn fields(map: &Map<String, Value>) -> String {
    let mut line = String::new();
    for (name, value) in map {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(name);
        line.push('=');
        match value {
            Value::String(s) if !s.is_empty() && !s.contains([' ', '"', '=']) => line.push_str(s),
            other => line.push_str(&other.to_string()),
        }
    }
    line
}

/// Milliseconds since 1970 in RFC 3339.
pub fn time(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(t) => format!("{t:.3}"),
        Err(_) => ms.to_string(),
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        write!(s, "{b:02x}").expect("writing to a string");
        s
    })
}

/// Any MessagePack value, as JSON; unlike `serde_json::Value` it takes bytes and keys that are not text.
struct Any(Value);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(AnyVisitor).map(Any)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or_else(|| Value::String(v.to_string()), Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_bytes<E>(self, v: &[u8]) -> Result<Value, E> {
        Ok(hex(v).into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(AnyVisitor)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Any(v)) = seq.next_element()? {
            items.push(v);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut items = Map::new();
        while let Some((Any(k), Any(v))) = map.next_entry()? {
            items.insert(super::output::plain(&k), v);
        }
        Ok(Value::Object(items))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_in_whatever_they_lie() {
        let hook = json!({"url": "https://x/", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "kinds": null});
        let hidden = json!({"url": "https://x/", "secret": format!("whsec_{}", "*".repeat(32)), "kinds": null});
        assert_eq!(value(&rmp_serde::to_vec_named(&hook).expect("encodes")), hidden);
        assert_eq!(value(hook.to_string().as_bytes()), hidden);
        // A dead letter: nothing can read it, and it holds the secret all the same.
        let broken = &hook.to_string().into_bytes()[1..];
        let shown = value(broken).to_string();
        assert!(!shown.contains(&hex(b"MfKQ9r8G")) && shown.contains(&hex(b"whsec_***")), "{shown}");
        assert_eq!(text(b"a whsec_ab+/= whsec_"), "a whsec_***** whsec_");
    }

    #[test]
    fn messagepack_json_and_anything_else() {
        let packed = rmp_serde::to_vec_named(&json!({"symbol": "AAPL", "quantity": 10, "deep": [1, null, true]})).expect("encodes");
        assert_eq!(value(&packed), json!({"symbol": "AAPL", "quantity": 10, "deep": [1, null, true]}));
        assert_eq!(value(b"{\"a\": 1}\n"), json!({"a": 1}));
        let mut hash = vec![0x81, 0xa1, b'h', 0xc4, 2, 0xab, 0xcd];
        assert_eq!(value(&hash), json!({"h": "abcd"}));
        hash.push(0);
        assert_eq!(value(&hash), json!({"bytes": "81a168c402abcd00"}), "trailing bytes are not hidden");
        for bad in [&b""[..], b"{", b"\xc1", b"\xdf\xff\xff\xff\xff", &[0x91; 5000]] {
            assert_eq!(value(bad), json!({"bytes": hex(bad)}));
        }
        assert_eq!(text(b"a\x00"), "0x6100");
    }
}
