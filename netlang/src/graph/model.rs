//! What is drawn: declarations, each with all of its elements in one item, and lines between them.
//!
//! Items that are merged keep their sums, so the sums over a graph are those of the plan however much is folded.

use std::collections::BTreeSet;

/// What an item stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ItemKind {
    External,
    Router,
    Lan,
    Vm,
}

impl ItemKind {
    /// A number of such things, in words.
    pub(crate) fn count(self, n: u64) -> String {
        let word = match self {
            ItemKind::External => "external network",
            ItemKind::Router => "router",
            ItemKind::Lan => "lan",
            ItemKind::Vm => "VM",
        };
        format!("{} {word}{}", crate::text::thousands(n), if n == 1 { "" } else { "s" })
    }
}

/// A value that all elements share, or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Fact {
    #[default]
    Unknown,
    Same(String),
    Various,
}

impl Fact {
    pub(crate) fn of(text: String) -> Fact {
        if text.is_empty() { Fact::Unknown } else { Fact::Same(text) }
    }

    pub(crate) fn merge(&mut self, other: Fact) {
        if *self != other {
            *self = Fact::Various;
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Fact::Same(text) => Some(text),
            Fact::Unknown | Fact::Various => None,
        }
    }
}

/// A module put to use: a box around its parts.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) parent: Option<u32>,
    /// First and last name, when several declarations are folded.
    pub(crate) names: [String; 2],
    pub(crate) decls: u64,
    pub(crate) module: String,
    pub(crate) instances: u64,
    /// It is to be seen by itself.
    pub(crate) pinned: bool,
}

/// A declaration, an element of one that is expanded, or several that are folded.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) cluster: Option<u32>,
    pub(crate) kind: ItemKind,
    /// First and last name, when several declarations are folded.
    pub(crate) names: [String; 2],
    /// Declarations in it.
    pub(crate) decls: u64,
    /// VMs, lans, routers, external networks.
    pub(crate) elements: u64,
    /// Instances of the module around it, each with its own.
    pub(crate) owners: u64,
    /// The fewest and the most elements that one of them has.
    pub(crate) each: [u64; 2],
    /// What the elements have in common: image and memory; prefix and its length; kind of router and AS.
    pub(crate) facts: [Fact; 2],
    /// What some elements do: `ospf`, `dhcp`.
    pub(crate) traits: BTreeSet<&'static str>,
    /// It is to be seen by itself.
    pub(crate) pinned: bool,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LineKind {
    /// On a lan or an external network.
    Attach,
    /// A link of this statement.
    Link(u32),
    /// Links of several statements.
    Links,
}

/// A line between two items.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) ends: [u32; 2],
    pub(crate) kind: LineKind,
    /// `->`: the left end buys transit from the right one.
    pub(crate) transit: bool,
    /// Links.
    pub(crate) count: u64,
    /// Its name in the file.
    pub(crate) name: Fact,
    /// `mesh`, `2 each`.
    pub(crate) shape: Fact,
    /// Delay, rate, loss, cost.
    pub(crate) says: [Fact; 4],
}

/// All that is drawn.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) items: Vec<Item>,
    pub(crate) lines: Vec<Line>,
}

impl Item {
    /// Takes another item into this one. `same` says that both are elements or instances of one declaration.
    pub(crate) fn merge(&mut self, other: Item, same: bool) {
        self.elements += other.elements;
        self.owners += other.owners;
        self.each = [self.each[0].min(other.each[0]), self.each[1].max(other.each[1])];
        for (mine, others) in self.facts.iter_mut().zip(other.facts) {
            mine.merge(others);
        }
        self.traits.extend(other.traits);
        if !same {
            self.decls += other.decls;
            let [_, last] = other.names;
            self.names[1] = last;
        }
    }
}

impl Line {
    /// Takes another line between the same ends into this one.
    pub(crate) fn merge(&mut self, other: Line) {
        self.count += other.count;
        self.transit &= other.transit;
        self.name.merge(other.name);
        self.shape.merge(other.shape);
        for (mine, others) in self.says.iter_mut().zip(other.says) {
            mine.merge(others);
        }
    }
}
