//! Data of PTP as bytes: little-endian numbers, arrays with a count of 32 bits, strings in UTF-16 with a count of 8.

/// Bytes under construction.
#[derive(Default)]
pub(crate) struct Dataset(pub(crate) Vec<u8>);

impl Dataset {
    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn codes(self, codes: &[u16]) -> Self {
        let count = u32::try_from(codes.len()).unwrap_or(0);
        codes.iter().fold(self.u32(count), |data, code| data.u16(*code))
    }

    pub(crate) fn handles(self, handles: &[u32]) -> Self {
        let count = u32::try_from(handles.len()).unwrap_or(0);
        handles.iter().fold(self.u32(count), |data, handle| data.u32(*handle))
    }

    /// At most 254 units and a zero; an empty one is its count alone.
    pub(crate) fn text(self, text: &str) -> Self {
        let units: Vec<u16> = text.encode_utf16().take(254).collect();
        if units.is_empty() {
            return self.u8(0);
        }
        let count = u8::try_from(units.len() + 1).unwrap_or(u8::MAX);
        units.iter().fold(self.u8(count), |data, unit| data.u16(*unit)).u16(0)
    }
}
