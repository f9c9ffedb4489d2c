//! A picture of a network file, for people: `fleet graph`.
//!
//! ```text
//! columns ─ build ─▶ declarations ─ fold ─▶ a page ─┬─ layout ─ svg ─▶ SVG
//!                                                   └─ dot ─▶ Graphviz
//! ```
//!
//! It shows what is written, not what it comes to: a module that is used a thousand times is one box, a group of VMs
//! one node. What is still too much for a page is folded further, and the picture says so. A file with errors is drawn
//! as far as it is known.

mod build;
mod dot;
mod fold;
mod icons;
mod layout;
mod measure;
mod model;
mod svg;
#[cfg(test)]
mod tests;
mod words;

use crate::address::lock::Lock;
use crate::diag::Diagnostic;
use crate::sema::design_parts;
use crate::source::Source;
use model::Model;
use serde::Serialize;

/// Nodes and boxes that a picture can have when parts of it are expanded.
pub(crate) const MOST_DRAWN: usize = 2000;

/// What is drawn element by element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expand {
    /// The declarations of these paths (`t1`, `hq.pc`); all others are folded.
    Paths(Vec<String>),
    /// Everything.
    All,
}

impl Default for Expand {
    fn default() -> Expand {
        Expand::Paths(Vec::new())
    }
}

/// Why there is no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A path to be expanded leads to nothing.
    #[error("there is no vm, lan, router or instance `{path}` in this file")]
    UnknownPath {
        /// The path.
        path: String,
        /// One that may be meant.
        similar: Option<String>,
    },
    /// Too much is expanded.
    #[error("the picture would have more than {most} nodes")]
    TooMany {
        /// How many there may be.
        most: usize,
    },
}

/// Sums over a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct GraphSums {
    /// VMs.
    pub vms: u64,
    /// Routers.
    pub routers: u64,
    /// Lans.
    pub lans: u64,
    /// Links.
    pub links: u64,
    /// External networks.
    pub externals: u64,
}

/// A network file as a graph of its declarations.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Errors and warnings of the file.
    pub diagnostics: Vec<Diagnostic>,
    /// What there is in the network.
    pub sums: GraphSums,
    /// What a reader of the picture has to know: what is folded, what is missing.
    pub notes: Vec<String>,
    title: String,
    model: Model,
}

impl Graph {
    /// Works out the graph of a file, which may have errors.
    ///
    /// # Errors
    /// When what is to be expanded does not exist, or is too much.
    pub fn new(source: &Source, lock: &Lock, expand: &Expand) -> Result<Graph, GraphError> {
        let known = design_parts(source, lock);
        let mut model = build::build(&known, &source.text, expand)?;
        let folded = if *expand == Expand::All { Vec::new() } else { fold::fold(&mut model) };
        let mut notes = Vec::new();
        if !folded.is_empty() {
            notes.push(format!("Folded to fit a page: {}.", folded.join("; ")));
        }
        if known.compilation.diagnostics.iter().any(Diagnostic::is_error) {
            notes.push("The file has errors: only what is known is drawn.".to_owned());
        }
        let sum = |kind| model.items.iter().filter(|i| i.kind == kind).map(|i| i.elements).sum();
        let sums = GraphSums {
            vms: sum(model::ItemKind::Vm),
            routers: sum(model::ItemKind::Router),
            lans: sum(model::ItemKind::Lan),
            externals: sum(model::ItemKind::External),
            links: model.lines.iter().map(|l| l.count).sum(),
        };
        Ok(Graph { diagnostics: known.compilation.diagnostics, sums, notes, title: source.name.clone(), model })
    }

    /// The graph as a picture: a file of its own, without scripts, for light and dark backgrounds.
    pub fn to_svg(&self) -> String {
        svg::svg(&self.title, &self.model, &self.sums, &self.notes)
    }

    /// The graph in the language of Graphviz, to be laid out or changed by other tools.
    pub fn to_dot(&self) -> String {
        dot::dot(&self.title, &self.model, &self.notes)
    }

    /// The graph for programs.
    pub fn view(&self) -> GraphView {
        let model = &self.model;
        GraphView {
            experiment: self.title.clone(),
            sums: self.sums,
            notes: self.notes.clone(),
            modules: (model.clusters.iter())
                .map(|c| ModuleView {
                    name: words::cluster(c).0,
                    module: c.module.clone(),
                    instances: c.instances,
                    within: c.parent,
                })
                .collect(),
            nodes: (model.items.iter())
                .map(|i| {
                    let (name, says) = words::item(i);
                    NodeView { name, kind: i.kind, count: i.elements, declarations: i.decls, says, module: i.cluster }
                })
                .collect(),
            edges: (model.lines.iter())
                .map(|l| EdgeView { ends: l.ends, links: l.count, transit: l.transit, says: words::line(l) })
                .collect(),
        }
    }
}

/// A graph for programs; `within`, `module` and `ends` are places in the lists, from 0.
#[derive(Debug, Clone, Serialize)]
pub struct GraphView {
    experiment: String,
    sums: GraphSums,
    notes: Vec<String>,
    modules: Vec<ModuleView>,
    nodes: Vec<NodeView>,
    edges: Vec<EdgeView>,
}

#[derive(Debug, Clone, Serialize)]
struct ModuleView {
    name: String,
    module: String,
    instances: u64,
    within: Option<u32>,
}

#[derive(Debug, Clone, Serialize)]
struct NodeView {
    name: String,
    kind: model::ItemKind,
    count: u64,
    declarations: u64,
    says: Vec<String>,
    module: Option<u32>,
}

#[derive(Debug, Clone, Serialize)]
struct EdgeView {
    ends: [u32; 2],
    /// 0 for an attachment to a lan or external network.
    links: u64,
    transit: bool,
    says: Vec<String>,
}
