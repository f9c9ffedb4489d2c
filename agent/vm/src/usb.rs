//! Cameras in a running VM: into it, out of it, and whether they are there.
//!
//! What is begun comes to its end, also when the future is dropped: a plug that nobody waits for any more is undone. The
//! changes of one VM take turns, and so do they with its snapshots.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::error::VmError;
use crate::hypervisor::{self, UsbBus};
use crate::machine::Machine;
use crate::spec::VmSpec;

/// For QEMU to do what it is told, which takes it milliseconds; its host may be busy with a thousand others.
const DEADLINE: Duration = Duration::from_secs(60);

/// For a device of the host to be on the VM's bus, once QEMU has it. It is there at once, or something is wrong with it.
const ATTACH_DEADLINE: Duration = Duration::from_secs(5);

/// Between two looks at it: QEMU has no event for it.
const LOOK: Duration = Duration::from_millis(50);

/// Why a camera cannot go into a VM, or out of it.
#[derive(Debug, Error)]
pub enum UsbError {
    /// The hypervisor has no USB.
    #[error(
        "{vm} runs on {hypervisor}, which has no USB: give it `hypervisor qemu` and `needs camera`, and start it again"
    )]
    NoUsb {
        /// `experiment.name`.
        vm: String,
        /// Its hypervisor, in words.
        hypervisor: String,
    },
    /// Its machine has no controller.
    #[error(
        "{vm} has no USB controller: give it `needs camera`, or an image with USB (`fleet image build camera`), and start it \
         again"
    )]
    NoController {
        /// `experiment.name`.
        vm: String,
    },
    /// All ports are taken.
    #[error("{vm} has a device on each of its {ports} USB ports: detach one of its cameras first")]
    NoPort {
        /// `experiment.name`.
        vm: String,
        /// Ports that it has.
        ports: u8,
    },
    /// QEMU said no.
    #[error("{vm}: QEMU refused \"{command}\": {said}")]
    Refused {
        /// `experiment.name`.
        vm: String,
        /// What it was asked.
        command: String,
        /// In its words.
        said: String,
    },
    /// QEMU has the device and does not put it on the bus.
    #[error(
        "{vm}: QEMU took the camera {id} and did not attach it within {deadline:?}: it may have been unplugged, or another \
         program may hold it; try it again"
    )]
    NotAttached {
        /// `experiment.name`.
        vm: String,
        /// The device.
        id: String,
        /// The time allowed.
        deadline: Duration,
    },
    /// QEMU did not answer.
    #[error("{vm}: {doing} took longer than {deadline:?}: QEMU does not answer; its host may be overloaded")]
    Deadline {
        /// `experiment.name`.
        vm: String,
        /// What it was asked, and where.
        doing: String,
        /// The time allowed.
        deadline: Duration,
    },
    /// Of the VM.
    #[error(transparent)]
    Vm(#[from] VmError),
}

/// Why no camera can ever go into a VM like this, if so. Known without asking the VM.
pub fn usb_refusal(spec: &VmSpec) -> Option<UsbError> {
    match hypervisor::find(&spec.hypervisor) {
        Err(error) => Some(error.into()),
        Ok(hypervisor) if hypervisor.usb().is_none() => {
            let name = if hypervisor.name() == "uml" { "user-mode Linux" } else { hypervisor.name() };
            Some(UsbError::NoUsb { vm: spec.label(), hypervisor: name.to_owned() })
        }
        Ok(_) if !spec.usb => Some(UsbError::NoController { vm: spec.label() }),
        Ok(_) => None,
    }
}

impl Machine {
    /// Puts a device of this host into the VM; `node` is its device node, open for reading and writing. Done when the device
    /// is on the VM's bus; what had this id is replaced.
    ///
    /// # Errors
    /// As [`UsbError`] says. All is undone then, and when the future is dropped.
    pub async fn plug_usb_host(&self, id: &str, node: OwnedFd) -> Result<(), UsbError> {
        let bus = self.bus()?;
        let (machine, label) = (self.clone(), id.to_owned());
        self.plug(id, async move {
            let plugged = bus.plug_host(machine.paths(), &label, node.as_fd(), DEADLINE).await;
            machine.port_found(bus, plugged)?;
            let end = Instant::now() + ATTACH_DEADLINE;
            while !machine.usb_attached(&label).await? {
                if Instant::now() >= end {
                    let (vm, id) = (machine.spec().label(), label.clone());
                    return Err(UsbError::NotAttached { vm, id, deadline: ATTACH_DEADLINE });
                }
                sleep(LOOK).await;
            }
            Ok(())
        })
        .await
    }

