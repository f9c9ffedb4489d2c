//! Fuzzing with a stable compiler: builds a target with libFuzzer's instrumentation, gives it corpus and dictionary, runs it for a
//! while, and says how to replay what it found.
//!
//! libFuzzer (the crate `libfuzzer-sys` brings its source) is guided by coverage and works with a stable compiler:
//! only the sanitizers that cargo-fuzz turns on by default need a nightly one, and the code that is fuzzed has no `unsafe` for
//! them to watch. So neither cargo-fuzz nor a nightly toolchain is needed, only a C++ compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

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

/// How long, and where.
#[derive(Debug, Args)]
pub struct Run {
    /// How long, in seconds
    #[arg(long, default_value_t = 600)]
    pub seconds: u32,
    /// Processes at once
    #[arg(long, default_value_t = 1)]
    pub jobs: u32,
    /// Folder for build, corpus and crashes; each target has its own in it, but the build
    #[arg(long, default_value = "target/fuzz")]
    pub folder: PathBuf,
}

/// What is fuzzed.
#[derive(Debug)]
pub struct Campaign<'a> {
    /// For people: "the network language".
    pub what: &'a str,
    /// The package that has the target.
    pub package: &'a str,
    /// The binary that is the fuzzer when it is built with `--cfg fuzzing`, and replays inputs otherwise.
    pub target: &'a str,
    /// Where inputs are kept that were once wrong, from the repository's folder.
    pub regressions: &'a str,
    /// Inputs to start from.
    pub corpus: Vec<Vec<u8>>,
    /// Words in libFuzzer's form, one quoted word a line.
    pub dictionary: String,
    /// Bytes of an input at most.
    pub longest: u32,
    /// MiB that one allocation may take.
    pub allocation_mib: u32,
}

/// The folder of the repository, whatever the current folder is.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Campaign<'_> {
    /// Builds the fuzzer and runs it.
    ///
    /// # Errors
    /// When an input breaks a promise; the text says how to replay it. When the fuzzer cannot be built or run.
    pub fn run(&self, run: &Run) -> Result<()> {
        let target = self.build(&run.folder)?;
        let folder = run.folder.join(self.package);
        let (found, seeds, crashes) = (folder.join("corpus"), folder.join("seeds"), folder.join("crashes"));
        for folder in [&found, &seeds, &crashes] {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let dict = folder.join("words.dict");
        write(&dict, self.dictionary.as_bytes())?;
        for (number, input) in self.corpus.iter().enumerate() {
            write(&seeds.join(format!("{number:03}")), input)?;
        }
        println!("fleet: fuzzing {} for {} s", self.what, run.seconds);
        let log = folder.join("log");
        let output = std::fs::File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = Command::new(&target);
        command.args([&found, &seeds]).stdout(output.try_clone()?).stderr(output);
        command.arg(format!("-dict={}", dict.display())).arg(format!("-artifact_prefix={}/", crashes.display()));
        command.args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]);
        command.arg(format!("-max_len={}", self.longest)).arg(format!("-malloc_limit_mb={}", self.allocation_mib));
        command.arg(format!("-max_total_time={}", run.seconds));
        if run.jobs > 1 {
            command.arg(format!("-fork={}", run.jobs));
        }
        let status = command.status().with_context(|| format!("cannot run {}", target.display()))?;
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if status.success() {
            let progress = text.lines().rev().find(|line| line.contains("cov:")).unwrap_or("no progress was written");
            println!("fleet: every promise held: {progress}");
            return Ok(());
        }
        let said = text.lines().filter(|line| !line.starts_with('#')).take(40).collect::<Vec<_>>().join("\n");
        let written = text.lines().rev().find_map(|line| line.split_once("Test unit written to "));
        match written {
            Some((_, path)) => bail!(
                "an input breaks a promise: {path}\n{said}\n  replay it: cargo run -p {} --bin {} -- {path}\n  \
                 when it is mended, keep it: cp {path} {}/WHAT_WAS_WRONG",
                self.package,
                self.target,
                self.regressions
            ),
            None => bail!("the fuzzer ended with {status}; its output is in {}\n{said}", log.display()),
        }
    }

    /// Builds the instrumented target beside the ordinary builds.
    fn build(&self, folder: &Path) -> Result<PathBuf> {
        println!("fleet: building the fuzzer of {}", self.what);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--release"])
            .arg(format!("--package={}", self.package))
            .arg(format!("--bin={}", self.target))
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
        Ok(folder.join(TRIPLE).join("release").join(self.target))
    }
}

/// Replays inputs of files, with an ordinary message and backtrace.
///
/// # Errors
/// When one cannot be read.
pub fn replay(check: fn(&[u8])) -> Result<()> {
    for path in std::env::args().skip(1) {
        let data = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        println!("{path}: {}", String::from_utf8_lossy(&data));
        check(&data);
        println!("{path}: every promise holds");
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
