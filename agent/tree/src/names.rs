//! Sets of names in few words, as `clush` folds them: `h[1-3,7] node[008-012] alice`, `web[0-3]`.
//!
//! A set keeps runs of numbers by what stands around them, never a list of names: a million names that follow one
//! another are one run. Two styles: for **hosts** the last number of the first label folds (`h1 h2` → `h[1-2]`,
//! `h1.lab h2.lab` → `h[1-2].lab`), zeros in front included; for **guests** the index folds, whose brackets belong to
//! the name (`web[1] web[2]` → `web[1-2]`). Names hold neither blanks nor, for hosts, brackets. Text that is cut ends
//! with `…`; the count of a fold is kept beside its text and stays exact.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::runs::Runs;

/// Runs and single names that a set holds at most; what comes then is only remembered as being left out.
const PARTS: usize = 100_000;
/// Digits of a number at most; a longer one is text.
const DIGITS: usize = 18;
/// Stands for names that were left out.
const CUT: &str = "…";

/// What folds in a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The last number of the first label: `h7`, `h07`, `h7.example.org`.
    Hosts,
    /// The index in brackets at the end: `web[7]`.
    Guests,
}

/// A set of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameSet {
    style: Style,
    stems: BTreeMap<Stem, Runs>,
    cut: bool,
}

/// What stands around a number. A name without number has no runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stem {
    before: String,
    after: String,
    numbered: bool,
    /// Digits of a number with zeros in front; 0 without.
    width: usize,
}

impl NameSet {
    /// No names.
    pub fn new(style: Style) -> Self {
        Self { style, stems: BTreeMap::new(), cut: false }
    }

    /// One name.
    pub fn one(style: Style, name: &str) -> Self {
        let mut set = Self::new(style);
        set.insert(name);
        set
    }

    /// Reads folded text. Never fails: a word that does not fold is a name.
    pub fn parse(style: Style, text: &str) -> Self {
        let mut set = Self::new(style);
        for word in text.split_whitespace() {
            if word == CUT {
                set.cut = true;
            } else if !set.insert_folded(word) {
                set.insert(word);
            }
        }
        set
    }

    /// Adds a name.
    pub fn insert(&mut self, name: &str) {
        let (before, number, after) = match self.style {
            Style::Hosts => split_host(name),
            Style::Guests => split_guest(name),
        };
        match number.and_then(parse_number) {
            Some((value, width)) => self.insert_run(before, after, width, (value, value)),
            None => self.insert_plain(name),
        }
    }

    /// Adds all names of another set.
    pub fn union(&mut self, other: &Self) {
        self.cut |= other.cut;
        for (stem, runs) in &other.stems {
            if !stem.numbered {
                self.insert_plain(&stem.before);
            }
            for run in runs.iter() {
                self.insert_run(&stem.before, &stem.after, stem.width, run);
            }
        }
    }

    /// Names in it, without those that were left out.
    pub fn len(&self) -> u64 {
        self.stems.iter().map(|(stem, runs)| if stem.numbered { runs.len() } else { 1 }).sum()
    }

    /// Whether no name is in it.
    pub fn is_empty(&self) -> bool {
        self.stems.is_empty()
    }

    /// Whether names were left out.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// The names, one by one, in no order to rely on.
    pub fn iter(&self) -> impl Iterator<Item = String> {
        let brackets = self.style == Style::Guests;
        self.stems.iter().flat_map(move |(stem, runs)| {
            let plain = (!stem.numbered).then(|| stem.before.clone());
            let numbers = runs.iter().flat_map(|(first, last)| first..=last);
            plain.into_iter().chain(numbers.map(move |number| {
                let Stem { before, after, width, .. } = stem;
                let width = *width;
                if brackets {
                    format!("{before}[{number:0width$}]")
                } else {
                    format!("{before}{number:0width$}{after}")
                }
            }))
        })
    }

    /// The set as text of about `limit` bytes at most; what does not fit is left out, and `…` stands for it.
    pub fn to_text(&self, limit: usize) -> String {
        let mut out = String::new();
        let mut cut = self.cut;
        let mut stems = self.stems.iter().peekable();
        while let Some((stem, runs)) = stems.next() {
            if !stem.numbered {
                cut |= !push_word(&mut out, &stem.before, limit);
                continue;
            }
            // The widths of one stem follow one another, the one without zeros first: its numbers that have as many
            // digits as a padded width are shown with that.
            let mut natural = if stem.width == 0 { runs.clone() } else { Runs::default() };
            let mut padded = if stem.width == 0 { Vec::new() } else { vec![(stem.width, runs.clone())] };
            let same = |next: &Stem| next.numbered && next.before == stem.before && next.after == stem.after;
            while let Some((next, runs)) = stems.next_if(|(next, _)| same(next)) {
                padded.push((next.width, runs.clone()));
            }
            for (width, runs) in &mut padded {
                for run in natural.take(of_digits(*width)) {
                    runs.insert(run);
                }
            }
            let all = std::iter::once((0, natural)).chain(padded);
            for (width, runs) in all.filter(|(_, runs)| !runs.is_empty()) {
                cut |= !self.push_runs(&mut out, stem, width, &runs, limit);
            }
        }
        if cut {
            push_word(&mut out, CUT, usize::MAX);
        }
        out
    }

