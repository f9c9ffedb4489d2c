//! Virtual networks of a host: the namespaces, bridges, taps, cables and routers of an experiment.
//!
//! Each experiment has namespaces of its own and nothing else. One, the *switch*, holds its bridges and taps; each
//! router is another one. Cables (veth pairs) join routers to bridges and to one another, both ends born in place.
//! The host's own namespace is never touched, and removing the namespaces removes everything.
//!
//! ```text
//!   fleet-hello                              fleet-hello-r-core
//!   ┌────────────────────────────────┐       ┌─────────────────────┐
//!   │ tap… web[0]/eth0 ─┐            │       │                     │
//!   │ tap… web[1]/eth0 ─┤ br-… lan0 ─┼ rp-… ─┼─ eth0   core   eth1 ┼── eth0 of another router
//!   │ tap… web[2]/eth0 ─┘            │       │                     │
//!   └────────────────────────────────┘       └─────────────────────┘
//! ```
//!
//! [`Network::reconcile`] takes the desired network, looks at what exists, and makes the difference. The modules:
//!
//! * `spec`, `check`: the desired network as plain data, and why one cannot exist;
//! * `naming`, `paths`: names of devices and namespaces, and where they are;
//! * `wanted`: from the desired network to the devices and entries of each namespace, with their guards;
//! * `seen`: the same picture, read from the kernel; `diff`: the difference of the two, pure; `state`: their types;
//! * `reconcile`: carries the difference out, round by round;
//! * `underlay`: what tunnels need of the network that joins the hosts;
//! * `netns`, `sysctl`, `tap`, `conn`, `messages`: the ways to the kernel;
//! * `features`: what the kernel has beyond the basics;
//! * `worker`: the thread on which all this happens; `counters`: traffic and the routers' state.
//!
//! A segment or link that crosses hosts has a *tunnel* (vxlan) here, whose socket is in the host's own namespace. It is
//! born in the experiment's namespace, so also then the host's has no device, address or route more.
//!
//! It knows nothing of VMs or of the network language; what is on other hosts it is told.

mod check;
mod conn;
mod counters;
mod diff;
mod error;
mod features;
mod messages;
mod naming;
mod netns;
mod network;
mod paths;
mod reconcile;
mod report;
mod seen;
mod spec;
mod state;
mod sysctl;
mod tap;
mod underlay;
mod wanted;
mod worker;

pub use check::{MAX_BRIDGE_PORTS, SpecError};
pub use counters::{PortCounters, RouterState};
pub use error::NetError;
pub use features::kernel_features;
pub use netns::run_in;
pub use network::Network;
pub use paths::NetConfig;
pub use report::{NetReport, Progress, Step};
pub use spec::{
    Attachment, InterfaceSpec, Mac, NetworkOptions, NetworkSpec, PortSpec, RemoteStation, RouteSpec, RouterSpec,
    SegmentSpec, TunnelSpec, router_port_id,
};
pub use underlay::{VXLAN_PORT, has_tunnels, overhead};
