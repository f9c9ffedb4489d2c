//! Where the namespaces of an experiment are, and which there are.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{error::NetError, naming, state::Place, underlay::VXLAN_PORT};

/// Where namespaces are kept and how their names begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// The folder of namespaces. With `/run/netns`, `ip netns exec` finds them.
    pub netns_dir: PathBuf,
    /// First part of every namespace's name: 1 to 16 letters and digits. Whoever shares `netns_dir` needs another one.
    pub prefix: String,
    /// UDP port of tunnels between hosts; the same on all of them.
    pub vxlan_port: u16,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self { netns_dir: PathBuf::from("/run/netns"), prefix: "fleet".into(), vxlan_port: VXLAN_PORT }
    }
}

/// The namespaces of one experiment.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    config: NetConfig,
    experiment: String,
}

impl Paths {
    pub fn new(config: NetConfig, experiment: &str) -> Result<Self, NetError> {
        if !naming::valid_prefix(&config.prefix) {
            return Err(NetError::Prefix { prefix: config.prefix });
        }
        Ok(Self { config, experiment: experiment.to_owned() })
    }

    pub fn experiment(&self) -> &str {
        &self.experiment
    }

    pub fn namespace(&self, place: &Place) -> PathBuf {
        let prefix = &self.config.prefix;
        self.config.netns_dir.join(match place {
            Place::Switch => naming::switch_file(prefix, &self.experiment),
            Place::Router(router) => naming::router_file(prefix, &self.experiment, router),
        })
    }

    /// What all experiments here have in common.
    pub fn config(&self) -> &NetConfig {
        &self.config
    }

    /// All files of the experiment that are there.
    pub fn own_files(&self) -> Result<Vec<NamespaceFile>, NetError> {
        let own = naming::file_part(&self.experiment);
        Ok(files(&self.config)?.into_iter().filter(|file| file.experiment == own).collect())
    }

    /// The files of the experiment's routers that are there, with the routers' names as the files have them.
    pub fn routers(&self) -> Result<Vec<(String, PathBuf)>, NetError> {
        Ok(self.own_files()?.into_iter().filter_map(|file| Some((file.router?, file.path))).collect())
    }
}

/// A namespace's file and what its name says.
#[derive(Debug)]
pub(crate) struct NamespaceFile {
    pub path: PathBuf,
    /// The experiment as the file name has it, shortened if it is long.
    pub experiment: String,
    /// The router as the file name has it; `None` for the switch.
    pub router: Option<String>,
}

/// All files with the configuration's prefix, in the order of their names.
pub(crate) fn files(config: &NetConfig) -> Result<Vec<NamespaceFile>, NetError> {
    let dir: &Path = &config.netns_dir;
    let failed = || NetError::path("list the namespaces in", dir);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed()(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed())?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some((experiment, router)) = naming::parse_file(&config.prefix, name)
        {
            let (experiment, router) = (experiment.to_owned(), router.map(str::to_owned));
            files.push(NamespaceFile { path, experiment, router });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
