//! QEMU's `microvm` machine, with the processor's virtualisation (`kvm`) or without (`tcg`).
//!
//! - An uncompressed vmlinux is booted through its PVH entry: QEMU maps an ELF file instead of copying it, and the
//!   guest does not unpack itself.
//! - Debian's cloud kernel finds virtio-mmio devices only through ACPI. With ACPI the guest needs neither PIT, PIC nor
//!   RTC; without them its idle tick costs half. Under TCG there is then no clock to calibrate the time stamp counter
//!   with, so the host's frequency is told (`tsc_early_khz`), the watchdog of the counter is off, and `+arat` keeps
//!   the local timer running in idle.
//! - Control channel, console and monitor (QMP) are sockets in server mode: they outlive the agent. The agent makes and
//!   binds them before the process starts, so that connecting never has to wait for QEMU.
//! - `-no-reboot` and `panic=-1`: a guest that panics or reboots ends its process, which is how the agent learns of it.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    CONSOLE_SOCKET, CONTROL_SOCKET, Capabilities, CommandLine, Endpoint, FdRole, HostFacts, Hypervisor, MONITOR_SOCKET,
    Program, check, fd_number, qmp::Qmp,
};
use crate::error::VmError;
use crate::paths::VmPaths;
use crate::spec::{Accelerator, Merge, VmSpec};

/// Name of the virtio port of the control channel, as the guests' init looks for it.
const CONTROL_PORT: &str = "org.fleet.control";

/// QEMU's microvm.
pub(super) struct Qemu;

/// The program and its package.
pub(crate) const PROGRAM: Program = Program { name: "qemu-system-x86_64", package: "qemu-system-x86" };

/// The accelerator and processor of a VM; the probe uses the same, so what it found holds for VMs.
pub(crate) fn accelerator_args(accelerator: Accelerator) -> [&'static str; 4] {
    match accelerator {
        Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
        // 16 MiB of translations are enough for a small guest and keep its memory down.
        Accelerator::Tcg => ["-accel", "tcg,tb-size=16", "-cpu", "qemu64,+arat"],
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn programs(&self) -> &'static [Program] {
        &[PROGRAM]
    }

    fn capabilities(&self) -> Capabilities {
        // microvm has 8 virtio-mmio slots without a second IOAPIC; one is the control channel's.
        Capabilities { max_cpus: 64, max_nics: 7, ram_in_file: false, clones: false }
    }

    fn command(
        &self,
        spec: &VmSpec,
        paths: &VmPaths,
        program: &Path,
        host: &HostFacts,
    ) -> Result<CommandLine, VmError> {
        check(spec, self)?;
        let accelerator = spec.accelerator.unwrap_or(Accelerator::Tcg);
        let mut fds = vec![FdRole::ControlListener, FdRole::ConsoleListener, FdRole::MonitorListener];
        fds.extend((0..spec.nics.len()).map(FdRole::Tap));
        let fd = |role| fd_number(&fds, role).unwrap_or(-1); // every role asked for below is in the list above

        let mut args: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        // QEMU offers the guest's memory to KSM unless told otherwise.
        let merge = if spec.merge == Merge::Off { "off" } else { "on" };
        add(&["-M", &format!("microvm,acpi=on,pit=off,pic=off,rtc=off,mem-merge={merge}")]);
        add(&accelerator_args(accelerator));
        add(&["-m", &format!("{}M", spec.memory_mib()), "-smp", &spec.cpus.to_string()]);
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        add(&["-name", &escape(&spec.label())]);
        add(&["-append", &append(spec, accelerator, host)]);
        add(&["-chardev", &listener("control", fd(FdRole::ControlListener))]);
        add(&["-device", "virtio-serial-device"]);
        add(&["-device", &format!("virtserialport,chardev=control,name={CONTROL_PORT}")]);
        add(&["-device", "isa-serial,chardev=console"]);
        add(&["-chardev", &listener("monitor", fd(FdRole::MonitorListener))]);
        add(&["-mon", "chardev=monitor,mode=control"]);
        for (index, nic) in spec.nics.iter().enumerate() {
            add(&["-netdev", &format!("tap,id=net{index},fd={}", fd(FdRole::Tap(index)))]);
            add(&["-device", &format!("virtio-net-device,netdev=net{index},mac={}", nic.mac_text())]);
        }
        let mut console = OsString::from(listener("console", fd(FdRole::ConsoleListener)));
        console.push(",logappend=on,logfile=");
        console.push(escape(&paths.console_log().to_string_lossy()));
        args.extend(["-chardev".into(), console]);
        args.extend(["-kernel".into(), spec.kernel.clone().into(), "-initrd".into(), spec.initrd.clone().into()]);

        let aggressive = spec.merge == Merge::Aggressive;
        let env = vec![("PATH".to_owned(), OsString::from("/usr/bin:/bin"))];
        Ok(CommandLine {
            program: program.to_owned(),
            args,
            env,
            fds,
            fixed_addresses: aggressive,
            mergeable: aggressive,
        })
    }

    fn control(&self) -> Endpoint {
        Endpoint::Socket(CONTROL_SOCKET.to_owned())
    }

    fn console(&self) -> Endpoint {
        Endpoint::Socket(CONSOLE_SOCKET.to_owned())
    }

    async fn pause(&self, paths: &VmPaths, deadline: Duration) -> Result<(), VmError> {
        Qmp::run(&paths.socket(MONITOR_SOCKET)?, "stop", deadline).await.map(|_| ())
    }

    async fn resume(&self, paths: &VmPaths, deadline: Duration) -> Result<(), VmError> {
        Qmp::run(&paths.socket(MONITOR_SOCKET)?, "cont", deadline).await.map(|_| ())
    }
}

