//! Allow-list of the librdkafka properties for `-X` and `[kafka]`. Any other property is refused by
//! name, with the reason. Properties of a newer librdkafka are refused, too, until somebody has
//! checked their effect on exactly-once.
//!
//! The bounds keep the program's own timeouts valid: the transaction timeout (20 s), sessions,
//! takeovers. librdkafka or a broker may be stricter, and then reports its own error.

/// Rule for a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Any value that librdkafka accepts.
    Any,
    /// A whole number within these bounds.
    Number(i64, i64),
    /// The property is refused, for this reason.
    Refused(&'static str),
}

use Rule::{Any, Number, Refused};

const BROKERS: &str = "say --brokers, so that every client of the program asks the same cluster";
const POSITIONS: &str = "reading positions are committed with each transaction and in no other way";
const FENCING: &str =
    "it names this instance in its group and its transactions: say --topic-prefix and --instance";
const EXACTLY_ONCE: &str = "exactly-once rests on the program's own value";
const DELIVERY: &str = "transactions need every record acknowledged by all replicas, in order, and told to the program";
const POSITION_GONE: &str = "records that are gone must stop a role; with another value they would be skipped without a word";
const GROUP: &str = "tasks and their fencing rest on the classic protocol and the assignor `range`";
const SUSPECT: &str =
    "the program reads librdkafka's log to learn of lost connections; say --log for what is shown";
const SIZES: &str =
    "the program checks the size of each record against the topics' max.message.bytes";
const PARTITION: &str = "the program chooses the partition of each record itself";
const CODE: &str = "it is a pointer or a library, which only a program can give";
const UNUSED: &str = "it has no effect in this program";
const PROTOCOL: &str = "transactions need the protocol that brokers and librdkafka agree on";
const CREATES: &str =
    "topics are made by `processor topics create`, with the settings that they need";

const MAX: i64 = 2_147_483_647;

