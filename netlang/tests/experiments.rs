#![allow(clippy::unwrap_used)]
use netlang::{Lock, RenderOptions, Source, design, render};
#[test]
fn look() {
    for (name, text) in
        [("enterprise", include_str!("samples/enterprise.fleet")), ("internet", include_str!("samples/internet.fleet"))]
    {
        let source = Source::new(name, text);
        let t = std::time::Instant::now();
        let c = design(&source, &Lock::default());
        println!("{:?}", t.elapsed());
        println!("{}", render(&c.diagnostics, &source, RenderOptions { color: false, width: 120 }));
        let Some(plan) = c.plan else { continue };
        for e in plan.experiments() {
            println!("{}", e.summary().lines().join("\n"));
            for f in e.timeline().take(12) {
                let a = plan.affected(&e.events[f.event], f.number);
                println!(
                    "{} {} {} -> {} vms in {} ranges, {:?} routers, {} links",
                    f.at / 1_000_000_000,
                    f.number,
                    e.events[f.event].text,
                    a.vms.iter().map(|r| r.count).sum::<u32>(),
                    a.vms.len(),
                    a.routers.len(),
                    a.links.len()
                );
            }
        }
        println!("{:?}", plan.telemetry().map(|t| t.summary()));
    }
}
