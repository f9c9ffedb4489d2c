//! Times the network of one large segment: `cargo run --release -p fleet-net --example many_ports -- 1000`.
//!
//! It needs root, makes its namespaces in a folder of its own and removes them at the end.

use std::{error::Error, net::Ipv4Addr, time::Instant};

use fleet_net::{NetConfig, Network, NetworkOptions, NetworkSpec, PortSpec, SegmentSpec};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let count: u16 = std::env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let dir = std::env::temp_dir().join(format!("fleet-many-ports-{}", std::process::id()));
    let config = NetConfig { netns_dir: dir.clone(), prefix: "bench".into(), ..NetConfig::default() };
    let network = Network::open(config, "many")?;
    let result = measure(&network, count).await;
    let start = Instant::now();
    for error in network.remove().await {
        eprintln!("{error}");
    }
    println!("remove              {:>8.3} s", start.elapsed().as_secs_f64());
    std::fs::remove_dir(dir)?;
    result
}

async fn measure(network: &Network, count: u16) -> Result<(), Box<dyn Error>> {
    let ports = (1..=count).map(|host| {
        let [high, low] = host.to_be_bytes();
        let id = format!("web[{}]/eth0", host - 1);
        PortSpec { id, mac: [2, 0, 0, 0, high, low], ip: Ipv4Addr::new(10, 0, high, low) }
    });
    let segment = SegmentSpec { name: "lan".into(), mtu: 1500, multicast: false, ports: ports.collect(), tunnel: None };
    let spec = NetworkSpec {
        experiment: "many".into(),
        segments: vec![segment],
        routers: Vec::new(),
        underlay: None,
        options: NetworkOptions::default(),
    };
    let start = Instant::now();
    // The last report of each step comes with its end.
    let report = network
        .reconcile(&spec, move |progress| {
            if progress.done == progress.total {
                println!("  {:<16?}  {:>8.3} s", progress.step, start.elapsed().as_secs_f64());
            }
        })
        .await?;
    println!("up, {} made       {:>8.3} s", report.made.len(), start.elapsed().as_secs_f64());
    let start = Instant::now();
    let report = network.reconcile(&spec, |_| ()).await?;
    println!("again, {} unchanged {:>6.3} s", report.unchanged, start.elapsed().as_secs_f64());
    let start = Instant::now();
    let counters = network.counters().await?;
    println!("{} counters       {:>8.3} s", counters.len(), start.elapsed().as_secs_f64());
    let start = Instant::now();
    let mut held = Vec::new();
    for port in &spec.segments[0].ports {
        held.push(network.open_tap(&port.id).await?);
    }
    println!("{} opened         {:>8.3} s", held.len(), start.elapsed().as_secs_f64());
    Ok(())
}
