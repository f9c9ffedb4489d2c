//! From Debian's bzImage to the ELF that QEMU maps.
//!
//! QEMU copies a bzImage into its heap, for each VM; an uncompressed ELF it maps, shared by all. The ELF is the payload
//! of the bzImage: the setup header says where (Documentation/arch/x86/boot.rst), Debian packs it as an LZ4 legacy
//! stream (magic, then blocks of `u32 length ‖ data`, each 8 MiB unpacked) or, its full kernel, as XZ; both are followed by the
//! unpacked length as a u32.

use std::{io::Read, path::Path};

use crate::{ImageError, elf};

const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// What one block of an LZ4 legacy stream unpacks to at most.
const LZ4_BLOCK: usize = 8 << 20;
const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = b"\xfd7zXZ\0";
/// KiB that unpacking XZ may take: the kernel's own build uses a dictionary of 32 MiB at most.
const XZ_MEMORY: u32 = 64 << 10;
/// A kernel that claims to be larger is refused.
const MAX_VMLINUX: usize = 512 << 20;

/// Gives the uncompressed kernel of a bzImage, or of an ELF as it is; checks that it has a PVH entry.
pub(crate) fn vmlinux(file: &[u8], path: &Path) -> Result<Vec<u8>, ImageError> {
    let wrong = |problem: String| ImageError::Kernel { path: path.to_path_buf(), problem };
    let mut kernel = if file.starts_with(elf::MAGIC) { file.to_vec() } else { unpack(file).map_err(wrong)? };
    let bad_elf = |error: object::Error| wrong(format!("its payload is not a sound ELF ({error})"));
    if !elf::has_pvh_entry(&kernel).map_err(bad_elf)? {
        return Err(wrong("it has no PVH entry: take a kernel built with CONFIG_PVH=y".to_owned()));
    }
    let length = elf::length(&kernel).map_err(bad_elf)?;
    kernel.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    Ok(kernel)
}

/// Checks that a file is a program, as UML's kernel is one.
pub(crate) fn uml_program(file: Vec<u8>, path: &Path) -> Result<Vec<u8>, ImageError> {
    if file.starts_with(elf::MAGIC) {
        return Ok(file);
    }
    Err(ImageError::Kernel { path: path.to_path_buf(), problem: "it is not a program (ELF)".to_owned() })
}

/// The version of Linux that a kernel says it is: "6.1.192-tiny".
pub(crate) fn version(kernel: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b"Linux version ";
    // The words are also in messages of the kernel, with a format behind them instead of a number.
    memchr::memmem::find_iter(kernel, BEFORE).find_map(|at| {
        let rest = kernel.get(at + BEFORE.len()..)?;
        let end = rest.iter().take(128).position(|byte| byte.is_ascii_whitespace())?;
        let version = std::str::from_utf8(&rest[..end]).ok()?;
        version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
    })
}

fn unpack(file: &[u8]) -> Result<Vec<u8>, String> {
    let payload = payload(file).ok_or("it is neither an ELF nor a bzImage of boot protocol 2.08 or later")?;
    if payload.starts_with(LZ4_LEGACY) {
        unpack_lz4(&payload[LZ4_LEGACY.len()..])
    } else if payload.starts_with(GZIP) {
        let mut kernel = Vec::new();
        let unpacked = flate2::read::GzDecoder::new(payload).take(MAX_VMLINUX as u64).read_to_end(&mut kernel);
        unpacked.map_err(|error| format!("its payload is damaged gzip ({error})"))?;
        Ok(kernel)
    } else if payload.starts_with(XZ) {
        let mut kernel = Vec::new();
        let reader = lzma_rust2::XzReader::new_mem_limit(payload, false, XZ_MEMORY);
        let unpacked = reader.take(MAX_VMLINUX as u64).read_to_end(&mut kernel);
        unpacked.map_err(|error| format!("its payload is damaged XZ ({error})"))?;
        Ok(kernel)
    } else if payload.starts_with(elf::MAGIC) {
        Ok(payload.to_vec())
    } else {
        Err("its payload is packed in a way that is not known here (known: lz4, xz, gzip, none)".to_owned())
    }
}

