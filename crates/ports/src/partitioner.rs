//! The partition of a key: the default rule of Kafka's Java client. Computed here, so that no
//! producer setting can change the rule.

/// `(murmur2(key) & 0x7fffffff) mod count`.
pub fn partition(key: &[u8], count: u32) -> u32 {
    (murmur2(key) as u32 & 0x7fff_ffff) % count
}

/// Murmur2 with the seed of Kafka's Java client.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c_u32 ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("four bytes")).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }

    let tail = words.remainder();
    if !tail.is_empty() {
        for (i, b) in tail.iter().enumerate() {
            h ^= u32::from(*b) << (8 * i);
        }

        h = h.wrapping_mul(M);
    }

    h = (h ^ (h >> 13)).wrapping_mul(M);
    (h ^ (h >> 15)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_java_clients_vectors() {
        for (key, want) in [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
        ] {
            assert_eq!(murmur2(key.as_bytes()), want, "{key}");
        }
    }
}
