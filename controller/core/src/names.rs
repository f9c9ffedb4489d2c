//! Folded names, read back: `web[0-3,7] alice` into ranges, `h[1-3,07] db` into the hosts that are meant.

use std::collections::BTreeSet;

/// One word of a folded text: what stands before its last bracket, and the numbers within it.
#[derive(Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// `web` of `web[0-3]`, `alice` of `alice`.
    pub stem: &'a str,
    /// Runs of numbers, both ends included, as they were written; `None` when there is no bracket.
    pub runs: Option<Vec<(&'a str, &'a str)>>,
    /// What follows the bracket.
    pub rest: &'a str,
}

impl Word<'_> {
    /// Runs as (first, count); what is no number is left out.
    pub fn numbers(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().flatten().filter_map(|(first, last)| {
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            Some((first, last.checked_sub(first)?.checked_add(1)?))
        })
    }
}

/// Words of a folded text. Brackets of a stem (`east[1].pc[0-3]`) belong to the stem.
pub fn words(text: &str) -> impl Iterator<Item = Word<'_>> {
    text.split_whitespace().map(|word| {
        let plain = Word { stem: word, runs: None, rest: "" };
        let Some((stem, tail)) = word.rsplit_once('[') else { return plain };
        let Some((inside, rest)) = tail.split_once(']') else { return plain };
        let runs: Vec<(&str, &str)> = inside.split(',').map(|run| run.split_once('-').unwrap_or((run, run))).collect();
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if runs.iter().all(|(first, last)| is_number(first) && is_number(last)) {
            Word { stem, runs: Some(runs), rest }
        } else {
            plain
        }
    })
}

/// Whether names were cut off a folded text: it ends with `…` then.
pub fn is_cut(text: &str) -> bool {
    text.ends_with('…')
}

/// The hosts that a folded text names, of those that there are. Numbers may be written with zeros before them.
pub fn hosts_in(text: &str, known: &BTreeSet<&str>) -> Vec<String> {
    let mut found = Vec::new();
    for word in words(text) {
        let Some(runs) = &word.runs else {
            found.extend(known.get(word.stem).map(ToString::to_string));
            continue;
        };
        for ((text, _), (first, count)) in runs.iter().zip(word.numbers()) {
            // More numbers than there are hosts name nobody.
            for number in first..first.saturating_add(count.min(MOST_HOSTS)) {
                let padded = format!("{}{number:0width$}{}", word.stem, word.rest, width = text.len());
                let plain = format!("{}{number}{}", word.stem, word.rest);
                let name = [padded, plain].into_iter().find(|name| known.contains(name.as_str()));
                found.extend(name);
            }
        }
    }
    found
}

/// No fleet has more: a run that says so is damaged.
const MOST_HOSTS: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bracket_has_the_numbers() {
        let all: Vec<_> = words("web[0-3,7] alice east[1].pc[2] odd[x]").collect();
        assert_eq!(all[0].numbers().collect::<Vec<_>>(), [(0, 4), (7, 1)]);
        assert_eq!((all[1].stem, &all[1].runs), ("alice", &None));
        assert_eq!((all[2].stem, all[2].numbers().collect::<Vec<_>>()), ("east[1].pc", vec![(2, 1)]));
        assert_eq!((all[3].stem, &all[3].runs), ("odd[x]", &None));
    }

    #[test]
    fn hosts_are_found_with_and_without_zeros_and_strangers_are_not() {
        let known: BTreeSet<&str> = ["h1", "h2", "n08", "n09", "n10", "db", "r1-a"].into();
        assert_eq!(hosts_in("h[1-3] db stranger", &known), ["h1", "h2", "db"]);
        assert_eq!(hosts_in("n[08-10] r[1]-a", &known), ["n08", "n09", "n10", "r1-a"]);
        assert!(hosts_in("h[0-4294967295] h[9-1]", &known).len() <= known.len());
    }
}
