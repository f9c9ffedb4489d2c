//! One client's conversation: hello, announcement, requests and answers, until the client goes. Everything that the device
//! remembers is of this value, and ends with it.
//!
//! A device that was unplugged is announced as gone, and the next one only when the client has confirmed that (if both can):
//! requests that were under way for the old one are not taken for requests to the new one.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::Duration;

use fleet_usbredir::{Caps, Codec, Packet, Side};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use crate::files::noise;
use crate::server::Shared;
use crate::{Condition, Device, Hostile, Persona, Responder};

/// Answers that wait to be written before no more requests are read.
const MAX_OUT: usize = 1024;
/// How long a slow camera's bytes are of at most.
const TICK: Duration = Duration::from_millis(50);
/// Bytes that a camera with hostile packets sends.
const GARBAGE: usize = 64 << 10;

/// What the client was told of.
enum Link {
    Nothing,
    /// The device of this plugging.
    Announced(u64, Box<Device>),
    /// The device is gone, and the client has not confirmed it.
    Leaving,
    /// The client does not want the device of this plugging, or cannot understand it.
    Refused(u64),
}

struct Conversation<'a> {
    shared: &'a Shared,
    codec: Codec,
    link: Link,
    /// Packets to be written, and how much of the first was.
    out: VecDeque<Vec<u8>>,
    written: usize,
}

/// Talks to a client until it goes.
///
/// # Errors
/// When the client breaks the protocol, or the stream breaks.
pub(crate) async fn run(stream: impl AsyncRead + AsyncWrite, shared: &Shared) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (codec, hello) = Codec::new(Side::Host, Caps::OURS, "fleet softcam");
    let out = VecDeque::from([hello]);
    let mut talk = Conversation { shared, codec, link: Link::Nothing, out, written: 0 };
    let mut conditions = shared.conditions.subscribe();
    let mut condition = *conditions.borrow_and_update();
    let mut next = Instant::now();
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        let waits = !talk.out.is_empty();
        tokio::select! {
            changed = conditions.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            read = reader.read_buf(&mut buffer), if talk.out.len() < MAX_OUT => {
                if read? == 0 {
                    return Ok(());
                }
            }
            () = sleep_until(next), if waits && next > Instant::now() => {}
            written = writer.write(talk.front(condition.rate)), if waits && next <= Instant::now() => {
                let written = written?;
                if written == 0 {
                    return Err(ErrorKind::WriteZero.into());
                }
                talk.has_written(written);
                if let Some(rate) = condition.rate {
                    next = Instant::now() + Duration::from_secs_f64(written as f64 / rate.max(1) as f64);
                }
            }
        }
        // Anew at every turn: what was set before the client sent these bytes holds for them.
        let cuts = condition.cuts;
        condition = *conditions.borrow_and_update();
        if condition.cuts != cuts {
            return Ok(());
        }
        talk.follow(&condition)?;
        talk.take(&buffer, &condition)?;
        buffer.clear();
    }
}

impl Conversation<'_> {
    fn front(&self, rate: Option<u64>) -> &[u8] {
        let rest = self.out.front().and_then(|bytes| bytes.get(self.written..)).unwrap_or_default();
        let most = rate.map_or(usize::MAX, |rate| (rate as f64 * TICK.as_secs_f64()) as usize);
        &rest[..rest.len().min(most.max(1))]
    }

    fn has_written(&mut self, count: usize) {
        self.shared.counters.sent(count);
        self.written += count;
        if self.out.front().is_some_and(|bytes| bytes.len() == self.written) {
            self.out.pop_front();
            self.written = 0;
        }
    }

    /// Takes what the client sent.
    fn take(&mut self, mut bytes: &[u8], condition: &Condition) -> io::Result<()> {
        while let Some((id, packet)) = self.codec.read(&mut bytes).map_err(io::Error::other)? {
            match (packet, &mut self.link) {
                (Packet::Hello { .. }, _) => {}
                (Packet::DeviceDisconnectAck, link @ Link::Leaving) => *link = Link::Nothing,
                (Packet::FilterReject, Link::Announced(plug, _)) => {
                    self.link = Link::Refused(*plug);
                    self.shared.counters.rejected();
                }
                (packet, Link::Announced(_, device)) => {
                    let denied = device.denied();
                    let answers = device.handle(id, packet);
                    self.shared.counters.denied(device.denied() - denied);
                    self.send(answers)?;
                }
                // Of a device that is gone.
                _ => {}
            }
            self.follow(condition)?;
        }
        Ok(())
    }

    /// Tells the client what is plugged in now, if it has said hello.
    fn follow(&mut self, condition: &Condition) -> io::Result<()> {
        let Some(caps) = self.codec.caps() else { return Ok(()) };
        match &mut self.link {
            Link::Announced(..) if condition.faults.hostile == Some(Hostile::Packets) => {
                self.out.push_back(noise(1, GARBAGE));
                self.link = Link::Refused(condition.plugs);
            }
            Link::Announced(plug, device) if condition.plug() == Some(*plug) => {
                let answers = device.set_faults(condition.faults);
                return self.send(answers);
            }
            Link::Announced(..) => {
                self.send([(0, Packet::DeviceDisconnect)])?;
                self.link = if caps.has(Caps::DISCONNECT_ACK) { Link::Leaving } else { Link::Nothing };
            }
            Link::Refused(plug) if condition.plug() != Some(*plug) => self.link = Link::Nothing,
            _ => {}
        }
        if let (Link::Nothing, Some(plug)) = (&self.link, condition.plug()) {
            self.shared.counters.announced();
            if condition.faults.hostile == Some(Hostile::Packets) {
                self.link = Link::Refused(plug);
                self.out.push_back(noise(1, GARBAGE));
                return Ok(());
            }
            let mut device = self.device(condition);
            device.set_faults(condition.faults);
            self.send(device.announce().into_iter().map(|packet| (0, packet)))?;
            self.link = Link::Announced(plug, Box::new(device));
        }
        Ok(())
    }

    fn device(&self, condition: &Condition) -> Device {
        let Shared { serial, files, policy, .. } = self.shared;
        match condition.persona {
            Persona::Ptp => Device::ptp(serial, Responder::new(serial, files.clone(), *policy), condition.speed),
            Persona::MassStorage => Device::mass_storage(serial, condition.speed),
        }
    }

    fn send(&mut self, packets: impl IntoIterator<Item = (u64, Packet)>) -> io::Result<()> {
        for (id, packet) in packets {
            self.out.push_back(self.codec.write(id, &packet).map_err(io::Error::other)?);
        }
        Ok(())
    }
}
