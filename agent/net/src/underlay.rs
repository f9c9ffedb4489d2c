//! The network that joins the hosts, as far as tunnels need it: this host's address on it, what its device carries, and
//! whether the kernel has tunnels at all. Read from the namespace in which an operation is called, never changed.
//!
//! A tunnel takes part of each packet for its own headers, so a segment over it carries less than the underlay does.
//! The kernel would not say so: it drops or fragments what is too long, packet by packet.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};

use crate::{
    check::SpecError,
    conn::Conn,
    error::NetError,
    messages::{self, NewTunnel},
    netns,
    paths::{self, Paths},
    seen,
    spec::{Attachment, NetworkSpec, router_port_id},
    state::{Kind, SeenDevice, Tunnel},
    worker::{self, Cancel},
};

/// The UDP port that IANA gave to VXLAN (RFC 7348, section 8).
pub const VXLAN_PORT: u16 = 4789;

/// Bytes that a tunnel puts around a packet: the inner Ethernet header (14), and IP (20 or 40), UDP (8) and VXLAN (8)
/// headers (RFC 7348, section 5). The outer Ethernet header is not part of the underlay's MTU.
pub const fn overhead(underlay: IpAddr) -> u32 {
    match underlay {
        IpAddr::V4(_) => 50,
        IpAddr::V6(_) => 70,
    }
}

/// Whether the kernel can make tunnels, found out by making one in a namespace that ends with the call.
///
/// # Errors
/// When no namespace could be made to try it in.
pub async fn has_tunnels() -> Result<bool, NetError> {
    worker::on_thread(async move |cancel| probe(cancel).await).await
}

/// Changes the calling thread's namespace.
async fn probe(cancel: &Cancel) -> Result<bool, NetError> {
    const NOBODY: &str = "none, a probe";
    let own = netns::own()?;
    netns::make_nameless()?;
    let conn = Conn::open(NOBODY)?;
    let namespace = netns::own()?;
    let tunnel = Tunnel { vni: 1, port: VXLAN_PORT, local: Ipv4Addr::LOCALHOST.into(), learning: false };
    let new = NewTunnel { name: "probe", mac: None, mtu: 1500, tunnel };
    let make = messages::make_tunnel(new, namespace.as_fd(), "make a tunnel".into());
    let made = conn.run(vec![make], cancel, |_| ()).await;
    netns::enter_file(&own)?;
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Every reason why the tunnels of a checked network cannot be made from here. Must run on a thread of the crate's own,
/// in the namespace of the underlay; it is there again afterwards.
pub(crate) async fn check(paths: &Paths, spec: &NetworkSpec, cancel: &Cancel) -> Result<(), NetError> {
    let crossing = crossing(spec);
    let Some(local) = spec.underlay.filter(|_| !crossing.is_empty()) else { return Ok(()) };
    let mut problems = Vec::new();
    if !probe(cancel).await? {
        problems.push(SpecError::NoTunnels);
    }
    match device_of(&Conn::open(&spec.experiment)?, local).await? {
        None => problems.push(SpecError::NoUnderlay { address: local }),
        Some(device) => {
            let room = device.mtu.saturating_sub(overhead(local));
            let too_long = crossing.iter().filter(|crossing| crossing.mtu > room);
            problems.extend(too_long.map(|crossing| SpecError::UnderlayMtu {
                what: crossing.what.clone(),
                mtu: crossing.mtu,
                device: device.name.clone(),
                underlay: device.mtu,
                overhead: overhead(local),
            }));
        }
    }
    let vnis: HashSet<u32> = crossing.iter().map(|crossing| crossing.vni).collect();
    let taken = taken(paths, &vnis).await?;
    problems.extend(taken.into_iter().map(|(vni, experiment)| SpecError::VniTaken { vni, experiment }));
    if problems.is_empty() {
        return Ok(());
    }
    Err(NetError::Spec { experiment: spec.experiment.clone(), problems })
}

/// A segment or link that crosses hosts.
struct Crossing {
    what: String,
    mtu: u32,
    vni: u32,
}

fn crossing(spec: &NetworkSpec) -> Vec<Crossing> {
    let segments = spec.segments.iter().filter_map(|segment| {
        let tunnel = segment.tunnel.as_ref()?;
        Some(Crossing { what: format!("lan {}", segment.name), mtu: segment.mtu, vni: tunnel.vni })
    });
    let interfaces = spec.routers.iter().flat_map(|router| {
        router.interfaces.iter().filter_map(|interface| match &interface.attachment {
            Attachment::Tunnel { vni, peer, .. } => {
                let what = format!("the link from {} to {peer}", router_port_id(&router.name, &interface.name));
                Some(Crossing { what, mtu: interface.mtu, vni: *vni })
            }
            _ => None,
        })
    });
    segments.chain(interfaces).collect()
}

/// A device of the underlay.
struct Device {
    name: String,
    mtu: u32,
}

/// The device that has an address, if any has.
async fn device_of(conn: &Conn, address: IpAddr) -> Result<Option<Device>, NetError> {
    let addresses = conn.dump(messages::dump_all_addresses(), "list addresses").await?;
    let index = addresses.into_iter().find_map(|message| match message {
        RouteNetlinkMessage::NewAddress(message) if has(&message, address) => Some(message.header.index),
        _ => None,
    });
    let Some(index) = index else { return Ok(None) };
    let devices = seen::devices(conn).await?;
    let found = devices.into_iter().find(|(_, device)| device.index == index);
    Ok(found.map(|(name, device)| Device { name, mtu: device.mtu }))
}

/// Where an address has a peer, `IFA_LOCAL` is the own one; IPv6 has `IFA_ADDRESS` alone.
fn has(message: &AddressMessage, address: IpAddr) -> bool {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(local) => Some(*local),
        _ => None,
    });
    let only = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(only) => Some(*only),
        _ => None,
    });
    local.or(only) == Some(address)
}

