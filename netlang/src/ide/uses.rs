//! Every place of every name, from the syntax tree and the declarations.
//!
//! The walk is driven by the vocabulary: whatever is neither a choice, an option nor a word of a usage line is an
//! expression, and the names in it are looked up like the checker does: indices first, then the module's names, then
//! the file's.

use super::fit::{Fit, Role, fit_head, fit_property, slot_type, words};
use super::scope::{Block, DeclId, Scopes, decl, keyword_in};
use crate::plan::names::Names;
use crate::source::Span;
use crate::syntax::intern::Symbol;
use crate::syntax::tree::{Expr, ExprId, StmtId, Tree};
use crate::vocab::{Kind, Ty, property};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    /// A declaration.
    Decl(DeclId),
    /// The index of an array, declared in the head of this statement.
    Index(StmtId),
}

/// A place of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    pub(super) span: Span,
    pub(super) target: Target,
    pub(super) declares: bool,
    /// The path that ends here, and the module in which it stands.
    pub(super) path: Option<(ExprId, u32)>,
}

/// All places of names, in the order of the text.
pub(super) struct Uses {
    list: Vec<Use>,
}

impl Uses {
    pub(super) fn new(text: &str, tree: &Tree, names: &Names, scopes: &Scopes) -> Uses {
        let mut walk = Walk { text, tree, names, scopes, indices: Vec::new(), list: Vec::new() };
        walk.block(None, Block::File, 0);
        let mut list = walk.list;
        list.sort_by_key(|u| (u.span, u.target));
        Uses { list }
    }

    /// The name at an offset; the one before it when it stands right behind a name.
    pub(super) fn at(&self, offset: u32) -> Option<&Use> {
        let until = self.list.partition_point(|u| u.span.start <= offset);
        self.list[..until].last().filter(|u| offset <= u.span.end)
    }

    /// All places of one thing.
    pub(super) fn of(&self, target: Target) -> impl Iterator<Item = &Use> {
        self.list.iter().filter(move |u| u.target == target)
    }

    /// All places.
    pub(super) fn all(&self) -> &[Use] {
        &self.list
    }
}

struct Walk<'a> {
    text: &'a str,
    tree: &'a Tree,
    names: &'a Names,
    scopes: &'a Scopes,
    /// Indices that are seen here, the innermost last.
    indices: Vec<(Symbol, StmtId)>,
    list: Vec<Use>,
}

