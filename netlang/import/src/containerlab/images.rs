//! Images of VMs. Those of routers are not declared: a router boots none.

use std::collections::BTreeMap;

use super::network::{Image, Network};
use super::read::Topology;
use crate::name::Names;
use crate::note::{NoteKind, Notes};

/// Declares the images that VMs have, each once.
pub(super) fn declare(topology: &Topology, network: &mut Network, notes: &mut Notes) {
    let mut names = Names::default();
    for name in network.names() {
        names.take(name);
    }
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let mut images = Vec::new();
    for host in network.hosts.iter_mut().filter(|host| host.router.is_none()) {
        let Some(word) = &topology.nodes[host.node].image else { continue };
        let file = quotable(&word.text);
        if file.is_empty() {
            continue;
        }
        if images.is_empty() {
            let why = "images of containers do not boot as VMs: build one of the same name (`fleet image build`), or \
                       remove the `image` lines to boot `tiny`";
            notes.add(word.line, NoteKind::Advice, "images", why);
        }
        let at = *known.entry(file.clone()).or_insert_with(|| {
            let (name, tag) = split(&file);
            let name = names.free(&with_tag(&names, name, tag));
            images.push(Image { name, file });
            images.len() - 1
        });
        host.image = Some(at);
    }
    network.images = images;
}

/// The last part of an image's name, and its tag: `multitool` and `3.22` of `ghcr.io/x/multitool:3.22`.
fn split(file: &str) -> (&str, &str) {
    let name = file.split_once('@').map_or(file, |(name, _)| name);
    let name = name.rsplit('/').next().unwrap_or(name);
    name.split_once(':').unwrap_or((name, ""))
}

/// The name with its tag where the name alone is taken.
fn with_tag(names: &Names, name: &str, tag: &str) -> String {
    match (names.is_free(name), tag) {
        (true, _) => name.to_owned(),
        (false, "" | "latest") => format!("{name}_image"),
        (false, tag) => format!("{name}_{tag}"),
    }
}

/// What of a text can stand between quotes; texts of the language have no escapes.
fn quotable(text: &str) -> String {
    text.chars().filter(|c| *c != '"' && !c.is_control()).take(200).collect::<String>().trim().to_owned()
}
