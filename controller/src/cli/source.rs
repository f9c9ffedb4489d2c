//! Reading a network file and the lock beside it, and showing what is wrong with them.

use std::path::{Path, PathBuf};

use netlang::{Lock, LockDifference, Plan, RenderOptions, Source};

use super::{Context, Exit, Failure, output};

/// Name of the file, beside the network files, that keeps addresses where they are.
pub const LOCK_FILE: &str = "fleet.lock";

/// A network file that means something.
pub struct Loaded {
    /// Name and text.
    pub source: Source,
    /// What it means.
    pub plan: Plan,
    /// The lock of its folder, brought up to date.
    pub lock: Lock,
    /// The lock as it is on disk.
    pub lock_before: Lock,
    /// What `fleet up` would change in it.
    pub lock_difference: LockDifference,
    lock_path: PathBuf,
    lock_text: String,
}

impl Loaded {
    /// Writes the lock when it changed: to a new file first, so that a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write_lock(&self) -> Result<(), Failure> {
        self.replace_lock(&self.lock)
    }

    /// Writes another lock in its place.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn replace_lock(&self, lock: &Lock) -> Result<(), Failure> {
        let text = lock.to_string();
        if text == self.lock_text {
            return Ok(());
        }
        let new = self.lock_path.with_extension("lock.new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.lock_path)).map_err(|error| {
            Failure::usage(format!("cannot write {}: {error}", self.lock_path.display()))
                .help("addresses stay the same over edits only with this file; make its folder writable")
        })
    }
}

/// What a network file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To bring it up: what this version of fleet cannot run is an error.
    Run,
    /// To look at it: the whole language is planned.
    Look,
}

/// Reads and compiles a network file. Warnings go to standard error, so do errors, which end the command.
///
/// # Errors
/// When a file cannot be read or the network file is wrong.
pub fn load(context: &Context, path: &Path, purpose: Purpose) -> Result<Loaded, Failure> {
    let source = read(path)?;
    let (lock_before, lock_text) = read_lock(path)?;
    let lock_path = path.with_file_name(LOCK_FILE);
    let compilation = match purpose {
        Purpose::Run => netlang::compile(&source, &lock_before),
        Purpose::Look => netlang::design(&source, &lock_before),
    };
    show(context, &compilation.diagnostics, &source);
    let lock_difference = compilation.lock_difference(&lock_before);
    match compilation.plan {
        Some(plan) => {
            Ok(Loaded { source, plan, lock: compilation.lock, lock_before, lock_difference, lock_path, lock_text })
        }
        None => Err(Failure { exit: Exit::Usage, message: String::new(), help: None }),
    }
}

/// Reads the lock beside a network file, and its text; both are empty when there is none yet.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn read_lock(path: &Path) -> Result<(Lock, String), Failure> {
    let path = path.with_file_name(LOCK_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
    };
    let lock = Lock::parse(&text).map_err(|error| {
        Failure::usage(format!("{}: {error}", path.display()))
            .help("restore the file from version control; without it, addresses can move")
    })?;
    Ok((lock, text))
}

/// Reads a network file.
///
/// # Errors
/// When it cannot be read as text.
pub fn read(path: &Path) -> Result<Source, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let failure = Failure::usage(format!("cannot read {}: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                failure.help("give the path of a network file, such as examples/hello.fleet")
            }
            std::io::ErrorKind::InvalidData => failure.help("a network file is UTF-8 text"),
            _ => failure,
        }
    })?;
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Source::new(name, text))
}

/// Prints diagnostics: as JSON on standard output with `--json`, else on standard error.
pub fn show(context: &Context, diagnostics: &[netlang::Diagnostic], source: &Source) {
    if diagnostics.is_empty() {
        return;
    }
    if context.json {
        // One document a command: the caller prints it when the file is right.
        if diagnostics.iter().any(netlang::Diagnostic::is_error) {
            output::json(&serde_json::json!({ "diagnostics": diagnostics }));
        }
        return;
    }
    let options = RenderOptions { color: context.color, width: terminal_width() };
    eprint!("{}", netlang::render(diagnostics, source, options));
}

fn terminal_width() -> usize {
    use std::os::fd::AsRawFd;
    super::session::window_size(std::io::stderr().as_raw_fd()).map_or(100, |size| size.columns as usize).clamp(60, 140)
}
