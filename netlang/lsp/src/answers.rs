//! Requests about documents, each answered in a few lines by `netlang::ide`.

use std::collections::HashMap;

use gen_lsp_types as lsp;
use gen_lsp_types::Uri;
use lsp_server::{ErrorCode, Request, Response};
use netlang::ide::{Analysis, Edit};
use netlang::{Span, format};

use crate::convert;
use crate::documents::Documents;

/// Why a request has no answer, in words for the user.
struct Refusal(String);

type Answer<T> = Result<T, Refusal>;

/// Answers a request.
pub(crate) fn answer(documents: &mut Documents, request: Request) -> Response {
    let mut dispatch = Dispatch { documents, request: Some(request), response: None };
    dispatch
        .on::<lsp::CompletionRequest>(|documents, p| {
            at(documents, &p.text_document_position_params, |it, offset, _| {
                let items = it.complete(offset).into_iter().enumerate();
                let items: Vec<_> = items.map(|(number, found)| convert::completion(it, number, found)).collect();
                Some(items.into())
            })
        })
        .on::<lsp::HoverRequest>(|documents, p| {
            at(documents, &p.text_document_position_params, |it, offset, _| {
                let found = it.hover(offset)?;
                let contents = lsp::MarkupContent { kind: lsp::MarkupKind::Markdown, value: found.text };
                Some(lsp::Hover { contents: contents.into(), range: Some(convert::range(it, found.span)) })
            })
        })
        .on::<lsp::DefinitionRequest>(|documents, p| {
            at(documents, &p.text_document_position_params, |it, offset, uri| {
                let place = convert::location(it, uri, it.definition(offset)?);
                Some(lsp::Definition::from(place).into())
            })
        })
        .on::<lsp::ReferencesRequest>(|documents, p| {
            at(documents, &p.text_document_position_params, |it, offset, uri| {
                let spans = it.references(offset, p.context.include_declaration);
                Some(spans.into_iter().map(|s| convert::location(it, uri, s)).collect())
            })
        })
        .on::<lsp::PrepareRenameRequest>(|documents, p| {
            at(documents, &p.text_document_position_params, |it, offset, _| {
                let (span, name) = it.renamable(offset)?;
                let range = convert::range(it, span);
                Some(lsp::PrepareRenamePlaceholder { range, placeholder: name.to_owned() }.into())
            })
        })
        .on::<lsp::RenameRequest>(|documents, p| {
            at(documents, &p.text_document_position_params, |it, offset, uri| {
                it.rename(offset, &p.new_name).map(|edits| workspace_edit(it, uri, edits))
            })?
            .map(Some)
            .map_err(|error| Refusal(error.to_string()))
        })
        .on::<lsp::DocumentFormattingRequest>(|documents, p| {
            about(documents, &p.text_document.uri, |it| {
                // A text with syntax errors is left alone; its diagnostics say why.
                let new = format(&it.source().text).ok()?;
                let edit = difference(&it.source().text, &new);
                Some(edit.into_iter().map(|e| convert::text_edit(it, e)).collect())
            })
        })
        .on::<lsp::DocumentSymbolRequest>(|documents, p| {
            about(documents, &p.text_document.uri, |it| {
                let symbols: Vec<_> = it.symbols().into_iter().map(|s| convert::symbol(it, s)).collect();
                Some(symbols.into())
            })
        })
        .on::<lsp::FoldingRangeRequest>(|documents, p| {
            about(documents, &p.text_document.uri, |it| {
                let fold = |f: netlang::ide::Fold| {
                    let range = convert::range(it, f.span);
                    // The line of the closing brace stays.
                    let end_line = range.end.line.saturating_sub(1).max(range.start.line);
                    lsp::FoldingRange { start_line: range.start.line, end_line, ..lsp::FoldingRange::default() }
                };
                Some(it.folds().into_iter().map(fold).collect())
            })
        })
        .on::<lsp::CodeActionRequest>(|documents, p| {
            about(documents, &p.text_document.uri, |it| Some(actions(it, &p.text_document.uri, p.range)))
        })
        .finish()
}

