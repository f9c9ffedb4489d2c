//! A property statement matched against its entry in the vocabulary.

use super::World;
use crate::diag::{Diagnostic, codes};
use crate::source::Span;
use crate::syntax::tree::{Expr, ExprId, Mark, StmtId};
use crate::text::{any_of, nearest};
use crate::vocab::{Arg, Opt, Property, Ready, Ty, is_action_of, property};
use smallvec::SmallVec;

/// Number of an option in the table, the word that gave it, its arguments.
type GivenOption = (u8, ExprId, SmallVec<[ExprId; 1]>);

/// A matched property: which word stands for which argument.
#[derive(Debug, Clone)]
pub(crate) struct Clause {
    pub(crate) property: &'static Property,
    /// (number of the argument in the table, its word)
    args: SmallVec<[(u8, ExprId); 2]>,
    options: SmallVec<[GivenOption; 1]>,
    /// Number of the first word of a statement of the block that follows on the same line; the number of words when
    /// none does.
    rest: usize,
}

impl Clause {
    /// The first word given for an argument.
    pub(crate) fn arg(&self, number: u8) -> Option<ExprId> {
        self.args.iter().find(|(n, _)| *n == number).map(|(_, e)| *e)
    }

    /// Whether an option was given.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.option_at(word).is_some()
    }

    /// The first argument of an option.
    pub(crate) fn option(&self, word: &str) -> Option<ExprId> {
        self.option_at(word).and_then(|(_, _, args)| args.first().copied())
    }

    /// The type of the first argument of an option.
    pub(crate) fn option_type(&self, word: &str) -> Option<Ty> {
        self.property.options.iter().find(|o| o.word == word)?.args.first().map(|a| a.ty)
    }

    /// All words given for an argument that may be several.
    pub(crate) fn args(&self, number: u8) -> impl Iterator<Item = ExprId> + '_ {
        self.args.iter().filter(move |(n, _)| *n == number).map(|(_, e)| *e)
    }

    /// All arguments of an option.
    pub(crate) fn option_args(&self, word: &str) -> &[ExprId] {
        self.option_at(word).map_or(&[], |(_, _, args)| args)
    }

    fn option_at(&self, word: &str) -> Option<&GivenOption> {
        self.options.iter().find(|(n, ..)| self.property.options[usize::from(*n)].word == word)
    }
}

/// What did not fit, and where.
pub(crate) struct Misfit {
    span: Span,
    problem: String,
    /// A word that follows the property, but is none of its options.
    unknown: Option<ExprId>,
}

impl Misfit {
    fn at(span: Span, problem: String) -> Misfit {
        Misfit { span, problem, unknown: None }
    }
}

