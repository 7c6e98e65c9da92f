//! Instructions that a build needs and an old processor may lack.

/// Returns those of `needs` (names separated by commas, as rustc spells them) that this processor
/// does not have. A name that this function does not know counts as missing.
pub fn missing(needs: &str) -> Vec<&str> {
    needs
        .split(',')
        .filter(|name| !name.is_empty() && !has(name))
        .collect()
}

#[cfg(target_arch = "x86_64")]
fn has(name: &str) -> bool {
    match name {
        "sse4.2" => std::arch::is_x86_feature_detected!("sse4.2"),
        "pclmulqdq" => std::arch::is_x86_feature_detected!("pclmulqdq"),
        _ => false,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has(_name: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_unknown_instruction_counts_as_missing() {
        assert_eq!(super::missing(""), [""; 0]);
        assert_eq!(super::missing("sse9,sse10"), ["sse9", "sse10"]);
    }
}
