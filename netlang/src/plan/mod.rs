//! The plan: what a network file comes to, as columns of ranges.
//!
//! A group of a million VMs is one row; a VM, its names and addresses are worked out when they are asked for, by
//! arithmetic on the group's row and the index. Everything here is read-only and cheap to clone.

mod check;
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
mod vm;

pub use check::{Check, CheckSource, CheckTarget, Claim, Expect, Service};
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
pub use vm::{Group, HypervisorKind, KsmMode, Nic, Restart, RestartMode, Vm, VmClass};

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
