//! The rtnetlink messages of this crate, one function each.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan,
    RouteMessageBuilder,
    packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::AddressMessage,
        link::{
            InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkInfo,
            LinkMessage,
        },
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};

use crate::{
    conn::Request,
    spec::Mac,
    state::{Prefix, Tunnel},
};

/// The group that devices are put into before they are removed together: removing a thousand taps one by one takes
/// 22 s, by group one. The number is "flee" in ASCII, not likely to be anybody else's.
pub(crate) const DOOMED_GROUP: u32 = 0x666c_6565;

/// Somebody else removed it first, or a cable's other end took it along.
const GONE: &[i32] = &[libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL];

fn request(message: RouteNetlinkMessage, flags: u16, doing: String) -> Request {
    Request { message, flags, doing, tolerated: &[] }
}

fn tolerant(message: RouteNetlinkMessage, flags: u16, doing: String) -> Request {
    Request { message, flags, doing, tolerated: GONE }
}

/// Changes an existing device. `RTM_NEWLINK` without `NLM_F_CREATE`, for `RTM_SETLINK` ignores port settings.
fn change(message: LinkMessage, doing: String) -> Request {
    request(RouteNetlinkMessage::NewLink(message), 0, doing)
}

/// All devices. With statistics only where they are wanted: they are half of the answer.
pub(crate) fn dump_links(statistics: bool) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    if !statistics {
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    }
    RouteNetlinkMessage::GetLink(message)
}

/// Tunnels only, where the kernel can tell; it shows all devices while it has no tunnel driver loaded.
pub(crate) fn dump_tunnels() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan)]));
    RouteNetlinkMessage::GetLink(message)
}

/// All neighbours of a family; `AF_BRIDGE` means FDB entries.
pub(crate) fn dump_neighbours(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    RouteNetlinkMessage::GetNeighbour(message)
}

/// All IPv4 addresses.
pub(crate) fn dump_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessageBuilder::<Ipv4Addr>::new().build())
}

/// All addresses of both families.
pub(crate) fn dump_all_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// All IPv4 routes.
pub(crate) fn dump_routes() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetRoute(RouteMessageBuilder::<Ipv4Addr>::new().build())
}

/// Makes a bridge. It is not up yet.
pub(crate) fn make_bridge(name: &str, mac: Mac, mtu: u32, settings: &[InfoBridge], doing: String) -> Request {
    let mut builder = LinkMessageBuilder::<LinkBridge>::new(name).address(mac.to_vec()).mtu(mtu);
    for setting in settings {
        builder = builder.append_info_data(setting.clone());
    }
    request(RouteNetlinkMessage::NewLink(builder.build()), NLM_F_CREATE | NLM_F_EXCL, doing)
}

/// One end of a cable to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VethEnd<'a> {
    pub name: &'a str,
    pub mac: Option<Mac>,
    pub mtu: u32,
}

/// Makes a cable between the connection's namespace and `peer_namespace`, both ends born in place. The far end must
/// not be up: the kernel answers ENOTCONN.
pub(crate) fn make_veth(near: VethEnd<'_>, far: VethEnd<'_>, peer_namespace: BorrowedFd<'_>, doing: String) -> Request {
    let mut peer = veth_end(far);
    peer.attributes.push(LinkAttribute::NetNsFd(peer_namespace.as_raw_fd()));
    let mut builder = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth);
    for attribute in veth_end(near).attributes {
        builder = builder.append_extra_attribute(attribute);
    }
    let message = builder.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
    request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, doing)
}

fn veth_end(end: VethEnd<'_>) -> LinkMessage {
    let mut builder = LinkUnspec::new_with_name(end.name).mtu(end.mtu);
    if let Some(mac) = end.mac {
        builder = builder.address(mac.to_vec());
    }
    builder.build()
}

/// A tunnel to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewTunnel<'a> {
    pub name: &'a str,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub tunnel: Tunnel,
}

/// Makes a tunnel that is born in `namespace`. Its socket, which is opened when it comes up, is in the namespace of the
/// connection: there the other hosts must be reachable. It has no entry for what is for all, so that it floods nothing.
pub(crate) fn make_tunnel(new: NewTunnel<'_>, namespace: BorrowedFd<'_>, doing: String) -> Request {
    let Tunnel { vni, port, local, learning } = new.tunnel;
    let mut builder = LinkVxlan::new(new.name, vni).port(port).learning(learning).mtu(new.mtu);
    builder = match local {
        IpAddr::V4(local) => builder.local(local),
        IpAddr::V6(local) => builder.local6(local),
    };
    if let Some(mac) = new.mac {
        builder = builder.address(mac.to_vec());
    }
    let message = builder.setns_by_fd(namespace.as_raw_fd()).build();
    request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, doing)
}

/// Gives a device its human name, and brings it up if `up`.
pub(crate) fn set_alias_by_name(name: &str, alias: &str, up: bool, doing: String) -> Request {
    let builder = LinkUnspec::new_with_name(name).alias(alias);
    change(if up { builder.up() } else { builder }.build(), doing)
}

/// What of a device is to be changed; `None` leaves it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LinkChange {
    pub alias: Option<String>,
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
    /// Index of the bridge to plug the device into.
    pub master: Option<u32>,
}

