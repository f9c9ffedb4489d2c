//! The plan: what a network file comes to, as columns of ranges.
//!
//! A group of a million VMs is one row; a VM, its names and addresses are worked out when they are asked for, by
//! arithmetic on the group's row and the index. Everything here is read-only and cheap to clone.

mod choose;
pub(crate) mod closed;
mod duties;
mod fold;
mod folded;
pub(crate) mod form;
pub(crate) mod names;
pub(crate) mod path;
pub(crate) mod placement;
pub(crate) mod route;
pub(crate) mod routing;
pub(crate) mod rows;
pub(crate) mod schedule;
mod schedule_text;
mod summary;
mod target;
pub(crate) mod telemetry;
mod view;

pub use choose::Choice;
pub use duties::{Bgp, BgpNeighbour, BgpRole, Firewall, Nat};
pub use fold::fold_indices;
pub use folded::{FoldedGroup, FoldedLink, FoldedPlan, FoldedRouter, FoldedSegment};
pub use placement::{PlaceRule, PlaceSummary, Spread};
pub(crate) use routing::NatRow;
pub use routing::{DhcpRange, LanPolicy, LinkPolicy, OspfInterface, Protocol, SwitchKind};
pub use rows::Relation;
pub use schedule::{
    Action, Affected, Boot, BootStep, Event, Experiment, Firing, Ids, LinkChange, MAX_FIRINGS, Repeat, TargetRange,
    Targets, Timeline, Wait, WaitFor,
};
pub use schedule_text::{BootSummary, EventSummary, ExperimentSummary};
pub use summary::{
    BgpSummary, GroupSummary, InterfaceSummary, Interval, LinkSummary, PlanSummary, RouterSummary, SegmentSummary,
    Totals,
};
pub use target::TargetError;
pub use telemetry::{Capture, Metric, Sample, Telemetry, TelemetrySummary};
pub use view::Ports;

use serde::Serialize;
use std::net::Ipv4Addr;
use std::sync::Arc;

macro_rules! id {
    ($(#[doc = $doc:literal])* $name:ident) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Default)]
        #[serde(transparent)]
        pub struct $name(pub u32);
    };
}

id! {
    /// A group of VMs in a plan. Only good for the plan it came from.
    GroupId
}
id! {
    /// A segment in a plan. Only good for the plan it came from.
    SegmentId
}
id! {
    /// A router in a plan. Only good for the plan it came from.
    RouterId
}
id! {
    /// An external network in a plan. Only good for the plan it came from.
    ExternalId
}
id! {
    /// A link in a plan. Only good for the plan it came from.
    LinkId
}

/// Some VMs of a group: own indices `first..first + count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Range {
    /// The group.
    pub group: GroupId,
    /// The lowest index.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Range {
    /// The indices.
    pub fn indices(&self) -> std::ops::Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// What runs a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HypervisorKind {
    /// User-mode Linux.
    Uml,
    /// QEMU, with the best accelerator that works on the host.
    Qemu,
}

/// What routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterKind {
    /// A network namespace with static routes.
    Linux,
    /// FRRouting.
    Frr,
    /// BIRD.
    Bird,
    /// A VM that routes.
    Vm,
}

/// How eagerly KSM merges a VM's memory pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KsmMode {
    /// Never.
    Off,
    /// As the host's regulator sees fit.
    On,
    /// At once, whatever it costs.
    Aggressive,
}

/// What becomes of a VM that ends without being asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RestartMode {
    /// It stays as it ended.
    Never,
    /// It is started again while it comes up; when it has run, it stays as it ended.
    Boot,
    /// Also when it has run, if its process ended by a failure.
    Failed,
    /// Also when its guest powers off by itself.
    Always,
}

/// When and how often in a row a VM is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Restart {
    /// When.
    pub mode: RestartMode,
    /// How often in a row.
    pub times: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self { mode: RestartMode::Boot, times: 3 }
    }
}

impl Restart {
    /// How often in a row a VM is started again that did come to run, or did not.
    pub fn tries(self, ran: bool) -> u32 {
        match self.mode {
            RestartMode::Never => 0,
            RestartMode::Boot if ran => 0,
            RestartMode::Boot | RestartMode::Failed | RestartMode::Always => self.times,
        }
    }
}

