//! Highlighting grammars of editors, with the words of the vocabulary.
//!
//! The grammars are templates beside this file; the word lists in them come from the tables, so that they cannot
//! drift. The results are committed in `netlang/editors`, and a test compares them.

use crate::vocab::{KEYWORDS, Property, Ty};
use std::collections::BTreeSet;

/// The words of the language by what they are; each list in alphabetical order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words {
    /// First words of statements of a file or module.
    pub keywords: BTreeSet<&'static str>,
    /// Keywords whose second word is a new name.
    pub declaring: BTreeSet<&'static str>,
    /// First words of statements of other blocks.
    pub properties: BTreeSet<&'static str>,
    /// Words within statements.
    pub options: BTreeSet<&'static str>,
    /// Values that are words.
    pub choices: BTreeSet<&'static str>,
    /// Units of quantities.
    pub units: BTreeSet<&'static str>,
}

/// All words of the language.
pub fn words() -> Words {
    let mut words = Words::default();
    for it in KEYWORDS {
        words.keywords.insert(it.word);
        words.options.extend(super::fit::literals(it));
        if super::fit::declares(it) {
            words.declaring.insert(it.word);
        }
        collect(it.block, &mut words);
    }
    words.choices.extend(super::fit::PARAM_TYPES);
    words.units.extend(crate::sema::value::unit_words());
    // A word that is both is highlighted as an option, and by its place as a property or keyword.
    words.options.extend(["mod", "div", "in"]);
    words.choices.retain(|c| !words.options.contains(c));
    words
}

fn collect(block: &'static [Property], words: &mut Words) {
    for it in block {
        words.properties.insert(it.word);
        words.options.extend(it.options.iter().map(|o| o.word));
        for arg in it.args.iter().chain(it.options.iter().flat_map(|o| o.args)) {
            match arg.ty {
                Ty::Choice(choices) => words.choices.extend(choices),
                Ty::Word(word) => {
                    words.options.insert(word);
                }
                _ => {}
            }
        }
        // `at 30s fail radio`: words of the block also stand behind others.
        words.options.extend(it.block.iter().filter(|_| it.inline).map(|p| p.word));
        collect(it.block, words);
    }
}

/// Puts the word lists into a template; `or` stands between alternatives of its regular expressions.
fn fill(template: &str, or: &str) -> String {
    let words = words();
    let join = |list: &BTreeSet<&'static str>| list.iter().copied().collect::<Vec<_>>().join(or);
    // `%` is a unit as well, but no word: the templates have it.
    let units: BTreeSet<&'static str> = words.units.iter().copied().filter(|u| *u != "%").collect();
    template
        .replace("@KEYWORDS@", &join(&words.keywords))
        .replace("@DECLARING@", &join(&words.declaring))
        .replace("@PROPERTIES@", &join(&words.properties))
        .replace("@OPTIONS@", &join(&words.options))
        .replace("@CHOICES@", &join(&words.choices))
        .replace("@UNITS@", &join(&units))
}

/// The TextMate grammar, which VS Code and others use.
pub fn textmate() -> String {
    fill(include_str!("fleet.tmLanguage.json.in"), "|")
}

/// The syntax file of Vim.
pub fn vim() -> String {
    fill(include_str!("fleet.vim.in"), "\\|")
}
