//! What the fuzzer starts from: the project's own network files, and the words of the language. Both are made when it
//! runs, so they are never behind the language.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result};
use fleet_fuzz::repository;
use netlang::vocab::{Arg, KEYWORDS, Property, Ty};
use netlang::{Lock, Source, design};

/// Every example, sample, error case and input that was once wrong, each with the lock that it makes and a target.
pub fn corpus() -> Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    for folder in ["examples", "netlang/tests/samples", "netlang/tests/errors", "netlang/fuzz/regressions"] {
        let folder = repository().join(folder);
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            files.push(entry?.path());
        }
    }
    files.sort();
    let mut inputs = Vec::new();
    for file in files {
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if file.extension().is_none_or(|extension| extension != "fleet") {
            inputs.push(bytes);
            continue;
        }
        let Ok(text) = String::from_utf8(bytes) else { continue };
        // Numbers of a size that says the same in less time.
        let text = text.replace("1000000", "10").replace("16777216", "10").replace("0..900", "0..9");
        let text = text.replace("0..90]", "0..4]").replace("0..10]", "0..3]").replace("= 1000 max 1000", "= 5 max 8");
        let lock = design(&Source::new("p", text.clone()), &Lock::default()).lock;
        inputs.push(format!("{text}\0{lock}\0p.web[0..2]").into_bytes());
    }
    Ok(inputs)
}

/// The words of the language in libFuzzer's form: one quoted word a line.
pub fn dictionary() -> String {
    let mut words: BTreeSet<String> = [
        "--",
        "->",
        "=",
        "<=",
        ">=",
        "..",
        "[*]",
        "[i in 0..3]",
        "[0..3]",
        "{ ",
        " }",
        ";",
        "\n",
        "\0",
        " mod ",
        " div ",
        "10.0.0.0/8",
        "/24",
        "/30",
        "5ms",
        "1.5%",
        "64MiB",
        "10Mbit",
        "200pps",
        "\"tiny\"",
        ".sub(",
        ".host(",
        "#",
        "version 1",
        "[p]",
        "host ",
        "net ",
        "link ",
        "vni ",
        "int",
        "prefix",
        "mesh",
        "each",
        "without",
        "diameter",
        "outside",
        "-1",
        "0",
        "1023",
        "4294967296",
        "language 1",
    ]
    .map(String::from)
    .into();
    for keyword in KEYWORDS {
        words.insert(keyword.word.to_owned());
        words.extend(keyword.usage.split_whitespace().map(str::to_owned));
        add_properties(&mut words, keyword.block);
    }
    let mut out = String::new();
    for word in words {
        let escaped = word.bytes().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = match byte {
                b'"' | b'\\' => write!(text, "\\{}", char::from(byte)),
                b' '..=b'~' => write!(text, "{}", char::from(byte)),
                _ => write!(text, "\\x{byte:02x}"),
            };
            text
        });
        let _ = writeln!(out, "\"{escaped}\"");
    }
    out
}

fn add_properties(words: &mut BTreeSet<String>, block: &[Property]) {
    for property in block {
        words.insert(property.word.to_owned());
        add_args(words, property.args);
        for option in property.options {
            words.insert(option.word.to_owned());
            add_args(words, option.args);
        }
        add_properties(words, property.block);
    }
}

fn add_args(words: &mut BTreeSet<String>, args: &[Arg]) {
    for arg in args {
        if let Ty::Choice(choices) = arg.ty {
            words.extend(choices.iter().map(|c| (*c).to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_dictionary_has_the_words_of_the_language() {
        let dictionary = super::dictionary();
        for word in ["\"router\"", "\"gateway\"", "\"mesh\"", "\"\\x0a\"", "\"\\\"tiny\\\"\""] {
            assert!(dictionary.lines().any(|line| line == word), "{word} is missing");
        }
    }
}
