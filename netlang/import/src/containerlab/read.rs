//! From the YAML tree to a [`Topology`]: nodes with what they inherit, and links in one form.
//!
//! A node's value is its own, else its group's, else its kind's, else that of `defaults`. `exec` is gathered from all
//! of them. Nothing is judged here but whether the text is a topology at all.

use std::collections::{BTreeMap, BTreeSet};

use super::{exec, fields};
use crate::ImportError;
use crate::note::{NoteKind, Notes};
use crate::yaml::{Id, Yaml};

/// What a link can have, but for labels.
const LINK_FIELDS: &[&str] = &[
    "dst-port",
    "endpoint",
    "endpoints",
    "host-interface",
    "mode",
    "mtu",
    "remote",
    "src-port",
    "type",
    "vars",
    "vni",
];

/// A text and the line it stands on.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) line: usize,
}

/// A topology.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) name: String,
    /// Line of `topology`.
    pub(super) line: usize,
    pub(super) nodes: Vec<Node>,
    /// Places in `nodes` by name.
    pub(super) by_name: BTreeMap<String, usize>,
    pub(super) links: Vec<Link>,
}

/// A node with what it inherits.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) kind: String,
    pub(super) image: Option<Word>,
    pub(super) cpu: Option<Word>,
    pub(super) memory: Option<Word>,
    /// What its commands and `sysctls` say about its network.
    pub(super) setup: exec::Setup,
    /// Further fields, with the line of each.
    pub(super) fields: Vec<Word>,
}

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// Between two nodes, or a node and one of containerlab's own names.
    Veth,
    /// On an interface of the host.
    Macvlan(String),
    /// Any other.
    Other(String),
}

/// A link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) line: usize,
    pub(super) kind: LinkKind,
    pub(super) ends: Vec<End>,
    pub(super) mtu: Option<Word>,
}

/// An end of a link.
#[derive(Debug)]
pub(super) struct End {
    pub(super) node: String,
    pub(super) interface: String,
    /// `10.0.0.1/24`, from `ipv4` of the end or the link.
    pub(super) ipv4: Option<Word>,
}

/// Reads a topology.
pub(super) fn topology(yaml: &Yaml, notes: &mut Notes) -> Result<Topology, ImportError> {
    const FORM: &str = "a topology is a map with `name` and `topology`, which has `nodes` and `links`";
    let root = yaml.root();
    if !yaml.is_map(root) {
        return Err(yaml.error(root, "this is no topology of containerlab", FORM));
    }
    let Some(body) = yaml.get(root, "topology").filter(|body| yaml.is_map(*body)) else {
        let help = match yaml.get(root, "services") {
            Some(_) => "this looks like a file of Compose; only topologies of containerlab can be imported",
            None => FORM,
        };
        return Err(yaml.error(root, "this is no topology of containerlab: it has no map `topology`", help));
    };
    let Some(list) = yaml.get(body, "nodes").filter(|list| yaml.is_map(*list)) else {
        return Err(yaml.error(body, "this topology has no nodes", "`nodes` is a map of names: `r1: { kind: linux }`"));
    };
    for (key, id, _) in yaml.entries(root) {
        fields::top_level(key, yaml.line(id), notes);
    }
    let name = yaml.get(root, "name").and_then(|id| yaml.text(id)).unwrap_or_default().into_owned();
    let mut found =
        Topology { name, line: yaml.line(body), nodes: Vec::new(), by_name: BTreeMap::new(), links: Vec::new() };
    let levels = Levels {
        groups: by_key(yaml, yaml.get(body, "groups")),
        kinds: by_key(yaml, yaml.get(body, "kinds")),
        defaults: yaml.get(body, "defaults"),
    };
    for (name, key, value) in yaml.entries(list) {
        if found.by_name.insert(name.to_owned(), found.nodes.len()).is_some() {
            let message = format!("the node `{name}` is declared twice");
            return Err(yaml.error(key, message, "remove one of them, or give it another name"));
        }
        if !yaml.is_map(value) && !yaml.is_nothing(value) {
            let message = format!("the node `{name}` is no map");
            return Err(yaml.error(key, message, "a node is like `r1: { kind: linux }`; is this indented too far?"));
        }
        found.nodes.push(node(yaml, name, key, value, &levels, notes));
    }
    if found.nodes.is_empty() {
        return Err(yaml.error(list, "this topology has no nodes", "`nodes` is a map of names: `r1: { kind: linux }`"));
    }
    for item in yaml.get(body, "links").map(|links| yaml.list(links)).unwrap_or_default() {
        found.links.extend(link(yaml, item, notes));
    }
    Ok(found)
}

/// What nodes inherit from.
struct Levels<'y> {
    groups: BTreeMap<&'y str, Id>,
    kinds: BTreeMap<&'y str, Id>,
    defaults: Option<Id>,
}

fn by_key(yaml: &Yaml, map: Option<Id>) -> BTreeMap<&str, Id> {
    map.map(|map| yaml.entries(map)).unwrap_or_default().into_iter().map(|(key, _, value)| (key, value)).collect()
}

