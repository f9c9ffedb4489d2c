//! The syntax tree: arenas of statements and expressions that point at one another by number.

use super::intern::{Interner, Symbol};
use crate::source::Span;

/// An expression in a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ExprId(pub(crate) u32);

/// A statement in a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StmtId(pub(crate) u32);

/// Marks "no statement" in [`Stmt::next`] and [`Stmt::child`].
const NONE: u32 = u32::MAX;

/// A binary operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Subtract,
    Mod,
    Div,
}

/// A word that is an operator or a mark, not an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Peer,
    Transit,
    Comma,
    Equals,
    AtMost,
    AtLeast,
}

/// An expression, or one of the marks that stand between expressions in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expr {
    /// A name.
    Name(Symbol),
    /// A whole number, an entry of the table of numbers.
    Int(u32),
    /// A number with a unit; its text is read when it is needed.
    Quantity,
    /// An address.
    Ipv4(u32),
    /// An address with a prefix length (the `u8`).
    Prefix(u32, u8),
    /// `/24`
    PrefixLen(u8),
    /// `"text"`, quotes included in the span.
    Text,
    /// `a.b`
    Field(ExprId, Symbol),
    /// `a[b]`
    At(ExprId, ExprId),
    /// `a(b, c)`; the number is for [`Tree::args`].
    Call(ExprId, u32),
    /// `a..b`
    Range(ExprId, ExprId),
    /// `a + b`; the operator is the last part.
    Binary(ExprId, ExprId, BinaryOp),
    /// `*` as an index.
    All,
    /// `i in a..b` as an index.
    Bind(Symbol, ExprId),
    /// `--`, `,`, …
    Mark(Mark),
}

/// A statement: words, and perhaps a block of statements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stmt {
    first_word: u32,
    word_count: u32,
    next: u32,
    child: u32,
    end: u32,
    /// Byte after `{`, or 0 without a block.
    block_start: u32,
    /// A syntax error was reported inside the words: later passes skip the statement.
    pub(crate) broken: bool,
}

/// The tree of one file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    pub(crate) names: Interner,
    exprs: Vec<(Expr, Span)>,
    stmts: Vec<Stmt>,
    words: Vec<ExprId>,
    ints: Vec<i64>,
    args: Vec<(u32, u32)>,
    arg_list: Vec<ExprId>,
    first: Option<StmtId>,
}

impl Tree {
    /// An empty tree with room for a text of so many bytes, its interner seeded with the vocabulary.
    pub(crate) fn for_text(names: Interner, bytes: usize) -> Tree {
        // About one word in seven bytes is what network files have; growing later is only slower.
        Tree {
            names,
            exprs: Vec::with_capacity(bytes / 7),
            words: Vec::with_capacity(bytes / 7),
            stmts: Vec::with_capacity(bytes / 14),
            ..Tree::default()
        }
    }

    pub(crate) fn add_expr(&mut self, expr: Expr, span: Span) -> ExprId {
        self.exprs.push((expr, span));
        ExprId(self.exprs.len() as u32 - 1)
    }

    /// Gives an expression the span of the brackets around it.
    pub(crate) fn widen(&mut self, id: ExprId, span: Span) {
        self.exprs[id.0 as usize].1 = span;
    }

    pub(crate) fn add_int(&mut self, value: i64) -> u32 {
        self.ints.push(value);
        self.ints.len() as u32 - 1
    }

    pub(crate) fn add_args(&mut self, list: &[ExprId]) -> u32 {
        let first = self.arg_list.len() as u32;
        self.arg_list.extend_from_slice(list);
        self.args.push((first, list.len() as u32));
        self.args.len() as u32 - 1
    }

    pub(crate) fn add_stmt(&mut self, words: &[ExprId], end: u32, broken: bool) -> StmtId {
        let first_word = self.words.len() as u32;
        self.words.extend_from_slice(words);
        let word_count = words.len() as u32;
        self.stmts.push(Stmt { first_word, word_count, next: NONE, child: NONE, end, block_start: 0, broken });
        StmtId(self.stmts.len() as u32 - 1)
    }

