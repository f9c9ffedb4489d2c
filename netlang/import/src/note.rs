//! Notes: what a translation left out or changed, and why.
//!
//! What is said of many nodes for one reason is said once, with the first of them by name: [`Notes::fold`].

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// Names that a folded note gives.
const NAMED: usize = 3;

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// It has no counterpart, and is missing in the network file.
    LeftOut,
    /// It is in the network file, but not as it was.
    Changed,
    /// Something to do or to know before the network runs.
    Advice,
}

/// A note on a translation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Line of the topology, from 1; of several the first.
    pub line: usize,
    /// What it is about.
    pub kind: NoteKind,
    /// The part of the topology.
    pub what: String,
    /// What became of it, and why.
    pub why: String,
}

/// `LINE: WHAT: WHY`, to be put behind a file's name.
impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.kind == NoteKind::LeftOut { "left out: " } else { "" };
        write!(f, "{}: {word}{}: {}", self.line, self.what, self.why)
    }
}

/// Collects notes.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    rows: Vec<Row>,
    /// Rows that further names may join, by subject and reason.
    open: BTreeMap<(String, String), usize>,
}

#[derive(Debug)]
struct Row {
    note: Note,
    names: Vec<String>,
    /// Those that `names` has no room for.
    more: BTreeSet<String>,
}

impl Notes {
    /// Adds a note that stands alone.
    pub(crate) fn add(&mut self, line: usize, kind: NoteKind, what: impl Into<String>, why: impl Into<String>) {
        let note = Note { line, kind, what: what.into(), why: why.into() };
        self.rows.push(Row { note, names: Vec::new(), more: BTreeSet::new() });
    }

    /// Adds a name to the note of this subject and reason: "`binds` of r1, r2, r3 and 6 more".
    pub(crate) fn fold(&mut self, line: usize, kind: NoteKind, subject: &str, name: &str, why: &str) {
        let key = (subject.to_owned(), why.to_owned());
        let at = *self.open.entry(key).or_insert_with(|| {
            let note = Note { line, kind, what: subject.to_owned(), why: why.to_owned() };
            self.rows.push(Row { note, names: Vec::new(), more: BTreeSet::new() });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at]; // `open` holds places in `rows`, which only grows.
        row.note.line = row.note.line.min(line);
        if row.names.iter().any(|known| known == name) {
            return;
        }
        if row.names.len() < NAMED {
            row.names.push(name.to_owned());
        } else {
            row.more.insert(name.to_owned());
        }
    }

    /// The notes in the order of lines.
    pub(crate) fn finish(self) -> Vec<Note> {
        let mut notes: Vec<Note> = self.rows.into_iter().map(Row::finish).collect();
        notes.sort_by_key(|note| note.line);
        notes
    }
}

impl Row {
    fn finish(mut self) -> Note {
        if !self.names.is_empty() {
            let names = self.names.join(", ");
            let more = if !self.more.is_empty() { format!(" and {} more", self.more.len()) } else { String::new() };
            let of = if self.note.what.is_empty() { "" } else { " of " };
            self.note.what = format!("{}{of}{names}{more}", self.note.what);
        }
        self.note
    }
}
