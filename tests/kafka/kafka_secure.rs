//! A cluster with TLS, user names and passwords. The librdkafka properties in the configuration
//! file reach every client, and errors in them are reported.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::broker::Broker;
use crate::support::load::wait_for;
use crate::support::program::Program;

const PASSWORD: &str = "between-brokers-and-us";

/// A key for 127.0.0.1 with a self-signed certificate.
fn certificate(dir: &Path) {
    let keytool = |args: &[&str]| {
        let out = Command::new("keytool")
            .args(args)
            .current_dir(dir)
            .output()
            .expect("keytool comes with Java");
        assert!(
            out.status.success(),
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    };

    let store = [
        "-keystore",
        "broker.p12",
        "-storetype",
        "PKCS12",
        "-storepass",
        PASSWORD,
        "-alias",
        "broker",
    ];

    let key = [
        "-genkeypair",
        "-keyalg",
        "EC",
        "-dname",
        "CN=127.0.0.1",
        "-ext",
        "san=ip:127.0.0.1",
        "-validity",
        "2",
    ];

    keytool(&[&key[..], &store].concat());
    keytool(&[&["-exportcert", "-rfc", "-file", "ca.pem"][..], &store].concat());
}

/// A broker whose only listener for clients and brokers takes only SASL over TLS, under any
/// listener name.
fn secure_broker(dir: &Path) -> Broker {
    let file = |name: &str| dir.join(name).display().to_string();
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let users = format!(
        "{login} username=\"broker\" password=\"{PASSWORD}\" user_broker=\"{PASSWORD}\" user_desk=\"{PASSWORD}\";"
    );
    let lines = [
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:SASL_SSL".into(),
        "inter.broker.listener.name=PLAINTEXT".into(),
        "sasl.enabled.mechanisms=PLAIN".into(),
        "sasl.mechanism.inter.broker.protocol=PLAIN".into(),
        format!("listener.name.plaintext.plain.sasl.jaas.config={users}"),
        "ssl.keystore.type=PKCS12".into(),
        format!("ssl.keystore.location={}", file("broker.p12")),
        format!("ssl.keystore.password={PASSWORD}"),
        "ssl.truststore.type=PEM".into(),
        format!("ssl.truststore.location={}", file("ca.pem")),
    ];

    Broker::start_with(&lines.each_ref().map(String::as_str), true)
}

/// A directory with a configuration file, as an operator would have it.
fn configured(dir: &Path, broker: &Broker, properties: &[(&str, &str)]) -> Program {
    let lines: Vec<_> = properties
        .iter()
        .map(|(k, v)| format!("\"{k}\" = \"{v}\"\n"))
        .collect();
    std::fs::create_dir_all(dir).expect("a directory");
    std::fs::write(
        dir.join("processor.toml"),
        format!(
            "brokers = \"{}\"\n\n[kafka]\n{}",
            broker.address,
            lines.concat()
        ),
    )
    .expect("a file");

    Program {
        dir: dir.to_path_buf(),
        flags: Vec::new(),
    }
}

#[test]
fn tls_and_a_password() {
    let dir = tempfile::tempdir().expect("a directory");
    certificate(dir.path());
    let broker = secure_broker(dir.path());
    let ca = dir.path().join("ca.pem").display().to_string();
    let right = [
        ("security.protocol", "sasl_ssl"),
        ("ssl.ca.location", &*ca),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "desk"),
        ("sasl.password", PASSWORD),
    ];

    let p = configured(&dir.path().join("right"), &broker, &right);
    std::fs::write(p.dir.join("l.csv"), "symbol\nAAPL\n").expect("file");
    p.good(&["topics", "create", "--partitions", "2"]);
    p.good(&["topics", "check"]);
    p.good(&["instruments", "load", "l.csv"]);
    p.good(&[
        "publish",
        "--symbols",
        "AAPL",
        "--count",
        "3",
        "--rate",
        "0",
    ]);

    let running = p.start_roles("all");
    p.good(&["order", "--user", "501", "--deposit", "100000"]);
    let answer = p.good(&[
        "order",
        "--user",
        "501",
        "--symbol",
        "AAPL",
        "--quantity",
        "1",
        "--side",
        "buy",
        "--format",
        "json",
    ]);

    let last: Value = serde_json::from_str(answer.lines().last().expect("events")).expect("JSON");
    assert_eq!(last["event"], "OrderFilled", "{answer}");

    // Short commands end while clients are still closing connections. The closing must not crash
    // the process at its end.
    for _ in 0..20 {
        assert!(
            p.good(&["tail", "trades", "--from", "start", "--count", "1"])
                .contains("AAPL")
        );
    }

    running.stop();
    p.good(&["verify"]);
    p.good(&["replay"]);
    assert!(
        !p.good(&["config", "show"]).contains(PASSWORD),
        "a password is shown"
    );

    let refused = |name: &str, properties: &[(&str, &str)], code: i32, parts: &[&str]| {
        let p = configured(&dir.path().join(name), &broker, properties);
        p.run(&["topics", "check"]).fails(code, parts);
        p.run(&["run", "--role", "orders"]).fails(code, parts);
    };

    refused(
        "password",
        &[&right[..4], &[("sasl.password", "guessed")]].concat(),
        78,
        &["Invalid username or password", "check the credentials"],
    );
    let mechanism = [
        &right[..2],
        &[("sasl.mechanism", "SCRAM-SHA-256")],
        &right[3..],
    ]
    .concat();
    refused(
        "mechanism",
        &mechanism,
        78,
        &["supported mechanisms: PLAIN", "check the credentials"],
    );
    refused(
        "certificate",
        &[&right[..1], &right[2..]].concat(),
        1,
        &[
            &broker.address,
            "certificate verify failed",
            "security.protocol",
        ],
    );

    refused("plaintext", &[], 1, &[&broker.address, "security.protocol"]);
    let nowhere = [
        &right[..1],
        &[("ssl.ca.location", "/nowhere/ca.pem")],
        &right[2..],
    ]
    .concat();
    refused(
        "nowhere",
        &nowhere,
        78,
        &["ssl.ca.location failed", "check the properties"],
    );
}

