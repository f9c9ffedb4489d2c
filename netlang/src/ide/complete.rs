//! Completion: what may be written at the cursor, with the vocabulary's words about it.

use super::Analysis;
use super::cursor::{Cursor, Place};
use super::fit::{Fit, Role, fit_head, fit_property, kinds, slot_type, words};
use super::hover::METHODS;
use super::scope::{Block, DeclId, decl, keyword_in};
use crate::diag::Sink;
use crate::source::Span;
use crate::syntax::parser::parse;
use crate::vocab::{KEYWORDS, Keyword, Kind, Ready, Ty, property};

/// What a completion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletionKind {
    /// A keyword, or a word of its usage.
    Keyword,
    /// A property of a block.
    Property,
    /// An option of a property.
    Option,
    /// One of a few words.
    Choice,
    /// A declared name.
    Name(Kind),
    /// The index of an array.
    Index,
    /// A method of prefixes.
    Method,
}

/// Something that may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The text, which replaces `span`.
    pub label: String,
    /// What it is.
    pub kind: CompletionKind,
    /// How it is written, or declared.
    pub detail: String,
    /// What it does; may be empty.
    pub doc: String,
    /// The word at the cursor that it replaces.
    pub span: Span,
}

impl Analysis {
    /// What may be written at an offset, the likeliest first.
    pub fn complete(&self, offset: u32) -> Vec<Completion> {
        let offset = offset.min(self.text().len() as u32);
        let cursor = Cursor::find(self.text(), offset, self.names(), self.scopes());
        let mut out = List { analysis: self, cursor: &cursor, items: Vec::new() };
        match cursor.place {
            Place::Nothing => {}
            Place::Value => out.values(),
            Place::Part(base) => out.parts(base),
            Place::Word => out.words(),
        }
        out.items
    }
}

struct List<'a> {
    analysis: &'a Analysis,
    cursor: &'a Cursor<'a>,
    items: Vec<Completion>,
}

