//! Helps of diagnostics that are text to be put in place of what is wrong: ``did you mean `office`?``, `` `5ms` ``.

use super::Analysis;
use super::rename::Edit;
use crate::diag::Diagnostic;

/// A mend that an editor can make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// Which of [`Analysis::diagnostics`] it mends.
    pub diagnostic: usize,
    /// What it does.
    pub title: String,
    /// How.
    pub edit: Edit,
}

impl Analysis {
    /// The mends that can be made without thinking.
    pub fn fixes(&self) -> Vec<Fix> {
        let fix = |(number, it): (usize, &Diagnostic)| {
            let texts = it.primary.text.strip_prefix("help: ").into_iter().chain(it.help.iter().map(String::as_str));
            let text = texts.filter_map(replacement).next()?;
            let old = it.primary.span.text(self.text());
            let title = format!("Replace `{old}` by `{text}`");
            let edit = Edit { span: it.primary.span, text: text.to_owned() };
            (old != text && !old.contains('\n')).then_some(Fix { diagnostic: number, title, edit })
        };
        self.diagnostics().iter().enumerate().filter_map(fix).collect()
    }
}

/// The text between the backquotes, when there is nothing else to the help.
fn replacement(help: &str) -> Option<&str> {
    let help = help.strip_prefix("did you mean ").and_then(|h| h.strip_suffix('?')).unwrap_or(help);
    let inner = help.strip_prefix('`')?.strip_suffix('`')?;
    (!inner.contains(['`', '…']) && !inner.is_empty()).then_some(inner)
}
