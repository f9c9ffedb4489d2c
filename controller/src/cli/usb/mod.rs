//! `fleet usb ls|watch|attach|detach`: cameras on hosts' USB ports, and the VMs that have them.

mod watch;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use fleet_proto::v1::{
    AttachCameraRequest, Camera, CameraOutcome, CameraState, CameraView, CamerasRequest, DetachCameraRequest,
    ListRequest,
};
use indicatif::ProgressBar;

use super::connect::{self, Start};
use super::output::{self, Table};
use super::telemetry::span;
use super::up::new_op;
use super::{Context, Exit, Failure};
use crate::daemon::{short_port, state_word};

/// Helps of the arguments for which completions ask for names.
pub const NAMED: [&str; 3] = ["The camera; with --any the VM", "The VM that is to have it", "The camera, or the VM"];

/// VMs that completions offer at most.
const OFFERED: usize = 1000;

const ATTACH_HELP: &str = "\
CAMERA is a serial number, a model or a word of it, VENDOR:PRODUCT, HOST:PORT, or HOST:IDENTITY as `ls --json` has it.

Examples:
  fleet usb attach D7000 cams.viewer              a camera by a word of its name
  fleet usb attach 3064102 'cams.viewer[0]'       by its serial number
  fleet usb attach h3:1.4 viewer --steal          what is on port 1.4 of h3, whoever has it
  fleet usb attach --any ptp viewer               some free camera, of the VM's host if it has one";

const DETACH_HELP: &str = "\
Examples:
  fleet usb detach 3064102                        one camera: it is free then
  fleet usb detach cams.viewer                    all that a VM has
  fleet usb detach D7000 --hold                   out of its VM, but kept for it: for the menu of the camera;
                                                  `fleet usb attach D7000 viewer` brings it back";

/// How long the table may be wide: what is longer is told below it.
const DETAIL: usize = 100;

#[derive(Args, Debug)]
pub struct UsbArgs {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the cameras of all hosts, and who has them
    Ls(LsArgs),
    /// Show how cameras are, and each change as it happens
    Watch,
    /// Lend a camera to a VM, and bring it there
    #[command(
        override_usage = "fleet usb attach CAMERA VM [OPTIONS]\n       fleet usb attach --any CLASS VM [OPTIONS]",
        after_help = ATTACH_HELP
    )]
    Attach(AttachArgs),
    /// Take a camera out of its VM, or all that a VM has
    #[command(after_help = DETACH_HELP)]
    Detach(DetachArgs),
    /// Print the names of cameras and VMs, for completions
    #[command(hide = true)]
    Words,
}

#[derive(Args, Debug)]
pub struct LsArgs {
    /// Also cameras that are not plugged in and lent to nobody
    #[arg(short, long)]
    pub all: bool,
}

#[derive(Args, Debug)]
pub struct AttachArgs {
    #[arg(help = NAMED[0], value_name = "CAMERA")]
    pub first: String,
    #[arg(help = NAMED[1], value_name = "VM")]
    pub vm: Option<String>,
    /// Some free camera of this class
    #[arg(long, value_name = "CLASS", value_parser = ["ptp", "uvc", "mass-storage", "camera"])]
    pub any: Option<String>,
    /// Take it from the VM that has it
    #[arg(long, conflicts_with = "any")]
    pub steal: bool,
    /// Give up after this time: 90s, 2m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = span)]
    pub timeout: u64,
}

#[derive(Args, Debug)]
pub struct DetachArgs {
    #[arg(help = NAMED[2], value_name = "CAMERA|VM")]
    pub target: String,
    /// Keep it for its VM, and out of it, until it is attached again
    #[arg(long)]
    pub hold: bool,
}

pub async fn usb(context: &Context, args: &UsbArgs) -> Result<Exit, Failure> {
    match &args.verb {
        Verb::Ls(args) => ls(context, args).await,
        Verb::Watch => watch::watch(context).await,
        Verb::Attach(args) => attach(context, args).await,
        Verb::Detach(args) => detach(context, args).await,
        Verb::Words => Ok(words(context).await.unwrap_or(Exit::Ok)),
    }
}

/// Names for completions, one a line. A shell has no use for errors.
async fn words(context: &Context) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::Never).await?;
    let cameras = client.cameras(CamerasRequest {}).await?.into_inner().cameras;
    for camera in cameras.into_iter().filter_map(|view| view.camera) {
        output::say!("{}", serial(&camera));
    }
    let mut listed = client.ps(ListRequest::default()).await?.into_inner();
    let mut offered = 0;
    while let Some(chunk) = listed.message().await? {
        for vm in chunk.vms.iter().take(OFFERED - offered) {
            output::say!("{}.{}", vm.experiment, vm.name);
            offered += 1;
        }
        if offered == OFFERED {
            break;
        }
    }
    Ok(Exit::Ok)
}

