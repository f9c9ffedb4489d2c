//! Counters of ports: read by whoever owns the devices, turned here into the guest's view.

use fleet_proto::v1::PortSample;

/// Counters of a network device, totals since it was made, as the kernel reports them of that device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Bytes received by the device.
    pub rx_bytes: u64,
    /// Bytes sent by the device.
    pub tx_bytes: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Received frames that were thrown away.
    pub rx_dropped: u64,
    /// Frames to be sent that were thrown away.
    pub tx_dropped: u64,
}

impl LinkCounters {
    /// The same traffic seen from the other end of the wire: what a tap sends, its guest receives.
    pub fn mirrored(self) -> Self {
        Self {
            rx_bytes: self.tx_bytes,
            tx_bytes: self.rx_bytes,
            rx_frames: self.tx_frames,
            tx_frames: self.rx_frames,
            rx_dropped: self.tx_dropped,
            tx_dropped: self.rx_dropped,
        }
    }
}

/// One port and its counters at the instant of the sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTarget {
    /// The experiment.
    pub experiment: String,
    /// The VM or router whose port it is.
    pub owner: String,
    /// The port's name at its owner: `eth0`.
    pub port: String,
    /// The LAN it is attached to.
    pub segment: String,
    /// As the owner sees them. Counters of a tap, read on the host, must be [`LinkCounters::mirrored`] first.
    pub counters: LinkCounters,
}

impl PortTarget {
    pub(crate) fn sample(&self, host: &str) -> PortSample {
        PortSample {
            experiment: self.experiment.clone(),
            host: host.to_owned(),
            vm: self.owner.clone(),
            port: self.port.clone(),
            segment: self.segment.clone(),
            rx_bytes: self.counters.rx_bytes,
            tx_bytes: self.counters.tx_bytes,
            rx_frames: self.counters.rx_frames,
            tx_frames: self.counters.tx_frames,
            rx_dropped: self.counters.rx_dropped,
            tx_dropped: self.counters.tx_dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tap_sends_the_guest_receives() {
        let tap = LinkCounters { rx_bytes: 1, tx_bytes: 2, rx_frames: 3, tx_frames: 4, rx_dropped: 5, tx_dropped: 6 };
        let guest = LinkCounters { rx_bytes: 2, tx_bytes: 1, rx_frames: 4, tx_frames: 3, rx_dropped: 6, tx_dropped: 5 };
        assert_eq!(tap.mirrored(), guest);
        assert_eq!(tap.mirrored().mirrored(), tap);
    }
}
