//! Which series a query is about, as a filter on identity fields.
//!
//! A short run of VMs is listed by name. A long one is one regular expression anchored at the group's name, so the
//! filter of `web[0..100000]` is a line and not 2 MB of names: see [`digits`].

use mongodb::bson::{Bson, Document, doc};

use crate::schema::Collection;

/// Runs up to this length are listed by name, which an index answers best.
const LISTED: u32 = 200;

/// VMs (or routers), by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmNames {
    /// One: `gateway`, `web[3]`.
    Name(String),
    /// A run of a group: `web[first]` up to, not including, `web[first + count]`.
    Range {
        /// The group: `web`, `hq.pc`.
        group: String,
        /// First index.
        first: u32,
        /// How many.
        count: u32,
    },
    /// All of a group.
    Group(String),
}

/// Which series are meant; empty parts mean all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Only this experiment.
    pub experiment: Option<String>,
    /// Only these hosts.
    pub hosts: Vec<String>,
    /// Only these VMs: any of them.
    pub vms: Vec<VmNames>,
}

impl Selection {
    /// Whether it says anything that a host alone has not.
    pub(crate) fn names_vms(&self) -> bool {
        self.experiment.is_some() || !self.vms.is_empty()
    }

    /// The filter for a collection's documents.
    pub(crate) fn filter(&self, collection: Collection) -> Document {
        let mut filter = Document::new();
        if let Some(experiment) = &self.experiment {
            filter.insert(collection.identity_path("experiment"), experiment);
        }
        if !self.hosts.is_empty() {
            filter.insert(collection.identity_path("host"), doc! { "$in": &self.hosts });
        }
        let vm = collection.identity_path("vm");
        let (mut names, mut patterns) = (Vec::new(), Vec::new());
        for vms in &self.vms {
            match vms {
                VmNames::Name(name) => names.push(name.clone()),
                VmNames::Range { group, first, count } if *count <= LISTED => {
                    names.extend((*first..first.saturating_add(*count)).map(|index| format!("{group}[{index}]")));
                }
                VmNames::Range { group, first, count } => {
                    patterns.push(format!("^{}\\[(?:{})\\]$", escaped(group), digits(*first, *count).join("|")));
                }
                VmNames::Group(group) => patterns.push(format!("^{}\\[[0-9]+\\]$", escaped(group))),
            }
        }
        let mut any: Vec<Document> = patterns.into_iter().map(|pattern| doc! { &vm: { "$regex": pattern } }).collect();
        match names.len() {
            0 => {}
            1 => any.push(doc! { &vm: names.remove(0) }),
            _ => any.push(doc! { &vm: { "$in": names } }),
        }
        match any.len() {
            0 => {}
            1 => filter.extend(any.remove(0)),
            _ => {
                filter.insert("$or", any.into_iter().map(Bson::from).collect::<Vec<_>>());
            }
        }
        filter
    }
}

