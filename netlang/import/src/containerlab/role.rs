//! What a node becomes.
//!
//! containerlab has no word for "router": FRR and BIRD run as `kind: linux` with an image that has them, and a plain
//! container may be told to forward. Kinds that are the system of a network device forward, too.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::read::{Node, Topology};
use crate::note::{NoteKind, Notes};

/// What a node becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `vm`
    Vm,
    /// `router NAME KIND`; `linux` is not written. A device has a system of its own, of which nothing is read.
    Router { kind: &'static str, device: bool },
    /// `lan`
    Bridge,
    /// The host itself: nothing.
    Host,
}

/// Kinds that end a network rather than carry it. `linux` is looked at more closely.
const END_SYSTEMS: &[&str] = &[
    "border0",
    "ext-container",
    "freebsd",
    "generic_vm",
    "ixia-c-one",
    "k8s-kind",
    "keysight_ixia-c-one",
    "openbsd",
    "rare",
    "spirent_stc",
    "vr-freebsd",
    "vr-openbsd",
    "windows",
];

/// The role of each node.
pub(super) fn roles(topology: &Topology, notes: &mut Notes) -> Vec<Role> {
    // How many links a node has: who has one forwards nothing.
    let mut seen = BTreeSet::new();
    let mut linked_twice = BTreeSet::new();
    for link in &topology.links {
        for end in &link.ends {
            if !seen.insert(end.node.as_str()) {
                linked_twice.insert(end.node.as_str());
            }
        }
    }
    let hops: BTreeSet<Ipv4Addr> = topology.nodes.iter().flat_map(|node| node.setup.hops.iter().copied()).collect();
    let forwards = |node: &Node| {
        let is_hop = node.setup.addresses.iter().any(|given| hops.contains(&given.address.ip));
        linked_twice.contains(node.name.as_str()) && (node.setup.forwards || is_hop)
    };
    topology.nodes.iter().map(|node| role(node, forwards(node), notes)).collect()
}

/// The role of a node; `forwards` if it is told to forward packets, or others send theirs to it.
fn role(node: &Node, forwards: bool, notes: &mut Notes) -> Role {
    let kind = node.kind.as_str();
    match kind {
        "bridge" | "ovs-bridge" => return Role::Bridge,
        "host" => return Role::Host,
        "frr" => return Role::Router { kind: "frr", device: false },
        "bird" => return Role::Router { kind: "bird", device: false },
        "linux" => {}
        _ if END_SYSTEMS.contains(&kind) => {
            let why = "it becomes a VM; its image has to be one that fleet can boot";
            notes.fold(node.line, NoteKind::Changed, &format!("kind `{kind}`"), &node.name, why);
            return Role::Vm;
        }
        _ => {
            let why = "it becomes a router with static routes; nothing else of it is read. If it only switches, make it \
                       a lan";
            notes.fold(node.line, NoteKind::Changed, &format!("kind `{kind}`"), &node.name, why);
            return Role::Router { kind: "linux", device: true };
        }
    }
    let image = node.image.as_ref().map_or("", |image| image.text.as_str());
    if let Some(kind) = routing_image(image) {
        return Role::Router { kind, device: false };
    }
    if forwards {
        let why = "it forwards what others send to it, and becomes a router";
        notes.fold(node.line, NoteKind::Changed, "", &node.name, why);
        return Role::Router { kind: "linux", device: false };
    }
    Role::Vm
}

/// The kind of router that an image holds, by the words in its name.
fn routing_image(image: &str) -> Option<&'static str> {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    // What follows the last colon is a tag, unless it is a registry's port.
    let image = match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    };
    image.split(|c: char| !c.is_ascii_alphanumeric()).find_map(|word| {
        let word = word.trim_end_matches(|c: char| c.is_ascii_digit()).to_ascii_lowercase();
        match word.as_str() {
            "frr" | "frrouting" | "quagga" => Some("frr"),
            "bird" => Some("bird"),
            "vyos" | "gobgp" | "openbgpd" | "holo" | "vpp" => Some("linux"),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::routing_image;

    #[test]
    fn images_that_route_are_known_by_their_name() {
        assert_eq!(routing_image("quay.io/frrouting/frr:10.1"), Some("frr"));
        assert_eq!(routing_image("reg:5000/lab/my-frr8"), Some("frr"));
        assert_eq!(routing_image("pierky/bird:2.15"), Some("bird"));
        assert_eq!(routing_image("alpine:frr"), None);
        assert_eq!(routing_image("ghcr.io/x/thunderbird@sha256:frr"), None);
        assert_eq!(routing_image(""), None);
    }
}
