//! A guest's memory, out of its process and into it, by `/proc/<pid>/mem` (proc_pid_mem(5)), which needs the rights of a
//! tracer. The guest must stand still.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::chunks::Chunks;
use super::{CHUNK, Manifest, SnapshotError};
use crate::error::VmError;

/// Granularity of what is written.
const PAGE: usize = 4096;

/// A guest's memory within its process.
pub(super) struct Memory {
    path: PathBuf,
    file: File,
    address: u64,
    length: u64,
}

impl Memory {
    /// Opens it; `address` is where it begins in the process.
    pub(super) fn open(pid: i32, address: u64, length: u64) -> Result<Memory, VmError> {
        let path = PathBuf::from(format!("/proc/{pid}/mem"));
        let file = File::options().read(true).write(true).open(&path).map_err(VmError::io("cannot open", &path))?;
        Ok(Memory { path, file, address, length })
    }

    /// Offsets and lengths of its chunks.
    fn pieces(&self) -> impl Iterator<Item = (u64, usize)> {
        let length = self.length;
        (0..length).step_by(CHUNK).map(move |at| (at, CHUNK.min(usize::try_from(length - at).unwrap_or(CHUNK))))
    }

    /// Stores all of it.
    pub(super) fn save(&self, chunks: &Chunks) -> Result<Vec<Option<String>>, VmError> {
        let mut buffer = vec![0; CHUNK];
        let mut hashes = Vec::new();
        for (at, length) in self.pieces() {
            let piece = &mut buffer[..length];
            self.file.read_exact_at(piece, self.address + at).map_err(VmError::io("cannot read", &self.path))?;
            let is_zero = piece.iter().all(|byte| *byte == 0);
            hashes.push(if is_zero { None } else { Some(chunks.put(piece)?) });
        }
        Ok(hashes)
    }

    /// Makes it what it was; touches only pages that differ.
    pub(super) fn fill(&self, manifest: &Manifest, chunks: &Chunks) -> Result<(), SnapshotError> {
        let mut buffer = vec![0; CHUNK];
        let zeroes = vec![0; CHUNK];
        let mut stored = manifest.chunks.iter();
        for (at, length) in self.pieces() {
            let wanted = match stored.next().cloned().flatten() {
                Some(hash) => chunks.get(&hash)?,
                None => zeroes[..length].to_vec(),
            };
            let there = &mut buffer[..length];
            self.file.read_exact_at(there, self.address + at).map_err(VmError::io("cannot read", &self.path))?;
            for (index, (wanted, there)) in wanted.chunks(PAGE).zip(there.chunks(PAGE)).enumerate() {
                if wanted != there {
                    let place = self.address + at + (index * PAGE) as u64;
                    self.file.write_all_at(wanted, place).map_err(VmError::io("cannot write", &self.path))?;
                }
            }
        }
        Ok(())
    }
}
