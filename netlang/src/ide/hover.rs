//! What a word means: the vocabulary's line about it, or what a name stands for and what the plan derives for it.

use super::Analysis;
use super::complete::doc;
use super::fit::{Role, fit_head, fit_property, slot_type, words};
use super::scope::{Block, DeclId, decl, keyword_in};
use super::uses::{Target, Use};
use crate::source::Span;
use crate::syntax::tree::StmtId;
use crate::vocab::{Kind, Ty, property};

/// Methods of prefixes: name, usage, documentation.
pub(super) const METHODS: &[(&str, &str, &str)] = &[
    ("sub", "sub(/LEN, N)", "the Nth prefix of that length within this one"),
    ("host", "host(N)", "the address that is N above the first"),
];

/// What is said about a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hover {
    /// The word.
    pub span: Span,
    /// Markdown.
    pub text: String,
}

impl Analysis {
    /// What the word at an offset means.
    pub fn hover(&self, offset: u32) -> Option<Hover> {
        if let Some(found) = self.uses().at(offset) {
            return Some(Hover { span: found.span, text: self.name_hover(found) });
        }
        let (stmt, block, at) = self.word_at(offset)?;
        let tree = &self.parts.tree;
        let span = tree.span(*tree.words(stmt).get(at)?);
        if let Some((method, usage, doc)) = self.method_at(offset) {
            return Some(Hover { span: method, text: code(usage, doc) });
        }
        let text = self.word_hover(stmt, block, at)?;
        Some(Hover { span, text })
    }

    /// The statement, its block, and the number of the word at an offset.
    fn word_at(&self, offset: u32) -> Option<(StmtId, Block, usize)> {
        let tree = &self.parts.tree;
        let holds = |span: Span| span.start <= offset && offset <= span.end;
        let (mut parent, mut block) = (None, Block::File);
        loop {
            let stmt = tree.children(parent).find(|s| holds(tree.stmt_span(*s)))?;
            if let Some(at) = tree.words(stmt).iter().position(|w| holds(tree.span(*w))) {
                return Some((stmt, block, at));
            }
            let text = |n: usize| tree.words(stmt).get(n).map_or("", |w| tree.span(*w).text(self.text()));
            block = block.inside(self.names(), self.scopes(), text(0), text(1));
            parent = Some(stmt);
        }
    }

    /// A method's name at an offset.
    fn method_at(&self, offset: u32) -> Option<(Span, &'static str, &'static str)> {
        let text = self.text();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let before = text.get(..offset as usize)?;
        let start = before.trim_end_matches(word).len();
        let len = text[start..].find(|c| !word(c)).unwrap_or(text.len() - start);
        let name = &text[start..start + len];
        let found = METHODS.iter().find(|m| m.0 == name && text[..start].ends_with('.'))?;
        Some((Span::new(start as u32, (start + len) as u32), found.1, found.2))
    }

    fn word_hover(&self, stmt: StmtId, block: Block, at: usize) -> Option<String> {
        let all = words(&self.parts.tree, self.text(), self.parts.tree.words(stmt));
        let (first, rest) = all.split_first()?;
        let found = keyword_in(block, first.text);
        let own = match block {
            Block::Properties(owner, block) => property(block, first.text).map(|p| (owner, p)),
            _ => None,
        };
        if at == 0 {
            return match (found, own) {
                (Some(it), _) => Some(code(it.usage, &doc(it.doc, it.ready))),
                (None, Some((owner, it))) => {
                    Some(code(&it.usage(), &format!("{}\n\nproperty of `{owner}`", doc(it.doc, it.ready))))
                }
                _ => None,
            };
        }
        let fit = match (found, own) {
            (Some(it), _) => fit_head(it, rest),
            (None, Some((_, it))) => fit_property(it, rest),
            _ => return None,
        };
        let usage = found.map(|f| f.usage.to_owned()).or_else(|| own.map(|(_, p)| p.usage())).unwrap_or_default();
        match *fit.roles.get(at - 1)? {
            Role::Arg(arg) => Some(code(&usage, &format!("{}: {}", arg.name, arg.ty.a()))),
            Role::Option(option) => {
                let args: Vec<String> = option.args.iter().map(|a| format!("{}: {}", a.name, a.ty.a())).collect();
                Some(code(&option.usage(), format!("{}\n\noption of `{usage}`", args.join(", ")).trim_start()))
            }
            Role::Literal(_) => {
                Some(code(&usage, found.map(|f| f.doc).or(own.map(|(_, p)| p.doc)).unwrap_or_default()))
            }
            Role::Start(it) => Some(code(&it.usage(), &doc(it.doc, it.ready))),
            Role::Slot(slot) => {
                let ty = found.and_then(|f| slot_type(f, slot)).filter(|ty| matches!(ty, Ty::Choice(_)))?;
                Some(code(&usage, &format!("{}: {}", slot.to_lowercase(), ty.a())))
            }
            Role::Free => None,
        }
    }

    fn name_hover(&self, found: &Use) -> String {
        match found.target {
            Target::Index(stmt) => {
                let head = self.one_line(self.parts.tree.head_span(stmt));
                code(&head, "the index of each element of this array")
            }
            Target::Decl(id) => {
                let Some(it) = decl(self.names(), id) else { return String::new() };
                let mut text = code(&self.head(id), it.kind.a());
                if let Some(module) = self.names().modules.get(id.module as usize).and_then(|m| m.name) {
                    text.push_str(&format!(" of module `{}`", self.names().interner.name(module)));
                }
                let facts = self.facts(found, id);
                if !facts.is_empty() {
                    text.push_str("\n\n");
                    text.push_str(&facts.iter().map(|f| format!("- {f}")).collect::<Vec<_>>().join("\n"));
                } else if self.plan().is_none() && matches!(it.kind, Kind::Lan | Kind::Vm | Kind::Router | Kind::Link) {
                    text.push_str("\n\naddresses are known when the file has no errors");
                }
                text
            }
        }
    }

    /// The words of a declaration, in one line.
    pub(super) fn head(&self, id: DeclId) -> String {
        let Some(it) = decl(self.names(), id) else { return String::new() };
        self.one_line(self.parts.tree.head_span(it.stmt))
    }

    fn one_line(&self, span: Span) -> String {
        span.text(self.text()).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn code(code: &str, doc: &str) -> String {
    format!("```fleet\n{code}\n```\n{doc}").trim_end().to_owned()
}
