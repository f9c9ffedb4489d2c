//! The outline of a file: its declarations, and the blocks that can be folded.

use super::Analysis;
use super::scope::DeclId;
use crate::source::Span;
use crate::syntax::tree::StmtId;
use crate::vocab::Kind;

/// A declaration in the outline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// As it is declared: `web[i in 0..60]`.
    pub name: String,
    /// What kind of thing it is.
    pub kind: Kind,
    /// The words that declare it.
    pub detail: String,
    /// The whole statement.
    pub span: Span,
    /// The name.
    pub selection: Span,
    /// What a module declares.
    pub children: Vec<Symbol>,
}

/// A block that can be folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    /// From the first word of the statement to its closing brace.
    pub span: Span,
}

impl Analysis {
    /// The declarations of the file and, within modules, of the modules.
    pub fn symbols(&self) -> Vec<Symbol> {
        self.symbols_of(0)
    }

    fn symbols_of(&self, module: u32) -> Vec<Symbol> {
        let Some(of) = self.names().modules.get(module as usize) else { return Vec::new() };
        let tree = &self.parts.tree;
        let symbol = |(decl, it): (u32, &crate::plan::names::Decl)| {
            let inner = self.scopes().module_of_stmt.get(&it.stmt).copied().filter(|_| it.kind == Kind::Module);
            let id = DeclId { module, decl };
            Symbol {
                name: it.span.text(self.text()).to_owned(),
                kind: it.kind,
                detail: self.head(id),
                span: tree.stmt_span(it.stmt).to(it.span),
                selection: it.span,
                children: inner.map(|m| self.symbols_of(m)).unwrap_or_default(),
            }
        };
        let mut symbols: Vec<Symbol> = (0u32..).zip(&of.decls).map(symbol).collect();
        symbols.sort_by_key(|s| s.span);
        symbols
    }

    /// Blocks of more than one line.
    pub fn folds(&self) -> Vec<Fold> {
        let tree = &self.parts.tree;
        let mut folds = Vec::new();
        let mut open: Vec<StmtId> = tree.children(None).collect();
        while let Some(stmt) = open.pop() {
            if !tree.has_block(stmt) {
                continue;
            }
            open.extend(tree.children(Some(stmt)));
            let span = tree.stmt_span(stmt);
            if span.text(self.text()).contains('\n') {
                folds.push(Fold { span });
            }
        }
        folds.sort_by_key(|f| f.span);
        folds
    }
}
