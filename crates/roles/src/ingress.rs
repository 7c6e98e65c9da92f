//! First checks of a client's record, before its value is decoded.

use engine::context::Ctx;
use engine::role::InvariantViolation;
use ports::records::{NO_LOG_TIME, Record};
use wire::topics::INPUT_BYTES_MAX;

/// Key and value of a valid record; `None` if the record went to `dead-letters`.
pub(super) fn validate_envelope<'r>(
    ctx: &mut Ctx<'_>,
    record: &Record<'r>,
) -> Option<(&'r [u8], &'r [u8])> {
    let value = record.value;
    if record.timestamp_ms == NO_LOG_TIME {
        ctx.dead_letter(
            record,
            "NO_LOG_TIME",
            "the topic's message.timestamp.type was CreateTime: the client chose the time; send it again",
        );
        return None;
    }

    if value.is_some_and(|v| v.len() > INPUT_BYTES_MAX) {
        ctx.dead_letter(
            record,
            "OVERSIZE",
            "the value is larger than 64 KiB; send smaller ones",
        );
        return None;
    }

    let Some(key) = record.key else {
        ctx.dead_letter(
            record,
            "MALFORMED",
            "the record has no key; the key decides where a record belongs",
        );
        return None;
    };

    let due = ctx.partition_of(record.at.topic, key);
    if due != record.at.partition {
        let text = format!(
            "the key belongs to partition {due}; use the Java client's default partitioner (murmur2)"
        );
        ctx.dead_letter(record, "MISPARTITIONED", &text);
        return None;
    }

    let Some(value) = value else {
        ctx.dead_letter(record, "MALFORMED", "the record has no value");
        return None;
    };

    Some((key, value))
}

/// Error with the source record's name.
pub(super) fn violation(ctx: &Ctx<'_>, what: impl std::fmt::Display) -> InvariantViolation {
    InvariantViolation(format!("{}: {what}", ctx.src()))
}

/// Value of a record between our roles, which always has a value.
pub(super) fn internal_value<'r>(
    ctx: &Ctx<'_>,
    record: &Record<'r>,
) -> Result<&'r [u8], InvariantViolation> {
    record
        .value
        .ok_or_else(|| violation(ctx, "a record of ours without a value"))
}
