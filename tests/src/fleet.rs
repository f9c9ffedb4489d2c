//! A fleet of a test's own, and the program `fleet` run on it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::wait::within;
use crate::{Traces, Vm, process};

/// A command that takes longer hangs.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// What a fleet of a test is like.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether the controller runs a telemetry server; most tests need none.
    pub telemetry: bool,
    /// Lines that go into the configuration file.
    pub config: String,
    /// Variables for every command, and so for the controller that it starts.
    pub env: Vec<(String, String)>,
    /// File of the network namespace that every command runs in; none: that of the test.
    pub namespace: Option<PathBuf>,
}

/// A fleet under a temporary folder. Dropping it takes everything down.
pub struct Fleet {
    root: tempfile::TempDir,
    program: PathBuf,
    instance: String,
    env: Vec<(String, String)>,
    namespace: Option<PathBuf>,
    links: BTreeSet<String>,
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// The command, for messages.
    pub command: String,
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Answer {
    /// Fails unless the exit code is this.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    #[must_use]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of `{}`\n{}{}", self.command, self.stdout, self.stderr);
        self
    }

    /// Fails unless all of these are in the output.
    ///
    /// # Panics
    /// When one is missing.
    #[track_caller]
    #[must_use]
    pub fn says(self, parts: &[&str]) -> Self {
        let all = format!("{}{}", self.stdout, self.stderr);
        for part in parts {
            assert!(all.contains(part), "`{}` does not say `{part}`:\n{all}", self.command);
        }
        self
    }

    /// The JSON document on standard output.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("`{}`: {error}\n{}{}", self.command, self.stdout, self.stderr))
    }
}

impl Fleet {
    /// A fleet without telemetry.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// A fleet.
    ///
    /// # Panics
    /// When the folder cannot be made, or the tests do not run as root.
    pub fn with(options: Options) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make namespaces and VMs: run them as root");
        // The path is short: a socket's has at most 107 bytes.
        let root = tempfile::Builder::new().prefix("ft").tempdir_in("/tmp").unwrap();
        // As docs/cli.md has it: names on the machine carry the first four bytes of the folder's SHA-256.
        let hash = Sha256::digest(root.path().to_str().unwrap());
        let instance = format!("fleet{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
        let config = format!("telemetry = {}\ntelemetry_interval_seconds = 1\n{}\n", options.telemetry, options.config);
        std::fs::write(root.path().join("config.toml"), config).unwrap();
        Self {
            root,
            program: program(),
            instance,
            env: options.env,
            namespace: options.namespace,
            links: crate::links(),
        }
    }

