//! VMs and groups of them, as a plan gives them.

use serde::Serialize;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{GroupId, Route, SegmentId};

/// What runs a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HypervisorKind {
    /// User-mode Linux.
    Uml,
    /// QEMU, with the best accelerator that works on the host.
    Qemu,
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

/// What VMs of a kind have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct VmClass {
    /// What must run it; `None` leaves it to the host.
    pub hypervisor: Option<HypervisorKind>,
    /// The image's name.
    pub image: Arc<str>,
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
    /// What it is but for its name and its network.
    #[serde(flatten)]
    pub class: VmClass,
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
    /// What it is but for its name and its network.
    #[serde(flatten)]
    pub class: VmClass,
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
