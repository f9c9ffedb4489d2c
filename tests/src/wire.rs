//! A network of the lab's own: a namespace with a bridge, and one for each host, cabled to it. The machine's own
//! network sees nothing of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where `ip netns` keeps names; namespaces of fleet are beside these, and no fleet's name begins as these do.
const NAMESPACES: &str = "/run/netns";
/// The bridge, and the device of a host.
const BRIDGE: &str = "wire";
const DEVICE: &str = "underlay";

/// The network. Dropping it takes it away.
pub struct Wire {
    prefix: String,
    hosts: usize,
}

impl Wire {
    /// A bridge at 10.99.0.1 and so many hosts (253 at most), the first of them at 10.99.0.2.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(hosts: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("lab{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // From here on, what was made is taken away again.
        let wire = Self { prefix, hosts };
        let middle = wire.name(0);
        ip(&format!("netns add {middle}"));
        ip(&format!("-n {middle} link set lo up"));
        ip(&format!("-n {middle} link add {BRIDGE} type bridge"));
        ip(&format!("-n {middle} address add {}/24 dev {BRIDGE}", wire.address(0)));
        ip(&format!("-n {middle} link set {BRIDGE} up"));
        for number in 1..=hosts {
            let host = wire.name(number);
            ip(&format!("netns add {host}"));
            ip(&format!("-n {host} link set lo up"));
            ip(&format!("-n {middle} link add {} type veth peer name {DEVICE} netns {host}", cable(number)));
            ip(&format!("-n {middle} link set {} master {BRIDGE} up", cable(number)));
            ip(&format!("-n {host} address add {}/24 dev {DEVICE}", wire.address(number)));
            ip(&format!("-n {host} link set {DEVICE} up"));
        }
        wire
    }

    /// Address of a host; 0 is where the bridge is.
    pub fn address(&self, number: usize) -> String {
        format!("10.99.0.{}", number + 1)
    }

    /// File of the namespace of a host; 0 is where the bridge is.
    pub fn namespace(&self, number: usize) -> PathBuf {
        Path::new(NAMESPACES).join(self.name(number))
    }

    /// Pulls the cable of a host (counted from 1), or puts it back.
    ///
    /// # Panics
    /// When there is no such host.
    pub fn connect(&self, number: usize, connected: bool) {
        let state = if connected { "up" } else { "down" };
        ip(&format!("-n {} link set {} {state}", self.name(0), cable(number)));
    }

    /// Lets no host send faster than so many Mbit/s (tc-tbf(8)), the one at the bridge included.
    ///
    /// # Panics
    /// When the kernel has no token buckets.
    pub fn limit(&self, mbit: u32) {
        for number in 0..=self.hosts {
            let device = if number == 0 { BRIDGE } else { DEVICE };
            let set = format!(
                "-n {} qdisc add dev {device} root tbf rate {mbit}mbit burst 128kb latency 100ms",
                self.name(number)
            );
            let output = Command::new("tc").args(set.split(' ')).output().unwrap();
            assert!(output.status.success(), "tc {set}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    fn name(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let left: Vec<String> = (0..=self.hosts)
            .map(|number| self.name(number))
            .filter(|name| {
                let deleted = Command::new("ip").args(["netns", "delete", name]).output();
                !deleted.is_ok_and(|output| output.status.success()) && Path::new(NAMESPACES).join(name).exists()
            })
            .collect();
        // A second panic would hide the first.
        assert!(left.is_empty() || std::thread::panicking(), "cannot delete the namespaces {left:?}");
    }
}

fn cable(number: usize) -> String {
    format!("cable{number}")
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "`ip {words}`: {}", String::from_utf8_lossy(&output.stderr));
}