/// The mends of diagnostics that touch a range.
fn actions(it: &Analysis, uri: &Uri, asked: lsp::Range) -> Vec<lsp::CodeActionResponse> {
    let (start, end) = (convert::offset(it, asked.start), convert::offset(it, asked.end));
    let touches = |f: &netlang::ide::Fix| f.edit.span.start <= end && start <= f.edit.span.end;
    let action = |fix: netlang::ide::Fix| {
        let diagnostic = it.diagnostics().get(fix.diagnostic).map(|d| convert::diagnostic(it, uri, d));
        lsp::CodeAction {
            title: fix.title,
            kind: Some(lsp::CodeActionKind::QuickFix),
            diagnostics: Some(diagnostic.into_iter().collect()),
            is_preferred: Some(true),
            edit: Some(workspace_edit(it, uri, vec![fix.edit])),
            ..lsp::CodeAction::default()
        }
    };
    it.fixes().into_iter().filter(touches).map(|f| action(f).into()).collect()
}

fn workspace_edit(it: &Analysis, uri: &Uri, edits: Vec<Edit>) -> lsp::WorkspaceEdit {
    let edits = edits.into_iter().map(|e| convert::text_edit(it, e)).collect();
    lsp::WorkspaceEdit { changes: Some(HashMap::from([(uri.clone(), edits)])), ..lsp::WorkspaceEdit::default() }
}

/// The one edit that makes a text another, without the lines that they have in common at start and end, so that the
/// editor keeps cursors and marks there.
fn difference(old: &str, new: &str) -> Option<Edit> {
    let lines = |(a, b): &(&str, &str)| a == b;
    let same = |(a, _): (&str, &str)| a.len();
    let start: usize = old.split_inclusive('\n').zip(new.split_inclusive('\n')).take_while(lines).map(same).sum();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let from_end = old_rest.split_inclusive('\n').rev().zip(new_rest.split_inclusive('\n').rev());
    let end: usize = from_end.take_while(lines).map(same).sum();
    let text = new_rest[..new_rest.len() - end].to_owned();
    let span = Span::new(start as u32, (old.len() - end) as u32);
    (old != new).then_some(Edit { span, text })
}

/// Answers about a document.
fn about<T>(documents: &mut Documents, uri: &Uri, f: impl FnOnce(&Analysis) -> T) -> Answer<T> {
    let document = documents.get(uri).ok_or_else(|| Refusal(format!("{uri} is not open")))?;
    Ok(f(document.analysis().0))
}

/// Answers about a place in a document: its analysis, the byte offset, and its name.
fn at<T>(
    documents: &mut Documents,
    place: &lsp::TextDocumentPositionParams,
    f: impl FnOnce(&Analysis, u32, &Uri) -> T,
) -> Answer<T> {
    let uri = &place.text_document.uri;
    about(documents, uri, |it| f(it, convert::offset(it, place.position), uri))
}

/// Finds the one that answers a request.
struct Dispatch<'d> {
    documents: &'d mut Documents,
    request: Option<Request>,
    response: Option<Response>,
}

impl Dispatch<'_> {
    fn on<R: lsp::Request>(&mut self, f: impl FnOnce(&mut Documents, R::Params) -> Answer<R::Result>) -> &mut Self {
        let Some(request) = self.request.take_if(|r| r.method == R::METHOD.as_str()) else { return self };
        self.response = Some(match serde_json::from_value(request.params) {
            Err(error) => Response::new_err(request.id, ErrorCode::InvalidParams as i32, error.to_string()),
            Ok(params) => match f(self.documents, params) {
                Ok(result) => Response::new_ok(request.id, result),
                Err(Refusal(why)) => Response::new_err(request.id, ErrorCode::RequestFailed as i32, why),
            },
        });
        self
    }

    fn finish(&mut self) -> Response {
        match (self.response.take(), self.request.take()) {
            (Some(response), _) => response,
            (None, Some(request)) => {
                let message = format!("there is no `{}` here", request.method);
                Response::new_err(request.id, ErrorCode::MethodNotFound as i32, message)
            }
            // Whoever took the request left a response.
            (None, None) => Response::new_err(0.into(), ErrorCode::InternalError as i32, "no answer".into()),
        }
    }
}
