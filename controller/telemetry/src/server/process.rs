//! One server process: started or taken over, watched by a pidfd, stopped.
//!
//! Its output goes to a file, not to a pipe, since a pipe would break with the controller that holds it. The port is
//! read from that file; inotify tells when it has grown.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, setsid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout, timeout_at};

use super::locate::{EMPTY_CONFIG, ServerKind, ServerProgram};
use super::record::{Identity, Record};
use super::{ServerConfig, ServerError};

/// How long an orderly stop may take before SIGKILL, and how long that may take.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A server process that listens.
#[derive(Debug)]
pub(super) struct ServerProcess {
    pub(super) pid: u32,
    pub(super) port: u16,
    pub(super) adopted: bool,
    program: PathBuf,
    folder: PathBuf,
    watch: AsyncFd<OwnedFd>,
    /// Present if this process started it, and so must reap it.
    child: Option<Child>,
}

impl ServerProcess {
    /// Takes over the folder's server if it runs, else starts one. The caller holds the folder's `start.lock`.
    pub(super) async fn obtain(config: &ServerConfig, program: &ServerProgram) -> Result<Self, ServerError> {
        let deadline = Instant::now() + config.start_deadline;
        if let Some(record) = Record::load(&config.folder).filter(|record| record.identity.holds()) {
            return Self::adopt(config, record, deadline).await;
        }
        Self::start(config, program, deadline).await
    }

    async fn adopt(config: &ServerConfig, mut record: Record, deadline: Instant) -> Result<Self, ServerError> {
        let pid = record.identity.pid;
        let mut server = Self::new(config, record.program.clone(), pid, None)?;
        server.adopted = true;
        if let Some(port) = record.port {
            server.port = port;
            return Ok(server);
        }
        // The controller that started it died before the server's first words.
        let kind = match record.program.file_name().is_some_and(|name| name == "mongod") {
            true => ServerKind::Mongod,
            false => ServerKind::Secantus,
        };
        let program = ServerProgram { kind, file: record.program.clone() };
        server.port = server.listening(&program, deadline, config.start_deadline).await?;
        record.port = Some(server.port);
        record.save(&config.folder).map_err(folder_error(&config.folder))?;
        Ok(server)
    }

