//! The programs that a build runs: whether they are there, and running them with a log and a sense of progress.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{prctl, signal},
    unistd::Pid,
};
use serde::Deserialize;

use crate::ImageError;

/// Lines of the log that an error shows.
const TAIL_LINES: usize = 15;
/// Bytes of the log's end that are looked at for them.
const TAIL_BYTES: u64 = 8192;
/// Progress is told no more often.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// What a build needs on the host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    /// A program, looked for in PATH.
    program: Option<String>,
    /// Or a file.
    file: Option<PathBuf>,
    /// Debian's package that holds it.
    package: String,
}

impl Tool {
    /// A program of a package.
    pub(crate) fn program(program: &str, package: &str) -> Self {
        Self { program: Some(program.to_owned()), file: None, package: package.to_owned() }
    }

    fn is_here(&self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let has = |program: &String| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
        self.program.as_ref().is_none_or(has) && self.file.as_ref().is_none_or(|file| file.exists())
    }

    fn name(&self) -> String {
        let file = self.file.as_ref().map(|file| file.display().to_string());
        self.program.clone().or(file).unwrap_or_default()
    }
}

/// Finds out whether everything is there, before anything is downloaded.
pub(crate) fn check_tools(tools: &[Tool]) -> Result<(), ImageError> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !tool.is_here()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<String> = missing.iter().map(|tool| tool.package.clone()).collect();
    packages.dedup();
    Err(ImageError::MissingTools { missing: missing.iter().map(|tool| tool.name()).collect(), packages })
}

/// What compiles, in one line: another compiler makes another kernel.
pub(super) fn compiler() -> Result<String, ImageError> {
    let mut versions = String::new();
    for program in ["gcc", "ld"] {
        let output = Command::new(program).arg("--version").env("LC_ALL", "C").stdin(Stdio::null()).output();
        let output = output.map_err(|error| ImageError::io("running", program, error))?;
        versions += String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default();
        versions.push('\n');
    }
    Ok(versions)
}

/// Runs the programs of one build.
pub(super) struct Runner<'a> {
    /// The kernel's name, for messages.
    pub kernel: &'a str,
    /// Gets all that they say.
    pub log: PathBuf,
    /// Stays open in all of them, so that the lock is free only when the last of them has ended.
    pub lock: BorrowedFd<'a>,
}

impl Runner<'_> {
    /// An empty log.
    pub(super) fn begin(&self) -> Result<(), ImageError> {
        File::create(&self.log).map(drop).map_err(|error| ImageError::io("creating", &self.log, error))
    }

    /// A program with a clean environment, whose words go to the log.
    pub(super) fn command(&self, program: &str, temp: &Path) -> Result<Command, ImageError> {
        let mut command = Command::new(program);
        // What a surrounding make or a user's shell has set (MAKEFLAGS, ARCH, CFLAGS, …) is none of this build's affair.
        command.env_clear().env("LC_ALL", "C").env("TMPDIR", temp);
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.stdin(Stdio::null()).stdout(self.log_end()?).stderr(self.log_end()?);
        Ok(command)
    }

    /// Runs it to its end. `on_line` gets its standard output, line by line but not more often than worth telling.
    pub(super) fn run(
        &self,
        step: &'static str,
        mut command: Command,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<(), ImageError> {
        let mut log = self.log_end()?;
        let mut running = self.start(step, command.stdout(Stdio::piped()))?;
        let broken = |error| ImageError::io("writing", &self.log, error);
        if let Some(output) = running.0.stdout.take() {
            for line in BufReader::new(output).split(b'\n') {
                let line = line.map_err(broken)?;
                log.write_all(&line).and_then(|()| log.write_all(b"\n")).map_err(broken)?;
                on_line(&String::from_utf8_lossy(&line));
            }
        }
        self.finish(step, running)
    }

    /// Runs programs side by side, each with the standard output of the one before as its input.
    pub(super) fn pipe(&self, step: &'static str, commands: Vec<Command>) -> Result<(), ImageError> {
        let mut running = Vec::new();
        let mut before: Option<ChildStdout> = None;
        let last = commands.len().saturating_sub(1);
        for (index, mut command) in commands.into_iter().enumerate() {
            if let Some(output) = before.take() {
                command.stdin(output);
            }
            if index < last {
                command.stdout(Stdio::piped());
            }
            let mut program = self.start(step, &mut command)?;
            before = program.0.stdout.take();
            running.push(program);
        }
        running.into_iter().try_for_each(|program| self.finish(step, program))
    }

    fn start(&self, step: &'static str, command: &mut Command) -> Result<Running, ImageError> {
        let lock = self.lock.as_raw_fd();
        // SAFETY: between fork and exec only system calls are made; the lock is open, as `self` borrows it.
        unsafe {
            command.pre_exec(move || {
                // Whoever kills the builder does not want the compiler to go on.
                prctl::set_pdeathsig(signal::SIGTERM)?;
                fcntl(BorrowedFd::borrow_raw(lock), FcntlArg::F_SETFD(FdFlag::empty()))?;
                Ok(())
            });
        }
        command.spawn().map(Running).map_err(|error| ImageError::io(step, command.get_program(), error))
    }

    fn finish(&self, step: &'static str, mut running: Running) -> Result<(), ImageError> {
        let status = running.0.wait().map_err(|error| ImageError::io("waiting for", step, error))?;
        if status.success() { Ok(()) } else { Err(self.failure(step)) }
    }

    /// The error of a step, with the end of the log.
    fn failure(&self, step: &'static str) -> ImageError {
        let tail = tail(&self.log).unwrap_or_default();
        if tail.contains("No space left on device") {
            return ImageError::Full { action: step, path: self.log.clone() };
        }
        ImageError::KernelBuild { kernel: self.kernel.to_owned(), step, log: self.log.clone(), tail }
    }

    fn log_end(&self) -> Result<File, ImageError> {
        OpenOptions::new().append(true).open(&self.log).map_err(|error| ImageError::io("opening", &self.log, error))
    }
}

/// A program that is ended when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let (Ok(None), Ok(pid)) = (self.0.try_wait(), i32::try_from(self.0.id())) {
            // make ends its compilers when it is asked to end.
            let _gone = signal::kill(Pid::from_raw(pid), signal::SIGTERM);
            let _reaped = self.0.wait();
        }
    }
}

/// Counts the files that make says it compiles, and tells when it is worth telling.
pub(super) struct Counter {
    begin: Instant,
    told: Option<Instant>,
    pub objects: u32,
}

impl Counter {
    pub(super) fn new() -> Self {
        Self { begin: Instant::now(), told: None, objects: 0 }
    }

    /// Takes a line of make; gives the elapsed time when it is time to tell.
    pub(super) fn line(&mut self, line: &str) -> Option<Duration> {
        let word = line.split_whitespace().next().unwrap_or_default();
        self.objects += u32::from(matches!(word, "CC" | "AS"));
        let now = Instant::now();
        let is_time = self.told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY);
        is_time.then(|| {
            self.told = Some(now);
            now.duration_since(self.begin)
        })
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}
