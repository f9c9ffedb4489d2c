//! Capabilities, as the two `hello` packets carry them.

/// A set of capabilities; bit N of the first word is capability N.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps(pub u32);

impl Caps {
    /// Streams of bulk endpoints (USB 3).
    pub const BULK_STREAMS: Self = Self(1);
    /// `device_connect` has the device's version.
    pub const CONNECT_DEVICE_VERSION: Self = Self(1 << 1);
    /// `filter_reject` and `filter_filter` exist.
    pub const FILTER: Self = Self(1 << 2);
    /// `device_disconnect_ack` exists.
    pub const DISCONNECT_ACK: Self = Self(1 << 3);
    /// `ep_info` has packet sizes.
    pub const EP_INFO_MAX_PACKET_SIZE: Self = Self(1 << 4);
    /// Ids have 64 bits, not 32.
    pub const IDS_64: Self = Self(1 << 5);
    /// Bulk packets may have more than 65,535 bytes.
    pub const BULK_LENGTH_32: Self = Self(1 << 6);
    /// Bulk data may be read ahead.
    pub const BULK_RECEIVING: Self = Self(1 << 7);

    /// What an exporter of cameras offers: all but streams and reading ahead, which PTP, mass storage and UVC over bulk
    /// do not need.
    pub const OURS: Self = Self(
        Self::CONNECT_DEVICE_VERSION.0
            | Self::FILTER.0
            | Self::DISCONNECT_ACK.0
            | Self::EP_INFO_MAX_PACKET_SIZE.0
            | Self::IDS_64.0
            | Self::BULK_LENGTH_32.0,
    );

    /// Whether all of `other` are in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// With those of the other.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What the protocol says of sets: packet sizes in `ep_info` are there whenever streams are.
    pub const fn is_consistent(self) -> bool {
        !self.has(Self::BULK_STREAMS) || self.has(Self::EP_INFO_MAX_PACKET_SIZE)
    }
}
