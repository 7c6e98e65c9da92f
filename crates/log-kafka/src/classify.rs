//! Meaning of librdkafka's errors for a transaction, and for a read. Each code carries the reason
//! for its class.
//!
//! "Not committed" is returned only before the commit request can have been sent. A later error
//! proves nothing: librdkafka may report a failure for a commit that the broker carried out. The
//! class is then "unknown", and the group's stable offsets decide.

use rdkafka::error::RDKafkaErrorCode as Code;

use super::ffi::TxError;

/// The step of the transaction that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TxStep {
    /// Up to and including the offsets: the commit was not requested yet.
    BeforeCommit,
    Commit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TxErrorClass {
    /// Retriable: repeat the call with the same arguments until the transaction's time is up.
    Again,
    /// Certainly not committed.
    Not,
    /// The outcome is unknown: the transaction may be committed.
    Unknown,
    /// Another producer has our transactional id, or the broker aborted the transaction after its
    /// timeout. The group decides between both (see `fence_diagnosis`).
    ProducerFenced,
    /// Another process has this group membership now.
    InstanceFenced,
    /// The brokers deny access until an operator changes the ACLs. The process ends. The
    /// transaction may still be committed, if librdkafka sent a commit again after a late answer.
    /// The next process finds out.
    Forbidden,
}

/// Classifies an error of a transactional call.
pub(super) fn transaction(step: TxStep, e: &TxError) -> TxErrorClass {
    match e.code {
        // The group's answer about static members is final and does not depend on timeouts.
        Code::FencedInstanceId => TxErrorClass::InstanceFenced,
        // All three codes say that the epoch is old. Adding offsets reports the error as only
        // abortable. This producer cannot go on, whether the error is fatal or not.
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => {
            TxErrorClass::ProducerFenced
        }
        code if is_forbidden(code) => TxErrorClass::Forbidden,
        // A timeout, or a coordinator that is moving. A fatal or abortable error is never retried,
        // whatever its other flags say.
        _ if e.retriable && !e.fatal && !e.abortable => TxErrorClass::Again,
        _ => match step {
            // ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID: the group has a newer generation.
            // INVALID_TXN_STATE, lost sequence numbers: the producer is broken.
            TxStep::BeforeCommit => TxErrorClass::Not,
            // Includes "the commit succeeded, but the transaction had failed locally".
            TxStep::Commit => TxErrorClass::Unknown,
        },
    }
}

/// True if the brokers refuse because an ACL is missing.
pub(super) fn is_forbidden(code: Code) -> bool {
    missing_right(code, "", "", "").is_some()
}

/// The missing right, in the terms of Kafka's tools. `None` if the error is not about rights.
/// `topics`: the right and the topics of the request, if any.
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

/// Kafka's name of an error about the record itself. The same record gets the same error at every
/// retry.
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
        // CORRUPT_MESSAGE is not in this list: librdkafka sends bytes again that were changed in
        // transit.
        _ => None,
    }
}

/// Meaning of a consumer's error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Read {
    /// librdkafka continues by itself.
    Passing,
    /// Another process has this member's group membership.
    Fenced,
    /// The offset to read from does not exist any more.
    PositionGone,
    /// A topic is missing.
    NoTopic,
    /// An ACL is missing, or authentication failed.
    Forbidden,
    /// The group refuses the member until an operator changes a setting.
    GroupRefuses,
    /// The record at this offset cannot be read. librdkafka may continue behind the record.
    Unreadable,
    /// Only a new incarnation helps.
    Broken,
}

/// Classifies an error of a consumer. `fatal` is the client's own flag.
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
        // Answers to JoinGroup. librdkafka retries every second and gets the same answer.
        Code::InvalidSessionTimeout
        | Code::InconsistentGroupProtocol
        | Code::GroupMaxSizeReached
        | Code::InvalidGroupId
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature => Read::GroupRefuses,
        // A wrong checksum, a failed or unsupported decompression, an unknown newer format, or a
        // record beyond all bounds.
        Code::BadMessage
        | Code::BadCompression
        | Code::NotImplemented
        | Code::MessageSizeTooLarge => Read::Unreadable,
        _ if fatal => Read::Broken,
        // Lost connections, moving leaders and coordinators, or a late poll (librdkafka then
        // revokes by itself).
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

    /// Error classes seen from a broker or read in librdkafka's source. f = fatal, r = retriable, a
    /// = abortable.
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