async fn ls(context: &Context, args: &LsArgs) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUsed).await?;
    let all = client.cameras(CamerasRequest {}).await?.into_inner();
    connect::end_if_idle(&mut client).await;
    if context.json {
        output::json(&serde_json::json!({
            "cameras": all.cameras.iter().map(view_json).collect::<Vec<_>>(), "unknown_hosts": all.unknown_hosts,
        }));
        return Ok(Exit::Ok);
    }
    let is_shown = |view: &&CameraView| args.all || view.state() != CameraState::Absent;
    let shown: Vec<&CameraView> = all.cameras.iter().filter(is_shown).collect();
    if !shown.is_empty() {
        let mut table = Table::new(&["CAMERA", "SERIAL", "HOST:PORT", "STATE", "VM"]);
        for view in &shown {
            let camera = view.camera.clone().unwrap_or_default();
            table.row(vec![
                name(&camera),
                serial(&camera),
                place(&camera),
                colored(view.state(), context.color),
                holder(view),
            ]);
        }
        table.print();
    }
    for line in details(&shown) {
        output::say!("{line}");
    }
    let hidden = all.cameras.len() - shown.len();
    if shown.is_empty() && hidden == 0 {
        output::say!("no cameras; `fleet usb watch` shows when one is plugged in");
    }
    if hidden > 0 {
        eprintln!("fleet: {} not plugged in; --all lists them", output::plural(hidden as u64, "camera"));
    }
    tell_silent(&all.unknown_hosts);
    Ok(Exit::Ok)
}

fn tell_silent(hosts: &[String]) {
    if !hosts.is_empty() {
        let does = if hosts.len() == 1 { "does" } else { "do" };
        eprintln!(
            "fleet: {} {does} not answer; cameras there that are lent to nobody are not listed",
            hosts.join(", ")
        );
    }
}

/// What stands in the way, or is to be known, of cameras: a block below the table.
fn details(views: &[&CameraView]) -> Vec<String> {
    let told = views.iter().filter(|view| !view.detail.is_empty());
    let lines = told.map(|view| {
        let camera = view.camera.clone().unwrap_or_default();
        let text = format!("{} {}: {}: {}", name(&camera), serial(&camera), state_word(view.state()), view.detail);
        if text.len() > DETAIL { output::wrap(&text) } else { text }
    });
    let mut lines: Vec<String> = lines.collect();
    if !lines.is_empty() {
        lines.insert(0, String::new());
    }
    lines
}

fn name(camera: &Camera) -> String {
    match (camera.model.as_str(), camera.usb_id.as_str()) {
        ("", "") => "?".to_owned(),
        ("", usb_id) => usb_id.to_owned(),
        (model, _) => model.to_owned(),
    }
}

/// Its serial number, or what its identity has in place of one.
fn serial(camera: &Camera) -> String {
    if camera.serial.is_empty() { camera.id.clone() } else { camera.serial.clone() }
}

fn place(camera: &Camera) -> String {
    match camera.port.as_str() {
        "" => camera.host.clone(),
        port => format!("{}:{}", camera.host, short_port(port)),
    }
}

fn holder(view: &CameraView) -> String {
    view.lease.as_ref().map(|lease| format!("{}.{}", lease.experiment, lease.vm)).unwrap_or_default()
}

/// Green for what is well, red for what needs a hand, yellow for what is on its way.
fn colored(state: CameraState, color: bool) -> String {
    let word = state_word(state);
    if !color {
        return word.to_owned();
    }
    let code = match state {
        CameraState::Attached | CameraState::Available => "32",
        CameraState::Absent | CameraState::Held => "2",
        CameraState::Attaching | CameraState::Reattaching | CameraState::Detaching | CameraState::Leased => "33",
        _ => "31",
    };
    format!("\x1b[{code}m{word}\x1b[0m")
}

fn view_json(view: &CameraView) -> serde_json::Value {
    let camera = view.camera.clone().unwrap_or_default();
    let lease = view.lease.as_ref().map(|lease| {
        serde_json::json!({
            "experiment": lease.experiment, "vm": lease.vm, "vm_host": lease.vm_host, "epoch": lease.epoch,
            "persona": lease.persona, "since_ms": lease.since_ms, "to_guest_bytes": lease.to_guest_bytes,
            "from_guest_bytes": lease.from_guest_bytes,
        })
    });
    serde_json::json!({
        "host": camera.host, "id": camera.id, "usb_id": camera.usb_id, "serial": camera.serial,
        "manufacturer": camera.manufacturer, "model": camera.model, "persona": camera.persona,
        "personas": camera.personas, "port": camera.port, "speed": camera.speed, "present": camera.present,
        "redirected": camera.redirected, "state": state_word(view.state()).replace(' ', "-"), "detail": view.detail,
        "lease": lease,
    })
}

