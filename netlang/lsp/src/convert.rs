//! From `netlang::ide` to the protocol's types.

use gen_lsp_types as lsp;
use gen_lsp_types::Uri;
use netlang::ide::{Analysis, Completion, CompletionKind, Edit, Symbol};
use netlang::vocab::Kind;
use netlang::{Diagnostic, Severity, Span};

use crate::documents::Document;

/// What is said to `initialize`.
pub(crate) fn greeting() -> lsp::InitializeResult {
    let sync = lsp::TextDocumentSyncOptions {
        open_close: Some(true),
        change: Some(lsp::TextDocumentSyncKind::Incremental),
        save: Some(lsp::Save::Bool(true)),
        ..lsp::TextDocumentSyncOptions::default()
    };
    let capabilities = lsp::ServerCapabilities {
        position_encoding: Some(lsp::PositionEncodingKind::UTF16),
        text_document_sync: Some(sync.into()),
        completion_provider: Some(lsp::CompletionOptions {
            trigger_characters: Some(vec![".".into()]),
            ..lsp::CompletionOptions::default()
        }),
        hover_provider: Some(true.into()),
        definition_provider: Some(true.into()),
        references_provider: Some(true.into()),
        document_symbol_provider: Some(true.into()),
        document_formatting_provider: Some(true.into()),
        folding_range_provider: Some(true.into()),
        code_action_provider: Some(
            lsp::CodeActionOptions {
                code_action_kinds: Some(vec![lsp::CodeActionKind::QuickFix]),
                ..lsp::CodeActionOptions::default()
            }
            .into(),
        ),
        rename_provider: Some(
            lsp::RenameOptions { prepare_provider: Some(true), ..lsp::RenameOptions::default() }.into(),
        ),
        ..lsp::ServerCapabilities::default()
    };
    let version = Some(env!("CARGO_PKG_VERSION").to_owned());
    lsp::InitializeResult { capabilities, server_info: Some(lsp::ServerInfo { name: "fleet".into(), version }) }
}

pub(crate) fn range(it: &Analysis, span: Span) -> lsp::Range {
    let at = |offset| {
        let position = it.positions().position(&it.source().text, offset);
        lsp::Position { line: position.line, character: position.column }
    };
    lsp::Range { start: at(span.start), end: at(span.end) }
}

/// Byte offset of a position.
pub(crate) fn offset(it: &Analysis, position: lsp::Position) -> u32 {
    let position = netlang::ide::Position { line: position.line, column: position.character };
    it.positions().offset(&it.source().text, position)
}

pub(crate) fn location(it: &Analysis, uri: &Uri, span: Span) -> lsp::Location {
    lsp::Location { uri: uri.clone(), range: range(it, span) }
}

pub(crate) fn text_edit(it: &Analysis, edit: Edit) -> lsp::TextEdit {
    lsp::TextEdit { range: range(it, edit.span), new_text: edit.text }
}

/// All that is to be said about a document: errors, warnings, and what this version of fleet cannot run.
pub(crate) fn diagnostics(uri: &Uri, document: &mut Document) -> Vec<lsp::Diagnostic> {
    let (it, lock_error) = document.analysis();
    let mut all: Vec<lsp::Diagnostic> = it.diagnostics().iter().map(|d| diagnostic(it, uri, d)).collect();
    if let Some(error) = lock_error {
        let message = format!("{error}\naddresses here are those of a fresh lock; restore the file");
        all.push(plain(it, Span::default(), lsp::DiagnosticSeverity::Warning, message));
    }
    for part in it.plan().into_iter().flat_map(|p| p.unsupported()) {
        let message = format!("`{}` is checked and planned, but this version of fleet cannot run it", part.what);
        let mut found = plain(it, part.span, lsp::DiagnosticSeverity::Information, message);
        found.code = Some(part.code.to_owned().into());
        all.push(found);
    }
    all
}

fn plain(it: &Analysis, span: Span, severity: lsp::DiagnosticSeverity, message: String) -> lsp::Diagnostic {
    lsp::Diagnostic {
        range: range(it, span),
        severity: Some(severity),
        source: Some("fleet".into()),
        message: message.into(),
        ..lsp::Diagnostic::default()
    }
}

pub(crate) fn diagnostic(it: &Analysis, uri: &Uri, found: &Diagnostic) -> lsp::Diagnostic {
    let severity = match found.severity {
        Severity::Error => lsp::DiagnosticSeverity::Error,
        Severity::Warning => lsp::DiagnosticSeverity::Warning,
    };
    let mut message = found.message.clone();
    let label = Some(found.primary.text.clone()).filter(|l| !l.is_empty());
    let notes = found.notes.iter().map(|n| format!("note: {n}"));
    let helps = found.help.iter().map(|h| format!("help: {h}"));
    for line in label.into_iter().chain(notes).chain(helps) {
        message.push('\n');
        message.push_str(&line);
    }
    let related = found
        .secondary
        .iter()
        .map(|l| lsp::DiagnosticRelatedInformation { location: location(it, uri, l.span), message: l.text.clone() });
    let mut out = plain(it, found.primary.span, severity, message);
    out.code = Some(found.code.to_owned().into());
    out.related_information = Some(related.collect()).filter(|r: &Vec<_>| !r.is_empty());
    out
}

pub(crate) fn completion(it: &Analysis, number: usize, found: Completion) -> lsp::CompletionItem {
    use lsp::CompletionItemKind as K;
    let kind = match found.kind {
        CompletionKind::Keyword => K::Keyword,
        CompletionKind::Property => K::Property,
        CompletionKind::Option => K::Operator,
        CompletionKind::Choice => K::EnumMember,
        CompletionKind::Index => K::Variable,
        CompletionKind::Method => K::Method,
        CompletionKind::Name(Kind::Module) => K::Module,
        CompletionKind::Name(Kind::Let | Kind::Param) => K::Variable,
        CompletionKind::Name(_) => K::Reference,
    };
    let edit = lsp::TextEdit { range: range(it, found.span), new_text: found.label.clone() };
    let some = |text: String| Some(text).filter(|t| !t.is_empty());
    lsp::CompletionItem {
        label: found.label,
        kind: Some(kind),
        detail: some(found.detail),
        documentation: some(found.doc).map(Into::into),
        // The likeliest is first, not the first of the alphabet.
        sort_text: Some(format!("{number:05}")),
        text_edit: Some(edit.into()),
        ..lsp::CompletionItem::default()
    }
}

pub(crate) fn symbol(it: &Analysis, found: Symbol) -> lsp::DocumentSymbol {
    use lsp::SymbolKind as K;
    let kind = match found.kind {
        Kind::Module => K::Module,
        Kind::Instance => K::Namespace,
        Kind::Let | Kind::Param => K::Constant,
        Kind::Lan | Kind::External => K::Interface,
        Kind::Link => K::Field,
        Kind::Image => K::File,
        Kind::Experiment => K::Event,
        _ => K::Object,
    };
    let children: Vec<_> = found.children.into_iter().map(|c| symbol(it, c)).collect();
    #[allow(deprecated)]
    lsp::DocumentSymbol {
        name: found.name,
        detail: Some(found.detail),
        kind,
        tags: None,
        deprecated: None,
        range: range(it, found.span),
        selection_range: range(it, found.selection),
        children: Some(children).filter(|c| !c.is_empty()),
    }
}
