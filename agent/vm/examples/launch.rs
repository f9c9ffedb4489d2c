//! Starts VMs and stays: `launch RUN_DIR RAM_DIR CGROUP < SPECS.json`, where the input is a list of specifications.
//! Prints a line for each VM that runs. The VMs outlive it however it ends.

use std::io::Read;

use fleet_vm::{HostConfig, VmHost, VmSpec};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [run_dir, ram_dir, cgroup] = arguments.as_slice() else {
        return Err("usage: launch RUN_DIR RAM_DIR CGROUP < SPECS.json".into());
    };
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let specs: Vec<VmSpec> = serde_json::from_str(&text)?;
    let host =
        VmHost::new(HostConfig { run_dir: run_dir.into(), ram_dir: ram_dir.into(), cgroup: cgroup.to_owned() })?;
    let starts: Vec<_> = specs
        .into_iter()
        .map(|spec| {
            let host = host.clone();
            tokio::spawn(async move { host.launch(spec, Vec::new()).await })
        })
        .collect();
    let mut machines = Vec::new();
    for start in starts {
        let machine = start.await??;
        println!("{} runs as process {}", machine.spec().label(), machine.pid());
        machines.push(machine);
    }
    std::future::pending::<()>().await;
    Ok(())
}
