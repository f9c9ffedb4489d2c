//! Tokens to a [`Tree`]: a recovering parser of one statement form.
//!
//! Blocks are kept on an explicit stack and expressions have a budget of nodes, so the depth of recursion is bounded
//! for every input. After an error the parser skips to the end of the statement, marks it broken and goes on.

use super::intern::Symbol;
use super::lexer::{Lexer, Token, TokenKind as T};
use super::tree::{BinaryOp, Expr, ExprId, Mark, StmtId, Tree};
use crate::diag::{Diagnostic, Sink, codes};
use crate::source::Span;
use crate::text::thousands;
use crate::vocab::words;

/// Blocks within blocks that the parser accepts.
const MAX_BLOCKS: usize = 32;
/// Nodes of one expression; it bounds the recursion of every pass that walks an expression.
const MAX_NODES: u32 = 400;
/// Characters of a name: what a hostname may have. Paths are made of names, and there may be millions of paths.
const MAX_NAME: usize = 63;

/// Parses a text. The tree holds every statement that could be read; problems go to the sink.
pub(crate) fn parse(text: &str, sink: &mut Sink) -> Tree {
    let mut names = words::seeded_interner();
    names.reserve_for_text(text.len());
    let tree = Tree::for_text(names, text.len());
    let mut lexer = Lexer::new(text);
    let token = lexer.token();
    let mut parser = Parser { text, lexer, token, last_end: 0, tree, sink, budget: 0, words: Vec::new() };
    parser.file();
    parser.tree
}

/// An error was reported; the caller gives up this statement.
struct Reported;

type Parsed<V> = Result<V, Reported>;

struct Parser<'a, 's> {
    text: &'a str,
    lexer: Lexer<'a>,
    token: Token,
    last_end: u32,
    tree: Tree,
    sink: &'s mut Sink,
    budget: u32,
    words: Vec<ExprId>,
}

impl Parser<'_, '_> {
    fn bump(&mut self) -> Token {
        let token = self.token;
        self.last_end = token.span.end;
        self.token = self.lexer.token();
        token
    }

    fn fail<V>(&mut self, diagnostic: Diagnostic) -> Parsed<V> {
        self.sink.push(diagnostic);
        Err(Reported)
    }

    fn file(&mut self) {
        // Open blocks: the statement that has it, its brace, and the last statement in it.
        let mut open: Vec<(StmtId, Span)> = Vec::new();
        let mut last: Vec<Option<StmtId>> = vec![None];
        loop {
            match self.token.kind {
                T::End => {
                    self.bump();
                }
                T::Eof => break,
                T::CloseBrace => {
                    let brace = self.bump().span;
                    let Some((stmt, _)) = open.pop() else {
                        self.sink.push(
                            Diagnostic::error(codes::UNMATCHED, "this `}` closes nothing", brace)
                                .label("no block is open here")
                                .help("remove it, or add the `{` that it belongs to"),
                        );
                        continue;
                    };
                    last.pop();
                    self.tree.close_stmt(stmt, brace.end);
                    self.expect_end("after `}`");
                }
                _ => {
                    let stmt = self.head();
                    let level = last.len() - 1;
                    self.tree.link(open.last().map(|o| o.0), last[level], stmt);
                    last[level] = Some(stmt);
                    if self.token.kind == T::OpenBrace {
                        let brace = self.bump().span;
                        if open.len() >= MAX_BLOCKS {
                            self.sink.push(
                                Diagnostic::error(codes::TOO_DEEP, "blocks are nested too deep", brace)
                                    .label(format!("more than {MAX_BLOCKS} blocks are open here")),
                            );
                            return;
                        }
                        self.tree.open_block(stmt, brace.end);
                        open.push((stmt, brace));
                        last.push(None);
                    } else {
                        self.expect_end("after a statement");
                    }
                }
            }
        }
        for (stmt, brace) in open.into_iter().rev() {
            self.tree.close_stmt(stmt, self.text.len() as u32);
            self.sink.push(
                Diagnostic::error(codes::UNCLOSED, "this `{` is never closed", brace)
                    .label("the block starts here")
                    .help("add a `}` where the block ends"),
            );
        }
    }

