//! What an agent is told at its start.

use std::path::PathBuf;
use std::time::Duration;

use crate::cameras::CamerasConfig;

/// Where an agent keeps its things, and its defaults.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Name of this host.
    pub host: String,
    /// First part of the names of namespaces and control groups; letters and digits.
    pub instance: String,
    /// State that must outlive the agent but not a reboot: specs, records of VMs, sockets.
    pub run_dir: PathBuf,
    /// On a tmpfs: the guests' memory.
    pub ram_dir: PathBuf,
    /// State that outlives a reboot.
    pub state_dir: PathBuf,
    /// Guest images.
    pub image_store: PathBuf,
    /// Where namespaces are bound.
    pub netns_dir: PathBuf,
    /// UDP port of the tunnels between hosts; the same on all of them.
    pub vxlan_port: u16,
    /// Hypervisor for VMs whose file names none: "uml" or "qemu"; `None`: the best that works.
    pub hypervisor: Option<String>,
    /// What KSM may merge of VMs whose file says nothing about it.
    pub ksm: fleet_vm::Merge,
    /// VMs of one image and shape start as clones of a template, where the hypervisor can do that.
    pub clones: bool,
    /// What all snapshots of this host may take.
    pub snapshot_quota: fleet_vm::SnapshotQuota,
    /// Which USB devices are cameras.
    pub cameras: CamerasConfig,
    /// Between two samples.
    pub sample_interval: Duration,
}

impl AgentConfig {
    /// The folder of an experiment. VMs keep theirs below it.
    pub fn experiment_dir(&self, experiment: &str) -> PathBuf {
        self.run_dir.join(fleet_vm::paths::safe_name(experiment))
    }
}
