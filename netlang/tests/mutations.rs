//! Real files with pieces left out, doubled or exchanged: what people have on their screens while they type. Whatever
//! comes of it, the compiler answers.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::LazyLock;

use netlang::ide::{Analysis, Position};
use netlang::{Lock, RenderOptions, Source, compile, design, format, render};
use proptest::prelude::*;

/// The examples, the samples and one file for each error code.
static FILES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.join("../examples"), root.join("tests/samples"), root.join("tests/errors")];
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "fleet"));
    files.sort();
    // The largest ones take a second each, and say nothing more about broken text.
    let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap());
    texts.filter(|text| !text.contains("1000000") && !text.contains("0..900")).collect()
});

#[derive(Clone, Debug)]
enum Mutation {
    RemoveLine(usize),
    DoubleLine(usize),
    RemoveWord(usize),
    ExchangeWords(usize, usize),
    CutOff(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<usize>();
    prop_oneof![
        at.prop_map(Mutation::RemoveLine),
        at.prop_map(Mutation::DoubleLine),
        at.prop_map(Mutation::RemoveWord),
        (at, any::<usize>()).prop_map(|(a, b)| Mutation::ExchangeWords(a, b)),
        at.prop_map(Mutation::CutOff),
    ]
}

/// Lines as words, so that both can be counted; blanks are words of their own.
fn mutate(text: &str, mutation: &Mutation) -> String {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut words: Vec<&str> = text.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_').collect();
    if lines.is_empty() || words.is_empty() {
        return text.to_owned();
    }
    match mutation {
        Mutation::RemoveLine(at) => drop(lines.remove(at % lines.len())),
        Mutation::DoubleLine(at) => lines.insert(at % lines.len(), lines[at % lines.len()]),
        Mutation::RemoveWord(at) => {
            words.remove(at % words.len());
            return words.concat();
        }
        Mutation::ExchangeWords(a, b) => {
            let (a, b) = (a % words.len(), b % words.len());
            words.swap(a, b);
            return words.concat();
        }
        Mutation::CutOff(at) => {
            words.truncate(at % words.len());
            return words.concat();
        }
    }
    lines.concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_broken_file_is_answered_not_died_of(
        file in any::<proptest::sample::Index>(),
        mutations in proptest::collection::vec(mutation(), 1..6),
    ) {
        let text = mutations.iter().fold(file.get(&FILES).clone(), |text, mutation| mutate(&text, mutation));
        let source = Source::new("p", text);
        for result in [compile(&source, &Lock::default()), design(&source, &Lock::default())] {
            render(&result.diagnostics, &source, RenderOptions { color: false, width: 100 });
            prop_assert_eq!(result.plan.is_none(), result.has_errors());
            if let Some(plan) = result.plan {
                serde_json::to_string(&plan.summary()).unwrap();
                for experiment in plan.experiments() {
                    for firing in experiment.timeline().take(20) {
                        plan.affected(&experiment.events[firing.event], firing.number);
                    }
                }
            }
        }
        if let Ok(once) = format(&source.text) {
            prop_assert_eq!(format(&once), Ok(once));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_editor_is_answered_anywhere_in_a_broken_file(
        file in any::<proptest::sample::Index>(),
        mutations in proptest::collection::vec(mutation(), 0..6),
        places in proptest::collection::vec(any::<proptest::sample::Index>(), 12),
        name in "[a-z_]{1,4}",
    ) {
        let text = mutations.iter().fold(file.get(&FILES).clone(), |text, mutation| mutate(&text, mutation));
        let it = Analysis::new(Source::new("p", text.clone()), &Lock::default());
        for symbol in it.symbols() {
            prop_assert!(symbol.span.end as usize <= text.len());
        }
        it.folds();
        it.fixes();
        for place in places {
            // Any byte, even within a character, and the first one behind the end.
            let offset = place.index(text.len() + 2) as u32;
            let position = it.positions().position(&text, offset);
            prop_assert!(it.positions().offset(&text, position) <= offset);
            it.positions().offset(&text, Position { line: position.line, column: u32::MAX });
            for completion in it.complete(offset) {
                prop_assert!(!completion.label.is_empty());
                prop_assert!(text.get(completion.span.start as usize..completion.span.end as usize).is_some());
            }
            it.hover(offset);
            let references = it.references(offset, true);
            if let Some(definition) = it.definition(offset) {
                prop_assert!(references.contains(&definition));
                for reference in &references {
                    prop_assert_eq!(reference.text(&text), definition.text(&text));
                }
            }
            it.renamable(offset);
            if let Ok(edits) = it.rename(offset, &name) {
                prop_assert_eq!(edits.len(), references.len());
            }
        }
    }
}
