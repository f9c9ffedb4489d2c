//! What a file would change in its lock: lines that are new, of declarations that are gone, and that move.

use super::extents::{Extent, Extents};
use super::lock::{BlockKind, Lock, Section, block_text};
use crate::sema::Compilation;
use hashbrown::HashSet;
use serde::Serialize;
use std::sync::Arc;

/// The lines of a declaration in a lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LockEntry {
    /// `host`, `link`, `net` or `vni`.
    pub kind: &'static str,
    /// The declaration: `office`, `office/alice`.
    pub path: String,
    /// What it has, an entry a line: `16 [0..32]`, `10.0.0.0/24`.
    pub blocks: Vec<String>,
}

/// A declaration whose lines change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockChange {
    /// As the lock has it.
    pub before: LockEntry,
    /// As it would be.
    pub after: LockEntry,
}

/// What `fleet up` would change in a section of the lock. Lines of what is gone stay all the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LockDifference {
    /// Declarations that would get lines.
    pub new: Vec<LockEntry>,
    /// Lines that nothing in the file uses.
    pub gone: Vec<LockEntry>,
    /// Declarations that get further lines, or more room where they are; what they had stays.
    pub grown: Vec<LockChange>,
    /// Declarations whose addresses move: another pool, another shape.
    pub moved: Vec<LockChange>,
}

impl LockDifference {
    /// Whether `fleet up` would change nothing, and nothing could be freed.
    pub fn is_empty(&self) -> bool {
        *self == LockDifference::default()
    }
}

fn entry(kind: BlockKind, path: &str, extents: &Extents) -> LockEntry {
    LockEntry {
        kind: kind.word(),
        path: path.to_owned(),
        blocks: extents.0.iter().map(|e| block_text(kind, e)).collect(),
    }
}

/// Whether every element of a block is where it was.
fn stays(before: &Extent, after: &Extents) -> bool {
    // A lan that was widened in place: the same first address, a shorter prefix.
    after.0.iter().any(|e| e.base == before.base && e.bounds == before.bounds && e.len <= before.len)
}

impl Compilation {
    /// The difference between a lock and this compilation of it. Empty when the file is wrong.
    pub fn lock_difference(&self, before: &Lock) -> LockDifference {
        let mut difference = LockDifference::default();
        let Some(plan) = &self.plan else { return difference };
        let empty = Arc::new(Section::default());
        let old = before.section(plan.experiment()).unwrap_or(&empty);
        let new = self.lock.section(plan.experiment()).unwrap_or(&empty);
        for (kind, path, extents) in new.blocks() {
            let after = entry(kind, path, extents);
            match old.get(kind, path) {
                None => difference.new.push(after),
                Some(_) if !new.is_used(kind, path) => difference.gone.push(after),
                Some(same) if same == extents => {}
                Some(known) => {
                    let change = LockChange { before: entry(kind, path, known), after };
                    let grown = known.0.iter().all(|extent| stays(extent, extents));
                    if grown { &mut difference.grown } else { &mut difference.moved }.push(change);
                }
            }
        }
        difference.new.sort_unstable();
        difference.gone.sort_unstable();
        difference.grown.sort_unstable_by(|a, b| a.after.cmp(&b.after));
        difference.moved.sort_unstable_by(|a, b| a.after.cmp(&b.after));
        difference
    }
}

impl Lock {
    /// The lock without lines of an experiment that [`Compilation::lock_difference`] found to be of what is gone.
    pub fn pruned(&self, experiment: &str, gone: &[LockEntry]) -> Lock {
        let mut lock = self.clone();
        let Some(section) = self.section(experiment) else { return lock };
        let gone: HashSet<(&str, &str)> = gone.iter().map(|entry| (entry.kind, &*entry.path)).collect();
        let mut kept = Section::default();
        for (kind, path, extents) in section.blocks() {
            if !gone.contains(&(kind.word(), path)) {
                kept.set(kind, path, extents);
            }
        }
        if kept.is_empty() {
            lock.remove_section(experiment);
        } else {
            lock.set_section(experiment, Arc::new(kept));
        }
        lock
    }
}
