//! What tells templates apart: a hash of everything that a template is made from.
//!
//! The command line is part of it as the hypervisor writes it for a VM without name and place, so a flag that changes in
//! the code changes the key by itself. Files count by content. How fast the host's clock and the guest's delay
//! loop run does not count: it is measured anew by each agent, and templates do not outlive a boot of the host.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::{FileMark, VERSION, template_nics};
use crate::error::VmError;
use crate::hypervisor::{self, HostFacts, Start};
use crate::paths::VmPaths;
use crate::spec::{Accelerator, Merge, RootFs, VmSpec};

/// Digits of a key: as many as fit a safe name, far more than chance could repeat.
const DIGITS: usize = 24;

/// Files whose hash is remembered; each is some megabytes and read once.
const REMEMBERED: usize = 256;

/// Bytes of a file read at once.
const PIECE: usize = 256 * 1024;

/// What VMs of one template have in common, before any file is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    hypervisor: String,
    accelerator: Option<Accelerator>,
    memory_bytes: u64,
    cpus: u32,
    kernel: PathBuf,
    root: RootFs,
    cmdline: String,
    acpi: bool,
    usb: bool,
    nics: usize,
}

impl Shape {
    /// The shape of a VM.
    pub(crate) fn of(spec: &VmSpec) -> Shape {
        Shape {
            hypervisor: spec.hypervisor.clone(),
            accelerator: spec.accelerator,
            memory_bytes: spec.memory_bytes,
            cpus: spec.cpus,
            kernel: spec.kernel.clone(),
            root: spec.root.clone(),
            cmdline: spec.cmdline.clone(),
            acpi: spec.acpi,
            usb: spec.usb,
            nics: spec.nics.len(),
        }
    }
}

/// Hashes of files, each computed once for as long as the file stays the same.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    known: Mutex<HashMap<PathBuf, (FileMark, String)>>,
}

impl Hashes {
    fn of(&self, path: &Path) -> Result<String, VmError> {
        let doing = || VmError::io("cannot read", path);
        let mut file = File::open(path).map_err(doing())?;
        let mark = FileMark::of(&file.metadata().map_err(doing())?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, hash)) = known.get(path).filter(|(of, _)| *of == mark) {
            return Ok(hash.clone());
        }
        // Under the lock: others that ask for the same file at the same time would all read it.
        let mut hasher = Sha256::new();
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => hasher.update(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(doing()(error)),
            }
        }
        let hash = hex(&hasher.finalize());
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(path.to_owned(), (mark, hash.clone()));
        Ok(hash)
    }
}

/// The key of the template for this VM. Reads files: call it where blocking is allowed.
///
/// # Errors
/// When a program or file is missing, or the VM cannot run.
pub(super) fn key(spec: &VmSpec, hashes: &Hashes) -> Result<String, VmError> {
    let hypervisor = hypervisor::find(&spec.hypervisor)?;
    let mut text = format!("template {VERSION}\n");
    text += &format!("program {}\n", hashes.of(&hypervisor::program_of(hypervisor, spec)?)?);
    text += &format!("kernel {}\nroot {}\n", hashes.of(&spec.kernel)?, hashes.of(spec.root.path())?);
    let (run, ram) = (Path::new("/run"), Path::new("/ram"));
    let nobody = VmSpec {
        experiment: "experiment".to_owned(),
        name: "name".to_owned(),
        kernel: "/kernel".into(),
        root: RootFs::Initrd("/initrd".into()),
        lpj: None,
        // A matter of the process: its template is the same.
        merge: Merge::Off,
        nics: template_nics(spec.nics.len()),
        ..spec.clone()
    };
    let paths = VmPaths::of(run, ram, &nobody);
    // Nor does it matter whom the process becomes.
    let facts = HostFacts { tsc_khz: 0, user: None };
    for start in [Start::Template { ram }, Start::Clone { ram }] {
        let command = hypervisor.command(&nobody, &paths, Path::new("/program"), &facts, start)?;
        let args = command.args.iter().map(|arg| arg.to_string_lossy());
        text += &format!("command {}\n", args.collect::<Vec<_>>().join("\0"));
    }
    Ok(hex(&Sha256::digest(text.as_bytes())).chars().take(DIGITS).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A specification with files of its own; QEMU's program is whatever PATH has.
    fn spec(dir: &Path) -> VmSpec {
        for file in ["kernel", "initrd"] {
            std::fs::write(dir.join(file), file).unwrap();
        }
        VmSpec {
            experiment: "a".to_owned(),
            name: "b".to_owned(),
            hypervisor: "qemu".to_owned(),
            accelerator: None,
            memory_bytes: 64 << 20,
            cpus: 1,
            kernel: dir.join("kernel"),
            root: RootFs::Initrd(dir.join("initrd")),
            cmdline: "quiet".to_owned(),
            acpi: true,
            usb: false,
            lpj: None,
            nics: template_nics(1),
            merge: Merge::Off,
        }
    }

    #[test]
    fn who_a_vm_is_does_not_change_its_key_and_what_it_is_made_of_does() {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(dir.path());
        let hashes = Hashes::default();
        let of = |spec: &VmSpec| key(spec, &hashes).unwrap();
        let first = of(&spec);
        let mut other = VmSpec { experiment: "x".to_owned(), name: "y".to_owned(), ..spec.clone() };
        other.nics[0].mac = [9; 6];
        other.nics[0].mtu = 9000;
        assert_eq!(of(&other), first);
        let copy = dir.path().join("copy");
        std::fs::copy(&spec.kernel, &copy).unwrap();
        assert_eq!(of(&VmSpec { kernel: copy, ..spec.clone() }), first, "a kernel counts by content");
        for changed in [
            VmSpec { memory_bytes: 65 << 20, ..spec.clone() },
            VmSpec { cpus: 2, ..spec.clone() },
            VmSpec { cmdline: "quiet x".to_owned(), ..spec.clone() },
            VmSpec { accelerator: Some(Accelerator::Kvm), ..spec.clone() },
            VmSpec { nics: template_nics(2), ..spec.clone() },
            VmSpec { usb: true, ..spec.clone() },
            VmSpec { kernel: spec.root.path().to_owned(), ..spec.clone() },
        ] {
            assert_ne!(of(&changed), first, "{changed:?}");
        }
        std::fs::write(spec.root.path(), "another one").unwrap();
        assert_ne!(of(&spec), first, "the file was changed in place");
    }
}
