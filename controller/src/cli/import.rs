//! `fleet import`: topologies of other programs as network files. Nothing is contacted.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use fleet_import::{ImportError, Imported};

use super::{Context, Exit, Failure, fmt, output};

#[derive(Args, Debug)]
pub struct ImportArgs {
    #[command(subcommand)]
    pub from: From,
}

#[derive(Debug, Subcommand)]
pub enum From {
    /// A topology of containerlab (*.clab.yml)
    Containerlab(FileArgs),
}

#[derive(Args, Debug)]
pub struct FileArgs {
    /// The topology
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Write the network file here instead of to standard output
    #[arg(short, long, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Replace OUT when it is there already
    #[arg(long, requires = "output")]
    pub force: bool,
}

pub fn import(context: &Context, args: &ImportArgs) -> Result<Exit, Failure> {
    match &args.from {
        From::Containerlab(args) => translate(context, args, fleet_import::containerlab),
    }
}

fn translate(
    context: &Context,
    args: &FileArgs,
    translator: fn(&str) -> Result<Imported, ImportError>,
) -> Result<Exit, Failure> {
    let path = args.file.display();
    let bytes = std::fs::read(&args.file).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("{path} is no text")).help("a topology is UTF-8 text"))?;
    let imported = translator(&text).map_err(|error| {
        Failure::usage(format!("{path}:{}:{}: {error}", error.line, error.column)).help(&error.help)
    })?;
    if let Some(out) = &args.output {
        write(out, &imported.fleet, args.force)?;
    }
    if context.json {
        output::json(&serde_json::json!({ "fleet": imported.fleet, "notes": imported.notes }));
        return Ok(Exit::Ok);
    }
    for note in &imported.notes {
        eprintln!("{path}:{note}");
    }
    match &args.output {
        None => output::print(&imported.fleet),
        Some(out) => output::say!("{}: written; `fleet plan` shows what it means", out.display()),
    }
    Ok(Exit::Ok)
}

/// Writes a network file, over another one only if that is wanted.
fn write(out: &Path, text: &str, force: bool) -> Result<(), Failure> {
    if !force && out.exists() {
        return Err(Failure::usage(format!("{} is there already", out.display()))
            .help("give another name, or replace it with --force"));
    }
    fmt::replace(out, text)
}
