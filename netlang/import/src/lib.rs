//! Topologies of other programs as network files; pure: text in, text and notes out.
//!
//! ```text
//! YAML ─ yaml ─▶ tree ─ read ─▶ Topology ─ shape ─▶ Network ─ address, guide ─▶ Network ─ write ─▶ text
//!                         exec ◀┘   role ◀┘                 └──────── notes ────────▶ Vec<Note>
//! ```
//!
//! A translation never says less than it does: whatever of the topology has no counterpart in the language, or was
//! changed on the way, is in the [`Note`]s. The text parses, and is in the layout of `fleet fmt`. What becomes what is
//! described in `docs/import.md`.

mod containerlab;
mod name;
mod note;
mod yaml;

pub use containerlab::containerlab;
pub use note::{Note, NoteKind};

/// A translated topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The network file.
    pub fleet: String,
    /// What was left out or changed, in the order of the topology's lines.
    pub notes: Vec<Note>,
}

/// Why a text is no topology.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImportError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}
