//! Refusals by brokers, with the remedy. The engine decides if a refusal ends the process. A
//! refusal at the first start ends the process. A later refusal may pass: a restarting broker may
//! not know its users yet.

use ports::LogError;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::admin::Admin;
use super::config::KafkaSettings;

/// A refused login, or a missing right.
pub(super) fn forbidden(what: &str) -> LogError {
    LogError::Refused(format!(
        "the brokers refuse access ({what}); check the credentials (-X, or [kafka] in the file) and the cluster's ACLs"
    ))
}

/// The group refuses the member.
pub(super) fn by_group(
    code: Code,
    text: &str,
    group: &str,
    settings: &KafkaSettings,
    admin: Option<&Admin<'_>>,
) -> LogError {
    let way_out = match code {
        Code::InvalidSessionTimeout => {
            let bound = |name: &str| admin.and_then(|a| a.broker_setting(name)).unwrap_or_else(|| "unknown".into());
            format!(
                "session.timeout.ms is {}, and the brokers allow {} to {} (group.min.session.timeout.ms, group.max.session.timeout.ms): change one of them",
                settings.session().as_millis(),
                bound("group.min.session.timeout.ms"),
                bound("group.max.session.timeout.ms")
            )
        }
        Code::InconsistentGroupProtocol => {
            "another kind of program is in this group: stop that program, or use another --topic-prefix".to_string()
        }
        Code::GroupMaxSizeReached => {
            "the group has as many members as the brokers allow (group.max.size): raise that, or stop some".to_string()
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature => {
            "the brokers are too old for static members: version 2.4 or later is needed".to_string()
        }
        _ => "see the brokers' log".to_string(),
    };

    LogError::Refused(format!(
        "group {group} does not take this member in ({text}): {way_out}"
    ))
}