impl World<'_> {
    /// Matches a statement of a block; `None` when it does not fit, which [`World::check_block`] has reported.
    pub(crate) fn clause(&self, stmt: StmtId, block: &'static [Property]) -> Option<Clause> {
        if self.tree.stmt(stmt).broken {
            return None;
        }
        let word = self.data.names.interner.name(self.tree.keyword(stmt)?);
        self.matched(self.tree.words(stmt), property(block, word)?).ok()
    }

    /// The statement of a clause's block that follows it on the same line, and where its words stand.
    pub(crate) fn inline_clause(&self, stmt: StmtId, clause: &Clause) -> Option<(Clause, Span)> {
        let words = self.tree.words(stmt).get(clause.rest..)?;
        let (first, last) = (words.first()?, words.last()?);
        let word = self.data.names.interner.name(self.tree.as_name(*first)?);
        let found = self.matched(words, property(clause.property.block, word)?).ok()?;
        Some((found, self.tree.span(*first).to(self.tree.span(*last))))
    }

    /// The first clause of a word in a statement's block.
    pub(crate) fn find_clause(&self, owner: StmtId, block: &'static [Property], word: &str) -> Option<Clause> {
        self.clause(self.child(owner, word)?, block)
    }

    /// The first statement of a word in a statement's block.
    pub(crate) fn child(&self, owner: StmtId, word: &str) -> Option<StmtId> {
        self.tree.children(Some(owner)).find(|s| self.starts_with(*s, word))
    }

    /// All statements of a word in a statement's block.
    pub(crate) fn children_of(&self, owner: StmtId, word: &str) -> SmallVec<[StmtId; 4]> {
        self.tree.children(Some(owner)).filter(|s| self.starts_with(*s, word)).collect()
    }

    fn starts_with(&self, stmt: StmtId, word: &str) -> bool {
        self.tree.keyword(stmt).is_some_and(|k| self.data.names.interner.name(k) == word)
    }

    /// Checks the words of every statement of a block against the vocabulary, before any value is known.
    pub(crate) fn check_block(&mut self, owner: StmtId, block: &'static [Property], owner_word: &str) {
        let mut seen: SmallVec<[(&'static str, Span); 8]> = SmallVec::new();
        let mut next = self.tree.children(Some(owner)).next();
        while let Some(stmt) = next {
            // The statement after this one; an iterator would keep the tree borrowed.
            next = self.tree.sibling(stmt);
            if self.tree.stmt(stmt).broken {
                continue;
            }
            let head = self.tree.head_span(stmt);
            let keyword = self.tree.keyword(stmt).map(|k| self.data.names.interner.name(k));
            let Some(found) = keyword.and_then(|k| property(block, k)) else {
                self.unknown_property(stmt, block, owner_word);
                continue;
            };
            let word_span = self.tree.words(stmt).first().map_or(head, |w| self.tree.span(*w));
            if !found.repeat {
                if let Some((_, first)) = seen.iter().find(|(w, _)| *w == found.word) {
                    self.sink.push(
                        Diagnostic::error(codes::REPEATED, format!("`{}` is given twice", found.word), word_span)
                            .label("a second time")
                            .also(*first, "given here first")
                            .help("remove one of them"),
                    );
                }
                seen.push((found.word, word_span));
            }
            if found.ready == Ready::NotYet {
                self.not_yet(found.word, head);
            }
            match self.matched(self.tree.words(stmt), found) {
                Err(misfit) => self.misfit(misfit, found),
                Ok(clause) if found.inline => self.check_inline(stmt, &clause),
                Ok(_) => {}
            }
            if !found.block.is_empty() {
                self.check_block(stmt, found.block, found.word);
            } else if self.tree.has_block(stmt) {
                self.no_block(stmt, found.word);
            }
        }
    }

    fn misfit(&mut self, misfit: Misfit, found: &'static Property) {
        if let Some(word) = misfit.unknown.filter(|_| found.word == "set") {
            self.cannot_set(word, found);
            return;
        }
        self.sink.push(
            Diagnostic::error(codes::BAD_WORDS, misfit.problem, misfit.span)
                .label("here")
                .note(format!("written like this: `{}`", found.usage())),
        );
    }

    /// Checks the words of a statement that follows another on the same line.
    fn check_inline(&mut self, stmt: StmtId, clause: &Clause) {
        let owner = clause.property;
        let words: SmallVec<[ExprId; 8]> = self.tree.words(stmt).get(clause.rest..).unwrap_or_default().into();
        let Some(first) = words.first().copied() else {
            if !self.tree.has_block(stmt) {
                let head = self.tree.head_span(stmt);
                self.sink.push(
                    Diagnostic::error(codes::BAD_WORDS, format!("`{}` does not say what to do", owner.word), head)
                        .label("what happens then?")
                        .note(format!("written like this: `{}`", owner.usage())),
                );
            }
            return;
        };
        let word = self.tree.as_name(first).map(|s| self.data.names.interner.name(s));
        let Some(found) = word.and_then(|w| property(owner.block, w)) else {
            self.unknown_action(first, owner.block, owner.word);
            return;
        };
        if self.tree.has_block(stmt) {
            self.no_block(stmt, found.word);
        }
        if let Err(misfit) = self.matched(&words, found) {
            self.misfit(misfit, found);
        }
    }

    /// Reports a block where there must be none.
    pub(crate) fn no_block(&mut self, stmt: StmtId, word: &str) {
        let span = self.tree.head_span(stmt);
        self.sink.push(
            Diagnostic::error(codes::BAD_WORDS, format!("`{word}` has no block"), span)
                .label("remove what is in braces"),
        );
    }

    /// Notes what is planned, but cannot be run by this version of fleet.
    pub(crate) fn not_yet(&mut self, what: &str, span: Span) {
        if self.unsupported_spans.insert(span) {
            self.data.unsupported.push((span, what.to_owned()));
        }
    }

    fn unknown_property(&mut self, stmt: StmtId, block: &'static [Property], owner: &str) {
        let first = self.tree.words(stmt).first().copied();
        if let Some(first) = first.filter(|_| is_action_of(block)) {
            self.unknown_action(first, block, owner);
            return;
        }
        let span = first.map_or_else(|| self.tree.stmt_span(stmt), |w| self.tree.span(w));
        if !self.sink.keeps_error(codes::UNKNOWN_WORD, span) {
            return;
        }
        let text = span.text(self.text);
        let mut it = Diagnostic::error(codes::UNKNOWN_WORD, format!("`{owner}` has no property `{text}`"), span);
        it = match nearest(text, block.iter().map(|p| p.word)) {
            Some(similar) => it.label(format!("help: did you mean `{similar}`?")),
            None if block.is_empty() => it.label("it has none at all"),
            None => it.label("not known").note(format!("it has {}", any_of(block.iter().map(|p| p.word)))),
        };
        self.sink.push(it);
    }

    /// Matches words, of which the first is the property's own.
    fn matched(&self, words: &[ExprId], property: &'static Property) -> Result<Clause, Misfit> {
        let mut clause = Clause { property, args: SmallVec::new(), options: SmallVec::new(), rest: words.len() };
        let mut at = 1;
        for (number, arg) in (0u8..).zip(property.args) {
            let mut list: SmallVec<[ExprId; 2]> = SmallVec::new();
            self.take_arg(words, &mut at, arg, property.options, property.word, &mut list)?;
            clause.args.extend(list.into_iter().map(|e| (number, e)));
        }
        while let Some(word) = words.get(at) {
            let span = self.tree.span(*word);
            let name = self.tree.as_name(*word).map(|s| self.data.names.interner.name(s));
            let Some(number) = property.options.iter().position(|o| Some(o.word) == name) else {
                if property.inline {
                    clause.rest = at;
                    break;
                }
                let problem = format!("`{}` does not go with `{}`", span.text(self.text), property.word);
                return Err(Misfit { span, problem, unknown: Some(*word) });
            };
            if clause.options.iter().any(|(n, ..)| usize::from(*n) == number) {
                return Err(Misfit::at(span, format!("`{}` is given twice", property.options[number].word)));
            }
            at += 1;
            let mut list = SmallVec::new();
            for arg in property.options[number].args {
                let mut one: SmallVec<[ExprId; 2]> = SmallVec::new();
                self.take_arg(words, &mut at, arg, &[], property.options[number].word, &mut one)?;
                list.extend(one);
            }
            clause.options.push((number as u8, *word, list));
        }
        Ok(clause)
    }

    /// Takes the word or words of one argument.
    fn take_arg(
        &self,
        words: &[ExprId],
        at: &mut usize,
        arg: &Arg,
        options: &[Opt],
        owner: &str,
        list: &mut SmallVec<[ExprId; 2]>,
    ) -> Result<(), Misfit> {
        if matches!(arg.ty, Ty::Things(_) | Ty::SomeOf(_)) {
            let some = matches!(arg.ty, Ty::SomeOf(_));
            let (phrase, used) = self.phrase(words.get(*at..).unwrap_or_default(), some);
            if phrase.is_none() {
                return Err(self.wants(words, *at + used, arg, owner));
            }
            list.extend_from_slice(&words[*at..*at + used]);
            *at += used;
            return Ok(());
        }
        loop {
            let word = words.get(*at).copied();
            let fits = word.is_some_and(|w| self.may_be(w, arg, options));
            let Some(word) = word.filter(|_| fits) else {
                if arg.optional && list.is_empty() {
                    return Ok(());
                }
                return Err(self.wants(words, *at, arg, owner));
            };
            list.push(word);
            *at += 1;
            let comma = words.get(*at).is_some_and(|w| matches!(self.tree.expr(*w), Expr::Mark(Mark::Comma)));
            if !(arg.many && comma) {
                return Ok(());
            }
            *at += 1;
        }
    }

    fn wants(&self, words: &[ExprId], at: usize, arg: &Arg, owner: &str) -> Misfit {
        let last = words.last().map_or_else(Span::default, |w| self.tree.span(*w));
        let span = words.get(at).map_or(Span::new(last.end, last.end), |w| self.tree.span(*w));
        Misfit::at(span, format!("`{owner}` wants {} here", arg.ty.a()))
    }

    /// Whether a word can be an argument at all. Its value is checked later, where there is one.
    fn may_be(&self, word: ExprId, arg: &Arg, options: &[Opt]) -> bool {
        let name = self.tree.as_name(word).map(|s| self.data.names.interner.name(s));
        match self.tree.expr(word) {
            Expr::Mark(_) | Expr::Bind(..) => false,
            _ if name.is_some_and(|n| options.iter().any(|o| o.word == n)) && arg.optional => false,
            _ => match arg.ty {
                Ty::Choice(choices) if arg.optional => name.is_some_and(|n| choices.contains(&n)),
                Ty::Word(wanted) => name == Some(wanted),
                Ty::Range => matches!(self.tree.expr(word), Expr::Range(..)),
                _ => true,
            },
        }
    }

    /// The word of a [`Ty::Choice`] argument, checked.
    pub(crate) fn choice(&mut self, word: ExprId, ty: Ty, what: &str) -> Option<&'static str> {
        let Ty::Choice(choices) = ty else { return None };
        let span = self.tree.span(word);
        let text = span.text(self.text);
        let found = choices.iter().find(|c| **c == text).copied();
        if found.is_none() {
            let it = Diagnostic::error(codes::NOT_A_CHOICE, format!("`{what}` cannot be `{text}`"), span);
            self.sink.push(match nearest(text, choices.iter().copied()) {
                Some(similar) => it.label(format!("help: did you mean `{similar}`?")),
                None => it.label(format!("must be {}", any_of(choices.iter().copied()))),
            });
        }
        found
    }
}