    /// Demands the end of a statement, or skips to it.
    fn expect_end(&mut self, place: &str) {
        if matches!(self.token.kind, T::End | T::Eof | T::CloseBrace) {
            return;
        }
        let found = self.describe();
        self.sink.push(
            Diagnostic::error(codes::UNEXPECTED, format!("expected the end of the line {place}"), self.token.span)
                .label(format!("found {found}"))
                .help("put it on a line of its own, or a `;` before it"),
        );
        self.skip_statement();
    }

    /// Skips to the end of the statement; a block in it is skipped whole.
    fn skip_statement(&mut self) {
        let mut depth = 0usize;
        loop {
            match self.token.kind {
                T::Eof => return,
                T::End | T::CloseBrace if depth == 0 => return,
                T::OpenBrace => depth += 1,
                T::CloseBrace => depth -= 1,
                _ => {}
            }
            self.bump();
        }
    }

    /// Reads the words of a statement up to its block or end.
    fn head(&mut self) -> StmtId {
        let mut words = std::mem::take(&mut self.words);
        words.clear();
        let mut broken = false;
        loop {
            let mark = match self.token.kind {
                T::End | T::Eof | T::OpenBrace | T::CloseBrace => break,
                T::Peer => Some(Mark::Peer),
                T::Transit => Some(Mark::Transit),
                T::Comma => Some(Mark::Comma),
                T::Equals => Some(Mark::Equals),
                T::AtMost => Some(Mark::AtMost),
                T::AtLeast => Some(Mark::AtLeast),
                _ => None,
            };
            if let Some(mark) = mark {
                let span = self.bump().span;
                words.push(self.tree.add_expr(Expr::Mark(mark), span));
                continue;
            }
            self.budget = MAX_NODES;
            match self.expr() {
                Ok(word) => words.push(word),
                Err(Reported) => {
                    broken = true;
                    self.skip_words();
                    break;
                }
            }
        }
        let stmt = self.tree.add_stmt(&words, self.last_end, broken);
        self.words = words;
        stmt
    }

    /// After an error in the words: goes to the statement's block or end.
    fn skip_words(&mut self) {
        while !matches!(self.token.kind, T::End | T::Eof | T::OpenBrace | T::CloseBrace) {
            self.bump();
        }
    }

    fn node(&mut self, expr: Expr, span: Span) -> Parsed<ExprId> {
        if self.budget == 0 {
            return self.fail(
                Diagnostic::error(codes::TOO_DEEP, "this expression is too long", span)
                    .label(format!("it has more than {MAX_NODES} parts"))
                    .help("name a part of it with `let`"),
            );
        }
        self.budget -= 1;
        Ok(self.tree.add_expr(expr, span))
    }

    fn join(&mut self, expr: Expr, left: ExprId, right: ExprId) -> Parsed<ExprId> {
        let span = self.tree.span(left).to(self.tree.span(right));
        self.node(expr, span)
    }

    fn is_word(&self, word: &str) -> bool {
        self.token.kind == T::Name && self.token.span.text(self.text) == word
    }

    fn expr(&mut self) -> Parsed<ExprId> {
        let mut left = self.term()?;
        loop {
            let op = match self.token.kind {
                T::Plus => BinaryOp::Add,
                T::Minus => BinaryOp::Subtract,
                _ => return Ok(left),
            };
            self.bump();
            let right = self.term()?;
            left = self.join(Expr::Binary(left, right, op), left, right)?;
        }
    }

