//! `fleet up`: from a file to a network that runs and whose `check` lines are proved.

use std::path::PathBuf;

use clap::Args;
use fleet_proto::v1::up_event::Event;
use fleet_proto::v1::{
    CheckResult, ControllerProveRequest, Difference, OpHeader, OperationSummary, Options, Outcome, Spec, UpEvent,
    UpRequest,
};
use tonic::Streaming;

use super::connect::{self, Client, Start};
use super::progress::Display;
use super::{Context, Exit, Failure, image, output, source};

#[derive(Args, Debug)]
pub struct UpArgs {
    /// The network file
    pub file: PathBuf,
    /// Run the VMs that name none on this hypervisor: uml or qemu
    #[arg(long, value_name = "NAME", env = "FLEET_HYPERVISOR")]
    pub hypervisor: Option<String>,
    /// When anything fails, remove what this command made
    #[arg(long)]
    pub rollback: bool,
    /// Do not prove the file's `check` lines
    #[arg(long)]
    pub no_check: bool,
    /// Start at most so many VMs at once
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub concurrency: u32,
    /// Send telemetry to this MongoDB server (when this command starts the controller)
    #[arg(long, value_name = "URI", env = "FLEET_MONGODB")]
    pub mongodb: Option<String>,
    /// Start the controller without telemetry
    #[arg(long)]
    pub no_telemetry: bool,
}

pub async fn up(context: &Context, args: &UpArgs) -> Result<Exit, Failure> {
    let loaded = source::load(context, &args.file, source::Purpose::Run)?;
    let experiment = loaded.plan.experiment().to_owned();
    image::ensure(context, &loaded.plan).await?;
    loaded.write_lock()?;
    if (args.mongodb.is_some() || args.no_telemetry) && connect::connect(context, Start::Never).await.is_ok() {
        eprintln!("fleet: a controller runs already; --mongodb and --no-telemetry are for one that `up` starts");
        eprintln!("  help: `fleet controller stop` ends it, VMs go on");
    }
    let mut client = connect::connect(context, Start::Always).await?;
    let request = UpRequest {
        op: Some(new_op()),
        spec: Some(Spec {
            experiment: experiment.clone(),
            source_name: args.file.display().to_string(),
            source: loaded.source.text.clone(),
            lock: loaded.lock.only(&experiment).to_string(),
            hosts: Vec::new(),
            options: Some(Options {
                hypervisor: args.hypervisor.clone().or(context.config.hypervisor.clone()).unwrap_or_default(),
                rollback: args.rollback,
                concurrency: args.concurrency,
            }),
        }),
    };
    let exit = tokio::select! {
        exit = bring_up(context, args, &experiment, client.clone(), request) => exit,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("fleet: interrupted; what was asked for goes on without this command");
            eprintln!("  help: `fleet ps` shows how far it is, `fleet down {experiment}` removes it");
            return Ok(Exit::INTERRUPTED);
        }
    };
    if !matches!(exit, Ok(Exit::Ok)) {
        // Refused or rolled back, it leaves nothing: neither the controller that it started.
        connect::end_if_idle(&mut client).await;
    }
    exit
}

/// Has it done, and the `check` lines proved.
async fn bring_up(
    context: &Context,
    args: &UpArgs,
    experiment: &str,
    mut client: Client,
    request: UpRequest,
) -> Result<Exit, Failure> {
    let stream = client.up(request).await?.into_inner();
    let finished = follow(context, &format!("up {experiment}"), stream).await?;
    let mut checks = Vec::new();
    if !args.no_check && failed(&finished.summary) == 0 {
        let mut results =
            client.prove(ControllerProveRequest { experiment: experiment.to_owned() }).await?.into_inner();
        while let Some(result) = results.message().await? {
            if !context.json {
                print_check(context, &result);
            }
            checks.push(result);
        }
    }
    if context.json {
        output::json(&serde_json::json!({
            "experiment": experiment,
            "difference": finished.difference.as_ref().map(difference_json),
            "targets": finished.summary.targets,
            "outcomes": output::folds_json(&finished.summary.folds),
            "elapsed_ms": finished.summary.elapsed_ms,
            "checks": checks.iter().map(check_json).collect::<Vec<_>>(),
        }));
    }
    let refuted = checks.iter().any(|check| !check.passed);
    Ok(if failed(&finished.summary) > 0 || refuted { Exit::Partial } else { Exit::Ok })
}

/// An id that no other operation has.
pub fn new_op() -> OpHeader {
    OpHeader { op_id: uuid::Uuid::new_v4().to_string(), epoch: 0, generation: 0 }
}

/// How an operation ended.
pub struct Finished {
    /// Its outcomes; they add up to its targets.
    pub summary: OperationSummary,
    /// What it changed, when it said so.
    pub difference: Option<Difference>,
}

