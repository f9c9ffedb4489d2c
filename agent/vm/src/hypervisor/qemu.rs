//! QEMU's `microvm` machine, with the processor's virtualisation (`kvm`) or without (`tcg`).
//!
//! - An uncompressed vmlinux is booted through its PVH entry: QEMU maps an ELF file instead of copying it, and the
//!   guest does not unpack itself.
//! - Debian's cloud kernel finds virtio-mmio devices only through ACPI. With ACPI the guest needs neither PIT, PIC nor
//!   RTC; without them its idle tick costs half. A kernel without ACPI gets all three, and the devices on its command
//!   line, which QEMU adds by itself.
//! - Under TCG the guest is told the host's frequency (`tsc_early_khz`): with ACPI it has no other clock to measure its time
//!   stamp counter with, and without ACPI measuring fails on a busy host, and the guest then counts ticks for ever. The
//!   delay loop follows from it, so no `lpj=` is needed. The watchdog of the counter is off, and `+arat` keeps the local
//!   timer running in idle.
//! - The channel's device has one port. With QEMU's usual 31 the guest makes 64 queues of 1024 entries at boot, 7 MB of
//!   memory that nobody uses.
//! - Control channel, console and monitor (QMP) are sockets in server mode: they outlive the agent. The agent makes and
//!   binds them before the process starts, so that connecting never has to wait for QEMU.
//! - A template has its RAM in a file in memory; a clone maps that file privately, so that it copies the pages it writes,
//!   and loads the state of the devices as if it came from another host ("migration"), without kernel and command
//!   line, which the guest's RAM holds. Template and clone have the same machine. The template's interfaces have no
//!   other end, and so the same features as those of a tap without `IFF_VNET_HDR`.
//! - QEMU starts as root and opens what it is told to (kernel, RAM, KVM), then becomes a user without rights, before it
//!   serves its monitor. What it gets later it gets as a descriptor.
//! - A USB controller, for cameras, is on PCI, which the other VMs do without.
//! - `-no-reboot` and `panic=-1`: a guest that panics or reboots ends its process, which is how the agent learns of it.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    CONSOLE_SOCKET, CONTROL_SOCKET, Capabilities, CommandLine, Endpoint, FdRole, HostFacts, Hypervisor, MONITOR_SOCKET,
    Program, Start, UsbBus, check, fd_number, migrate, qmp, usb, usb::PORTS,
};
use crate::error::VmError;
use crate::paths::VmPaths;
use crate::spec::{Accelerator, Merge, RootFs, VmSpec};

/// Name of the virtio port of the control channel, as the guests' init looks for it.
const CONTROL_PORT: &str = "org.fleet.control";

/// QEMU's microvm.
pub(super) struct Qemu;

/// The program with every device, and its package.
const PROGRAM: Program = Program { names: &["qemu-system-x86_64"], package: "qemu-system-x86" };

/// What runs VMs without USB: a QEMU that has the microvm and nothing else, where `deploy/small-qemu.sh` was run. It is static,
/// so its processes share what a dynamic linker would write to in each: a clone takes 13 MB, not 21.
pub const SMALL_PROGRAM: Program = Program { names: &["fleet-qemu", "qemu-system-x86_64"], ..PROGRAM };

/// A guest of this size in MiB or less is a tiny one: it runs little code.
const TINY_MIB: u64 = 48;

/// A guest of this size in MiB or less is a small one: a kernel and little else.
const SMALL_MIB: u64 = 128;

/// MiB of translated code that a VM with this memory in MiB may keep without hardware virtualisation: enough for its
/// guest, and memory that no other process shares. A guest with a full kernel and programs translates the same code again
/// and again where 16 do not hold it: fetching a picture from a camera then takes half as much processor time again.
pub const fn translations_mib(memory_mib: u64) -> u64 {
    if memory_mib <= TINY_MIB {
        8
    } else if memory_mib <= SMALL_MIB {
        16
    } else {
        64
    }
}

/// The accelerator and processor of a VM with this memory in MiB; the probe uses the same, so what it found holds for VMs.
pub(crate) fn accelerator_args(accelerator: Accelerator, memory_mib: u64) -> [String; 4] {
    let how = match accelerator {
        Accelerator::Kvm => "kvm".to_owned(),
        Accelerator::Tcg => format!("tcg,tb-size={}", translations_mib(memory_mib)),
    };
    ["-accel".to_owned(), how, "-cpu".to_owned(), processor(accelerator).to_owned()]
}

/// The processor that a guest sees.
fn processor(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => "qemu64,+arat",
    }
}

