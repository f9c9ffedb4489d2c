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
        let is_router = match role {
            Role::Vm => false,
            Role::Router { device: false, .. } => true,
            // Of these nothing is read, as was said where they got their role; bridges have nothing to lose.
            Role::Router { device: true, .. } | Role::Bridge | Role::Host => continue,
        };
        for field in &node.fields {
            if let Some((subject, why)) = reason(&field.text, is_router) {
                let subject = if subject.is_empty() { format!("`{}`", field.text) } else { subject.to_owned() };
                notes.fold(field.line, NoteKind::LeftOut, &subject, &node.name, why);
            }
        }
        if let Some(line) = node.setup.left {
            let why = match is_router {
                false => "they are not run at the start; put them into the image, or run them with `fleet exec`",
                true => "a router runs no commands",
            };
            notes.fold(line, NoteKind::LeftOut, "commands of `exec`", &node.name, why);
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

/// Why a field is left out, and what fields with that reason are called together; `None` if nothing is lost by it.
fn reason(field: &str, is_router: bool) -> Option<(&'static str, &'static str)> {
    const ROUTING: &str = "files are not read; what the router speaks stands in its block: `ospf { area 0 }`, \
                           `bgp { asn 65001 }`";
    const MANAGEMENT: &str = "there is no such network; `fleet exec` and `fleet console` reach guests without one";
    Some(match field {
        // Only how a picture of the topology looks, or how containers are fetched and started again.
        "position" | "graph-icon" | "image-pull-policy" | "runtime" | "auto-remove" | "restart-policy" | "type" => {
            return None;
        }
        "startup-config" | "config" | "extras" | "binds" if is_router => ("the routing configuration", ROUTING),
        "cmd" | "entrypoint" | "env" | "env-files" | "user" if is_router => ("", "a router runs no commands"),
        "binds" => ("", "files of this host are not seen in a VM; put them into its image"),
        "cmd" | "entrypoint" | "env" | "env-files" | "user" => ("", "the image says what runs in a VM, and how"),
        "ports" | "publish" => ("", "no port of this host leads to a guest; `fleet exec` and `fleet console` reach it"),
        "labels" => ("", "there are no labels"),
        "mgmt-ipv4" | "mgmt-ipv6" | "mgmt_ipv4" | "mgmt_ipv6" | "network-mode" | "dns" | "aliases" => {
            ("settings of the management network", MANAGEMENT)
        }
        "stages" | "wait-for" | "startup-delay" | "healthcheck" => {
            ("the order of starting", "VMs start side by side, and `fleet up` waits for all")
        }
        "sysctls" => ("", "kernel settings belong into the image"),
        "startup-config" | "config" | "license" => ("", "configurations are not read; put them into the image"),
        _ => ("", "there is no such property"),
    })
}
