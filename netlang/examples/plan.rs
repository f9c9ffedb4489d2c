//! Checks a network file and prints its plan as JSON, with the time and the peak memory it took on stderr:
//! `cargo run -p netlang --example plan -- FILE [LOCK]`.

use netlang::{Lock, RenderOptions, Source, render};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: plan FILE [LOCK]")?;
    let name = std::path::Path::new(&path).file_stem().and_then(|s| s.to_str()).ok_or("the file has no name")?;
    let source = Source::new(name, std::fs::read_to_string(&path)?);
    let lock_path = args.next();
    let lock = match &lock_path {
        Some(path) => std::fs::read_to_string(path).map_or(Ok(Lock::default()), |text| Lock::parse(&text))?,
        None => Lock::default(),
    };
    let start = Instant::now();
    let compilation = netlang::design(&source, &lock);
    let took = start.elapsed();
    eprint!("{}", render(&compilation.diagnostics, &source, RenderOptions::default()));
    if let Some(plan) = &compilation.plan {
        let groups = plan.group_count();
        eprintln!(
            "{} VMs in {groups} groups, {} segments, {} routers",
            plan.total_vms(),
            plan.segment_count(),
            plan.router_count()
        );
        if groups < 10_000 {
            println!("{}", serde_json::to_string_pretty(&plan.summary())?);
        }
    }
    if let Some(path) = lock_path {
        std::fs::write(path, compilation.lock.to_string())?;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("VmHWM: not known").to_owned();
    eprintln!("{took:.2?}, {peak}");
    Ok(())
}
