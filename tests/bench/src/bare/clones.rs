//! Clones of a QEMU guest by hand: a template boots with its memory in a shared file and is frozen; a clone maps that file
//! privately and loads the state of the devices. The same processes as fleet starts.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use fleet_images::X86Files;
use fleet_wire::{Decoder, ToAgent, ToGuest, encode};
use serde_json::{Value, json};

use super::pool::{self, Guest};
use super::{Folder, Net, greeting, mac, mac_text};
use crate::cgroup::Group;
use crate::{Load, Run};

/// Longest wait for a word of the template, or of its monitor.
const PATIENCE: Duration = Duration::from_secs(120);

/// Descriptors of a process: control channel, monitor, and the state of the devices.
const CONTROL: RawFd = 3;
const MONITOR: RawFd = 4;
const STATE: RawFd = 5;

/// A frozen guest.
struct Template<'a> {
    image: &'a X86Files,
    load: &'a Load,
    folder: Folder,
    boot_id: u64,
}

/// Boots the template, starts the guests and measures them; the template's boot is part of it.
///
/// # Errors
/// When one of them does not come up.
pub fn run(image: &X86Files, tsc_khz: u64, load: &Load) -> Result<Run> {
    let mut template = None;
    pool::run(load.count, load.concurrency, load.wired, |index, group, net| {
        let template = match &mut template {
            Some(template) => template,
            none => none.insert(Template::boot(image, tsc_khz, load, group)?),
        };
        template.clone(index, group, net)
    })
}