/// A declared vm or group of VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its id in the plan.
    pub id: GroupId,
    /// Path in the file: `web`, `hq.pc`.
    pub path: String,
    /// The lowest index, nearly always 0.
    pub first: u32,
    /// How many VMs.
    pub count: u32,
    /// Declared with an index (`web[0..300]`), so that VMs are named `web[3]`; otherwise the one VM has the path's name.
    pub is_array: bool,
    /// What must run it; `None` leaves it to the host.
    pub hypervisor: Option<HypervisorKind>,
    /// The image's name.
    pub image: String,
    /// Virtual processors.
    pub cpu: u32,
    /// Memory in bytes; `None` leaves it to hypervisor and image.
    pub memory: Option<u64>,
    /// Its memory counts on its host for this part of it: 1 for all, 3 for a third.
    pub overcommit: u32,
    /// When it is started again.
    pub restart: Restart,
    /// How its memory pages are merged with equal ones; `None` leaves it to the host.
    pub ksm: Option<KsmMode>,
    /// Its console is kept.
    pub console: bool,
    /// A camera must be lent to it.
    pub needs_camera: bool,
    /// NICs of each VM.
    pub nics: usize,
}

/// A VM, worked out from its group and index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// Name in the file: `alice`, `web[3]`, `hq.pc[7]`.
    pub name: String,
    /// Hostname of the guest: `alice`, `web-3`, `hq-pc-7`; at most 63 characters.
    pub hostname: String,
    /// What must run it; `None` leaves it to the host.
    pub hypervisor: Option<HypervisorKind>,
    /// The image's name.
    pub image: String,
    /// Virtual processors.
    pub cpu: u32,
    /// Memory in bytes; `None` leaves it to hypervisor and image.
    pub memory: Option<u64>,
    /// Its memory counts on its host for this part of it: 1 for all, 3 for a third.
    pub overcommit: u32,
    /// When it is started again.
    pub restart: Restart,
    /// How its memory pages are merged with equal ones; `None` leaves it to the host.
    pub ksm: Option<KsmMode>,
    /// Its console is kept.
    pub console: bool,
    /// A camera must be lent to it.
    pub needs_camera: bool,
    /// Network interfaces, in order.
    pub nics: Vec<Nic>,
    /// Routes besides those that the NICs' prefixes make.
    pub routes: Vec<Route>,
}

/// A VM's network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// `eth0`, `eth1`, …
    pub name: String,
    /// The segment it is on.
    pub segment: SegmentId,
    /// MAC address: 02, the segment's domain, the IPv4 address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: Ipv4Addr,
    /// Length of the segment's prefix.
    pub prefix_len: u8,
    /// Largest packet, in bytes.
    pub mtu: u16,
    /// The guest asks for the address; the segment's gateway has it reserved for the MAC address.
    pub dhcp: bool,
}

/// A static route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Route {
    /// First address of the destination; 0.0.0.0 for the default route.
    pub to: Ipv4Addr,
    /// Prefix length of the destination.
    pub prefix_len: u8,
    /// The next hop.
    pub via: Ipv4Addr,
}

/// A lan of the file, realised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Its id in the plan.
    pub id: SegmentId,
    /// Name in the file: `office`, `t1[3].seg[0]`.
    pub name: String,
    /// First address of its prefix.
    pub prefix: Ipv4Addr,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// Largest packet, in bytes.
    pub mtu: u16,
    /// VXLAN network identifier, unique in the lock file; 24 bits.
    pub vni: u32,
    /// Address of the gateway that guests use.
    pub gateway: Option<Ipv4Addr>,
    /// What it does with frames.
    pub policy: LanPolicy,
}

/// Who owns a port of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PortOwner {
    /// A VM.
    Vm {
        /// Its group.
        group: GroupId,
        /// Its own index.
        index: u32,
    },
    /// A router.
    Router(RouterId),
}

/// An attachment of a VM or router to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Port {
    /// Whose it is.
    pub owner: PortOwner,
    /// Which of the owner's NICs or interfaces: 0 is eth0.
    pub nic: usize,
    /// MAC address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: Ipv4Addr,
}

/// What a router's interface is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attachment {
    /// A segment.
    Segment(SegmentId),
    /// A link to another router.
    Link(LinkId),
    /// A network outside of the file.
    External(ExternalId),
}

/// A router's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// `eth0`, `eth1`, …
    pub name: String,
    /// What it is connected to.
    pub attachment: Attachment,
    /// MAC address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: Ipv4Addr,
    /// Length of the prefix on it.
    pub prefix_len: u8,
    /// Largest packet, in bytes.
    pub mtu: u16,
    /// The router on an external network that leads to the rest of the world.
    pub gateway: Option<Ipv4Addr>,
    /// OSPF on it.
    pub ospf: Option<OspfInterface>,
}

