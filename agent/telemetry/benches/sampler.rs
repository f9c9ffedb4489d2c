//! CPU time of one sample of a thousand VMs, beside the floor: a bare loop that reads the same files and does nothing
//! with them. Run it with `cargo bench -p fleet-telemetry`.
#![allow(clippy::unwrap_used)]

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, SystemTime};

use fleet_telemetry::{Fanout, LinkCounters, PortTarget, Roots, Sampler, VmSource, VmTarget, WhenFull};
use rustix::process::setsid;
use rustix::time::{ClockId, clock_gettime};

const VMS: u32 = 1000;
const ROUNDS: u32 = 20;

fn main() {
    let processes = Processes::start();
    let vms: Vec<VmTarget> = processes.0.iter().map(|child| target(child.id())).collect();
    let ports: Vec<PortTarget> = (0..VMS)
        .map(|index| PortTarget {
            experiment: "bench".into(),
            owner: format!("web[{index}]"),
            port: "eth0".into(),
            segment: "office".into(),
            counters: LinkCounters::default(),
        })
        .collect();

    let floor = cpu_time(|| {
        let mut text = [0; 2048];
        for vm in &vms {
            let VmSource::Session { leader } = vm.source else { continue };
            let _ =
                std::fs::File::open(Path::new("/proc").join(leader.to_string()).join("stat")).unwrap().read(&mut text);
        }
    });
    let mut sampler = Sampler::new("h1", Roots::default()).unwrap();
    let fanout = Fanout::new();
    let mut reader = fanout.subscribe(10_000, WhenFull::DropOldest);
    let sampled = cpu_time(|| {
        let sampled = sampler.sample(SystemTime::now(), &vms, &ports, fanout.dropped()).unwrap();
        assert_eq!(sampled.missing, 0);
        for batch in &sampled.batches {
            fanout.publish(batch);
        }
        while reader.try_recv().is_some() {}
    });
    println!("one sample of {VMS} VMs (sessions) and {VMS} ports: {:.2} ms CPU", milliseconds(sampled));
    println!("floor, reading the same {VMS} files:               {:.2} ms CPU", milliseconds(floor));
    println!("ratio {:.2}", sampled.as_secs_f64() / floor.as_secs_f64());
}

fn target(leader: u32) -> VmTarget {
    VmTarget { experiment: "bench".into(), vm: format!("web[{leader}]"), source: VmSource::Session { leader } }
}

/// CPU time of this process for one round.
fn cpu_time(mut round: impl FnMut()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    round();
    let before = now();
    for _ in 0..ROUNDS {
        round();
    }
    (now() - before) / ROUNDS
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A thousand sleeping processes, each the leader of a session; ended whatever happens.
struct Processes(Vec<Child>);

impl Processes {
    fn start() -> Self {
        let processes = (0..VMS).map(|_| {
            let mut sleeper = Command::new("sleep");
            // The session is made before the program runs, so it is there once spawn(2) returns. Waiting for setsid(1)
            // instead would need getsid(2), which answers 0 for a leader outside this PID namespace.
            // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe and allocates nothing.
            unsafe { sleeper.pre_exec(|| setsid().map(drop).map_err(io::Error::from)) };
            sleeper.arg("600").spawn().unwrap()
        });
        Self(processes.collect())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
