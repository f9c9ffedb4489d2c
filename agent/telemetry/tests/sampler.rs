//! The sampler over a host made of files, and over this host with a real process.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use fleet_telemetry::{
    LinkCounters, MAX_SAMPLES_PER_BATCH, PortTarget, Roots, SampleError, Sampler, Usage, VmSource, VmTarget, Weigh as _,
};

/// A host of files whose counters the test moves.
struct Host {
    root: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { root: tempfile::tempdir().unwrap() };
        host.write("proc/stat", "cpu 100 0 0 900 0 0 0 0 0 0\n");
        host.write("proc/uptime", "1000.00 1.00\n");
        host.write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 400 kB\n");
        host.write("proc/loadavg", "1.50 0 0 1/2 3\n");
        host.write("proc/self/stat", "9 (agent) S 1 9 9 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 50 0 7 0\n");
        host
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn sampler(&self) -> Sampler {
        Sampler::new("h1", self.roots()).unwrap()
    }

    fn roots(&self) -> Roots {
        Roots { proc: self.root.path().join("proc"), sys: self.root.path().join("sys") }
    }
}

fn at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
}

fn given(vm: &str, cpu: Duration) -> VmTarget {
    let usage = Usage { cpu_time: cpu, memory: 4096, started: Duration::from_secs(990) };
    VmTarget { experiment: "hello".into(), vm: vm.into(), source: VmSource::Given(usage) }
}

#[test]
fn a_host_sample_has_everything_that_the_kernel_tells() {
    let host = Host::new();
    host.write(
        "proc/pressure/memory",
        "some avg10=2.50 avg60=0 avg300=0 total=1\nfull avg10=0 avg60=0 avg300=0 total=0\n",
    );
    host.write("proc/pressure/cpu", "some avg10=7.25 avg60=0 avg300=0 total=1\n");
    for (name, value) in [("pages_shared", 11), ("pages_sharing", 22), ("pages_volatile", 33), ("pages_scanned", 44)] {
        host.write(&format!("sys/kernel/mm/ksm/{name}"), &format!("{value}\n"));
    }
    host.write("sys/kernel/mm/ksm/general_profit", "-4096\n");
    let mut sampler = host.sampler();
    host.write("proc/stat", "cpu 150 0 0 1050 0 0 0 0 0 0\n");

    let sampled = sampler.sample(at(), &[], &[], 5).unwrap();
    let sample = &sampled.batches[0].hosts[0];
    assert_eq!(sampled.batches[0].ts_ms, 1_700_000_000_123);
    assert_eq!((sample.host.as_str(), sample.cpu_percent), ("h1", 25.0));
    assert_eq!((sample.memory_total, sample.memory_available), (1000 * 1024, 400 * 1024));
    assert_eq!((sample.psi_memory_some10, sample.psi_cpu_some10, sample.load1), (2.5, 7.25, 1.5));
    assert_eq!((sample.ksm_pages_shared, sample.ksm_pages_sharing), (11, 22));
    assert_eq!((sample.ksm_pages_volatile, sample.ksm_pages_scanned, sample.ksm_general_profit), (33, 44, -4096));
    assert!(sample.agent_rss >= 7 * 4096);
    assert_eq!(sample.dropped, 5);
}

#[test]
fn a_kernel_without_pressure_and_ksm_is_measured_all_the_same() {
    let host = Host::new();
    let sampled = host.sampler().sample(at(), &[], &[], 0).unwrap();
    let sample = &sampled.batches[0].hosts[0];
    assert_eq!((sample.psi_memory_some10, sample.ksm_pages_shared), (0.0, 0));
}

#[test]
fn a_missing_proc_is_named() {
    let nowhere = Roots { proc: "/nonexistent/proc".into(), sys: "/nonexistent/sys".into() };
    let error = Sampler::new("h1", nowhere).unwrap_err();
    assert!(error.to_string().starts_with("cannot read /nonexistent/proc/stat: "), "{error}");
    let host = Host::new();
    host.write("proc/stat", "nonsense\n");
    assert!(matches!(Sampler::new("h1", host.roots()), Err(SampleError::Unknown { .. })));
}

