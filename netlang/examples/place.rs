//! Places a network file on so many like hosts and prints the first of them, with the time it took on stderr:
//! `cargo run --release -p netlang --example place -- FILE HOSTS`. One host in ten has the tag `core`.

use netlang::{Host, Lock, RenderOptions, Source, VmShape, design, render};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: place FILE HOSTS")?;
    let count: u32 = args.next().ok_or("usage: place FILE HOSTS")?.parse()?;
    let source = Source::new("file", std::fs::read_to_string(&path)?);
    let compilation = design(&source, &Lock::default());
    eprint!("{}", render(&compilation.diagnostics, &source, RenderOptions::default()));
    let Some(plan) = compilation.plan else { return Ok(()) };
    let hosts: Vec<Host> = (0..count)
        .map(|number| Host {
            name: format!("h{number}"),
            rack: Some(format!("r{}", number / 40)),
            tags: if number % 10 == 0 { vec!["core".into()] } else { Vec::new() },
            memory: 64 << 30,
            cores: 32,
            closed: false,
        })
        .collect();
    let commits = |vm: &VmShape<'_>| vm.committed(vm.memory.unwrap_or(48 << 20)) + (2 << 20);
    let start = Instant::now();
    let placement = plan.place(&hosts, &commits, None)?;
    let first = start.elapsed();
    let start = Instant::now();
    let again = plan.place(&hosts, &commits, Some(&placement))?;
    eprintln!("{} VMs on {count} hosts in {first:?}, again in {:?}", plan.total_vms(), start.elapsed());
    eprintln!("{} segments cross hosts; the same again: {}", placement.crossing_segments, placement == again);
    for host in placement.hosts.iter().take(20) {
        println!(
            "{} {} VMs, {} MiB, {} routers: {:?}",
            host.host,
            host.vms,
            host.memory >> 20,
            host.routers.len(),
            host.ranges
        );
    }
    Ok(())
}