/// The kernel's command line.
fn append(spec: &VmSpec, accelerator: Accelerator, host: &HostFacts) -> String {
    let mut words = vec![spec.cmdline.clone(), "console=ttyS0".to_owned(), "panic=-1".to_owned()];
    if accelerator == Accelerator::Tcg {
        words.push("tsc=nowatchdog".to_owned());
        words.push(format!("tsc_early_khz={}", host.tsc_khz));
    }
    words.join(" ")
}

/// A character device on a listening socket that is passed as a descriptor.
fn listener(id: &str, fd: i32) -> String {
    format!("socket,id={id},fd={fd},server=on,wait=off")
}

/// In QEMU's option lists a comma in a value is written twice.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{paths, spec, text};
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn the_command_line_of_an_emulated_vm_heeds_the_clock() {
        let command = Qemu
            .command(&spec("qemu", 1), &paths(), Path::new("/usr/bin/qemu"), &HostFacts { tsc_khz: 2_445_430 })
            .unwrap();
        assert_eq!(
            text(&command),
            "/usr/bin/qemu -M microvm,acpi=on,pit=off,pic=off,rtc=off,mem-merge=off -accel tcg,tb-size=16 -cpu qemu64,+arat -m 48M \
             -smp 1 -nodefaults -no-user-config -display none -no-reboot -name exp.web-1 \
             -append rdinit=/init quiet console=ttyS0 panic=-1 tsc=nowatchdog tsc_early_khz=2445430 \
             -chardev socket,id=control,fd=3,server=on,wait=off -device virtio-serial-device \
             -device virtserialport,chardev=control,name=org.fleet.control -device isa-serial,chardev=console \
             -chardev socket,id=monitor,fd=5,server=on,wait=off -mon chardev=monitor,mode=control \
             -netdev tap,id=net0,fd=6 -device virtio-net-device,netdev=net0,mac=02:00:00:00:00:00 \
             -chardev socket,id=console,fd=4,server=on,wait=off,logappend=on,\
             logfile=/run/fleet/exp/vms/web-1/console.log -kernel /i/linux -initrd /i/initrd"
        );
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn a_vm_with_kvm_keeps_the_clock_of_its_processor() {
        let spec = VmSpec { accelerator: Some(Accelerator::Kvm), ..spec("qemu", 0) };
        let command = Qemu.command(&spec, &paths(), Path::new("/usr/bin/qemu"), &HostFacts { tsc_khz: 1 }).unwrap();
        let text = text(&command);
        assert!(text.contains("-accel kvm -cpu host") && !text.contains("tsc"), "{text}");
    }
}
