//! Which entry of the vocabulary each word of a statement stands for, and what may follow its last word.
//!
//! The checker's matching stops at what does not fit. This one is lenient: it goes on, because half a statement is
//! what it is mostly asked about. The heads of keywords are matched against their usage line
//! (`check VMS reaches|cannot reach TARGET …`): small words stand for themselves, capitals for names and values.

use crate::syntax::tree::{Expr, ExprId, Mark, Tree};
use crate::vocab::{Arg, Keyword, Kind, Opt, Property, Ty, keyword, property};

/// A word of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    expr: Expr,
}

/// The words of a statement.
pub(super) fn words<'a>(tree: &Tree, text: &'a str, list: &[ExprId]) -> Vec<Word<'a>> {
    list.iter().map(|w| Word { text: tree.span(*w).text(text), expr: tree.expr(*w) }).collect()
}

impl Word<'_> {
    fn is(&self, word: &str) -> bool {
        self.text == word && matches!(self.expr, Expr::Name(_))
    }

    fn is_comma(&self) -> bool {
        self.expr == Expr::Mark(Mark::Comma)
    }

    fn is_mark(&self) -> bool {
        matches!(self.expr, Expr::Mark(_))
    }

    /// Whether it can be an argument, as far as its shape goes.
    fn fits(&self, arg: &Arg, options: &[Opt]) -> bool {
        match self.expr {
            Expr::Mark(_) | Expr::Bind(..) => false,
            _ if arg.optional && options.iter().any(|o| self.is(o.word)) => false,
            _ => match arg.ty {
                Ty::Choice(choices) if arg.optional => choices.iter().any(|c| self.is(c)),
                Ty::Word(wanted) => self.is(wanted),
                Ty::Range => matches!(self.expr, Expr::Range(..)),
                _ => true,
            },
        }
    }
}

