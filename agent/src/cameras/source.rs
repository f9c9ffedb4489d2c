//! A camera that can be lent: how it is, and how it goes into a VM. One of this host is here, on a port or behind a usbredir
//! server; one of another host is in [`super::borrow`].

use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use fleet_proto::v1::CameraState;
use fleet_usb::{Persona, VidPid};
use fleet_usbexport::Ended;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;

use super::host::{Cameras, Host};
use super::refusal::Refusal;
use super::register::{Known, Obstacle, Place};

/// How a camera is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Whether it is plugged in.
    pub present: bool,
    /// How it presents itself, or did.
    pub persona: Persona,
    /// Vendor and product.
    pub usb_id: VidPid,
    /// Which plugging in it is.
    pub plugged: u64,
    /// Why it cannot be given out now.
    pub obstacle: Option<Obstacle>,
}

/// What is known of a camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// As its host says.
    As(Sight),
    /// Its host has no such camera now.
    Nowhere,
    /// Its host is not reached.
    Unreached(Refusal),
    /// Its host gives it out with a newer lease: it does not come back with this one.
    Over(String),
}

/// How a camera goes into a VM.
pub enum Way {
    /// It is there already, and all is well.
    There,
    /// By its open device node.
    Node(OwnedFd, PathBuf),
    /// By a conversation: [`Source::relay`].
    Stream,
}

/// A stream to a VM.
pub type Io = Box<dyn Stream>;

/// What such a stream can do.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A camera that can be lent.
#[async_trait]
pub trait Source: Send + Sync {
    /// How it is now, and then at each change.
    fn sights(&self) -> BoxStream<'static, Seen>;

    /// Looks whether it can be given out, and opens it. `pid` is the VM's process, and `attached` whether that says that
    /// it has the camera.
    async fn open(&self, pid: u32, attached: bool) -> Result<Way, Refusal>;

    /// Whether the VM's process holds the node; asked after it was given one.
    async fn holds(&self, pid: u32, node: &Path) -> bool;

    /// Lends it over a stream until that ends; says why it did.
    async fn relay(&self, io: Io, cancel: CancellationToken) -> String;

    /// Its host is reached elsewhere now.
    fn moved(&self, _address: &str) {}
}

/// A camera of this host.
pub struct Own {
    host: Arc<Host>,
    name: String,
    id: String,
}

impl Own {
    /// The camera with this identity.
    pub fn new(host: Arc<Host>, name: &str, id: &str) -> Self {
        Self { host, name: name.to_owned(), id: id.to_owned() }
    }

    /// How it is in a list.
    pub fn seen(cameras: &Cameras, id: &str) -> Seen {
        cameras.get(id).map_or(Seen::Nowhere, |known| {
            Seen::As(Sight {
                present: known.present,
                persona: known.persona,
                usb_id: known.usb_id,
                plugged: known.plugged,
                obstacle: known.obstacle.clone(),
            })
        })
    }

    /// As it is after a look, if it can be given out.
    async fn look(&self) -> Result<Known, Refusal> {
        let cameras = match self.host.look().await {
            Ok(cameras) => cameras,
            Err(error) => {
                tracing::warn!(camera = self.id, %error, "it is taken as it was seen before");
                self.host.cameras()
            }
        };
        let known = cameras.get(&self.id).cloned();
        let known = known.ok_or_else(|| Refusal::Unknown { host: self.name.clone(), camera: self.id.clone() })?;
        if !known.present {
            return Err(Refusal::Absent { host: self.name.clone() });
        }
        match &known.obstacle {
            Some(obstacle) => Err(Refusal::InTheWay(obstacle.clone())),
            None => Ok(known),
        }
    }

    /// Gives it out over a stream, wherever it is; says why that ended.
    pub async fn export(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        cancel: CancellationToken,
    ) -> Result<Ended, String> {
        let known = self.look().await.map_err(|refusal| refusal.to_string())?;
        let ended = match &known.place {
            Place::Server(number) => match self.host.server(*number) {
                Some(server) => server.lend(io, cancel).await,
                None => return Err(format!("{} is behind no server any more", known.label())),
            },
            Place::Port { node, .. } => {
                if let Some(other) = self.host.held_by_other(&self.id, std::process::id()) {
                    return Err(format!("{}: {other}", known.label()));
                }
                let node = open(&known, node).map_err(|refusal| refusal.to_string())?;
                fleet_usbexport::export_device(node, io, cancel).await
            }
        };
        ended.map_err(|error| error.to_string())
    }
}

/// Opens a node for QEMU, or for the exporter.
fn open(known: &Known, node: &Path) -> Result<OwnedFd, Refusal> {
    let file = std::fs::OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOCTTY).open(node);
    file.map(OwnedFd::from).map_err(|error| Refusal::Open {
        camera: known.label(),
        path: node.display().to_string(),
        reason: error.to_string(),
    })
}

#[async_trait]
impl Source for Own {
    fn sights(&self) -> BoxStream<'static, Seen> {
        let id = self.id.clone();
        WatchStream::new(self.host.watch()).map(move |cameras| Self::seen(&cameras, &id)).boxed()
    }

    async fn open(&self, pid: u32, attached: bool) -> Result<Way, Refusal> {
        let known = self.look().await?;
        match &known.place {
            Place::Server(_) => Ok(Way::Stream),
            Place::Port { node, .. } if attached && self.holds(pid, node).await => Ok(Way::There),
            Place::Port { node, .. } => {
                // The fleet's own processes are no obstacle to the list; to another VM they are.
                if let Some(other) = self.host.held_by_other(&self.id, pid) {
                    return Err(Refusal::InTheWay(Obstacle { state: CameraState::Busy, detail: other }));
                }
                Ok(Way::Node(open(&known, node)?, node.clone()))
            }
        }
    }

    async fn holds(&self, pid: u32, node: &Path) -> bool {
        self.host.holds(pid, node).await
    }

    async fn relay(&self, io: Io, cancel: CancellationToken) -> String {
        match self.export(io, cancel).await {
            Ok(Ended::Cancelled) => "it was taken back".to_owned(),
            Ok(Ended::Unplugged) => "it was unplugged".to_owned(),
            Ok(Ended::PeerClosed) => "the VM closed the conversation".to_owned(),
            Err(reason) => reason,
        }
    }
}

/// A mode by its word, as others say it.
pub fn persona(word: &str) -> Persona {
    let all = [Persona::Ptp, Persona::Uvc, Persona::MassStorage, Persona::Vendor];
    all.into_iter().find(|persona| persona.to_string() == word).unwrap_or(Persona::Other)
}

/// A state of others' words, for an obstacle that only has words.
pub fn in_the_way(detail: &str) -> Option<Obstacle> {
    let state = |word| detail.starts_with(word);
    let state = match detail {
        "" => return None,
        _ if state("busy") => CameraState::Busy,
        _ if state("denied") => CameraState::Denied,
        _ if state("no node") => CameraState::NoNode,
        _ => CameraState::Malformed,
    };
    Some(Obstacle { state, detail: detail.to_owned() })
}
