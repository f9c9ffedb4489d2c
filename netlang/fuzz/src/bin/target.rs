//! The fuzzer's target, when it is built with `--cfg fuzzing` and libFuzzer's instrumentation. Built plainly it
//! replays inputs, with an ordinary message and backtrace: `netlang-fuzz-target FILE…`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| netlang_fuzz::check(data));

#[cfg(not(fuzzing))]
fn main() -> anyhow::Result<()> {
    for path in std::env::args().skip(1) {
        let data = std::fs::read(&path).map_err(|error| anyhow::anyhow!("cannot read {path}: {error}"))?;
        println!("{path}: {}", String::from_utf8_lossy(&data));
        netlang_fuzz::check(&data);
        println!("{path}: every promise holds");
    }
    Ok(())
}