/// Shows an operation until it ends, then its summary.
///
/// # Errors
/// When the operation could not be done at all, or the stream breaks.
pub async fn follow(context: &Context, verb: &str, mut stream: Streaming<UpEvent>) -> Result<Finished, Failure> {
    let mut display = Display::new(verb, context.json);
    let mut difference = None;
    let summary = loop {
        let Some(UpEvent { event }) = stream.message().await? else {
            return Err(Failure::internal("the controller ended the answer before its summary"));
        };
        match event {
            Some(Event::Progress(mut progress)) => {
                if let Some(found) = progress.difference.take() {
                    for line in difference_lines(&found) {
                        display.line(&line);
                    }
                    difference = Some(found);
                }
                display.step(&progress);
            }
            Some(Event::Note(note)) => display.line(&note),
            Some(Event::Summary(summary)) => break summary,
            None => {}
        }
    };
    drop(display);
    if !context.json {
        print_summary(context, verb, &summary);
    }
    Ok(Finished { summary, difference })
}

/// Targets that did not come to what was asked.
pub fn failed(summary: &OperationSummary) -> u32 {
    let well = |outcome| matches!(outcome, Outcome::Ok | Outcome::AlreadySo);
    summary.folds.iter().filter(|fold| !well(fold.outcome())).map(|fold| fold.count).sum()
}

fn print_summary(context: &Context, verb: &str, summary: &OperationSummary) {
    let (green, red, off) = if context.color { ("\x1b[32m", "\x1b[31m", "\x1b[0m") } else { ("", "", "") };
    let parts: Vec<_> = summary
        .folds
        .iter()
        .filter(|fold| fold.reason.is_empty())
        .map(|fold| format!("{} {}", fold.count, output::outcome(fold.outcome())))
        .chain((failed(summary) > 0).then(|| format!("{red}{} failed{off}", failed(summary))))
        .collect();
    let mark = if failed(summary) == 0 { format!("{green}done{off}") } else { format!("{red}failed{off}") };
    let parts = if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") };
    output::say!(
        "{verb}: {mark}: {}: {parts}, in {}",
        output::plural(summary.targets, "target"),
        output::duration(summary.elapsed_ms)
    );
    for fold in summary.folds.iter().filter(|fold| !fold.reason.is_empty()) {
        output::say!(
            "  {} ({}) {}: {}",
            fold.targets,
            fold.count,
            output::outcome(fold.outcome()),
            indented(&fold.reason)
        );
    }
}

/// Keeps the lines of a reason (its last console lines) under its first one.
fn indented(reason: &str) -> String {
    reason.replace('\n', "\n      ")
}

/// What an `up` changes, in a line a kind.
pub fn difference_lines(difference: &Difference) -> Vec<String> {
    let kinds = [
        ("start:", &difference.start),
        ("restart:", &difference.restart),
        ("stop:", &difference.stop),
        ("network:", &difference.network),
    ];
    let mut lines: Vec<_> = kinds
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(kind, names)| format!("{kind} {}", names.join(", ")))
        .collect();
    if difference.unchanged > 0 {
        let one = difference.unchanged == 1;
        lines.push(format!(
            "{} stay{} as {}",
            output::plural(difference.unchanged, "VM"),
            if one { "s" } else { "" },
            if one { "it is" } else { "they are" }
        ));
    }
    lines.extend(difference.notes.iter().map(|note| format!("note: {note}")));
    lines
}

/// A difference as JSON.
pub fn difference_json(difference: &Difference) -> serde_json::Value {
    serde_json::json!({
        "start": difference.start, "restart": difference.restart, "stop": difference.stop,
        "network": difference.network, "unchanged": difference.unchanged, "notes": difference.notes,
    })
}

fn print_check(context: &Context, check: &CheckResult) {
    let (green, red, off) = if context.color { ("\x1b[32m", "\x1b[31m", "\x1b[0m") } else { ("", "", "") };
    let mark = if check.passed { format!("{green}proved{off}") } else { format!("{red}REFUTED{off}") };
    let pairs = if check.probed == check.pairs {
        output::plural(check.pairs, "pair")
    } else {
        format!("{} of {} pairs", check.probed, check.pairs)
    };
    let rtt = match check.rtt_us_median {
        0 => String::new(),
        rtt => format!(", median round trip {:.2} ms", f64::from(rtt) / 1000.0),
    };
    output::say!("{mark}: {} ({pairs}{rtt})", check.check.strip_prefix("check ").unwrap_or(&check.check));
    for failure in &check.failures {
        output::say!("  {failure}");
    }
    if check.failed as usize > check.failures.len() {
        output::say!("  and {} more", check.failed as usize - check.failures.len());
    }
}

fn check_json(check: &CheckResult) -> serde_json::Value {
    serde_json::json!({
        "check": check.check, "line": check.line, "passed": check.passed, "pairs": check.pairs,
        "probed": check.probed, "failed": check.failed, "failures": check.failures,
        "rtt_us_median": check.rtt_us_median,
    })
}