#[test]
fn rates_of_vms_come_from_differences_and_the_first_from_their_start() {
    let host = Host::new();
    let mut sampler = host.sampler();
    let first = sampler.sample(at(), &[given("a", Duration::from_secs(5))], &[], 0).unwrap();
    assert_eq!(first.batches[0].vms[0].cpu_percent, 50.0);
    host.write("proc/uptime", "1002.00 1.00\n");
    let second = sampler.sample(at(), &[given("a", Duration::from_millis(5200))], &[], 0).unwrap();
    let sample = &second.batches[0].vms[0];
    assert!((sample.cpu_percent - 10.0).abs() < 1e-9);
    assert_eq!((sample.cpu_time_ms, sample.memory, sample.host.as_str()), (5200, 4096, "h1"));
}

#[test]
fn vms_of_one_name_in_two_experiments_are_two() {
    let host = Host::new();
    let mut sampler = host.sampler();
    let other = |cpu| VmTarget { experiment: "other".into(), ..given("a", cpu) };
    let second = Duration::from_secs(1);
    sampler.sample(at(), &[given("a", second), other(second * 9)], &[], 0).unwrap();
    host.write("proc/uptime", "1010.00 1.00\n");
    let sampled = sampler.sample(at(), &[given("a", second * 2), other(second * 9)], &[], 0).unwrap();
    let rates: Vec<f64> = sampled.batches[0].vms.iter().map(|sample| sample.cpu_percent).collect();
    assert_eq!(rates, [10.0, 0.0]);
}

#[test]
fn a_vm_that_has_ended_has_no_sample_and_does_not_count_as_running() {
    let host = Host::new();
    let gone = VmTarget { source: VmSource::Session { leader: 12_345 }, ..given("gone", Duration::ZERO) };
    let sampled = host.sampler().sample(at(), &[given("a", Duration::ZERO), gone], &[], 0).unwrap();
    assert_eq!(sampled.missing, 1);
    assert_eq!(sampled.batches[0].vms.len(), 1);
    assert_eq!(sampled.batches[0].hosts[0].vms_running, 1);
}

#[test]
fn many_samples_are_several_batches_of_one_instant() {
    let host = Host::new();
    let vms: Vec<_> = (0..2500).map(|index| given(&format!("web[{index}]"), Duration::ZERO)).collect();
    let ports: Vec<_> = (0..700)
        .map(|index| PortTarget {
            experiment: "hello".into(),
            owner: format!("web[{index}]"),
            port: "eth0".into(),
            segment: "office".into(),
            counters: LinkCounters { rx_bytes: index, ..LinkCounters::default() },
        })
        .collect();
    let sampled = host.sampler().sample(at(), &vms, &ports, 0).unwrap();
    assert_eq!(sampled.batches.iter().map(|batch| batch.weight()).collect::<Vec<_>>(), [1000, 1000, 1000, 201]);
    assert!(sampled.batches.iter().all(|batch| batch.weight() <= MAX_SAMPLES_PER_BATCH && batch.ts_ms > 0));
    let last = sampled.batches[3].ports.last().unwrap();
    assert_eq!((last.vm.as_str(), last.host.as_str(), last.rx_bytes), ("web[699]", "h1", 699));
}

/// The leader of a process group that is ended whatever happens.
struct Guard(Child);

impl Guard {
    fn end(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn a_real_session_is_measured_with_all_of_its_processes() {
    // The leader computes nothing: what is measured is its child's work.
    let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done & echo; wait; read -r line";
    let child = Command::new("setsid").args(["sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = Guard(child.unwrap());
    let leader = child.0.id();
    let target = [VmTarget { source: VmSource::Session { leader }, ..given("real", Duration::ZERO) }];
    let mut sampler = Sampler::new("h1", Roots::default()).unwrap();
    let mut last = None;
    let used = std::iter::repeat_with(|| sampler.sample(SystemTime::now(), &target, &[], 0).unwrap())
        .take(100_000)
        .filter_map(|sampled| sampled.batches[0].vms.first().cloned())
        .find(|sample| {
            let fell = last.replace(sample.cpu_time_ms).is_some_and(|last| last > sample.cpu_time_ms);
            assert!(!fell, "CPU time never falls");
            sample.cpu_time_ms >= 50
        });
    let used = used.expect("the child's CPU time is seen");
    assert!(used.memory > 0);
    child.end();
    let ended = sampler.sample(SystemTime::now(), &target, &[], 0).unwrap();
    assert_eq!((ended.missing, ended.batches[0].vms.len()), (1, 0));
    assert!(!Path::new(&format!("/proc/{leader}")).exists());
}
