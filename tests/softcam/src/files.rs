//! Pictures on the card: files of a folder, or made up.

use std::io;
use std::path::Path;

use crate::responder::File;

/// Pictures `DSC_0001.JPG`, … of a size. Their bytes look random, and are the same each time: nothing packs them, and two of
/// them never have the same checksum.
pub fn pictures(count: usize, size: usize) -> Vec<File> {
    (1..=count).map(|number| File { name: format!("DSC_{number:04}.JPG"), bytes: noise(number, size).into() }).collect()
}

/// The files of a folder, by name; what is in its folders is left out.
///
/// # Errors
/// When one cannot be read.
pub fn folder(path: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if std::fs::metadata(entry.path())?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push(File { name, bytes: std::fs::read(entry.path())?.into() });
        }
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// Bytes of a generator (xorshift64*), seeded by a number above zero.
pub(crate) fn noise(seed: usize, size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed as u64 | 1 << 40);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