/// Every property of librdkafka, grouped by subject. `tests/embedded/properties.rs` compares the list with
/// librdkafka's own.
#[rustfmt::skip]
const RULES: &[(&str, Rule)] = &[
    // TLS and logins.
    ("security.protocol", Any), ("enable.ssl.certificate.verification", Any), ("ssl.endpoint.identification.algorithm", Any),
    ("ssl.cipher.suites", Any), ("ssl.curves.list", Any), ("ssl.sigalgs.list", Any), ("ssl.key.location", Any), ("ssl.key.password", Any),
    ("ssl.key.pem", Any), ("ssl.certificate.location", Any), ("ssl.certificate.pem", Any), ("ssl.ca.location", Any), ("ssl.ca.pem", Any),
    ("ssl.ca.certificate.stores", Any), ("ssl.crl.location", Any), ("ssl.keystore.location", Any), ("ssl.keystore.password", Any),
    ("ssl.providers", Any), ("ssl.engine.id", Any), ("ssl.engine.location", Refused(CODE)), ("https.ca.location", Any), ("https.ca.pem", Any),
    ("sasl.mechanism", Any), ("sasl.mechanisms", Any), ("sasl.username", Any), ("sasl.password", Any),
    ("sasl.kerberos.service.name", Any), ("sasl.kerberos.principal", Any), ("sasl.kerberos.kinit.cmd", Any), ("sasl.kerberos.keytab", Any),
    ("sasl.kerberos.min.time.before.relogin", Any), ("enable.sasl.oauthbearer.unsecure.jwt", Any), ("sasl.oauthbearer.config", Any),
    ("sasl.oauthbearer.method", Any), ("sasl.oauthbearer.client.id", Any), ("sasl.oauthbearer.client.secret", Any),
    ("sasl.oauthbearer.client.credentials.client.id", Any), ("sasl.oauthbearer.client.credentials.client.secret", Any),
    ("sasl.oauthbearer.scope", Any), ("sasl.oauthbearer.extensions", Any), ("sasl.oauthbearer.token.endpoint.url", Any),
    ("sasl.oauthbearer.grant.type", Any), ("sasl.oauthbearer.metadata.authentication.type", Any), ("sasl.oauthbearer.assertion.algorithm", Any),
    ("sasl.oauthbearer.assertion.file", Any), ("sasl.oauthbearer.assertion.private.key.file", Any),
    ("sasl.oauthbearer.assertion.private.key.passphrase", Any), ("sasl.oauthbearer.assertion.private.key.pem", Any),
    ("sasl.oauthbearer.assertion.claim.aud", Any), ("sasl.oauthbearer.assertion.claim.exp.seconds", Any),
    ("sasl.oauthbearer.assertion.claim.iss", Any), ("sasl.oauthbearer.assertion.claim.jti.include", Any),
    ("sasl.oauthbearer.assertion.claim.nbf.seconds", Any), ("sasl.oauthbearer.assertion.claim.sub", Any),
    ("sasl.oauthbearer.assertion.jwt.template.file", Any),
    // Connections.
    ("client.id", Any), ("client.rack", Any), ("client.dns.lookup", Any), ("broker.address.family", Any), ("broker.address.ttl", Any),
    ("socket.keepalive.enable", Any), ("socket.nagle.disable", Any), ("socket.send.buffer.bytes", Any), ("socket.receive.buffer.bytes", Any),
    ("socket.max.fails", Any), ("socket.connection.setup.timeout.ms", Number(1_000, 120_000)), ("connections.max.idle.ms", Any),
    ("reconnect.backoff.ms", Number(0, 10_000)), ("reconnect.backoff.max.ms", Number(0, 60_000)), ("reconnect.backoff.jitter.ms", Any),
    ("api.version.request.timeout.ms", Number(1_000, 60_000)), ("metadata.recovery.strategy", Any), ("metadata.recovery.rebootstrap.trigger.ms", Any),
    ("metadata.max.age.ms", Number(1_000, 3_600_000)), ("topic.metadata.refresh.interval.ms", Number(1_000, 3_600_000)),
    ("topic.metadata.refresh.fast.interval.ms", Any), ("topic.metadata.refresh.fast.cnt", Any), ("topic.metadata.refresh.sparse", Any),
    ("topic.metadata.propagation.max.ms", Number(1_000, 300_000)),
    // Requests. A request inside a transaction must time out well before the transaction (20 s).
    ("socket.timeout.ms", Number(1_000, 19_000)), ("request.timeout.ms", Number(1_000, 19_000)), ("message.timeout.ms", Number(1_000, 20_000)),
    ("delivery.timeout.ms", Number(1_000, 20_000)), ("retry.backoff.ms", Number(1, 1_000)), ("retry.backoff.max.ms", Number(1, 5_000)),
    // Membership. Below 3 s, a busy machine loses its tasks. Above 5 min, a takeover is too slow.
    ("session.timeout.ms", Number(3_000, 300_000)), ("heartbeat.interval.ms", Number(100, 100_000)),
    ("max.poll.interval.ms", Number(60_000, 3_600_000)), ("coordinator.query.interval.ms", Number(1_000, 3_600_000)),
    // Reading.
    ("fetch.min.bytes", Number(1, 1_048_576)), ("fetch.wait.max.ms", Number(1, 5_000)), ("fetch.max.bytes", Number(2_097_152, 1_000_000_000)),
    ("fetch.message.max.bytes", Number(65_536, 1_000_000_000)), ("max.partition.fetch.bytes", Number(65_536, 1_000_000_000)),
    ("receive.message.max.bytes", Number(8_388_608, MAX)), ("fetch.error.backoff.ms", Number(1, 5_000)), ("fetch.queue.backoff.ms", Number(0, 1_000)),
    ("queued.min.messages", Number(1, 10_000_000)), ("queued.max.messages.kbytes", Number(2_048, 2_097_151)),
    // Writing.
    ("compression.type", Any), ("compression.codec", Any), ("compression.level", Any), ("linger.ms", Number(0, 1_000)),
    ("queue.buffering.max.ms", Number(0, 1_000)), ("batch.num.messages", Any), ("batch.size", Number(1_024, 900_000)),
    ("queue.buffering.max.messages", Number(100_000, 10_000_000)), ("queue.buffering.max.kbytes", Number(65_536, MAX)),
    ("queue.buffering.backpressure.threshold", Any), ("message.copy.max.bytes", Any),
    // Diagnostics.
    ("debug", Any), ("statistics.interval.ms", Any), ("enable.metrics.push", Any),

    ("bootstrap.servers", Refused(BROKERS)), ("metadata.broker.list", Refused(BROKERS)), ("topic.blacklist", Refused(EXACTLY_ONCE)),
    ("group.id", Refused(FENCING)), ("group.instance.id", Refused(FENCING)), ("transactional.id", Refused(FENCING)),
    ("transaction.timeout.ms", Refused("takeovers are timed by the program's own 20 s")),
    ("enable.auto.commit", Refused(POSITIONS)), ("auto.commit.enable", Refused(POSITIONS)), ("auto.commit.interval.ms", Refused(POSITIONS)),
    ("enable.auto.offset.store", Refused(POSITIONS)), ("offset.store.method", Refused(POSITIONS)), ("offset.store.path", Refused(POSITIONS)),
    ("offset.store.sync.interval.ms", Refused(POSITIONS)), ("auto.offset.reset", Refused(POSITION_GONE)),
    ("enable.partition.eof", Refused("a restore learns from it that a partition has been read")),
    ("isolation.level", Refused("only what was committed may be read")), ("check.crcs", Refused("records are always checked against their checksums")),
    ("group.protocol", Refused(GROUP)), ("group.protocol.type", Refused(GROUP)), ("group.remote.assignor", Refused(GROUP)),
    ("partition.assignment.strategy", Refused(GROUP)),
    ("acks", Refused(DELIVERY)), ("request.required.acks", Refused(DELIVERY)), ("enable.idempotence", Refused(DELIVERY)),
    ("enable.gapless.guarantee", Refused(DELIVERY)), ("max.in.flight", Refused(DELIVERY)), ("max.in.flight.requests.per.connection", Refused(DELIVERY)),
    ("retries", Refused(DELIVERY)), ("message.send.max.retries", Refused(DELIVERY)), ("queuing.strategy", Refused(DELIVERY)),
    ("delivery.report.only.error", Refused(DELIVERY)), ("produce.offset.report", Refused(DELIVERY)), ("message.max.bytes", Refused(SIZES)),
    ("partitioner", Refused(PARTITION)), ("sticky.partitioning.linger.ms", Refused(PARTITION)), ("allow.auto.create.topics", Refused(CREATES)),
    ("api.version.request", Refused(PROTOCOL)), ("api.version.fallback.ms", Refused(PROTOCOL)), ("broker.version.fallback", Refused(PROTOCOL)),
    ("log_level", Refused(SUSPECT)), ("log.queue", Refused(SUSPECT)), ("log.thread.name", Refused(SUSPECT)), ("log.connection.close", Refused(SUSPECT)),
    ("enabled_events", Refused(SUSPECT)), ("builtin.features", Refused(UNUSED)), ("socket.blocking.max.ms", Refused(UNUSED)),
    ("enable.random.seed", Refused(UNUSED)), ("consume.callback.max.messages", Refused(UNUSED)),
    ("internal.termination.signal", Refused("signals are the program's")),
    ("plugin.library.paths", Refused(CODE)), ("interceptors", Refused(CODE)), ("opaque", Refused(CODE)), ("default_topic_conf", Refused(CODE)),
    ("background_event_cb", Refused(CODE)), ("closesocket_cb", Refused(CODE)), ("connect_cb", Refused(CODE)), ("consume_cb", Refused(CODE)),
    ("dr_cb", Refused(CODE)), ("dr_msg_cb", Refused(CODE)), ("error_cb", Refused(CODE)), ("log_cb", Refused(CODE)), ("msg_order_cmp", Refused(CODE)),
    ("oauthbearer_token_refresh_cb", Refused(CODE)), ("offset_commit_cb", Refused(CODE)), ("open_cb", Refused(CODE)),
    ("partitioner_cb", Refused(CODE)), ("rebalance_cb", Refused(CODE)), ("resolve_cb", Refused(CODE)), ("socket_cb", Refused(CODE)),
    ("ssl.certificate.verify_cb", Refused(CODE)), ("ssl_ca", Refused(CODE)), ("ssl_certificate", Refused(CODE)), ("ssl_engine_callback_data", Refused(CODE)),
    ("ssl_key", Refused(CODE)), ("stats_cb", Refused(CODE)), ("throttle_cb", Refused(CODE)),
];

