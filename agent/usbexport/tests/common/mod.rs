//! A usbredir server with a camera in software, and a borrower. What the server does is said by the test.

#![allow(dead_code)] // every test uses another part

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fleet_softcam::{Device, File, Policy, Responder};
use fleet_usbexport::{Seen, Server, ServerAddress};
use fleet_usbredir::{Caps, Codec, Packet, Side, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Nothing here takes a second; a busy machine may.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// What a server does.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// A camera with this serial number.
    Plugged(&'static str),
    Unplugged,
    /// Accepts, and says nothing.
    Silent,
    /// These bytes, and nothing else.
    Says(Vec<u8>),
    /// Closes what it accepts.
    Closes,
    /// Hello, a camera, and then as many bytes in packets of 64 KiB, whatever is asked.
    Floods(usize),
}

/// A server; its task ends with it.
pub struct Fake {
    folder: tempfile::TempDir,
    mode: watch::Sender<Mode>,
    pub counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub accepted: AtomicUsize,
    pub flooded: AtomicUsize,
    pub resets: AtomicUsize,
}

impl Fake {
    pub fn start(mode: Mode) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (mode, modes) = watch::channel(mode);
        let counts = Arc::new(Counts::default());
        let task = listen(&folder, modes, &counts);
        Self { folder, mode, counts, task }
    }

    pub fn address(&self) -> ServerAddress {
        format!("unix:{}", self.folder.path().join("cam").display()).parse().expect("an address")
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// As if its process were killed.
    pub async fn kill(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        std::fs::remove_file(self.folder.path().join("cam")).expect("its socket");
    }

    pub fn restart(&mut self) {
        self.task = listen(&self.folder, self.mode.subscribe(), &self.counts);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen(folder: &tempfile::TempDir, mut modes: watch::Receiver<Mode>, counts: &Arc<Counts>) -> JoinHandle<()> {
    let listener = UnixListener::bind(folder.path().join("cam")).expect("a socket");
    let counts = Arc::clone(counts);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a client");
            counts.accepted.fetch_add(1, Ordering::SeqCst);
            // One client at a time. Whatever ends the connection, the next one is served.
            let _ = serve(stream, &mut modes, &counts).await;
        }
    })
}

async fn serve(mut stream: UnixStream, modes: &mut watch::Receiver<Mode>, counts: &Counts) -> std::io::Result<()> {
    let mode = modes.borrow_and_update().clone();
    match &mode {
        Mode::Closes => return Ok(()),
        Mode::Says(bytes) => {
            stream.write_all(bytes).await?;
            return wait(stream, modes).await;
        }
        Mode::Silent => return wait(stream, modes).await,
        _ => {}
    }
    let (mut codec, hello) = Codec::new(Side::Host, Caps::OURS, "fake");
    stream.write_all(&hello).await?;
    let mut device = None;
    let mut buffer = vec![0; 65536];
    loop {
        let length = tokio::select! {
            read = stream.read(&mut buffer) => read?,
            _ = modes.changed() => {
                let new = modes.borrow_and_update().clone();
                if device.take().is_some() {
                    stream.write_all(&codec.write(0, &Packet::DeviceDisconnect).expect("a packet")).await?;
                }
                plug(&mut stream, &codec, &new, &mut device, counts).await?;
                continue;
            }
        };
        if length == 0 {
            return Ok(());
        }
        let mut bytes = &buffer[..length];
        while let Some((id, packet)) = codec.read(&mut bytes).map_err(std::io::Error::other)? {
            if matches!(packet, Packet::Hello { .. }) {
                let mode = modes.borrow_and_update().clone();
                plug(&mut stream, &codec, &mode, &mut device, counts).await?;
                continue;
            }
            if packet == Packet::Reset {
                counts.resets.fetch_add(1, Ordering::SeqCst);
            }
            for (id, packet) in device.iter_mut().flat_map(|device: &mut Device| device.handle(id, packet.clone())) {
                stream.write_all(&codec.write(id, &packet).expect("a packet")).await?;
            }
        }
    }
}

/// Until the client goes or the mode changes.
async fn wait(mut stream: UnixStream, modes: &mut watch::Receiver<Mode>) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => if read? == 0 { return Ok(()) },
            _ = modes.changed() => return Ok(()),
        }
    }
}

