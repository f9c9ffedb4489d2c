//! The floor: QEMU connected to the camera's socket, with the filter that fleet would give it.

use std::path::Path;

use anyhow::Result;
use fleet_camera_guest::{Guest, image};
use fleet_softcam::Address;

use crate::measure::{self, Figures, Load, Way};

/// The camera's name in QEMU.
const ID: &str = "cam";

struct Bare {
    guest: Guest,
    camera: Address,
}

/// Measures it.
pub fn run(images: &Path, load: &Load) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let camera = measure::camera(load, Address::Unix(folder.path().join("camera")))?;
    let guest = Guest::boot(&image(images));
    measure::run(load, &camera, &mut Bare { guest, camera: camera.address().clone() })
}

impl Way for Bare {
    fn shell(&mut self, line: &str) -> Result<String> {
        Ok(self.guest.shell(line).stdout)
    }

    fn attach(&mut self) -> Result<()> {
        self.guest.plug(ID, &self.camera, "6:0x04b0:0x0428:-1:1|-1:-1:-1:-1:0");
        Ok(())
    }

    fn detach(&mut self) -> Result<()> {
        self.guest.unplug(ID);
        Ok(())
    }

    fn listed(&mut self) -> Result<Option<bool>> {
        Ok(None)
    }

    fn qemu(&mut self) -> Result<u32> {
        Ok(self.guest.pid())
    }

    fn daemons(&self) -> Vec<u32> {
        Vec::new()
    }
}
