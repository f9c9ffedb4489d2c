//! A plan as text, on one page: rows that arrays of instances repeat are folded, long lists are cut.

use netlang::{FoldedPlan, Host, Interval, PlaceError, Placement, Plan, PlanSummary};

use crate::cli::output::{self, Table};

/// Rows of a table that are shown without `--all`.
const ROWS: usize = 20;
/// Hosts that are shown without `--all`: they are mostly alike.
const HOSTS: usize = 8;
/// Characters of a name, and of what a host runs, without `--all`, so that a line has 80 at most.
const NAME: usize = 30;
const RUNS: usize = 34;

/// Prints everything about a plan that does not need a controller.
pub fn plan(plan: &Plan, hosts: &[Host], placement: Result<&Placement, &PlaceError>, all: bool) {
    let summary = plan.summary();
    sums(&summary);
    where_it_runs(plan, hosts, placement, all);
    if all {
        every_row(&summary);
    } else {
        folded(&plan.folded(&summary));
    }
    externals(&summary);
    rules(&summary);
    if !summary.checks.is_empty() {
        output::say!("\n{}", output::plural(summary.checks.len() as u64, "`check` line"));
    }
    behaviour(&summary);
}

fn sums(summary: &PlanSummary) {
    let totals = &summary.totals;
    output::say!(
        "{}: {} in {}, {}, {}, {}",
        summary.experiment,
        output::plural(totals.vms, "VM"),
        output::plural(totals.groups, "group"),
        output::plural(totals.segments, "segment"),
        output::plural(totals.routers, "router"),
        output::plural(totals.links, "link"),
    );
    let memory = match (totals.memory, totals.vms_of_default_memory) {
        (given, 0) => output::bytes(given),
        (0, _) => "by default of the image".to_owned(),
        (given, others) => format!("{}, and {} with the default", output::bytes(given), output::plural(others, "VM")),
    };
    output::say!("{}, memory {memory}", output::plural(totals.cpus, "virtual processor"));
}

fn where_it_runs(plan: &Plan, hosts: &[Host], placement: Result<&Placement, &PlaceError>, all: bool) {
    output::say!();
    let placement = match placement {
        Ok(placement) => placement,
        Err(error) if hosts.len() == 1 => {
            output::say!("{}", output::wrap(&format!("cannot run on this host alone: {error}")));
            output::say!("  `--hosts FILE` plans for other hosts");
            return;
        }
        Err(error) => {
            let hosts = output::plural(hosts.len() as u64, "host");
            output::say!("{}", output::wrap(&format!("cannot run on the {hosts} given: {error}")));
            return;
        }
    };
    let mut table = Table::new(&["HOST", "VMS", "MEMORY", "RUNS"]);
    let used: Vec<_> =
        placement.hosts.iter().zip(hosts).filter(|(on, _)| on.vms > 0 || !on.routers.is_empty()).collect();
    for (on, host) in used.iter().take(if all { usize::MAX } else { HOSTS }) {
        let ranges = on.ranges.iter().filter_map(|range| {
            let group = plan.find_group(&range.group)?;
            plan.range_name(netlang::Range { group, first: range.first, count: range.count })
        });
        let runs: Vec<String> = ranges.chain(on.routers.iter().cloned()).collect();
        table.row(vec![
            on.host.clone(),
            on.vms.to_string(),
            format!("{} of {}", output::bytes(on.memory), output::bytes(host.memory)),
            if all { runs.join(" ") } else { cut_list(&runs) },
        ]);
    }
    table.print();
    if !all && used.len() > HOSTS {
        output::say!("and {} more hosts (--all)", used.len() - HOSTS);
    }
    let empty = placement.hosts.len() - used.len();
    if empty > 0 {
        output::say!("{} stay{} empty", output::plural(empty as u64, "host"), if empty == 1 { "s" } else { "" });
    }
    if hosts.len() > 1 {
        output::say!("{} cross hosts", output::plural(placement.crossing_segments, "segment"));
    }
}

