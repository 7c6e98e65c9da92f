//! Access control. A user's token opens only the paths of that user; an admin's token opens all
//! paths. Tokens are 256 random bits. The token file holds their SHA-256, so a reader of the file
//! cannot use the tokens.
//!
//! ```text
//! # user  hash                (processor gateway token 501)
//! 501     sha256:9f86d0...
//! a%23b   sha256:2c26b4...    # the user `a#b`, written as in a path
//! *       sha256:60303a...    # an admin: sees everybody (processor gateway token --admin)
//! ```
//!
//! Without a token file only this machine can connect, and every request must name this machine in
//! its `Host`. This check stops DNS rebinding: a web page whose name resolves to 127.0.0.1 could
//! otherwise read a trader's stream through the trader's browser. For the same reason the gateway
//! refuses requests with the `Origin` of another site. The gateway also refuses requests that a
//! proxy passed on. The option `--open` allows them: everybody who reaches the proxy may see
//! everything.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;
use std::{fs, io};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::check_id;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::percent;

type TokenHash = [u8; 32];

/// Name of an admin in the token file. A user with this name is written `%2A`.
const ADMIN: &str = "*";
const PREFIX: &str = "ptk_";

/// Reason for a refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No token, or an unknown token.
    Unknown,
    /// A valid token of another user.
    NotYours,
    /// A browser request from another site, or a `Host` that is not this machine.
    Foreign,
    /// A proxy passed the request on, and the gateway has no tokens.
    PassedOn,
}

/// Headers that proxies add. Some proxies put our own address into `Host` by default. Without the
/// check of these headers, a proxy of that kind would open a gateway without tokens to everybody.
const OF_PROXIES: [&str; 14] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-prefix",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
];

/// The caller of a request: the hash of the token, or `None` on a gateway without tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller(Option<TokenHash>);

/// The tokens of a file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tokens {
    users: BTreeMap<String, Vec<TokenHash>>,
    admins: Vec<TokenHash>,
}

/// Decides which caller may see which user.
#[derive(Debug)]
pub struct AccessControl {
    file: Option<PathBuf>,
    tokens: RwLock<Arc<Tokens>>,
    stamp: RwLock<Option<Stamp>>,
    /// Without tokens: answer requests that a proxy passed on.
    passed_on: bool,
}

/// Times and length of a file, which change with every change of the file. The modification time
/// alone misses a file that was replaced, and a file that has become readable.
type Stamp = (SystemTime, i64, i64, u64);

impl AccessControl {
    /// Access without tokens, for every program of this machine.
    pub fn open() -> AccessControl {
        AccessControl {
            file: None,
            tokens: RwLock::default(),
            stamp: RwLock::default(),
            passed_on: false,
        }
    }

    /// Access without tokens, also for requests that a proxy passed on.
    pub fn open_to_proxies() -> AccessControl {
        AccessControl {
            passed_on: true,
            ..AccessControl::open()
        }
    }

    /// Access with a token of this file. The file must have at least one token.
    pub fn with_file(file: &Path) -> Result<AccessControl, String> {
        // Take the stamp before reading, so that a write in between causes another read.
        let stamp = stamp(file);
        let tokens = read(file)?;
        if tokens == Tokens::default() {
            return Err(format!(
                "{}: has no token; `processor gateway token USER` makes one",
                file.display()
            ));
        }

        Ok(AccessControl {
            file: Some(file.into()),
            tokens: RwLock::new(Arc::new(tokens)),
            stamp: RwLock::new(stamp),
            passed_on: true,
        })
    }

    pub fn needs_token(&self) -> bool {
        self.file.is_some()
    }

    /// Reads the file again if the file changed. Returns the number of tokens, or `None` without a
    /// change. An empty or deleted file leaves no valid token, so that the last token can be
    /// removed like any other. If the file cannot be read or parsed, the previous tokens stay
    /// valid.
    pub fn reload(&self) -> Result<Option<usize>, String> {
        let Some(file) = &self.file else {
            return Ok(None);
        };

        let stamp = stamp(file);
        if *self.stamp.read().expect("plain data") == stamp {
            return Ok(None);
        }

        *self.stamp.write().expect("plain data") = stamp;
        let new = if fs::metadata(file).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            Tokens::default()
        } else {
            read(file)?
        };