/// A router, worked out from its row; its routes are computed on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Router {
    /// Its id in the plan.
    pub id: RouterId,
    /// Name in the file.
    pub name: String,
    /// What routes.
    pub kind: RouterKind,
    /// Its lowest address, which names it in routing protocols; `None` without any.
    pub router_id: Option<Ipv4Addr>,
    /// Interfaces: first those on lans and external networks, in the file's order, then those of links.
    pub interfaces: Vec<Interface>,
    /// It announces a default route by OSPF.
    pub originates_default: bool,
    /// BGP, if it speaks it.
    pub bgp: Option<Bgp>,
    /// What it lets through; everything without a firewall.
    pub firewall: Option<Firewall>,
    /// Translations, in the file's order.
    pub nat: Vec<Nat>,
    /// Static routes to everything that is not on an interface, by the least cost.
    pub routes: Vec<Route>,
}

/// A network outside, on an interface of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct External {
    /// Its id in the plan.
    pub id: ExternalId,
    /// Name in the file.
    pub name: String,
    /// The host that has the interface.
    pub host: String,
    /// The host's interface.
    pub interface: String,
    /// First address of its prefix.
    pub prefix: Ipv4Addr,
    /// Length of its prefix.
    pub prefix_len: u8,
}

/// A line between two routers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Its id in the plan.
    pub id: LinkId,
    /// `as` name, or the two ends: `left--right`.
    pub name: String,
    /// One end: the router and which of its interfaces.
    pub a: (RouterId, usize),
    /// The other end.
    pub b: (RouterId, usize),
    /// First address of the link's prefix.
    pub prefix: Ipv4Addr,
    /// Length of the link's prefix.
    pub prefix_len: u8,
    /// What a route over it costs.
    pub cost: u32,
    /// Largest packet, in bytes.
    pub mtu: u16,
    /// What the ends are to each other, if both speak BGP and are of different autonomous systems.
    pub relation: Relation,
    /// How it is shaped.
    pub policy: LinkPolicy,
}

/// What a check demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// Packets must get there and back.
    Reaches,
    /// Packets must not get there and back.
    CannotReach,
}

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckSource {
    /// VMs.
    Vms(Vec<Range>),
    /// The world outside, over an external network.
    External(ExternalId),
}

/// What a check is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckTarget {
    /// VMs: each is pinged at the address of its eth0.
    Vms(Vec<Range>),
    /// These addresses: those of routers, or one given in the file.
    Addresses(Vec<Ipv4Addr>),
    /// The world outside, over an external network.
    External(ExternalId),
}

/// A service, by protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Service {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// What a check says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Claim {
    /// Packets get there and back, or do not.
    Reach {
        /// Who sends.
        from: CheckSource,
        /// What must be reached or not.
        to: CheckTarget,
        /// What is demanded.
        expect: Expect,
        /// Only this service; otherwise an echo that must get there, or anything at all that must not.
        service: Option<Service>,
        /// With these links cut.
        without: Vec<LinkId>,
    },
    /// No two lans are further apart than so many hops from router to router.
    Diameter {
        /// The most hops.
        most: u32,
    },
}

/// A `check` line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The line as it is written, without comment.
    pub text: String,
    /// Its line in the file, from 1.
    pub line: u32,
    /// What it says.
    pub claim: Claim,
}

impl Check {
    /// Senders, targets and demand of a check that echo packets can prove on the network as it runs.
    pub fn echoes(&self) -> Option<(&[Range], &CheckTarget, Expect)> {
        match &self.claim {
            Claim::Reach { from: CheckSource::Vms(from), to, expect, service: None, without } if without.is_empty() => {
                (!matches!(to, CheckTarget::External(_))).then_some((from, to, *expect))
            }
            _ => None,
        }
    }
}

/// Something that the file asks for and that this version of fleet cannot run yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unsupported {
    /// Where the file says it.
    pub span: crate::source::Span,
    /// Code of the refusal.
    pub code: &'static str,
    /// The word or words.
    pub what: String,
}

/// A network file worked out. Cheap to clone; see the module's documentation.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) data: Arc<rows::Data>,
}

/// A MAC address: locally administered, the lan's overlap domain, then the IPv4 address.
pub(crate) fn mac(domain: u8, ip: u32) -> [u8; 6] {
    let [a, b, c, d] = ip.to_be_bytes();
    [0x02, domain, a, b, c, d]
}
