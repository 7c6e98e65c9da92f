//! The meaning of librdkafka's errors for a transaction, and for a read. Each code carries the
//! reason for its place.
//!
//! "Not committed" is only said before the commit request can have been sent. After that an error
//! proves nothing: librdkafka may report a failure for a commit that the broker carried out. Then
//! the answer is "unknown", and the group's stable offsets decide.

use rdkafka::error::RDKafkaErrorCode as Code;

use super::ffi::TxError;

/// Where in the transaction it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TxStep {
    /// Up to and including the offsets: the end of the transaction was not requested yet.
    BeforeCommit,
    /// The commit itself.
    Commit,
}

/// The verdict about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TxErrorClass {
    /// Call again with the same arguments, until the transaction's time is up.
    Again,
    /// Certainly not committed.
    Not,
    /// Perhaps committed.
    Unknown,
    /// Another producer has our transactional id, or the broker gave the transaction up: the group
    /// tells which (see `fencing`).
    ProducerFenced,
    /// Another process is this group member now.
    InstanceFenced,
    /// The brokers do not allow it, and will not until somebody changes their ACLs: the process
    /// ends. Whether the transaction was committed all the same (a commit that was answered late
    /// and asked for again) is for its successor to find out.
    Forbidden,
}

/// Judges an error of a transactional call.
pub(super) fn transaction(step: TxStep, e: &TxError) -> TxErrorClass {
    match e.code {
        // The group's word on static members is final and does not depend on timeouts.
        Code::FencedInstanceId => TxErrorClass::InstanceFenced,
        // All three names of "your epoch is old". Adding offsets reports it as merely abortable;
        // fatal or not, this producer is done.
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => {
            TxErrorClass::ProducerFenced
        }
        code if is_forbidden(code) => TxErrorClass::Forbidden,
        // A time-out or a coordinator that is moving. A fatal or abortable error is never worth a
        // second try, whatever its other flags say.
        _ if e.retriable && !e.fatal && !e.abortable => TxErrorClass::Again,
        _ => match step {
            // ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID: the group moved on. INVALID_TXN_STATE, lost
            // sequences: the producer is broken.
            TxStep::BeforeCommit => TxErrorClass::Not,
            // Also "the commit succeeded, but the transaction had failed locally".
            TxStep::Commit => TxErrorClass::Unknown,
        },
    }
}

/// Whether the brokers refuse because a right is missing.
pub(super) fn is_forbidden(code: Code) -> bool {
    missing_right(code, "", "", "").is_some()
}

/// The right that is missing, in the words of Kafka's tools; none if the error is not about rights.
/// `topics`: which right on which topics the request was about, if any.
pub(super) fn missing_right(
    code: Code,
    topics: &str,
    group: &str,
    instance: &str,
) -> Option<String> {
    match code {
        Code::TopicAuthorizationFailed => Some(topics.to_string()),
        Code::GroupAuthorizationFailed => Some(format!("Read on group {group}")),
        Code::TransactionalIdAuthorizationFailed => {
            Some(format!("Write and Describe on transactional id {instance}"))
        }
        Code::ClusterAuthorizationFailed => Some("IdempotentWrite on the cluster".to_string()),
        _ => None,
    }
}

/// Whether an error is an answer about a record itself, which the same record will meet again
/// however often it is sent; Kafka's name of it.
pub(super) fn refusal(code: Code) -> Option<&'static str> {
    match code {
        Code::MessageSizeTooLarge => Some("MESSAGE_TOO_LARGE"),
        Code::MessageBatchTooLarge => Some("RECORD_LIST_TOO_LARGE"),
        Code::InvalidMessageSize => Some("INVALID_FETCH_SIZE"),
        Code::InvalidTimestamp => Some("INVALID_TIMESTAMP"),
        Code::InvalidRecord => Some("INVALID_RECORD"),
        Code::PolicyViolation => Some("POLICY_VIOLATION"),
        Code::UnsupportedCompressionType => Some("UNSUPPORTED_COMPRESSION_TYPE"),
        Code::UnsupportedForMessageFormat => Some("UNSUPPORTED_FOR_MESSAGE_FORMAT"),
        // CORRUPT_MESSAGE is not among them: bytes that were changed on their way are sent again.
        _ => None,
    }
}

/// The meaning of a consumer's error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Read {
    /// librdkafka goes on by itself.
    Passing,
    /// This member's place was taken.
    Fenced,
    /// The position to read from is not there any more.
    PositionGone,
    /// A topic is missing.
    NoTopic,
    /// We may not.
    Forbidden,
    /// The group does not take the member in, and will not until a setting is changed.
    GroupRefuses,
    /// The record that is there cannot be read. Librdkafka may go on behind it.
    Unreadable,
    /// Only a new incarnation helps.
    Broken,
}

