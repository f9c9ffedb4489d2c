//! The agent: its experiments, and what they draw on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_images::ImageStore;
use fleet_ksm::{KsmConfig, Regulator};
use fleet_net::{NetConfig, Network};
use fleet_proto::v1::{HeldExperiment, HostInfo};
use fleet_vm::{HostConfig, SnapshotStore, VmHost};
use thiserror::Error;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;

use crate::cameras::{Cameras, StoreError};
use crate::config::AgentConfig;
use crate::epoch::{Epoch, EpochError};
use crate::experiment::{Experiment, Surroundings};
use crate::generations::{GenerationError, Generations};
use crate::hub::Hub;
use crate::pace::Gate;
use crate::probe::Probed;
use crate::wave::Nodes;
use crate::{merging, recover, sampling};

/// Why an agent does not start.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The host's VMs cannot be looked after.
    #[error(transparent)]
    Vm(#[from] fleet_vm::VmError),
    /// The host's networks cannot be looked at.
    #[error(transparent)]
    Net(#[from] fleet_net::NetError),
    /// The image store cannot be opened.
    #[error(transparent)]
    Images(#[from] fleet_images::ImageError),
    /// The host cannot be measured.
    #[error("cannot read what the kernel says of this host: {0}")]
    Sample(#[from] fleet_telemetry::SampleError),
    /// The highest epoch that it knew is not to be had.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// The generations that it acted on are not to be had.
    #[error(transparent)]
    Generations(#[from] GenerationError),
    /// What it knew of cameras is not to be had.
    #[error(transparent)]
    Cameras(#[from] StoreError),
    /// The log of operations is not to be had.
    #[error(transparent)]
    Log(#[from] fleet_tree::LogError),
    /// A name in the configuration means nothing.
    #[error("the configuration names the hypervisor `{0}`; fleet knows uml and qemu")]
    Hypervisor(String),
}

/// The daemon of one host. VMs are children of none of it: it ends, they go on, the next one finds them.
pub struct Agent {
    /// What it was told at its start.
    pub config: AgentConfig,
    /// Where samples and events go.
    pub hub: Arc<Hub>,
    /// Guest images.
    pub images: ImageStore,
    /// This life of the agent.
    incarnation: String,
    gate: Arc<Gate>,
    snapshots: Arc<SnapshotStore>,
    vms: VmHost,
    ksm: OnceCell<Regulator>,
    cameras: OnceCell<Arc<Cameras>>,
    probed: OnceCell<Probed>,
    /// With the first image that came to a host that had none.
    probed_again: OnceCell<Probed>,
    experiments: Mutex<BTreeMap<String, Arc<Experiment>>>,
    epoch: Epoch,
    generations: Generations,
    nodes: Nodes,
    /// Counts changes of what is held of experiments.
    held: watch::Sender<u64>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    /// Starts: finds what an earlier agent left, goes on with it, and begins to measure.
    ///
    /// # Errors
    /// When something that every operation needs cannot be had.
    pub async fn start(config: AgentConfig) -> Result<Arc<Self>, AgentError> {
        if let Some(name) = config.hypervisor.as_deref().filter(|name| crate::choose::hypervisor_kind(name).is_none()) {
            return Err(AgentError::Hypervisor(name.to_owned()));
        }
        crate::metric_definitions::describe();
        crate::room::raise_files();
        let vms = VmHost::new(HostConfig {
            run_dir: config.run_dir.clone(),
            ram_dir: config.ram_dir.clone(),
            cgroup: config.instance.clone(),
            clones: config.clones,
        })?;
        let agent = Arc::new(Self {
            hub: Arc::new(Hub::new(&config.host)),
            images: ImageStore::open(&config.image_store)?,
            incarnation: uuid::Uuid::new_v4().to_string(),
            gate: Gate::adaptive(),
            snapshots: Arc::new(SnapshotStore::open(config.state_dir.join("snapshots"), config.snapshot_quota)),
            vms,
            ksm: OnceCell::new(),
            cameras: OnceCell::new(),
            probed: OnceCell::new(),
            probed_again: OnceCell::new(),
            experiments: Mutex::default(),
            epoch: Epoch::open(&config.state_dir)?,
            generations: Generations::open(&config.state_dir)?,
            nodes: Nodes::open(&config.state_dir)?,
            held: watch::Sender::new(0),
            tasks: Mutex::default(),
            config,
        });
        recover::recover(&agent).await?;
        // With what was found again: an earlier agent's settings stay in force if VMs still want them, and are put back
        // if not.
        let demand = merging::demand(&agent);
        agent.ksm.get_or_init(|| async { Regulator::start(KsmConfig::default(), demand) }).await;
        // The VMs that have some are known now.
        agent.cameras.get_or_try_init(|| Cameras::start(&agent)).await?;
        let sampling = sampling::start(&agent)?;
        locked(&agent.tasks).push(sampling);
        // The probe runs guests; nobody should wait for it who does not need it.
        let probing = Arc::clone(&agent);
        locked(&agent.tasks).push(tokio::spawn(async move {
            let _ = probing.probed().await;
        }));
        Ok(agent)
    }

    /// Ends the agent's tasks and puts the host's settings back. VMs go on.
    pub async fn shutdown(&self) {
        self.nodes.stop().await;
        if let Some(cameras) = self.cameras.get() {
            cameras.stop().await;
        }
        let tasks = std::mem::take(&mut *locked(&self.tasks));
        for task in tasks {
            task.abort();
            drop(task.await);
        }
        if let Some(ksm) = self.ksm.get() {
            ksm.shutdown().await;
        }
    }

    /// The regulator of KSM; `None` while the agent looks for what an earlier one left.
    pub fn ksm(&self) -> Option<&Regulator> {
        self.ksm.get()
    }

    /// What looks after cameras; `None` while the agent looks for what an earlier one left.
    pub fn cameras(&self) -> Option<&Arc<Cameras>> {
        self.cameras.get()
    }

    /// Keeps a task that ends with the agent.
    pub fn keep(&self, task: JoinHandle<()>) {
        let mut tasks = locked(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// What the host can run; the first call finds out, which takes seconds.
    pub async fn probed(&self) -> &Probed {
        let first = self.probed.get_or_init(|| Probed::probe(&self.config, &self.images)).await;
        if self.probed_again.initialized() || first.is_outdated(&self.images) {
            return self.probed_again.get_or_init(|| Probed::probe(&self.config, &self.images)).await;
        }
        first
    }

    /// What the host can run, if that is known already.
    pub fn probed_if_known(&self) -> Option<&Probed> {
        self.probed_again.get().or_else(|| self.probed.get())
    }

    /// Another text in each life of the agent.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// The host's snapshots.
    pub fn snapshots(&self) -> &Arc<SnapshotStore> {
        &self.snapshots
    }

    /// What runs VMs.
    pub fn vms(&self) -> &VmHost {
        &self.vms
    }

    /// The network's configuration.
    pub fn net_config(&self) -> NetConfig {
        NetConfig {
            netns_dir: self.config.netns_dir.clone(),
            prefix: self.config.instance.clone(),
            vxlan_port: self.config.vxlan_port,
        }
    }

    /// All experiments, by name.
    pub fn experiments(&self) -> Vec<Arc<Experiment>> {
        locked(&self.experiments).values().cloned().collect()
    }

    /// One experiment.
    pub fn experiment(&self, name: &str) -> Option<Arc<Experiment>> {
        locked(&self.experiments).get(name).cloned()
    }

    /// One experiment, new and empty when there was none.
    ///
    /// # Errors
    /// When its network cannot be looked at.
    pub fn experiment_or_new(&self, name: &str) -> Result<Arc<Experiment>, AgentError> {
        if let Some(known) = self.experiment(name) {
            return Ok(known);
        }
        let around = Surroundings {
            experiment: name.to_owned(),
            host: self.config.host.clone(),
            hub: Arc::clone(&self.hub),
            gate: Arc::clone(&self.gate),
            snapshots: Arc::clone(&self.snapshots),
            vms: self.vms.clone(),
            network: Network::open(self.net_config(), name)?,
        };
        let new = Experiment::new(around, self.config.experiment_dir(name));
        Ok(Arc::clone(locked(&self.experiments).entry(name.to_owned()).or_insert(new)))
    }

    /// Forgets an experiment of which nothing is left.
    pub fn forget(&self, name: &str) {
        locked(&self.experiments).remove(name);
    }

    /// Takes note of a controller's generation; an older one is refused.
    ///
    /// # Errors
    /// In words, when a newer controller has spoken before.
    pub fn admit_epoch(&self, epoch: u64) -> Result<(), String> {
        self.epoch.admit(epoch).map_err(|error| error.to_string())
    }

    /// The highest generation of a controller that has spoken to this host.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The newest generation of each experiment that was acted on.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// What serves waves.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Tells of every change of what is held of experiments.
    pub fn held(&self) -> watch::Receiver<u64> {
        self.held.subscribe()
    }

    /// What is held of experiments has changed.
    pub fn tell_held(&self) {
        self.held.send_modify(|count| *count += 1);
    }

    fn held_of(&self, experiment: &str) -> HeldExperiment {
        HeldExperiment { experiment: experiment.to_owned(), generation: self.generations.held(experiment) }
    }

    /// All VMs that have a process: how many, and their guest memory in bytes.
    pub fn committed(&self) -> (u32, u64) {
        let all = self.experiments();
        all.iter().map(|experiment| experiment.committed()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// What this host says of itself.
    pub fn info(&self) -> HostInfo {
        let memory = read(Path::new("/proc/meminfo"))
            .and_then(|text| fleet_telemetry::procfs::memory(&text).ok())
            .unwrap_or(fleet_telemetry::procfs::Memory { total: 0, available: 0 });
        let (vms, committed) = self.committed();
        HostInfo {
            name: self.config.host.clone(),
            cpus: std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX)),
            memory_bytes: memory.total,
            memory_available_bytes: memory.available,
            memory_committed_bytes: committed,
            hypervisors: self.probed_if_known().map(Probed::names).unwrap_or_default(),
            kernel: nix::sys::utsname::uname()
                .map_or_else(|_| String::new(), |uname| uname.release().to_string_lossy().into_owned()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_rss_bytes: own_resident_bytes(),
            features: self.probed_if_known().into_iter().flat_map(Probed::features).map(ToString::to_string).collect(),
            vms,
            // One that is only looked at is not there yet.
            experiments: self
                .experiments()
                .iter()
                .filter(|experiment| !experiment.is_new())
                .map(|experiment| self.held_of(experiment.name()))
                .collect(),
            incarnation: self.incarnation.clone(),
        }
    }
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Resident memory of this process: the second number of /proc/self/statm, in pages (proc(5)).
fn own_resident_bytes() -> u64 {
    let pages = read(Path::new("/proc/self/statm")).and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    pages.unwrap_or(0) * u64::try_from(page).unwrap_or(4096)
}
