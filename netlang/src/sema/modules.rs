//! Parameters of modules: declared types, values from the instances' blocks, bounds.

use super::World;
use super::eval::Env;
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::source::Span;
use crate::syntax::intern::Symbol;
use crate::syntax::tree::{Expr, ExprId, Mark, StmtId};
use crate::text::{any_of, nearest};
use crate::vocab::{Kind, Ty, keyword};
use hashbrown::HashMap;
use smallvec::SmallVec;

/// The types that a parameter can have.
pub(crate) const TYPES: &[(&str, Ty)] = &[
    ("int", Ty::HostNumber),
    ("prefix", Ty::Prefix),
    ("duration", Ty::Duration),
    ("size", Ty::Size),
    ("rate", Ty::Rate),
    ("ratio", Ty::Ratio),
    ("text", Ty::Text),
];

/// The words of `param NAME TYPE [= VALUE] [max VALUE]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ParamHead {
    pub(crate) ty: Ty,
    pub(crate) default: Option<ExprId>,
    pub(crate) most: Option<ExprId>,
}

impl World<'_> {
    /// Reads a parameter's statement; reports it when `report` is set.
    pub(crate) fn param_head(&mut self, stmt: StmtId, report: bool) -> Option<ParamHead> {
        let words: SmallVec<[ExprId; 8]> = self.tree.words(stmt).into();
        let type_word = *words.get(2)?;
        let text = self.tree.span(type_word).text(self.text);
        let Some((_, ty)) = TYPES.iter().find(|(name, _)| *name == text) else {
            if report {
                let span = self.tree.span(type_word);
                let it = Diagnostic::error(codes::NOT_A_CHOICE, format!("there is no type `{text}`"), span);
                let similar = nearest(text, TYPES.iter().map(|t| t.0));
                self.sink.push(match similar {
                    Some(similar) => it.label(format!("help: did you mean `{similar}`?")),
                    None => it.label(format!("must be {}", any_of(TYPES.iter().map(|t| t.0)))),
                });
            }
            return None;
        };
        let is_max = |w: ExprId| self.tree.as_name(w).is_some_and(|s| self.data.names.interner.name(s) == "max");
        let is_equals = |w: ExprId| self.tree.expr(w) == Expr::Mark(Mark::Equals);
        let (default, most) = match words[3..] {
            [] => (None, None),
            [equals, value] if is_equals(equals) => (Some(value), None),
            [max, most] if is_max(max) => (None, Some(most)),
            [equals, value, max, most] if is_equals(equals) && is_max(max) => (Some(value), Some(most)),
            _ => {
                if let Some(found) = keyword("param").filter(|_| report) {
                    self.bad_head(stmt, found);
                }
                return None;
            }
        };
        Some(ParamHead { ty: *ty, default, most })
    }

    /// Checks the blocks of all instances against the parameters of their modules.
    pub(crate) fn check_instances(&mut self) {
        for module in 0..self.data.names.modules.len() {
            for decl in 0..self.data.names.modules[module].decls.len() {
                let found = self.data.names.modules[module].decls[decl];
                match found.kind {
                    Kind::Instance => self.check_instance(found.stmt, found.module),
                    Kind::Param if module == 0 => self.sink.push(
                        Diagnostic::error(codes::BAD_WORDS, "a parameter belongs into a module", found.span)
                            .label("the file has no parameters")
                            .help("`let` gives a value a name"),
                    ),
                    Kind::Param => drop(self.param_head(found.stmt, true)),
                    _ => {}
                }
            }
        }
    }

    fn check_instance(&mut self, owner: StmtId, module: u32) {
        let mut seen: HashMap<Symbol, Span> = HashMap::new();
        let mut next = self.tree.children(Some(owner)).next();
        while let Some(stmt) = next {
            next = self.tree.sibling(stmt);
            let Some(symbol) = self.tree.keyword(stmt).filter(|_| !self.tree.stmt(stmt).broken) else { continue };
            let span = self.tree.words(stmt).first().map_or_else(Span::default, |w| self.tree.span(*w));
            let of = &self.data.names.modules[module as usize];
            let decl = of.table.get(&symbol).map(|d| of.decls[*d as usize]);
            let is_param = decl.is_some_and(|d| d.kind == Kind::Param);
            if !is_param && !self.poisoned.contains(&symbol) && self.sink.keeps_error(codes::UNKNOWN_WORD, span) {
                let name = self.data.names.interner.name(symbol);
                let params = of.decls.iter().filter(|d| d.kind == Kind::Param);
                let names: Vec<&str> = params.map(|d| self.data.names.interner.name(d.symbol)).collect();
                let module_name = of.name.map_or("", |n| self.data.names.interner.name(n));
                let it =
                    Diagnostic::error(codes::UNKNOWN_WORD, format!("`{module_name}` has no parameter `{name}`"), span);
                let it = match nearest(name, names.iter().copied()) {
                    Some(similar) => it.label(format!("help: did you mean `{similar}`?")),
                    None if names.is_empty() => it.label("it has none at all"),
                    None => it.label("not known").note(format!("it has {}", any_of(names))),
                };
                self.sink.push(it);
            }
            if let Some(first) = seen.get(&symbol) {
                let name = self.data.names.interner.name(symbol);
                self.sink.push(
                    Diagnostic::error(codes::REPEATED, format!("`{name}` is given twice"), span)
                        .label("a second time")
                        .also(*first, "given here first")
                        .help("remove one of them"),
                );
            }
            seen.entry(symbol).or_insert(span);
            if self.tree.words(stmt).len() != 2 || self.tree.has_block(stmt) {
                self.sink.push(
                    Diagnostic::error(codes::BAD_WORDS, "a parameter takes one value", self.tree.head_span(stmt))
                        .label("written like this: `id 5`"),
                );
            }
        }
    }

    /// The value of a parameter in an instance: from the instance's block, or its default.
    pub(crate) fn param_value(&mut self, instance: u32, decl: u32) -> Option<Value> {
        let found = *self.data.names.decl(instance, decl);
        let head = self.param_head(found.stmt, false)?;
        let name = self.data.names.interner.name(found.symbol).to_owned();
        let of = &self.data.names.instances[instance as usize];
        let (parent, index) = (of.parent, of.index);
        if instance == 0 {
            return None;
        }
        let owner = *self.data.names.decl(parent, of.decl);
        let given = self.given_param(owner.stmt, found.symbol);
        let (env, word) = match given {
            Some(stmt) => (self.element_env(parent, owner.stmt, index), *self.tree.words(stmt).get(1)?),
            None => match head.default {
                Some(default) => (Env::of(instance), default),
                None => {
                    let owner_name = self.data.names.interner.name(owner.symbol);
                    self.sink.push(
                        Diagnostic::error(
                            codes::MISSING,
                            format!("`{owner_name}` does not say what `{name}` is"),
                            owner.span,
                        )
                        .label("this instance")
                        .also(found.span, "this parameter has no default")
                        .help(format!("add `{name} …` to its block")),
                    );
                    return None;
                }
            },
        };
        let value = self.want(env, word, head.ty, &name)?;
        let most = match head.most {
            Some(most) => Some(self.want(Env::of(instance), most, head.ty, "max")?),
            None => None,
        };
        if let (Value::Int(value), Some(Value::Int(most))) = (value, most)
            && value > most
        {
            self.sink.push(
                Diagnostic::error(codes::OUT_OF_BOUNDS, format!("`{name}` cannot be {value}"), self.tree.span(word))
                    .label(format!("at most {most}"))
                    .also(found.span, "`max` of the parameter"),
            );
            return None;
        }
        Some(value)
    }

    /// The statement of an instance's block that gives a parameter.
    fn given_param(&mut self, owner: StmtId, param: Symbol) -> Option<StmtId> {
        if let Some((of, given)) = &self.given_params
            && *of == owner
        {
            return given.get(&param).copied();
        }
        // Elements of one array mostly follow one another.
        let mut given = HashMap::new();
        for stmt in self.tree.children(Some(owner)) {
            if let Some(symbol) = self.tree.keyword(stmt) {
                given.entry(symbol).or_insert(stmt);
            }
        }
        let found = given.get(&param).copied();
        self.given_params = Some((owner, given));
        found
    }

    /// What an array may grow to: the `max` of the parameter that is its size.
    pub(crate) fn most_of(&mut self, instance: u32, decl: u32) -> Option<u32> {
        let found = *self.data.names.decl(instance, decl);
        let (_, range) = self.head_range(found.stmt)?;
        let Expr::Range(_, until) = self.tree.expr(range) else { return None };
        let symbol = self.tree.as_name(until)?;
        let (scope, _, param) = self.data.names.lookup(instance, symbol)?;
        let param = *param;
        if param.kind != Kind::Param {
            return None;
        }
        let most = self.param_head(param.stmt, false)?.most?;
        match self.want(Env::of(scope), most, Ty::HostNumber, "max")? {
            Value::Int(most) => u32::try_from(most).ok(),
            _ => None,
        }
    }
}
