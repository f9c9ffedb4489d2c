//! Many names in few words, as `clush` folds them: `web[0-3,7] alice`.

use std::collections::BTreeMap;

/// Folds VM names, in any order: those of one group become one word. Groups come in alphabetical order.
pub fn fold_names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut groups: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for name in names {
        let indexed = name.strip_suffix(']').and_then(|name| name.rsplit_once('['));
        match indexed.and_then(|(group, index)| Some((group, index.parse().ok()?))) {
            Some((group, index)) => groups.entry(group).or_default().push(index),
            None => drop(groups.entry(name).or_default()),
        }
    }
    let words = groups.into_iter().map(|(group, indices)| match indices.as_slice() {
        [] => group.to_owned(),
        [only] => format!("{group}[{only}]"),
        _ => format!("{group}[{}]", netlang::fold_indices(indices)),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_indices_become_one_word() {
        assert_eq!(fold_names(["web[2]", "bob", "web[0]", "web[1]", "web[7]"]), "bob web[0-2,7]");
        assert_eq!(fold_names(["hq.pc[3]"]), "hq.pc[3]");
        assert_eq!(fold_names([]), "");
    }

    #[test]
    fn a_name_that_only_looks_indexed_stays_as_it_is() {
        assert_eq!(fold_names(["a[x]", "b]"]), "a[x] b]");
    }
}
