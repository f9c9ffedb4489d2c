//! Fields that have no counterpart, and what to do instead.

use super::read::Topology;
use super::role::Role;
use crate::note::{NoteKind, Notes};

/// Notes on a key beside `name` and `topology`.
pub(super) fn top_level(key: &str, line: usize, notes: &mut Notes) {
    let why = match key {
        "name" | "topology" | "prefix" => return,
        _ if key.starts_with("x-") || key.starts_with('.') => return,
        "mgmt" => "there is no management network; `fleet exec` and `fleet console` reach guests without one",
        _ => "a setting of containerlab itself",
    };
    notes.add(line, NoteKind::LeftOut, format!("`{key}`"), why);
}

/// Notes on the fields of nodes, each once.
pub(super) fn of_nodes(topology: &Topology, roles: &[Role], notes: &mut Notes) {
    for (node, role) in topology.nodes.iter().zip(roles) {
        for field in &node.fields {
            if let Some(why) = reason(&field.text, *role) {
                notes.fold(field.line, NoteKind::LeftOut, &format!("`{}`", field.text), &node.name, why);
            }
        }
        for line in &node.setup.left {
            let why = match role {
                Role::Vm => "commands are not run at the start; put them into the image, or run them with `fleet exec`",
                _ => "a router runs no commands",
            };
            notes.fold(*line, NoteKind::LeftOut, "commands of `exec`", &node.name, why);
        }
        if let Some(line) = node.setup.routes {
            let why = "routes are worked out from the network; a VM's default route goes to its lan's gateway";
            notes.fold(line, NoteKind::LeftOut, "routes in `exec`", &node.name, why);
        }
        if let Some(line) = node.setup.ipv6 {
            notes.fold(line, NoteKind::LeftOut, "IPv6 addresses in `exec`", &node.name, "addresses are IPv4 only");
        }
    }
}

/// Why a field is left out; `None` if nothing is lost by it.
fn reason(field: &str, role: Role) -> Option<&'static str> {
    let configured = matches!(role, Role::Router { .. });
    Some(match field {
        // Only how a picture of the topology looks, or how containers are started.
        "position" | "graph-icon" | "image-pull-policy" | "runtime" | "auto-remove" | "restart-policy" => return None,
        "suppress-startup-config" | "enforce-startup-config" | "type" | "license" if configured => return None,
        "startup-config" | "config" | "extras" if configured => {
            "what the router speaks stands in its block: `ospf { area 0 }`, `bgp { asn 65001 }`"
        }
        "binds" if configured => {
            "files of this host are not read; what the router speaks stands in its block: `ospf { area 0 }`, \
             `bgp { asn 65001 }`"
        }
        "binds" => "files of this host are not seen in a VM; put them into its image",
        "cmd" | "entrypoint" | "env" | "env-files" | "user" if !configured => "the image says what runs in a VM, and how",
        "ports" | "publish" => "no port of this host leads to a VM; `fleet exec` and `fleet console` reach it",
        "labels" => "there are no labels",
        "mgmt-ipv4" | "mgmt-ipv6" | "mgmt_ipv4" | "mgmt_ipv6" | "network-mode" | "dns" | "aliases" => {
            "there is no management network; `fleet exec` and `fleet console` reach guests without one"
        }
        "stages" | "wait-for" | "startup-delay" | "healthcheck" => "VMs start side by side, and `fleet up` waits for all",
        "sysctls" => "kernel settings belong into the image",
        "license" | "startup-config" | "config" => "configurations are not read; put them into the image",
        _ => "there is no such property",
    })
}
