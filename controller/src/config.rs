//! Where things are and what the user settled: built-in values, then the configuration file, then the environment,
//! then flags; the last one that speaks wins.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fleet_agent::{CamerasConfig, ServerAddress};
use fleet_vm::SnapshotQuota;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::size::size;

/// Read when neither `--config` nor `FLEET_CONFIG` names another file; it need not exist.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/fleet/config.toml";

/// Shorter, and a host would be busy with nothing else; seconds.
const MIN_CERTIFICATE_LIFE: u32 = 6;

/// Why the settings could not be had.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file named by the user cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {message}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Place and cause, in TOML's words.
        message: String,
    },
}

/// The configuration file. Every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    root: Option<PathBuf>,
    host: Option<String>,
    hypervisor: Option<String>,
    clones: Option<bool>,
    snapshot_quota: Option<Quota>,
    mongodb: Option<String>,
    telemetry: Option<bool>,
    telemetry_interval_seconds: Option<u32>,
    metrics_address: Option<String>,
    image_store: Option<PathBuf>,
    group: Option<String>,
    listen: Option<String>,
    advertise: Option<String>,
    underlay: Option<String>,
    certificate_life_seconds: Option<u32>,
    heartbeat_seconds: Option<u32>,
    tree_k: Option<u32>,
    vxlan_port: Option<u16>,
    #[serde(default)]
    ksm: fleet_vm::Merge,
    #[serde(default)]
    cameras: CamerasConfig,
}

/// `"20GiB"`, or `"50%"` of what the disk would have free without snapshots.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Quota(SnapshotQuota);

impl TryFrom<String> for Quota {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let percent =
            |text: &str| text.trim().parse().ok().filter(|percent| *percent <= 100).map(SnapshotQuota::Percent);
        let quota = match text.strip_suffix('%') {
            Some(text) => percent(text),
            None => size(&text).map(SnapshotQuota::Bytes),
        };
        quota.map(Quota).ok_or_else(|| format!("\"{text}\" is no quota; write \"20GiB\" or \"50%\""))
    }
}