    async fn start(config: &ServerConfig, program: &ServerProgram, deadline: Instant) -> Result<Self, ServerError> {
        let data = config.folder.join(program.data_folder());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&data).map_err(folder_error(&data))?;
        let settings = config.folder.join(EMPTY_CONFIG);
        fs::write(&settings, "").map_err(folder_error(&settings))?;
        let log_file = log_file(&config.folder);
        let log = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&log_file)
            .and_then(|_| OpenOptions::new().append(true).open(&log_file))
            .map_err(folder_error(&log_file))?;
        let errors = log.try_clone().map_err(folder_error(&log_file))?;

        let mut command = Command::new(&program.file);
        command
            .args(program.arguments(&data, config.port, config.cache_mib))
            .current_dir(&config.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe and allocates nothing.
        unsafe { command.pre_exec(|| setsid().map(drop).map_err(io::Error::from)) };
        let child = command.spawn().map_err(|source| ServerError::Spawn { program: program.file.clone(), source })?;

        let pid = child.id();
        let mut server = Self::new(config, program.file.clone(), pid, Some(child))?;
        match server.introduce(program, deadline, config.start_deadline).await {
            Ok(()) => Ok(server),
            Err(error) => {
                // It is of no use, and the next try must not find it.
                let _ = server.stop().await;
                Err(error)
            }
        }
    }

    /// Writes the record of a server that was just started, first without a port: so it can be found whenever this
    /// controller dies.
    async fn introduce(
        &mut self,
        program: &ServerProgram,
        deadline: Instant,
        patience: Duration,
    ) -> Result<(), ServerError> {
        let identity = Identity::of(self.pid).map_err(|source| ServerError::Process { pid: self.pid, source })?;
        let mut record = Record { identity, program: program.file.clone(), port: None };
        record.save(&self.folder).map_err(folder_error(&self.folder))?;
        self.port = self.listening(program, deadline, patience).await?;
        record.port = Some(self.port);
        record.save(&self.folder).map_err(folder_error(&self.folder))
    }

    fn new(config: &ServerConfig, program: PathBuf, pid: u32, child: Option<Child>) -> Result<Self, ServerError> {
        let open = || -> io::Result<_> {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
            readable(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
        };
        let watch = open().map_err(|source| ServerError::Process { pid, source })?;
        Ok(Self { pid, port: 0, adopted: false, program, folder: config.folder.clone(), watch, child })
    }

    /// Waits until its log names the port.
    async fn listening(
        &mut self,
        program: &ServerProgram,
        deadline: Instant,
        patience: Duration,
    ) -> Result<u16, ServerError> {
        let file = log_file(&self.folder);
        let log = LogWatch::new(&file).map_err(folder_error(&file))?;
        loop {
            // The watch stands before the file is read, so no growth is missed.
            let text = fs::read_to_string(&file).map_err(folder_error(&file))?;
            if let Some(port) = program.port(&text) {
                return Ok(port);
            }
            tokio::select! {
                () = self.ended() => {
                    return Err(ServerError::Ended {
                        program: self.program.clone(),
                        status: self.reap(),
                        log: self.last_lines(),
                    });
                }
                grown = timeout_at(deadline, log.grown()) => match grown {
                    Ok(grown) => grown.map_err(folder_error(&file))?,
                    Err(_) => {
                        return Err(ServerError::Silent {
                            program: self.program.clone(),
                            waited: patience,
                            log: self.last_lines(),
                        });
                    }
                },
            }
        }
    }

    /// Waits for its end: a pidfd can be read once its process has ended. Cancel safe.
    pub(super) async fn ended(&self) {
        // An error here would mean that the runtime is going away.
        let _ = self.watch.readable().await;
    }

    /// Its exit status, if it was our child; leaves no zombie. Call it after [`ServerProcess::ended`].
    pub(super) fn reap(&mut self) -> String {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => status.to_string(),
            Some(Ok(None)) => "still running".to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "exit status unknown: another controller had started it".to_owned(),
        }
    }

    /// The end of its log, on one line.
    pub(super) fn last_lines(&self) -> String {
        let log = fs::read(log_file(&self.folder)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(3)..].join(" | ");
        if last.is_empty() { "(none)".to_owned() } else { last }
    }

    /// Ends it: SIGTERM, and SIGKILL when that does not help. Then its record is removed.
    pub(super) async fn stop(mut self) -> Result<(), ServerError> {
        for (signal, patience) in [(Signal::TERM, STOP_PATIENCE), (Signal::KILL, KILL_PATIENCE)] {
            match pidfd_send_signal(self.watch.get_ref(), signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(source) => return Err(ServerError::Process { pid: self.pid, source: source.into() }),
            }
            if timeout(patience, self.ended()).await.is_ok() {
                self.reap();
                return Record::remove(&self.folder).map_err(folder_error(&self.folder));
            }
        }
        Err(ServerError::Unstoppable { pid: self.pid })
    }
}

/// Tells when a file has grown.
struct LogWatch {
    inotify: AsyncFd<OwnedFd>,
}

impl LogWatch {
    fn new(file: &Path) -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, file, inotify::WatchFlags::MODIFY)?;
        Ok(Self { inotify: readable(inotify)? })
    }

    async fn grown(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 1024];
            let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
            match reader.next() {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Makes the runtime tell when this file descriptor can be read.
fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and means the same file for as long as it lives, and the `AsyncFd` owns it.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(fd?)
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("server.log")
}

pub(super) fn folder_error(path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::Folder { path, source }
}

/// Opens (and makes) a lock file of the folder.
pub(super) fn lock_file(folder: &Path, name: &str) -> Result<File, ServerError> {
    let path = folder.join(name);
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    open.map_err(folder_error(&path))
}
