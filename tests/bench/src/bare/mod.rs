//! The floor: the same processes, started by the least program that can. No fleet in it but the guests' init, which needs
//! its settings to answer.

pub mod clones;
pub mod pool;
pub mod uml;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fleet_wire::{Address, Nic, Settings, ToGuest};

/// Length of the prefix of the bench's lan, 10.77.0.0/16.
const PREFIX: u8 = 16;

/// A folder in memory, removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it.
    pub fn new() -> Result<Self> {
        let path = PathBuf::from(format!("/dev/shm/bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A namespace with a bridge, and a tap on it for each guest; gone when dropped.
pub struct Net {
    name: String,
}

impl Net {
    /// As a person who knows their tools would make it: one `ip -batch`, one `bridge -batch`, nothing flooded or learned.
    pub fn new(taps: u32) -> Result<Self> {
        let net = Self { name: format!("bench-{}", std::process::id()) };
        run("ip", &["netns", "add", &net.name])?;
        let mut links = String::from("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n");
        links += &format!("addr add {}/{PREFIX} dev br0\n", address(u32::MAX));
        let mut ports = String::new();
        for tap in 0..taps {
            let mac = mac_text(tap);
            links += &format!("tuntap add t{tap} mode tap\nlink set t{tap} master br0 up\n");
            links += &format!("neigh add {} lladdr {mac} dev br0 nud permanent\n", address(tap));
            ports += &format!("link set dev t{tap} learning off flood off mcast_flood off bcast_flood off\n");
            ports += &format!("fdb replace {mac} dev t{tap} master static\n");
        }
        net.batch("ip", &links)?;
        net.batch("bridge", &ports)?;
        Ok(net)
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn batch(&self, program: &str, lines: &str) -> Result<()> {
        let batch = std::env::temp_dir().join(format!("{}.{program}", self.name));
        fs::write(&batch, lines)?;
        let made = run(program, &["-n", &self.name, "-batch", &batch.display().to_string()]);
        fs::remove_file(&batch)?;
        made
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "del", &self.name]) {
            eprintln!("bench: {error}");
        }
    }
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program).args(args).status();
    let status = status.with_context(|| format!("{program} is not installed: apt-get install iproute2"))?;
    ensure!(status.success(), "{program} {} failed", args.join(" "));
    Ok(())
}

/// The address of a guest: the 16th and further ones of the lan. `u32::MAX` is the host.
pub fn address(guest: u32) -> Ipv4Addr {
    match guest {
        u32::MAX => Ipv4Addr::new(10, 77, 0, 1),
        guest => {
            let [_, _, high, low] = (guest + 16).to_be_bytes();
            Ipv4Addr::new(10, 77, high, low)
        }
    }
}

fn mac(guest: u32) -> [u8; 6] {
    let [a, b, c, d] = address(guest).octets();
    [2, 0, a, b, c, d]
}

fn mac_text(guest: u32) -> String {
    mac(guest).map(|byte| format!("{byte:02x}")).join(":")
}

/// What a guest is told when it has come up: the start of a session, and its settings.
fn greeting(guest: u32, wired: bool) -> Result<Vec<u8>> {
    let address = Address { ip: address(guest), prefix_len: PREFIX };
    let nic = Nic { name: "eth0".to_owned(), mac: mac(guest), mtu: 1500, addresses: vec![address] };
    let settings = Settings {
        hostname: format!("web-{guest}"),
        nics: if wired { vec![nic] } else { Vec::new() },
        ..Settings::default()
    };
    let mut bytes = vec![0];
    bytes.extend(fleet_wire::encode(&ToGuest::Attach { session: 1 })?);
    bytes.extend(fleet_wire::encode(&ToGuest::Configure(settings))?);
    Ok(bytes)
}