impl List<'_> {
    fn push(&mut self, label: &str, kind: CompletionKind, detail: impl Into<String>, doc: impl Into<String>) {
        if !self.items.iter().any(|i| i.label == label) {
            let (detail, doc) = (detail.into(), doc.into());
            self.items.push(Completion { label: label.to_owned(), kind, detail, doc, span: self.cursor.word });
        }
    }

    fn words(&mut self) {
        let (keyword, fit) = self.fit();
        let Some(fit) = fit else {
            self.starts();
            return;
        };
        for role in fit.next {
            match role {
                Role::Arg(arg) => self.of_type(arg.ty),
                Role::Option(option) => self.push(option.word, CompletionKind::Option, option.usage(), ""),
                Role::Literal(word) => {
                    let usage = keyword.map_or("", |k| k.usage);
                    self.push(word, CompletionKind::Keyword, usage, "");
                }
                Role::Start(it) => self.push(it.word, CompletionKind::Property, it.usage(), doc(it.doc, it.ready)),
                Role::Slot("NAME" | "FILE") | Role::Free => {}
                Role::Slot(slot) => match keyword.and_then(|k| slot_type(k, slot)) {
                    Some(ty) => self.of_type(ty),
                    None => self.values(),
                },
            }
        }
    }

    /// The statement before the cursor, matched; `None` if there is nothing of it yet.
    fn fit(&self) -> (Option<&'static Keyword>, Option<Fit>) {
        let text = self.cursor.before.text(self.analysis.text());
        let tree = parse(text, &mut Sink::default());
        let all = tree.children(None).next().map(|s| words(&tree, text, tree.words(s))).unwrap_or_default();
        let Some((first, rest)) = all.split_first() else { return (None, None) };
        if let Some(found) = keyword_in(self.cursor.block, first.text) {
            return (Some(found), Some(fit_head(found, rest)));
        }
        let fit = match self.cursor.block {
            Block::Properties(_, block) => property(block, first.text).map(|p| fit_property(p, rest)),
            // A parameter takes a value.
            Block::Instance(_) if rest.is_empty() => Some(Fit { roles: Vec::new(), next: vec![Role::Slot("VALUE")] }),
            _ => None,
        };
        (None, Some(fit.unwrap_or_default()))
    }

    /// First words of statements.
    fn starts(&mut self) {
        match self.cursor.block {
            Block::File | Block::Module => {
                let in_module = matches!(self.cursor.block, Block::Module);
                for it in KEYWORDS.iter().filter(|k| k.in_module || !in_module) {
                    if in_module || it.word != "param" {
                        self.push(it.word, CompletionKind::Keyword, it.usage, doc(it.doc, it.ready));
                    }
                }
                let modules: Vec<u32> = (1..self.analysis.names().modules.len() as u32).collect();
                for module in modules.into_iter().filter(|m| *m != self.cursor.module) {
                    self.module(module);
                }
            }
            Block::Properties(_, block) => {
                for it in block.iter().filter(|p| p.repeat || !self.cursor.siblings.contains(&p.word)) {
                    self.push(it.word, CompletionKind::Property, it.usage(), doc(it.doc, it.ready));
                }
            }
            Block::Instance(module) => self.names_of(module, &[Kind::Param], true),
            Block::Unknown => {}
        }
    }

    fn module(&mut self, module: u32) {
        let names = self.analysis.names();
        let Some(it) = names.modules.get(module as usize) else { return };
        let Some(name) = it.name.map(|n| names.interner.name(n).to_owned()) else { return };
        let params = it.decls.iter().filter(|d| d.kind == Kind::Param);
        let params: Vec<&str> = params.map(|d| names.interner.name(d.symbol)).collect();
        let detail = format!("{name} NAME {{ {} … }}", params.join(" …; "));
        self.push(&name, CompletionKind::Name(Kind::Module), detail, "puts the module to use");
    }

    fn of_type(&mut self, ty: Ty) {
        match ty {
            Ty::Choice(choices) => {
                for choice in choices {
                    self.push(choice, CompletionKind::Choice, "", "");
                }
            }
            Ty::Word(word) => self.push(word, CompletionKind::Keyword, "", ""),
            Ty::Text => {}
            _ if kinds(ty).is_empty() => self.values(),
            _ => self.names(kinds(ty)),
        }
    }

    /// Values: indices, then `let`s and parameters.
    fn values(&mut self) {
        for index in self.cursor.indices.iter().rev() {
            self.push(index, CompletionKind::Index, "the element's own index", "");
        }
        self.names(&[Kind::Let, Kind::Param]);
    }

    /// Names that are seen here, of some kinds, or that lead to such.
    fn names(&mut self, kinds: &[Kind]) {
        self.names_of(self.cursor.module, kinds, false);
        self.names_of(0, kinds, false);
    }

    fn names_of(&mut self, module: u32, kinds: &[Kind], new_only: bool) {
        let names = self.analysis.names();
        let Some(of) = names.modules.get(module as usize) else { return };
        for (number, it) in (0u32..).zip(&of.decls) {
            let name = names.interner.name(it.symbol);
            let leads = it.kind == Kind::Instance && self.leads_to(it.module, kinds, 8);
            if !(kinds.contains(&it.kind) || leads) || (new_only && self.cursor.siblings.contains(&name)) {
                continue;
            }
            let head = self.analysis.head(DeclId { module, decl: number });
            self.push(name, CompletionKind::Name(it.kind), head, it.kind.a());
        }
    }

    /// Whether a module has declarations of some kinds, itself or in its own instances.
    fn leads_to(&self, module: u32, kinds: &[Kind], depth: u32) -> bool {
        let Some(of) = self.analysis.names().modules.get(module as usize) else { return false };
        of.decls.iter().any(|d| {
            kinds.contains(&d.kind)
                || (d.kind == Kind::Instance && depth > 0 && self.leads_to(d.module, kinds, depth - 1))
        })
    }

    /// What follows a dot: the names of an instance, or the methods of a prefix.
    fn parts(&mut self, base: Span) {
        let text = base.text(self.analysis.text());
        let parts: Vec<&str> = path_names(text);
        match self.instance(&parts) {
            Some(module) => {
                let (keyword, fit) = self.fit();
                let wanted = fit.into_iter().flat_map(|f| f.next).find_map(|role| match role {
                    Role::Arg(arg) => Some(arg.ty),
                    Role::Slot(slot) => keyword.and_then(|k| slot_type(k, slot)),
                    _ => None,
                });
                let wanted = wanted.map(kinds).filter(|k| !k.is_empty()).unwrap_or(PARTS);
                self.names_of(module, wanted, false);
            }
            None => {
                for (name, usage, doc) in METHODS {
                    self.push(name, CompletionKind::Method, *usage, *doc);
                }
            }
        }
    }

    /// The module of the instance that a path leads to.
    fn instance(&self, parts: &[&str]) -> Option<u32> {
        let (names, scopes) = (self.analysis.names(), self.analysis.scopes());
        let mut module = None;
        for part in parts {
            let symbol = names.interner.find(part)?;
            let id = match module {
                None => scopes.lookup(self.cursor.module, false, symbol)?,
                Some(module) => scopes.find(module, false, symbol)?,
            };
            module = Some(decl(names, id).filter(|d| d.kind == Kind::Instance)?.module);
        }
        module
    }
}

/// What can be a part of a path, where nothing more is known.
const PARTS: &[Kind] = &[Kind::Vm, Kind::Router, Kind::Lan, Kind::Link, Kind::External, Kind::Instance];

/// The names of a path, without indices; empty when it is more than a path.
fn path_names(text: &str) -> Vec<&str> {
    let tree = parse(text, &mut Sink::default());
    let mut names = Vec::new();
    let Some(mut at) = tree.children(None).next().and_then(|s| tree.words(s).last().copied()) else { return names };
    use crate::syntax::tree::Expr;
    loop {
        at = match tree.expr(at) {
            Expr::At(base, _) => base,
            Expr::Field(base, _) => {
                let span = tree.span(at).text(text);
                names.push(span.rsplit('.').next().unwrap_or("").trim_end_matches(')').trim());
                base
            }
            Expr::Name(_) => {
                names.push(tree.span(at).text(text).trim_matches(['(', ')', ' ']));
                names.reverse();
                return names;
            }
            _ => return Vec::new(),
        };
    }
}

/// A line of documentation, and whether fleet does what it says.
pub(super) fn doc(doc: &str, ready: Ready) -> String {
    match ready {
        Ready::Yes => doc.to_owned(),
        Ready::NotYet => format!("{doc} (`fleet up` cannot run it yet)"),
    }
}
