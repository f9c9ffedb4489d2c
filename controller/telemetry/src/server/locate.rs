//! Finding the program of a server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Where programs are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProgramSearch {
    /// As in the environment variable `PATH`.
    pub path: Option<OsString>,
    /// The user's cache of tools, where `deploy/telemetry-server.sh` puts `bin/secantusd-rs`.
    pub tools: Option<PathBuf>,
}

impl ProgramSearch {
    /// `PATH` and `${XDG_CACHE_HOME:-$HOME/.cache}/fleet/tools` of this process.
    pub fn from_env() -> Self {
        let tools = dirs::cache_dir().map(|cache| cache.join("fleet/tools"));
        Self { path: std::env::var_os("PATH"), tools }
    }

    /// The best server there is.
    pub(super) fn find(&self) -> Option<ServerProgram> {
        let on_path = |name: &str| {
            let path = self.path.as_ref()?;
            std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| is_program(file))
        };
        if let Some(file) = on_path("mongod") {
            return Some(ServerProgram { kind: ServerKind::Mongod, file });
        }
        let tools = self.tools.iter().flat_map(|tools| [tools.join("bin/secantusd-rs"), tools.join("secantusd-rs")]);
        let file = tools.into_iter().find(|file| is_program(file)).or_else(|| on_path("secantusd-rs"))?;
        Some(ServerProgram { kind: ServerKind::Secantus, file })
    }
}

fn is_program(file: &Path) -> bool {
    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}

/// What there is when nothing is found.
pub(super) const OFF: &str = "telemetry is off: neither `mongod` nor `secantusd-rs` is installed; \
    run deploy/telemetry-server.sh, or give the URI of a server with --mongodb";

/// A config file without settings, in fleet's folder, which is the server's working directory.
pub(super) const EMPTY_CONFIG: &str = "server.toml";

/// A kind of server: they differ in their arguments, in what they print and in the format of their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerKind {
    /// MongoDB's own.
    Mongod,
    /// SecantusDB's single program.
    Secantus,
}

/// A program that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerProgram {
    pub(super) kind: ServerKind,
    pub(super) file: PathBuf,
}

impl ServerProgram {
    /// Folder of its data below fleet's: each kind has its own, since neither reads the other's.
    pub(super) const fn data_folder(&self) -> &'static str {
        match self.kind {
            ServerKind::Mongod => "data-mongod",
            ServerKind::Secantus => "data-secantus",
        }
    }

    /// Arguments for a server on loopback.
    pub(super) fn arguments(&self, data: &Path, port: u16, cache_mib: u32) -> Vec<OsString> {
        let port = port.to_string();
        let text: Vec<String> = match self.kind {
            ServerKind::Mongod => {
                // mongod takes no less than 0.25 GB.
                let cache = format!("{:.2}", f64::from(cache_mib.max(256)) / 1024.0);
                let own = ["--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet", "--wiredTigerCacheSizeGB", &cache];
                own.into_iter().chain(["--port", &port, "--dbpath"]).map(ToOwned::to_owned).collect()
            }
            ServerKind::Secantus => {
                let cache = format!("{cache_mib}M");
                let own = ["--host", "127.0.0.1", "--log-level", "WARNING", "--cache-size", &cache];
                // Without --config, a file found by chance in /etc or a home would change what we run.
                // Without --sync-on-commit, SIGKILL loses the last writes even if they were acknowledged with j: true.
                let more = ["--sync-on-commit", "--log-file-max", "16MB", "--config", EMPTY_CONFIG];
                own.into_iter().chain(more).chain(["--port", &port, "--storage-path"]).map(ToOwned::to_owned).collect()
            }
        };
        text.into_iter().map(OsString::from).chain([data.as_os_str().to_owned()]).collect()
    }

    /// The port on which it listens, once its log says so.
    pub(super) fn port(&self, log: &str) -> Option<u16> {
        let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        let complete = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        match self.kind {
            ServerKind::Mongod => complete
                .filter(|line| line.contains("\"Waiting for connections\""))
                .find_map(|line| number(line.split_once("\"port\":")?.1.trim_start())),
            ServerKind::Secantus => {
                let mut complete = complete;
                complete.find_map(|line| number(line.split_once("listening on 127.0.0.1:")?.1))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn program(folder: &Path, name: &str, mode: u32) -> PathBuf {
        std::fs::create_dir_all(folder).unwrap();
        let file = folder.join(name);
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn mongod_goes_before_the_cache_and_the_cache_before_the_path() {
        let root = tempfile::tempdir().unwrap();
        let (bin, tools) = (root.path().join("bin"), root.path().join("tools"));
        let search = ProgramSearch { path: Some(bin.clone().into()), tools: Some(tools.clone()) };
        assert_eq!(search.find(), None);
        let on_path = program(&bin, "secantusd-rs", 0o755);
        assert_eq!(search.find().unwrap().file, on_path);
        let cached = program(&tools.join("bin"), "secantusd-rs", 0o755);
        assert_eq!(search.find(), Some(ServerProgram { kind: ServerKind::Secantus, file: cached }));
        let mongod = program(&bin, "mongod", 0o755);
        assert_eq!(search.find(), Some(ServerProgram { kind: ServerKind::Mongod, file: mongod }));
    }

    #[test]
    fn a_file_that_cannot_be_run_is_no_program() {
        let root = tempfile::tempdir().unwrap();
        program(root.path(), "mongod", 0o644);
        std::fs::create_dir_all(root.path().join("secantusd-rs")).unwrap();
        let search = ProgramSearch { path: Some(root.path().into()), tools: None };
        assert_eq!(search.find(), None);
    }

    #[test]
    fn the_port_is_read_from_whole_lines_only() {
        let secantus = ServerProgram { kind: ServerKind::Secantus, file: "s".into() };
        assert_eq!(secantus.port("starting\nsecantusd-rs listening on 127.0.0.1:4567\n"), Some(4567));
        assert_eq!(secantus.port("secantusd-rs listening on 127.0.0.1:45"), None);
        let mongod = ServerProgram { kind: ServerKind::Mongod, file: "m".into() };
        let log = r#"{"t":{},"msg":"Listening on","attr":{"address":"127.0.0.1"}}
{"t":{},"s":"I","msg":"Waiting for connections","attr":{"port":43567,"ssl":"off"}}
"#;
        assert_eq!(mongod.port(log), Some(43567));
    }
}
