//! Many VM names in few words: `web[0-3,7] alice`.

use super::{GroupId, Plan};
use std::collections::BTreeMap;
use std::fmt::Write;

impl Plan {
    /// Folds VMs, given as (group, index) in any order, into text like that of clush: `web[0-3,7] alice`.
    pub fn fold_names(&self, vms: impl IntoIterator<Item = (GroupId, u32)>) -> String {
        let mut groups: BTreeMap<GroupId, Vec<u32>> = BTreeMap::new();
        for (group, index) in vms {
            groups.entry(group).or_default().push(index);
        }
        let mut out = String::new();
        for (group, indices) in groups {
            let Some(row) = self.data.groups.get(group.0 as usize) else { continue };
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&self.data.names.path(row.instance, row.decl, None));
            if row.is_array {
                // Writing to a String cannot fail.
                let _ = write!(out, "[{}]", fold_indices(indices));
            }
        }
        out
    }
}

/// Folds numbers, in any order: `0-3,7`.
pub fn fold_indices(indices: impl IntoIterator<Item = u32>) -> String {
    let mut indices: Vec<u32> = indices.into_iter().collect();
    indices.sort_unstable();
    indices.dedup();
    let mut parts = Vec::new();
    for run in indices.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        match run {
            [first, .., last] => parts.push(format!("{first}-{last}")),
            [only] => parts.push(only.to_string()),
            [] => {}
        }
    }
    parts.join(",")
}