/// A restarted broker may know its users a moment later than it accepts connections. A role that
/// has worked before logs the refusal and waits.
#[test]
fn a_login_that_is_refused_for_a_while_does_not_end_a_role() {
    const SOON: Duration = Duration::from_secs(60);
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let users = |desk: &str| {
        let users = format!(
            "username=\"broker\" password=\"{PASSWORD}\" user_broker=\"{PASSWORD}\" user_desk=\"{desk}\""
        );
        format!("listener.name.plaintext.plain.sasl.jaas.config={login} {users};")
    };

    let lines = [
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:SASL_PLAINTEXT",
        "inter.broker.listener.name=PLAINTEXT",
        "sasl.enabled.mechanisms=PLAIN",
        "sasl.mechanism.inter.broker.protocol=PLAIN",
        &users("right"),
    ];

    let broker = Broker::start_with(&lines, true);
    let dir = tempfile::tempdir().expect("a directory");
    let properties = [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "desk"),
        ("sasl.password", "right"),
    ];
    let p = configured(dir.path(), &broker, &properties);
    std::fs::write(p.dir.join("l.csv"), "symbol\nAAPL\n").expect("file");
    p.good(&["topics", "create", "--partitions", "2"]);
    p.good(&["instruments", "load", "l.csv"]);
    let publish = || {
        p.good(&[
            "publish",
            "--symbols",
            "AAPL",
            "--count",
            "3",
            "--rate",
            "0",
        ])
    };

    let at_rest = || {
        let rows: Value =
            serde_json::from_str(&p.good(&["status", "--role", "trading", "--format", "json"]))
                .expect("JSON");
        rows.as_array().expect("rows").iter().all(|r| r["lag"] == 0)
    };

    publish();
    let mut running = p.start_roles("trading");
    wait_for("a first transaction", SOON, at_rest);
    broker.stop();
    broker.set(&[&users("other")]);
    broker.restart();
    let recoveries = || -> u64 {
        let text =
            std::fs::read_to_string(p.dir.join("state/trading/1/status.json")).unwrap_or_default();
        serde_json::from_str::<Value>(&text).unwrap_or_default()["counters"]["recoveries"]
            .as_u64()
            .unwrap_or(0)
    };

    let before = recoveries();
    wait_for("the refusal to be met twice", SOON, || {
        recoveries() >= before + 2
    });

    assert!(running.is_running(), "it waits");

    // An instance that starts now learns at once that the password is wrong.
    p.run(&["run", "--role", "orders"]).fails(
        78,
        &["Invalid username or password", "check the credentials"],
    );
    broker.stop();
    broker.set(&[&users("right")]);
    broker.restart();
    publish();
    wait_for("everything to be read", SOON, at_rest);
    let said = running.stop().err;
    assert!(
        said.lines().any(|l| l.contains("ERROR")
            && l.contains("check the credentials")
            && l.contains("trying again for")),
        "{said}"
    );
}
