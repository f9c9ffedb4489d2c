//! The fuzzer's target, when it is built with `--cfg fuzzing` and libFuzzer's instrumentation. Built plainly it
//! replays inputs, with an ordinary message and backtrace: `netlang-fuzz-target FILE…`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| netlang_fuzz::check(data));

#[cfg(not(fuzzing))]
fn main() -> anyhow::Result<()> {
    fleet_fuzz::replay(netlang_fuzz::check)
}
