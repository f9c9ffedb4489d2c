//! The ways of fleet: a camera behind a usbredir server of the VM's own host, and of another one.

use anyhow::{Context, Result};
use fleet_softcam::{Address, Softcam};
use fleet_tests::{Fleet, Lab, Options};

use crate::cpu;
use crate::measure::{self, Figures, Load, SERIAL, Way};

/// The network: one VM, where there is a choice on the second host.
const NETWORK: &str = "vm cam { image camera; hypervisor qemu; PLACE }\n";

struct Fleeted<'a> {
    /// Where commands go.
    head: &'a Fleet,
    daemons: Vec<u32>,
}

/// A camera of the VM's own host.
pub fn one_host(load: &Load) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let camera = served(load, folder.path())?;
    let fleet = Fleet::with(Options { config: servers(&camera), ..Options::default() });
    up(&fleet, "");
    let daemons = cpu::daemons(fleet.root());
    measure::run(load, &camera, &mut Fleeted { head: &fleet, daemons })
}

/// A camera of the first host, a VM on the second.
pub fn two_hosts(load: &Load) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let camera = served(load, folder.path())?;
    let lab = Lab::with(2, "", &|number| if number == 1 { servers(&camera) } else { String::new() });
    // The lab's second host has this tag.
    up(lab.fleet(), "place tag \"odd=0\"");
    let daemons = lab.folders().flat_map(|fleet| cpu::daemons(fleet.root())).collect();
    measure::run(load, &camera, &mut Fleeted { head: lab.fleet(), daemons })
}

fn served(load: &Load, folder: &std::path::Path) -> Result<Softcam> {
    measure::camera(load, Address::Unix(folder.join("camera")))
}

/// The host's configuration: where its camera is.
fn servers(camera: &Softcam) -> String {
    format!("[cameras]\nservers = [\"{}\"]", camera.address())
}

fn up(fleet: &Fleet, place: &str) {
    let file = fleet.write("bench.fleet", &NETWORK.replace("PLACE", place));
    fleet.ok(&["up", &file]);
    fleet.wait_for("cam", "running");
}

impl Way for Fleeted<'_> {
    fn shell(&mut self, line: &str) -> Result<String> {
        Ok(self.head.run(&["exec", "cam", "--", "sh", "-c", line]).stdout)
    }

    fn attach(&mut self) -> Result<()> {
        self.head.ok(&["usb", "attach", SERIAL, "cam"]);
        Ok(())
    }

    fn detach(&mut self) -> Result<()> {
        self.head.ok(&["usb", "detach", SERIAL]);
        Ok(())
    }

    fn listed(&mut self) -> Result<Option<bool>> {
        let listed = self.head.json(&["usb", "ls"]);
        let cameras = listed["cameras"].as_array().context("`fleet usb ls --json` has no list of cameras")?;
        Ok(Some(cameras.iter().any(|camera| camera["serial"] == SERIAL && camera["present"] == true)))
    }

    fn qemu(&mut self) -> Result<u32> {
        Ok(self.head.vm("cam").pid)
    }

    fn daemons(&self) -> Vec<u32> {
        self.daemons.clone()
    }
}
