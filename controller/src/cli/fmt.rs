//! `fleet fmt`: one layout for all files. Nothing is contacted.

use std::path::{Path, PathBuf};

use clap::Args;
use similar::TextDiff;

use super::{Context, Exit, Failure, output, source};

#[derive(Args, Debug)]
pub struct FmtArgs {
    /// The network files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Change nothing; name the files that are not formatted, and fail if there are any
    #[arg(long)]
    pub check: bool,
    /// With --check, show what would change
    #[arg(long, requires = "check")]
    pub diff: bool,
}

/// Formats all files that it can; one that is wrong keeps no other from being formatted.
pub fn fmt(context: &Context, args: &FmtArgs) -> Result<Exit, Failure> {
    let mut changed = Vec::new();
    let mut wrong = Vec::new();
    for file in &args.files {
        let name = file.display().to_string();
        let source = match source::read(file) {
            Ok(source) => source,
            Err(failure) => {
                failure.print(context.color);
                wrong.push(serde_json::json!({ "file": name, "diagnostics": [] }));
                continue;
            }
        };
        let text = match netlang::format(&source.text) {
            Ok(text) => text,
            Err(diagnostics) => {
                if !context.json {
                    source::show(context, &diagnostics, &source);
                }
                wrong.push(serde_json::json!({ "file": name, "diagnostics": diagnostics }));
                continue;
            }
        };
        if text == source.text {
            continue;
        }
        if !args.check {
            replace(file, &text)?;
        }
        if !context.json {
            output::say!("{name}: {}", if args.check { "not formatted" } else { "formatted" });
            if args.diff {
                let diff = TextDiff::from_lines(&source.text, &text);
                let new = format!("{name} (formatted)");
                output::print(&diff.unified_diff().header(&name, &new).to_string());
            }
        }
        changed.push(name);
    }
    if context.json {
        output::json(&serde_json::json!({ "changed": changed, "check": args.check, "wrong": wrong }));
    }
    let exit = match (wrong.len(), changed.len()) {
        (0, 0) => return Ok(Exit::Ok),
        (0, _) if !args.check => return Ok(Exit::Ok),
        (0, count) => {
            let names = changed.join(" ");
            let are = if count == 1 { "is" } else { "are" };
            return Err(Failure::new(
                Exit::Partial,
                format!("{} {are} not formatted", output::plural(count as u64, "file")),
            )
            .help(format!("`fleet fmt {names}` formats {}", if count == 1 { "it" } else { "them" })));
        }
        _ => Exit::Usage,
    };
    Ok(exit)
}

/// Writes a file whole or not at all. Its permissions stay, and a link goes on leading to it.
///
/// # Errors
/// When it cannot be written.
pub fn replace(file: &Path, text: &str) -> Result<(), Failure> {
    let target = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let new = target.with_extension("fleet.new");
    let write = || {
        std::fs::write(&new, text)?;
        if let Ok(old) = std::fs::metadata(&target) {
            std::fs::set_permissions(&new, old.permissions())?;
        }
        std::fs::rename(&new, &target)
    };
    write().map_err(|error| Failure::usage(format!("cannot write {}: {error}", file.display())))
}
