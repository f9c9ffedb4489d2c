//! Hosts for tests: network namespaces joined by a wire, each with a laboratory of its own. A *wire* is a namespace with
//! a bridge, into which every host's cable leads; what goes over it is counted there.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use fleet_net::{
    Attachment, InterfaceSpec, NetError, NetReport, Network, NetworkSpec, RemoteStation, SegmentSpec, TunnelSpec,
    router_port_id, run_in,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, socket};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, packet_route::link::LinkAttribute};

use super::{Lab, experiment, inspect, port, port_id, segment};

/// The MTU of the wire and of all cables, in bytes.
pub const WIRE_MTU: u32 = 1600;

/// Some hosts on one wire. Dropping it removes all that they have.
pub struct Hosts {
    /// Its namespaces are the wire and the hosts.
    lab: Lab,
    /// Each host's own, for the namespaces of experiments.
    labs: Vec<Lab>,
    addresses: Vec<IpAddr>,
}

impl Hosts {
    /// So many hosts with IPv4 addresses.
    pub fn new(count: u8) -> Self {
        Self::with(count, |number| [192, 0, 2, number].into())
    }

    /// So many hosts with IPv6 addresses.
    pub fn with_ipv6(count: u8) -> Self {
        Self::with(count, |number| format!("2001:db8::{number}").parse().unwrap())
    }

    fn with(count: u8, address: impl Fn(u8) -> IpAddr) -> Self {
        let lab = Lab::new();
        let hosts =
            Self { labs: (0..count).map(|_| Lab::new()).collect(), addresses: (1..=count).map(address).collect(), lab };
        make_namespace(&hosts.wire());
        // The test's own wire speaks no IPv6 of its own accord, so that all that is counted is the hosts'.
        quiet(&hosts.wire());
        on(&hosts.wire(), async move |handle| {
            let bridge = LinkBridge::new("wire").mtu(WIRE_MTU).build();
            handle.link().add(bridge).execute().await.unwrap();
            up(&handle, "wire").await;
        });
        for number in 0..hosts.addresses.len() {
            hosts.connect(number);
        }
        hosts
    }

    fn wire(&self) -> PathBuf {
        self.lab.config().netns_dir.join("test-wire")
    }

    /// The namespace that stands for a host.
    pub fn namespace(&self, host: usize) -> PathBuf {
        self.lab.config().netns_dir.join(format!("test-host{host}"))
    }

    fn connect(&self, host: usize) {
        let (namespace, address) = (self.namespace(host), self.addresses[host]);
        make_namespace(&namespace);
        quiet(&namespace);
        let file = std::fs::File::open(&namespace).unwrap();
        let cable = format!("cable{host}");
        on(&self.wire(), async |handle| {
            use std::os::fd::AsRawFd;
            let link = LinkVeth::new(&cable, &format!("{cable}-far")).mtu(WIRE_MTU).build();
            handle.link().add(link).execute().await.unwrap();
            let far = LinkUnspec::new_with_name(&format!("{cable}-far")).setns_by_fd(file.as_raw_fd()).build();
            handle.link().change(far).execute().await.unwrap();
            let wire = index(&handle, "wire").await;
            handle
                .link()
                .change(LinkUnspec::new_with_name(&cable).controller(wire).up().build())
                .execute()
                .await
                .unwrap();
        });
        on(&namespace, async |handle| {
            let device = index(&handle, &format!("{cable}-far")).await;
            let far = LinkUnspec::new_with_index(device).name("underlay".to_owned()).mtu(WIRE_MTU);
            handle.link().change(far.build()).execute().await.unwrap();
            let prefix_len = if address.is_ipv4() { 24 } else { 64 };
            let mut request = handle.address().add(device, address, prefix_len);
            if address.is_ipv6() {
                // Usable at once: nobody else has it.
                use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
                request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            request.execute().await.unwrap();
            up(&handle, "underlay").await;
            up(&handle, "lo").await;
        });
    }

    /// A host's end of tunnels.
    pub fn address(&self, host: usize) -> IpAddr {
        self.addresses[host]
    }

    /// The network of an experiment on a host.
    pub fn network(&self, host: usize, experiment: &str) -> Network {
        self.labs[host].network(experiment)
    }

    /// The files of experiments' namespaces on a host.
    pub fn files(&self, host: usize) -> Vec<PathBuf> {
        self.labs[host].files()
    }

    /// Does something as the agent of a host would: in the host's namespace.
    pub fn at<T: Send>(&self, host: usize, work: impl AsyncFnOnce() -> T + Send) -> T {
        run_in(&self.namespace(host), || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work())
        })
        .unwrap()
    }

    /// Reconciles an experiment's network on a host.
    pub fn try_reconcile(&self, host: usize, spec: &NetworkSpec) -> Result<NetReport, NetError> {
        let network = self.network(host, &spec.experiment);
        self.at(host, async || network.reconcile(spec, |_| ()).await)
    }

    /// Reconciles an experiment's network on a host.
    pub fn reconcile(&self, host: usize, spec: &NetworkSpec) -> NetReport {
        self.try_reconcile(host, spec).unwrap()
    }

    /// Says what reconciling would do.
    pub fn plan(&self, host: usize, spec: &NetworkSpec) -> Result<NetReport, NetError> {
        let network = self.network(host, &spec.experiment);
        self.at(host, async || network.plan(spec).await)
    }

    /// Sets the MTU of a host's underlay.
    pub fn set_mtu(&self, host: usize, mtu: u32) {
        let namespace = self.namespace(host);
        inspect::set_mtu(&namespace, inspect::links(&namespace)["underlay"].index, mtu);
    }

    /// Begins to look at what goes over the wire.
    pub fn watch(&self) -> Watch {
        Watch::begin(&self.wire())
    }
}

