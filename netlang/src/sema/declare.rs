//! First pass: which names are declared, in the file and in its modules, and whether every statement has the shape
//! that the vocabulary gives it. No value is looked at, so modules that are never used are checked as well.

use super::World;
use crate::diag::{Diagnostic, codes};
use crate::plan::names::{Decl, Module};
use crate::source::Span;
use crate::syntax::intern::Symbol;
use crate::syntax::tree::{Expr, ExprId, Mark, StmtId};
use crate::text::{any_of, nearest};
use crate::vocab::{KEYWORDS, Keyword, Kind, Ready, keyword, property};

/// A statement that declares no name, in a module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loose {
    pub(crate) module: u32,
    pub(crate) stmt: StmtId,
}

impl World<'_> {
    /// Collects the declarations of the file and its modules.
    pub(crate) fn declare(&mut self) {
        self.data.names.modules.push(Module::default());
        self.find_modules();
        self.declare_block(0, None);
        for module in 1..self.data.names.modules.len() as u32 {
            let stmt = self.data.names.modules[module as usize].stmt;
            self.declare_block(module, stmt);
        }
        self.check_instances();
    }

    /// Modules first: their names are keywords of other statements.
    fn find_modules(&mut self) {
        let mut next = self.tree.children(None).next();
        while let Some(stmt) = next {
            next = self.tree.sibling(stmt);
            let Some(word) = self.tree.keyword(stmt) else { continue };
            if self.data.names.interner.name(word) != "module" {
                continue;
            }
            if let Some(name) = self.tree.words(stmt).get(1).and_then(|w| self.tree.as_name(*w)) {
                let module = Module { name: Some(name), stmt: Some(stmt), ..Module::default() };
                self.module_of.entry(name).or_insert(self.data.names.modules.len() as u32);
                self.data.names.modules.push(module);
            }
        }
    }

    fn declare_block(&mut self, module: u32, owner: Option<StmtId>) {
        let mut next = self.tree.children(owner).next();
        while let Some(stmt) = next {
            next = self.tree.sibling(stmt);
            if !self.tree.stmt(stmt).broken {
                self.declare_stmt(module, stmt);
            } else if let Some(name) = self.tree.words(stmt).get(1) {
                // The statement is not to be understood, but its name must not be missed as well.
                self.poisoned.extend(self.head_name(*name));
            }
        }
    }

    fn declare_stmt(&mut self, module: u32, stmt: StmtId) {
        let head = self.tree.head_span(stmt);
        let Some(symbol) = self.tree.keyword(stmt) else {
            self.sink.push(
                Diagnostic::error(codes::UNKNOWN_WORD, "a statement starts with a keyword", head)
                    .label("not a keyword")
                    .note(format!("keywords are {}", any_of(KEYWORDS.iter().map(|k| k.word)))),
            );
            return;
        };
        let word = self.data.names.interner.name(symbol);
        if let Some(of) = self.module_of.get(&symbol).copied() {
            self.declare_name(module, stmt, Kind::Instance, of);
            return;
        }
        let Some(found) = keyword(word) else {
            self.unknown_keyword(stmt, symbol);
            return;
        };
        if found.ready == Ready::NotYet {
            self.not_yet(found.word, head);
        }
        if module != 0 && !found.in_module {
            self.sink.push(
                Diagnostic::error(codes::BAD_WORDS, format!("`{}` cannot stand in a module", found.word), head)
                    .label("only in the file itself"),
            );
            return;
        }
        self.check_head(module, stmt, found);
        if !found.block.is_empty() {
            self.check_block(stmt, found.block, found.word);
        } else if self.tree.has_block(stmt) && !matches!(found.word, "default" | "module") {
            self.no_block(stmt, found.word);
        }
    }

    fn unknown_keyword(&mut self, stmt: StmtId, symbol: Symbol) {
        let word = self.data.names.interner.name(symbol);
        let span = self.tree.words(stmt).first().map_or_else(Span::default, |w| self.tree.span(*w));
        if !self.sink.keeps_error(codes::UNKNOWN_WORD, span) {
            if let Some(name) = self.tree.words(stmt).get(1) {
                self.poisoned.extend(self.head_name(*name));
            }
            return;
        }
        let modules = self.data.names.modules.iter().filter_map(|m| m.name).map(|m| self.data.names.interner.name(m));
        let similar = nearest(word, KEYWORDS.iter().map(|k| k.word).chain(modules));
        let mut it = Diagnostic::error(codes::UNKNOWN_WORD, format!("there is no keyword `{word}`"), span);
        it = match similar {
            Some(similar) => it.label(format!("help: did you mean `{similar}`?")),
            None => it.label("not known").note(format!("keywords are {}", any_of(KEYWORDS.iter().map(|k| k.word)))),
        };
        // Most likely a property whose block was closed too early.
        if let Some(owner) = KEYWORDS.iter().find(|k| property(k.block, word).is_some()) {
            it = it.help(format!("`{word}` is a property of `{}`: put it into its block", owner.word));
        }
        if let Some(name) = self.tree.words(stmt).get(1) {
            self.poisoned.extend(self.head_name(*name));
        }
        self.sink.push(it);
    }

    fn check_head(&mut self, module: u32, stmt: StmtId, found: &'static Keyword) {
        let words = self.tree.words(stmt);
        let is_equals = |at: usize| words.get(at).is_some_and(|w| self.tree.expr(*w) == Expr::Mark(Mark::Equals));
        let good = match found.word {
            "lan" => words.len() == 2 || (words.len() == 4 && is_equals(2)),
            "vm" | "module" | "experiment" | "external" => words.len() == 2,
            "router" => words.len() == 2 || words.len() == 3,
            "image" => words.len() == 3,
            "let" => words.len() == 4 && is_equals(2),
            "param" => words.len() >= 3,
            _ => true,
        };
        if !good {
            self.bad_head(stmt, found);
            if let Some(name) = self.tree.words(stmt).get(1) {
                self.poisoned.extend(self.head_name(*name));
            }
            return;
        }
        let kind = match found.word {
            "lan" => Kind::Lan,
            "vm" => Kind::Vm,
            "router" => Kind::Router,
            "external" => Kind::External,
            "image" => Kind::Image,
            "let" => Kind::Let,
            "param" => Kind::Param,
            "module" => Kind::Module,
            "experiment" => Kind::Experiment,
            _ => {
                self.loose_stmt(module, stmt, found);
                return;
            }
        };
        self.declare_name(module, stmt, kind, 0);
    }

    /// Reports words that are not those of the keyword's usage.
    pub(crate) fn bad_head(&mut self, stmt: StmtId, found: &Keyword) {
        self.sink.push(
            Diagnostic::error(
                codes::BAD_WORDS,
                format!("this is not how `{}` is written", found.word),
                self.tree.head_span(stmt),
            )
            .label("does not fit")
            .note(format!("written like this: `{}`", found.usage)),
        );
    }

    fn loose_stmt(&mut self, module: u32, stmt: StmtId, found: &'static Keyword) {
        let loose = Loose { module, stmt };
        match found.word {
            "link" => {
                self.declare_link_name(module, stmt);
                self.links.push(loose);
            }
            "check" => self.checks.push(loose),
            "pool" => self.pools.push(loose),
            "place" => self.places.push(loose),
            "telemetry" => self.telemetries.push(stmt),
            "default" => self.declare_default(stmt, found),
            "language" => self.check_language(stmt, found),
            _ => {}
        }
    }

    fn check_language(&mut self, stmt: StmtId, found: &Keyword) {
        match *self.tree.words(stmt) {
            [_, version] => match self.tree.expr(version) {
                Expr::Int(index) if self.tree.int(index) == 1 => {}
                _ => {
                    let span = self.tree.span(version);
                    self.sink.push(
                        Diagnostic::error(codes::VERSION, "this fleet knows version 1 of the language", span)
                            .label("help: `1`"),
                    );
                }
            },
            _ => self.bad_head(stmt, found),
        }
    }

    fn declare_default(&mut self, stmt: StmtId, found: &'static Keyword) {
        let of = match *self.tree.words(stmt) {
            [_, of] => self.tree.as_name(of).map(|s| self.data.names.interner.name(s)),
            _ => None,
        };
        let Some(of) = of.filter(|of| matches!(*of, "vm" | "lan" | "router" | "link")).and_then(keyword) else {
            self.bad_head(stmt, found);
            return;
        };
        if let Some((_, first)) = self.defaults.iter().find(|(word, _)| *word == of.word) {
            let first = self.tree.head_span(*first);
            self.sink.push(
                Diagnostic::error(
                    codes::REPEATED,
                    format!("`default {}` is given twice", of.word),
                    self.tree.head_span(stmt),
                )
                .label("a second time")
                .also(first, "given here first"),
            );
            return;
        }
        self.defaults.push((of.word, stmt));
        self.check_block(stmt, of.block, of.word);
    }

    /// The name in a declaring word: `web` of `web[0..300]`.
    pub(crate) fn head_name(&self, word: ExprId) -> Option<Symbol> {
        match self.tree.expr(word) {
            Expr::Name(symbol) => Some(symbol),
            Expr::At(base, _) => self.tree.as_name(base),
            _ => None,
        }
    }

    /// `link … as NAME`
    fn declare_link_name(&mut self, module: u32, stmt: StmtId) {
        if let [.., with, _] = *self.tree.words(stmt)
            && self.tree.as_name(with).is_some_and(|s| self.data.names.interner.name(s) == "as")
        {
            self.declare_word(module, stmt, Kind::Link, 0, self.tree.words(stmt).len() - 1);
        }
    }

    /// Enters the name that the second word of a statement declares.
    pub(crate) fn declare_name(&mut self, module: u32, stmt: StmtId, kind: Kind, of: u32) {
        self.declare_word(module, stmt, kind, of, 1);
    }

    fn declare_word(&mut self, module: u32, stmt: StmtId, kind: Kind, of: u32, at: usize) {
        let Some(word) = self.tree.words(stmt).get(at).copied() else {
            let span = self.tree.head_span(stmt);
            self.sink.push(Diagnostic::error(codes::BAD_WORDS, "a name is missing", span).label("what is it called?"));
            return;
        };
        let span = self.tree.span(word);
        let array = matches!(self.tree.expr(word), Expr::At(..));
        let good_index = match self.tree.expr(word) {
            Expr::At(_, index) => match self.tree.expr(index) {
                Expr::Range(..) => true,
                Expr::Bind(_, range) => matches!(self.tree.expr(range), Expr::Range(..)),
                _ => false,
            },
            _ => true,
        };
        let Some(symbol) = self.head_name(word).filter(|_| good_index) else {
            let text = span.text(self.text);
            let mut it = Diagnostic::error(codes::BAD_WORDS, format!("`{text}` cannot be declared"), span)
                .label("a name, or an array like `web[0..300]` or `web[i in 0..300]`");
            if let Expr::At(base, index) = self.tree.expr(word)
                && matches!(self.tree.expr(index), Expr::Int(_))
            {
                let base = self.tree.span(base).text(self.text);
                it = it.help(format!("`{base}[0..{}]`", self.tree.span(index).text(self.text)));
            }
            self.sink.push(it);
            self.poisoned.extend(self.head_name(word));
            return;
        };
        if array && !matches!(kind, Kind::Lan | Kind::Vm | Kind::Router | Kind::Instance) {
            self.sink.push(
                Diagnostic::error(codes::BAD_INDEX, format!("{} cannot be an array", kind.a()), span)
                    .label("remove the index"),
            );
        }
        let name = self.data.names.interner.name(symbol);
        // Images are only ever named after the word `image`, so they have names of their own: the image `web` of the
        // VM `web` is usual.
        let clash = self.data.names.modules[module as usize].table_of(kind).get(&symbol).copied();
        let first = match clash {
            Some(decl) => {
                Some((self.data.names.modules[module as usize].decls[decl as usize].span, "declared here first"))
            }
            None if kind == Kind::Image => None,
            None if module != 0 => self.data.names.modules[0].table.get(&symbol).map(|decl| {
                (self.data.names.modules[0].decls[*decl as usize].span, "a name of the file; names are not shadowed")
            }),
            None if keyword(name).is_some() => Some((Span::default(), "")),
            None => None,
        };
        if let Some((first, label)) = first {
            let mut it = Diagnostic::error(codes::DUPLICATE, format!("the name `{name}` is taken"), span);
            it = match label {
                "" => it.label("this is a keyword"),
                _ => it.label("declared a second time").also(first, label),
            };
            self.sink.push(it.help("give it another name"));
            return;
        }
        let names = &mut self.data.names.modules[module as usize];
        let id = names.decls.len() as u32;
        if kind == Kind::Image { &mut names.images } else { &mut names.table }.insert(symbol, id);
        names.decls.push(Decl { symbol, kind, stmt, span, module: of });
    }

    /// Reports a name that nothing was given, unless its declaration was reported already.
    pub(crate) fn unknown_name(&mut self, scope: u32, symbol: Symbol, span: Span, what: &str) {
        if self.poisoned.contains(&symbol) || !self.sink.keeps_error(codes::UNKNOWN_NAME, span) {
            return;
        }
        let name = self.data.names.interner.name(symbol).to_owned();
        let mut it = Diagnostic::error(codes::UNKNOWN_NAME, format!("no {what} named `{name}` here"), span);
        if let Some(similar) = self.data.names.similar(scope, &name) {
            it = it.label(format!("help: did you mean `{similar}`?"));
            if let Some((_, decl)) = self.data.names.find(scope, &similar).or_else(|| self.data.names.find(0, &similar))
            {
                it = it.also(decl.span, format!("{} with a similar name", decl.kind.a()));
            }
        } else {
            it = it.label("not declared");
        }
        self.sink.push(it);
    }
}