    /// Goes on with a copy of the program, of this name in the fleet's folder: what an upgrade puts in its place.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn with_program_copied(mut self, name: &str) -> Self {
        let copy = self.root().join(name);
        std::fs::copy(&self.program, &copy).unwrap();
        self.program = copy;
        self
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// What the names of this fleet begin with.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Writes a network file into the fleet's folder and gives its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.root().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Copies a file of examples/ into the fleet's folder and gives its path.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn example(&self, name: &str) -> String {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
        self.write(name, &std::fs::read_to_string(file).unwrap())
    }

    /// The program with its arguments, ready to be run on this fleet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match &self.namespace {
            // It becomes the program: the process is the same, and only its network is another.
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace.display())).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(args).current_dir(self.root());
        for name in ["FLEET_MONGODB", "FLEET_HYPERVISOR", "FLEET_LOG"] {
            command.env_remove(name);
        }
        command.env("FLEET_ROOT", self.root()).env("FLEET_CONFIG", self.root().join("config.toml"));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a command and leaves it running.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it hangs.
    pub fn run(&self, args: &[&str]) -> Answer {
        self.run_with_input(args, b"")
    }

    /// Runs a command with something on its standard input.
    ///
    /// # Panics
    /// When it hangs.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Answer {
        run(self.command(args), input)
    }

    /// Runs a command that must go well.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Answer {
        self.run(args).code(0)
    }

    /// Runs a command that must go well with `--json`.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
        self.ok(&args).json()
    }

    /// All VMs.
    ///
    /// # Panics
    /// When `fleet ps` fails.
    #[track_caller]
    pub fn vms(&self) -> Vec<Vm> {
        self.json(&["ps"])["vms"].as_array().unwrap().iter().map(Vm::read).collect()
    }

    /// One VM.
    ///
    /// # Panics
    /// When there is none of that name.
    #[track_caller]
    pub fn vm(&self, name: &str) -> Vm {
        let vms = self.vms();
        vms.iter().find(|vm| vm.name == name).unwrap_or_else(|| panic!("no {name} in {vms:?}")).clone()
    }

    /// Waits until a VM is in a state.
    ///
    /// # Panics
    /// When it does not come to it.
    pub fn wait_for(&self, name: &str, state: &str) -> Vm {
        crate::eventually(&format!("{name} to be {state}"), || Some(self.vm(name)).filter(|vm| vm.state == state))
    }

    /// Runs a command in a guest, which must go well, and gives its output without the blanks at its ends.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn exec(&self, target: &str, command: &str) -> String {
        self.ok(&["exec", target, "--", "sh", "-c", command]).stdout.trim().to_owned()
    }

    /// The controller's process.
    ///
    /// # Panics
    /// When none runs.
    #[track_caller]
    pub fn controller_pid(&self) -> u32 {
        u32::try_from(self.json(&["controller", "status"])["pid"].as_u64().unwrap()).unwrap()
    }

    /// Kills the controller (SIGKILL), as the kernel does it when memory runs out.
    ///
    /// # Panics
    /// When none runs.
    pub fn kill_controller(&self) {
        process::kill(self.controller_pid());
    }

    /// What the kernel shows of this fleet.
    pub fn traces(&self) -> Traces {
        Traces::of(self.root(), &self.instance)
    }

    /// Takes everything down with `fleet down` and fails when anything is left on the host.
    ///
    /// # Panics
    /// When it is.
    pub fn down(&self) {
        let answer = self.ok(&["down"]);
        self.nothing_is_left(&answer.stdout);
    }

    /// Fails unless the host is as if this fleet had never been.
    ///
    /// # Panics
    /// When something is left; `context` is told with it.
    pub fn nothing_is_left(&self, context: &str) {
        // The controller answers the command before it ends itself.
        let gone = || self.traces().is_none() && crate::links().is_subset(&self.links);
        if !within(Duration::from_secs(20), gone) {
            let links: Vec<_> = crate::links().difference(&self.links).cloned().collect();
            panic!("left on the host: {:#?}, links {links:?}\n{context}", self.traces());
        }
    }

    /// Ends everything without asking whether it goes well: the last resort of a test that failed.
    fn sweep(&self) {
        for (pid, _) in self.traces().processes {
            if let Ok(raw) = i32::try_from(pid) {
                // It may be gone by now.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(raw), Signal::SIGKILL);
            }
        }
        within(Duration::from_secs(10), || self.traces().processes.is_empty());
        let left = self.traces();
        for name in &left.namespaces {
            drop(Command::new("ip").args(["netns", "delete", name]).status());
        }
        for cgroup in left.cgroups.iter().rev() {
            drop(std::fs::remove_dir(cgroup));
        }
        drop(std::fs::remove_dir_all(Path::new("/dev/shm").join(&self.instance)));
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the controller has to say helps to see why.
            let log = std::fs::read_to_string(self.root().join("state/controller.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("the controller's last words:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            drop(self.command(&["down"]).stdout(Stdio::null()).stderr(Stdio::null()).status());
            drop(self.command(&["controller", "stop"]).stdout(Stdio::null()).stderr(Stdio::null()).status());
            self.sweep();
            return;
        }
        let down = self.run(&["down"]);
        let stop = self.run(&["controller", "stop"]);
        let left = !within(Duration::from_secs(20), || self.traces().is_none());
        let told = format!("left on the host: {:#?}\n{}{}{}", self.traces(), down.stdout, down.stderr, stop.stderr);
        if left {
            self.sweep();
            panic!("{told}");
        }
    }
}

/// The program under test.
fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("FLEET_BIN") {
        return program.into();
    }
    // target/debug/deps/TEST -> target/debug/fleet
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("fleet");
    assert!(
        program.is_file(),
        "{} is not built: `cargo build -p fleet-controller`, or set FLEET_BIN",
        program.display()
    );
    program
}

/// Runs a command to its end.
///
/// # Panics
/// When it hangs.
pub fn run(mut command: Command, input: &[u8]) -> Answer {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let name = format!("fleet {}", words.join(" "));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that ends without reading closes the pipe, which is its right.
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = reader(child.stdout.take().unwrap());
    let stderr = reader(child.stderr.take().unwrap());
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait()));
    let hangs = |_| -> ! {
        process::signal(pid, Signal::SIGKILL);
        panic!("`{name}` hangs")
    };
    let status = ended.recv_timeout(COMMAND_DEADLINE).unwrap_or_else(|error| hangs(error)).unwrap();
    Answer {
        code: status.code().unwrap_or(-1),
        stdout: stdout.recv().unwrap(),
        stderr: stderr.recv().unwrap(),
        command: name,
    }
}

fn reader(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(pipe.read_to_end(&mut bytes));
        sender.send(String::from_utf8_lossy(&bytes).into_owned())
    });
    receiver
}
