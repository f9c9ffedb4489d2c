//! Looks at a namespace, and tampers with it, by other means than those of the crate under test.

use std::{collections::BTreeMap, path::Path};

use fleet_net::{Mac, run_in};
use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::{
        AddressFamily,
        link::LinkAttribute,
        neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    },
};

/// A device by its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
}

/// The devices of a namespace by alias, or by name where there is none.
pub fn links(namespace: &Path) -> BTreeMap<String, Link> {
    with_handle(namespace, async |handle| {
        let messages: Vec<_> = handle.link().get().execute().try_collect().await.unwrap();
        let mut links = BTreeMap::new();
        for message in messages {
            let (mut name, mut alias, mut mtu) = (String::new(), None, 0);
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(value) => name = value,
                    LinkAttribute::IfAlias(value) => alias = Some(value),
                    LinkAttribute::Mtu(value) => mtu = value,
                    _ => {}
                }
            }
            let key = alias.unwrap_or_else(|| name.clone());
            links.insert(key, Link { index: message.header.index, name, mtu });
        }
        links
    })
}

/// The MACs that the bridges of a namespace have learnt.
pub fn learnt_macs(namespace: &Path) -> Vec<Mac> {
    with_handle(namespace, async |handle| {
        let entries: Vec<_> =
            handle.neighbours().get().set_address_family(AddressFamily::Bridge).execute().try_collect().await.unwrap();
        // A tunnel's own table is none of a bridge's.
        let of_bridge = |entry: &&NeighbourMessage| {
            !entry.attributes.iter().any(|attribute| matches!(attribute, NeighbourAttribute::Destination(_)))
        };
        let is_static =
            |entry: &NeighbourMessage| matches!(entry.header.state, NeighbourState::Noarp | NeighbourState::Permanent);
        let learnt = entries.iter().filter(of_bridge).filter(|entry| !is_static(entry));
        learnt
            .filter_map(|entry| {
                entry.attributes.iter().find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(mac) => Mac::try_from(mac.as_slice()).ok(),
                    _ => None,
                })
            })
            .collect()
    })
}

/// How many permanent neighbours a namespace has.
pub fn permanent_neighbours(namespace: &Path) -> usize {
    with_handle(namespace, async |handle| {
        let request = handle.neighbours().get().set_address_family(AddressFamily::Inet);
        let entries: Vec<_> = request.execute().try_collect().await.unwrap();
        entries.iter().filter(|entry| entry.header.state == NeighbourState::Permanent).count()
    })
}

pub fn delete_link(namespace: &Path, index: u32) {
    with_handle(namespace, async |handle| handle.link().del(index).execute().await.unwrap());
}

pub fn set_down(namespace: &Path, index: u32) {
    with_handle(namespace, async |handle| {
        handle.link().change(LinkUnspec::new_with_index(index).down().build()).execute().await.unwrap();
    });
}

pub fn set_mtu(namespace: &Path, index: u32, mtu: u32) {
    with_handle(namespace, async |handle| {
        handle.link().change(LinkUnspec::new_with_index(index).mtu(mtu).build()).execute().await.unwrap();
    });
}

pub fn with_handle<T: Send>(namespace: &Path, work: impl AsyncFnOnce(Handle) -> T + Send) -> T {
    run_in(namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            let connection = tokio::spawn(connection);
            let result = work(handle).await;
            connection.abort();
            result
        })
    })
    .unwrap()
}
