//! Decides which addresses a webhook may use. Users choose the URL, and the gateway stands inside
//! the operator's network, so requests could reach internal services (SSRF). By default only
//! `https` to public addresses is allowed.
//!
//! The name is resolved for every connection. Each address is checked, and the connection goes to
//! exactly the checked address. So DNS rebinding gains nothing: a name may have a public address at
//! registration and 127.0.0.1 afterwards. Redirects are not followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::Uri;
use tokio::net::TcpStream;

/// The parts of a webhook URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookUrl {
    /// True for TLS.
    pub https: bool,
    /// Name or address, without brackets.
    pub host: String,
    pub port: u16,
    /// Value of the `Host` header.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// Longest URL, in bytes.
const URL_MAX: usize = 2048;

/// Parses a URL, or returns the error in the URL.
pub fn parse(url: &str, private: bool) -> Result<WebhookUrl, String> {
    if url.len() > URL_MAX {
        return Err(format!("is longer than {URL_MAX} bytes"));
    }

    let uri: Uri = url.parse().map_err(|e| format!("is no URL: {e}"))?;
    let https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") if private => false,
        Some("http") => return Err("must be https".into()),
        _ => return Err("must begin with https://".into()),
    };

    let authority = uri.authority().ok_or("has no host")?;
    if authority.as_str().contains('@') {
        return Err(
            "must not hold a user name or password: whoever receives it checks the signature"
                .into(),
        );
    }

    let host = uri
        .host()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_string();
    if host.is_empty() {
        return Err("has no host".into());
    }

    if let Ok(ip) = host.parse::<IpAddr>()
        && !private
        && !is_public(ip)
    {
        return Err(refused(ip));
    }

    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_string();
    let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
    Ok(WebhookUrl {
        https,
        host,
        port,
        authority: authority.as_str().to_string(),
        path,
    })
}

fn refused(ip: IpAddr) -> String {
    format!(
        "{ip} is not a public address; start the gateway with --allow-private-webhooks if it is meant"
    )
}

/// Error text for every host that is not public or not known. Both cases have the same text.
/// Otherwise users could find out the names that this machine knows, and the addresses behind the
/// names.
const NOT_ALLOWED: &str = "the host is not allowed, or is not known";

/// Connects to the first allowed address of the host that accepts. The error text is for the
/// webhook's owner; the log has details at level debug.
pub async fn connect(target: &WebhookUrl, private: bool) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> = match target.host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, target.port)],
        Err(_) => {
            let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
            let found =
                found.inspect_err(|e| tracing::debug!("{} cannot be resolved: {e}", target.host));
            found
                .map_err(|e| {
                    if private {
                        format!("{} cannot be resolved: {e}", target.host)
                    } else {
                        NOT_ALLOWED.into()
                    }
                })?
                .collect()
        }
    };

    let mut wrong = NOT_ALLOWED.to_string();
    for address in addresses {
        if !private && !is_public(address.ip()) {
            tracing::debug!("{}: {}", target.host, refused(address.ip()));
            continue;
        }

        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => {
                tracing::debug!("{}: {address}: {e}", target.host);
                wrong = format!("{}: {e}", target.host);
            }
        }
    }

    Err(wrong)
}

/// Reports whether an address belongs to the public internet.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => public_v4(ip),
        IpAddr::V6(ip) => public_v6(ip),
    }
}

fn public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));

    !special
}

fn public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let v4 =
        |high: u16, low: u16| public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match s {
        // IPv4 addresses inside IPv6 addresses: mapped, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        // Global unicast is 2000::/3. Not public are 2001::/23 (RFC 2928: Teredo, benchmarks,
        // ORCHID), 2001:db8::/32 (documentation) and 3fff::/16 (documentation).
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_by_default() {
        for bad in [
            "127.0.0.1",
            "127.9.9.9",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "203.0.113.5",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001:db8::1",
            "2001:0:1::",
            "::127.0.0.1",
        ] {
            assert!(!is_public(bad.parse().expect("an address")), "{bad}");
        }

        for good in [
            "8.8.8.8",
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(good.parse().expect("an address")), "{good}");
        }
    }

    #[test]
    fn urls() {
        let t = parse("https://example.com/hook?x=1", false).expect("good");
        assert_eq!(
            (
                t.https,
                t.host.as_str(),
                t.port,
                t.authority.as_str(),
                t.path.as_str()
            ),
            (true, "example.com", 443, "example.com", "/hook?x=1")
        );

        let t = parse("http://[::1]:8000", true).expect("good");
        assert_eq!(
            (
                t.https,
                t.host.as_str(),
                t.port,
                t.authority.as_str(),
                t.path.as_str()
            ),
            (false, "::1", 8000, "[::1]:8000", "/")
        );

        for (bad, part) in [
            ("http://example.com/", "https"),
            ("ftp://example.com/", "https://"),
            ("example.com", "https://"),
            ("https://user:pw@example.com/", "password"),
            ("https://127.0.0.1/", "--allow-private-webhooks"),
            ("https://[::1]/", "--allow-private-webhooks"),
            (
                "https://[::ffff:169.254.169.254]/",
                "--allow-private-webhooks",
            ),
            ("", "URL"),
            ("https://exa mple.com/", "URL"),
        ] {
            let e = parse(bad, false).expect_err(bad);
            assert!(e.contains(part), "{bad}: {e}");
        }

        assert!(parse(&format!("https://example.com/{}", "x".repeat(3000)), false).is_err());
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let target = parse("https://localhost:1/", false).expect("a name may be registered");
        let e = connect(&target, false).await.expect_err("loopback");
        assert!(
            e.contains("not allowed") && !e.contains("127.0.0.1") && !e.contains("::1"),
            "{e}"
        );
        let unknown =
            parse("https://no-such-name.invalid/", false).expect("a name may be registered");
        assert_eq!(
            connect(&unknown, false).await.expect_err("unknown"),
            e,
            "one answer, whatever this machine knows"
        );
    }
}
