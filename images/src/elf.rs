//! What has to be known of ELF files: is a program static, where does it end, which modules does a module need, has a
//! kernel a PVH entry.

use object::{
    LittleEndian, Object, ObjectSection,
    elf::{self, FileHeader64},
    read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader, SectionHeader},
};

/// Type of the ELF note that gives the PVH entry (XEN_ELFNOTE_PHYS32_ENTRY, include/xen/interface/elfnote.h).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

const LE: LittleEndian = LittleEndian;

/// The first bytes of every ELF file.
pub(crate) const MAGIC: &[u8] = b"\x7fELF";

type Elf64 = FileHeader64<LittleEndian>;

/// Whether a program asks for no dynamic linker.
pub(crate) fn is_static(bytes: &[u8]) -> Result<bool, object::Error> {
    let header = Elf64::parse(bytes)?;
    Ok(header.program_headers(LE, bytes)?.iter().all(|segment| segment.p_type(LE) != elf::PT_INTERP))
}

/// What a program or library wants beside itself when it starts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Linked {
    /// Path of the dynamic linker, of programs (PT_INTERP).
    pub interpreter: Option<String>,
    /// Names of libraries (DT_NEEDED).
    pub needed: Vec<String>,
}

/// Reads what a program or library is linked to.
pub(crate) fn linked(bytes: &[u8]) -> Result<Linked, object::Error> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let header = Elf64::parse(bytes)?;
    let mut linked = Linked::default();
    for segment in header.program_headers(LE, bytes)? {
        if let Some(path) = segment.interpreter(LE, bytes)? {
            linked.interpreter = Some(text(path));
        }
    }
    let sections = header.sections(LE, bytes)?;
    if let Some((entries, names)) = sections.dynamic(LE, bytes)? {
        let names = sections.strings(LE, bytes, names)?;
        for entry in entries.iter().filter(|entry| entry.d_tag.get(LE) == u64::from(elf::DT_NEEDED)) {
            linked.needed.push(text(entry.string(LE, names)?));
        }
    }
    Ok(linked)
}

/// Where the file ends: behind its last segment, section or header table. What follows (the relocations that the
/// kernel's decompressor uses) is not part of it.
pub(crate) fn length(bytes: &[u8]) -> Result<u64, object::Error> {
    let header = Elf64::parse(bytes)?;
    let segments = header.program_headers(LE, bytes)?.iter().map(|segment| {
        let (offset, size) = segment.file_range(LE);
        offset.saturating_add(size)
    });
    let sections = header.section_headers(LE, bytes)?.iter().filter_map(|section| {
        let (offset, size) = section.file_range(LE)?;
        Some(offset.saturating_add(size))
    });
    let table_end =
        header.e_shoff(LE).saturating_add(u64::from(header.e_shnum(LE)) * u64::from(header.e_shentsize(LE)));
    Ok(segments.chain(sections).chain([table_end]).max().unwrap_or(0).min(bytes.len() as u64))
}

/// Whether a kernel can be entered in the PVH way (CONFIG_PVH), which QEMU needs to boot an ELF.
pub(crate) fn has_pvh_entry(bytes: &[u8]) -> Result<bool, object::Error> {
    let header = Elf64::parse(bytes)?;
    for segment in header.program_headers(LE, bytes)? {
        if let Some(mut notes) = segment.notes(LE, bytes)? {
            while let Some(note) = notes.next()? {
                if note.name() == b"Xen" && note.n_type(LE) == XEN_ELFNOTE_PHYS32_ENTRY {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// The modules that a kernel module names in the `depends=` line of its `.modinfo` section.
pub(crate) fn module_depends(bytes: &[u8]) -> Result<Vec<String>, object::Error> {
    let file = ElfFile64::<LittleEndian>::parse(bytes)?;
    let Some(section) = file.section_by_name(".modinfo") else {
        return Ok(Vec::new());
    };
    let lines = section.data()?.split(|byte| *byte == 0);
    let depends = lines.filter_map(|line| std::str::from_utf8(line).ok()?.strip_prefix("depends="));
    Ok(depends.flat_map(|names| names.split(',')).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}
