//! YAML as a tree with places.
//!
//! The parser's events are put into an arena. An alias is a further reference to the node of its anchor, never a copy,
//! so the arena is as large as the text ("billion laughs" is a few hundred nodes). Reading goes to a fixed depth, and
//! what it looks at is counted against a budget that grows with the text: a document of aliases to aliases ends with
//! an error, not with a minute of work.

use std::borrow::Cow;
use std::cell::Cell;

use saphyr_parser::{Event, Parser, ScalarStyle};

use crate::ImportError;

/// Largest text that is read, in bytes.
const MAX_TEXT: usize = 8 << 20;
/// Maps that a map may take in by `<<`, one within another.
const MAX_MERGE: usize = 8;
/// Longest `${NAME:=value}` that is understood, in bytes.
const MAX_VARIABLE: usize = 400;
/// What may be looked at: so much, and so much more for each node of the tree.
const BUDGET: (u64, u64) = (5_000_000, 60);

/// A node in a [`Yaml`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(u32);

#[derive(Debug)]
enum Value {
    /// Text, and whether it had quotes.
    Text(String, bool),
    List(Vec<Id>),
    /// Keys and values in turn.
    Map(Vec<Id>),
}

#[derive(Debug)]
struct Node {
    value: Value,
    line: u32,
    column: u32,
}

/// The first document of a YAML text.
#[derive(Debug)]
pub(crate) struct Yaml {
    nodes: Vec<Node>,
    root: Id,
    budget: Cell<u64>,
}

impl Yaml {
    /// Reads a text.
    ///
    /// # Errors
    /// With the place, when the text is not YAML, too large, or empty.
    pub(crate) fn parse(text: &str) -> Result<Yaml, ImportError> {
        if text.len() > MAX_TEXT {
            let message = format!("the file is larger than {} MiB", MAX_TEXT >> 20);
            return Err(error(1, 1, message, "a topology is a text of some KiB; is this another file?"));
        }
        let mut nodes: Vec<Node> = Vec::new();
        let mut open: Vec<Id> = Vec::new();
        // The node of each anchor; the parser numbers them.
        let mut anchors: Vec<(usize, Id)> = Vec::new();
        let mut root = None;
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|cause| {
                let help = if text.contains("{{") {
                    "this looks like a template: render it first, and import the result"
                } else {
                    "a topology is YAML, indented by spaces"
                };
                let place = cause.marker();
                error(place.line(), place.col() + 1, format!("this is not YAML: {}", cause.info()), help)
            })?;
            let (value, anchor) = match event {
                Event::Scalar(text, style, anchor, _) => {
                    (Value::Text(text.into_owned(), style != ScalarStyle::Plain), anchor)
                }
                Event::SequenceStart(anchor, _) => (Value::List(Vec::new()), anchor),
                Event::MappingStart(anchor, _) => (Value::Map(Vec::new()), anchor),
                Event::SequenceEnd | Event::MappingEnd => {
                    open.pop();
                    continue;
                }
                Event::Alias(anchor) => {
                    let found = anchors.binary_search_by_key(&anchor, |(number, _)| *number);
                    if let Some((_, id)) = found.ok().and_then(|at| anchors.get(at)).copied() {
                        put(&mut nodes, &open, id);
                    }
                    continue;
                }
                // A topology is one document.
                Event::DocumentEnd | Event::StreamEnd => break,
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => continue,
            };
            let id = Id(nodes.len() as u32); // No more nodes than bytes, of which there are at most MAX_TEXT.
            let opens = !matches!(value, Value::Text(..));
            nodes.push(Node { value, line: span.start.line() as u32, column: span.start.col() as u32 + 1 });
            if anchor > 0 && anchors.last().is_none_or(|(last, _)| *last < anchor) {
                anchors.push((anchor, id));
            }
            put(&mut nodes, &open, id);
            root.get_or_insert(id);
            if opens {
                open.push(id);
            }
        }
        let Some(root) = root else {
            return Err(error(1, 1, "the file is empty", "give a topology: a map with `name` and `topology`"));
        };
        let budget = Cell::new(BUDGET.0 + BUDGET.1 * nodes.len() as u64);
        Ok(Yaml { nodes, root, budget })
    }

    /// The outermost node.
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    /// Line of a node, from 1.
    pub(crate) fn line(&self, id: Id) -> usize {
        self.node(id).line as usize
    }

    /// An error at a node.
    pub(crate) fn error(&self, id: Id, message: impl Into<String>, help: impl Into<String>) -> ImportError {
        let node = self.node(id);
        error(node.line as usize, node.column as usize, message, help)
    }

    /// Whether the budget is used up: then lists and maps read as empty, and the result is worth nothing.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.budget.get() == 0
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize] // Ids are only made for nodes that were pushed.
    }

    fn spend(&self, count: usize) -> bool {
        let left = self.budget.get().saturating_sub(count as u64 + 1);
        self.budget.set(left);
        left > 0
    }

    /// A text, with `${NAME:=value}` as its value: containerlab fills in environment variables. Not for nothing, lists and maps.
    pub(crate) fn text(&self, id: Id) -> Option<Cow<'_, str>> {
        match &self.node(id).value {
            Value::Text(text, quoted) if *quoted || !matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") => {
                self.spend(text.len() / 2).then(|| defaults(text))
            }
            _ => None,
        }
    }

    /// Whether a node is nothing: `key:` without a value, `~` or `null`.
    pub(crate) fn is_nothing(&self, id: Id) -> bool {
        matches!(self.node(id).value, Value::Text(..)) && self.text(id).is_none()
    }

    /// Whether a node is a map.
    pub(crate) fn is_map(&self, id: Id) -> bool {
        matches!(self.node(id).value, Value::Map(_))
    }

    /// The elements of a list; a single text counts as a list of one.
    pub(crate) fn list(&self, id: Id) -> Vec<Id> {
        match &self.node(id).value {
            Value::List(list) if self.spend(list.len()) => list.clone(),
            Value::Text(..) if !self.is_nothing(id) => vec![id],
            _ => Vec::new(),
        }
    }

    /// Keys and values of a map, those that `<<` takes in last; they do not replace the map's own.
    pub(crate) fn entries(&self, id: Id) -> Vec<(&str, Id, Id)> {
        let mut entries = Vec::new();
        let mut maps = vec![(id, 0)];
        let mut seen = std::collections::HashSet::new();
        while let Some((map, depth)) = maps.pop() {
            let Value::Map(pairs) = &self.node(map).value else { continue };
            if !self.spend(pairs.len()) {
                return Vec::new();
            }
            let mut merged = Vec::new();
            for pair in pairs.chunks_exact(2) {
                let (key, value) = (pair[0], pair[1]);
                let Value::Text(name, quoted) = &self.node(key).value else { continue };
                if name == "<<" && !quoted {
                    match &self.node(value).value {
                        Value::List(list) if self.spend(list.len()) => merged.extend(list.iter().copied()),
                        _ => merged.push(value),
                    }
                } else if depth == 0 || !seen.contains(name.as_str()) {
                    entries.push((name.as_str(), key, value));
                }
            }
            seen.extend(entries.iter().map(|(name, ..)| *name));
            if depth < MAX_MERGE && self.spend(entries.len()) {
                maps.extend(merged.into_iter().rev().map(|map| (map, depth + 1)));
            }
        }
        entries
    }

    /// The value of a key.
    pub(crate) fn get(&self, map: Id, key: &str) -> Option<Id> {
        self.entries(map).into_iter().find(|(name, ..)| *name == key).map(|(_, _, value)| value)
    }
}

