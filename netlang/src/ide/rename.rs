//! Renaming: all places of a name, and the proof that the file still means the same.

use super::Analysis;
use super::scope::decl;
use super::uses::Target;
use crate::address::lock::Lock;
use crate::source::{Source, Span};
use crate::vocab::keyword;

/// A piece of text to put in place of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What is replaced.
    pub span: Span,
    /// The new text.
    pub text: String,
}

/// Why a name cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenameError {
    /// There is no name of the file at this place.
    #[error("there is no name here that the file declares")]
    NoName,
    /// The declaration cannot be found, because it has an error.
    #[error("the declaration of `{name}` has an error; mend it first")]
    NoDeclaration {
        /// The name.
        name: String,
    },
    /// Not a name of the language.
    #[error("`{name}` is no name: names are a-z, 0-9 and _, and start with a letter")]
    BadName {
        /// What was given.
        name: String,
    },
    /// A word that the language needs itself.
    #[error("`{name}` is a word of the language")]
    Reserved {
        /// What was given.
        name: String,
    },
    /// Something else would be meant in some place.
    #[error("`{name}` is taken, or would mean something else where it is used")]
    Clash {
        /// What was given.
        name: String,
    },
}

impl Analysis {
    /// The name at an offset that can be renamed, and its place.
    pub fn renamable(&self, offset: u32) -> Option<(Span, &str)> {
        let found = self.uses().at(offset)?;
        Some((found.span, found.span.text(self.text())))
    }

    /// The edits that give the thing at an offset another name.
    ///
    /// The lock keeps addresses under names: what is renamed is new to it.
    ///
    /// # Errors
    /// When there is nothing to rename, the name is none, or the file would no longer mean the same.
    pub fn rename(&self, offset: u32, name: &str) -> Result<Vec<Edit>, RenameError> {
        let found = self.uses().at(offset).ok_or(RenameError::NoName)?;
        let old = found.span.text(self.text());
        let name_of = || name.to_owned();
        let mut letters = name.bytes();
        let good = letters.next().is_some_and(|b| b.is_ascii_lowercase())
            && letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !good {
            return Err(RenameError::BadName { name: name_of() });
        }
        if keyword(name).is_some() || matches!(name, "mod" | "div" | "in") {
            return Err(RenameError::Reserved { name: name_of() });
        }
        let places: Vec<_> = self.uses().of(found.target).collect();
        if !places.iter().any(|u| u.declares) {
            return Err(RenameError::NoDeclaration { name: old.to_owned() });
        }
        let edits: Vec<Edit> = places.iter().map(|u| Edit { span: u.span, text: name_of() }).collect();
        if name == old {
            return Ok(edits);
        }
        if let Target::Decl(id) = found.target
            && decl(self.names(), id).is_some_and(|d| {
                let clash = self
                    .names()
                    .interner
                    .find(name)
                    .and_then(|s| self.scopes().lookup(id.module, d.kind == crate::vocab::Kind::Image, s));
                clash.is_some()
            })
        {
            return Err(RenameError::Clash { name: name_of() });
        }
        self.keeps_meaning(&edits).then_some(edits).ok_or_else(|| RenameError::Clash { name: name_of() })
    }

    /// Whether every name still stands for what it stood for, and no new kind of error comes up.
    fn keeps_meaning(&self, edits: &[Edit]) -> bool {
        let source = Source::new(self.source().name.clone(), apply(self.text(), edits));
        let after = Analysis::new(source, &Lock::default());
        let before = self.uses().all();
        let same = |(a, b): (&super::uses::Use, &super::uses::Use)| a.target == b.target && a.declares == b.declares;
        before.len() == after.uses().all().len() && before.iter().zip(after.uses().all()).all(same) && {
            let errors = |it: &Analysis| it.diagnostics().iter().filter(|d| d.is_error()).count();
            errors(self) >= errors(&after)
        }
    }
}

/// A text after edits, which are in its order and do not overlap.
pub(super) fn apply(text: &str, edits: &[Edit]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for edit in edits {
        out.push_str(text.get(at..edit.span.start as usize).unwrap_or(""));
        out.push_str(&edit.text);
        at = edit.span.end as usize;
    }
    out.push_str(text.get(at..).unwrap_or(""));
    out
}