        let count = new.admins.len() + new.users.values().map(Vec::len).sum::<usize>();
        *self.tokens.write().expect("plain data") = Arc::new(new);
        Ok(Some(count))
    }

    /// Identifies the caller of a request, and refuses requests from foreign sites and proxies.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, Denied> {
        // With two `Host` headers, the gateway and a proxy before the gateway might use different
        // hosts.
        let host = headers
            .get(HOST)
            .filter(|_| headers.get_all(HOST).iter().count() == 1)
            .and_then(|h| h.to_str().ok());
        for origin in headers.get_all(ORIGIN) {
            let site = origin
                .to_str()
                .ok()
                .and_then(|o| o.split_once("://"))
                .map(|(_, site)| site);
            if site.is_none() || site != host {
                return Err(Denied::Foreign);
            }
        }

        if !self.needs_token() {
            if !self.passed_on && OF_PROXIES.iter().any(|name| headers.contains_key(*name)) {
                return Err(Denied::PassedOn);
            }

            return if host.is_some_and(is_local) {
                Ok(Caller(None))
            } else {
                Err(Denied::Foreign)
            };
        }

        let given = headers
            .get(AUTHORIZATION)
            .and_then(|h| h.to_str().ok())
            .unwrap_or_default();
        match given.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Ok(Caller(Some(hash(token.trim()))))
            }
            _ => Err(Denied::Unknown),
        }
    }

    /// Checks that the caller may see the user. Without a user: that the caller may see all users.
    pub fn check(&self, caller: Caller, user: Option<&str>) -> Result<(), Denied> {
        if !self.needs_token() {
            return Ok(());
        }

        let given = caller.0.ok_or(Denied::Unknown)?;
        let tokens = self.tokens.read().expect("plain data").clone();
        let theirs = user
            .and_then(|u| tokens.users.get(u))
            .map_or(&[][..], Vec::as_slice);
        if any(theirs, &given) | any(&tokens.admins, &given) {
            return Ok(());
        }

        // Only selects the error; this lookup allows nothing.
        if tokens.users.values().any(|hashes| any(hashes, &given)) {
            Err(Denied::NotYours)
        } else {
            Err(Denied::Unknown)
        }
    }
}

/// A new token of a user, and its line for the file.
pub fn new_token(user: &str) -> Result<(String, String), String> {
    check_id("user", user).map_err(|e| e.to_string())?;
    make(&percent::encode(user))
}

/// A new admin token, which opens everything, and its line for the file.
pub fn new_admin_token() -> Result<(String, String), String> {
    make(ADMIN)
}

fn make(name: &str) -> Result<(String, String), String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|e| format!("this machine gives no random numbers: {e}"))?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let line = format!("{name} sha256:{}", HEXLOWER.encode(&hash(&token)));

    Ok((token, line))
}

fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// Searches a hash in constant time: the time does not depend on the first different byte.
fn any(hashes: &[TokenHash], given: &TokenHash) -> bool {
    let none = Choice::from(0);
    hashes
        .iter()
        .fold(none, |found, h| found | h.ct_eq(given))
        .into()
}

/// Accepts `localhost`, `127.x.x.x` and `[::1]`, with or without a port.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };

    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn stamp(file: &Path) -> Option<Stamp> {
    let m = fs::metadata(file).ok()?;
    Some((m.modified().ok()?, m.ctime(), m.ctime_nsec(), m.len()))
}

fn read(file: &Path) -> Result<Tokens, String> {
    let text = fs::read_to_string(file)
        .map_err(|e| format!("cannot read the token file {}: {e}", file.display()))?;
    parse(&text).map_err(|e| format!("{}: {e}", file.display()))
}

