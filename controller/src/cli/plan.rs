//! `fleet plan`, `check`, `fmt`, `explain`: the language, with nothing contacted.

use std::path::{Path, PathBuf};

use clap::Args;
use fleet_proto::v1::{Difference, Options, Spec, UpRequest};

use super::connect::{self, Start};
use super::output::{self, Table};
use super::up::{difference_json, difference_lines, new_op};
use super::{Context, Exit, Failure, source};

#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The network file
    pub file: PathBuf,
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The network files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub struct FmtArgs {
    /// The network files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Change nothing; fail when a file is not formatted
    #[arg(long)]
    pub check: bool,
}

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// A code such as E0304
    pub code: String,
}

pub async fn plan(context: &Context, args: &PlanArgs) -> Result<Exit, Failure> {
    let loaded = source::load(context, &args.file, source::Purpose::Look)?;
    // What cannot run is not compared with what runs.
    let not_yet = not_yet(&loaded.plan);
    let difference = if not_yet.is_empty() { running_difference(context, &loaded).await? } else { None };
    if context.json {
        output::json(&serde_json::json!({
            "plan": loaded.plan.summary(), "difference": difference.as_ref().map(difference_json),
            "unsupported": loaded.plan.unsupported().map(|part| part.what).collect::<Vec<_>>(),
        }));
        return Ok(Exit::Ok);
    }
    print_plan(&loaded);
    match difference {
        None => {
            output::say!(
                "\nnothing of {} runs; `fleet up {}` brings it up",
                loaded.plan.experiment(),
                args.file.display()
            )
        }
        Some(difference) => {
            output::say!("\n`fleet up {}` would", args.file.display());
            let lines = difference_lines(&difference);
            for line in &lines {
                output::say!("  {line}");
            }
            if lines.is_empty() {
                output::say!("  change nothing");
            }
        }
    }
    Ok(Exit::Ok)
}

/// The difference to what runs, where a controller runs that can say it.
async fn running_difference(context: &Context, loaded: &source::Loaded) -> Result<Option<Difference>, Failure> {
    let Ok(mut client) = connect::connect(context, Start::Never).await else { return Ok(None) };
    let spec = Spec {
        experiment: loaded.plan.experiment().to_owned(),
        source_name: loaded.source.file_name(),
        source: loaded.source.text.clone(),
        lock: loaded.lock.only(loaded.plan.experiment()).to_string(),
        placement: Vec::new(),
        options: Some(Options::default()),
    };
    let request = UpRequest { op: Some(new_op()), spec: Some(spec) };
    Ok(Some(client.diff(request).await?.into_inner()))
}

/// What of a plan this version of fleet cannot run; empty when it can run all of it.
fn not_yet(plan: &netlang::Plan) -> String {
    let mut words: Vec<String> = plan.unsupported().map(|part| format!("`{}`", part.what)).collect();
    words.sort();
    words.dedup();
    if words.is_empty() { String::new() } else { format!("; `fleet up` cannot run {} yet (E0099)", words.join(", ")) }
}

fn print_plan(loaded: &source::Loaded) {
    let summary = loaded.plan.summary();
    let totals = &summary.totals;
    output::say!(
        "{}: {} in {}, {}, {}, {}",
        loaded.plan.experiment(),
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
    output::say!("{}, memory {memory}\n", output::plural(totals.cpus, "virtual processor"));
    let mut groups = Table::new(&["GROUP", "VMS", "IMAGE", "RUNS ON", "MEMORY", "ADDRESSES"]);
    for group in &summary.groups {
        let addresses: Vec<String> = group.addresses.iter().map(interval).collect();
        groups.row(vec![
            group.name.clone(),
            group.count.to_string(),
            group.image.clone(),
            group.hypervisor.map_or("default", hypervisor).to_owned(),
            group.memory.map_or_else(|| "default".to_owned(), output::bytes),
            addresses.join(" "),
        ]);
    }
    groups.print();
    output::say!();
    let mut segments = Table::new(&["SEGMENT", "PREFIX", "GATEWAY", "PORTS", "MTU", "VNI"]);
    for segment in &summary.segments {
        segments.row(vec![
            segment.name.clone(),
            segment.prefix.to_string(),
            segment.gateway.map_or_else(|| "-".to_owned(), |gateway| gateway.to_string()),
            segment.ports.to_string(),
            segment.mtu.to_string(),
            segment.vni.to_string(),
        ]);
    }
    segments.print();
    if !summary.routers.is_empty() {
        output::say!();
        let mut routers = Table::new(&["ROUTER", "KIND", "ADDRESSES"]);
        for router in &summary.routers {
            let addresses: Vec<String> = router.addresses.iter().map(ToString::to_string).collect();
            routers.row(vec![router.name.clone(), format!("{:?}", router.kind).to_lowercase(), addresses.join(" ")]);
        }
        routers.print();
    }
}

fn hypervisor(kind: netlang::HypervisorKind) -> &'static str {
    match kind {
        netlang::HypervisorKind::Uml => "uml",
        netlang::HypervisorKind::Qemu => "qemu",
    }
}

