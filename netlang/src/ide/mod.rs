//! What an editor wants to know about a network file: the pure part of `fleet lsp`.
//!
//! An [`Analysis`] is a text that was compiled once. Everything else is worked out from it when it is asked for, by
//! byte offset. It works on broken files, which is what files are while somebody types: the parser recovers, and
//! what no longer has a plan still has its names.
//!
//! | file | what it answers |
//! |---|---|
//! | `fit` | which entry of the vocabulary each word of a statement stands for |
//! | `scope` | which names are seen where, and what blocks are about |
//! | `uses` | every place of every name: definition, references |
//! | `cursor`, `complete` | where the cursor stands; what may be written there |
//! | `hover`, `facts` | what a word means; what the plan derives for a name |
//! | `rename` | edits, and whether the file still means the same after them |
//! | `outline` | symbols and folding |
//! | `fixes` | helps of diagnostics that can be pasted |
//! | `position` | UTF-16 lines and columns |
//! | `grammar` | the highlighting grammars of editors, written from the vocabulary |

mod complete;
mod cursor;
mod facts;
mod fit;
mod fixes;
pub mod grammar;
mod hover;
mod outline;
mod position;
mod rename;
mod scope;
mod uses;

pub use complete::{Completion, CompletionKind};
pub use fixes::Fix;
pub use hover::Hover;
pub use outline::{Fold, Symbol};
pub use position::{Position, Positions};
pub use rename::{Edit, RenameError};

use crate::address::lock::Lock;
use crate::diag::Diagnostic;
use crate::plan::Plan;
use crate::sema::{Parts, design_parts};
use crate::source::{Source, Span};
use scope::Scopes;
use std::sync::OnceLock;
use uses::Uses;

/// A network file, compiled for an editor.
pub struct Analysis {
    source: Source,
    parts: Parts,
    positions: Positions,
    scopes: OnceLock<Scopes>,
    uses: OnceLock<Uses>,
}

impl Analysis {
    /// Compiles a file as [`design`](crate::design) does. The index of names waits until it is needed, so that this
    /// is all that a keystroke costs.
    pub fn new(source: Source, lock: &Lock) -> Analysis {
        let parts = design_parts(&source, lock);
        let positions = Positions::new(&source.text);
        Analysis { source, parts, positions, scopes: OnceLock::new(), uses: OnceLock::new() }
    }

    /// The file.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Where the lines of the file start.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Errors and warnings.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.parts.compilation.diagnostics
    }

    /// The plan, unless there are errors.
    pub fn plan(&self) -> Option<&Plan> {
        self.parts.compilation.plan.as_ref()
    }

    /// Where the name at an offset is declared.
    pub fn definition(&self, offset: u32) -> Option<Span> {
        let target = self.uses().at(offset)?.target;
        self.uses().of(target).find(|u| u.declares).map(|u| u.span)
    }

    /// Every place of the name at an offset, in the order of the text.
    pub fn references(&self, offset: u32, with_declaration: bool) -> Vec<Span> {
        let Some(found) = self.uses().at(offset) else { return Vec::new() };
        self.uses().of(found.target).filter(|u| with_declaration || !u.declares).map(|u| u.span).collect()
    }

    fn text(&self) -> &str {
        &self.source.text
    }

    fn names(&self) -> &crate::plan::names::Names {
        &self.parts.data.names
    }

    fn scopes(&self) -> &Scopes {
        self.scopes.get_or_init(|| Scopes::new(self.names()))
    }

    fn uses(&self) -> &Uses {
        self.uses.get_or_init(|| Uses::new(self.text(), &self.parts.tree, self.names(), self.scopes()))
    }
}

#[cfg(test)]
mod tests;
