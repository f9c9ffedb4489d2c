//! Diagnostics: what is wrong, where, why, and what to do about it.
//!
//! Every kind of problem has a stable code with a page in `docs/errors`. A [`Sink`] collects diagnostics and folds
//! those of one declaration: a mistake in a module of which there are 1,000 instances is one diagnostic.

pub mod codes;
pub mod explain;
pub mod render;

use crate::source::{LineIndex, Span};
use hashbrown::HashMap;
use serde::Serialize;

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is usable.
    Warning,
    /// There is no plan.
    Error,
}

/// A place and what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What; may be empty.
    pub text: String,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable code, `E0302`; see [`explain::explain`].
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// Line of the primary place, from 1.
    pub line: u32,
    /// Column of the primary place in characters, from 1.
    pub column: u32,
    /// One line: what is wrong.
    pub message: String,
    /// The primary place.
    pub primary: Label,
    /// At most three other places that explain it.
    pub secondary: Vec<Label>,
    /// The cause, in the plan's words.
    pub notes: Vec<String>,
    /// A mend, as a rule one that can be pasted.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub(crate) fn error(code: &'static str, message: impl Into<String>, span: Span) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            line: 0,
            column: 0,
            message: message.into(),
            primary: Label { span, text: String::new() },
            secondary: Vec::new(),
            notes: Vec::new(),
            help: Vec::new(),
        }
    }

    /// A warning at a place.
    pub(crate) fn warning(code: &'static str, message: impl Into<String>, span: Span) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, message, span) }
    }

    /// Says something at the primary place.
    pub(crate) fn label(mut self, text: impl Into<String>) -> Diagnostic {
        self.primary.text = text.into();
        self
    }

    /// Adds another place; more than three are dropped.
    pub(crate) fn also(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        if self.secondary.len() < 3 {
            self.secondary.push(Label { span, text: text.into() });
        }
        self
    }

    /// Adds a cause.
    pub(crate) fn note(mut self, text: impl Into<String>) -> Diagnostic {
        self.notes.push(text.into());
        self
    }

    /// Adds a mend.
    pub(crate) fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.help.push(text.into());
        self
    }

    /// Whether this keeps the file from having a plan.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Diagnostics kept at most; the rest are counted.
const MAX_KEPT: usize = 200;
/// After so many, kept or not, passes over rows give up: there may be millions of rows that are all wrong.
const FLOOD: u64 = 10_000;

/// Collects diagnostics, folding those with the same code at the same place.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    kept: Vec<Diagnostic>,
    folded: HashMap<(&'static str, Span), (usize, u64)>,
    dropped: u64,
    pushed: u64,
    errors: bool,
}

impl Sink {
    /// Adds a diagnostic.
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.errors |= diagnostic.is_error();
        self.pushed += 1;
        let key = (diagnostic.code, diagnostic.primary.span);
        if let Some((_, more)) = self.folded.get_mut(&key) {
            *more += 1;
        } else if self.kept.len() < MAX_KEPT {
            self.folded.insert(key, (self.kept.len(), 0));
            self.kept.push(diagnostic);
        } else {
            self.dropped += 1;
        }
    }

    /// Counts another diagnostic like one that was added, without the work of making it.
    pub(crate) fn push_again(&mut self, code: &'static str, span: Span) {
        self.pushed += 1;
        match self.folded.get_mut(&(code, span)) {
            Some((_, more)) => *more += 1,
            None => self.dropped += 1,
        }
    }

    /// Whether an error would be kept; if not, it is counted. To ask saves the work of making it.
    pub(crate) fn keeps_error(&mut self, code: &'static str, span: Span) -> bool {
        if self.kept.len() < MAX_KEPT && !self.folded.contains_key(&(code, span)) {
            return true;
        }
        self.errors = true;
        self.push_again(code, span);
        false
    }

    /// Whether there are so many diagnostics that it is not worth while to look for more.
    pub(crate) fn is_flooded(&self) -> bool {
        self.pushed >= FLOOD
    }

    /// Whether an error was added.
    pub(crate) fn has_errors(&self) -> bool {
        self.errors
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The diagnostics in the order of the text, with lines and columns.
    pub(crate) fn finish(mut self, text: &str) -> Vec<Diagnostic> {
        for (at, more) in self.folded.into_values().filter(|f| f.1 > 0) {
            let noun = if more == 1 { "instance" } else { "instances" };
            let least = if self.pushed >= FLOOD { "at least " } else { "" };
            self.kept[at].notes.push(format!("and {least}{} more {noun}", crate::text::thousands(more)));
        }
        self.kept.sort_by_key(|d| (d.primary.span, d.code));
        if self.dropped > 0
            && let Some(last) = self.kept.last_mut()
        {
            let least = if self.pushed >= FLOOD { "at least " } else { "" };
            last.notes.push(format!("and {least}{} more problems in this file", crate::text::thousands(self.dropped)));
        }
        let lines = if self.kept.is_empty() { LineIndex::new("") } else { LineIndex::new(text) };
        for diagnostic in &mut self.kept {
            (diagnostic.line, diagnostic.column) = lines.line_column(text, diagnostic.primary.span.start);
        }
        self.kept
    }
}