/// The machine that fits the kernel. Without ACPI a guest measures its clock with the PIT and reads the time from the RTC.
/// A USB controller is on PCI, and Debian's full kernel does not come up on that without the old devices.
fn machine(spec: &VmSpec) -> &'static str {
    match (spec.usb, spec.acpi) {
        (true, _) => "microvm,acpi=on,pcie=on,rtc=on,pit=on,pic=on",
        (false, true) => "microvm,acpi=on,pit=off,pic=off,rtc=off",
        (false, false) => "microvm,acpi=off,pit=on,pic=on,rtc=on",
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn program(&self, spec: &VmSpec) -> Option<Program> {
        Some(if spec.usb { PROGRAM } else { SMALL_PROGRAM })
    }

    fn capabilities(&self) -> Capabilities {
        // microvm has 8 virtio-mmio slots without a second IOAPIC; one is the control channel's.
        Capabilities { max_cpus: 64, max_nics: 7, ram_in_file: false, clones: true, snapshots: true }
    }

    fn command(
        &self,
        spec: &VmSpec,
        paths: &VmPaths,
        program: &Path,
        host: &HostFacts,
        start: Start<'_>,
    ) -> Result<CommandLine, VmError> {
        check(spec, self, start)?;
        if spec.usb && !spec.acpi {
            let problem = "its kernel has no ACPI, by which USB is found: give it an image with USB".to_owned();
            return Err(VmError::BadSpec { vm: spec.label(), problem });
        }
        let accelerator = spec.accelerator.unwrap_or(Accelerator::Tcg);
        let mut fds = vec![FdRole::ControlListener, FdRole::ConsoleListener, FdRole::MonitorListener];
        if !matches!(start, Start::Template { .. }) {
            fds.extend((0..spec.nics.len()).map(FdRole::Tap));
        }
        if matches!(start, Start::Clone { .. }) {
            fds.push(FdRole::DeviceState);
        }
        let fd = |role| fd_number(&fds, role).unwrap_or(-1); // every role asked for below is in the list above

        let mut args: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        // QEMU offers the guest's memory to KSM unless told otherwise.
        let mut machine = format!("{},mem-merge={}", machine(spec), merge(spec));
        if let Some(memory) = memory(spec, start) {
            machine.push_str(",memory-backend=ram");
            add(&["-object", &memory]);
        }
        if matches!(start, Start::Snapshot { .. }) {
            machine.push_str(",suppress-vmdesc=on"); // what was saved has none
        }
        add(&["-M", &machine]);
        add(&accelerator_args(accelerator, spec.memory_mib()).each_ref().map(String::as_str));
        add(&["-m", &format!("{}M", spec.memory_mib()), "-smp", &spec.cpus.to_string()]);
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        add(&["-name", &escape(&spec.label())]);
        add(&["-chardev", &listener("control", fd(FdRole::ControlListener))]);
        add(&["-device", "virtio-serial-device,max_ports=2"]); // port 0 is for old guests' consoles
        add(&["-device", &format!("virtserialport,chardev=control,name={CONTROL_PORT}")]);
        add(&["-device", "isa-serial,chardev=console"]);
        add(&["-chardev", &listener("monitor", fd(FdRole::MonitorListener))]);
        add(&["-mon", "chardev=monitor,mode=control"]);
        if let Some(user) = host.user {
            let who = format!("{}:{}", user.uid, user.gid);
            if user.run_with { add(&["-run-with", &format!("user={who}")]) } else { add(&["-runas", &who]) }
        }
        if spec.usb {
            add(&["-device", &format!("qemu-xhci,id={},p2={PORTS},p3={PORTS}", usb::CONTROLLER)]);
        }
        for (index, nic) in spec.nics.iter().enumerate() {
            let mut device = format!("virtio-net-device,mac={}", nic.mac_text());
            if fds.contains(&FdRole::Tap(index)) {
                add(&["-netdev", &format!("tap,id=net{index},fd={}", fd(FdRole::Tap(index)))]);
                device.push_str(&format!(",netdev=net{index}"));
            }
            add(&["-device", &device]);
        }
        match start {
            Start::Boot => {}
            // So that clones go on by themselves once they have the state.
            Start::Template { .. } => add(&["-global", "migration.store-global-state=off"]),
            // Nobody has to learn that this guest has moved.
            Start::Clone { .. } | Start::Snapshot { .. } => {
                add(&["-incoming", "defer", "-global", "migration.announce-rounds=0"]);
            }
        }
        if matches!(start, Start::Snapshot { .. }) {
            add(&["-global", "migration.send-configuration=off"]);
        }
        if matches!(start, Start::Boot | Start::Template { .. }) {
            let RootFs::Initrd(initrd) = &spec.root else {
                let problem = "its root is a shared file, and qemu takes an initial RAM disk: build the image again";
                return Err(VmError::BadSpec { vm: spec.label(), problem: problem.to_owned() });
            };
            add(&["-append", &append(spec, accelerator, host)]);
            args.extend(["-kernel".into(), spec.kernel.clone().into(), "-initrd".into(), initrd.clone().into()]);
        }
        let mut console = OsString::from(listener("console", fd(FdRole::ConsoleListener)));
        console.push(",logappend=on,logfile=");
        console.push(escape(&paths.console_log().to_string_lossy()));
        args.extend(["-chardev".into(), console]);

        let aggressive = spec.merge == Merge::Aggressive;
        let env = vec![
            ("PATH".to_owned(), OsString::from("/usr/bin:/bin")),
            // Its threads share one heap: another one costs memory, and they seldom allocate.
            ("MALLOC_ARENA_MAX".to_owned(), OsString::from("1")),
        ];
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
        qmp::run(&paths.socket(MONITOR_SOCKET)?, "stop", deadline).await.map(|_| ())
    }

    async fn resume(&self, paths: &VmPaths, deadline: Duration) -> Result<(), VmError> {
        qmp::run(&paths.socket(MONITOR_SOCKET)?, "cont", deadline).await.map(|_| ())
    }

    async fn freeze(&self, paths: &VmPaths, state: &File, deadline: Duration) -> Result<(), VmError> {
        migrate::freeze(&paths.socket(MONITOR_SOCKET)?, state, deadline).await
    }

    async fn thaw(&self, paths: &VmPaths, state: i32, deadline: Duration) -> Result<(), VmError> {
        migrate::thaw(&paths.socket(MONITOR_SOCKET)?, state, deadline).await
    }

    async fn save(&self, paths: &VmPaths, file: &File, deadline: Duration) -> Result<(), VmError> {
        migrate::save(&paths.socket(MONITOR_SOCKET)?, file, deadline).await
    }

    async fn load(&self, paths: &VmPaths, file: &File, deadline: Duration) -> Result<(), VmError> {
        migrate::load(&paths.socket(MONITOR_SOCKET)?, file, deadline).await
    }

    fn usb(&self) -> Option<&dyn UsbBus> {
        Some(self)
    }

    fn machine(&self, spec: &VmSpec) -> String {
        let accelerator = spec.accelerator.unwrap_or(Accelerator::Tcg);
        format!("{}; {}; {}", machine(spec), accelerator.as_str(), processor(accelerator))
    }

    async fn version(&self, paths: &VmPaths, deadline: Duration) -> Result<String, VmError> {
        migrate::version(&paths.socket(MONITOR_SOCKET)?, deadline).await
    }

    async fn ram_address(&self, paths: &VmPaths, deadline: Duration) -> Result<u64, VmError> {
        migrate::ram_address(&paths.socket(MONITOR_SOCKET)?, deadline).await
    }
}