/// Finds the packed kernel by the setup header.
fn payload(file: &[u8]) -> Option<&[u8]> {
    let number = |offset: usize| Some(u32::from_le_bytes(file.get(offset..offset + 4)?.try_into().ok()?));
    let protocol = u16::from_le_bytes(file.get(0x206..0x208)?.try_into().ok()?);
    if file.get(0x202..0x206)? != b"HdrS" || protocol < 0x208 {
        return None;
    }
    let sectors = match *file.get(0x1f1)? {
        0 => 4, // boot.rst: 0 means 4
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + usize::try_from(number(0x248)?).ok()?;
    let length = usize::try_from(number(0x24c)?).ok()?;
    file.get(start..start.checked_add(length)?)
}

fn unpack_lz4(mut stream: &[u8]) -> Result<Vec<u8>, String> {
    let mut kernel = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((length, rest)) = stream.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length);
        if rest.is_empty() {
            // The word behind the last block: the unpacked length.
            let complete = usize::try_from(length).is_ok_and(|length| length == kernel.len());
            return if complete {
                Ok(kernel)
            } else {
                Err(format!("its payload unpacks to {} bytes instead of {length}", kernel.len()))
            };
        }
        let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
        let (packed, rest) = rest.split_at(length.ok_or("its LZ4 payload ends in the middle of a block")?);
        let unpacked = lz4_flex::block::decompress_into(packed, &mut block);
        let unpacked = unpacked.map_err(|error| format!("its LZ4 payload is damaged ({error})"))?;
        if kernel.len() + unpacked > MAX_VMLINUX {
            return Err(format!("it unpacks to more than {} MiB", MAX_VMLINUX >> 20));
        }
        kernel.extend_from_slice(&block[..unpacked]);
        stream = rest;
    }
    Err("its LZ4 payload has no end".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A bzImage around a payload, as boot.rst describes it.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 3 * 512 + 100];
        file[0x1f1] = 2;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        file[0x248..0x24c].copy_from_slice(&100_u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        file.extend_from_slice(payload);
        file
    }

    fn lz4(content: &[u8]) -> Vec<u8> {
        let mut stream = LZ4_LEGACY.to_vec();
        for block in content.chunks(LZ4_BLOCK) {
            let packed = lz4_flex::block::compress(block);
            stream.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
            stream.extend_from_slice(&packed);
        }
        stream.extend_from_slice(&u32::try_from(content.len()).unwrap().to_le_bytes());
        stream
    }

    #[test]
    fn an_lz4_payload_of_several_blocks_unpacks() {
        let content: Vec<u8> = (0..LZ4_BLOCK + 12_345).map(|i| u8::try_from(i / 7 % 251).unwrap()).collect();
        assert!(unpack(&bzimage(&lz4(&content))).unwrap() == content);
    }

    /// "kernel " 40 times, packed as the kernel's build does it: with the filter for x86, a CRC-32, and the length behind it.
    const XZ_PAYLOAD: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x01, 0x04, 0x00, 0x21, 0x01,
        0x16, 0x00, 0x0d, 0x86, 0x35, 0x1f, 0xe0, 0x01, 0x17, 0x00, 0x0e, 0x5d, 0x00, 0x35, 0x99, 0x4a, 0xab, 0xa2,
        0xe2, 0xaf, 0x22, 0xd9, 0x22, 0xca, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00, 0xd0, 0xd9, 0xeb, 0x4a, 0x00, 0x01,
        0x26, 0x98, 0x02, 0x00, 0x00, 0x00, 0xac, 0x96, 0xdf, 0x59, 0x3e, 0x30, 0x0d, 0x8b, 0x02, 0x00, 0x00, 0x00,
        0x00, 0x01, 0x59, 0x5a,
    ];

    #[test]
    fn an_xz_payload_unpacks_and_damage_is_an_error() {
        let whole = [XZ_PAYLOAD, &280u32.to_le_bytes()].concat();
        assert_eq!(unpack(&bzimage(&whole)).unwrap(), b"kernel ".repeat(40));
        for end in XZ.len()..XZ_PAYLOAD.len() {
            assert!(unpack(&bzimage(&whole[..end])).is_err(), "cut at {end}");
        }
        for at in 0..XZ_PAYLOAD.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            assert_ne!(unpack(&bzimage(&damaged)), Ok(b"kernel".to_vec()), "never a panic");
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let whole = bzimage(&lz4(&[7; 5000]));
        for end in 0..whole.len() {
            assert!(unpack(&whole[..end]).is_err(), "cut at {end}");
        }
        for at in 3 * 512 + 100..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let _any = unpack(&damaged); // LZ4 legacy has no checksum: only a panic would be wrong
        }
        let error = vmlinux(b"MZ", Path::new("/x/vmlinuz")).unwrap_err().to_string();
        assert!(error.contains("/x/vmlinuz") && error.contains("bzImage"), "{error}");
    }

    #[test]
    fn an_unknown_packing_is_named() {
        let error = unpack(&bzimage(b"BZh9rest")).unwrap_err();
        assert!(error.contains("known: lz4, xz, gzip"), "{error}");
    }
}
