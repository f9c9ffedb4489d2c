//! `fleet ps`: what runs.

use clap::Args;
use fleet_proto::v1::{ExperimentStatus, ListRequest, RouterStatus, VmState, VmStatus};
use fleet_tree::{NameSet, Style};

use super::connect::{self, Start};
use super::output::{self, Table};
use super::{Context, Exit, Failure, failed};

/// With more VMs than this, alike ones share a line.
const UNFOLDED: usize = 40;

#[derive(Args, Debug)]
pub struct PsArgs {
    /// Only this experiment
    pub experiment: Option<String>,
    /// One line a VM, however many there are
    #[arg(long, short)]
    pub all: bool,
    /// Only failed VMs, by reason, with their last console lines
    #[arg(long)]
    pub failed: bool,
}

/// Everything that `ps` was told.
#[derive(Default)]
struct Listing {
    experiments: Vec<ExperimentStatus>,
    vms: Vec<VmStatus>,
    routers: Vec<RouterStatus>,
    notes: Vec<String>,
}

pub async fn ps(context: &Context, args: &PsArgs) -> Result<Exit, Failure> {
    let mut listing = Listing::default();
    match connect::connect(context, Start::IfUp).await {
        Ok(mut client) => {
            let only = if args.failed { VmState::Failed } else { VmState::Unspecified };
            let experiment = args.experiment.clone().unwrap_or_default();
            let request = ListRequest { experiment, only: only.into(), summary: false };
            let mut stream = client.ps(request).await?.into_inner();
            while let Some(chunk) = stream.message().await? {
                listing.vms.extend(chunk.vms);
                listing.routers.extend(chunk.routers);
                listing.experiments.extend(chunk.experiments);
                listing.notes.extend(chunk.notes);
            }
            listing.sort();
            connect::end_if_idle(&mut client).await;
        }
        // Where no controller ever ran, nothing is up: that is an answer, not an error.
        Err(failure) if failure.exit == Exit::NotReached && args.experiment.is_none() => {}
        Err(failure) => return Err(failure),
    }
    if context.json {
        let mut document = listing.json();
        if args.failed {
            document["failures"] = failed::json(&listing.vms);
        }
        output::json(&document);
    } else if args.failed {
        failed::print(&listing.vms);
    } else {
        listing.print(context, args.all);
    }
    Ok(Exit::Ok)
}

impl Listing {
    /// One host answers in the order of the file; several as they like, and then names say the order.
    fn sort(&mut self) {
        if self.vms.windows(2).all(|pair| pair[0].host == pair[1].host) {
            return;
        }
        self.vms.sort_by(|a, b| (&a.experiment, natural(&a.name)).cmp(&(&b.experiment, natural(&b.name))));
        self.routers.sort_by(|a, b| (&a.experiment, natural(&a.name)).cmp(&(&b.experiment, natural(&b.name))));
    }

    /// Whether it is of more than one host.
    fn is_spread(&self) -> bool {
        let hosts = || self.vms.iter().map(|vm| &vm.host).chain(self.routers.iter().map(|router| &router.host));
        hosts().zip(hosts().skip(1)).any(|(one, next)| one != next)
    }

