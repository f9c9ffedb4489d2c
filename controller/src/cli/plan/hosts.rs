//! The hosts that `fleet plan` plans for: those of a file, or this one alone; and what a VM takes on them.

use std::collections::HashMap;
use std::path::Path;

use fleet_images::ImageStore;
use netlang::{Host, HypervisorKind, Plan, VmShape};
use serde::Deserialize;

use crate::cli::{Context, Failure};
use crate::size::size;

const MIB: u64 = 1 << 20;
/// Memory of a VM whose file gives none, as long as its image is not here to say so: that of the image `tiny`.
const DEFAULT_UML: u64 = 48 * MIB;
const DEFAULT_QEMU: u64 = 96 * MIB;

/// A file of hosts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsFile {
    #[serde(default)]
    host: Vec<HostEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostEntry {
    name: String,
    rack: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    memory: Size,
    cores: u32,
}

/// `"64GiB"`, or bytes as a number.
#[derive(Debug, Deserialize)]
#[serde(try_from = "toml::Value")]
struct Size(u64);

impl TryFrom<toml::Value> for Size {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        let bytes = match &value {
            toml::Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            toml::Value::String(text) => size(text),
            _ => None,
        };
        bytes.map(Size).ok_or_else(|| format!("{value} is no size; write \"64GiB\", \"512MiB\" or bytes"))
    }
}

/// The hosts of a TOML file. What a host needs itself is not given to VMs.
///
/// # Errors
/// When the file cannot be read or is no list of hosts.
pub fn read(path: &Path) -> Result<Vec<Host>, Failure> {
    const HELP: &str = "hosts look like this: [[host]] name = \"h1\", memory = \"64GiB\", cores = 16";
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
    let file: HostsFile = toml::from_str(&text)
        .map_err(|error| Failure::usage(format!("{shown}: {}", error.to_string().trim_end())).help(HELP))?;
    if file.host.is_empty() {
        return Err(Failure::usage(format!("{shown} names no hosts")).help(HELP));
    }
    let hosts = file.host.into_iter().map(|entry| Host {
        name: entry.name,
        rack: entry.rack,
        tags: entry.tags,
        memory: entry.memory.0.saturating_sub(fleet_agent::RESERVE),
        cores: entry.cores,
        closed: false,
    });
    Ok(hosts.collect())
}

/// This host, as if nothing else ran on it.
///
/// # Errors
/// When the system does not say how large it is.
pub fn this_one(context: &Context) -> Result<Host, Failure> {
    let system = nix::sys::sysinfo::sysinfo().map_err(|error| Failure::internal(format!("sysinfo: {error}")))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Host {
        name: context.config.host.clone(),
        rack: None,
        tags: Vec::new(),
        memory: system.ram_total().saturating_sub(fleet_agent::RESERVE),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        closed: false,
    })
}

/// What VMs come to use on a host: looked up once an image.
pub struct Commitments {
    preferred: HypervisorKind,
    /// Memory of VMs whose file gives none, by image: on UML and on QEMU.
    images: HashMap<String, (u64, u64)>,
}

impl Commitments {
    /// Asks the image store, if there is one, for the images of a plan.
    pub fn of(context: &Context, plan: &Plan) -> Self {
        let folder = &context.config.image_store;
        // Opening a store makes it; planning makes nothing.
        let store = folder.is_dir().then(|| ImageStore::open(folder).ok()).flatten();
        let mut images = HashMap::new();
        for group in plan.groups().filter(|group| group.memory.is_none()) {
            if images.contains_key(&group.image) {
                continue;
            }
            let image = store.as_ref().and_then(|store| store.resolve(&group.image).ok());
            let uml = image.as_ref().and_then(|image| image.uml.as_ref()).map(|files| files.default_mem_mib);
            let qemu = image.as_ref().and_then(|image| image.x86.as_ref()).map(|files| files.default_mem_mib);
            let bytes = |mib: Option<u32>, other: u64| mib.map_or(other, |mib| u64::from(mib) * MIB);
            images.insert(group.image, (bytes(uml, DEFAULT_UML), bytes(qemu, DEFAULT_QEMU)));
        }
        let preferred = match context.config.hypervisor.as_deref() {
            Some("qemu") => HypervisorKind::Qemu,
            _ => HypervisorKind::Uml,
        };
        Self { preferred, images }
    }

    /// Bytes that a VM may come to use: its memory and its process.
    pub fn bytes(&self, vm: &VmShape<'_>) -> u64 {
        let kind = vm.hypervisor.unwrap_or(self.preferred);
        let (uml, qemu) = self.images.get(vm.image).copied().unwrap_or((DEFAULT_UML, DEFAULT_QEMU));
        let default = if kind == HypervisorKind::Uml { uml } else { qemu };
        vm.committed(vm.memory.unwrap_or(default))
            .saturating_add(fleet_agent::overhead(kind, vm.memory.unwrap_or(default)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_hosts_is_read_whole_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts.toml");
        std::fs::write(
            &path,
            "[[host]]\nname = \"h1\"\nrack = \"r\"\ntags = [\"core\"]\nmemory = \"1GiB\"\ncores = 4\n",
        )
        .unwrap();
        let hosts = read(&path).unwrap();
        assert_eq!((hosts[0].memory, hosts[0].cores), (768 << 20, 4));
        for wrong in
            ["", "[[host]]\nname = \"h1\"\n", "[[host]]\nname = \"h\"\nmemory = \"1GB\"\ncores = 1\n", "x = 1\n"]
        {
            std::fs::write(&path, wrong).unwrap();
            assert!(read(&path).unwrap_err().help.is_some(), "{wrong}");
        }
    }
}
