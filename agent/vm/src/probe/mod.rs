//! What works on this host, found out by running guest instructions under a deadline.
//!
//! A device file proves nothing: `/dev/kvm` can be there, open, and never get a guest anywhere. So `kvm` and `tcg` run
//! the same small guest (guest.rs) with the flags that VMs get, and `uml` boots its kernel without a root file system
//! until it panics for the lack of one; its boot log also gives `lpj`, which saves later boots the measuring.
//!
//! Nothing is cached here. A report can be stored; it holds for a host and a boot.

mod guest;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::VmError;
use crate::hypervisor::{self, Program, qemu_accelerator_args};
use crate::spec::Accelerator;

/// How long the guest of the probe may take with the processor's virtualisation, which can be there and hang.
const KVM_DEADLINE: Duration = Duration::from_secs(3);

/// How long it may take in software. On an idle processor it takes a fraction of a second; an agent that starts while its
/// host is busy must not believe that nothing works.
const DEADLINE: Duration = Duration::from_secs(30);

/// Memory of the guest of the probe in MiB.
const GUEST_MEMORY_MIB: u64 = 16;

/// Memory of the UML kernel of the probe in MiB; enough for a distribution's kernel to come up.
const UML_MEMORY_MIB: u32 = 48;

/// What one way to run VMs was found to be worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// VMs can be run so.
    pub works: bool,
    /// Why not, with the mend; or what was seen.
    pub detail: String,
    /// How long the probe took, in ms.
    pub took_ms: u64,
}

/// What works on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// QEMU with the processor's virtualisation.
    pub kvm: Verdict,
    /// QEMU in software.
    pub tcg: Verdict,
    /// User-mode Linux.
    pub uml: Verdict,
    /// `lpj=` for UML kernels on this host, when it could be measured.
    pub uml_lpj: Option<u64>,
}

/// A way to run a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// "uml" or "qemu".
    pub hypervisor: &'static str,
    /// Of QEMU.
    pub accelerator: Option<Accelerator>,
}

impl Choice {
    const KVM: Choice = Choice { hypervisor: "qemu", accelerator: Some(Accelerator::Kvm) };
    const TCG: Choice = Choice { hypervisor: "qemu", accelerator: Some(Accelerator::Tcg) };
    const UML: Choice = Choice { hypervisor: "uml", accelerator: None };
}

impl std::fmt::Display for Choice {
    /// "uml", "qemu/kvm", "qemu/tcg".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.hypervisor)?;
        self.accelerator.map_or(Ok(()), |accelerator| write!(f, "/{}", accelerator.as_str()))
    }
}

impl HostReport {
    /// Chooses how to run a VM. Without a wish: `qemu/kvm` where it works, else `uml`, else `qemu/tcg`. A wish for
    /// `qemu` alone takes `kvm` where it works, else `tcg`.
    ///
    /// # Errors
    /// When what was wished for, or everything, does not work here: with the reason.
    pub fn choose(&self, hypervisor: Option<&str>, accelerator: Option<Accelerator>) -> Result<Choice, VmError> {
        let candidates: &[(Choice, &Verdict)] = match (hypervisor, accelerator) {
            (None, None) => &[(Choice::KVM, &self.kvm), (Choice::UML, &self.uml), (Choice::TCG, &self.tcg)],
            (Some("qemu"), None) => &[(Choice::KVM, &self.kvm), (Choice::TCG, &self.tcg)],
            (Some("qemu") | None, Some(Accelerator::Kvm)) => &[(Choice::KVM, &self.kvm)],
            (Some("qemu") | None, Some(Accelerator::Tcg)) => &[(Choice::TCG, &self.tcg)],
            (Some("uml"), None) => &[(Choice::UML, &self.uml)],
            (Some(name), wish) => {
                hypervisor::find(name)?;
                let wish = wish.map_or("", Accelerator::as_str);
                let reason = format!("{name} has no accelerators: leave \"{wish}\" out, or choose qemu");
                return Err(VmError::NotUsable { choice: format!("{name}/{wish}"), reason });
            }
        };
        candidates.iter().find(|(_, verdict)| verdict.works).map(|(choice, _)| *choice).ok_or_else(|| {
            let names: Vec<String> = candidates.iter().map(|(choice, _)| choice.to_string()).collect();
            let reasons: Vec<&str> = candidates.iter().map(|(_, verdict)| verdict.detail.as_str()).collect();
            VmError::NotUsable { choice: names.join(", "), reason: reasons.join("; ") }
        })
    }

