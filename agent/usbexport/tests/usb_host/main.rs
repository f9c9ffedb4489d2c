//! The path of a camera on a real USB port, with no USB here: in a guest that plays the host ([`fleet_usb_host`]), this same
//! program runs the parts of an agent, and the machine's QEMU.
//!
//! `make test-usb-host` runs it. It takes half a minute or more, for a QEMU runs within a QEMU.

#[path = "../common/mod.rs"]
mod common;
mod inside;

use std::path::PathBuf;

#[test]
#[ignore = "boots a host: make test-usb-host"]
fn a_camera_on_a_port_is_found_exported_and_given_to_qemu_by_descriptor() {
    let init: PathBuf = std::env::var_os("FLEET_INIT").expect("FLEET_INIT, as make test-usb-host sets it").into();
    let program = std::env::current_exe().expect("this program");
    // The virtual machine within has the kernel of the one around it.
    let x86 = fleet_usb_host::image(&init).x86.expect("a kernel");
    let script = format!(
        "export RUST_BACKTRACE=1 NESTED_KERNEL={} NESTED_INITRD={}\n\
        exec {} --ignored --exact --nocapture inside::what_the_guest_runs",
        x86.vmlinux.display(),
        x86.initrd.display(),
        program.display()
    );
    fleet_usb_host::Host::boot(&init, &script).serve();
}