/// "a b c and 12 more", in a line.
fn cut_list(names: &[String]) -> String {
    let mut text = String::new();
    for (at, name) in names.iter().enumerate() {
        if at > 0 && text.chars().count() + name.chars().count() > RUNS {
            return format!("{text} and {} more", names.len() - at);
        }
        text.push_str(if at > 0 { " " } else { "" });
        text.push_str(name);
    }
    text
}

fn limit(all: bool) -> usize {
    if all { usize::MAX } else { ROWS }
}

fn more(rows: usize, all: bool, what: &str) {
    if rows > limit(all) {
        output::say!("and {} more {what} (--all)", rows - limit(all));
    }
}

/// A name in a column of its width: the middle gives way.
fn cut(name: &str) -> String {
    let count = name.chars().count();
    if count <= NAME {
        return name.to_owned();
    }
    let start: String = name.chars().take(NAME / 2 - 1).collect();
    let end: String = name.chars().skip(count - NAME / 2).collect();
    format!("{start}…{end}")
}

/// "10.0.0.0/22", "10.0.0.0/22 … 10.0.39.0/22".
fn span<T: PartialEq + ToString>((first, last): &(T, T)) -> String {
    if first == last { first.to_string() } else { format!("{} … {}", first.to_string(), last.to_string()) }
}

fn folded(plan: &FoldedPlan) {
    table(&["GROUP", "VMS", "IMAGE", "MEMORY", "ADDRESSES"], &plan.groups, "groups", |group| {
        vec![
            cut(&group.name),
            group.vms.to_string(),
            group.image.clone().unwrap_or_else(|| "several".to_owned()),
            group.memory.map_or_else(|| "default".to_owned(), output::bytes),
            group.addresses.as_ref().map_or_else(String::new, span),
        ]
    });
    table(&["SEGMENT", "COUNT", "PREFIX", "GATEWAY", "PORTS"], &plan.segments, "segments", |segment| {
        let gateway = match (segment.count, segment.gateway) {
            (1, Some(gateway)) => gateway.to_string(),
            (_, Some(_)) => "yes".to_owned(),
            (_, None) => "-".to_owned(),
        };
        vec![cut(&segment.name), segment.count.to_string(), span(&segment.prefixes), gateway, segment.ports.to_string()]
    });
    table(&["ROUTER", "COUNT", "KIND", "INTERFACES", "ADDRESSES"], &plan.routers, "routers", |router| {
        let (fewest, most) = router.interfaces;
        vec![
            cut(&router.name),
            router.count.to_string(),
            format!("{:?}", router.kind).to_lowercase(),
            if fewest == most { fewest.to_string() } else { format!("{fewest} to {most}") },
            router.addresses.as_ref().map_or_else(String::new, span),
        ]
    });
    table(&["LINK", "COUNT", "PREFIX"], &plan.links, "links", |link| {
        let name = link.name.split(" -- ").map(cut).collect::<Vec<_>>().join(" -- ");
        // All links have prefixes of one length.
        let (first, last) = &link.prefixes;
        let prefix = if first == last { last.to_string() } else { format!("{} … {last}", first.network()) };
        vec![name, link.count.to_string(), prefix]
    });
}

fn every_row(summary: &PlanSummary) {
    let all = true;
    rows(&["GROUP", "VMS", "IMAGE", "RUNS ON", "MEMORY", "ADDRESSES"], &summary.groups, all, "groups", |group| {
        let addresses: Vec<String> = group.addresses.iter().map(interval).collect();
        vec![
            group.name.clone(),
            group.count.to_string(),
            group.class.image.to_string(),
            group.class.hypervisor.map_or("default", hypervisor).to_owned(),
            group.class.memory.map_or_else(|| "default".to_owned(), output::bytes),
            addresses.join(" "),
        ]
    });
    rows(&["SEGMENT", "PREFIX", "GATEWAY", "PORTS", "MTU", "VNI"], &summary.segments, all, "segments", |segment| {
        vec![
            segment.name.clone(),
            segment.prefix.to_string(),
            segment.gateway.map_or_else(|| "-".to_owned(), |gateway| gateway.to_string()),
            segment.ports.to_string(),
            segment.mtu.to_string(),
            segment.vni.to_string(),
        ]
    });
    rows(&["ROUTER", "KIND", "ADDRESSES"], &summary.routers, all, "routers", |router| {
        let addresses: Vec<String> = router.addresses.iter().map(ToString::to_string).collect();
        vec![router.name.clone(), format!("{:?}", router.kind).to_lowercase(), addresses.join(" ")]
    });
    rows(&["LINK", "PREFIX", "COST", "MTU"], &summary.links, all, "links", |link| {
        vec![link.name.clone(), link.prefix.to_string(), link.cost.to_string(), link.mtu.to_string()]
    });
}

