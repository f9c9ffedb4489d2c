//! Names that the language takes: `[a-z][a-z0-9_]*`, no keyword, each once.

use std::collections::{BTreeMap, BTreeSet};

/// Words that can follow a name in a statement, or are operators: as names they would be read as that.
const RESERVED: &[&str] = &["as", "at", "div", "each", "in", "mesh", "mod", "of", "outside"];
/// Longest name that is made; longer ones are cut, since a hostname has at most 63 characters.
const LONGEST: usize = 56;

/// The names of one file.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: BTreeSet<String>,
    /// The number to try next for a name that was taken.
    next: BTreeMap<String, u64>,
}

impl Names {
    /// A free name that is like `wanted`: itself if it can be, else with what is not allowed replaced, and a number.
    pub(crate) fn free(&mut self, wanted: &str) -> String {
        let base = valid(wanted);
        let mut name = base.clone();
        let first = if is_allowed(&base) { 2 } else { 1 };
        let next = self.next.entry(base.clone()).or_insert(first);
        while !is_allowed(&name) || self.taken.contains(&name) {
            name = format!("{base}_{next}");
            *next += 1;
        }
        self.taken.insert(name.clone());
        name
    }

    /// Whether [`Names::free`] needs no number for a name.
    pub(crate) fn is_free(&self, wanted: &str) -> bool {
        let name = valid(wanted);
        is_allowed(&name) && !self.taken.contains(&name)
    }

    /// Takes a name as it is; `false` if that cannot be.
    pub(crate) fn take(&mut self, name: &str) -> bool {
        name == valid(name) && self.is_free(name) && self.taken.insert(name.to_owned())
    }
}

fn is_allowed(name: &str) -> bool {
    netlang::vocab::keyword(name).is_none() && !RESERVED.contains(&name)
}

/// A text as a name: lower case, `_` for all else, and a letter first.
fn valid(text: &str) -> String {
    let mut name: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert(0, 'n');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlang::vocab::KEYWORDS;

    #[test]
    fn names_are_valid_free_and_no_keywords() {
        let mut names = Names::default();
        assert!(names.take("r1_edge"));
        assert!(!names.take("r1_edge") && !names.take("R1") && !names.take("vm"));
        assert_eq!(names.free("r1-edge"), "r1_edge_2");
        assert_eq!(names.free("1st.Leaf"), "n1st_leaf");
        assert_eq!(names.free("_é"), "n__");
        assert_eq!(names.free(""), "n");
        for keyword in KEYWORDS {
            assert_eq!(names.free(keyword.word), format!("{}_1", keyword.word));
        }
    }
}
