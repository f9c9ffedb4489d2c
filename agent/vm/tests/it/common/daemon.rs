//! A process that launches VMs and stays, to be killed: the test program runs itself again, with its test [`daemon`].
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use fleet_vm::{HostConfig, VmHost, VmSpec};

use super::Place;

/// What [`daemon`] is told, in JSON.
const ORDERS: &str = "FLEET_TEST_DAEMON";

/// Not a test but the daemon of the others, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the daemon that the other tests start"]
async fn daemon() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let (config, specs): (HostConfig, Vec<VmSpec>) = serde_json::from_str(&orders).unwrap();
    let host = VmHost::new(config).unwrap();
    let _expected = host.expect(&specs);
    let start = |spec| {
        let host = host.clone();
        tokio::spawn(async move { host.launch(spec, Vec::new()).await.unwrap() })
    };
    let starts: Vec<_> = specs.into_iter().map(start).collect();
    let mut machines = Vec::new();
    for start in starts {
        machines.push(start.await.unwrap());
        println!("\nruns");
    }
    std::future::pending::<()>().await;
}

/// The process; killed when dropped.
pub struct Daemon(Child);

impl Daemon {
    pub fn start(place: &Place, specs: &[VmSpec]) -> Daemon {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "common::daemon::daemon", "--ignored", "--nocapture"])
            .env(ORDERS, serde_json::to_string(&(place.config(), specs)).unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Daemon(child)
    }

    /// Waits until so many VMs run.
    pub fn wait_for(&mut self, count: usize) {
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        let running = lines.map_while(Result::ok).filter(|line| line == "runs");
        assert_eq!(running.take(count).count(), count);
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