    fn print(&self, context: &Context, all: bool) {
        if self.experiments.is_empty() {
            output::say!("nothing is up; `fleet up FILE` brings a network up");
            return;
        }
        for experiment in &self.experiments {
            let busy = if experiment.busy { ", an operation is under way" } else { "" };
            output::say!(
                "{}: {} ({}, {}, {}{busy})",
                experiment.experiment,
                output::counts(&experiment.counts),
                output::plural(experiment.vms, "VM"),
                output::plural(experiment.routers, "router"),
                output::plural(experiment.segments, "segment"),
            );
        }
        output::say!();
        let fold = !all && self.vms.len() > UNFOLDED;
        let vms = alike(&self.vms, fold).into_iter().map(|group| vm_row(context, &group));
        let routers = self.routers.iter().map(|router| Row {
            experiment: router.experiment.clone(),
            name: router.name.clone(),
            state: match router.up {
                true => output::colored_state(VmState::Running, context.color),
                false => router.reason.clone(),
            },
            hosts: router.host.clone(),
            runs_on: format!("router/{}", router.kind),
            addresses: router.addresses.join(" "),
            memory: String::new(),
            since: String::new(),
        });
        Row::print(vms.chain(routers), self.is_spread());
        let failed: Vec<_> = self.vms.iter().filter(|vm| vm.state() == VmState::Failed).collect();
        if !failed.is_empty() {
            output::say!("\n{} failed; `fleet ps --failed` says why", failed.len());
        }
        if !self.notes.is_empty() {
            output::say!();
        }
        self.notes.iter().for_each(|note| output::say!("{}", output::wrap(note)));
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "experiments": self.experiments.iter().map(|experiment| serde_json::json!({
                "experiment": experiment.experiment, "file": experiment.source_name, "busy": experiment.busy,
                "vms": experiment.vms, "routers": experiment.routers, "segments": experiment.segments,
                "states": experiment.counts.iter().filter(|entry| entry.count > 0)
                    .map(|entry| (output::state(entry.state()).to_owned(), entry.count.into()))
                    .collect::<serde_json::Map<_, _>>(),
            })).collect::<Vec<_>>(),
            "vms": self.vms.iter().map(vm_json).collect::<Vec<_>>(),
            "routers": self.routers.iter().map(|router| serde_json::json!({
                "experiment": router.experiment, "name": router.name, "host": router.host, "kind": router.kind,
                "up": router.up, "reason": router.reason, "addresses": router.addresses,
            })).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

/// One VM as JSON.
fn vm_json(vm: &VmStatus) -> serde_json::Value {
    serde_json::json!({
        "experiment": vm.experiment, "name": vm.name, "host": vm.host, "state": output::state(vm.state()),
        "hypervisor": vm.hypervisor, "image": vm.image, "pid": vm.pid, "addresses": vm.addresses,
        "memory_bytes": vm.memory_bytes, "reason": vm.reason, "last_lines": vm.last_lines,
        "since_ms": vm.since_ms, "boot_ms": vm.boot_ms, "starts": vm.starts,
    })
}

/// A name in pieces by which it is sorted: `web[2]` before `web[10]`.
fn natural(name: &str) -> Vec<(&str, u64)> {
    let mut pieces = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(digits);
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        pieces.push((text, after[..end].parse().unwrap_or(0)));
        rest = &after[end..];
    }
    pieces
}

/// VMs that share a line, in the order of their first ones: with `fold`, those of one group in one state.
fn alike(vms: &[VmStatus], fold: bool) -> Vec<Vec<&VmStatus>> {
    let mut lines: Vec<Vec<&VmStatus>> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for vm in vms {
        let group = vm.name.rfind('[').filter(|_| fold).map(|at| &vm.name[..at]);
        let Some(group) = group else {
            lines.push(vec![vm]);
            continue;
        };
        let key = (&vm.experiment, group, vm.state, &vm.hypervisor, vm.memory_bytes);
        let at = *known.entry(key).or_insert(lines.len());
        match lines.get_mut(at) {
            Some(line) => line.push(vm),
            None => lines.push(vec![vm]),
        }
    }
    lines
}

/// A line of the table.
struct Row {
    experiment: String,
    name: String,
    state: String,
    hosts: String,
    runs_on: String,
    addresses: String,
    memory: String,
    since: String,
}

impl Row {
    /// Writes the table; on one host nobody needs to be told which.
    fn print(rows: impl Iterator<Item = Row>, hosts: bool) {
        let headings = ["EXPERIMENT", "NAME", "STATE", "HOST", "RUNS ON", "ADDRESS", "MEMORY", "SINCE"];
        let shown = |heading: &str| hosts || heading != "HOST";
        let mut table = Table::new(&headings.iter().copied().filter(|heading| shown(heading)).collect::<Vec<_>>());
        for Row { experiment, name, state, hosts, runs_on, addresses, memory, since } in rows {
            let cells = [experiment, name, state, hosts, runs_on, addresses, memory, since];
            let cells = headings.iter().zip(cells).filter(|(heading, _)| shown(heading));
            table.row(cells.map(|(_, cell)| cell).collect());
        }
        table.print();
    }
}

/// The line of VMs that are alike.
fn vm_row(context: &Context, group: &[&VmStatus]) -> Row {
    /// Characters of a line's hosts.
    const HOSTS: usize = 24;
    // `alike` makes no line without a VM.
    let (first, last) = (group[0], group[group.len() - 1]);
    let (name, addresses) = if group.len() == 1 {
        (first.name.clone(), first.addresses.join(" "))
    } else {
        let names = shortened(&fleet_agent::fold_names(group.iter().map(|vm| vm.name.as_str())));
        let addresses = first.addresses.first().zip(last.addresses.first());
        let addresses = addresses.map_or_else(String::new, |(first, last)| format!("{first} … {last}"));
        (format!("{names} ({})", group.len()), addresses)
    };
    let mut hosts = NameSet::new(Style::Hosts);
    group.iter().filter(|vm| !vm.host.is_empty()).for_each(|vm| hosts.insert(&vm.host));
    Row {
        experiment: first.experiment.clone(),
        name,
        state: output::colored_state(first.state(), context.color),
        hosts: hosts.to_text(HOSTS),
        runs_on: first.hypervisor.clone(),
        addresses,
        memory: if first.memory_bytes == 0 { String::new() } else { output::bytes(first.memory_bytes) },
        since: if first.since_ms == 0 { String::new() } else { output::age(first.since_ms) },
    }
}

/// Names folded into a column: `--all` shows what is left out.
fn shortened(names: &str) -> String {
    const WIDTH: usize = 40;
    match names.char_indices().nth(WIDTH) {
        Some((end, _)) => {
            // Whole indices: up to the last comma that fits.
            let end = names[..end].rfind(',').map_or(end, |comma| comma + 1);
            format!("{}…]", &names[..end])
        }
        None => names.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_vms_that_come_up_take_a_line_a_state() {
        let vm = |index: i32| VmStatus {
            experiment: "e".into(),
            name: format!("web[{index}]"),
            state: if index % 3 == 0 { VmState::Running } else { VmState::Booting }.into(),
            ..VmStatus::default()
        };
        let mut vms: Vec<_> = (0..1000).map(vm).collect();
        vms.push(VmStatus { name: "db".into(), ..VmStatus::default() });
        let lines = alike(&vms, true);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [334, 666, 1]);
        assert_eq!(alike(&vms, false).len(), 1001);
    }

    #[test]
    fn long_lists_of_names_are_cut_between_indices() {
        let long = "web[0,3,6,9,12,15,18,21,24,27,30,33,36,39,42]";
        let short = shortened(long);
        assert!(short.ends_with(",…]") && short.chars().count() <= 42, "{short}");
        assert_eq!(shortened("web[0-99]"), "web[0-99]");
    }
}
