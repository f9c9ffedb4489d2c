//! The sampler: one call, one instant, everything that a host measures.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use fleet_proto::v1::{TelemetryBatch, VmSample};

use crate::host::HostReader;
use crate::port::PortTarget;
use crate::procfs::ParseError;
use crate::queue::Weigh;
use crate::vm::{self, Usage, UsageReader, VmTarget};

/// Most samples in one batch. More are given as several batches of the same instant, so that no message grows with the
/// number of VMs and a queue can drop a part.
pub const MAX_SAMPLES_PER_BATCH: usize = 1000;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// A kernel file could not be read.
    #[error("cannot read {path}: {source}; is /proc mounted here?", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A kernel file has an unknown form.
    #[error("{path}: {source}", path = path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What was not found in it.
        source: ParseError,
    },
}

/// Where the kernel's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// The proc file system.
    pub proc: PathBuf,
    /// The sys file system.
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into() }
    }
}

/// The samples of one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Never empty: the host's sample is in the first. At most [`MAX_SAMPLES_PER_BATCH`] samples each.
    pub batches: Vec<TelemetryBatch>,
    /// VMs without a sample because their processes could not be read: most likely they have just ended.
    pub missing: u32,
}

/// Measures a host, its VMs and their ports. It remembers the last reading of each, to make rates of totals.
#[derive(Debug)]
pub struct Sampler {
    host: String,
    reader: HostReader,
    usages: UsageReader,
    /// The last reading of each VM, by experiment and name, and when it was taken.
    before: HashMap<(String, String), (Duration, Usage)>,
}

impl Sampler {
    /// A sampler for the host of this name. Takes the first reading of the host's CPU counters.
    pub fn new(host: impl Into<String>, roots: Roots) -> Result<Self, SampleError> {
        Ok(Self {
            host: host.into(),
            reader: HostReader::new(&roots.proc, &roots.sys)?,
            usages: UsageReader::new(&roots.proc),
            before: HashMap::new(),
        })
    }

    /// Measures everything now. `at` is the wall clock for the samples' stamp; `dropped` is the count of samples that
    /// were lost on their way since the agent started.
    ///
    /// Reads some files for each VM: call it where blocking is allowed (`spawn_blocking`).
    pub fn sample(
        &mut self,
        at: SystemTime,
        vms: &[VmTarget],
        ports: &[PortTarget],
        dropped: u64,
    ) -> Result<Sampled, SampleError> {
        let mut host = self.reader.sample()?;
        let usages = self.usages.read(vms);
        // Read after the usages, or a VM that started in between would be younger than now.
        let now = self.reader.uptime()?;
        let vm_samples = self.vm_samples(now, vms, &usages);
        host.host = self.host.clone();
        host.vms_running = u32::try_from(vm_samples.len()).unwrap_or(u32::MAX);
        host.dropped = dropped;

        let ts_ms = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut batches = Batches::new(u64::try_from(ts_ms).unwrap_or(u64::MAX));
        batches.room().hosts.push(host);
        let missing = vms.len() - vm_samples.len();
        for sample in vm_samples {
            batches.room().vms.push(sample);
        }
        for port in ports {
            batches.room().ports.push(port.sample(&self.host));
        }
        Ok(Sampled { batches: batches.done, missing: u32::try_from(missing).unwrap_or(u32::MAX) })
    }

    fn vm_samples(&mut self, now: Duration, vms: &[VmTarget], usages: &[Option<Usage>]) -> Vec<VmSample> {
        let mut readings = HashMap::with_capacity(vms.len());
        let mut samples = Vec::with_capacity(vms.len());
        for (target, usage) in vms.iter().zip(usages) {
            let Some(usage) = *usage else { continue };
            let key = (target.experiment.clone(), target.vm.clone());
            let before = self.before.get(&key).copied();
            samples.push(VmSample {
                experiment: target.experiment.clone(),
                host: self.host.clone(),
                vm: target.vm.clone(),
                cpu_percent: vm::cpu_percent(before, now, usage),
                memory: usage.memory,
                cpu_time_ms: u64::try_from(usage.cpu_time.as_millis()).unwrap_or(u64::MAX),
            });
            readings.insert(key, (now, usage));
        }
        // What was not seen this time is forgotten: the memory of the sampler is that of the VMs there are.
        self.before = readings;
        samples
    }
}

/// Batches of one instant, a new one whenever the last is full.
struct Batches {
    ts_ms: u64,
    done: Vec<TelemetryBatch>,
}

impl Batches {
    fn new(ts_ms: u64) -> Self {
        Self { ts_ms, done: Vec::new() }
    }

    /// A batch with room for one more sample.
    fn room(&mut self) -> &mut TelemetryBatch {
        let full = self.done.last().is_none_or(|last| last.weight() >= MAX_SAMPLES_PER_BATCH);
        if full {
            self.done.push(TelemetryBatch { ts_ms: self.ts_ms, ..TelemetryBatch::default() });
        }
        let last = self.done.len() - 1;
        &mut self.done[last]
    }
}