/// Judges an error of a consumer; `fatal` as the client says.
pub(super) fn read(code: Code, fatal: bool) -> Read {
    match code {
        Code::FencedInstanceId => Read::Fenced,
        Code::AutoOffsetReset | Code::OffsetOutOfRange => Read::PositionGone,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            Read::NoTopic
        }
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::Authentication
        | Code::SaslAuthenticationFailed => Read::Forbidden,
        // Answers to JoinGroup; librdkafka asks again every second, with the same answer.
        Code::InvalidSessionTimeout
        | Code::InconsistentGroupProtocol
        | Code::GroupMaxSizeReached
        | Code::InvalidGroupId
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature => Read::GroupRefuses,
        // A wrong checksum, a compression that does not come out or is not built in, a format from
        // the future, a record beyond all bounds.
        Code::BadMessage
        | Code::BadCompression
        | Code::NotImplemented
        | Code::MessageSizeTooLarge => Read::Unreadable,
        _ if fatal => Read::Broken,
        // Lost connections, moving leaders and coordinators, and a poll that came late (the
        // revocation follows by itself).
        _ => Read::Passing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn e(code: Code, flags: &str) -> TxError {
        let has = |c| flags.contains(c);
        TxError {
            code,
            fatal: has('f'),
            retriable: has('r'),
            abortable: has('a'),
            text: String::new(),
        }
    }

    /// Error classes as they were seen from a broker or read in librdkafka's source; f = fatal, r =
    /// retriable, a = abortable.
    #[test]
    fn every_known_error_class_has_its_verdict() {
        use TxStep::*;
        let table = [
            (Commit, e(Code::Fenced, "f"), TxErrorClass::ProducerFenced),
            (
                Commit,
                e(Code::ProducerFenced, "f"),
                TxErrorClass::ProducerFenced,
            ),
            (
                Commit,
                e(Code::InvalidProducerEpoch, "f"),
                TxErrorClass::ProducerFenced,
            ),
            (
                Commit,
                e(Code::InvalidTransactionalState, "f"),
                TxErrorClass::Unknown,
            ),
            (
                Commit,
                e(Code::OutOfOrderSequenceNumber, "f"),
                TxErrorClass::Unknown,
            ),
            (
                BeforeCommit,
                e(Code::IllegalGeneration, "a"),
                TxErrorClass::Not,
            ),
            (
                BeforeCommit,
                e(Code::UnknownMemberId, "a"),
                TxErrorClass::Not,
            ),
            (
                BeforeCommit,
                e(Code::FencedInstanceId, "a"),
                TxErrorClass::InstanceFenced,
            ),
            (
                BeforeCommit,
                e(Code::Fenced, "a"),
                TxErrorClass::ProducerFenced,
            ),
            (
                Commit,
                e(Code::InvalidTransactionalState, "a"),
                TxErrorClass::Unknown,
            ),
            (
                Commit,
                e(Code::MessageSizeTooLarge, "a"),
                TxErrorClass::Unknown,
            ),
            (Commit, e(Code::OperationTimedOut, "r"), TxErrorClass::Again),
            (
                BeforeCommit,
                e(Code::OperationTimedOut, "r"),
                TxErrorClass::Again,
            ),
            (
                Commit,
                e(Code::UnsupportedFeature, "r"),
                TxErrorClass::Again,
            ),
            (Commit, e(Code::Unknown, "a"), TxErrorClass::Unknown),
            (Commit, e(Code::Unknown, "ra"), TxErrorClass::Unknown),
            (BeforeCommit, e(Code::State, ""), TxErrorClass::Not),
            (
                BeforeCommit,
                e(Code::TopicAuthorizationFailed, "a"),
                TxErrorClass::Forbidden,
            ),
            (
                BeforeCommit,
                e(Code::GroupAuthorizationFailed, "a"),
                TxErrorClass::Forbidden,
            ),
            (
                BeforeCommit,
                e(Code::TransactionalIdAuthorizationFailed, "f"),
                TxErrorClass::Forbidden,
            ),
            (
                BeforeCommit,
                e(Code::ClusterAuthorizationFailed, "f"),
                TxErrorClass::Forbidden,
            ),
            (
                Commit,
                e(Code::TransactionalIdAuthorizationFailed, "f"),
                TxErrorClass::Forbidden,
            ),
        ];

        for (step, error, verdict) in table {
            assert_eq!(transaction(step, &error), verdict, "{step:?} {error:?}");
        }
    }

    #[test]
    fn an_outage_is_no_refusal() {
        assert_eq!(
            refusal(Code::MessageSizeTooLarge),
            Some("MESSAGE_TOO_LARGE")
        );
        assert_eq!(refusal(Code::InvalidTimestamp), Some("INVALID_TIMESTAMP"));
        for code in [
            Code::MessageTimedOut,
            Code::BrokerTransportFailure,
            Code::NotEnoughReplicas,
            Code::NotEnoughReplicasAfterAppend,
            Code::RequestTimedOut,
            Code::LeaderNotAvailable,
            Code::UnknownTopicOrPartition,
            Code::PurgeQueue,
            Code::PurgeInflight,
            Code::InvalidMessage,
            Code::QueueFull,
            Code::ThrottlingQuotaExceeded,
            Code::InvalidProducerEpoch,
        ] {
            assert_eq!(refusal(code), None, "{code:?}");
        }
    }

    #[test]
    fn consumer_errors() {
        assert_eq!(read(Code::FencedInstanceId, true), Read::Fenced);
        assert_eq!(read(Code::PollExceeded, false), Read::Passing);
        assert_eq!(read(Code::AllBrokersDown, false), Read::Passing);
        assert_eq!(read(Code::AutoOffsetReset, false), Read::PositionGone);
        assert_eq!(read(Code::UnreleasedInstanceId, true), Read::Broken);
        assert_eq!(read(Code::InvalidSessionTimeout, false), Read::GroupRefuses);
        assert_eq!(read(Code::BadMessage, false), Read::Unreadable);
    }
}
