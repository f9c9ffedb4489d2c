//! `fleet graph`: a picture of a network file. Nothing is contacted.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use netlang::{Expand, Graph, GraphError};

use super::{Context, Exit, Failure, output, source};

#[derive(Args, Debug)]
pub struct GraphArgs {
    /// The network file
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Write the picture here instead of to standard output
    #[arg(short, long, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// What to write; when left out, what the name of OUT says, or svg
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Draw each element of this vm, lan, router or instance by itself; may be repeated
    #[arg(long, value_name = "PATH", conflicts_with = "all")]
    pub expand: Vec<String>,
    /// Draw every element of everything by itself
    #[arg(long)]
    pub all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A picture for browsers, documents and slides
    Svg,
    /// The language of Graphviz
    Dot,
}

pub fn graph(context: &Context, args: &GraphArgs) -> Result<Exit, Failure> {
    let file = source::read(&args.file)?;
    let lock = source::read_lock(&args.file)?.0;
    let expand = if args.all { Expand::All } else { Expand::Paths(args.expand.clone()) };
    let graph = Graph::new(&file, &lock, &expand).map_err(refused)?;
    let exit = if graph.diagnostics.iter().any(netlang::Diagnostic::is_error) { Exit::Usage } else { Exit::Ok };
    if context.json {
        output::json(&serde_json::json!({ "graph": graph.view(), "diagnostics": graph.diagnostics }));
        return Ok(exit);
    }
    source::show(context, &graph.diagnostics, &file);
    let text = match format(args) {
        Format::Svg => graph.to_svg(),
        Format::Dot => graph.to_dot(),
    };
    match &args.output {
        None => output::print(&text),
        Some(path) => std::fs::write(path, text).map_err(|error| {
            Failure::usage(format!("cannot write {}: {error}", path.display()))
                .help("give a path in a folder that you can write to")
        })?,
    }
    Ok(exit)
}

fn format(args: &GraphArgs) -> Format {
    let by_name = || {
        let extension = args.output.as_ref()?.extension()?.to_str()?;
        ["dot", "gv"].contains(&extension).then_some(Format::Dot)
    };
    args.format.or_else(by_name).unwrap_or(Format::Svg)
}

fn refused(error: GraphError) -> Failure {
    let help = match &error {
        GraphError::UnknownPath { similar: Some(similar), .. } => format!("did you mean `{similar}`?"),
        GraphError::UnknownPath { similar: None, .. } => {
            "a path is written like in `check` lines, without indices: t1, hq.pc".to_owned()
        }
        GraphError::TooMany { .. } => "expand less: `--expand PATH` for one part".to_owned(),
    };
    Failure::usage(error).help(help)
}
