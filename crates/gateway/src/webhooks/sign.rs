//! Signatures of webhooks, as in Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over
//! `id.timestamp.body`. The key is the decoded base64 after `whsec_`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";

/// A new random secret.
pub fn new_secret() -> Result<String, String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|e| format!("this machine gives no random numbers: {e}"))?;
    Ok(format!("{PREFIX}{}", STANDARD.encode(random)))
}

/// The key in a secret: 24 to 64 bytes.
pub fn key(secret: &str) -> Result<Vec<u8>, String> {
    let bytes = secret
        .strip_prefix(PREFIX)
        .and_then(|text| STANDARD.decode(text).ok());
    let bytes = bytes.filter(|b| (24..=64).contains(&b.len()));
    bytes.ok_or_else(|| {
        "must be whsec_ followed by the base64 of 24 to 64 bytes; leave it out and one is made"
            .to_string()
    })
}

/// The value of the header `webhook-signature`.
pub fn signature(key: &[u8], id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(format!("{id}.{timestamp_s}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification() {
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn secrets() {
        let a = new_secret().expect("random");
        let b = new_secret().expect("random");
        assert!(a != b && key(&a).expect("ours").len() == 32);
        for bad in [
            "",
            "whsec_",
            "whsec_AAAA",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_%%%",
        ] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }
}
