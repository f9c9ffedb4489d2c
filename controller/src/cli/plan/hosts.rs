//! The hosts that `fleet plan` plans for: those of a file, or this one alone.

use std::path::Path;

use netlang::Host;
use serde::Deserialize;

use crate::cli::{Context, Failure};
use crate::size::size;

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