    fn term(&mut self) -> Parsed<ExprId> {
        let mut left = self.range()?;
        loop {
            let op = match () {
                () if self.is_word("mod") => BinaryOp::Mod,
                () if self.is_word("div") => BinaryOp::Div,
                () => return Ok(left),
            };
            self.bump();
            let right = self.range()?;
            left = self.join(Expr::Binary(left, right, op), left, right)?;
        }
    }

    fn range(&mut self) -> Parsed<ExprId> {
        let left = self.postfix()?;
        if self.token.kind != T::DotDot {
            return Ok(left);
        }
        self.bump();
        let right = self.postfix()?;
        self.join(Expr::Range(left, right), left, right)
    }

    fn postfix(&mut self) -> Parsed<ExprId> {
        let mut base = self.atom()?;
        loop {
            let start = self.tree.span(base).start;
            match self.token.kind {
                T::Dot => {
                    self.bump();
                    if self.token.kind != T::Name {
                        return self.unexpected("a name after `.`");
                    }
                    let name = self.bump().span;
                    let symbol = self.name(name)?;
                    base = self.node(Expr::Field(base, symbol), Span::new(start, name.end))?;
                }
                T::OpenSquare if self.token.touching => {
                    let open = self.bump().span;
                    let index = self.index()?;
                    let end = self.close(T::CloseSquare, open, "[")?;
                    base = self.node(Expr::At(base, index), Span::new(start, end))?;
                }
                T::OpenParen if self.token.touching => {
                    let open = self.bump().span;
                    let mut list: smallvec::SmallVec<[ExprId; 4]> = smallvec::SmallVec::new();
                    while self.token.kind != T::CloseParen {
                        list.push(self.nested()?);
                        if self.token.kind != T::Comma {
                            break;
                        }
                        self.bump();
                    }
                    let end = self.close(T::CloseParen, open, "(")?;
                    let args = self.tree.add_args(&list);
                    base = self.node(Expr::Call(base, args), Span::new(start, end))?;
                }
                _ => return Ok(base),
            }
        }
    }

    /// An expression within brackets. The budget is charged first, because the recursion happens here.
    fn nested(&mut self) -> Parsed<ExprId> {
        if self.budget < 8 {
            return self.fail(
                Diagnostic::error(codes::TOO_DEEP, "this expression is nested too deep", self.token.span)
                    .label("here")
                    .help("name a part of it with `let`"),
            );
        }
        self.budget -= 8;
        self.expr()
    }

    /// The symbol of a name, which must not be too long.
    fn name(&mut self, span: Span) -> Parsed<Symbol> {
        let text = span.text(self.text);
        if text.len() <= MAX_NAME {
            return Ok(self.tree.names.intern(text));
        }
        // Names are ASCII, so every place in them is the start of a character.
        let start = Span::new(span.start, span.start + MAX_NAME as u32);
        self.fail(
            Diagnostic::error(codes::STRAY, format!("a name of {} characters", thousands(text.len() as u64)), start)
                .label(format!("names have at most {MAX_NAME}")),
        )
    }

    fn index(&mut self) -> Parsed<ExprId> {
        if self.token.kind == T::Star {
            let span = self.bump().span;
            return self.node(Expr::All, span);
        }
        if self.token.kind == T::Name {
            let mut ahead = self.lexer.clone();
            let next = ahead.token();
            if next.kind == T::Name && next.span.text(self.text) == "in" {
                let name = self.bump().span;
                self.bump();
                let symbol = self.name(name)?;
                let range = self.nested()?;
                let end = self.tree.span(range).end;
                return self.node(Expr::Bind(symbol, range), Span::new(name.start, end));
            }
        }
        self.nested()
    }

    fn close(&mut self, kind: T, open: Span, bracket: &str) -> Parsed<u32> {
        if self.token.kind == kind {
            return Ok(self.bump().span.end);
        }
        let found = self.describe();
        self.fail(
            Diagnostic::error(codes::UNCLOSED, format!("this `{bracket}` is never closed"), open)
                .label("opened here")
                .note(format!("found {found} instead of the closing bracket")),
        )
    }