fn node(yaml: &Yaml, name: &str, key: Id, own: Id, levels: &Levels<'_>, notes: &mut Notes) -> Node {
    let line = yaml.line(key);
    let word = |map: Option<Id>, key: &str| map.and_then(|map| yaml.get(map, key)).and_then(|id| yaml.text(id));
    let group = word(Some(own), "group").or_else(|| word(levels.defaults, "group"));
    let group = group.and_then(|group| levels.groups.get(group.as_ref()).copied());
    let kind = word(Some(own), "kind").or_else(|| word(group, "kind")).or_else(|| word(levels.defaults, "kind"));
    let kind = kind.map(std::borrow::Cow::into_owned).unwrap_or_else(|| {
        notes.fold(line, NoteKind::Changed, "", name, "it has no `kind`, and is taken for one of `linux`");
        "linux".to_owned()
    });
    // From the strongest to the weakest.
    let maps = [Some(own), group, levels.kinds.get(kind.as_str()).copied(), levels.defaults];
    let mut node = Node {
        name: name.to_owned(),
        line,
        kind,
        image: None,
        cpu: None,
        memory: None,
        setup: exec::Setup::default(),
        fields: Vec::new(),
    };
    let mut known = BTreeSet::new();
    for map in maps.into_iter().flatten() {
        for (field, at, value) in yaml.entries(map) {
            let word = || yaml.text(value).map(|text| Word { text: text.into_owned(), line: yaml.line(value) });
            match field {
                "kind" | "group" => {}
                "image" => node.image = node.image.take().or_else(word),
                "cpu" => node.cpu = node.cpu.take().or_else(word),
                "memory" => node.memory = node.memory.take().or_else(word),
                "exec" => {
                    for command in yaml.list(value) {
                        if let Some(text) = yaml.text(command) {
                            node.setup.read(&text, yaml.line(command));
                        }
                    }
                }
                "sysctls" if forwards(yaml, value) => node.setup.forwards = true,
                _ if yaml.is_nothing(value) || !known.insert(field) => {}
                _ => node.fields.push(Word { text: field.to_owned(), line: yaml.line(at) }),
            }
        }
    }
    node
}

/// Whether `sysctls` makes the node forward packets.
fn forwards(yaml: &Yaml, sysctls: Id) -> bool {
    let value = yaml.get(sysctls, "net.ipv4.ip_forward").or_else(|| yaml.get(sysctls, "net.ipv4.conf.all.forwarding"));
    value.and_then(|id| yaml.text(id)).is_some_and(|text| text == "1")
}

fn link(yaml: &Yaml, item: Id, notes: &mut Notes) -> Option<Link> {
    let line = yaml.line(item);
    let word = |map: Id, key: &str| {
        let id = yaml.get(map, key)?;
        yaml.text(id).map(|text| Word { text: text.into_owned(), line: yaml.line(id) })
    };
    if !yaml.is_map(item) {
        notes.add(line, NoteKind::LeftOut, "a link", "it is no map with `endpoints`");
        return None;
    }
    for (key, id, _) in yaml.entries(item).into_iter().filter(|(key, ..)| !LINK_FIELDS.contains(key)) {
        let why = match key {
            "delay" | "jitter" | "loss" | "rate" => "containerlab has no such field; write it into the link's block",
            _ => "there is no such property",
        };
        notes.fold(yaml.line(id), NoteKind::LeftOut, &format!("`{key}`"), "links", why);
    }
    let kind = word(item, "type").map(|word| word.text);
    let interface = word(item, "host-interface").map(|word| word.text);
    let kind = match (kind.as_deref(), interface) {
        (None | Some("veth"), _) => LinkKind::Veth,
        (Some("macvlan"), Some(interface)) => LinkKind::Macvlan(interface),
        (Some(kind), _) => LinkKind::Other(kind.to_owned()),
    };
    let vars = yaml.get(item, "vars");
    let addresses = vars.and_then(|vars| yaml.get(vars, "ipv4")).map(|list| yaml.list(list)).unwrap_or_default();
    let ends = yaml.get(item, "endpoints").or_else(|| yaml.get(item, "endpoint"));
    let ends = ends.map(|ends| if yaml.is_map(ends) { vec![ends] } else { yaml.list(ends) }).unwrap_or_default();
    let mut found = Link { line, kind, ends: Vec::new(), mtu: word(item, "mtu") };
    for (at, end) in ends.into_iter().enumerate() {
        let of_link = addresses.get(at).copied();
        let of_link = of_link.and_then(|id| Some(Word { text: yaml.text(id)?.into_owned(), line: yaml.line(id) }));
        let end = if yaml.is_map(end) {
            let own = word(end, "ipv4").or_else(|| word(yaml.get(end, "vars")?, "ipv4"));
            word(end, "node").map(|node| End {
                node: node.text,
                interface: word(end, "interface").map(|word| word.text).unwrap_or_default(),
                ipv4: own.or(of_link),
            })
        } else {
            yaml.text(end).map(|text| {
                let (node, interface) = text.split_once(':').unwrap_or((&text, ""));
                End { node: node.trim().to_owned(), interface: interface.trim().to_owned(), ipv4: of_link }
            })
        };
        found.ends.extend(end);
    }
    // The short form names the host's interface in the place of a node.
    if found.kind == LinkKind::Veth
        && let Some(at) = found.ends.iter().position(|end| end.node == "macvlan")
    {
        found.kind = LinkKind::Macvlan(found.ends.remove(at).interface);
    }
    let others = vars.map(|vars| yaml.entries(vars)).unwrap_or_default();
    if let Some((_, id, _)) = others.into_iter().find(|(key, ..)| *key != "ipv4") {
        notes.fold(yaml.line(id), NoteKind::LeftOut, "`vars`", "links", "only `ipv4` means something here");
    }
    Some(found)
}