    /// Writes one word; `false` when not all of it fits.
    fn push_runs(&self, out: &mut String, stem: &Stem, width: usize, runs: &Runs, limit: usize) -> bool {
        let mut inner = String::new();
        let room = limit.saturating_sub(out.len() + stem.before.len() + stem.after.len() + 3);
        let mut whole = true;
        for (first, last) in runs.iter() {
            let before = inner.len();
            if before > 0 {
                inner.push(',');
            }
            // Writing to a String cannot fail.
            let _ = match last - first {
                0 => write!(inner, "{first:0width$}"),
                _ => write!(inner, "{first:0width$}-{last:0width$}"),
            };
            if inner.len() > room {
                inner.truncate(before);
                whole = false;
                break;
            }
        }
        if inner.is_empty() {
            return false;
        }
        let plain = self.style == Style::Hosts && inner.bytes().all(|byte| byte.is_ascii_digit());
        let Stem { before, after, .. } = stem;
        let word = if plain { format!("{before}{inner}{after}") } else { format!("{before}[{inner}]{after}") };
        push_word(out, &word, usize::MAX);
        whole
    }

    /// Adds `before[1-3,7]after`; `false`, and nothing is added, when the word is not of that form.
    fn insert_folded(&mut self, word: &str) -> bool {
        let Some((before, rest)) = word.split_once('[') else { return false };
        let Some((inner, after)) = rest.split_once(']') else { return false };
        if self.style == Style::Guests && !after.is_empty() {
            return false;
        }
        let parse = |item: &str| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let ((from, width), (to, _)) = (parse_number(first)?, parse_number(last)?);
            (from <= to).then_some((from, to, width))
        };
        let Some(items) = inner.split(',').map(parse).collect::<Option<Vec<_>>>() else { return false };
        for (from, to, width) in items {
            // Numbers of the full width have no zeros in front: they are the same with and without.
            let (low, high) = if width == 0 { (0, 0) } else { of_digits(width) };
            if width > 0 && from < low {
                self.insert_run(before, after, width, (from, to.min(low - 1)));
            }
            if width == 0 || to >= low {
                self.insert_run(before, after, 0, (from.max(low), to));
            }
            debug_assert!(low <= high);
        }
        true
    }

    fn insert_plain(&mut self, name: &str) {
        let stem = Stem { before: name.to_owned(), after: String::new(), numbered: false, width: 0 };
        if self.stems.contains_key(&stem) {
            return;
        }
        if self.stems.len() >= PARTS {
            self.cut = true;
            return;
        }
        self.stems.insert(stem, Runs::default());
    }

    fn insert_run(&mut self, before: &str, after: &str, width: usize, run: (u64, u64)) {
        let stem = Stem { before: before.to_owned(), after: after.to_owned(), numbered: true, width };
        if self.stems.len() >= PARTS && !self.stems.contains_key(&stem) {
            self.cut = true;
            return;
        }
        let runs = self.stems.entry(stem).or_default();
        if runs.parts() >= PARTS && !runs.touches(run) {
            self.cut = true;
            return;
        }
        runs.insert(run);
    }
}

/// Folds names of VMs, in any order, into one text.
pub fn fold_names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut set = NameSet::new(Style::Guests);
    for name in names {
        set.insert(name);
    }
    set.to_text(usize::MAX)
}

fn push_word(out: &mut String, word: &str, limit: usize) -> bool {
    if out.len() + word.len() + 1 > limit {
        return false;
    }
    if !out.is_empty() {
        out.push(' ');
    }
    out.push_str(word);
    true
}

fn split_host(name: &str) -> (&str, Option<&str>, &str) {
    let label = name.find('.').unwrap_or(name.len());
    let is_digit = |c: char| c.is_ascii_digit();
    let Some(end) = name[..label].rfind(is_digit).map(|at| at + 1) else { return (name, None, "") };
    let start =
        name[..end].rfind(|c| !is_digit(c)).map_or(0, |at| at + name[at..].chars().next().map_or(0, char::len_utf8));
    (&name[..start], Some(&name[start..end]), &name[end..])
}

fn split_guest(name: &str) -> (&str, Option<&str>, &str) {
    match name.strip_suffix(']').and_then(|name| name.rsplit_once('[')) {
        Some((group, index)) => (group, Some(index), ""),
        None => (name, None, ""),
    }
}