/// The rule of a property; none for an unknown property.
pub fn rule(name: &str) -> Option<Rule> {
    RULES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, rule)| *rule)
}

/// Names of all properties in the list.
pub fn names() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(name, _)| *name)
}

/// Checks that a property may have this value. The error gives the reason, and never the value of a
/// secret.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    match rule(name) {
        Some(Any) => Ok(()),
        Some(Number(min, max)) => match value.parse::<i64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(()),
            _ => Err(format!(
                "the librdkafka property {name} must be a whole number from {min} to {max} here, not `{value}`"
            )),
        },
        Some(Refused(why)) => Err(format!(
            "the librdkafka property {name} cannot be set: {why}"
        )),
        None => Err(format!(
            "there is no librdkafka property {name} that this program lets through; the nearest are {}",
            nearest(name).join(", ")
        )),
    }
}

/// Checks values that depend on each other.
pub fn check_together<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<(), String> {
    let number = |name: &str, default: i64| {
        value(name)
            .and_then(|v| v.parse::<i64>().ok())
            .unwrap_or(default)
    };

    let (session, heartbeat, poll) = (
        number("session.timeout.ms", 10_000),
        number("heartbeat.interval.ms", 1_000),
        number("max.poll.interval.ms", 300_000),
    );
    if heartbeat > session / 3 {
        return Err(format!(
            "the librdkafka property heartbeat.interval.ms is {heartbeat}, more than a third of session.timeout.ms ({session}): one lost heartbeat \
             would cost an instance its tasks"
        ));
    }

    if poll < session {
        return Err(format!(
            "the librdkafka property max.poll.interval.ms is {poll}, less than session.timeout.ms ({session})"
        ));
    }

    Ok(())
}

