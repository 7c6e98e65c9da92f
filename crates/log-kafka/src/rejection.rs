//! Errors for refused records: the record, the broker's rule, and the setting to correct.

use ports::records::{Record, Records};
use ports::topics::{TopicPartition, TopicTable};
use ports::{RECORD_OVERHEAD, Rejection};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::classify;

/// Upper bound of a record's bytes in its topic.
pub(super) fn size(r: &Record<'_>) -> usize {
    r.key.map_or(0, <[u8]>::len)
        + r.value.map_or(0, <[u8]>::len)
        + r.headers.as_bytes().len()
        + RECORD_OVERHEAD
}

/// The record that a broker most likely refused. The broker answers for a whole batch, and a batch
/// has all records of a transaction for the partition.
pub(super) fn to_blame(code: Code, outputs: &Records, at: TopicPartition) -> Option<Record<'_>> {
    let mut sent = outputs.iter().filter(|r| r.at == at);
    match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            sent.max_by_key(size)
        }
        // A wrong clock was ahead, so the record with the newest time is wrong.
        Code::InvalidTimestamp => sent.max_by_key(|r| r.timestamp_ms),
        _ => sent.next(),
    }
}

/// The error text for a refused record.
pub(super) fn of(names: &TopicTable, code: Code, r: Option<&Record<'_>>) -> Rejection {
    let rule = classify::refusal(code).unwrap_or("unknown");
    let Some(r) = r else {
        return Rejection {
            reason: rule.into(),
            text: format!("the brokers refuse a record ({rule})"),
        };
    };

    let topic = names.name(r.at.topic);
    let spec = names.spec(r.at.topic);
    let mut record = format!(
        "a record for {} (key \"{}\", {} bytes",
        names.show(r.at),
        r.key.unwrap_or_default().escape_ascii(),
        size(r)
    );
    if let Some(src) = r.headers.text("src") {
        record += &format!(", caused by {src}");
    }

    let why = match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => format!(
            "is too large for its topic as that is now: raise max.message.bytes of {topic} to {} or more, which `processor topics check` looks at",
            spec.record_bytes_max
        ),
        Code::InvalidTimestamp => format!(
            "has a time that its topic does not accept, {} ms since 1970: a broker's clock was wrong when it stamped what the record follows from. Set \
             message.timestamp.after.max.ms and message.timestamp.before.max.ms of {topic} to 9223372036854775807",
            r.timestamp_ms
        ),
        Code::PolicyViolation => "is against a policy of the brokers: look into their logs for which".into(),
        Code::UnsupportedCompressionType => {
            "came in a compression that the brokers or the topic do not take: look at compression.codec (-X) and the topic's compression.type".into()
        }
        _ => format!("is not what the brokers accept in {topic}: compare its settings with those of `processor topics check`, and look into the brokers' logs"),
    };

    Rejection {
        reason: format!("{rule} {topic}"),
        text: format!("{record}) {why} ({rule})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::records::{HeaderBuf, Headers};
    use wire::topics as t;

    #[test]
    fn the_record_the_rule_and_the_way_out_are_named() {
        let names = t::table("p-");
        let mut out = Records::new();
        let mut headers = HeaderBuf::default();
        headers.push("src", b"p-order-commands/0/17");
        let at = TopicPartition::new(t::ORDER_EVENTS, 3);
        for (key, size, timestamp_ms) in [("a", 10, 7), ("b", 5_000, 5), ("c", 20, 9)] {
            let value = vec![b'x'; size];
            out.push(&Record {
                at,
                offset: 0,
                timestamp_ms,
                key: Some(key.as_bytes()),
                value: Some(&value),
                headers: headers.headers(),
            });
        }

        out.push(&Record {
            at: TopicPartition::new(t::ORDER_EVENTS, 4),
            offset: 0,
            timestamp_ms: 99,
            key: None,
            value: Some(&[0; 9_000]),
            headers: Headers::default(),
        });

        let told = |code| of(&names, code, to_blame(code, &out, at).as_ref());
        let large = told(Code::MessageSizeTooLarge);
        assert_eq!(large.reason, "MESSAGE_TOO_LARGE p-order-events");
        for part in [
            "p-order-events/3",
            "key \"b\"",
            "52",
            "caused by p-order-commands/0/17",
            "raise max.message.bytes of p-order-events",
        ] {
            assert!(large.text.contains(part), "{part}: {}", large.text);
        }

        let late = told(Code::InvalidTimestamp);
        for part in [
            "key \"c\"",
            "9 ms since 1970",
            "message.timestamp.after.max.ms and message.timestamp.before.max.ms of p-order-events",
        ] {
            assert!(late.text.contains(part), "{part}: {}", late.text);
        }
    }
}