/// Whether KSM may merge the guest's memory.
fn merge(spec: &VmSpec) -> &'static str {
    if spec.merge == Merge::Off { "off" } else { "on" }
}

/// The object that holds a template's or clone's RAM.
fn memory(spec: &VmSpec, start: Start<'_>) -> Option<String> {
    let (ram, share) = match start {
        Start::Boot | Start::Snapshot { ram: None } => return None,
        Start::Template { ram } => (ram, "on"),
        Start::Clone { ram } | Start::Snapshot { ram: Some(ram) } => (ram, "off"),
    };
    let (size, path) = (spec.memory_mib(), escape(&ram.to_string_lossy()));
    Some(format!("memory-backend-file,id=ram,size={size}M,mem-path={path},share={share},merge={}", merge(spec)))
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
    use super::super::User;
    use super::super::tests_support::{paths, spec, text};
    use super::*;

    #[allow(clippy::unwrap_used)]
    fn command(spec: &VmSpec, start: Start<'_>) -> String {
        text(
            &Qemu
                .command(
                    spec,
                    &paths(),
                    Path::new("/usr/bin/qemu"),
                    &HostFacts { tsc_khz: 2_445_430, user: None },
                    start,
                )
                .unwrap(),
        )
    }

    const MACHINE: &str = "microvm,acpi=on,pit=off,pic=off,rtc=off,mem-merge=off";
    const HEAD: &str = "-accel tcg,tb-size=8 -cpu qemu64,+arat -m 48M -smp 1 -nodefaults -no-user-config -display none \
                        -no-reboot -name exp.web-1 -chardev socket,id=control,fd=3,server=on,wait=off \
                        -device virtio-serial-device,max_ports=2 -device virtserialport,chardev=control,name=org.fleet.control \
                        -device isa-serial,chardev=console -chardev socket,id=monitor,fd=5,server=on,wait=off \
                        -mon chardev=monitor,mode=control";
    const KERNEL: &str = "-append rdinit=/init quiet console=ttyS0 panic=-1 tsc=nowatchdog tsc_early_khz=2445430 \
                          -kernel /i/linux -initrd /i/initrd";
    const CONSOLE: &str = "-chardev socket,id=console,fd=4,server=on,wait=off,logappend=on,\
                           logfile=/run/fleet/exp/vms/web-1/console.log";

    #[test]
    fn the_command_line_of_an_emulated_vm_heeds_the_clock() {
        assert_eq!(
            command(&spec("qemu", 1), Start::Boot),
            format!(
                "/usr/bin/qemu -M {MACHINE} {HEAD} -netdev tap,id=net0,fd=6 \
                 -device virtio-net-device,mac=02:00:00:00:00:00,netdev=net0 {KERNEL} {CONSOLE}"
            )
        );
    }

    #[test]
    fn template_and_clone_have_one_machine_and_differ_in_what_they_begin_with() {
        let ram = Path::new("/dev/shm/a,b/ram");
        let memory = "-object memory-backend-file,id=ram,size=48M,mem-path=/dev/shm/a,,b/ram";
        assert_eq!(
            command(&spec("qemu", 1), Start::Template { ram }),
            format!(
                "/usr/bin/qemu {memory},share=on,merge=off -M {MACHINE},memory-backend=ram {HEAD} \
                 -device virtio-net-device,mac=02:00:00:00:00:00 \
                 -global migration.store-global-state=off {KERNEL} {CONSOLE}"
            )
        );
        assert_eq!(
            command(&spec("qemu", 1), Start::Clone { ram }),
            format!(
                "/usr/bin/qemu {memory},share=off,merge=off -M {MACHINE},memory-backend=ram {HEAD} -netdev tap,id=net0,fd=6 \
                 -device virtio-net-device,mac=02:00:00:00:00:00,netdev=net0 \
                 -incoming defer -global migration.announce-rounds=0 {CONSOLE}"
            )
        );
    }

    #[test]
    fn a_kernel_without_acpi_has_the_old_devices_and_is_told_its_clock_too() {
        let text = command(&VmSpec { acpi: false, ..spec("qemu", 0) }, Start::Boot);
        assert!(
            text.contains("-M microvm,acpi=off,pit=on,pic=on,rtc=on,mem-merge=off ") && text.contains("tsc_early"),
            "{text}"
        );
    }

    #[test]
    fn a_vm_with_usb_has_a_controller_on_pci() {
        let text = command(&VmSpec { usb: true, ..spec("qemu", 0) }, Start::Boot);
        assert!(text.contains("-M microvm,acpi=on,pcie=on,rtc=on,pit=on,pic=on,mem-merge=off "), "{text}");
        assert!(text.contains("-device qemu-xhci,id=usb,p2=15,p3=15 ") && text.contains("tsc_early_khz"), "{text}");
        let bad = VmSpec { usb: true, acpi: false, ..spec("qemu", 0) };
        let facts = HostFacts { tsc_khz: 0, user: None };
        let error = Qemu.command(&bad, &paths(), Path::new("/q"), &facts, Start::Boot).err();
        assert!(error.is_some_and(|error| error.to_string().contains("no ACPI")));
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn every_version_is_told_whom_to_become() {
        for (run_with, words) in [(false, " -runas 70:71 "), (true, " -run-with user=70:71 ")] {
            let facts = HostFacts { tsc_khz: 0, user: Some(User { uid: 70, gid: 71, run_with }) };
            let text = text(&Qemu.command(&spec("qemu", 0), &paths(), Path::new("/q"), &facts, Start::Boot).unwrap());
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn a_vm_with_kvm_keeps_the_clock_of_its_processor() {
        let text = command(&VmSpec { accelerator: Some(Accelerator::Kvm), ..spec("qemu", 0) }, Start::Boot);
        assert!(text.contains("-accel kvm -cpu host") && !text.contains("tsc"), "{text}");
    }
}
