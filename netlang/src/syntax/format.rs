//! The formatter, `fleet fmt`: one layout, no options, comments kept.
//!
//! It works on tokens, so it needs no printer for each construct and cannot drop what it does not know. Statements
//! stand one a line, indented by two spaces. A block that is written on one line stays there while it fits. Among
//! neighbouring lines with the same keyword the `=` and the `{` of one-line blocks are aligned, and so are trailing
//! comments of neighbouring lines. Widths are measured before aligning, which makes the layout idempotent.

use super::lexer::{Lexer, Token, TokenKind as T};
use super::parser::parse;
use crate::diag::{Diagnostic, Sink};

/// Longest line that a one-line block may make, in characters.
const MAX_WIDTH: usize = 100;
/// Lines of more different lengths than this are not aligned with one another.
const MAX_PAD: usize = 24;
const INDENT: usize = 2;

/// Lays out a text. A text that cannot be parsed is not touched: its errors are given instead.
pub fn format(text: &str) -> Result<String, Vec<Diagnostic>> {
    let mut sink = Sink::default();
    parse(text, &mut sink);
    if sink.has_errors() {
        return Err(sink.finish(text));
    }
    let mut lexer = Lexer::with_comments(text);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.token();
        tokens.push(token);
        if token.kind == T::Eof {
            break;
        }
    }
    let mut layout = Layout { text, tokens: &tokens, at: 0, indent: 0, lines: Vec::new() };
    layout.run();
    let mut lines = layout.lines;
    align(&mut lines);
    Ok(print(&lines))
}

/// A line of output in the parts that alignment moves.
#[derive(Debug, Default)]
struct Line {
    indent: usize,
    /// Up to `=`, or up to the block, or everything.
    left: String,
    /// From `=` on.
    value: String,
    /// A one-line block.
    block: String,
    comment: String,
    /// What the line must have in common with its neighbours to be aligned with them; empty for none.
    keyword: String,
    blank_before: bool,
}

impl Line {
    fn width(&self) -> usize {
        let parts = [&self.left, &self.value, &self.block].into_iter().filter(|p| !p.is_empty());
        parts.map(|p| p.chars().count() + 1).sum::<usize>().saturating_sub(1)
    }
}

struct Layout<'a> {
    text: &'a str,
    tokens: &'a [Token],
    at: usize,
    indent: usize,
    lines: Vec<Line>,
}

impl Layout<'_> {
    fn peek(&self) -> Token {
        self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn text_of(&self, token: Token) -> &str {
        token.span.text(self.text)
    }

    fn is_newline(&self, token: Token) -> bool {
        token.kind == T::End && self.text_of(token) == "\n"
    }

    fn run(&mut self) {
        // Newlines since the last thing that was printed.
        let mut newlines = 2;
        loop {
            let token = self.peek();
            match token.kind {
                T::Eof => break,
                T::End => {
                    newlines += usize::from(self.is_newline(token));
                    self.at += 1;
                    continue;
                }
                T::Comment => {
                    let comment = self.text_of(token).trim_end().to_owned();
                    self.at += 1;
                    match self.lines.last_mut() {
                        Some(line) if newlines == 0 && line.comment.is_empty() => line.comment = comment,
                        _ => self.push(Line { left: comment, ..Line::default() }, newlines),
                    }
                }
                T::CloseBrace => {
                    self.at += 1;
                    self.indent = self.indent.saturating_sub(1);
                    self.push(Line { left: "}".to_owned(), ..Line::default() }, 0);
                }
                _ => self.statement(newlines),
            }
            newlines = 0;
        }
    }

    fn push(&mut self, line: Line, newlines: usize) {
        let opens = self.lines.last().is_none_or(|l| l.left.ends_with('{') && l.block.is_empty());
        let blank_before = newlines > 1 && !opens;
        self.lines.push(Line { indent: self.indent, blank_before, ..line });
    }

    /// A statement up to its end, or to the brace that opens a block of several lines.
    fn statement(&mut self, newlines: usize) {
        let first = self.text_of(self.peek()).to_owned();
        let mut line = Line { keyword: first, ..Line::default() };
        let mut previous: Option<Token> = None;
        loop {
            let token = self.peek();
            match token.kind {
                T::End | T::Eof | T::CloseBrace | T::Comment => break,
                T::OpenBrace => {
                    let room = MAX_WIDTH.saturating_sub(self.indent * INDENT + line.width() + 1);
                    match self.one_line_block(room) {
                        Some((block, end)) => {
                            line.block = block;
                            self.at = end;
                            // A comment or another statement may follow on the line.
                        }
                        None => {
                            self.at += 1;
                            let part = if line.value.is_empty() { &mut line.left } else { &mut line.value };
                            part.push_str(if part.is_empty() { "{" } else { " {" });
                            if !line.value.is_empty() {
                                line.left = format!("{} {}", line.left, std::mem::take(&mut line.value));
                            }
                            line.keyword.clear();
                            self.push(line, newlines);
                            self.indent += 1;
                            return;
                        }
                    }
                    break;
                }
                _ => {}
            }
            let text = self.text_of(token).to_owned();
            let part = match token.kind {
                T::Equals if line.value.is_empty() && !line.left.is_empty() => &mut line.value,
                _ if line.value.is_empty() => &mut line.left,
                _ => &mut line.value,
            };
            if !part.is_empty() && previous.is_some_and(|p| spaced(p, token)) {
                part.push(' ');
            }
            part.push_str(&text);
            previous = Some(token);
            self.at += 1;
        }
        self.push(line, newlines);
    }

    /// The block that starts here on one line, and the token behind it; `None` if it must take several.
    fn one_line_block(&self, room: usize) -> Option<(String, usize)> {
        let mut out = String::new();
        let mut depth = 0usize;
        let mut at = self.at;
        let mut previous: Option<Token> = None;
        let mut pending_end = false;
        let mut empty_so_far = true;
        loop {
            let token = *self.tokens.get(at)?;
            at += 1;
            match token.kind {
                T::Eof | T::Comment => return None,
                T::End => {
                    // Newlines between empty braces do not count; between statements they do.
                    if self.is_newline(token) && !(empty_so_far && self.closes_at(at)) {
                        return None;
                    }
                    pending_end = true;
                    continue;
                }
                T::OpenBrace => {
                    depth += 1;
                    out.push_str(if out.is_empty() { "{" } else { " {" });
                }
                T::CloseBrace => {
                    depth = depth.checked_sub(1)?;
                    out.push_str(if out.ends_with('{') { "}" } else { " }" });
                    if depth == 0 {
                        return (out.chars().count() <= room).then_some((out, at));
                    }
                }
                _ => {
                    empty_so_far = false;
                    let starts = previous.is_none_or(|p| p.kind == T::OpenBrace);
                    if pending_end && !starts {
                        out.push_str("; ");
                    } else if starts || previous.is_some_and(|p| spaced(p, token)) {
                        out.push(' ');
                    }
                    out.push_str(self.text_of(token));
                }
            }
            pending_end = false;
            previous = Some(token);
        }
    }

    /// Whether only ends and then a closing brace follow.
    fn closes_at(&self, at: usize) -> bool {
        let rest = self.tokens[at.min(self.tokens.len())..].iter();
        rest.map(|t| t.kind).find(|k| *k != T::End) == Some(T::CloseBrace)
    }
}

