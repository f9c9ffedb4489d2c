//! The reference of the language, from the tables: a page of Markdown, and the part about one word.
//!
//! The page is committed as `docs/language/reference.md`, and a test compares them. Both forms walk the blocks in the order
//! of the tables. A block has a path, `router` `ospf`: the words that lead to it.

use super::{Arg, KEYWORDS, Keyword, Property, Ready, Ty};
use std::collections::BTreeSet;
use std::fmt::Write as _;

const INTRO: &str = "# Reference

Every word of the language, from the tables that the checker uses. [statements.md](statements.md) explains the words with defaults
and examples, [values.md](values.md) says how values are written.

In usage, capitals stand for a value, `[ ]` for what can be left out, `|` for a choice, `…` for more of the same. Options, in `[ ]` with a
word in front, may stand in any order. `up` says whether `fleet up` runs it; what it does not run yet is checked and planned, and refused
with `E0099`. Some forms of statements that run are not run yet, either: [statements.md](statements.md#planned) has all of them.

`fleet explain WORD` prints what is said here about a word.
";

/// The reference of every keyword and property as a page of Markdown.
pub fn reference() -> String {
    let mut page = INTRO.to_owned();
    page.push_str("\n## Keywords\n\n| keyword | what | in a module | up |\n|---|---|---|---|\n");
    for it in KEYWORDS {
        let cells = [
            format!("[`{0}`](#{0})", it.word),
            it.doc.to_owned(),
            if it.in_module { "yes" } else { "no" }.to_owned(),
            runs(it.ready).to_owned(),
        ];
        row(&mut page, &cells);
    }
    for it in KEYWORDS {
        let _ = write!(page, "\n## {}\n\n    {}\n\n{}\n", it.word, it.usage, sentence(it.doc));
        if it.ready == Ready::NotYet {
            page.push_str("\n`fleet up` does not run it yet.\n");
        }
        table(&mut page, &mut vec![it.word], it.block, it.ready);
    }
    page.push_str("\n## Not run yet\n\n| where | words |\n|---|---|\n");
    for (place, words) in not_yet() {
        row(&mut page, &[place, words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")]);
    }
    page
}

/// The table of a block, and after it those of the blocks within.
fn table(page: &mut String, path: &mut Vec<&'static str>, block: &'static [Property], ready: Ready) {
    if block.is_empty() {
        return;
    }
    page.push_str("\n| usage | what | values | repeat | up |\n|---|---|---|---|---|\n");
    for it in block {
        let cells = [
            format!("`{}`", it.usage()),
            it.doc.to_owned(),
            values(it).join("; "),
            if it.repeat { "yes" } else { "no" }.to_owned(),
            runs(both(ready, it.ready)).to_owned(),
        ];
        row(page, &cells);
    }
    for (at, it) in block.iter().enumerate().filter(|(_, it)| !it.block.is_empty()) {
        path.push(it.word);
        let _ = write!(page, "\n### {}\n\n{}\n", path.join(" "), sentence(it.doc));
        match block.iter().take(at).find(|before| is_part(it.block, before.block)) {
            Some(before) => {
                let missing = before.block.iter().filter(|p| !has(it.block, p)).map(|p| format!("`{}`", p.word));
                let missing: Vec<String> = missing.collect();
                let _ = write!(page, "\nThe same words as behind `{}`", before.word);
                if !missing.is_empty() {
                    let _ = write!(page, ", without {}", missing.join(", "));
                }
                page.push_str(".\n");
            }
            None => table(page, path, it.block, both(ready, it.ready)),
        }
        path.pop();
    }
}

/// What it says about a keyword, a property or an option, for a terminal; `None` when the language has no such word.
pub fn explain_word(word: &str) -> Option<String> {
    let word = word.to_lowercase();
    let mut parts: Vec<String> = super::keyword(&word).map(about_keyword).into_iter().collect();
    // The same property in several blocks is told once: its text with the blocks that have it.
    let mut told: Vec<(String, Vec<String>)> = Vec::new();
    every_property(&mut |path, it, ready| {
        let option = it.options.iter().find(|o| o.word == word);
        if it.word != word && option.is_none() {
            return;
        }
        let mut text = String::new();
        line(&mut text, it, ready, "    ", it.word == word);
        let place = path.join(" ");
        match told.iter_mut().find(|(known, _)| *known == text) {
            Some((_, places)) => places.push(place),
            None => told.push((text, vec![place])),
        }
    });
    for (text, places) in told {
        let places: Vec<String> = places.iter().map(|p| format!("`{p}`")).collect();
        parts.push(format!("in the block of {}\n{text}", places.join(", ")));
    }
    (!parts.is_empty()).then(|| parts.join("\n"))
}

/// The word or error code that was probably meant.
pub fn similar_word(word: &str) -> Option<&'static str> {
    let mut words: BTreeSet<&'static str> = KEYWORDS.iter().map(|k| k.word).collect();
    every_property(&mut |_, it, _| {
        words.insert(it.word);
        words.extend(it.options.iter().map(|o| o.word));
    });
    crate::text::nearest(&word.to_lowercase(), words)
        .or_else(|| crate::text::nearest(&word.to_uppercase(), crate::all_codes()))
}

fn about_keyword(it: &Keyword) -> String {
    let mut text = format!("{}\n    {}", it.usage, sentence(it.doc));
    if !it.in_module {
        text.push_str(" Not in a module.");
    }
    if it.ready == Ready::NotYet {
        text.push_str(" `fleet up` does not run it yet.");
    }
    text.push('\n');
    if !it.block.is_empty() {
        let _ = write!(text, "\nin the block of `{}`\n", it.word);
    }
    for property in it.block {
        line(&mut text, property, it.ready, "    ", false);
    }
    text
}

/// A property for a terminal: its usage, what it is, its values; then its block, further in: `whole`, or usage alone.
fn line(text: &mut String, it: &Property, ready: Ready, indent: &str, whole: bool) {
    let ready = both(ready, it.ready);
    let _ = writeln!(text, "{indent}{}", it.usage());
    let later = if ready == Ready::NotYet { " (not run yet)" } else { "" };
    let _ = writeln!(text, "{indent}    {}{later}", it.doc);
    for value in values(it) {
        let _ = writeln!(text, "{indent}    {value}");
    }
    let further = format!("{indent}        ");
    for inner in it.block {
        if whole {
            line(text, inner, ready, &further, true);
        } else {
            let _ = writeln!(text, "{further}{}", inner.usage());
        }
    }
}

/// What the capitals of a property's usage stand for, each once: "TIME: a duration such as `5ms`".
fn values(it: &Property) -> Vec<String> {
    let mut out = Vec::new();
    for arg in it.args.iter().chain(it.options.iter().flat_map(|o| o.args)) {
        let Some(value) = value(arg) else { continue };
        if !out.contains(&value) {
            out.push(value);
        }
    }
    out
}

/// `None` when the usage says it already.
fn value(arg: &Arg) -> Option<String> {
    let like = match arg.ty {
        Ty::Choice(_) | Ty::Word(_) => return None,
        Ty::Int(low, high) if high == i64::MAX => format!("a whole number from {low} on"),
        Ty::Int(low, high) => format!("a whole number from {low} to {high}"),
        Ty::HostNumber => "a host number such as `7`".into(),
        Ty::Duration => "a duration such as `5ms`".into(),
        Ty::Size => "a size such as `128MiB`".into(),
        Ty::Rate => "a rate such as `10Mbit`".into(),
        Ty::PacketRate => "a packet rate such as `200pps`".into(),
        Ty::Ratio => "a ratio such as `0.2%`".into(),
        Ty::Prefix => "a prefix such as `10.0.0.0/8`".into(),
        Ty::Address => "an address such as `10.0.0.7`".into(),
        Ty::PrefixLen => "a prefix length such as `/31`".into(),
        Ty::Range => "a range such as `10..250`".into(),
        Ty::Ports => "a port such as `80`, or a range such as `8000..8010`".into(),
        other => other.a(),
    };
    Some(format!("{}: {like}", arg.name.to_uppercase()))
}

/// Every property with the path of its block and whether that block runs.
fn every_property(visit: &mut dyn FnMut(&[&'static str], &'static Property, Ready)) {
    fn walk(
        path: &mut Vec<&'static str>,
        block: &'static [Property],
        ready: Ready,
        visit: &mut dyn FnMut(&[&'static str], &'static Property, Ready),
    ) {
        for it in block {
            visit(path, it, ready);
            path.push(it.word);
            walk(path, it.block, both(ready, it.ready), visit);
            path.pop();
        }
    }
    for it in KEYWORDS {
        walk(&mut vec![it.word], it.block, it.ready, visit);
    }
}

/// The outermost words that do not run yet, by where they stand.
fn not_yet() -> Vec<(String, Vec<&'static str>)> {
    let later: Vec<&'static str> = KEYWORDS.iter().filter(|k| k.ready == Ready::NotYet).map(|k| k.word).collect();
    let mut places = vec![("keywords".to_owned(), later)];
    every_property(&mut |path, it, ready| {
        if ready == Ready::Yes && it.ready == Ready::NotYet {
            let place = format!("`{}`", path.join(" "));
            match places.iter_mut().find(|(known, _)| *known == place) {
                Some((_, words)) => words.push(it.word),
                None => places.push((place, vec![it.word])),
            }
        }
    });
    places.retain(|(_, words): &(String, Vec<&str>)| !words.is_empty());
    places
}

/// What stands in something that does not run yet does not run, either.
fn both(outer: Ready, inner: Ready) -> Ready {
    if outer == Ready::NotYet { outer } else { inner }
}

fn runs(ready: Ready) -> &'static str {
    match ready {
        Ready::Yes => "yes",
        Ready::NotYet => "not yet",
    }
}

fn has(block: &[Property], it: &Property) -> bool {
    block.iter().any(|p| p.word == it.word && p.usage() == it.usage() && p.doc == it.doc)
}

fn is_part(block: &[Property], of: &[Property]) -> bool {
    !of.is_empty() && block.iter().all(|it| has(of, it))
}

/// A row of a table; `|` parts cells even within backquotes, so it is escaped.
fn row(page: &mut String, cells: &[String]) {
    for cell in cells {
        let _ = write!(page, "| {} ", cell.replace('|', "\\|"));
    }
    page.push_str("|\n");
}

/// A line of documentation as a sentence.
fn sentence(doc: &str) -> String {
    let mut letters = doc.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyword_is_explained_with_its_properties() {
        let text = explain_word("link").unwrap_or_default();
        assert!(text.starts_with("link A -- B"), "{text}");
        for part in ["delay TIME [jitter TIME]", "one-way delay", "TIME: a duration such as `5ms`"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_property_names_the_blocks_that_have_it() {
        let text = explain_word("mtu").unwrap_or_default();
        assert!(text.contains("`lan`") && text.contains("`link`"), "{text}");
        let text = explain_word("passive").unwrap_or_default();
        assert!(text.contains("`router ospf`"), "{text}");
        let text = explain_word("fail").unwrap_or_default();
        assert!(text.contains("in the block of `experiment at`, `experiment every`"), "{text}");
    }

    #[test]
    fn an_option_is_explained_with_its_property() {
        let text = explain_word("jitter").unwrap_or_default();
        assert!(text.contains("delay TIME [jitter TIME]") && text.contains("`link`"), "{text}");
    }

    #[test]
    fn a_word_that_is_not_in_the_language_has_a_similar_one() {
        assert_eq!(explain_word("lnik"), None);
        assert_eq!(similar_word("lnik"), Some("link"));
        assert_eq!(similar_word("Firewal"), Some("firewall"));
        assert!(similar_word("e030x").is_some_and(|code| code.starts_with("E030")));
        assert_eq!(similar_word("xyzzyxyzzy"), None);
        assert_eq!(similar_word(""), None);
    }

    #[test]
    fn every_word_of_the_tables_is_explained_and_on_the_page() {
        let page = reference();
        every_property(&mut |_, it, _| {
            assert!(explain_word(it.word).is_some(), "{}", it.word);
            assert!(page.contains(&it.usage().replace('|', "\\|")), "{}", it.word);
        });
        for it in KEYWORDS {
            assert!(page.contains(&format!("\n## {}\n\n    {}\n", it.word, it.usage)), "{}", it.word);
        }
    }

    #[test]
    fn every_row_of_a_table_has_as_many_cells_as_its_head() {
        let mut cells = 0;
        for line in reference().lines() {
            let here = line.replace("\\|", "").matches('|').count();
            match line.starts_with('|') {
                true if cells == 0 => cells = here,
                true => assert_eq!(here, cells, "{line}"),
                false => cells = 0,
            }
        }
    }
}