    /// One line for the log when guests run slower than they could, with the reason.
    pub fn warning(&self) -> Option<String> {
        (!self.kvm.works).then(|| format!("kvm is not used: {}", self.kvm.detail))
    }
}

/// Probes everything. `uml_kernel`: the UML kernel of an image; without it `linux.uml` of Debian's package is looked
/// for. `ram_dir`: a directory on a tmpfs.
pub async fn probe_host(uml_kernel: Option<&Path>, ram_dir: &Path) -> HostReport {
    // One after the other: side by side on a small host they would take one another's time.
    let kvm = probe_qemu(Accelerator::Kvm).await;
    let tcg = probe_qemu(Accelerator::Tcg).await;
    let (uml, uml_lpj) = probe_uml(uml_kernel, ram_dir).await;
    HostReport { kvm, tcg, uml, uml_lpj }
}

/// Runs the guest of the probe.
pub async fn probe_qemu(accelerator: Accelerator) -> Verdict {
    let start = Instant::now();
    let result = match accelerator {
        Accelerator::Kvm => match fs::File::options().read(true).write(true).open("/dev/kvm") {
            Ok(_) => run_guest(accelerator).await,
            Err(error) => Err(format!("cannot open /dev/kvm: {error} (virtualisation off, or module kvm not loaded)")),
        },
        Accelerator::Tcg => run_guest(accelerator).await,
    };
    verdict(start, result)
}

async fn run_guest(accelerator: Accelerator) -> Result<String, String> {
    let program = hypervisor::SMALL_PROGRAM.find().map_err(|error| error.to_string())?;
    let firmware = tempfile_with(&guest::image()).map_err(|error| format!("cannot write the test guest: {error}"))?;
    let exit = format!("isa-debug-exit,iobase={:#x},iosize=4", guest::EXIT_PORT);
    let mut command = Command::new(program);
    command
        .args([
            "-M",
            "microvm",
            "-m",
            &format!("{GUEST_MEMORY_MIB}M"),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ])
        .args(qemu_accelerator_args(accelerator, GUEST_MEMORY_MIB))
        .args(["-device", &exit, "-bios"])
        .arg(&firmware.0);
    let deadline = match accelerator {
        Accelerator::Kvm => KVM_DEADLINE,
        Accelerator::Tcg => DEADLINE,
    };
    match run(command, deadline).await? {
        (status, _) if status.code() == Some(guest::SUCCESS * 2 + 1) => Ok("runs guest instructions".to_owned()),
        (status, said) => Err(format!("QEMU ended with {status} before the guest did: {}", last_line(&said))),
    }
}

/// Boots a UML kernel; gives `lpj` from its boot log too.
pub async fn probe_uml(kernel: Option<&Path>, ram_dir: &Path) -> (Verdict, Option<u64>) {
    let start = Instant::now();
    let found = match kernel {
        Some(kernel) => Ok(kernel.to_owned()),
        None => Program { names: &["linux.uml"], package: "user-mode-linux" }.find(),
    };
    let booted = match found {
        Ok(kernel) => boot_uml(&kernel, ram_dir).await,
        Err(error) => Err(error.to_string()),
    };
    let lpj = booted.as_ref().ok().and_then(|log| parse_lpj(log));
    let result = booted.and_then(|log| match log.lines().find_map(|line| line.split_once("Linux version ")) {
        // It has come up when it looks for a root file system, which it was not given.
        Some((_, version)) if log.contains("Unable to mount root fs") => {
            Ok(format!("boots Linux {}", version.split(' ').next().unwrap_or("?")))
        }
        _ => Err(format!("the kernel did not come up: {}", last_line(&log))),
    });
    (verdict(start, result), lpj)
}

async fn boot_uml(kernel: &Path, ram_dir: &Path) -> Result<String, String> {
    use std::os::unix::process::CommandExt;
    let dir = TempPath::dir(ram_dir).map_err(|error| format!("cannot write to {}: {error}", ram_dir.display()))?;
    let mut uml_dir = OsString::from("uml_dir=");
    uml_dir.push(&dir.0);
    let mut command = std::process::Command::new(kernel);
    command
        .arg(format!("mem={UML_MEMORY_MIB}M"))
        .args(["con=null", "con0=null,fd:1", "ssl=null", "panic=-1", "umid=m"])
        .arg(uml_dir)
        .env_clear()
        .env("TMPDIR", ram_dir)
        .env("HOME", &dir.0);
    // SAFETY: personality(2) and setrlimit(2) are plain system calls on the child's own state.
    unsafe {
        command.pre_exec(|| {
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
            Ok(())
        });
    }
    run(command.into(), DEADLINE).await.map(|(_, log)| log)
}

