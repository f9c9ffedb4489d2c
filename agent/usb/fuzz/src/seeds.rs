//! What the fuzzer starts from: conversations of QEMU and `gphoto2` with the camera in software, as they were recorded, and
//! descriptors.
//!
//! `conversations/NAME.to-guest` and `.to-host` are all bytes of each direction behind the hello.

use anyhow::{Context, Result};
use fleet_fuzz::repository;

use crate::READERS;

/// Capabilities of QEMU 7.2 and of the camera, as an input has them.
const CAPS: u16 = 0x7e;

/// Every recorded direction for each reader, every descriptor, and every input that was once wrong.
///
/// # Errors
/// When a file cannot be read.
pub fn corpus() -> Result<Vec<Vec<u8>>> {
    let mut inputs = vec![input(5, b"6:0x04b0:0x0428:-1:1|-1:-1:-1:-1:0"), input(4, D7000)];
    for folder in ["conversations", "regressions"] {
        let folder = repository().join("agent/usb/fuzz").join(folder);
        let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.sort();
        for file in files {
            let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("to-guest") => inputs.extend([input(0, &bytes), input(2, &bytes)]),
                Some("to-host") => inputs.extend([input(1, &bytes), input(3, &bytes)]),
                _ => inputs.push(bytes),
            }
        }
    }
    Ok(inputs)
}

/// An input for a reader, in pieces of 7 bytes.
fn input(reader: u8, bytes: &[u8]) -> Vec<u8> {
    debug_assert!(usize::from(reader) < READERS.len());
    let [low, high] = CAPS.to_le_bytes();
    [&[reader, 6, low, high], bytes].concat()
}

/// Device and configuration of a camera with PTP.
const D7000: &[u8] = &[
    18, 1, 0, 2, 0, 0, 0, 64, 0xb0, 0x04, 0x28, 0x04, 0, 1, 1, 2, 3, 1, 9, 2, 39, 0, 1, 1, 0, 0xc0, 1, 9, 4, 0, 0, 3,
    6, 1, 1, 0, 7, 5, 0x81, 2, 0, 2, 0, 7, 5, 2, 2, 0, 2, 0, 7, 5, 0x83, 3, 8, 0, 9,
];

/// Types of packets and the like, in libFuzzer's form.
pub fn dictionary() -> String {
    let kinds = (0u32..=24).chain(100..=103);
    let words = kinds.map(|kind| kind.to_le_bytes().map(|byte| format!("\\x{byte:02x}")).concat());
    let words = words.chain(["-1".to_owned(), "0x04b0".to_owned(), "|".to_owned(), ":".to_owned()]);
    words.map(|word| format!("\"{word}\"\n")).collect()
}
