//! Where the cursor stands, from the tokens before it: the tree has no place for a statement that is half written.

use super::scope::{Block, Scopes};
use crate::plan::names::Names;
use crate::source::Span;
use crate::syntax::lexer::{Lexer, Token, TokenKind as T};

/// What is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A comment, a text or a number: nothing to complete.
    Nothing,
    /// A word of a statement.
    Word,
    /// A part of a path: the text before its last dot.
    Part(Span),
    /// A value within an expression.
    Value,
}

/// Where the cursor stands.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) place: Place,
    /// The word that the cursor is in or behind; empty if there is none.
    pub(super) word: Span,
    /// The words of the statement before it, or before its path.
    pub(super) before: Span,
    /// The block that the statement is in.
    pub(super) block: Block,
    /// The module that the statement is in; 0 is the file.
    pub(super) module: u32,
    /// Names of indices that are seen here.
    pub(super) indices: Vec<&'a str>,
    /// First words of the other statements of the block.
    pub(super) siblings: Vec<&'a str>,
}

/// A block that is open.
#[derive(Default)]
struct Level {
    /// The tokens of the head that opened it.
    head: Vec<Token>,
    firsts: Vec<Span>,
}

/// A token that a cursor at its end still belongs to.
fn holds(token: &Token, offset: u32) -> bool {
    token.span.start < offset && offset <= token.span.end
}

impl<'a> Cursor<'a> {
    pub(super) fn find(text: &'a str, offset: u32, names: &Names, scopes: &Scopes) -> Cursor<'a> {
        let mut lexer = Lexer::with_comments(text);
        let mut levels = vec![Level::default()];
        let mut stmt: Vec<Token> = Vec::new();
        let mut place = Place::Word;
        let mut word = Span::new(offset, offset);
        let mut token = lexer.token();
        while token.kind != T::Eof && token.span.start < offset {
            if holds(&token, offset) {
                match token.kind {
                    T::Name | T::BadName => {
                        word = token.span;
                        token = lexer.token();
                        break;
                    }
                    T::Text if offset == token.span.end => {}
                    T::Comment | T::Text | T::OpenText => place = Place::Nothing,
                    T::Int | T::Quantity | T::Ipv4 | T::Prefix | T::PrefixLen | T::BadNumber => place = Place::Nothing,
                    _ => {}
                }
            }
            step(&mut levels, &mut stmt, token);
            token = lexer.token();
        }
        let before = match (stmt.first(), stmt.last()) {
            (Some(first), Some(last)) => first.span.to(last.span),
            _ => Span::new(word.start, word.start),
        };
        let mut cursor = Cursor {
            place,
            word,
            before,
            block: Block::File,
            module: 0,
            indices: levels.iter().map(|l| &l.head).chain([&stmt]).filter_map(|t| index_name(text, t)).collect(),
            siblings: Vec::new(),
        };
        cursor.look_back(text, &stmt);
        for level in &levels[1..] {
            let word = |n: usize| level.head.get(n).map_or("", |t| t.span.text(text));
            if word(0) == "module" && matches!(cursor.block, Block::File) {
                cursor.module = names.interner.find(word(1)).and_then(|s| scopes.module(s)).unwrap_or(0);
            }
            cursor.block = cursor.block.inside(names, scopes, word(0), word(1));
        }
        // The rest of the block, for its statements.
        let depth = levels.len();
        while token.kind != T::Eof && levels.len() >= depth {
            if !(token.kind == T::CloseBrace && levels.len() == depth) {
                // The statement of the cursor is none of the others.
                step(&mut levels, &mut stmt, token);
            } else {
                break;
            }
            token = lexer.token();
        }
        let firsts = levels.get(depth - 1).map(|l| l.firsts.as_slice()).unwrap_or_default();
        let others = firsts.iter().filter(|f| f.start != cursor.before.start && f.start != word.start);
        cursor.siblings = others.map(|f| f.text(text)).collect();
        cursor
    }

    /// Finds paths, brackets and operators before the cursor.
    fn look_back(&mut self, text: &str, stmt: &[Token]) {
        let Some(last) = stmt.last().filter(|_| self.place == Place::Word) else { return };
        let operator = matches!(last.kind, T::Plus | T::Minus | T::DotDot)
            || (last.kind == T::Name && matches!(last.span.text(text), "mod" | "div" | "in"));
        let open = stmt.iter().fold(0i32, |open, t| match t.kind {
            T::OpenSquare | T::OpenParen => open + 1,
            T::CloseSquare | T::CloseParen => (open - 1).max(0),
            _ => open,
        });
        if last.kind == T::Dot {
            let start = path_start(stmt);
            self.place = Place::Part(Span::new(stmt[start].span.start, last.span.start));
            self.before = match start.checked_sub(1) {
                Some(end) => stmt[0].span.to(stmt[end].span),
                None => Span::new(stmt[start].span.start, stmt[start].span.start),
            };
            if open > 0 {
                self.before.end = self.before.start;
            }
        } else if operator || open > 0 {
            self.place = Place::Value;
        }
    }
}

/// Takes a token into account.
fn step(levels: &mut Vec<Level>, stmt: &mut Vec<Token>, token: Token) {
    match token.kind {
        T::Comment => {}
        T::End => stmt.clear(),
        T::OpenBrace => levels.push(Level { head: std::mem::take(stmt), firsts: Vec::new() }),
        T::CloseBrace => {
            stmt.clear();
            if levels.len() > 1 {
                levels.pop();
            }
        }
        _ => {
            if stmt.is_empty()
                && let Some(level) = levels.last_mut()
            {
                level.firsts.push(token.span);
            }
            stmt.push(token);
        }
    }
}

/// The token at which the path that ends in a dot starts.
fn path_start(stmt: &[Token]) -> usize {
    let mut at = stmt.len().saturating_sub(1);
    loop {
        // `at` is a dot; before it stands a name, perhaps with brackets.
        let Some(mut before) = at.checked_sub(1) else { return at };
        let mut open = 0;
        while before > 0 {
            match stmt[before].kind {
                T::CloseSquare | T::CloseParen => open += 1,
                T::OpenSquare | T::OpenParen => open -= 1,
                _ if open == 0 => break,
                _ => {}
            }
            before -= 1;
        }
        match before.checked_sub(1) {
            Some(dot) if stmt[dot].kind == T::Dot => at = dot,
            _ => return before,
        }
    }
}

/// The index that a head declares: `i` of `vm web[i in 0..60]`.
fn index_name<'a>(text: &'a str, head: &[Token]) -> Option<&'a str> {
    let mut four = head.windows(4);
    four.find_map(|t| {
        let kinds = t.iter().map(|t| t.kind).eq([T::Name, T::OpenSquare, T::Name, T::Name]);
        (kinds && t[3].span.text(text) == "in").then(|| t[2].span.text(text))
    })
}