async fn plug(
    stream: &mut UnixStream,
    codec: &Codec,
    mode: &Mode,
    device: &mut Option<Device>,
    counts: &Counts,
) -> std::io::Result<()> {
    if codec.caps().is_none() {
        return Ok(());
    }
    let serial = match mode {
        Mode::Plugged(serial) => serial,
        Mode::Floods(_) => "1",
        _ => return Ok(()),
    };
    let plugged = Device::new(serial, Responder::new(serial, vec![picture()], Policy::default()));
    for packet in plugged.announce() {
        stream.write_all(&codec.write(0, &packet).expect("a packet")).await?;
    }
    *device = Some(plugged);
    // The watching connection inspects the device first; a flood is for whoever has it then.
    if let Mode::Floods(total) = mode
        && counts.accepted.load(Ordering::SeqCst) > 1
    {
        for _ in 0..total / FLOOD {
            let packet = Packet::Bulk {
                endpoint: 0x81,
                status: Status::Success,
                stream: 0,
                length: FLOOD as u32,
                data: vec![7; FLOOD],
            };
            stream.write_all(&codec.write(9, &packet).expect("a packet")).await?;
            counts.flooded.fetch_add(FLOOD, Ordering::SeqCst);
        }
    }
    Ok(())
}

/// Bytes of one packet of a flood.
pub const FLOOD: usize = 65536;

/// The picture in the camera.
pub fn picture() -> File {
    File { name: "DSC_0001.JPG".into(), bytes: (0..1_000_000u32).map(|at| (at / 7) as u8).collect() }
}

/// The first value that is meant.
pub async fn until(server: &Server, meant: impl FnMut(&Option<Seen>) -> bool) -> Option<Seen> {
    let mut seen = server.seen();
    let found = tokio::time::timeout(DEADLINE, seen.wait_for(meant)).await.expect("in time");
    found.expect("the server's task").clone()
}

/// A borrower: the guest's side.
pub struct Borrower<S> {
    pub stream: S,
    codec: Codec,
    last: u64,
    come: std::collections::VecDeque<(u64, Packet)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Borrower<S> {
    /// Says hello.
    pub async fn start(mut stream: S) -> Self {
        let (codec, hello) = Codec::new(Side::Guest, Caps::OURS, "borrower");
        stream.write_all(&hello).await.expect("hello");
        Self { stream, codec, last: 100, come: Default::default() }
    }

    /// The next packet; none at the end of the stream.
    pub async fn next(&mut self) -> Option<(u64, Packet)> {
        let mut buffer = vec![0; 65536];
        while self.come.is_empty() {
            let read = tokio::time::timeout(DEADLINE, self.stream.read(&mut buffer)).await.expect("in time");
            let length = read.expect("bytes");
            if length == 0 {
                return None;
            }
            let mut bytes = &buffer[..length];
            while let Some(packet) = self.codec.read(&mut bytes).expect("packets") {
                self.come.push_back(packet);
            }
        }
        self.come.pop_front()
    }

    /// The first that is meant; those before are passed over.
    pub async fn wait(&mut self, meant: impl Fn(&Packet) -> bool) -> Packet {
        loop {
            let (_, packet) = self.next().await.expect("the stream goes on");
            if meant(&packet) {
                return packet;
            }
        }
    }

    pub async fn send(&mut self, packet: &Packet) -> u64 {
        self.last += 1;
        let bytes = self.codec.write(self.last, packet).expect("a packet");
        self.stream.write_all(&bytes).await.expect("it takes it");
        self.last
    }

    /// The answer to this one is not wanted any more.
    pub async fn cancel(&mut self, id: u64) {
        let bytes = self.codec.write(id, &Packet::CancelData).expect("a packet");
        self.stream.write_all(&bytes).await.expect("it takes it");
    }

    pub async fn bulk_out(&mut self, data: Vec<u8>) {
        let (length, status) = (data.len() as u32, Status::Success);
        let id = self.send(&Packet::Bulk { endpoint: 0x02, status, stream: 0, length, data }).await;
        let (answered, packet) = self.next().await.expect("an answer");
        assert_eq!(answered, id);
        assert!(matches!(packet, Packet::Bulk { status: Status::Success, .. }), "{packet:?}");
    }

    /// One transfer, in pieces.
    pub async fn transfer(&mut self, piece: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let status = Status::Success;
            let id = self.send(&Packet::Bulk { endpoint: 0x81, status, stream: 0, length: piece, data: vec![] }).await;
            let (answered, packet) = self.next().await.expect("an answer");
            assert_eq!(answered, id);
            let Packet::Bulk { status: Status::Success, data, .. } = packet else { panic!("{packet:?}") };
            all.extend(&data);
            if data.len() < piece as usize {
                return all;
            }
        }
    }
}

/// A command of PTP.
pub fn command(code: u16, parameters: &[u32]) -> Vec<u8> {
    let mut bytes = (12 + 4 * parameters.len() as u32).to_le_bytes().to_vec();
    bytes.extend([1u16, code].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([7].iter().chain(parameters).flat_map(|word: &u32| word.to_le_bytes()));
    bytes
}