async fn attach(context: &Context, args: &AttachArgs) -> Result<Exit, Failure> {
    let (camera, vm) = match (&args.vm, &args.any) {
        (Some(vm), None) => (args.first.clone(), vm.clone()),
        (None, Some(_)) => (String::new(), args.first.clone()),
        (None, None) => {
            return Err(Failure::usage("which VM is to have the camera?")
                .help("`fleet usb attach CAMERA VM`, or `--any ptp VM` for some free camera"));
        }
        (Some(_), Some(_)) => {
            return Err(
                Failure::usage("`--any` takes a free camera; do not name one").help("`fleet usb attach --any ptp VM`")
            );
        }
    };
    let mut client = connect::connect(context, Start::IfUp).await?;
    let request = AttachCameraRequest {
        op: Some(new_op()),
        camera: camera.clone(),
        any: args.any.clone().unwrap_or_default(),
        vm: vm.clone(),
        steal: args.steal,
        timeout_ms: u32::try_from(args.timeout).unwrap_or(u32::MAX),
    };
    let what = if camera.is_empty() { "a camera" } else { &camera };
    let begun = Instant::now();
    let spinner = spinner(context, format!("attach {what} to {vm}"));
    let outcome = client.attach_camera(request).await;
    drop(spinner);
    let outcome = outcome?.into_inner();
    finish(context, "attached", &camera, &outcome, begun.elapsed(), |view| format!("to {}", holder(view)))
}

async fn detach(context: &Context, args: &DetachArgs) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUp).await?;
    let request = DetachCameraRequest { op: Some(new_op()), camera: args.target.clone(), hold: args.hold };
    let begun = Instant::now();
    let spinner = spinner(context, format!("detach {}", args.target));
    let outcome = client.detach_camera(request).await;
    drop(spinner);
    let outcome = outcome?.into_inner();
    let done = if args.hold { "held" } else { "detached" };
    finish(context, done, &args.target, &outcome, begun.elapsed(), |view| match holder(view).as_str() {
        "" => String::new(),
        vm => format!("for {vm}"),
    })
}

/// Says what was done.
fn finish(
    context: &Context,
    done: &str,
    word: &str,
    outcome: &CameraOutcome,
    took: Duration,
    whose: impl Fn(&CameraView) -> String,
) -> Result<Exit, Failure> {
    if !outcome.candidates.is_empty() {
        let several = format!("`{word}` is {} cameras; nothing was done", outcome.candidates.len());
        return Err(Failure::usage(several).help(format!("say which:\n    {}", outcome.candidates.join("\n    "))));
    }
    let elapsed_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if context.json {
        output::json(&serde_json::json!({
            "action": done, "already_so": outcome.already_so, "elapsed_ms": elapsed_ms, "notes": outcome.notes,
            "cameras": outcome.cameras.iter().map(view_json).collect::<Vec<_>>(),
        }));
        return Ok(Exit::Ok);
    }
    let done = if outcome.already_so { "already so" } else { done };
    for view in &outcome.cameras {
        let camera = view.camera.clone().unwrap_or_default();
        let called = format!("{} {} on {}", name(&camera), serial(&camera), place(&camera));
        let words = [done.to_owned() + ":", called, whose(view)].into_iter().filter(|word| !word.is_empty());
        let words = words.collect::<Vec<_>>().join(" ");
        if outcome.already_so {
            output::say!("{words}")
        } else {
            output::say!("{words}, in {}", output::duration(elapsed_ms))
        }
    }
    if outcome.cameras.is_empty() {
        output::say!("already so: {word} has no camera");
    }
    outcome.notes.iter().for_each(|note| eprintln!("fleet: {note}"));
    Ok(Exit::Ok)
}

/// A live line while something is waited for; it goes away with what is given back.
struct Spinner(Option<ProgressBar>);

fn spinner(context: &Context, text: String) -> Spinner {
    let bar = (!context.json && std::io::stderr().is_terminal()).then(ProgressBar::new_spinner);
    if let Some(bar) = &bar {
        bar.set_message(text);
        bar.enable_steady_tick(Duration::from_millis(120));
    }
    Spinner(bar)
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn view(id: &str, state: CameraState, detail: &str) -> CameraView {
        let camera = Camera {
            host: "h1".into(),
            id: id.into(),
            model: "NIKON DSC D7000".into(),
            port: "0000:00:14.0/1.4".into(),
            ..Camera::default()
        };
        CameraView { camera: Some(camera), lease: None, state: state.into(), detail: detail.into() }
    }

    #[test]
    fn what_stands_in_the_way_is_told_below_the_table() {
        let busy = view("a", CameraState::Busy, "gvfsd (812) has it open");
        let free = view("b", CameraState::Available, "");
        let lines = details(&[&busy, &free]);
        assert_eq!(lines, ["", "NIKON DSC D7000 a: busy: gvfsd (812) has it open"]);
        assert_eq!(place(&busy.camera.clone().unwrap_or_default()), "h1:00:14.0/1.4");
    }
}
