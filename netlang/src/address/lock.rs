//! `fleet.lock`: what has been given to whom, so that addresses never move.
//!
//! A text file with a section for each experiment and a line for each block, in a fixed order:
//!
//! ```text
//! version 1
//! [hello]
//! host office/alice 16
//! net office 10.0.0.0/24
//! vni office 1
//! ```
//!
//! `net` and `link` are blocks of prefixes, `vni` ordinals, `host` host numbers on a lan. An array's line ends in its bounds: `[0..16][0..4]` is a block for 16
//! instances of 4 elements, in that order. A declaration may have several lines: it has outgrown the first. Lines are
//! O(declarations), whatever the number of VMs. Keep the file beside the network files, under version control.

use super::extents::{Extent, Extents};
use super::prefix::Prefix;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Blocks of one declaration. One is added when it has outgrown those that it has, which mostly doubles its size.
const MAX_BLOCKS: usize = 1024;

/// What a block is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum BlockKind {
    Host,
    Link,
    Net,
    Vni,
}

impl BlockKind {
    const ALL: [(BlockKind, &'static str); 4] =
        [(BlockKind::Host, "host"), (BlockKind::Link, "link"), (BlockKind::Net, "net"), (BlockKind::Vni, "vni")];

    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(k, _)| *k == self).map_or("", |(_, w)| w)
    }

    fn has_prefix(self) -> bool {
        matches!(self, BlockKind::Link | BlockKind::Net)
    }
}

/// A declaration and its blocks; the path is a piece of the section's text.
#[derive(Debug, Clone)]
struct Entry {
    kind: BlockKind,
    start: u32,
    end: u32,
    extents: Extents,
    /// The file that was compiled has the declaration.
    used: bool,
}

/// The blocks of one experiment. Paths are kept in one text: there may be a million of them.
#[derive(Debug, Clone, Default)]
pub struct Section {
    text: String,
    entries: Vec<Entry>,
    /// Entries by kind and path.
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Section {
    fn path(&self, entry: &Entry) -> &str {
        &self.text[entry.start as usize..entry.end as usize]
    }

    fn find(&self, hash: u64, kind: BlockKind, path: &str) -> Option<usize> {
        let same = |at: &u32| {
            let entry = &self.entries[*at as usize];
            entry.kind == kind && self.path(entry) == path
        };
        self.table.find(hash, same).map(|at| *at as usize)
    }

    pub(crate) fn get(&self, kind: BlockKind, path: &str) -> Option<&Extents> {
        if self.entries.is_empty() {
            return None;
        }
        self.find(self.hasher.hash_one((kind, path)), kind, path).map(|at| &self.entries[at].extents)
    }

    pub(crate) fn set(&mut self, kind: BlockKind, path: &str, extents: &Extents) {
        self.entry(kind, path).clone_from(extents);
    }

    /// The blocks of a declaration of the file, which has none if it is new.
    pub(crate) fn entry(&mut self, kind: BlockKind, path: &str) -> &mut Extents {
        let at = self.number(kind, path);
        let entry = &mut self.entries[at];
        entry.used = true;
        &mut entry.extents
    }

    /// A copy in which no declaration is used yet.
    pub(crate) fn renewed(&self) -> Section {
        let mut section = self.clone();
        section.entries.iter_mut().for_each(|entry| entry.used = false);
        section
    }

    /// Whether a declaration was given its blocks, by the file's being compiled.
    pub(crate) fn is_used(&self, kind: BlockKind, path: &str) -> bool {
        self.find(self.hasher.hash_one((kind, path)), kind, path).is_some_and(|at| self.entries[at].used)
    }

    /// Makes room for so many more declarations.
    pub(crate) fn reserve(&mut self, more: usize) {
        let Section { text, entries, table, hasher } = self;
        entries.reserve(more);
        table.reserve(more, |at| entries[*at as usize].hash(text, hasher));
    }

    /// The number of a declaration, which has no blocks if it is new.
    fn number(&mut self, kind: BlockKind, path: &str) -> usize {
        let hash = self.hasher.hash_one((kind, path));
        self.find(hash, kind, path).unwrap_or_else(|| {
            let (start, at) = (self.text.len() as u32, self.entries.len());
            self.text.push_str(path);
            self.entries.push(Entry {
                kind,
                start,
                end: self.text.len() as u32,
                extents: Extents::default(),
                used: false,
            });
            let Section { text, entries, table, hasher } = self;
            table.insert_unique(hash, at as u32, |at| entries[*at as usize].hash(text, hasher));
            at
        })
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = (BlockKind, &str, &Extents)> {
        self.entries.iter().map(|entry| (entry.kind, self.path(entry), &entry.extents))
    }

    /// How many declarations have blocks.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing has a block.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Entry {
    fn hash(&self, text: &str, hasher: &DefaultHashBuilder) -> u64 {
        hasher.hash_one((self.kind, &text[self.start as usize..self.end as usize]))
    }
}

impl PartialEq for Section {
    /// The order in which blocks came does not matter.
    fn eq(&self, other: &Section) -> bool {
        self.len() == other.len() && self.blocks().all(|(kind, path, extents)| other.get(kind, path) == Some(extents))
    }
}

impl Eq for Section {}

/// Why a lock file cannot be read. Nothing is guessed: a wrong lock would move addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "fleet.lock line {line}: {problem}; restore the file from version control, or remove that line to have its block given anew"
)]
pub struct LockError {
    /// Line, from 1.
    pub line: u32,
    /// What is wrong with it.
    pub problem: String,
}