impl<'a> Template<'a> {
    fn boot(image: &'a X86Files, tsc_khz: u64, load: &'a Load, group: &Group) -> Result<Self> {
        let folder = Folder::new()?;
        let mut template = Self { image, load, folder, boot_id: 0 };
        let words = format!("{} console=ttyS0 panic=-1 tsc=nowatchdog tsc_early_khz={tsc_khz}", image.cmdline);
        let mut args: Vec<OsString> =
            ["-global", "migration.store-global-state=off", "-append"].map(Into::into).to_vec();
        args.push(words.into());
        args.extend(["-kernel".into(), image.vmlinux.clone().into(), "-initrd".into(), image.initrd.clone().into()]);
        let nic = load.wired.then(|| format!("virtio-net-device,mac={}", mac_text(u32::MAX)));
        let (mut child, mut control, monitor) = template.start("template", "on", args, nic, None, group, None)?;
        control.set_read_timeout(Some(PATIENCE))?;
        control.write_all(&[0])?;
        control.write_all(&encode(&ToGuest::Attach { session: 1 })?)?;
        template.boot_id = wait(&mut control, |message| match message {
            ToAgent::Hello { boot_id, session: 1, .. } => Some(*boot_id),
            _ => None,
        })?;
        control.write_all(&encode(&ToGuest::Settle)?)?;
        wait(&mut control, |message| matches!(message, ToAgent::Settled).then_some(()))?;

        let mut monitor = BufReader::new(monitor);
        ask(&mut monitor, "qmp_capabilities", json!({}))?;
        ask(&mut monitor, "stop", json!({}))?;
        ask(&mut monitor, "migrate-set-capabilities", ignore_shared())?;
        let uri = format!("exec:cat > {}", template.state().display());
        ask(&mut monitor, "migrate", json!({ "uri": uri }))?;
        while ask(&mut monitor, "query-migrate", json!({}))?["status"] != "completed" {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill()?;
        child.wait()?;
        Ok(template)
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts a clone. All is said to it at once; what it does not hear yet waits in its sockets.
    fn clone(&self, index: u32, group: &Group, net: Option<&Net>) -> Result<Guest> {
        let args = ["-incoming", "defer", "-global", "migration.announce-rounds=0"].map(Into::into).to_vec();
        let nic = net.map(|_| format!("virtio-net-device,mac={},netdev=net0", mac_text(index)));
        let state = File::open(self.state())?;
        let name = format!("clone{index}");
        let (child, mut control, mut monitor) =
            self.start(&name, "off", args, nic, net, group, Some((index, state)))?;
        for (command, arguments) in [
            ("qmp_capabilities", json!({})),
            ("migrate-set-capabilities", ignore_shared()),
            ("migrate-incoming", json!({ "uri": format!("fd:{STATE}") })),
        ] {
            writeln!(monitor, "{}", json!({ "execute": command, "arguments": arguments }))?;
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut seed = vec![0; 32];
        File::open("/dev/urandom")?.read_exact(&mut seed)?;
        let macs = net.map(|_| (mac(u32::MAX), mac(index))).into_iter().collect();
        let become_itself =
            ToGuest::Become { template: self.boot_id, macs, seed, time_ns: u64::try_from(time.as_nanos())? };
        control.write_all(&[0])?;
        control.write_all(&encode(&ToGuest::Attach { session: 1 })?)?;
        control.write_all(&encode(&become_itself)?)?;
        control.write_all(&greeting(index, net.is_some())?)?;
        Ok(Guest { child, control, _monitor: Some(monitor), greeted: true })
    }

    /// Starts a QEMU; gives it, its control channel and its monitor.
    #[allow(clippy::too_many_arguments)] // what differs between a template and a clone
    fn start(
        &self,
        name: &str,
        share: &str,
        args: Vec<OsString>,
        nic: Option<String>,
        net: Option<&Net>,
        group: &Group,
        clone: Option<(u32, File)>,
    ) -> Result<(Child, UnixStream, UnixStream)> {
        let folder = self.folder.path();
        let (ram, memory) = (folder.join("ram"), self.load.memory_mib);
        let log = File::options().create(true).append(true).open(folder.join(format!("{name}.log")))?;
        let listener = |what: &str| -> Result<(UnixListener, UnixStream)> {
            let path = folder.join(format!("{name}.{what}"));
            let listener = UnixListener::bind(&path)?;
            Ok((listener, UnixStream::connect(&path)?))
        };
        let (control, our_control) = listener("c")?;
        let (monitor, our_monitor) = listener("m")?;
        let machine = if self.image.acpi { "acpi=on,pit=off,pic=off,rtc=off" } else { "acpi=off,pit=on,pic=on,rtc=on" };
        let accelerator = format!("tcg,tb-size={}", fleet_vm::hypervisor::translations_mib(memory.into()));
        let mut command = Command::new(fleet_vm::hypervisor::SMALL_PROGRAM.find()?);
        command
            .args(["-M", &format!("microvm,{machine},memory-backend=ram"), "-accel", &accelerator])
            .args(["-cpu", "qemu64,+arat", "-m", &format!("{memory}M"), "-smp", "1", "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot", "-object"])
            .arg(format!("memory-backend-file,id=ram,size={memory}M,mem-path={},share={share}", ram.display()))
            .args(["-chardev", &format!("socket,id=control,fd={CONTROL},server=on,wait=off")])
            .args(["-device", "virtio-serial-device,max_ports=2"])
            .args(["-device", "virtserialport,chardev=control,name=org.fleet.control"])
            .args(["-device", "isa-serial,chardev=console", "-chardev", "null,id=console"])
            .args(["-chardev", &format!("socket,id=monitor,fd={MONITOR},server=on,wait=off")])
            .args(["-mon", "chardev=monitor,mode=control"]);
        if let Some((index, _)) = clone.as_ref().filter(|_| net.is_some()) {
            command.args(["-netdev", &format!("tap,id=net0,ifname=t{index},script=no,downscript=no,vnet_hdr=off")]);
        }
        command.args(nic.iter().flat_map(|nic| ["-device", nic])).args(args);
        command.env("MALLOC_ARENA_MAX", "1").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let state = clone.map(|(_, state)| OwnedFd::from(state));
        let namespace = net.map(|net| File::open(net.path())).transpose()?;
        let procs = File::options().write(true).open(group.path().join("cgroup.procs"))?;
        let sources = [Some(control.as_raw_fd()), Some(monitor.as_raw_fd()), state.as_ref().map(AsRawFd::as_raw_fd)];
        let (procs_fd, namespace_fd) = (procs.as_raw_fd(), namespace.as_ref().map(AsRawFd::as_raw_fd));
        // SAFETY: only system calls between fork and exec, on descriptors that live until `spawn` returns.
        unsafe {
            command.pre_exec(move || {
                use nix::libc;
                libc::setsid();
                libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
                libc::write(procs_fd, b"0".as_ptr().cast(), 1);
                if let Some(namespace) = namespace_fd {
                    libc::setns(namespace, libc::CLONE_NEWNET);
                }
                // First out of the way of the places, then into them.
                let moved = sources.map(|source| source.map(|fd| libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 64)));
                for (place, fd) in (CONTROL..).zip(moved) {
                    if fd.is_some_and(|fd| libc::dup2(fd, place) < 0) {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().context("cannot start QEMU")?;
        Ok((child, our_control, our_monitor))
    }
}

fn ignore_shared() -> Value {
    json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] })
}

/// Asks a monitor and waits for its answer.
fn ask(monitor: &mut BufReader<UnixStream>, command: &str, arguments: Value) -> Result<Value> {
    writeln!(monitor.get_mut(), "{}", json!({ "execute": command, "arguments": arguments }))?;
    loop {
        let mut line = String::new();
        ensure!(monitor.read_line(&mut line)? > 0, "QEMU's monitor was closed");
        let mut answer: Value = serde_json::from_str(&line).with_context(|| format!("QEMU said: {line}"))?;
        if let Some(error) = answer.get("error") {
            bail!("QEMU refused {command}: {error}");
        }
        if answer.get("return").is_some() {
            return Ok(answer["return"].take());
        }
    }
}

/// Reads until a message is the one that is waited for.
fn wait<T>(control: &mut UnixStream, fits: impl Fn(&ToAgent) -> Option<T>) -> Result<T> {
    let mut decoder = Decoder::default();
    let mut bytes = [0; 4096];
    loop {
        let got = control.read(&mut bytes).context("the template says nothing")?;
        ensure!(got > 0, "the template ended");
        if let Some(found) = decoder.push::<ToAgent>(&bytes[..got]).iter().find_map(&fits) {
            return Ok(found);
        }
    }
}