/// Puts a node into the list or map that is open.
fn put(nodes: &mut [Node], open: &[Id], id: Id) {
    if let Some(parent) = open.last().and_then(|parent| nodes.get_mut(parent.0 as usize)) {
        match &mut parent.value {
            Value::List(list) | Value::Map(list) => list.push(id),
            Value::Text(..) => {}
        }
    }
}

fn error(line: usize, column: usize, message: impl Into<String>, help: impl Into<String>) -> ImportError {
    ImportError { line: line.max(1), column, message: message.into(), help: help.into() }
}

/// Replaces `${NAME:=value}`, `${NAME:-value}`, `${NAME=value}` and `${NAME-value}` by the value.
fn defaults(text: &str) -> Cow<'_, str> {
    if !text.contains("${") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let end = after.bytes().take(MAX_VARIABLE).position(|byte| byte == b'}');
        let value = end.and_then(|end| {
            let (inner, after) = (&after[..end], &after[end + 1..]);
            let name = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
            let value = inner[name..].trim_start_matches(':').strip_prefix(['=', '-'])?;
            Some((value, after))
        });
        match value {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn aliases_and_merges_are_followed_and_own_keys_win() {
        let text =
            "base: &b { image: x, cpu: 1 }\nother: &o { cpu: 3, mem: 4 }\nnode:\n  <<: [*b, *o]\n  cpu: 2\nsame: *b\n";
        let yaml = Yaml::parse(text).unwrap();
        let node = yaml.get(yaml.root(), "node").unwrap();
        let value = |map, key| yaml.get(map, key).and_then(|id| yaml.text(id)).map(Cow::into_owned);
        assert_eq!(value(node, "image").as_deref(), Some("x"));
        assert_eq!(value(node, "cpu").as_deref(), Some("2"));
        assert_eq!(value(node, "mem").as_deref(), Some("4"));
        assert_eq!(yaml.entries(node).len(), 3);
        assert_eq!(value(yaml.get(yaml.root(), "same").unwrap(), "cpu").as_deref(), Some("1"));
        assert_eq!(yaml.line(node), 4);
    }

    #[test]
    fn variables_get_their_default() {
        assert_eq!(defaults("a/${IMG:=frr}:${TAG:-9}${X=}"), "a/frr:9");
        assert_eq!(defaults("${X} ${ ${Y:=z}"), "${X} ${ z");
    }

    #[test]
    fn a_map_that_holds_itself_is_read_to_an_end() {
        let yaml = Yaml::parse("a: &a\n  <<: *a\n  b: *a\n").unwrap();
        let a = yaml.get(yaml.root(), "a").unwrap();
        assert_eq!(yaml.get(a, "b"), Some(a));
    }
}
