//! Traffic of every port, and the state of the routers, read from the kernel in one dump a namespace.

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Stats64},
};

use crate::{
    conn::Conn,
    error::NetError,
    messages,
    seen::our_kind,
    spec::router_port_id,
    state::{Kind, Place},
};

/// What has gone through a port since it was made, as its owner (the guest or the router) sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// The port's id: `web[3]/eth0`, or `core/eth0` for a router's interface.
    pub port: String,
    /// The segment that the port is on; `None` on a link between routers.
    pub segment: Option<String>,
    /// Bytes that arrived at the owner, Ethernet headers included.
    pub rx_bytes: u64,
    /// Bytes that the owner sent.
    pub tx_bytes: u64,
    /// Frames that arrived at the owner.
    pub rx_frames: u64,
    /// Frames that the owner sent.
    pub tx_frames: u64,
    /// Frames that were meant for the owner and dropped, mostly because it does not read fast enough.
    pub rx_drops: u64,
    /// Frames that the owner sent and the host dropped at the door.
    pub tx_drops: u64,
}

/// Whether a router works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterState {
    /// The router's name.
    pub name: String,
    /// Whether it forwards packets.
    pub forwarding: bool,
    /// Its interfaces and whether each is up with a carrier.
    pub interfaces: Vec<(String, bool)>,
}

impl RouterState {
    /// Whether it forwards and all its interfaces are up.
    pub fn is_up(&self) -> bool {
        self.forwarding && self.interfaces.iter().all(|(_, up)| *up)
    }
}

/// A device as the counters need it.
struct Counted {
    index: u32,
    name: String,
    alias: String,
    kind: Option<Kind>,
    master: u32,
    /// Up with a carrier.
    carries: bool,
    stats: Stats64,
}

/// The counters of the ports in the connection's namespace.
pub(crate) async fn ports(conn: &Conn, place: &Place) -> Result<Vec<PortCounters>, NetError> {
    let devices = devices(conn, true).await?;
    Ok(match place {
        Place::Switch => devices.iter().filter_map(|device| tap_counters(device, &devices)).collect(),
        Place::Router(router) => devices.iter().filter_map(|device| interface_counters(device, router)).collect(),
    })
}

/// The interfaces of the router in the connection's namespace, and whether each is up with a carrier.
pub(crate) async fn interfaces(conn: &Conn) -> Result<Vec<(String, bool)>, NetError> {
    let devices = devices(conn, false).await?;
    Ok(devices.into_iter().filter(is_interface).map(|d| (d.name, d.carries)).collect())
}

/// The full name that the namespace was given: the experiment's or the router's. `None` if it is half made.
pub(crate) async fn name_of_namespace(conn: &Conn) -> Result<Option<String>, NetError> {
    let devices = devices(conn, false).await?;
    Ok(devices.into_iter().find(|device| device.name == "lo").map(|lo| lo.alias).filter(|alias| !alias.is_empty()))
}

async fn devices(conn: &Conn, statistics: bool) -> Result<Vec<Counted>, NetError> {
    let links = conn.dump(messages::dump_links(statistics), "list devices").await?;
    let links = links.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(message) => Some(counted(message)),
        _ => None,
    });
    Ok(links.collect())
}

fn counted(message: LinkMessage) -> Counted {
    let mut device = Counted {
        index: message.header.index,
        name: String::new(),
        alias: String::new(),
        kind: None,
        master: 0,
        // The kernel's own "running" follows the carrier with some delay.
        carries: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        stats: Stats64::default(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => device.name = value,
            LinkAttribute::IfAlias(value) => device.alias = value,
            LinkAttribute::Controller(value) => device.master = value,
            LinkAttribute::Stats64(value) => device.stats = value,
            LinkAttribute::LinkInfo(infos) => {
                device.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => our_kind(kind),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    device
}

/// Whether a device in a router's namespace is one of its interfaces: a cable's end, or a tunnel to another host.
fn is_interface(device: &Counted) -> bool {
    matches!(device.kind, Some(Kind::Veth | Kind::Vxlan))
}

/// What a tap receives is what its guest sent.
fn tap_counters(device: &Counted, devices: &[Counted]) -> Option<PortCounters> {
    let segment = devices.iter().find(|bridge| bridge.index == device.master && device.master != 0);
    let stats = &device.stats;
    (device.kind == Some(Kind::Tap)).then(|| PortCounters {
        port: device.alias.clone(),
        segment: segment.map(|bridge| bridge.alias.clone()),
        rx_bytes: stats.tx_bytes,
        tx_bytes: stats.rx_bytes,
        rx_frames: stats.tx_packets,
        tx_frames: stats.rx_packets,
        rx_drops: stats.tx_dropped,
        tx_drops: stats.rx_dropped,
    })
}

fn interface_counters(device: &Counted, router: &str) -> Option<PortCounters> {
    // The alias is "core/eth0 -> lan lan0" or "core/eth1 -> edge/eth0".
    let segment = device.alias.split_once(" -> lan ").map(|(_, segment)| segment.to_owned());
    let stats = &device.stats;
    is_interface(device).then(|| PortCounters {
        port: router_port_id(router, &device.name),
        segment,
        rx_bytes: stats.rx_bytes,
        tx_bytes: stats.tx_bytes,
        rx_frames: stats.rx_packets,
        tx_frames: stats.tx_packets,
        rx_drops: stats.rx_dropped,
        tx_drops: stats.tx_dropped,
    })
}