/// Whether a space stands between two tokens of a statement.
fn spaced(before: Token, token: Token) -> bool {
    match (before.kind, token.kind) {
        (T::Dot | T::DotDot | T::OpenParen | T::OpenSquare, _) => false,
        (_, T::Comma | T::Dot | T::DotDot | T::CloseParen | T::CloseSquare | T::OpenSquare) => false,
        (_, T::OpenParen) => !token.touching,
        _ => true,
    }
}

/// Pads lines so that what belongs together stands in columns.
fn align(lines: &mut [Line]) {
    let related =
        |a: &Line, b: &Line| a.indent == b.indent && !b.blank_before && !a.keyword.is_empty() && a.keyword == b.keyword;
    for run in chunks(lines, related) {
        pad(run, |l| &mut l.left, |l| !l.value.is_empty());
        // What stands before the block is one column from here on.
        for line in run.iter_mut().filter(|l| !l.value.is_empty()) {
            let value = std::mem::take(&mut line.value);
            line.left = format!("{} {value}", line.left);
        }
        pad(run, |l| &mut l.left, |l| !l.block.is_empty());
    }
    let commented =
        |a: &Line, b: &Line| a.indent == b.indent && !b.blank_before && !a.comment.is_empty() && !b.comment.is_empty();
    for run in chunks(lines, commented) {
        for line in run.iter_mut().filter(|l| !l.block.is_empty()) {
            let block = std::mem::take(&mut line.block);
            line.left = format!("{} {block}", line.left);
        }
        pad(run, |l| &mut l.left, |l| !l.comment.is_empty());
    }
}

/// Splits lines where neighbours are not related.
fn chunks(lines: &mut [Line], related: impl Fn(&Line, &Line) -> bool) -> Vec<&mut [Line]> {
    lines.chunk_by_mut(related).collect()
}

/// Pads a part of some lines to the longest of them.
fn pad(run: &mut [Line], part: impl Fn(&mut Line) -> &mut String, has: impl Fn(&Line) -> bool) {
    let widths: Vec<usize> = run.iter_mut().filter(|l| has(l)).map(|l| part(l).chars().count()).collect();
    let (Some(least), Some(most)) = (widths.iter().min(), widths.iter().max()) else { return };
    if most - least > MAX_PAD {
        return;
    }
    for line in run.iter_mut().filter(|l| has(l)) {
        let part = part(line);
        let missing = most - part.chars().count();
        part.extend(std::iter::repeat_n(' ', missing));
    }
}

fn print(lines: &[Line]) -> String {
    let mut out = String::new();
    for line in lines {
        if line.blank_before {
            out.push('\n');
        }
        out.extend(std::iter::repeat_n(' ', line.indent * INDENT));
        let parts = [&line.left, &line.value, &line.block, &line.comment];
        for (number, part) in parts.into_iter().filter(|p| !p.is_empty()).enumerate() {
            if number > 0 {
                out.push(' ');
            }
            out.push_str(part);
        }
        while out.ends_with(' ') {
            out.pop();
        }
        out.push('\n');
    }
    out
}
