//! The fuzzer's target, when it is built with `--cfg fuzzing` and libFuzzer's instrumentation. Built plainly it
//! replays inputs, with an ordinary message and backtrace: `fleet-usb-fuzz-target FILE…`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_usb_fuzz::check(data));

#[cfg(not(fuzzing))]
fn main() -> anyhow::Result<()> {
    fleet_fuzz::replay(fleet_usb_fuzz::check)
}