/// What a word stands for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    /// The value of an argument.
    Arg(&'static Arg),
    /// The word of an option.
    Option(&'static Opt),
    /// A word of a keyword's usage line, or one that stands for itself in a property.
    Literal(&'static str),
    /// The first word of a statement of the property's block, on the same line.
    Start(&'static Property),
    /// A name or value of a keyword's usage line; its capitals.
    Slot(&'static str),
    /// Anything.
    Free,
}

/// A statement matched.
#[derive(Debug, Default)]
pub(super) struct Fit {
    /// One for each word after the first.
    pub(super) roles: Vec<Role>,
    /// What may follow.
    pub(super) next: Vec<Role>,
}

/// Matches the words behind a property's own.
pub(super) fn fit_property(it: &'static Property, words: &[Word<'_>]) -> Fit {
    let mut fit = Fit::default();
    let mut more = true;
    for arg in it.args {
        more = more && fit.take(arg, it.options, words);
    }
    let mut given: Vec<&str> = Vec::new();
    while let Some(word) = words.get(fit.roles.len()) {
        if let Some(start) = it.block.iter().find(|p| it.inline && word.is(p.word)) {
            fit.roles.push(Role::Start(start));
            let inner = fit_property(start, words.get(fit.roles.len()..).unwrap_or_default());
            fit.roles.extend(inner.roles);
            fit.next = inner.next;
            return fit;
        }
        let Some(option) = it.options.iter().find(|o| word.is(o.word)) else {
            fit.roles.push(Role::Free);
            continue;
        };
        given.push(option.word);
        fit.roles.push(Role::Option(option));
        for arg in option.args {
            more = more && fit.take(arg, &[], words);
        }
    }
    if more {
        fit.next.extend(it.options.iter().filter(|o| !given.contains(&o.word)).map(Role::Option));
        fit.next.extend(it.block.iter().filter(|_| it.inline).map(Role::Start));
    }
    fit
}

impl Fit {
    /// Takes the words of an argument; `false` when it is what must come next.
    fn take(&mut self, arg: &'static Arg, options: &'static [Opt], words: &[Word<'_>]) -> bool {
        if matches!(arg.ty, Ty::Things(_) | Ty::SomeOf(_)) {
            return self.take_things(arg, words);
        }
        loop {
            match words.get(self.roles.len()) {
                None => {
                    self.next.push(Role::Arg(arg));
                    return arg.optional;
                }
                Some(word) if word.fits(arg, options) => self.roles.push(match arg.ty {
                    Ty::Word(word) => Role::Literal(word),
                    _ => Role::Arg(arg),
                }),
                Some(_) if arg.optional => return true,
                Some(_) => {
                    self.roles.push(Role::Free);
                    return true;
                }
            }
            if !(arg.many && words.get(self.roles.len()).is_some_and(Word::is_comma)) {
                return true;
            }
            self.roles.push(Role::Free);
            if words.len() == self.roles.len() {
                self.next.push(Role::Arg(arg));
                return false;
            }
        }
    }
}

impl Fit {
    /// Takes `[N of] [link] A [-- B], …`; `false` when it must go on.
    fn take_things(&mut self, arg: &'static Arg, words: &[Word<'_>]) -> bool {
        let start = self.roles.len();
        if matches!(arg.ty, Ty::SomeOf(_)) && words.get(start + 1).is_some_and(|w| w.is("of")) {
            self.roles.extend([Role::Free, Role::Literal("of")]);
        }
        loop {
            if words.get(self.roles.len()).is_some_and(|w| w.is("link")) {
                self.roles.push(Role::Literal("link"));
            }
            match words.get(self.roles.len()) {
                None => {
                    self.next.push(Role::Arg(arg));
                    return false;
                }
                Some(word) if word.is_mark() => return true,
                Some(_) => self.roles.push(Role::Arg(arg)),
            }
            // A comma or the line of a link: another name follows.
            if !words.get(self.roles.len()).is_some_and(Word::is_mark) {
                return true;
            }
            self.roles.push(Role::Free);
        }
    }
}

/// A piece of a usage line.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece {
    Literal(&'static str),
    Slot(&'static str),
    /// `|`
    Or,
    /// Brackets, `--`, `=` and the like.
    Other,
}

/// The pieces of a usage line behind the keyword, without blocks.
fn pieces(usage: &'static str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut depth = 0;
    let mut rest = usage;
    while let Some(c) = rest.chars().next() {
        let len = match c {
            'a'..='z' | 'A'..='Z' => rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len()),
            _ => c.len_utf8(),
        };
        let (piece, after) = rest.split_at(len);
        rest = after;
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            _ if depth > 0 || c == ' ' => {}
            '|' => pieces.push(Piece::Or),
            'a'..='z' => pieces.push(Piece::Literal(piece)),
            'A'..='Z' => pieces.push(Piece::Slot(piece)),
            _ => pieces.push(Piece::Other),
        }
    }
    pieces.drain(..1.min(pieces.len()));
    pieces
}

/// Matches the words behind a keyword.
pub(super) fn fit_head(it: &'static Keyword, words: &[Word<'_>]) -> Fit {
    let pieces = pieces(it.usage);
    let literals = || pieces.iter().filter_map(|p| if let Piece::Literal(l) = p { Some(*l) } else { None });
    // Names at the start have their places; elsewhere the words of the usage line stand for themselves.
    let placed: Vec<&str> = pieces
        .iter()
        .filter(|p| **p != Piece::Other)
        .map_while(|p| if let Piece::Slot(slot) = p { Some(*slot) } else { None })
        .collect();
    let role = |(at, word): (usize, &Word<'_>)| match (literals().find(|l| word.is(l)), placed.get(at)) {
        (Some(literal), _) => Role::Literal(literal),
        (None, Some(slot)) if !word.is_mark() => Role::Slot(slot),
        _ => Role::Free,
    };
    let roles: Vec<Role> = words.iter().enumerate().map(role).collect();
    let unused = || literals().filter(|l| !words.iter().any(|w| w.is(l))).map(Role::Literal);
    let next = match (words.last(), roles.last()) {
        (Some(last), _) if last.is_mark() => behind_mark(&pieces).into_iter().collect(),
        (_, Some(Role::Literal(last))) => match follow(&pieces, last) {
            Some(next) => vec![next],
            None => unused().collect(),
        },
        _ => placed.get(words.len()).map(|slot| Role::Slot(slot)).into_iter().chain(unused()).collect(),
    };
    Fit { roles, next }
}

/// The words that a keyword's usage line has besides the keyword itself.
pub(super) fn literals(it: &'static Keyword) -> Vec<&'static str> {
    pieces(it.usage).into_iter().filter_map(|p| if let Piece::Literal(l) = p { Some(l) } else { None }).collect()
}

/// Whether the word behind a keyword is a new name.
pub(super) fn declares(it: &'static Keyword) -> bool {
    pieces(it.usage).first() == Some(&Piece::Slot("NAME"))
}

/// What follows a word of a usage line: the next piece, or what follows the alternatives that the word is one of.
fn follow(pieces: &[Piece], literal: &'static str) -> Option<Role> {
    let at = pieces.iter().position(|p| *p == Piece::Literal(literal))?;
    let mut rest = pieces[at + 1..].iter();
    let next = match rest.clone().next() {
        Some(Piece::Or) => rest.find(|p| !matches!(p, Piece::Or | Piece::Literal(_))),
        _ => rest.next(),
    };
    match next? {
        Piece::Literal(literal) => Some(Role::Literal(literal)),
        Piece::Slot(slot) => Some(Role::Slot(slot)),
        Piece::Or | Piece::Other => None,
    }
}

/// What follows the first mark of a usage line.
fn behind_mark(pieces: &[Piece]) -> Option<Role> {
    let behind = pieces.iter().skip_while(|p| **p != Piece::Other);
    behind.into_iter().find_map(|p| if let Piece::Slot(slot) = p { Some(Role::Slot(slot)) } else { None })
}

/// Kinds of things that targets are made of.
const TARGETS: &[Kind] = &[Kind::Vm, Kind::Router, Kind::Lan, Kind::External, Kind::Instance];

/// What the capitals of a usage line want.
pub(super) fn slot_type(it: &Keyword, slot: &str) -> Option<Ty> {
    let word = slot.to_ascii_lowercase();
    if let Some(arg) = property(it.block, &word).and_then(|p| p.args.first()) {
        return Some(arg.ty);
    }
    match (slot, keyword(&word).map(|k| k.word)) {
        ("TYPE", _) => Some(Ty::Choice(PARAM_TYPES)),
        (_, Some("lan")) => Some(Ty::Name(&[Kind::Lan])),
        (_, Some("link")) => Some(Ty::Name(&[Kind::Link])),
        ("A" | "B" | "SET", _) => Some(Ty::Name(&[Kind::Router])),
        ("VMS" | "TARGET", _) => Some(Ty::Target),
        ("VALUE" | "PREFIX", _) => Some(Ty::Prefix),
        _ => None,
    }
}

/// The kinds of names that an argument may be; empty when it is a value.
pub(super) fn kinds(ty: Ty) -> &'static [Kind] {
    match ty {
        Ty::Name(kinds) | Ty::Things(kinds) | Ty::SomeOf(kinds) => kinds,
        Ty::Image => &[Kind::Image],
        Ty::Target => TARGETS,
        _ => &[],
    }
}

/// The types of parameters.
pub(super) const PARAM_TYPES: &[&str] = &{
    let types = crate::sema::modules::TYPES;
    let mut words = [""; crate::sema::modules::TYPES.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = types[at].0;
        at += 1;
    }
    words
};
