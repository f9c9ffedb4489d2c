//! IPv4 prefixes.

use serde::{Serialize, Serializer};
use std::fmt;
use std::net::Ipv4Addr;

/// An IPv4 prefix; the host bits of `address` are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: u32,
    len: u8,
}

impl Prefix {
    /// All addresses: 0.0.0.0/0.
    pub(crate) const ALL: Prefix = Prefix { address: 0, len: 0 };

    /// A prefix; host bits are cleared, the length is at most 32.
    pub fn new(address: u32, len: u8) -> Prefix {
        let len = len.min(32);
        Prefix { address: address & mask(len), len }
    }

    /// Whether an address with a length has host bits set, and so is no prefix.
    pub fn has_host_bits(address: u32, len: u8) -> bool {
        address & !mask(len) != 0
    }

    /// First address.
    pub fn first(self) -> u32 {
        self.address
    }

    /// Last address.
    pub fn last(self) -> u32 {
        self.address | !mask(self.len)
    }

    /// First address, as an address.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(self.address)
    }

    /// Length in bits.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> u8 {
        self.len
    }

    /// How many addresses it has.
    pub fn size(self) -> u64 {
        1 << (32 - u32::from(self.len))
    }

    /// Whether an address lies in it.
    pub fn contains(self, address: u32) -> bool {
        address & mask(self.len) == self.address
    }

    /// Whether two prefixes have an address in common.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.first() <= other.last() && other.first() <= self.last()
    }

    /// The largest host number that a host may have: the last address is the broadcast address.
    pub fn max_host_number(self) -> u64 {
        match self.len {
            0..=30 => self.size() - 2,
            _ => self.size() - 1,
        }
    }

    /// The `n`th prefix of length `len` within this one.
    pub fn sub(self, len: u8, n: u64) -> Option<Prefix> {
        let step = 1u64 << (32 - u32::from(len.min(32)));
        let offset = n.checked_mul(step)?;
        (len >= self.len && len <= 32 && offset < self.size())
            .then(|| Prefix::new((u64::from(self.address) + offset) as u32, len))
    }
}

/// The netmask of a length.
fn mask(len: u8) -> u32 {
    if len == 0 { 0 } else { u32::MAX << (32 - u32::from(len.min(32))) }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.len)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::str::FromStr for Prefix {
    type Err = ();

    fn from_str(text: &str) -> Result<Prefix, ()> {
        let (address, len) = text.split_once('/').ok_or(())?;
        let address = parse_address(address).ok_or(())?;
        let len: u8 = len.parse().map_err(drop)?;
        (len <= 32 && !Prefix::has_host_bits(address, len)).then(|| Prefix::new(address, len)).ok_or(())
    }
}

/// Reads a dotted address.
pub(crate) fn parse_address(text: &str) -> Option<u32> {
    text.parse::<Ipv4Addr>().ok().map(u32::from)
}