impl Walk<'_> {
    /// Walks the statements of a block. The parser bounds the depth of blocks and of expressions.
    fn block(&mut self, owner: Option<StmtId>, block: Block, module: u32) {
        let mut next = self.tree.children(owner).next();
        while let Some(stmt) = next {
            next = self.tree.sibling(stmt);
            self.stmt(stmt, block, module);
        }
    }

    fn stmt(&mut self, stmt: StmtId, block: Block, module: u32) {
        let tree = self.tree;
        let list = tree.words(stmt);
        let before = self.indices.len();
        let declared = self.scopes.decl_of_stmt.get(&stmt).copied();
        let all = words(tree, self.text, list);
        let (first, rest) = match all.split_first() {
            Some((first, rest)) => (first.text, rest),
            None => ("", &all[..]),
        };
        self.first_word(stmt, block, declared);
        let found = keyword_in(block, first);
        let fit = match (block, found) {
            (_, Some(found)) => fit_head(found, rest),
            (Block::Properties(_, block), _) => {
                property(block, first).map(|p| fit_property(p, rest)).unwrap_or_default()
            }
            _ => Fit::default(),
        };
        let at_top = matches!(block, Block::File | Block::Module);
        for (at, word) in list.iter().enumerate().skip(1) {
            let here = declared.filter(|d| decl(self.names, *d).is_some_and(|d| d.span == tree.span(*word)));
            let role = fit.roles.get(at - 1).copied().unwrap_or(Role::Free);
            let image = match role {
                Role::Arg(arg) => arg.ty == Ty::Image,
                _ => false,
            };
            match role {
                // A name that is declared: here, or in vain, because it is taken.
                _ if here.is_some() => self.declaration(stmt, *word, here),
                Role::Slot("NAME") => self.declaration(stmt, *word, None),
                Role::Free if at_top && at == 1 && found.is_none() => self.declaration(stmt, *word, None),
                Role::Option(_) | Role::Literal(_) | Role::Start(_) => {}
                Role::Arg(arg) if matches!(arg.ty, Ty::Choice(_) | Ty::Text) => {}
                Role::Slot(slot) if matches!(found.and_then(|f| slot_type(f, slot)), Some(Ty::Choice(_))) => {}
                _ => self.expr(*word, module, image),
            }
        }
        if tree.has_block(stmt) {
            let second = rest.first().map_or("", |w| w.text);
            let inside = block.inside(self.names, self.scopes, first, second);
            let module = self.scopes.module_of_stmt.get(&stmt).copied().filter(|_| at_top).unwrap_or(module);
            self.block(Some(stmt), inside, module);
        }
        self.indices.truncate(before);
    }

    /// The word that says what the statement is: a module's name, or a parameter of one.
    fn first_word(&mut self, stmt: StmtId, block: Block, declared: Option<DeclId>) {
        let (Some(symbol), Some(word)) = (self.tree.keyword(stmt), self.tree.words(stmt).first()) else { return };
        let target = match block {
            Block::File | Block::Module => {
                let named = declared.and_then(|d| decl(self.names, d)).is_some_and(|d| d.kind == Kind::Instance);
                self.scopes.find(0, false, symbol).filter(|_| named || self.scopes.module(symbol).is_some())
            }
            Block::Instance(module) => self.scopes.find(module, false, symbol),
            Block::Properties(..) | Block::Unknown => None,
        };
        if let Some(target) = target {
            self.add(self.tree.span(*word), symbol, Target::Decl(target), false, None);
        }
    }

    /// A declaring word: `web`, `web[0..300]` or `web[i in 0..300]`.
    fn declaration(&mut self, stmt: StmtId, word: ExprId, declared: Option<DeclId>) {
        let tree = self.tree;
        let (base, index) = match tree.expr(word) {
            Expr::At(base, index) => (base, Some(index)),
            _ => (word, None),
        };
        if let (Some(symbol), Some(id)) = (tree.as_name(base), declared) {
            self.add(tree.span(base), symbol, Target::Decl(id), true, None);
        }
        let module = declared.map_or(0, |d| d.module);
        match index.map(|i| (i, tree.expr(i))) {
            Some((index, Expr::Bind(symbol, range))) => {
                self.expr(range, module, false);
                let span = tree.span(index);
                self.add(span, symbol, Target::Index(stmt), true, None);
                self.indices.push((symbol, stmt));
            }
            Some((index, _)) => self.expr(index, module, false),
            None => {}
        }
    }

    fn expr(&mut self, id: ExprId, module: u32, image: bool) {
        match self.tree.expr(id) {
            Expr::Name(_) | Expr::Field(..) | Expr::At(..) => {
                self.path(id, module, image);
            }
            Expr::Binary(left, right, _) | Expr::Range(left, right) => {
                self.expr(left, module, image);
                self.expr(right, module, image);
            }
            Expr::Call(callee, args) => {
                self.expr(callee, module, false);
                for arg in self.tree.args(args) {
                    self.expr(*arg, module, false);
                }
            }
            Expr::Bind(_, range) => self.expr(range, module, false),
            _ => {}
        }
    }

    /// The declaration that a path leads to.
    fn path(&mut self, id: ExprId, module: u32, image: bool) -> Option<DeclId> {
        match self.tree.expr(id) {
            Expr::Name(symbol) => {
                let span = self.tree.span(id);
                if let Some((_, stmt)) = self.indices.iter().rev().find(|(name, _)| *name == symbol) {
                    self.add(span, symbol, Target::Index(*stmt), false, None);
                    return None;
                }
                let found = self.scopes.lookup(module, image, symbol)?;
                self.add(span, symbol, Target::Decl(found), false, Some((id, module)));
                Some(found)
            }
            Expr::At(base, index) => {
                let before = self.list.len();
                let found = self.path(base, module, image);
                // The place of the indexed name is about the elements that the index picks.
                if let Some(last) = self.list[before..].iter_mut().filter(|u| u.path == Some((base, module))).last() {
                    last.path = Some((id, module));
                }
                self.expr(index, module, false);
                found
            }
            Expr::Field(base, symbol) => {
                let owner = self.path(base, module, image)?;
                let owner = decl(self.names, owner).filter(|d| d.kind == Kind::Instance)?;
                let found = self.scopes.find(owner.module, image, symbol)?;
                self.add(self.tree.span(id), symbol, Target::Decl(found), false, Some((id, module)));
                Some(found)
            }
            _ => {
                self.expr(id, module, image);
                None
            }
        }
    }

    /// Adds a place. `span` holds the name: at its start, or, for the last part of a path, at its end.
    fn add(&mut self, span: Span, symbol: Symbol, target: Target, declares: bool, path: Option<(ExprId, u32)>) {
        let name = self.names.interner.name(symbol);
        let text = span.text(self.text);
        // Brackets around an expression widen its span.
        let is_last = path.is_some_and(|(id, _)| matches!(self.tree.expr(id), Expr::Field(..)));
        let at = if is_last { text.rfind(name) } else { text.find(name) };
        let Some(at) = at else { return };
        let start = span.start + at as u32;
        self.list.push(Use { span: Span::new(start, start + name.len() as u32), target, declares, path });
    }
}
