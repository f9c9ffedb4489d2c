//! A [`Network`] as text. The formatter has the last word on the layout.

use std::fmt::Write;

use super::network::{Host, Network, On};

/// Writes a network file.
pub(super) fn text(name: &str, network: &Network) -> String {
    let mut out = String::new();
    let name: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    let name = if name.trim().is_empty() { String::new() } else { format!("{}: ", name.trim()) };
    // Writing to a String cannot fail, so results of `write!` are dropped.
    let _ = writeln!(out, "# {name}imported from a topology of containerlab\nlanguage 1\n");
    for (kind, prefix) in &network.pools {
        let _ = writeln!(out, "pool {kind} {prefix}");
    }
    for image in &network.images {
        let _ = writeln!(out, "image {} \"{}\"", image.name, image.file);
    }
    let common = Common::of(network);
    let defaults = common.properties(network);
    if !defaults.is_empty() {
        let _ = writeln!(out, "\ndefault vm {{ {} }}", defaults.join("; "));
    }
    out.push('\n');
    for external in &network.externals {
        let interface = external.interface.replace(['"', '\n', '\r'], "");
        let _ = writeln!(
            out,
            "external {} {{ host \"localhost\"; interface \"{interface}\"; net {} }}",
            external.name, external.prefix
        );
    }
    out.push('\n');
    for lan in &network.lans {
        let _ = write!(out, "lan {}", lan.name);
        if let Some(prefix) = lan.prefix {
            let _ = write!(out, " = {prefix}");
        }
        let gateway = lan.gateway.map(|host| format!("gateway {}", network.hosts[host].name));
        let mtu = lan.mtu.map(|mtu| format!("mtu {mtu}"));
        block(&mut out, gateway.into_iter().chain(mtu).collect());
    }
    out.push('\n');
    for host in network.hosts.iter().filter(|host| host.router.is_some()) {
        let _ = write!(out, "router {}", host.name);
        if let Some(kind) = host.router.filter(|kind| *kind != "linux") {
            let _ = write!(out, " {kind}");
        }
        block(&mut out, attachments(network, host));
    }
    out.push('\n');
    for host in network.hosts.iter().filter(|host| host.router.is_none()) {
        let _ = write!(out, "vm {}", host.name);
        let own = Common { image: host.image, cpu: host.cpu, memory: host.memory }.without(&common);
        let mut properties = attachments(network, host);
        properties.extend(own.properties(network));
        block(&mut out, properties);
    }
    out.push('\n');
    for line in &network.lines {
        let [a, b] = line.ends.map(|host| &network.hosts[host].name);
        let _ = write!(out, "link {a} -- {b}");
        if let Some(name) = &line.name {
            let _ = write!(out, " as {name}");
        }
        block(&mut out, line.mtu.map(|mtu| format!("mtu {mtu}")).into_iter().collect());
    }
    out
}

/// Ends a statement, with a block if there are properties.
fn block(out: &mut String, properties: Vec<String>) {
    if !properties.is_empty() {
        let _ = write!(out, " {{ {} }}", properties.join("; "));
    }
    out.push('\n');
}

fn attachments(network: &Network, host: &Host) -> Vec<String> {
    let attachment = |port: &super::network::Port| {
        let (on, is_lan) = match port.on {
            On::Lan(lan) => (&network.lans[lan].name, true),
            On::External(external) => (&network.externals[external].name, false),
        };
        // 1 is what a router on a lan has anyway.
        match port.at.filter(|at| *at != 1 || host.router.is_none() || !is_lan) {
            Some(at) => format!("on {on} at {at}"),
            None => format!("on {on}"),
        }
    };
    host.ports.iter().map(attachment).collect()
}

/// Properties that all VMs have alike.
#[derive(Debug, Default, Clone, Copy)]
struct Common {
    image: Option<usize>,
    cpu: Option<u32>,
    memory: Option<u64>,
}

impl Common {
    /// What all VMs of a network have alike; nothing if there is but one.
    fn of(network: &Network) -> Common {
        fn alike<T: Copy + PartialEq>(vms: &[&Host], of: impl Fn(&Host) -> Option<T>) -> Option<T> {
            let first = of(vms.first()?)?;
            vms.iter().all(|host| of(host) == Some(first)).then_some(first)
        }
        let vms: Vec<&Host> = network.hosts.iter().filter(|host| host.router.is_none()).collect();
        if vms.len() < 2 {
            return Common::default();
        }
        Common { image: alike(&vms, |h| h.image), cpu: alike(&vms, |h| h.cpu), memory: alike(&vms, |h| h.memory) }
    }

    /// What is not said by the default.
    fn without(self, default: &Common) -> Common {
        Common {
            image: self.image.filter(|_| default.image.is_none()),
            cpu: self.cpu.filter(|_| default.cpu.is_none()),
            memory: self.memory.filter(|_| default.memory.is_none()),
        }
    }

    fn properties(&self, network: &Network) -> Vec<String> {
        let image = self.image.map(|image| format!("image {}", network.images[image].name));
        let cpu = self.cpu.map(|cpu| format!("cpu {cpu}"));
        let memory = self.memory.map(|mib| match mib % 1024 {
            0 => format!("mem {}GiB", mib / 1024),
            _ => format!("mem {mib}MiB"),
        });
        image.into_iter().chain(cpu).chain(memory).collect()
    }
}