/// A name in a regular expression, meaning itself. Names have dots between their parts.
fn escaped(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for c in name.chars() {
        if !(c.is_alphanumeric() || c == '_') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// Patterns that together match exactly the decimal numbers of `[first, first + count)`.
///
/// The run is cut into blocks of 10^n numbers that begin at a multiple of 10^n: such a block is its leading digits,
/// one digit of a range, and n - 1 digits at will. There are at most two dozen or so, however long the run is.
fn digits(first: u32, count: u32) -> Vec<String> {
    let mut patterns = Vec::new();
    let mut at = u64::from(first);
    let end = at + u64::from(count);
    while at < end {
        // The largest block that begins here and fits. Nought stands alone: `0` and `00` are different names.
        let mut block = 1u64;
        while at != 0 && at.is_multiple_of(block * 10) && at + block * 10 <= end {
            block *= 10;
        }
        // As many blocks of this size as share all leading digits but the last.
        let last_digit = at / block % 10;
        let same = (9 - last_digit + 1).min((end - at) / block);
        let same = if at == 0 { same.min(10) } else { same };
        let leading = at / block / 10;
        let leading = if leading == 0 { String::new() } else { leading.to_string() };
        let digit = match same {
            1 => last_digit.to_string(),
            _ => format!("[{last_digit}-{}]", last_digit + same - 1),
        };
        let at_will = match block.ilog10() {
            0 => String::new(),
            n => format!("[0-9]{{{n}}}"),
        };
        patterns.push(format!("{leading}{digit}{at_will}"));
        at += same * block;
    }
    patterns
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn select(vms: Vec<VmNames>) -> Document {
        Selection { experiment: Some("hello".into()), hosts: vec![], vms }.filter(Collection::VmSamples)
    }

    #[test]
    fn one_name_and_short_runs_are_listed() {
        assert_eq!(select(vec![VmNames::Name("gw".into())]), doc! { "meta.experiment": "hello", "meta.vm": "gw" });
        assert_eq!(
            select(vec![VmNames::Range { group: "web".into(), first: 2, count: 2 }]),
            doc! { "meta.experiment": "hello", "meta.vm": { "$in": ["web[2]", "web[3]"] } }
        );
    }

    #[test]
    fn a_long_run_is_one_pattern() {
        assert_eq!(
            select(vec![VmNames::Range { group: "hq.pc".into(), first: 0, count: 100_000 }]),
            doc! {
                "meta.experiment": "hello",
                "meta.vm": { "$regex": "^hq\\.pc\\[(?:[0-9]|[1-9][0-9]{1}|[1-9][0-9]{2}|[1-9][0-9]{3}|[1-9][0-9]{4})\\]$" },
            }
        );
    }

    #[test]
    fn several_kinds_are_joined_by_or_and_hosts_and_events_have_their_own_paths() {
        let vms = vec![VmNames::Name("gw".into()), VmNames::Group("web".into())];
        let selection = Selection { experiment: None, hosts: vec!["h1".into()], vms };
        assert_eq!(
            selection.filter(Collection::Events),
            doc! {
                "host": { "$in": ["h1"] },
                "$or": [{ "vm": { "$regex": "^web\\[[0-9]+\\]$" } }, { "vm": "gw" }],
            }
        );
        assert_eq!(Selection::default().filter(Collection::VmSamples), doc! {});
    }

    /// Matches the small language of [`digits`]: digits, `[a-b]` and `[0-9]{n}`.
    fn matches(pattern: &str, number: &str) -> bool {
        let mut rest = number.bytes();
        let mut pattern = pattern;
        while let Some(first) = pattern.bytes().next() {
            let (low, high, times);
            if first == b'[' {
                (low, high) = (pattern.as_bytes()[1], pattern.as_bytes()[3]);
                pattern = &pattern[5..];
                times = match pattern.strip_prefix('{').and_then(|more| more.split_once('}')) {
                    Some((n, after)) => {
                        pattern = after;
                        n.parse().unwrap()
                    }
                    None => 1,
                };
            } else {
                (low, high, times) = (first, first, 1);
                pattern = &pattern[1..];
            }
            for _ in 0..times {
                if !rest.next().is_some_and(|digit| (low..=high).contains(&digit)) {
                    return false;
                }
            }
        }
        rest.next().is_none()
    }

    proptest! {
        #[test]
        fn patterns_match_the_run_and_nothing_else(first in 0u32..30_000, count in 0u32..30_000, probe in 0u32..80_000) {
            let patterns = digits(first, count);
            prop_assert!(patterns.len() <= 40, "{} patterns", patterns.len());
            for number in [probe, first, first + count, (first + count).saturating_sub(1), first.saturating_sub(1)] {
                let matched = patterns.iter().filter(|pattern| matches(pattern, &number.to_string())).count();
                prop_assert_eq!(matched, usize::from((first..first + count).contains(&number)), "{}", number);
            }
        }

        #[test]
        fn the_end_of_the_number_range_is_no_trap(count in 0u32..1000) {
            let first = u32::MAX - count;
            let matched = digits(first, count).iter().any(|pattern| matches(pattern, &u32::MAX.to_string()));
            prop_assert!(!matched);
        }
    }
}
