//! Topologies of containerlab, `*.clab.yml`.
//!
//! The format is described at <https://containerlab.dev/manual/topo-def-file/>, nodes and their inheritance at
//! <https://containerlab.dev/manual/nodes/>, the forms of links at <https://containerlab.dev/manual/links/>.

mod address;
mod exec;
mod fields;
mod gateway;
mod images;
mod network;
mod read;
mod resources;
mod role;
mod shape;
mod write;

use netlang::{Lock, Source};

use crate::note::{NoteKind, Notes};
use crate::yaml::Yaml;
use crate::{ImportError, Imported};

/// Translates a topology of containerlab into a network file.
///
/// # Errors
/// When the text is not YAML, or is no topology.
pub fn containerlab(text: &str) -> Result<Imported, ImportError> {
    let yaml = Yaml::parse(text)?;
    let mut notes = Notes::default();
    let topology = read::topology(&yaml, &mut notes)?;
    if yaml.is_exhausted() {
        let help = "write its parts out instead of taking them in over and over by `*`";
        return Err(yaml.error(yaml.root(), "the aliases of this file lead to more than can be looked at", help));
    }
    let mut network = shape::network(&topology, &mut notes);
    images::declare(&topology, &mut network, &mut notes);
    address::give(&topology, &mut network, &mut notes);
    gateway::choose(&topology, &mut network, &mut notes);
    let text = write::text(&topology.name, &network);
    let fleet = netlang::format(&text).unwrap_or(text);
    prove(&fleet, topology.line, &mut notes);
    Ok(Imported { fleet, notes: notes.finish() })
}

/// Says what `fleet up` would refuse in the result.
fn prove(fleet: &str, line: usize, notes: &mut Notes) {
    let compiled = netlang::design(&Source::new("imported", fleet), &Lock::default());
    for error in compiled.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()) {
        let why = format!("{} ({}); `fleet check` shows where", error.message, error.code);
        notes.add(line, NoteKind::Advice, "the network file has to be mended", why);
    }
    let Some(plan) = compiled.plan else { return };
    let mut words: Vec<String> = plan.unsupported().map(|part| part.what).collect();
    words.sort_unstable();
    words.dedup();
    for word in words {
        let what = format!("`{word}`");
        let why = match word.strip_prefix("kind ") {
            Some(kind) => format!(
                "checked and planned, but `fleet up` cannot run it yet (E0099); without the word `{kind}` behind its \
                 name, a router runs with static routes"
            ),
            None => "checked and planned, but `fleet up` cannot run it yet (E0099)".to_owned(),
        };
        notes.add(line, NoteKind::Advice, what, why);
    }
}