/// Runs a program in a process group of its own to its end or the deadline; gives what it said.
async fn run(mut command: Command, deadline: Duration) -> Result<(ExitStatus, String), String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let child = command.spawn().map_err(|error| format!("cannot run {name}: {error}"))?;
    let group = KillGroup(child.id().and_then(|pid| i32::try_from(pid).ok()));
    let ended = timeout(deadline, child.wait_with_output()).await;
    drop(group);
    let output = ended
        .map_err(|_| format!("the test guest got nowhere within {deadline:?}"))?
        .map_err(|error| format!("cannot wait for {name}: {error}"))?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status, String::from_utf8_lossy(&said).into_owned()))
}

/// Kills a process group when dropped: UML's helpers do not end with its first process.
struct KillGroup(Option<i32>);

impl Drop for KillGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// What the names of a probe's files begin with.
const PREFIX: &str = "fleet-probe.";

/// Removes what probes left in this directory whose agent was killed. No other agent may use the directory.
pub(crate) fn sweep(dir: &Path) {
    let of_a_probe = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(of_a_probe) {
        drop(TempPath(entry.path()));
    }
}

/// A file or directory that is removed when dropped.
struct TempPath(PathBuf);

impl TempPath {
    fn dir(parent: &Path) -> io::Result<TempPath> {
        Ok(TempPath(nix::unistd::mkdtemp(&parent.join(format!("{PREFIX}XXXXXX")))?))
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0).or_else(|_| fs::remove_file(&self.0));
    }
}

fn tempfile_with(bytes: &[u8]) -> io::Result<TempPath> {
    let (fd, path) = nix::unistd::mkstemp(&std::env::temp_dir().join(format!("{PREFIX}XXXXXX")))?;
    let path = TempPath(path);
    io::Write::write_all(&mut fs::File::from(fd), bytes)?;
    Ok(path)
}

fn verdict(start: Instant, result: Result<String, String>) -> Verdict {
    let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let works = result.is_ok();
    Verdict { works, detail: result.unwrap_or_else(|reason| reason), took_ms }
}

/// The number of "Calibrating delay loop... 2970.41 BogoMIPS (lpj=14852096)".
fn parse_lpj(log: &str) -> Option<u64> {
    let (_, rest) = log.lines().find(|line| line.contains("BogoMIPS"))?.split_once("(lpj=")?;
    rest.split(')').next()?.parse().ok()
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn report(kvm: bool, tcg: bool, uml: bool) -> HostReport {
        let verdict = |works, name: &str| Verdict { works, detail: format!("{name} says"), took_ms: 1 };
        HostReport { kvm: verdict(kvm, "kvm"), tcg: verdict(tcg, "tcg"), uml: verdict(uml, "uml"), uml_lpj: None }
    }

    #[test]
    fn the_best_that_works_is_chosen() {
        assert_eq!(report(true, true, true).choose(None, None).unwrap(), Choice::KVM);
        assert_eq!(report(false, true, true).choose(None, None).unwrap(), Choice::UML);
        assert_eq!(report(false, true, false).choose(None, None).unwrap(), Choice::TCG);
        assert_eq!(report(false, true, true).choose(Some("qemu"), None).unwrap(), Choice::TCG);
    }

    #[test]
    fn a_wish_is_honoured_or_refused_with_the_reason() {
        let report = report(false, true, true);
        assert_eq!(report.choose(None, Some(Accelerator::Tcg)).unwrap(), Choice::TCG);
        let refused = report.choose(Some("qemu"), Some(Accelerator::Kvm)).unwrap_err().to_string();
        assert_eq!(refused, "qemu/kvm does not work on this host: kvm says");
        assert!(report.choose(Some("xen"), None).unwrap_err().to_string().contains("unknown hypervisor"));
        assert!(report.choose(Some("uml"), Some(Accelerator::Kvm)).unwrap_err().to_string().contains("leave \"kvm\""));
    }

    #[test]
    fn lpj_is_read_from_the_boot_log() {
        let log = "x\n<6>Calibrating delay loop... 2970.41 BogoMIPS (lpj=14852096)\ny";
        assert_eq!(parse_lpj(log), Some(14_852_096));
        assert_eq!(parse_lpj("Calibrating delay loop (skipped) preset value.. BogoMIPS"), None);
    }
}