/// The allowed properties with the most similar names.
fn nearest(name: &str) -> Vec<&'static str> {
    let allowed = RULES
        .iter()
        .filter(|(_, rule)| !matches!(rule, Refused(_)))
        .map(|(known, _)| *known);
    let mut ranked: Vec<_> = allowed
        .map(|known| (distance(name, known), known))
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().take(3).map(|(_, known)| known).collect()
}

/// Edit distance: number of inserted, deleted or replaced letters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(200).enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let exchanged = corner + usize::from(ca != *cb);
            corner = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(corner + 1);
        }
    }

    row[b.len()]
}

/// True if the property's value must be masked. Compares words of the name, so that a misspelled
/// name is masked, too.
pub fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 10] = [
        "password",
        "passphrase",
        "secret",
        "token",
        ".pem",
        "jaas",
        "credential",
        "kinit",
        "oauthbearer.config",
        "oauthbearer.extensions",
    ];

    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// The value for display; a secret is masked.
pub fn shown(name: &str, value: &str) -> String {
    if is_secret(name) {
        "********".into()
    } else {
        value.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exactly_once_rests_on_is_refused_with_the_reason() {
        for name in [
            "auto.offset.reset",
            "partition.assignment.strategy",
            "enable.partition.eof",
            "group.protocol",
            "transaction.timeout.ms",
            "acks",
        ] {
            let said = check(name, "anything").expect_err(name);
            assert!(
                said.contains(name) && said.contains("cannot be set: "),
                "{said}"
            );
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_told_the_nearest_names() {
        let said = check("sesion.timeout", "6000").expect_err("unknown");
        assert!(said.contains("session.timeout.ms"), "{said}");
        assert!(
            check("sasl.pasword", "hush")
                .expect_err("unknown")
                .contains("sasl.password")
        );
    }

    #[test]
    fn bounds_hold_at_both_ends() {
        for (name, good, bad) in [
            ("session.timeout.ms", ["3000", "300000"], ["2999", "300001"]),
            ("socket.timeout.ms", ["1000", "19000"], ["999", "19001"]),
            ("batch.size", ["1024", "900000"], ["0", "900001"]),
            ("fetch.min.bytes", ["1", "1048576"], ["", " 1"]),
        ] {
            good.iter().for_each(|v| check(name, v).expect(v));
            bad.iter().for_each(|v| drop(check(name, v).expect_err(v)));
        }
    }

    #[test]
    fn heartbeats_fit_into_the_session_and_the_session_into_a_poll() {
        let together = |pairs: &'static [(&str, &'static str)]| {
            check_together(move |name| {
                pairs
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, v)| *v)
            })
        };

        together(&[]).expect("the defaults fit");
        together(&[("session.timeout.ms", "6000")]).expect("fits");
        assert!(
            together(&[
                ("session.timeout.ms", "3000"),
                ("heartbeat.interval.ms", "1001")
            ])
            .expect_err("too slow")
            .contains("heartbeat")
        );

        assert!(
            together(&[
                ("session.timeout.ms", "90000"),
                ("max.poll.interval.ms", "60000")
            ])
            .expect_err("too short")
            .contains("max.poll")
        );
    }

    #[test]
    fn secrets_are_masked_and_nothing_else() {
        for name in [
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "ssl.key.pem",
            "SASL.Password",
            "sasl.jaas.config",
            "my.secret",
        ] {
            assert_eq!(shown(name, "hush"), "********", "{name}");
        }

        for name in [
            "security.protocol",
            "sasl.username",
            "ssl.key.location",
            "ssl.ca.location",
            "session.timeout.ms",
        ] {
            assert_eq!(shown(name, "plain"), "plain", "{name}");
        }
    }
}
