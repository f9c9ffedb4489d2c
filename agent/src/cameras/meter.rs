//! A VM's stream that counts what goes by.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use fleet_proto::v1::CameraSample;
use fleet_usb::lease::CameraId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one attachment.
#[derive(Debug, Default)]
pub struct Meter {
    to_guest: AtomicU64,
    from_guest: AtomicU64,
}

impl Meter {
    /// To the guest, and from it.
    pub fn read(&self) -> (u64, u64) {
        (self.to_guest.load(Ordering::Relaxed), self.from_guest.load(Ordering::Relaxed))
    }

    /// What went by, if anything did, for the VM of this experiment on this host.
    pub fn sample(&self, vm_host: &str, camera: &CameraId, experiment: &str, vm: &str) -> Option<CameraSample> {
        let (to_guest_bytes, from_guest_bytes) = self.read();
        (to_guest_bytes + from_guest_bytes > 0).then(|| CameraSample {
            host: vm_host.to_owned(),
            camera_host: camera.host.clone(),
            camera: camera.camera.clone(),
            experiment: experiment.to_owned(),
            vm: vm.to_owned(),
            to_guest_bytes,
            from_guest_bytes,
        })
    }

    /// Another attachment begins.
    pub fn reset(&self) {
        self.to_guest.store(0, Ordering::Relaxed);
        self.from_guest.store(0, Ordering::Relaxed);
    }
}

/// The stream.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    /// Counts into this meter.
    pub fn new(inner: S, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(context, buffer);
        add(&this.meter.from_guest, buffer.filled().len().saturating_sub(before));
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            add(&this.meter.to_guest, written);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_goes_by_is_counted_each_way() {
        let (near, mut far) = tokio::io::duplex(64);
        let meter = Arc::new(Meter::default());
        let mut near = Metered::new(near, Arc::clone(&meter));
        near.write_all(b"hello").await.unwrap();
        far.write_all(b"hi").await.unwrap();
        near.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(meter.read(), (5, 2));
        meter.reset();
        assert_eq!(meter.read(), (0, 0));
    }
}
