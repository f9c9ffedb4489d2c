//! The graph in the DOT language of Graphviz (<https://graphviz.org/doc/info/lang.html>).

use super::model::{ItemKind, LineKind, Model};
use super::words;
use std::fmt::Write;

/// Writes a graph; clusters are boxes, what is folded has a double border.
pub(crate) fn dot(title: &str, model: &Model, notes: &[String]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "digraph {} {{", quoted(title));
    let heading = [&[title.to_owned()], notes].concat().join("\n");
    let _ = writeln!(out, "  graph [label={}, labelloc=t, fontname=\"Helvetica\", fontsize=18];", quoted(&heading));
    out.push_str("  node [fontname=\"Helvetica\", fontsize=11, style=\"rounded,filled\", shape=box];\n");
    out.push_str("  edge [fontname=\"Helvetica\", fontsize=10, dir=none];\n");
    cluster(&mut out, model, None, 1);
    for line in &model.lines {
        let [a, b] = line.ends;
        let _ = write!(out, "  n{a} -> n{b}");
        let label = words::line(line).join("\n");
        let mut attributes = Vec::new();
        if !label.is_empty() {
            attributes.push(format!("label={}", quoted(&label)));
        }
        if line.transit {
            attributes.push("dir=forward".to_owned());
        }
        attributes.push(if line.kind == LineKind::Attach {
            "color=gray50".to_owned()
        } else {
            "penwidth=2".to_owned()
        });
        let _ = writeln!(out, " [{}];", attributes.join(", "));
    }
    out.push_str("}\n");
    out
}

fn cluster(out: &mut String, model: &Model, within: Option<u32>, depth: usize) {
    let indent = "  ".repeat(depth);
    for (at, item) in model.items.iter().enumerate().filter(|(_, i)| i.cluster == within) {
        let (name, lines) = words::item(item);
        let label = std::iter::once(name).chain(lines).collect::<Vec<_>>().join("\n");
        let look = match item.kind {
            ItemKind::Vm => "fillcolor=\"#fdf0d5\", color=\"#a86500\"",
            ItemKind::Lan => "fillcolor=\"#dcf3ea\", color=\"#00795a\", shape=ellipse, style=filled",
            ItemKind::Router => "fillcolor=\"#dcebf7\", color=\"#0067a5\", shape=octagon, style=filled",
            ItemKind::External => "fillcolor=\"#f6e6ef\", color=\"#9a4b78\", shape=ellipse, style=\"filled,dashed\"",
        };
        let folded = if item.elements > 1 { ", peripheries=2" } else { "" };
        let tooltip = quoted(&words::item_tooltip(item));
        let _ = writeln!(out, "{indent}n{at} [label={}, {look}{folded}, tooltip={tooltip}];", quoted(&label));
    }
    for (at, it) in (0u32..).zip(&model.clusters).filter(|(_, c)| c.parent == within) {
        let (name, module) = words::cluster(it);
        let _ = writeln!(out, "{indent}subgraph cluster_{at} {{");
        let _ = writeln!(out, "{indent}  label={}; style=rounded; color=gray60;", quoted(&format!("{name}  {module}")));
        cluster(out, model, Some(at), depth + 1);
        let _ = writeln!(out, "{indent}}}");
    }
}

/// A quoted string of DOT. A backslash would start an escape of Graphviz's own.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