/// The contents of a `fleet.lock`. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    sections: BTreeMap<String, Arc<Section>>,
}

impl Lock {
    /// Reads a lock file. An empty text is an empty lock.
    pub fn parse(text: &str) -> Result<Lock, LockError> {
        let mut lock = Lock::default();
        let mut current: Option<(String, Section)> = None;
        for (number, line) in text.lines().enumerate() {
            let fail = |problem: String| LockError { line: number as u32 + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(version) = line.strip_prefix("version ") {
                if version.trim() != "1" {
                    return Err(fail(format!("version {} is not known to this fleet", version.trim())));
                }
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                if let Some((name, section)) = current.take() {
                    lock.sections.insert(name, Arc::new(section));
                }
                if lock.sections.contains_key(name) {
                    return Err(fail(format!("there is a second section [{name}]")));
                }
                current = Some((name.to_owned(), Section::default()));
                continue;
            }
            let Some((_, section)) = &mut current else {
                return Err(fail("a block before the first [experiment]".to_owned()));
            };
            let (kind, path, extent) = parse_block(line).ok_or_else(|| fail(format!("cannot read `{line}`")))?;
            let at = section.number(kind, path);
            let extents = &mut section.entries[at].extents;
            if extents.0.len() == MAX_BLOCKS {
                return Err(fail(format!("more than {MAX_BLOCKS} blocks for {path}")));
            }
            extents.0.push(extent);
        }
        if let Some((name, section)) = current {
            lock.sections.insert(name, Arc::new(section));
        }
        Ok(lock)
    }

    /// The names of the experiments that have a section.
    pub fn experiments(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }

    /// The section of an experiment.
    pub fn section(&self, experiment: &str) -> Option<&Arc<Section>> {
        self.sections.get(experiment)
    }

    /// Puts in or replaces the section of an experiment.
    pub fn set_section(&mut self, experiment: &str, section: Arc<Section>) {
        self.sections.insert(experiment.to_owned(), section);
    }

    /// Removes the section of an experiment: its next plan gets new addresses.
    pub fn remove_section(&mut self, experiment: &str) -> Option<Arc<Section>> {
        self.sections.remove(experiment)
    }

    /// A lock with the section of one experiment only: what an agent needs to compile it to the same addresses.
    pub fn only(&self, experiment: &str) -> Lock {
        let sections = self.sections.get_key_value(experiment).map(|(k, v)| (k.clone(), v.clone()));
        Lock { sections: sections.into_iter().collect() }
    }

    /// Takes over every section of another lock; sections of both are the other's afterwards.
    pub fn merge(&mut self, other: &Lock) {
        self.sections.extend(other.sections.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
}

impl std::str::FromStr for Lock {
    type Err = LockError;

    fn from_str(text: &str) -> Result<Lock, LockError> {
        Lock::parse(text)
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# fleet.lock: addresses that never move. Written by fleet; keep it beside the network files.")?;
        writeln!(f, "version 1")?;
        for (name, section) in &self.sections {
            writeln!(f, "\n[{name}]")?;
            let mut blocks: Vec<_> = section.blocks().collect();
            blocks.sort_unstable_by_key(|(kind, path, _)| (*kind, *path));
            for (kind, path, extents) in blocks {
                for extent in &extents.0 {
                    writeln!(f, "{} {path} {}", kind.word(), block_text(kind, extent))?;
                }
            }
        }
        Ok(())
    }
}

/// What stands behind the path: `10.0.0.0/24 [0..4]`.
pub(crate) fn block_text(kind: BlockKind, extent: &Extent) -> String {
    let mut text = match kind.has_prefix() {
        true => format!("{}/{}", std::net::Ipv4Addr::from(extent.base), extent.len),
        false => extent.base.to_string(),
    };
    for (i, (from, until)) in extent.bounds.iter().enumerate() {
        text.push_str(if i == 0 { " " } else { "" });
        text.push_str(&format!("[{from}..{until}]"));
    }
    text
}

fn parse_block(line: &str) -> Option<(BlockKind, &str, Extent)> {
    let mut words = line.split_ascii_whitespace();
    let (kind, path, base) = (words.next()?, words.next()?, words.next()?);
    let kind = BlockKind::ALL.iter().find(|(_, w)| *w == kind)?.0;
    let (base, len) = if kind.has_prefix() {
        let prefix: Prefix = base.parse().ok()?;
        (prefix.first(), prefix.len())
    } else {
        (base.parse().ok()?, 0)
    };
    if kind.has_prefix() && len == 0 {
        return None;
    }
    let bounds = words.next().map_or(Some(Vec::new()), parse_bounds)?;
    let extent = Extent { base, len, bounds: bounds.into_boxed_slice() };
    (words.next().is_none() && extent.end() <= 1 << 32).then_some((kind, path, extent))
}

fn parse_bounds(text: &str) -> Option<Vec<(u32, u32)>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner
        .split("][")
        .map(|pair| {
            let (from, until) = pair.split_once("..")?;
            let pair: (u32, u32) = (from.parse().ok()?, until.parse().ok()?);
            (pair.0 < pair.1).then_some(pair)
        })
        .collect()
}