fn parse(text: &str) -> Result<Tokens, String> {
    let mut tokens = Tokens::default();
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }

        let wrong = |what: &str| {
            format!(
                "line {}: {what}; `processor gateway token USER` prints such a line",
                n + 1
            )
        };

        let (user, hex) = line
            .split_once(char::is_whitespace)
            .ok_or_else(|| wrong("must be a user and a hash"))?;
        let hash = hex
            .trim()
            .strip_prefix("sha256:")
            .and_then(unhex)
            .ok_or_else(|| wrong("the hash must be sha256: and 64 hex digits"))?;
        if user == ADMIN {
            tokens.admins.push(hash);
        } else {
            let user = percent::decode(user)
                .ok_or_else(|| wrong("the user is written as in a path: %25 for %, %23 for #"))?;
            check_id("user", &user).map_err(|e| wrong(&e.to_string()))?;
            tokens.users.entry(user).or_default().push(hash);
        }
    }

    Ok(tokens)
}

/// Takes upper-case digits, too: the file may have been written by another program.
fn unhex(text: &str) -> Option<TokenHash> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| {
                (
                    hyper::header::HeaderName::from_static(n),
                    v.parse().expect("a value"),
                )
            })
            .collect()
    }

    #[test]
    fn tokens_open_their_user_only() {
        let (mine, my_line) = new_token("501").expect("random");
        let (theirs, their_line) = new_token("502").expect("random");
        let (admin, admin_line) = new_admin_token().expect("random");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(
            file.path(),
            format!("# tokens\n{my_line}\n\n{their_line} # second\n{admin_line}\n"),
        )
        .expect("written");
        let access = AccessControl::with_file(file.path()).expect("a good file");
        let may = |token: &str, user: Option<&str>| {
            let caller = access.caller(&headers(&[
                ("host", "x"),
                ("authorization", &format!("Bearer {token}")),
            ]))?;
            access.check(caller, user)
        };

        assert_eq!(may(&mine, Some("501")), Ok(()));
        assert_eq!(may(&mine, Some("502")), Err(Denied::NotYours));
        assert_eq!(may(&mine, None), Err(Denied::NotYours));
        assert_eq!(may(&theirs, Some("502")), Ok(()));
        assert_eq!(
            (may(&admin, Some("501")), may(&admin, None)),
            (Ok(()), Ok(()))
        );
        assert_eq!(may("ptk_wrong", Some("501")), Err(Denied::Unknown));
        assert_eq!(may(ADMIN, Some(ADMIN)), Err(Denied::Unknown));
        assert_eq!(
            access.caller(&headers(&[("host", "127.0.0.1:8080")])),
            Err(Denied::Unknown)
        );
        assert_eq!(
            access.caller(&headers(&[("authorization", "Basic abc")])),
            Err(Denied::Unknown)
        );

        // A token that was removed from the file becomes invalid. A file that cannot be parsed
        // changes nothing.
        let write = |text: &str| std::fs::write(file.path(), text).expect("written");
        assert_eq!(access.reload(), Ok(None));
        write(&their_line);
        assert_eq!(access.reload(), Ok(Some(1)));
        assert_eq!(
            (may(&mine, Some("501")), may(&theirs, Some("502"))),
            (Err(Denied::Unknown), Ok(()))
        );
        write("nonsense");
        assert!(access.reload().is_err());
        assert_eq!(may(&theirs, Some("502")), Ok(()));

        // The last token is removed like any other: by an empty file, and by a deleted file.
        write("# nobody\n");
        assert_eq!(
            (access.reload(), may(&theirs, Some("502"))),
            (Ok(Some(0)), Err(Denied::Unknown))
        );
        write(&their_line);
        assert_eq!(
            (access.reload(), may(&theirs, Some("502"))),
            (Ok(Some(1)), Ok(()))
        );
        std::fs::remove_file(file.path()).expect("removed");
        assert_eq!(
            (access.reload(), may(&theirs, Some("502"))),
            (Ok(Some(0)), Err(Denied::Unknown))
        );
        write(&their_line);
        assert_eq!(
            (access.reload(), may(&theirs, Some("502"))),
            (Ok(Some(1)), Ok(()))
        );
        assert!(access.needs_token(), "whatever happens to the file");
    }

    #[test]
    fn every_user_that_may_exist_can_have_a_token() {
        let users = ["a#b", "#x", "*", "%41", "a?b", "joe@example.com"];
        let made: Vec<_> = users
            .iter()
            .map(|u| new_token(u).expect("random"))
            .collect();
        let lines: Vec<_> = made
            .iter()
            .map(|(_, line)| format!("{line} # theirs"))
            .collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), lines.join("\n")).expect("written");
        let access = AccessControl::with_file(file.path()).expect("a good file");
        for (user, (token, _)) in users.iter().zip(&made) {
            let caller = access
                .caller(&headers(&[("authorization", &format!("Bearer {token}"))]))
                .expect("a token");
            assert_eq!(access.check(caller, Some(user)), Ok(()), "{user}");
            assert_eq!(
                access.check(caller, None),
                Err(Denied::NotYours),
                "{user} is no admin"
            );
            assert_eq!(
                access.check(caller, Some("A")),
                Err(Denied::NotYours),
                "{user}"
            );
        }
    }

    #[test]
    fn an_open_gateway_answers_this_machine_and_no_web_page() {
        let open = AccessControl::open();
        for good in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:8080",
            "127.0.0.9",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(open.caller(&headers(&[("host", good)])).is_ok(), "{good}");
        }

        for bad in [
            "evil.example",
            "evil.example:8080",
            "10.0.0.1:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert_eq!(
                open.caller(&headers(&[("host", bad)])),
                Err(Denied::Foreign),
                "{bad}"
            );
        }

        assert_eq!(open.caller(&headers(&[])), Err(Denied::Foreign));
        let with_origin = |o| open.caller(&headers(&[("host", "localhost:8080"), ("origin", o)]));
        assert!(with_origin("http://localhost:8080").is_ok());
        for bad in [
            "http://evil.example",
            "null",
            "http://localhost:8081",
            "https://localhost:8080.evil.example",
        ] {
            assert_eq!(with_origin(bad), Err(Denied::Foreign), "{bad}");
        }
    }

    /// A proxy that puts our own address into `Host` once opened the gateway to all its clients.
    #[test]
    fn what_a_proxy_passed_on_needs_tokens_or_a_word() {
        for name in OF_PROXIES {
            let asked = headers(&[("host", "127.0.0.1:8080"), (name, "203.0.113.9")]);
            assert_eq!(
                AccessControl::open().caller(&asked),
                Err(Denied::PassedOn),
                "{name}"
            );
            assert!(
                AccessControl::open_to_proxies().caller(&asked).is_ok(),
                "{name}"
            );
        }

        let mut two = headers(&[("host", "localhost")]);
        two.append("host", "evil.example".parse().expect("a value"));
        assert_eq!(AccessControl::open().caller(&two), Err(Denied::Foreign));
    }

    #[test]
    fn bad_token_files_are_explained() {
        for (text, part) in [
            ("501", "line 1"),
            ("501 md5:00", "sha256:"),
            ("# x\n5/1 sha256:00", "line 2"),
            ("501 sha256:zz", "64 hex"),
            (&format!("501 sha256:{}", "+f".repeat(32)), "64 hex"),
            (&format!("5%1 sha256:{}", "0".repeat(64)), "%25"),
        ] {
            let e = parse(text).expect_err(text);
            assert!(e.contains(part) && e.contains("gateway token"), "{e}");
        }

        assert!(
            parse(&format!("5/1 sha256:{}", "0".repeat(64)))
                .expect_err("a bad id")
                .contains("user")
        );
        assert!(parse(&format!("501 sha256:{}", "é".repeat(32))).is_err());
        let empty = tempfile::NamedTempFile::new().expect("a file");
        assert!(
            AccessControl::with_file(empty.path())
                .expect_err("useless")
                .contains("has no token"),
            "at the start it is a mistake"
        );
    }
}
