//! Runs a shell script, or a shell's words from standard input, in the guest that plays a host with cameras on its USB ports:
//! `FLEET_INIT=… cargo run -p fleet-usb-host --example usb-host -- SCRIPT`
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::PathBuf;

fn main() {
    let init: PathBuf = std::env::var_os("FLEET_INIT").expect("FLEET_INIT: fleet-init as make build makes it").into();
    let mut script = String::new();
    match std::env::args_os().nth(1) {
        Some(path) => script = std::fs::read_to_string(path).unwrap(),
        None => _ = std::io::stdin().read_to_string(&mut script).unwrap(),
    }
    fleet_usb_host::Host::boot(&init, &script).serve();
}