/// What went over a wire while it was looked at.
pub struct Watch {
    stop: Arc<AtomicBool>,
    frames: JoinHandle<Vec<Vec<u8>>>,
    /// A place to send the last frame from.
    wire: PathBuf,
}

/// An EtherType for experiments: the last frame that a watch takes.
const END: [u8; 2] = [0x88, 0xb6];

impl Watch {
    fn begin(wire: &std::path::Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stopped, namespace) = (Arc::clone(&stop), wire.to_owned());
        let frames = std::thread::spawn(move || {
            run_in(&namespace, || {
                let socket = packet_socket();
                ready.send(()).unwrap();
                let mut frames = Vec::new();
                let mut frame = vec![0; 4096];
                loop {
                    use std::os::fd::AsRawFd;
                    let length = recv(socket.as_raw_fd(), &mut frame, nix::sys::socket::MsgFlags::empty()).unwrap();
                    if frame[12..14] == END && stopped.load(Ordering::Relaxed) {
                        return frames;
                    }
                    frames.push(frame[..length].to_vec());
                }
            })
            .unwrap()
        });
        is_ready.recv().unwrap();
        Self { stop, frames, wire: wire.to_owned() }
    }

    /// The frames in tunnels that went over the wire up to now, each once a device that it passed.
    pub fn inner(self) -> Vec<Vec<u8>> {
        self.all().iter().filter_map(|frame| inner(frame).map(<[u8]>::to_vec)).collect()
    }

    /// All frames that went over the wire up to now.
    pub fn all(self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        run_in(&self.wire, || {
            let socket = packet_socket();
            let mut frame = vec![0xff; 6];
            frame.extend([2, 0, 0, 0, 0, 0xee]);
            frame.extend(END);
            frame.extend([0; 46]);
            send_on(&socket, "wire", &frame);
        })
        .unwrap();
        self.frames.join().unwrap()
    }
}

/// The frame inside a VXLAN packet to the usual port.
pub fn inner(frame: &[u8]) -> Option<&[u8]> {
    let ip = match frame.get(12..14)? {
        [0x08, 0x00] if frame.get(23)? == &17 => 20,
        [0x86, 0xdd] if frame.get(20)? == &17 => 40,
        _ => return None,
    };
    let udp = 14 + ip;
    let port = u16::from_be_bytes(frame.get(udp + 2..udp + 4)?.try_into().ok()?);
    (port == fleet_net::VXLAN_PORT).then(|| frame.get(udp + 16..))?
}

/// The EtherType of a frame.
pub fn kind(frame: &[u8]) -> [u8; 2] {
    [frame[12], frame[13]]
}

fn packet_socket() -> std::os::fd::OwnedFd {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap()
}

fn send_on(socket: &std::os::fd::OwnedFd, device: &str, frame: &[u8]) {
    use std::os::fd::AsRawFd;
    let name = std::ffi::CString::new(device).unwrap();
    // SAFETY: `name` ends in zero and lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no device {device}");
    // SAFETY: sockaddr_ll is plain data for which all zeroes are a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = index as i32;
    // SAFETY: the pointers and lengths are those of values that live through the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(&to).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}

/// A namespace with a name, made without the crate under test.
fn make_namespace(path: &std::path::Path) {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "").unwrap();
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none).unwrap();
    };
    std::thread::scope(|scope| scope.spawn(make).join()).unwrap();
}

/// No router solicitations, duplicate address detection or multicast reports.
fn quiet(namespace: &std::path::Path) {
    let set = || {
        for setting in ["default/accept_dad", "default/router_solicitations", "default/addr_gen_mode"] {
            let value = if setting.ends_with("mode") { "1" } else { "0" };
            // Lacking where the kernel has no IPv6.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{setting}"), value);
        }
    };
    run_in(namespace, set).unwrap();
}

