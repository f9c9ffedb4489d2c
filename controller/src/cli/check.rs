//! `fleet check` and `fleet explain`: what is wrong with files, with nothing contacted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use super::{Context, Exit, Failure, output, source};

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The network files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// An error code such as E0304, or a word of the language such as `link`
    #[arg(value_name = "CODE|WORD")]
    pub code: String,
}

pub fn check(context: &Context, args: &CheckArgs) -> Result<Exit, Failure> {
    let mut documents = Vec::new();
    let mut wrong = false;
    for file in &args.files {
        let source = source::read(file)?;
        let lock = source::read_lock(file)?.0;
        let compilation = netlang::design(&source, &lock);
        wrong |= compilation.plan.is_none();
        match &compilation.plan {
            _ if context.json => documents.push(serde_json::json!({
                "file": source.name, "ok": compilation.plan.is_some(), "diagnostics": compilation.diagnostics,
            })),
            Some(plan) => {
                source::show(context, &compilation.diagnostics, &source);
                let proved = match plan.checks().len() {
                    0 => "no `check` lines".to_owned(),
                    1 => "its `check` line holds on the plan".to_owned(),
                    count => format!("all {count} `check` lines hold on the plan"),
                };
                let vms = output::plural(plan.total_vms(), "VM");
                output::say!("{}: ok, {vms}, {proved}", file.display());
                if let Some(words) = not_yet_text(plan) {
                    output::say!("{}", output::wrap(&format!("  {words}")));
                }
            }
            None => source::show(context, &compilation.diagnostics, &source),
        }
    }
    if context.json {
        output::json(&serde_json::json!({ "files": documents }));
    }
    Ok(if wrong { Exit::Usage } else { Exit::Ok })
}

/// What of a plan this version of fleet cannot run, by word, and how often the file says it.
pub fn not_yet(plan: &netlang::Plan) -> BTreeMap<String, usize> {
    let mut words = BTreeMap::new();
    for part in plan.unsupported() {
        *words.entry(part.what).or_insert(0) += 1;
    }
    words
}

/// The same in words: "`fleet up` cannot run `bgp`, `delay` (3 times) yet (E0099)"; nothing when it can run all.
pub fn not_yet_text(plan: &netlang::Plan) -> Option<String> {
    let words = not_yet(plan);
    let word = |(word, count): (&String, &usize)| match count {
        1 => format!("`{word}`"),
        _ => format!("`{word}` ({count} times)"),
    };
    let list: Vec<String> = words.iter().map(word).collect();
    (!list.is_empty()).then(|| format!("`fleet up` cannot run {} yet (E0099)", list.join(", ")))
}

pub fn explain(args: &ExplainArgs) -> Result<Exit, Failure> {
    let word = &args.code;
    let page = netlang::explain(word).map(str::to_owned).or_else(|| netlang::vocab::explain_word(word));
    let Some(page) = page else {
        let failure = Failure::usage(format!("there is no word and no error code `{word}`"));
        return Err(match netlang::vocab::similar_word(word) {
            Some(similar) => failure.help(format!("did you mean `{similar}`?")),
            None => failure.help("words are those of network files, such as `link`; codes look like E0304"),
        });
    };
    output::print(&page);
    Ok(Exit::Ok)
}