    /// Opens the block of a statement.
    pub(crate) fn open_block(&mut self, stmt: StmtId, start: u32) {
        self.stmts[stmt.0 as usize].block_start = start;
    }

    /// Closes a statement that has a block.
    pub(crate) fn close_stmt(&mut self, stmt: StmtId, end: u32) {
        self.stmts[stmt.0 as usize].end = end;
    }

    /// Puts a statement behind `previous`, or first into `parent` (the file when `None`).
    pub(crate) fn link(&mut self, parent: Option<StmtId>, previous: Option<StmtId>, stmt: StmtId) {
        match (previous, parent) {
            (Some(previous), _) => self.stmts[previous.0 as usize].next = stmt.0,
            (None, Some(parent)) => self.stmts[parent.0 as usize].child = stmt.0,
            (None, None) => self.first = Some(stmt),
        }
    }

    pub(crate) fn expr(&self, id: ExprId) -> Expr {
        self.exprs[id.0 as usize].0
    }

    pub(crate) fn span(&self, id: ExprId) -> Span {
        self.exprs[id.0 as usize].1
    }

    /// The value of an [`Expr::Int`].
    pub(crate) fn int(&self, index: u32) -> i64 {
        self.ints[index as usize]
    }

    /// The arguments of an [`Expr::Call`].
    pub(crate) fn args(&self, index: u32) -> &[ExprId] {
        let (first, count) = self.args[index as usize];
        &self.arg_list[first as usize..(first + count) as usize]
    }

    pub(crate) fn stmt(&self, id: StmtId) -> &Stmt {
        &self.stmts[id.0 as usize]
    }

    /// The words of a statement.
    pub(crate) fn words(&self, id: StmtId) -> &[ExprId] {
        let stmt = self.stmt(id);
        &self.words[stmt.first_word as usize..(stmt.first_word + stmt.word_count) as usize]
    }

    /// The statement's words, without its block.
    pub(crate) fn head_span(&self, id: StmtId) -> Span {
        match self.words(id) {
            [first, .., last] => self.span(*first).to(self.span(*last)),
            [only] => self.span(*only),
            [] => Span::new(self.stmt(id).end, self.stmt(id).end),
        }
    }

    /// The whole statement.
    pub(crate) fn stmt_span(&self, id: StmtId) -> Span {
        let head = self.head_span(id);
        Span::new(head.start, self.stmt(id).end.max(head.end))
    }

    /// Whether the statement has a block, even an empty one.
    pub(crate) fn has_block(&self, id: StmtId) -> bool {
        self.stmt(id).block_start != 0
    }

    /// The statements of a block, or of the file.
    pub(crate) fn children(&self, parent: Option<StmtId>) -> Children<'_> {
        let first = match parent {
            None => self.first,
            Some(id) => Some(self.stmt(id).child).filter(|c| *c != NONE).map(StmtId),
        };
        Children { tree: self, next: first }
    }

    /// The statement after this one in its block.
    pub(crate) fn sibling(&self, id: StmtId) -> Option<StmtId> {
        Some(self.stmt(id).next).filter(|n| *n != NONE).map(StmtId)
    }

    /// The first word, if it is a name.
    pub(crate) fn keyword(&self, id: StmtId) -> Option<Symbol> {
        match self.words(id).first().map(|w| self.expr(*w)) {
            Some(Expr::Name(symbol)) => Some(symbol),
            _ => None,
        }
    }

    /// The symbol of an expression that is a plain name.
    pub(crate) fn as_name(&self, id: ExprId) -> Option<Symbol> {
        match self.expr(id) {
            Expr::Name(symbol) => Some(symbol),
            _ => None,
        }
    }
}

/// Iterates over sibling statements.
pub(crate) struct Children<'t> {
    tree: &'t Tree,
    next: Option<StmtId>,
}

impl Iterator for Children<'_> {
    type Item = StmtId;

    fn next(&mut self) -> Option<StmtId> {
        let id = self.next?;
        self.next = Some(self.tree.stmt(id).next).filter(|n| *n != NONE).map(StmtId);
        Some(id)
    }
}
