//! Names of other declarations: `on seg[i mod 4]`, `gateway gw`, `hq.gw`.

use super::World;
use super::eval::Env;
use crate::diag::{Diagnostic, codes};
use crate::plan::path::{PathError, PathPart, Selected, parts};
use crate::source::Span;
use crate::syntax::tree::{Expr, ExprId};
use crate::vocab::{Kind, Ty};

impl World<'_> {
    /// Whether an expression is a certain word.
    pub(crate) fn is_word(&self, word: ExprId, text: &str) -> bool {
        self.tree.as_name(word).is_some_and(|s| self.data.names.interner.name(s) == text)
    }

    /// What a path selects; errors are reported.
    pub(crate) fn select(&mut self, env: Env, word: ExprId, what: &str) -> Option<Vec<Selected>> {
        let parts = self.path_parts(env, word, what)?;
        match self.data.names.select(env.instance, &parts) {
            Ok(selected) => Some(selected),
            Err(error) => {
                self.path_error(env.instance, &parts, error, what);
                None
            }
        }
    }

    fn path_parts(&mut self, env: Env, word: ExprId, what: &str) -> Option<Vec<PathPart>> {
        // Indices first: evaluating them needs the whole world.
        let mut indices = Vec::new();
        let mut at = word;
        loop {
            match self.tree.expr(at) {
                Expr::At(base, index) => {
                    match self.tree.expr(index) {
                        Expr::All | Expr::Bind(..) => {}
                        Expr::Range(from, until) => indices.extend([from, until]),
                        _ => indices.push(index),
                    }
                    at = base;
                }
                Expr::Field(base, _) => at = base,
                _ => break,
            }
        }
        let mut values = hashbrown::HashMap::new();
        for index in indices {
            values.insert(index, self.want_int(env, index, Ty::HostNumber, "index")?);
        }
        let found = parts(&self.tree, &self.data.names.interner, word, &mut |e| values.get(&e).copied());
        if found.is_none() {
            let span = self.tree.span(word);
            let text = span.text(self.text);
            self.sink.push(
                Diagnostic::error(codes::WRONG_TYPE, format!("`{text}` is no name of a {what}"), span)
                    .label("a name like `web`, `web[3]` or `hq.pc[*]` is wanted here"),
            );
        }
        found
    }

    fn path_error(&mut self, scope: u32, parts: &[PathPart], error: PathError, what: &str) {
        let diagnostic = match error {
            PathError::Unknown { part: 0, .. } => {
                let part = &parts[0];
                // The name stands in the text, so it was interned.
                if let Some(symbol) = self.data.names.interner.find(&part.name) {
                    let what = if parts.len() == 1 { what } else { "module instance" };
                    self.unknown_name(scope, symbol, part.span, what);
                }
                return;
            }
            PathError::Unknown { part, scope } => {
                let (it, before) = (&parts[part], &parts[part - 1]);
                if !self.sink.keeps_error(codes::UNKNOWN_NAME, it.span) {
                    return;
                }
                let similar = self.data.names.similar(scope, &it.name);
                let message = format!("`{}` has no part named `{}`", before.name, it.name);
                let label =
                    similar.map_or_else(|| "not declared there".into(), |s| format!("help: did you mean `{s}`?"));
                Diagnostic::error(codes::UNKNOWN_NAME, message, it.span).label(label)
            }
            PathError::OutOfRange { part, first, until } => {
                let it = &parts[part];
                Diagnostic::error(codes::BAD_INDEX, format!("`{}` has no such element", it.name), it.span)
                    .label(format!("its elements are {}[{first}..{until}]", it.name))
            }
            PathError::NotArray { part } => {
                let it = &parts[part];
                Diagnostic::error(codes::BAD_INDEX, format!("`{}` is no array", it.name), it.span)
                    .label("remove the index")
            }
            PathError::NoParts { part, kind } => {
                let it = &parts[part];
                Diagnostic::error(codes::WRONG_KIND, format!("`{}` is {}", it.name, kind.a()), it.span)
                    .label("nothing is within it")
            }
        };
        self.sink.push(diagnostic);
    }

    /// The rows of a path that must lead to things of certain kinds.
    pub(crate) fn rows_of(&mut self, env: Env, word: ExprId, kinds: &[Kind], what: &str) -> Option<Vec<u32>> {
        let selected = self.select(env, word, what)?;
        let mut rows = Vec::new();
        for it in &selected {
            if !kinds.contains(&it.kind) {
                self.wrong_kind(*it, self.tree.span(word), kinds);
                return None;
            }
            let own = self.data.names.rows(it.instance, it.decl);
            let base = own.base + (it.first - own.first);
            rows.extend(base..base + it.count);
        }
        Some(rows)
    }

    /// The row of a path that must lead to exactly one thing.
    pub(crate) fn one(&mut self, env: Env, word: ExprId, kinds: &[Kind], what: &str) -> Option<u32> {
        let rows = self.rows_of(env, word, kinds, what)?;
        if let [only] = rows.as_slice() {
            return Some(*only);
        }
        // Arrays that came out empty were reported where they are declared.
        if !rows.is_empty() {
            let span = self.tree.span(word);
            let text = span.text(self.text);
            self.sink.push(
                Diagnostic::error(codes::BAD_INDEX, format!("`{text}` is {} {what}s: which one?", rows.len()), span)
                    .label(format!("help: `{text}[0]`")),
            );
        }
        None
    }

    /// Reports a name of the wrong kind.
    pub(crate) fn wrong_kind(&mut self, it: Selected, span: Span, kinds: &[Kind]) {
        let decl = *self.data.names.decl(it.instance, it.decl);
        let text = span.text(self.text);
        let wanted: Vec<&str> = kinds.iter().map(|k| k.a()).collect();
        self.sink.push(
            Diagnostic::error(
                codes::WRONG_KIND,
                format!("`{text}` is {}, {} is wanted here", it.kind.a(), wanted.join(" or ")),
                span,
            )
            .label(format!("not {}", wanted.join(" or ")))
            .also(decl.span, "declared here"),
        );
    }
}
