//! All packets that are sent with the capabilities of [`Caps::OURS`](crate::Caps::OURS).

/// How a request ended, on the wire one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Well.
    Success = 0,
    /// It was cancelled.
    Cancelled = 1,
    /// It made no sense: type, length or endpoint.
    Inval = 2,
    /// The device did not answer as it should.
    IoError = 3,
    /// The endpoint is halted.
    Stall = 4,
    /// It took too long.
    Timeout = 5,
    /// The device sent more than was asked for.
    Babble = 6,
}

impl Status {
    pub(crate) fn from_wire(byte: u8) -> Option<Self> {
        use Status::{Babble, Cancelled, Inval, IoError, Stall, Success, Timeout};
        [Success, Cancelled, Inval, IoError, Stall, Timeout, Babble].into_iter().find(|status| *status as u8 == byte)
    }
}

/// A device's speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Speed {
    /// 1.5 Mbit/s.
    Low = 0,
    /// 12 Mbit/s.
    Full = 1,
    /// 480 Mbit/s.
    High = 2,
    /// 5 Gbit/s and more.
    Super = 3,
    /// Not known.
    Unknown = 255,
}

impl Speed {
    pub(crate) fn from_wire(byte: u8) -> Option<Self> {
        [Self::Low, Self::Full, Self::High, Self::Super, Self::Unknown].into_iter().find(|speed| *speed as u8 == byte)
    }
}

/// What an endpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EpType {
    /// Requests with an answer.
    Control = 0,
    /// Data in time, that may be lost.
    Iso = 1,
    /// Data in full, at leisure.
    Bulk = 2,
    /// Little, asked for again and again.
    Interrupt = 3,
    /// There is no such endpoint.
    Invalid = 255,
}

impl EpType {
    pub(crate) fn from_wire(byte: u8) -> Option<Self> {
        [Self::Control, Self::Iso, Self::Bulk, Self::Interrupt, Self::Invalid]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The device that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceConnect {
    /// Its speed.
    pub speed: Speed,
    /// `bDeviceClass`.
    pub class: u8,
    /// `bDeviceSubClass`.
    pub subclass: u8,
    /// `bDeviceProtocol`.
    pub protocol: u8,
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
    /// `bcdDevice`; 0 when the other end does not say it.
    pub version: u16,
}

/// One interface of the configuration in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterfaceClass {
    /// `bInterfaceNumber`.
    pub number: u8,
    /// `bInterfaceClass`.
    pub class: u8,
    /// `bInterfaceSubClass`.
    pub subclass: u8,
    /// `bInterfaceProtocol`.
    pub protocol: u8,
}

/// Interfaces of the configuration in use, at most 32.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceInfo {
    /// In their order.
    pub interfaces: Vec<InterfaceClass>,
}

/// One endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// What for.
    pub kind: EpType,
    /// `bInterval`.
    pub interval: u8,
    /// Its interface.
    pub interface: u8,
    /// Bytes of a packet; 0 when the other end does not say it.
    pub max_packet: u16,
}

impl Endpoint {
    /// An endpoint that is not there.
    pub const NONE: Self = Self { kind: EpType::Invalid, interval: 0, interface: 0, max_packet: 0 };
}

/// The endpoints, by [`EpInfo::index`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpInfo {
    /// All 32 that there can be.
    pub endpoints: [Endpoint; 32],
}

impl EpInfo {
    /// Where the endpoint of this address is: 0 to 15 from the host, 16 to 31 to it.
    pub const fn index(address: u8) -> usize {
        ((address & 0x80) >> 3 | (address & 0x0f)) as usize
    }
}

/// One packet. Those of data go both ways: with data in the direction of the transfer; the other way, the request of an
/// IN transfer and the answer of an OUT one, with a length only.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the protocol, named as the packets that set them say")]
pub enum Packet {
    /// The first of each side. Its capabilities have been taken in by the codec.
    Hello { version: String, caps: crate::Caps },
    /// Host: a device is there. After its endpoints and interfaces.
    DeviceConnect(DeviceConnect),
    /// Host: it is gone.
    DeviceDisconnect,
    /// Guest: reset it.
    Reset,
    /// Host: the interfaces, anew after each change.
    InterfaceInfo(InterfaceInfo),
    /// Host: the endpoints, anew after each change.
    EpInfo(Box<EpInfo>),
    /// Guest: use this configuration.
    SetConfiguration { configuration: u8 },
    /// Guest: which one is in use?
    GetConfiguration,
    /// Host: the answer to both.
    ConfigurationStatus { status: Status, configuration: u8 },
    /// Guest: use this setting of an interface.
    SetAltSetting { interface: u8, alt: u8 },
    /// Guest: which one is in use?
    GetAltSetting { interface: u8 },
    /// Host: the answer to both.
    AltSettingStatus { status: Status, interface: u8, alt: u8 },
    /// Guest: begin to send or take isochronous data.
    StartIsoStream { endpoint: u8, packets_per_urb: u8, urbs: u8 },
    /// Guest: end it.
    StopIsoStream { endpoint: u8 },
    /// Host: how it is with the stream.
    IsoStreamStatus { status: Status, endpoint: u8 },
    /// Guest: ask this endpoint again and again.
    StartInterruptReceiving { endpoint: u8 },
    /// Guest: no more.
    StopInterruptReceiving { endpoint: u8 },
    /// Host: how it is with it.
    InterruptReceivingStatus { status: Status, endpoint: u8 },
    /// Guest: the request with this packet's id is not wanted any more. It is answered all the same.
    CancelData,
    /// Guest: the device is refused by its filter.
    FilterReject,
    /// Either: the filter that it has.
    Filter { rules: String },
    /// Guest: it has noticed that the device is gone; ids may be used anew.
    DeviceDisconnectAck,
    /// A transfer over endpoint 0.
    Control {
        endpoint: u8,
        request: u8,
        request_type: u8,
        status: Status,
        value: u16,
        index: u16,
        length: u16,
        data: Vec<u8>,
    },
    /// A bulk transfer. `length` is the data's, where there is data.
    Bulk { endpoint: u8, status: Status, stream: u32, length: u32, data: Vec<u8> },
    /// A packet of a stream.
    Iso { endpoint: u8, status: Status, length: u16, data: Vec<u8> },
    /// A packet of an interrupt endpoint.
    Interrupt { endpoint: u8, status: Status, length: u16, data: Vec<u8> },
}
