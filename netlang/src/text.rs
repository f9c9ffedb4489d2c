//! Small helpers for words in messages.

/// A number with commas: `1,000,000`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `a`, `a or b`, `a, b or c`, each in backquotes.
pub(crate) fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|w| format!("`{w}`")).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A duration as the language writes it, in the largest unit that has no fraction: `90s`, `2min`, `1500ms`.
pub(crate) fn duration(nanoseconds: u64) -> String {
    const UNITS: &[(u64, &str)] =
        &[(3_600_000_000_000, "h"), (60_000_000_000, "min"), (1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
    let (scale, unit) =
        match UNITS.iter().find(|(scale, _)| nanoseconds >= *scale && nanoseconds.is_multiple_of(*scale)) {
            Some(found) => *found,
            None if nanoseconds == 0 => (1, "s"),
            None => (1, "ns"),
        };
    format!("{}{unit}", nanoseconds / scale)
}

/// A rate as the language writes it: `10Mbit`; what is no whole `kbit` is rounded down.
pub(crate) fn rate(bits: u64) -> String {
    const UNITS: &[(u64, &str)] = &[(1_000_000_000, "Gbit"), (1_000_000, "Mbit")];
    match UNITS.iter().find(|(scale, _)| bits >= *scale && bits.is_multiple_of(*scale)) {
        Some((scale, unit)) => format!("{}{unit}", bits / scale),
        None => format!("{}kbit", bits / 1_000),
    }
}

/// The candidate nearest to a mistyped word, if one is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|c| c.len().abs_diff(word.len()) <= limit && *c != word)
        .map(|c| (distance(word.as_bytes(), c.as_bytes()), c))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, c)| c)
}

/// Edits (insert, delete, replace, swap of neighbours) between two words: the restricted Damerau-Levenshtein distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (above[j - 1] + same).min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// The FNV-1a hash: stable for ever, for names that need a short mark of identity.
pub(crate) fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// The 64-bit FNV-1a hash: stable for ever.
pub(crate) fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Spreads a number over 64 bits: the finalizer of MurmurHash3, stable for ever.
pub(crate) fn mix64(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