/// What the command line says; everything else comes from the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--mongodb`.
    pub mongodb: Option<String>,
    /// `--no-telemetry`.
    pub no_telemetry: bool,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--advertise`.
    pub advertise: Option<String>,
    /// `--underlay`.
    pub underlay: Option<String>,
    /// `--camera-server`, beside those of the file.
    pub camera_servers: Vec<ServerAddress>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets and what must not outlive a reboot.
    pub run_dir: PathBuf,
    /// On a tmpfs: the guests' memory.
    pub ram_dir: PathBuf,
    /// The controller's store, the telemetry server's data, logs.
    pub state_dir: PathBuf,
    /// Guest images.
    pub image_store: PathBuf,
    /// First part of the names of namespaces and control groups: two fleets on one machine differ in it.
    pub instance: String,
    /// Name of this host.
    pub host: String,
    /// Hypervisor for VMs whose file names none; `None`: the best that works.
    pub hypervisor: Option<String>,
    /// Whether VMs of one image and shape start as clones of a template.
    pub clones: bool,
    /// What all snapshots of this host may take.
    pub snapshot_quota: SnapshotQuota,
    /// URI of the telemetry server; `None`: run one if there is one to run.
    pub mongodb: Option<String>,
    /// Whether telemetry is wanted at all.
    pub telemetry: bool,
    /// Seconds between two samples.
    pub telemetry_interval_seconds: u32,
    /// Where Prometheus finds the metrics, "address:port".
    pub metrics_address: String,
    /// What the kernel may merge of the memory of VMs whose file says nothing about it.
    pub ksm: fleet_vm::Merge,
    /// Which USB devices of this host are cameras.
    pub cameras: CamerasConfig,
    /// Group whose members may use the local socket.
    pub group: String,
    /// Where the controller listens for hosts, or the agent for its fleet, "address[:port]"; `None`: the controller
    /// nowhere, the agent of a fleet everywhere.
    pub listen: Option<String>,
    /// Where others reach the agent, "address[:port]"; `None`: where it calls from.
    pub advertise: Option<String>,
    /// This host's address for segments over hosts; `None`: the agent's.
    pub underlay: Option<String>,
    /// Seconds that the certificate of a host lives.
    pub certificate_life_seconds: u32,
    /// Seconds between two beats of a host.
    pub heartbeat_seconds: u32,
    /// Hosts that one host tells in a wave, at most; `None`: as their number asks for.
    pub tree_k: Option<u32>,
    /// UDP port of the tunnels between hosts; the same on all of them.
    pub vxlan_port: u16,
    /// `--root`, for handing on to a daemon.
    pub root: Option<PathBuf>,
    /// The configuration file that was read, for handing on to a daemon.
    pub config_file: Option<PathBuf>,
}

impl Config {
    /// Reads the file and applies what the command line says.
    ///
    /// # Errors
    /// When a file that was named cannot be read, or any file that is there does not parse.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let named = overrides.config_file.as_deref();
        let file = read_file(named)?;
        let root = overrides.root.clone().or(file.root);
        let root = root.map(|root| std::path::absolute(&root).unwrap_or(root));
        let mut config = match &root {
            Some(root) => Self::under(root),
            None => Self::system(),
        };
        config.root = root;
        config.config_file = overrides.config_file.clone();
        config.host = file.host.unwrap_or(config.host);
        config.hypervisor = file.hypervisor;
        config.clones = file.clones.unwrap_or(config.clones);
        config.snapshot_quota = file.snapshot_quota.map(|quota| quota.0).unwrap_or_default();
        config.mongodb = overrides.mongodb.clone().or(file.mongodb);
        config.telemetry = !overrides.no_telemetry && file.telemetry.unwrap_or(true);
        config.telemetry_interval_seconds =
            file.telemetry_interval_seconds.unwrap_or(config.telemetry_interval_seconds).max(1);
        config.metrics_address = file.metrics_address.unwrap_or(config.metrics_address);
        config.image_store = file.image_store.unwrap_or(config.image_store);
        config.group = file.group.unwrap_or(config.group);
        config.listen = overrides.listen.clone().or(file.listen);
        config.advertise = overrides.advertise.clone().or(file.advertise);
        config.underlay = overrides.underlay.clone().or(file.underlay);
        config.certificate_life_seconds =
            file.certificate_life_seconds.unwrap_or(config.certificate_life_seconds).max(MIN_CERTIFICATE_LIFE);
        config.heartbeat_seconds = file.heartbeat_seconds.unwrap_or(config.heartbeat_seconds).max(1);
        config.ksm = file.ksm;
        config.cameras = file.cameras;
        for server in &overrides.camera_servers {
            if !config.cameras.servers.contains(server) {
                config.cameras.servers.push(server.clone());
            }
        }
        config.vxlan_port = file.vxlan_port.unwrap_or(config.vxlan_port);
        config.tree_k = file.tree_k;
        Ok(config)
    }

    /// The machine's own fleet.
    fn system() -> Self {
        Self {
            run_dir: "/run/fleet".into(),
            ram_dir: "/dev/shm/fleet".into(),
            state_dir: "/var/lib/fleet".into(),
            image_store: "/var/lib/fleet/images".into(),
            instance: "fleet".into(),
            host: host_name(),
            hypervisor: None,
            clones: true,
            snapshot_quota: SnapshotQuota::default(),
            mongodb: None,
            telemetry: true,
            telemetry_interval_seconds: 5,
            metrics_address: "127.0.0.1:9464".into(),
            ksm: fleet_vm::Merge::Off,
            cameras: CamerasConfig::default(),
            listen: None,
            advertise: None,
            underlay: None,
            certificate_life_seconds: 24 * 3600,
            heartbeat_seconds: 5,
            group: "fleet".into(),
            vxlan_port: fleet_agent::VXLAN_PORT,
            tree_k: None,
            root: None,
            config_file: None,
        }
    }

    /// A fleet of its own under one folder, beside the machine's: names that must be unique on the machine carry a
    /// hash of the folder. Images are shared, since they are only ever added to.
    fn under(root: &Path) -> Self {
        let [a, b, c, d, ..] = Sha256::digest(root.as_os_str().as_bytes()).0;
        let instance = format!("fleet{a:02x}{b:02x}{c:02x}{d:02x}");
        Self {
            run_dir: root.join("run"),
            ram_dir: Path::new("/dev/shm").join(&instance),
            state_dir: root.join("state"),
            metrics_address: "127.0.0.1:0".into(),
            instance,
            ..Self::system()
        }
    }

    /// The controller's local socket.
    pub fn controller_socket(&self) -> PathBuf {
        self.run_dir.join("controller.sock")
    }

    /// The agent's local socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// Where a daemon in the background writes its log.
    pub fn log_file(&self) -> PathBuf {
        self.state_dir.join("controller.log")
    }
}

fn read_file(named: Option<&Path>) -> Result<File, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_CONFIG_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
        Err(source) => return Err(ConfigError::Read { path: path.into(), source }),
    };
    toml::from_str(&text)
        .map_err(|error| ConfigError::Parse { path: path.into(), message: error.to_string().trim().to_owned() })
}

/// The machine's host name, up to the first dot.
fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let short = name.split('.').next().unwrap_or_default();
    if short.is_empty() { "localhost".into() } else { short.into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn load(text: &str, overrides: Overrides) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(&Overrides { config_file: Some(file.path().into()), ..overrides })
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let overrides = Overrides { mongodb: Some("mongodb://b".into()), ..Overrides::default() };
        let config = load("mongodb = \"mongodb://a\"\nhypervisor = \"qemu\"\nclones = false", overrides).unwrap();
        assert_eq!(config.mongodb.as_deref(), Some("mongodb://b"));
        assert_eq!(config.hypervisor.as_deref(), Some("qemu"));
        assert!(!config.clones);
    }

    #[test]
    fn clones_are_on_unless_the_file_says_otherwise() {
        assert!(load("", Overrides::default()).unwrap().clones);
    }

    #[test]
    fn snapshots_have_half_of_the_disk_unless_the_file_gives_a_size_or_a_share() {
        let quota = |text: &str| load(text, Overrides::default()).map(|config| config.snapshot_quota);
        assert_eq!(quota("").unwrap(), SnapshotQuota::Percent(50));
        assert_eq!(quota("snapshot_quota = \"20GiB\"").unwrap(), SnapshotQuota::Bytes(20 << 30));
        assert_eq!(quota("snapshot_quota = \"10%\"").unwrap(), SnapshotQuota::Percent(10));
        for wrong in ["20", "20GB", "101%", "-1%", "%", "half"] {
            let error = quota(&format!("snapshot_quota = \"{wrong}\"")).unwrap_err().to_string();
            assert!(error.contains("no quota") && error.contains("20GiB"), "{wrong}: {error}");
        }
    }

    #[test]
    fn memory_is_not_merged_unless_the_host_asks() {
        let merge = |text| load(text, Overrides::default()).map(|config| config.ksm);
        assert_eq!(merge("").unwrap(), fleet_vm::Merge::Off);
        assert_eq!(merge("ksm = \"aggressive\"").unwrap(), fleet_vm::Merge::Aggressive);
        let error = merge("ksm = \"always\"").unwrap_err().to_string();
        assert!(error.contains("always") && error.contains("aggressive"), "{error}");
    }

    #[test]
    fn cameras_of_the_file_and_the_command_line_are_put_together() {
        let text = "[cameras]\nexclude = [\"18d1:4ee2\"]\nservers = [\"unix:/run/a\", \"h:1\"]";
        let overrides = Overrides {
            camera_servers: vec!["h:1".parse().unwrap(), "unix:/run/b".parse().unwrap()],
            ..Overrides::default()
        };
        let cameras = load(text, overrides).unwrap().cameras;
        let servers: Vec<_> = cameras.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["unix:/run/a", "h:1", "unix:/run/b"]);
        assert_eq!(cameras.exclude.len(), 1);
        for (wrong, word) in
            [("include = [\"nikon\"]", "04b0:0428"), ("servers = [\"cam\"]", "HOST:PORT"), ("server = []", "servers")]
        {
            let error = load(&format!("[cameras]\n{wrong}"), Overrides::default()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn two_roots_share_no_name_and_no_folder() {
        let [a, b] = ["/tmp/a", "/tmp/b"]
            .map(|root| load("", Overrides { root: Some(root.into()), ..Overrides::default() }).unwrap());
        assert_ne!(a.instance, b.instance);
        assert_ne!(a.ram_dir, b.ram_dir);
        assert_ne!(a.controller_socket(), b.controller_socket());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let error = load("hypervizor = \"uml\"", Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("hypervizor") && error.contains("line 1"), "{error}");
    }

    #[test]
    fn a_missing_file_that_was_named_is_an_error() {
        let overrides = Overrides { config_file: Some("/nowhere/fleet.toml".into()), ..Overrides::default() };
        assert!(matches!(Config::load(&overrides), Err(ConfigError::Read { .. })));
    }
}
