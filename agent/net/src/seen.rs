//! Reads what a namespace holds.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoKind, InfoPortData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
};

use crate::{
    conn::Conn,
    error::NetError,
    messages,
    spec::Mac,
    state::{Kind, Prefix, SeenDevice, SeenPlace, Tunnel},
};

/// A tunnel's entry for this address says where copies of what is for all go.
const ALL: Mac = [0; 6];

/// Reads the devices and all entries of the connection's namespace.
pub(crate) async fn place(conn: &Conn) -> Result<SeenPlace, NetError> {
    let mut place = SeenPlace { devices: devices(conn).await?, ..SeenPlace::default() };
    for message in conn.dump(messages::dump_neighbours(AddressFamily::Bridge), "list FDB entries").await? {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
        let index = message.header.ifindex;
        let Some(mac) = link_address(&message) else { continue };
        match host_behind(&message) {
            Some(host) if mac == ALL => drop(place.copies.insert((index, host))),
            Some(host) => drop(place.far.insert((index, mac), host)),
            None if is_static_in_bridge(&message) => drop(place.fdb.insert((index, mac))),
            None => {}
        }
    }
    for message in conn.dump(messages::dump_neighbours(AddressFamily::Inet), "list neighbours").await? {
        if let RouteNetlinkMessage::NewNeighbour(message) = message
            && message.header.state == NeighbourState::Permanent
            && let (Some(mac), Some(ip)) = (link_address(&message), destination(&message))
        {
            place.neighbours.insert((message.header.ifindex, ip), mac);
        }
    }
    for message in conn.dump(messages::dump_addresses(), "list addresses").await? {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some(prefix) = local_address(&message)
        {
            place.addresses.insert((message.header.index, prefix));
        }
    }
    for message in conn.dump(messages::dump_routes(), "list routes").await? {
        if let RouteNetlinkMessage::NewRoute(message) = message
            && let Some((to, via)) = static_route(&message)
        {
            place.routes.insert(to, via);
        }
    }
    Ok(place)
}

/// Reads the devices of the connection's namespace, by name.
pub(crate) async fn devices(conn: &Conn) -> Result<BTreeMap<String, SeenDevice>, NetError> {
    listed(conn, messages::dump_links(false)).await
}

/// Reads the devices that a dump of links shows, by name.
pub(crate) async fn listed(conn: &Conn, dump: RouteNetlinkMessage) -> Result<BTreeMap<String, SeenDevice>, NetError> {
    let links = conn.dump(dump, "list devices").await?;
    Ok(links
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => Some(device(message)),
            _ => None,
        })
        .collect())
}

/// A device with its name.
fn device(message: LinkMessage) -> (String, SeenDevice) {
    let mut name = String::new();
    let mut device = SeenDevice {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..SeenDevice::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = value,
            LinkAttribute::IfAlias(value) => device.alias = value,
            LinkAttribute::Mtu(value) => device.mtu = value,
            LinkAttribute::Address(value) => device.mac = value,
            LinkAttribute::Controller(value) => device.master = value,
            LinkAttribute::Link(value) => device.peer_index = value,
            LinkAttribute::LinkInfo(infos) => link_info(&mut device, infos),
            _ => {}
        }
    }
    (name, device)
}

fn link_info(device: &mut SeenDevice, infos: Vec<LinkInfo>) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => device.kind = our_kind(&kind),
            LinkInfo::Data(InfoData::Bridge(settings)) => device.bridge = settings,
            LinkInfo::Data(InfoData::Vxlan(settings)) => device.tunnel = tunnel(&settings),
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => device.port = settings,
            _ => {}
        }
    }
}

/// Which of our kinds of device this is.
pub(crate) fn our_kind(kind: &InfoKind) -> Option<Kind> {
    match kind {
        InfoKind::Bridge => Some(Kind::Bridge),
        InfoKind::Tun => Some(Kind::Tap),
        InfoKind::Veth => Some(Kind::Veth),
        InfoKind::Vxlan => Some(Kind::Vxlan),
        _ => None,
    }
}

/// A vxlan device's settings; `None` if it lacks one of those that ours have.
fn tunnel(settings: &[InfoVxlan]) -> Option<Tunnel> {
    let (mut vni, mut port, mut local, mut learning) = (None, None, None, true);
    for setting in settings {
        match setting {
            InfoVxlan::Id(value) => vni = Some(*value),
            InfoVxlan::Port(value) => port = Some(*value),
            InfoVxlan::Local(value) => local = Some(IpAddr::V4(*value)),
            InfoVxlan::Local6(value) => local = Some(IpAddr::V6(*value)),
            InfoVxlan::Learning(value) => learning = *value,
            _ => {}
        }
    }
    Some(Tunnel { vni: vni?, port: port?, local: local?, learning })
}

/// Whether this is a static entry of a bridge; entries of the ports' own addresses are permanent, learnt ones reachable
/// or stale.
fn is_static_in_bridge(message: &NeighbourMessage) -> bool {
    let in_bridge = message.attributes.iter().any(|a| matches!(a, NeighbourAttribute::Controller(_)));
    in_bridge && message.header.state == NeighbourState::Noarp
}

/// The host of a tunnel's entry. A bridge's entries have none.
fn host_behind(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(|octets| Ipv4Addr::from(octets).into());
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(|octets| Ipv6Addr::from(octets).into())).ok()
        }
        _ => None,
    })
}

fn link_address(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) => Mac::try_from(address.as_slice()).ok(),
        _ => None,
    })
}

fn destination(message: &NeighbourMessage) -> Option<std::net::Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

fn local_address(message: &AddressMessage) -> Option<Prefix> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(ip)) => Some((*ip, message.header.prefix_len)),
        _ => None,
    })
}

/// A route of the kind that this crate makes: static, unicast, in the main table, with one next hop. Those of routing
/// daemons and of the kernel itself are left alone.
fn static_route(message: &RouteMessage) -> Option<(Prefix, std::net::Ipv4Addr)> {
    let header = &message.header;
    let ours = header.table == RouteHeader::RT_TABLE_MAIN
        && header.protocol == RouteProtocol::Static
        && header.kind == RouteType::Unicast;
    let via = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })?;
    let to = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    });
    // The default route has no destination.
    ours.then_some(((to.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED), header.destination_prefix_length), via))
}