async fn index(handle: &Handle, name: &str) -> u32 {
    use futures::TryStreamExt;
    let links: Vec<_> = handle.link().get().execute().try_collect().await.unwrap();
    let named = |attributes: &[LinkAttribute]| attributes.contains(&LinkAttribute::IfName(name.into()));
    links.iter().find(|link| named(&link.attributes)).unwrap().header.index
}

async fn up(handle: &Handle, name: &str) {
    handle.link().change(LinkUnspec::new_with_name(name).up().build()).execute().await.unwrap();
}

fn on(namespace: &std::path::Path, work: impl AsyncFnOnce(Handle) + Send) {
    inspect::with_handle(namespace, work);
}

/// Longest wait for a frame that must come; far more than it takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something asynchronous.
pub fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Whether this kernel can make tunnels; tests of them have nothing to do where it cannot.
pub fn has_tunnels() -> bool {
    let has = wait_for(fleet_net::has_tunnels()).unwrap();
    if !has {
        eprintln!("skipped: this kernel has no vxlan");
    }
    has
}

/// The specs of one lan for each host, where `members[host]` are the numbers of its guests.
pub fn crossing_lan(hosts: &Hosts, name: &str, members: &[&[u16]]) -> Vec<NetworkSpec> {
    let whole = NetworkSpec {
        segments: vec![SegmentSpec {
            ports: members.iter().copied().flatten().map(|number| port(1, *number)).collect(),
            ..segment(1, 0)
        }],
        ..experiment(name)
    };
    let home = |id: &str| {
        let number = members.iter().position(|members| members.iter().any(|number| port_id(1, *number) == id));
        number.unwrap()
    };
    on_hosts(hosts, &whole, home, |_| 0)
}

/// What each host has of a whole network, given the hosts of ports of VMs and of routers. This is what an agent works
/// out of its plan; here it is done anew, in the plainest way.
pub fn on_hosts(
    hosts: &Hosts,
    whole: &NetworkSpec,
    port_host: impl Fn(&str) -> usize,
    router_host: impl Fn(&str) -> usize,
) -> Vec<NetworkSpec> {
    let of_host = |host: usize| {
        let mut spec = NetworkSpec { underlay: Some(hosts.address(host)), ..whole.clone() };
        for (number, segment) in spec.segments.iter_mut().enumerate() {
            let (here, there): (Vec<_>, Vec<_>) =
                std::mem::take(&mut segment.ports).into_iter().partition(|port| port_host(&port.id) == host);
            segment.ports = here;
            let station = |mac, ip, host| RemoteStation { mac, ip, host: hosts.address(host) };
            let mut stations: Vec<_> =
                there.iter().map(|port| station(port.mac, port.ip, port_host(&port.id))).collect();
            for router in whole.routers.iter().filter(|router| router_host(&router.name) != host) {
                let on_it = |i: &&InterfaceSpec| i.attachment == Attachment::Segment(segment.name.clone());
                let ports = router.interfaces.iter().filter(on_it);
                stations.extend(ports.map(|port| station(port.mac, port.address, router_host(&router.name))));
            }
            let vni = number as u32 + 1;
            segment.tunnel = (!stations.is_empty()).then_some(TunnelSpec { vni, stations });
        }
        spec.routers.retain(|router| router_host(&router.name) == host);
        for (router, interface) in spec.routers.iter_mut().flat_map(|r| {
            let name = r.name.clone();
            r.interfaces.iter_mut().map(move |interface| (name.clone(), interface))
        }) {
            let Attachment::Link { peer_router, peer_interface } = &interface.attachment else { continue };
            let there = router_host(peer_router);
            if there == host {
                continue;
            }
            let peers = &whole.routers.iter().find(|router| router.name == *peer_router).unwrap().interfaces;
            let end = peers.iter().find(|end| end.name == *peer_interface).unwrap();
            let ends = [router_port_id(&router, &interface.name), router_port_id(peer_router, peer_interface)];
            // Both ends work out the same number.
            let vni = 1000 + ends.iter().flat_map(|end| end.bytes()).map(u32::from).sum::<u32>();
            let station = RemoteStation { mac: end.mac, ip: end.address, host: hosts.address(there) };
            interface.attachment = Attachment::Tunnel { vni, peer: ends[1].clone(), station };
        }
        let used = |segment: &SegmentSpec| {
            let mut interfaces = spec.routers.iter().flat_map(|router| &router.interfaces);
            !segment.ports.is_empty() || interfaces.any(|i| i.attachment == Attachment::Segment(segment.name.clone()))
        };
        let segments = spec.segments.iter().filter(|segment| used(segment)).cloned().collect();
        NetworkSpec { segments, ..spec }
    };
    (0..hosts.addresses.len()).map(of_host).collect()
}
