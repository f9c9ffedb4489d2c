//! The grammars in `netlang/editors` are those that the vocabulary gives.

#![allow(clippy::unwrap_used)]

use netlang::ide::grammar;
use std::path::Path;

/// Set to write the files instead of comparing them: `FLEET_WRITE=1 cargo test -p netlang --test editors`.
const WRITE: &str = "FLEET_WRITE";

fn compare(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("editors").join(file);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "editors/{file} is old; `{WRITE}=1 cargo test -p netlang --test editors` writes it");
}

#[test]
fn the_textmate_grammar_has_the_words_of_the_vocabulary() {
    let text = grammar::textmate();
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
    compare("vscode/syntaxes/fleet.tmLanguage.json", &text);
}

#[test]
fn the_vim_syntax_has_the_words_of_the_vocabulary() {
    compare("vim/syntax/fleet.vim", &grammar::vim());
}

#[test]
fn every_word_is_in_a_list() {
    let words = grammar::words();
    for (list, word) in [
        (&words.keywords, "lan"),
        (&words.declaring, "vm"),
        (&words.properties, "originate"),
        (&words.options, "jitter"),
        (&words.options, "reaches"),
        (&words.choices, "masquerade"),
        (&words.choices, "duration"),
        (&words.units, "Gbit"),
    ] {
        assert!(list.contains(word), "{word} is missing in {list:?}");
    }
    assert!(!words.declaring.contains("link") && !words.declaring.contains("check"));
}