/// "10.0.0.16", "10.0.0.16-45", "10.0.0.250-10.0.1.20 (4 segments)".
fn interval(interval: &netlang::Interval) -> String {
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

pub fn check(context: &Context, args: &CheckArgs) -> Result<Exit, Failure> {
    let mut documents = Vec::new();
    let mut wrong = false;
    for file in &args.files {
        let source = source::read(file)?;
        let lock = source::read_lock(file)?.0;
        let compilation = netlang::design(&source, &lock);
        wrong |= compilation.plan.is_none();
        match &compilation.plan {
            _ if context.json => documents.push(serde_json::json!({
                "file": source.name, "ok": compilation.plan.is_some(), "diagnostics": compilation.diagnostics,
            })),
            Some(plan) => {
                source::show(context, &compilation.diagnostics, &source);
                let proved = match plan.checks().len() {
                    0 => "no `check` lines".to_owned(),
                    1 => "its `check` line holds on the plan".to_owned(),
                    count => format!("all {count} `check` lines hold on the plan"),
                };
                let vms = output::plural(plan.total_vms(), "VM");
                output::say!("{}: ok, {vms}, {proved}{}", file.display(), not_yet(plan));
            }
            None => source::show(context, &compilation.diagnostics, &source),
        }
    }
    if context.json {
        output::json(&serde_json::json!({ "files": documents }));
    }
    Ok(if wrong { Exit::Usage } else { Exit::Ok })
}

pub fn fmt(context: &Context, args: &FmtArgs) -> Result<Exit, Failure> {
    let mut wrong = false;
    let mut changed = Vec::new();
    for file in &args.files {
        let source = source::read(file)?;
        match netlang::format(&source.text) {
            Ok(text) if text == source.text => {}
            Ok(text) => {
                changed.push(file.display().to_string());
                if !args.check {
                    replace(file, &text)?;
                }
            }
            Err(diagnostics) => {
                wrong = true;
                source::show(context, &diagnostics, &source);
            }
        }
    }
    if context.json && !wrong {
        output::json(&serde_json::json!({ "changed": changed, "check": args.check }));
    } else {
        let word = if args.check { "is not formatted" } else { "formatted" };
        for file in &changed {
            output::say!("{file}: {word}");
        }
    }
    let unformatted = args.check && !changed.is_empty();
    if unformatted {
        return Err(Failure {
            exit: Exit::Partial,
            message: format!("{} not formatted", output::plural(changed.len() as u64, "file")),
            help: None,
        }
        .help("`fleet fmt FILE` formats them"));
    }
    Ok(if wrong { Exit::Usage } else { Exit::Ok })
}

/// Writes a file whole or not at all.
pub fn replace(file: &Path, text: &str) -> Result<(), Failure> {
    let new = file.with_extension("fleet.new");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, file))
        .map_err(|error| Failure::usage(format!("cannot write {}: {error}", file.display())))
}

pub fn explain(args: &ExplainArgs) -> Result<Exit, Failure> {
    match netlang::explain(&args.code.to_uppercase()) {
        Some(page) => {
            output::print(page);
            Ok(Exit::Ok)
        }
        None => Err(Failure::usage(format!("there is no error code `{}`", args.code))
            .help("codes look like E0304; errors of `fleet check` show theirs")),
    }
}
