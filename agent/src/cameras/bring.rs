//! Bringing a camera into a VM, and taking it out. Attached means proved: QEMU says so, and for a camera on a port of this
//! host its process holds the node. What is dropped half-way is undone or replaced by what comes after it.

use std::sync::Arc;
use std::time::Duration;

use fleet_usb::{Persona, VidPid};
use fleet_usbredir::{Filter, FilterRule};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::meter::{Meter, Metered};
use super::port::Port;
use super::refusal::Refusal;
use super::source::{Source, Way};

/// For a redirected camera to come up in QEMU: it introduces itself, over the way to its host.
const UP: Duration = Duration::from_secs(20);
/// Between two looks whether it has: QEMU has no event for it.
const LOOK: Duration = Duration::from_millis(50);
/// For a conversation that was cancelled to come to its end.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What is to be brought where.
pub struct Bring {
    /// The VM's ports.
    pub port: Arc<dyn Port>,
    /// The camera.
    pub source: Arc<dyn Source>,
    /// Its id in QEMU.
    pub id: String,
    /// Its mode.
    pub persona: Persona,
    /// Vendor and product now.
    pub usb_id: VidPid,
    /// `experiment.vm`, for messages.
    pub vm: String,
    /// For messages.
    pub camera: String,
    /// What goes by is counted here.
    pub meter: Arc<Meter>,
}

/// A camera in its VM.
pub struct Brought {
    /// The conversation with it, if it is redirected.
    pub relay: Option<Relay>,
    /// It was there.
    pub found: bool,
}

/// A conversation under way; dropped, it ends.
pub struct Relay {
    task: AbortOnDropHandle<String>,
    cancel: CancellationToken,
}

impl Relay {
    /// Waits until it ends by itself; says why.
    pub async fn ended(&mut self) -> String {
        (&mut self.task).await.unwrap_or_else(|error| error.to_string())
    }

    /// Ends it.
    pub async fn end(self) {
        self.cancel.cancel();
        // Dropped when it takes too long.
        drop(tokio::time::timeout(LAST_WORDS, self.task).await);
    }
}

/// Brings it there.
///
/// # Errors
/// As [`Refusal`] says; nothing of it is in the VM then.
pub async fn bring(what: Bring) -> Result<Brought, Refusal> {
    let Bring { port, source, id, .. } = &what;
    let attached = port.attached(id).await.map_err(Refusal::Vm)?;
    match source.open(port.pid(), attached).await {
        Ok(Way::There) => Ok(Brought { relay: None, found: true }),
        Ok(Way::Node(node, path)) => {
            what.meter.reset();
            port.plug_host(id, node).await.map_err(Refusal::Vm)?;
            if !source.holds(port.pid(), &path).await {
                take_out(port, id).await;
                let path = path.display().to_string();
                return Err(Refusal::NotHeld { vm: what.vm, camera: what.camera, path });
            }
            Ok(Brought { relay: None, found: false })
        }
        Ok(Way::Stream) => {
            let stream = port.plug_redir(id, &filter(what.persona, what.usb_id).to_string()).await;
            let stream = stream.map_err(Refusal::Vm)?;
            what.meter.reset();
            let io = Box::new(Metered::new(stream, Arc::clone(&what.meter)));
            let cancel = CancellationToken::new();
            let (relaying, token) = (Arc::clone(source), cancel.clone());
            let task: JoinHandle<String> = tokio::spawn(async move { relaying.relay(io, token).await });
            let mut relay = Relay { task: AbortOnDropHandle::new(task), cancel };
            match prove(&what, &mut relay).await {
                Ok(()) => Ok(Brought { relay: Some(relay), found: false }),
                Err(refusal) => {
                    relay.end().await;
                    take_out(port, id).await;
                    Err(refusal)
                }
            }
        }
        Err(refusal) => {
            if attached {
                take_out(port, id).await;
            }
            Err(refusal)
        }
    }
}

/// Waits until QEMU has a redirected camera.
async fn prove(what: &Bring, relay: &mut Relay) -> Result<(), Refusal> {
    let not_up = |reason| Refusal::NotUp { vm: what.vm.clone(), camera: what.camera.clone(), reason };
    let until = Instant::now() + UP;
    loop {
        if what.port.attached(&what.id).await.map_err(Refusal::Vm)? {
            return Ok(());
        }
        if Instant::now() >= until {
            let said = format!("QEMU did not take it within {} s; is the VM's host overloaded?", UP.as_secs());
            return Err(not_up(said));
        }
        tokio::select! {
            reason = relay.ended() => return Err(not_up(reason)),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What failed is told by who calls this; a remainder is replaced by the next try.
async fn take_out(port: &Arc<dyn Port>, id: &str) {
    if let Err(reason) = port.unplug(id).await {
        tracing::warn!(id, reason, "what is left of a camera could not be taken out of its VM");
    }
}

/// Lets in the camera in its mode and nothing else. A video camera's microphone is its own.
fn filter(persona: Persona, usb_id: VidPid) -> Filter {
    let only = |class| Filter::only(usb_id.vendor, usb_id.product, class);
    let with = |class: Option<u8>| {
        let Filter(mut rules) = only(0);
        let (vendor, product) = (Some(usb_id.vendor), Some(usb_id.product));
        let rule = FilterRule { class, vendor, product, version: None, allow: true };
        rules.splice(..1, [rule]);
        Filter(rules)
    };
    match persona {
        Persona::Ptp => only(6),
        Persona::MassStorage => only(8),
        Persona::Uvc => {
            let (Filter(mut video), Filter(audio)) = (only(14), only(1));
            video.splice(..0, audio.into_iter().take(1));
            Filter(video)
        }
        // A protocol of its maker's own has no class to go by.
        Persona::Vendor | Persona::Other => with(None),
    }
}

/// The camera's id in QEMU: from who it is, so that a later agent finds it.
pub fn device_id(host: &str, camera: &str) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(format!("{host} {camera}").as_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_lets_in_one_camera_in_one_mode() {
        let id = VidPid { vendor: 0x04b0, product: 0x0428 };
        let text = |persona| filter(persona, id).to_string();
        assert_eq!(text(Persona::Ptp), "6:0x04b0:0x0428:-1:1|-1:-1:-1:-1:0");
        assert_eq!(text(Persona::MassStorage), "8:0x04b0:0x0428:-1:1|-1:-1:-1:-1:0");
        assert_eq!(text(Persona::Uvc), "1:0x04b0:0x0428:-1:1|14:0x04b0:0x0428:-1:1|-1:-1:-1:-1:0");
        assert_eq!(text(Persona::Vendor), "-1:0x04b0:0x0428:-1:1|-1:-1:-1:-1:0");
    }

    #[test]
    fn each_camera_has_an_id_of_its_own() {
        assert_eq!(device_id("h1", "04b0:1"), device_id("h1", "04b0:1"));
        assert_ne!(device_id("h1", "04b0:1"), device_id("h2", "04b0:1"));
        assert_eq!(device_id("h1", "04b0@unix:/run/cam.sock").len(), 16);
    }
}
