//! Diagnostics as text, in the look of rustc.

use super::{Diagnostic, Severity};
use crate::source::{LineIndex, Source, Span};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, renderer::DecorStyle};

/// Diagnostics that are printed; the rest are counted in a last line.
pub const MAX_PRINTED: usize = 20;

/// How diagnostics are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenderOptions {
    /// Use ANSI colours.
    pub color: bool,
    /// Width of the terminal in columns.
    pub width: usize,
}

impl Default for RenderOptions {
    fn default() -> RenderOptions {
        RenderOptions { color: false, width: 120 }
    }
}

/// Prints diagnostics with the lines that they are about, at most [`MAX_PRINTED`] of them.
pub fn render(diagnostics: &[Diagnostic], source: &Source, options: RenderOptions) -> String {
    if diagnostics.is_empty() {
        return String::new();
    }
    let renderer = if options.color { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.term_width(options.width.max(40)).decor_style(DecorStyle::Ascii);
    let lines = LineIndex::new(&source.text);
    let path = source.file_name();
    // Errors first: with many warnings before them they would not be among the printed ones.
    let mut order: Vec<&Diagnostic> = diagnostics.iter().collect();
    order.sort_by_key(|d| (std::cmp::Reverse(d.severity), d.primary.span));
    let mut out = String::new();
    for diagnostic in order.iter().take(MAX_PRINTED) {
        out.push_str(&one(diagnostic, &source.text, &path, &lines, &renderer));
        out.push_str("\n\n");
    }
    let more = order.len().saturating_sub(MAX_PRINTED);
    if more > 0 {
        out.push_str(&format!("and {} more; mend these first\n\n", crate::text::thousands(more as u64)));
    }
    let errors = diagnostics.iter().filter(|d| d.is_error()).count();
    let warnings = diagnostics.len() - errors;
    out.push_str(&summary(errors, warnings, diagnostics));
    out
}

fn summary(errors: usize, warnings: usize, diagnostics: &[Diagnostic]) -> String {
    let count = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    let counts = match (errors, warnings) {
        (0, w) => count(w, "warning"),
        (e, 0) => count(e, "error"),
        (e, w) => format!("{} and {}", count(e, "error"), count(w, "warning")),
    };
    let first = diagnostics.iter().max_by_key(|d| d.severity).map_or("", |d| d.code);
    format!("{counts}; `fleet explain {first}` says more\n")
}

fn one(diagnostic: &Diagnostic, text: &str, path: &str, lines: &LineIndex, renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    // Only the lines between the first and the last place are handed over: the file may be of many megabytes.
    let spans = || std::iter::once(diagnostic.primary.span).chain(diagnostic.secondary.iter().map(|l| l.span));
    let first = spans().map(|s| lines.line(s.start)).min().unwrap_or(1);
    let from = lines.line_start(first) as usize;
    let until = spans().map(|s| s.end as usize).max().unwrap_or(text.len()).min(text.len());
    let until = text[until..].find('\n').map_or(text.len(), |n| until + n);
    let place = |span: Span| {
        let start = (span.start as usize).clamp(from, until) - from;
        start..((span.end as usize).clamp(from, until) - from).max(start)
    };
    let mut snippet = Snippet::source(&text[from..until])
        .line_start(first as usize)
        .path(path)
        .annotation(AnnotationKind::Primary.span(place(diagnostic.primary.span)).label(&*diagnostic.primary.text));
    for label in &diagnostic.secondary {
        snippet = snippet.annotation(AnnotationKind::Context.span(place(label.span)).label(&*label.text));
    }
    let mut group: Group<'_> = level.primary_title(&*diagnostic.message).id(diagnostic.code).element(snippet);
    for note in &diagnostic.notes {
        group = group.element(Level::NOTE.message(&**note));
    }
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(&**help));
    }
    renderer.render(&[group]).to_string()
}