    fn unexpected<V>(&mut self, wanted: &str) -> Parsed<V> {
        let (span, found) = (self.token.span, self.describe());
        let text = span.text(self.text);
        let diagnostic = match self.token.kind {
            T::Bad => Diagnostic::error(codes::STRAY, format!("the language has no character `{text}`"), span)
                .label("not expected here"),
            T::BadName => Diagnostic::error(codes::STRAY, format!("`{text}` is no name"), span)
                .label("names are a-z, 0-9 and _, and start with a letter")
                .help(format!("`{}`", text.to_ascii_lowercase().trim_start_matches('_'))),
            T::OpenText => Diagnostic::error(codes::OPEN_TEXT, "this text has no closing quote", span)
                .label("it must end on the same line")
                .help("add a `\"`"),
            T::BadNumber => Diagnostic::error(codes::BAD_NUMBER, format!("`{text}` is no number or address"), span)
                .label("not readable")
                .note("numbers are like 5, 5ms, 1.5GiB, 10.0.0.1, 10.0.0.0/8 or /24"),
            _ => {
                Diagnostic::error(codes::UNEXPECTED, format!("expected {wanted}"), span).label(format!("found {found}"))
            }
        };
        self.fail(diagnostic)
    }

    fn describe(&self) -> String {
        match self.token.kind {
            T::Eof => "the end of the file".to_owned(),
            T::End if self.token.span.text(self.text) == "\n" => "the end of the line".to_owned(),
            _ => format!("`{}`", self.token.span.text(self.text)),
        }
    }

    fn atom(&mut self) -> Parsed<ExprId> {
        let span = self.token.span;
        let text = span.text(self.text);
        let expr = match self.token.kind {
            T::Name if matches!(text, "mod" | "div" | "in") => return self.unexpected("a value"),
            T::Name => Expr::Name(self.name(span)?),
            T::Int => match text.parse::<i64>() {
                Ok(value) => Expr::Int(self.tree.add_int(value)),
                Err(_) => {
                    return self.fail(
                        Diagnostic::error(codes::BAD_NUMBER, "this number is too large", span)
                            .label(format!("the largest is {}", i64::MAX)),
                    );
                }
            },
            T::Quantity => Expr::Quantity,
            T::Ipv4 => Expr::Ipv4(crate::address::prefix::parse_address(text).unwrap_or_default()),
            T::Prefix => {
                let (address, len) = text.split_once('/').unwrap_or((text, "32"));
                let address = crate::address::prefix::parse_address(address).unwrap_or_default();
                Expr::Prefix(address, len.parse().unwrap_or(32))
            }
            T::PrefixLen => match text[1..].parse::<u8>() {
                Ok(len) if len <= 32 => Expr::PrefixLen(len),
                _ => {
                    return self.fail(
                        Diagnostic::error(codes::BAD_NUMBER, format!("`{text}` is no prefix length"), span)
                            .label("prefix lengths go from /0 to /32"),
                    );
                }
            },
            T::Text => Expr::Text,
            T::OpenParen => {
                self.bump();
                let inner = self.nested()?;
                let end = self.close(T::CloseParen, span, "(")?;
                // Brackets leave no node of their own; the inner one takes their span.
                self.tree.widen(inner, Span::new(span.start, end));
                return Ok(inner);
            }
            _ => return self.unexpected("a word"),
        };
        self.bump();
        self.node(expr, span)
    }
}

/// Reads one expression, the whole text: for targets on the command line.
pub(crate) fn parse_word(text: &str) -> Option<(Tree, ExprId)> {
    let mut sink = Sink::default();
    let tree = parse(text, &mut sink);
    let stmt = tree.children(None).next()?;
    match (sink.is_empty(), tree.words(stmt), tree.children(None).count()) {
        (true, [word], 1) if !tree.has_block(stmt) => Some((tree.clone(), *word)),
        _ => None,
    }
}