/// Those of the VNIs that other experiments of this host use, with their names. Two devices of one VNI and port would
/// share one socket, which is that of the host.
async fn taken(paths: &Paths, vnis: &HashSet<u32>) -> Result<Vec<(u32, String)>, NetError> {
    let config = paths.config();
    let own: HashSet<PathBuf> = paths.own_files()?.into_iter().map(|file| file.path).collect();
    let underlay = netns::own()?;
    let mut taken = Vec::new();
    for file in paths::files(config)? {
        if own.contains(&file.path) || !netns::is_live(&file.path)? {
            continue;
        }
        for (_, device) in tunnels(&file.path, &file.experiment).await? {
            if let Some(tunnel) = device.tunnel.filter(|tunnel| tunnel.port == config.vxlan_port)
                && vnis.contains(&tunnel.vni)
            {
                taken.push((tunnel.vni, file.experiment.clone()));
            }
        }
    }
    netns::enter_file(&underlay)?;
    Ok(taken)
}

/// The tunnels in a namespace, which the calling thread is in afterwards.
async fn tunnels(namespace: &Path, experiment: &str) -> Result<Vec<(String, SeenDevice)>, NetError> {
    netns::enter(namespace)?;
    let conn = Conn::open(experiment)?;
    let devices = seen::listed(&conn, messages::dump_tunnels()).await?;
    Ok(devices.into_iter().filter(|(_, device)| device.kind == Some(Kind::Vxlan)).collect())
}

/// Removes the tunnels in a namespace at once, and not some time after its name went: until then nobody else on this
/// host could have their VNIs. The calling thread is in the namespace afterwards.
pub(crate) async fn remove_tunnels(namespace: &Path, experiment: &str, cancel: &Cancel) -> Result<(), NetError> {
    let tunnels = tunnels(namespace, experiment).await?;
    if tunnels.is_empty() {
        return Ok(());
    }
    let remove = messages::remove_doomed(format!("remove {} tunnels", tunnels.len()));
    let mark = tunnels.into_iter().map(|(name, device)| messages::doom(device.index, format!("remove tunnel {name}")));
    Conn::open(experiment)?.run(mark.chain([remove]).collect(), cancel, |_| ()).await
}