/// A number and the digits it is written with when zeros stand in front.
fn parse_number(digits: &str) -> Option<(u64, usize)> {
    let fits = (1..=DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value = fits.then(|| digits.parse().ok())??;
    Some((value, if digits.len() > 1 && digits.starts_with('0') { digits.len() } else { 0 }))
}

/// The least and the greatest number of so many digits, 1 to [`DIGITS`].
fn of_digits(width: usize) -> (u64, u64) {
    let power = |digits: usize| 10_u64.saturating_pow(u32::try_from(digits).unwrap_or(u32::MAX));
    (if width <= 1 { 0 } else { power(width - 1) }, power(width) - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn folded(style: Style, names: &[&str]) -> String {
        let mut set = NameSet::new(style);
        names.iter().for_each(|name| set.insert(name));
        set.to_text(usize::MAX)
    }

    #[test]
    fn runs_of_indices_become_one_word() {
        assert_eq!(fold_names(["web[2]", "bob", "web[0]", "web[1]", "web[7]"]), "bob web[0-2,7]");
        assert_eq!(fold_names(["hq.pc[3]"]), "hq.pc[3]");
        assert_eq!(fold_names(["web", "web[1]"]), "web web[1]");
        assert_eq!(fold_names([]), "");
    }

    #[test]
    fn a_name_that_only_looks_indexed_stays_as_it_is() {
        assert_eq!(fold_names(["a[x]", "b]", "c3"]), "a[x] b] c3");
    }

    #[test]
    fn hosts_fold_by_their_number() {
        assert_eq!(folded(Style::Hosts, &["h7", "h1", "h3", "h2"]), "h[1-3,7]");
        assert_eq!(folded(Style::Hosts, &["h7"]), "h7");
        assert_eq!(folded(Style::Hosts, &["r2-h7", "r2-h8", "alice"]), "alice r2-h[7-8]");
        assert_eq!(folded(Style::Hosts, &["h1.lab4.org", "h2.lab4.org"]), "h[1-2].lab4.org");
        assert_eq!(folded(Style::Hosts, &["7", "8", "ä9", "ä10"]), "[7-8] ä[9-10]");
    }

    #[test]
    fn zeros_in_front_are_kept() {
        assert_eq!(folded(Style::Hosts, &["h008", "h009", "h010", "h100", "h1000"]), "h1000 h[008-010,100]");
        assert_eq!(folded(Style::Hosts, &["h1", "h01", "h001"]), "h1 h01 h001");
        let set = NameSet::parse(Style::Hosts, "h[098-101] h[7-8]");
        let names: BTreeSet<_> = set.iter().collect();
        assert_eq!(names, ["h098", "h099", "h100", "h101", "h7", "h8"].map(str::to_owned).into());
    }

    #[test]
    fn a_million_names_are_one_run() {
        let mut set = NameSet::parse(Style::Guests, "web[0-499999]");
        set.union(&NameSet::parse(Style::Guests, "web[500000-999999]"));
        assert_eq!((set.len(), set.to_text(100).as_str()), (1_000_000, "web[0-999999]"));
    }

    #[test]
    fn text_is_cut_at_the_limit_and_says_so() {
        let mut set = NameSet::new(Style::Guests);
        for index in 0..10_000 {
            set.insert(&format!("web[{}]", 2 * index));
        }
        let text = set.to_text(1_000);
        assert!(text.len() < 1_010 && text.ends_with("] …"), "{text}");
        let again = NameSet::parse(Style::Guests, &text);
        assert!(again.is_cut() && again.len() > 200);
        assert!(again.iter().all(|name| set.iter().any(|known| known == name)));
        assert!(again.to_text(usize::MAX).ends_with('…'), "what was left out is not forgotten");
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            (prop::sample::select(vec!["h", "node", "r1-h", "", "a.b"]), 0_u32..120)
                .prop_map(|(a, n)| format!("{a}{n}")),
            (prop::sample::select(vec!["h", "n"]), 0_u32..120, 1_usize..5).prop_map(|(a, n, w)| format!("{a}{n:0w$}")),
            (0_u32..30, 1_usize..4).prop_map(|(n, w)| format!("h{n:0w$}.lab2.org")),
            "[a-z]{1,3}",
        ]
    }

    proptest! {
        #[test]
        fn folded_text_gives_the_names_back(
            hosts in prop::collection::btree_set(name(), 0..80), split in 0_usize..80,
            guests in prop::collection::btree_set(("[a-c]", 0_u32..90), 0..80),
        ) {
            let guests = guests.into_iter().map(|(group, index)| format!("{group}[{index}]")).collect();
            for (style, names) in [(Style::Hosts, hosts), (Style::Guests, guests)] {
                let (mut left, mut right) = (NameSet::new(style), NameSet::new(style));
                for (at, name) in names.iter().enumerate() {
                    if at < split { left.insert(name) } else { right.insert(name) }
                }
                let mut both = left.clone();
                both.union(&right);
                let mut other = NameSet::parse(style, &right.to_text(usize::MAX));
                other.union(&NameSet::parse(style, &left.to_text(usize::MAX)));
                prop_assert_eq!(&both, &other);
                prop_assert_eq!(both.len(), names.len() as u64);
                prop_assert_eq!(both.iter().collect::<BTreeSet<_>>(), names);
            }
        }

        #[test]
        fn any_text_parses(text: String) {
            let set = NameSet::parse(Style::Hosts, &text);
            prop_assert!(set.to_text(50).len() < 60 + text.len());
        }
    }
}
