//! `make fuzz`: builds the target with libFuzzer's instrumentation, gives it corpus and dictionary, runs it for a
//! while, and says how to replay what it found.
//!
//! libFuzzer (the crate `libfuzzer-sys` brings its source) is guided by coverage and works with a stable compiler:
//! only the sanitizers that cargo-fuzz turns on by default need a nightly one, and this code has no `unsafe` for them to
//! watch. So neither cargo-fuzz nor a nightly toolchain is needed, only a C++ compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Parser;
use netlang_fuzz::seeds::{corpus, dictionary, repository};

/// The flags by which cargo-fuzz instruments, without its sanitizers.
const INSTRUMENTATION: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "-Ccodegen-units=1",
];
/// Build scripts and macros are built for the host, without the instrumentation, only if a target is named.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Looks for inputs that break a promise of the network language
#[derive(Debug, Parser)]
struct Cli {
    /// How long, in seconds
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    /// Processes at once
    #[arg(long, default_value_t = 1)]
    jobs: u32,
    /// Folder for build, corpus and crashes
    #[arg(long, default_value = "target/fuzz")]
    folder: PathBuf,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let target = build(&cli.folder)?;
    let (found, seeds) = (cli.folder.join("corpus"), cli.folder.join("seeds"));
    let crashes = cli.folder.join("crashes");
    for folder in [&found, &seeds, &crashes] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let dict = cli.folder.join("words.dict");
    write(&dict, dictionary().as_bytes())?;
    for (number, input) in corpus()?.iter().enumerate() {
        write(&seeds.join(format!("{number:03}")), input)?;
    }
    println!("fleet: fuzzing the network language for {} s", cli.seconds);
    let log = cli.folder.join("log");
    let output = std::fs::File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut command = Command::new(&target);
    command.args([&found, &seeds]).stdout(output.try_clone()?).stderr(output);
    command.arg(format!("-dict={}", dict.display())).arg(format!("-artifact_prefix={}/", crashes.display()));
    command.args(["-max_len=8192", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    command.arg(format!("-max_total_time={}", cli.seconds));
    if cli.jobs > 1 {
        command.arg(format!("-fork={}", cli.jobs));
    }
    let status = command.status().with_context(|| format!("cannot run {}", target.display()))?;
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    if status.success() {
        let progress = text.lines().rev().find(|line| line.contains("cov:")).unwrap_or("no progress was written");
        println!("fleet: every promise held: {progress}");
        return Ok(());
    }
    let written = text.lines().rev().find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
    let said = text.lines().filter(|line| !line.starts_with('#')).take(40).collect::<Vec<_>>().join("\n");
    match written {
        Some(path) => bail!(
            "an input breaks a promise: {path}\n{said}\n  replay it: cargo run -p netlang-fuzz --bin netlang-fuzz-target -- {path}\n  \
             when it is mended, keep it: cp {path} netlang/fuzz/regressions/WHAT_WAS_WRONG"
        ),
        None => bail!("the fuzzer ended with {status}; its output is in {}\n{said}", log.display()),
    }
}

/// Builds the instrumented target beside the ordinary builds.
fn build(folder: &Path) -> Result<PathBuf> {
    println!("fleet: building the fuzzer");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package=netlang-fuzz", "--bin=netlang-fuzz-target"])
        .arg(format!("--target={TRIPLE}"))
        .arg("--manifest-path")
        .arg(repository().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(folder)
        // Link-time optimisation runs after the instrumentation would be wanted, and takes long.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\u{1f}"))
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the fuzzer could not be built");
    }
    Ok(folder.join(TRIPLE).join("release/netlang-fuzz-target"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