impl LinkChange {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Changes a device.
pub(crate) fn set_link(index: u32, link: LinkChange, doing: String) -> Request {
    let mut builder = LinkUnspec::new_with_index(index);
    if let Some(alias) = link.alias {
        builder = builder.alias(alias);
    }
    if let Some(mtu) = link.mtu {
        builder = builder.mtu(mtu);
    }
    if let Some(mac) = link.mac {
        builder = builder.address(mac.to_vec());
    }
    if let Some(master) = link.master {
        builder = builder.controller(master);
    }
    change(builder.build(), doing)
}

/// Sets a bridge's own settings.
pub(crate) fn set_bridge(index: u32, settings: &[InfoBridge], doing: String) -> Request {
    let builder = LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge).index(index);
    change(builder.set_info_data(InfoData::Bridge(settings.to_vec())).build(), doing)
}

/// Sets a port's guards and brings it up, in this order and in one request: it never forwards unguarded.
pub(crate) fn set_port_and_up(index: u32, guards: &[InfoBridgePort], doing: String) -> Request {
    let mut builder = LinkBridgePort::new(index).up();
    for guard in guards {
        builder = builder.append_info_data(guard.clone());
    }
    change(builder.build(), doing)
}

/// Brings a device up.
pub(crate) fn set_up(index: u32, doing: String) -> Request {
    change(LinkUnspec::new_with_index(index).up().build(), doing)
}

/// Marks a device for [`remove_doomed`].
pub(crate) fn doom(index: u32, doing: String) -> Request {
    let message = LinkUnspec::new_with_index(index).link_group(DOOMED_GROUP).build();
    tolerant(RouteNetlinkMessage::NewLink(message), 0, doing)
}

/// Removes all marked devices of the namespace at once.
pub(crate) fn remove_doomed(doing: String) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::new().link_group(DOOMED_GROUP).build();
    tolerant(RouteNetlinkMessage::DelLink(message), 0, doing)
}

/// Whose FDB entries a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// The bridge's that the device is a port of.
    Bridge,
    /// The tunnel's own, which says behind which host an address is.
    Tunnel(IpAddr),
    /// Both, in one request.
    Both(IpAddr),
}

/// A static FDB entry: frames for `mac` leave by the device `index`.
fn fdb_entry(index: u32, mac: &Mac, table: Table) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    let (state, flags, host) = match table {
        Table::Bridge => (NeighbourState::Noarp, NeighbourFlags::Controller, None),
        Table::Tunnel(host) => (STATIC, NeighbourFlags::Own, Some(host)),
        Table::Both(host) => (STATIC, NeighbourFlags::Own | NeighbourFlags::Controller, Some(host)),
    };
    message.header.state = state;
    message.header.flags = flags;
    message.attributes.extend(host.map(|host| NeighbourAttribute::Destination(host.into())));
    message
}

/// `NUD_NOARP | NUD_REACHABLE`: to a bridge a static entry as `NUD_NOARP` alone is, which a tunnel refuses
/// (`vxlan_fdb_add`). It does not age in either.
const STATIC: NeighbourState = NeighbourState::Other(0x42);

/// Writes a static FDB entry over whatever there was for the address.
pub(crate) fn add_fdb(index: u32, mac: &Mac, table: Table, doing: String) -> Request {
    request(RouteNetlinkMessage::NewNeighbour(fdb_entry(index, mac, table)), NLM_F_CREATE | NLM_F_REPLACE, doing)
}

/// Removes an FDB entry.
pub(crate) fn remove_fdb(index: u32, mac: &Mac, table: Table, doing: String) -> Request {
    tolerant(RouteNetlinkMessage::DelNeighbour(fdb_entry(index, mac, table)), 0, doing)
}

/// Has a tunnel send a copy of what is for all to a host, beside those that have one already.
pub(crate) fn add_copy(index: u32, host: IpAddr, doing: String) -> Request {
    let entry = fdb_entry(index, &[0; 6], Table::Tunnel(host));
    request(RouteNetlinkMessage::NewNeighbour(entry), NLM_F_CREATE | NLM_F_APPEND, doing)
}

/// Has a tunnel send no copies to a host any more.
pub(crate) fn remove_copy(index: u32, host: IpAddr, doing: String) -> Request {
    remove_fdb(index, &[0; 6], Table::Tunnel(host), doing)
}

fn neighbour(index: u32, ip: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)));
    message
}

/// Writes a permanent neighbour over whatever the device had for the address.
pub(crate) fn add_neighbour(index: u32, ip: Ipv4Addr, mac: &Mac, doing: String) -> Request {
    let mut message = neighbour(index, ip);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, doing)
}

/// Removes a neighbour.
pub(crate) fn remove_neighbour(index: u32, ip: Ipv4Addr, doing: String) -> Request {
    tolerant(RouteNetlinkMessage::DelNeighbour(neighbour(index, ip)), 0, doing)
}

/// Gives a device an address.
pub(crate) fn add_address(index: u32, (ip, prefix_len): Prefix, doing: String) -> Request {
    let message = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, prefix_len).build();
    request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE, doing)
}

/// Takes an address away.
pub(crate) fn remove_address(index: u32, (ip, prefix_len): Prefix, doing: String) -> Request {
    let message = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, prefix_len).build();
    tolerant(RouteNetlinkMessage::DelAddress(message), 0, doing)
}

/// Writes a static route over whatever the main table had for the destination.
pub(crate) fn add_route((to, prefix_len): Prefix, via: Ipv4Addr, doing: String) -> Request {
    let message = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, prefix_len).gateway(via).build();
    request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE, doing)
}

/// Removes a static route.
pub(crate) fn remove_route((to, prefix_len): Prefix, via: Ipv4Addr, doing: String) -> Request {
    let message = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, prefix_len).gateway(via).build();
    tolerant(RouteNetlinkMessage::DelRoute(message), 0, doing)
}