fn table<T>(headings: &[&str], items: &[T], what: &str, row: impl Fn(&T) -> Vec<String>) {
    rows(headings, items, false, what, row);
}

/// A table of items; nothing when there are none.
fn rows<T>(headings: &[&str], items: &[T], all: bool, what: &str, row: impl Fn(&T) -> Vec<String>) {
    if items.is_empty() {
        return;
    }
    output::say!();
    let mut table = Table::new(headings);
    for item in items.iter().take(limit(all)) {
        table.row(row(item));
    }
    table.print();
    more(items.len(), all, what);
}

/// What the file says about hosts, a line a statement.
fn rules(summary: &PlanSummary) {
    for (at, rule) in summary.places.iter().enumerate() {
        let sets = if rule.sets > 1 { format!(" ({} times)", rule.sets) } else { String::new() };
        // `place together` says it all by itself.
        let demand = rule.rule.to_string();
        let demand = if rule.text.contains(&demand) { String::new() } else { format!(": {demand}") };
        output::say!("{}{}{demand}{sets}", if at == 0 { "\n" } else { "" }, rule.text);
    }
}

fn externals(summary: &PlanSummary) {
    for external in &summary.externals {
        output::say!(
            "\nexternal {}: {}/{} on {} of host {}",
            external.name,
            external.prefix,
            external.prefix_len,
            external.interface,
            external.host
        );
    }
}

/// A line for each experiment, and one for telemetry.
fn behaviour(summary: &PlanSummary) {
    let span = |ns: u64| output::duration(ns / 1_000_000);
    for experiment in &summary.experiments {
        let end = experiment.end_ns.map_or_else(String::new, |end| format!(", ends at {}", span(end)));
        let events = output::plural(experiment.events.len() as u64, "event");
        output::say!("\nexperiment {}: {events}, {} in all{end}", experiment.name, experiment.firings);
    }
    if let Some(telemetry) = &summary.telemetry {
        let mut parts: Vec<String> = telemetry.every_ns.iter().map(|every| format!("every {}", span(*every))).collect();
        let counts = [
            (telemetry.sampled_vms, "VM sampled more often", "VMs sampled more often"),
            (telemetry.captures.len() as u64, "capture", "captures"),
            (telemetry.consoles, "console kept", "consoles kept"),
            (telemetry.routes, "routing table kept", "routing tables kept"),
        ];
        let counted = counts.iter().filter(|(count, ..)| *count > 0);
        parts.extend(counted.map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many })));
        output::say!("\ntelemetry: {}", if parts.is_empty() { "as usual".to_owned() } else { parts.join(", ") });
    }
}

fn hypervisor(kind: netlang::HypervisorKind) -> &'static str {
    match kind {
        netlang::HypervisorKind::Uml => "uml",
        netlang::HypervisorKind::Qemu => "qemu",
    }
}

/// "10.0.0.16", "10.0.0.16-45", "10.0.0.250-10.0.1.20 (4 segments)".
fn interval(interval: &Interval) -> String {
    let (first, last) = (interval.first, interval.last);
    let mut text = first.to_string();
    if first != last && first.octets()[..3] == last.octets()[..3] {
        text += &format!("-{}", last.octets()[3]);
    } else if first != last {
        text += &format!("-{last}");
    }
    if interval.segments > 1 {
        text += &format!(" ({} segments)", interval.segments);
    }
    text
}
