//! The cases, and how one is measured.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use netlang::{Lock, Plan, Source, design, format};
use netlang_bench::counting::{Counts, count};
use netlang_bench::inputs::{COSTLY, explicit_vms};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

/// What a case takes: the median run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Cost {
    /// Seconds on the clock.
    pub wall: f64,
    /// Seconds of the processor.
    pub cpu: f64,
    /// Most memory that the process had, in bytes; its own text and tables included.
    pub resident: u64,
    /// Allocations of the work.
    pub counts: Counts,
}

/// Groups in the slice of a host.
const SLICE: u32 = 100;

/// The names of the inputs that cost most.
pub fn costly_names() -> impl Iterator<Item = &'static str> {
    COSTLY.iter().map(|costly| costly.name)
}

/// Runs a case by name; `floor:NAME` is the floor of it.
pub fn run(name: &str, sample: &Path) -> Result<Cost> {
    let read = || std::fs::read_to_string(sample).with_context(|| format!("cannot read {}", sample.display()));
    match name {
        "sample" => compiled(Source::new("internet", read()?), &Lock::default(), true),
        "floor:sample" => floor(&read()?),
        "million" => compiled(Source::new("million", explicit_vms(1_000_000)), &Lock::default(), true),
        "million:lock" => {
            let source = Source::new("million", explicit_vms(1_000_000));
            let lock = design(&source, &Lock::default()).lock.to_string();
            let (cost, found) = measured(3, || Lock::parse(&lock).map(|lock| design(&source, &lock)));
            found.context("its own lock cannot be read")?.plan.context("the file is wrong")?;
            Ok(cost)
        }
        "million:format" => {
            let text = explicit_vms(1_000_000);
            let (cost, found) = measured(3, || format(&text));
            if found.is_err() {
                bail!("the file is wrong");
            }
            Ok(cost)
        }
        "floor:million" => floor(&explicit_vms(1_000_000)),
        "slice" => {
            let plan = plan_of(&Source::new("internet", read()?))?;
            Ok(measured(9, || slice(&plan)).0)
        }
        "floor:slice" => {
            let plan = plan_of(&Source::new("internet", read()?))?;
            let ports = slice(&plan);
            Ok(measured(9, || (0..ports).fold(0u64, |sum, n| std::hint::black_box(sum ^ n))).0)
        }
        _ => {
            let (is_floor, name) = name.strip_prefix("floor:").map_or((false, name), |name| (true, name));
            let Some(costly) = COSTLY.iter().find(|costly| costly.name == name) else {
                bail!("there is no case {name}")
            };
            let text = (costly.text)();
            if is_floor { floor(&text) } else { compiled(Source::new("p", text), &Lock::default(), false) }
        }
    }
}

fn compiled(source: Source, lock: &Lock, must_be_right: bool) -> Result<Cost> {
    let runs = if source.text.len() > 1 << 22 { 3 } else { 5 };
    let (cost, result) = measured(runs, || {
        let result = design(&source, lock);
        let rendered = netlang::render(&result.diagnostics, &source, netlang::RenderOptions::default());
        let summary = result.plan.as_ref().map(|plan| plan.summary().totals);
        (summary, rendered.len())
    });
    if must_be_right && result.0.is_none() {
        bail!("the file is wrong");
    }
    Ok(cost)
}

/// What reading the text and finding its words costs.
fn floor(text: &str) -> Result<Cost> {
    let path = std::env::temp_dir().join(format!("netlang-bench-{}", std::process::id()));
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let (cost, words) = measured(5, || std::fs::read_to_string(&path).map(|text| text.split_whitespace().count()));
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    words.context("cannot read the text again")?;
    Ok(cost)
}

fn plan_of(source: &Source) -> Result<Plan> {
    design(source, &Lock::default()).plan.context("the sample is wrong")
}

/// What an agent works out for its part: each VM of some groups, and the ports of their lans.
fn slice(plan: &Plan) -> u64 {
    let first = plan.group_count() as u32 / 2;
    let mut segments = std::collections::BTreeSet::new();
    let mut found = 0;
    for id in (first..first + SLICE).map(netlang::GroupId) {
        let Some(group) = plan.group(id) else { continue };
        for index in group.first..group.first + group.count {
            let Some(vm) = plan.vm(id, index) else { continue };
            segments.extend(vm.nics.iter().map(|nic| nic.segment));
            found += 1;
        }
    }
    for segment in segments {
        found += plan.ports_of(segment).count() as u64;
    }
    found
}

/// Does some work several times: the median by processor time.
fn measured<V>(runs: usize, mut work: impl FnMut() -> V) -> (Cost, V) {
    let mut costs = Vec::with_capacity(runs);
    let mut value = None;
    for _ in 0..runs.max(1) {
        drop(value.take());
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        let (found, counts) = count(&mut work);
        costs.push((cpu_seconds() - cpu, wall.elapsed().as_secs_f64(), counts));
        value = Some(found);
    }
    costs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (cpu, wall, counts) = costs[costs.len() / 2];
    let resident = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().unsigned_abs() * 1024);
    match value {
        Some(value) => (Cost { wall, cpu, resident, counts }, value),
        // At least one run was made.
        None => unreachable!("no run was made"),
    }
}

fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0.0, |u| (u.user_time().num_microseconds() + u.system_time().num_microseconds()) as f64 / 1e6)
}
