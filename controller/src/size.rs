//! Sizes in settings and files of hosts: `64GiB`.

/// Bytes of a text such as "64GiB", "512 MiB"; units are those of 1024.
pub fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(size("64GiB"), Some(64 << 30));
        assert_eq!(size("512 MiB"), Some(512 << 20));
        assert_eq!(size("64GB"), None);
        assert_eq!(size("99999999999999TiB"), None);
    }
}
