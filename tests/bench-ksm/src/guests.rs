//! A template and its clones, by hand: QEMU's microvm with its memory in a file. The template boots with the file shared
//! and is frozen; only the state of its devices is migrated into a file (`x-ignore-shared`). A clone maps the memory
//! privately (copy on write) and takes the state.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fleet_vm::hypervisor::SMALL_PROGRAM;
use nix::libc;
use serde_json::{Value, json};

/// A boot of the slowest kernel on a busy machine.
const BOOT: Duration = Duration::from_secs(120);
/// After its first line the template's init finishes what it does.
const BOOTED: Duration = Duration::from_secs(3);
/// For one answer of QEMU's monitor.
const ANSWER: Duration = Duration::from_secs(30);

/// What is booted.
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// MiB.
    pub memory: u32,
    pub cmdline: String,
    /// Debian's kernels find their devices by ACPI; tiny ones need the old timers instead.
    pub acpi: bool,
}

/// A frozen guest.
pub struct Template {
    guest: Guest,
    dir: PathBuf,
}

/// Processes that are ended with this, and our ends of their guests' control channels: an init that finds none gives up.
pub struct Clones(Vec<(Child, UnixStream)>);

impl Clones {
    /// That all of them run.
    ///
    /// # Errors
    /// When one has ended.
    pub fn check(&mut self) -> Result<()> {
        let mut ended = 0;
        for (child, _) in &mut self.0 {
            ended += usize::from(!matches!(child.try_wait(), Ok(None)));
        }
        if ended > 0 {
            bail!("{ended} of {} guests ended by themselves", self.0.len());
        }
        Ok(())
    }
}

impl Drop for Clones {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            drop(child.kill());
        }
        for (child, _) in &mut self.0 {
            drop(child.wait());
        }
    }
}

impl Template {
    /// Boots and freezes it; its files are in `dir`, which must be on a tmpfs.
    ///
    /// # Errors
    /// When QEMU does not do what it should.
    pub fn boot(guest: Guest, dir: &Path) -> Result<Self> {
        let template = Self { guest, dir: dir.to_owned() };
        let mut running = Clones(vec![template.start("template", false)?]);
        let console = template.dir.join("template.console");
        let start = Instant::now();
        while !std::fs::read(&console).is_ok_and(|text| contains(&text, b"Run /init as init")) {
            if start.elapsed() > BOOT || running.check().is_err() {
                let log = std::fs::read_to_string(template.dir.join("template.log")).unwrap_or_default();
                bail!("the template did not boot: {log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(BOOTED);
        let mut monitor = template.monitor("template")?;
        monitor.ask("stop", json!({}))?;
        ignore_shared(&mut monitor)?;
        monitor.ask("migrate", json!({ "uri": format!("exec:cat > {}", template.state().display()) }))?;
        while monitor.ask("query-migrate", json!({}))?["status"] != "completed" {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(template)
    }

    /// Starts clones, one after the other, until all run.
    ///
    /// # Errors
    /// When QEMU does not do what it should.
    pub fn clones(&self, count: u32) -> Result<Clones> {
        let mut clones = Clones(Vec::new());
        for at in 0..count {
            let name = format!("clone{at}");
            clones.0.push(self.start(&name, true)?);
            let mut monitor = self.monitor(&name)?;
            ignore_shared(&mut monitor)?;
            monitor.ask("migrate-incoming", json!({ "uri": format!("exec:cat {}", self.state().display()) }))?;
            let start = Instant::now();
            loop {
                let status = monitor.ask("query-status", json!({}))?;
                match status["status"].as_str() {
                    Some("running") => break,
                    // The template was stopped when it was saved.
                    Some("paused" | "postmigrate") => drop(monitor.ask("cont", json!({}))?),
                    _ if start.elapsed() > ANSWER => bail!("{name} does not run: {status}"),
                    _ => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        }
        Ok(clones)
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn start(&self, name: &str, clone: bool) -> Result<(Child, UnixStream)> {
        let Guest { kernel, initrd, memory, cmdline, acpi } = &self.guest;
        let log = File::create(self.dir.join(format!("{name}.log")))?;
        let machine = if *acpi { "microvm,acpi=on,pit=off,pic=off,rtc=off" } else { "microvm,acpi=off" };
        let share = if clone { "off" } else { "on" };
        let ram = self.dir.join("ram");
        let mut command = Command::new(SMALL_PROGRAM.find()?);
        command
            .args(["-M", &format!("{machine},memory-backend=ram"), "-accel", "tcg,tb-size=8", "-cpu", "qemu64,+arat"])
            .args(["-m", &format!("{memory}M"), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args([
                "-object",
                &format!("memory-backend-file,id=ram,size={memory}M,mem-path={},share={share}", ram.display()),
            ])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", self.socket(name, "qmp"))])
            .args(["-serial", &format!("file:{}", self.dir.join(format!("{name}.console")).display())])
            .args(["-chardev", &format!("socket,id=control,path={},server=on,wait=off", self.socket(name, "control"))])
            .args(["-device", "virtio-serial-device,max_ports=2"])
            .args(["-device", "virtserialport,chardev=control,name=org.fleet.control"]);
        if clone {
            command.args(["-incoming", "defer"]);
        } else {
            let append =
                format!("{cmdline} rdinit=/init console=ttyS0 panic=-1 tsc=nowatchdog tsc_early_khz={}", tsc_khz());
            command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", &append]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
                libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
                if libc::prctl(libc::PR_SET_MEMORY_MERGE, 1, 0, 0, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn();
        let mut child = child.context("cannot start QEMU with PR_SET_MEMORY_MERGE (Linux 6.4)")?;
        match self.connect(name, "control") {
            Ok(control) => Ok((child, control)),
            Err(error) => {
                drop(child.kill());
                drop(child.wait());
                Err(error)
            }
        }
    }

    /// Where QEMU `name` listens for `what`.
    fn socket(&self, name: &str, what: &str) -> String {
        self.dir.join(format!("{name}.{what}")).display().to_string()
    }

    fn connect(&self, name: &str, what: &str) -> Result<UnixStream> {
        let path = self.socket(name, what);
        let start = Instant::now();
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return Ok(stream),
                Err(error) if start.elapsed() > ANSWER => {
                    return Err(error).with_context(|| format!("{name} does not listen for its {what}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn monitor(&self, name: &str) -> Result<Monitor> {
        let stream = self.connect(name, "qmp")?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut monitor = Monitor { lines: BufReader::new(stream) };
        monitor.line()?;
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }
}

fn ignore_shared(monitor: &mut Monitor) -> Result<()> {
    let capability = json!([{ "capability": "x-ignore-shared", "state": true }]);
    monitor.ask("migrate-set-capabilities", json!({ "capabilities": capability })).map(drop)
}

/// QEMU's monitor protocol: a line of JSON each way.
struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("QEMU said: {line}"))
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        writeln!(self.lines.get_mut(), "{}", json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The host's clock rate, by which a kernel without a timer to calibrate with goes.
fn tsc_khz() -> u64 {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("cpu MHz"));
    let mhz = line.and_then(|line| line.split(':').nth(1)?.trim().parse::<f64>().ok());
    (mhz.unwrap_or(2000.0) * 1000.0) as u64
}