    /// Makes room for a device that speaks usbredir, and gives the stream that the device's side is to be connected to. The
    /// filter is usbredir's. What had this id is replaced: so a stream that broke is made anew. The VM's bus has the device
    /// some time after it has introduced itself ([`Machine::usb_attached`]); one that the filter keeps out is told so.
    ///
    /// # Errors
    /// As [`UsbError`] says. All is undone then, and when the future is dropped.
    pub async fn plug_usb_redir(&self, id: &str, filter: &str) -> Result<UnixStream, UsbError> {
        let bus = self.bus()?;
        let (machine, label, filter) = (self.clone(), id.to_owned(), filter.to_owned());
        // Nobody else can come by such a stream, and it leaves no path.
        let (ours, theirs) = UnixStream::pair().map_err(VmError::io("cannot make", "a socket pair"))?;
        self.plug(id, async move {
            let plugged = bus.plug_redir(machine.paths(), &label, &filter, theirs.as_fd(), DEADLINE).await;
            machine.port_found(bus, plugged)?;
            Ok(ours)
        })
        .await
    }

    /// Whether the device of this id is on the VM's bus, as QEMU says; false when there is none.
    ///
    /// # Errors
    /// When the VM has ended, can have none, or QEMU does not answer.
    pub async fn usb_attached(&self, id: &str) -> Result<bool, UsbError> {
        let attached = self.bus()?.attached(self.paths(), id, DEADLINE).await;
        attached.map_err(|error| self.usb_error(error))
    }

    /// Takes a device out of the VM. It is no error when there is none of this id. Done when QEMU has let go of everything
    /// that it had for it; comes to its end also when the future is dropped.
    ///
    /// # Errors
    /// When the VM has ended, can have none, or QEMU does not answer.
    pub async fn unplug_usb(&self, id: &str) -> Result<(), UsbError> {
        let bus = self.bus()?;
        let (machine, label) = (self.clone(), id.to_owned());
        let unplugging = tokio::spawn(async move {
            let _turn = machine.usb_turn().lock_owned().await;
            machine.unplug(bus, &label).await
        });
        unplugging.await.map_err(|error| self.broken_off(&error.to_string()))?
    }

    /// Ids of the devices that were put into the VM, also by an earlier agent.
    ///
    /// # Errors
    /// When the VM has ended, can have none, or QEMU does not answer.
    pub async fn usb_devices(&self) -> Result<Vec<String>, UsbError> {
        let devices = self.bus()?.devices(self.paths(), DEADLINE).await;
        devices.map_err(|error| self.usb_error(error))
    }

    /// Runs a plug in a task of its own, in its turn; undoes it when it fails or nobody waits for it any more.
    async fn plug<T: Send + 'static>(
        &self,
        id: &str,
        plug: impl Future<Output = Result<T, UsbError>> + Send + 'static,
    ) -> Result<T, UsbError> {
        let bus = self.bus()?;
        let (machine, id) = (self.clone(), id.to_owned());
        let (mut sender, plugged) = oneshot::channel();
        tokio::spawn(async move {
            let _turn = machine.usb_turn().lock_owned().await;
            let plugged = tokio::select! {
                plugged = plug => plugged,
                () = sender.closed() => Err(machine.broken_off("nobody waits for it")),
            };
            let failed = plugged.is_err();
            if failed {
                let _ = machine.unplug(bus, &id).await; // why it failed is what counts
            }
            if sender.send(plugged).is_err() && !failed {
                let _ = machine.unplug(bus, &id).await;
            }
        });
        plugged.await.map_err(|error| self.broken_off(&error.to_string()))?
    }

    async fn unplug(&self, bus: &dyn UsbBus, id: &str) -> Result<(), UsbError> {
        bus.unplug(self.paths(), id, DEADLINE).await.map_err(|error| self.usb_error(error))
    }

    /// The bus of a VM that runs and has one.
    fn bus(&self) -> Result<&'static dyn UsbBus, UsbError> {
        self.alive()?;
        if let Some(refusal) = usb_refusal(self.spec()) {
            return Err(refusal);
        }
        let no_usb = || UsbError::NoController { vm: self.spec().label() };
        self.parts().hypervisor.usb().ok_or_else(no_usb)
    }

    fn port_found(&self, bus: &dyn UsbBus, plugged: Result<bool, VmError>) -> Result<(), UsbError> {
        match plugged.map_err(|error| self.usb_error(error))? {
            true => Ok(()),
            false => Err(UsbError::NoPort { vm: self.spec().label(), ports: bus.ports() }),
        }
    }

    /// In terms of the VM.
    fn usb_error(&self, error: VmError) -> UsbError {
        let vm = self.spec().label();
        match error {
            VmError::Monitor { command, problem: said, .. } => UsbError::Refused { vm, command, said },
            VmError::Deadline { doing, deadline } => UsbError::Deadline { vm, doing, deadline },
            error => error.into(),
        }
    }

    fn broken_off(&self, why: &str) -> UsbError {
        let (vm, problem) = (self.spec().label(), format!("a change of its USB devices was broken off: {why}"));
        UsbError::Vm(VmError::BadSpec { vm, problem })
    }
}
