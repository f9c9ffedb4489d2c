//! `fleet doctor`: what works on this host, what is missing, and how to have it.

use clap::Args;
use fleet_proto::v1::StatusRequest;
use fleet_vm::hypervisor::SMALL_PROGRAM;
use fleet_vm::probe::Verdict;

use super::connect::{self, Start};
use super::output;
use super::{Context, Exit, Failure, image};

#[derive(Args, Debug)]
pub struct DoctorArgs {}

/// Characters of a finding that are shown.
const SHOWN: usize = 110;

/// How a finding is to be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grade {
    Good,
    /// Works without it, but less well.
    Weak,
    /// Nothing runs without it.
    Bad,
}

struct Finding {
    what: &'static str,
    grade: Grade,
    detail: String,
}

pub async fn doctor(context: &Context, _: &DoctorArgs) -> Result<Exit, Failure> {
    if !context.json {
        eprintln!("fleet: trying what this host can run; this takes some seconds");
    }
    let mut findings = host();
    findings.extend(hypervisors(context).await);
    findings.push(images(context));
    findings.extend(controller(context).await);
    let bad = findings.iter().any(|finding| finding.grade == Grade::Bad);
    if context.json {
        let list: Vec<_> = findings
            .iter()
            .map(|finding| {
                let grade = match finding.grade {
                    Grade::Good => "good",
                    Grade::Weak => "weak",
                    Grade::Bad => "bad",
                };
                serde_json::json!({ "what": finding.what, "grade": grade, "detail": finding.detail })
            })
            .collect();
        output::json(&serde_json::json!({ "ok": !bad, "findings": list }));
    } else {
        for finding in &findings {
            print(context, finding);
        }
    }
    Ok(if bad { Exit::Partial } else { Exit::Ok })
}

fn print(context: &Context, finding: &Finding) {
    let (mark, code) = match finding.grade {
        Grade::Good => ("ok  ", "32"),
        Grade::Weak => ("weak", "33"),
        Grade::Bad => ("BAD ", "31"),
    };
    let mark = if context.color { format!("\x1b[{code}m{mark}\x1b[0m") } else { mark.to_owned() };
    // A hypervisor's last words can be long; `--json` has them all.
    let first = finding.detail.lines().next().unwrap_or_default();
    let cut = first.char_indices().nth(SHOWN).map_or(first.to_owned(), |(at, _)| format!("{}…", &first[..at]));
    output::print(&format!("{mark}  {:16} {cut}\n", finding.what));
}

fn finding(what: &'static str, good: bool, otherwise: Grade, detail: impl Into<String>) -> Finding {
    Finding { what, grade: if good { Grade::Good } else { otherwise }, detail: detail.into() }
}

/// What the kernel offers.
fn host() -> Vec<Finding> {
    let root = nix::unistd::geteuid().is_root();
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroup = mounts.lines().any(|line| line.contains(" - cgroup2 "));
    let pressure = std::path::Path::new("/proc/pressure/memory").exists();
    let ksm = std::path::Path::new("/sys/kernel/mm/ksm/run").exists();
    vec![
        finding("root", root, Grade::Bad, if root { "yes" } else { "no: namespaces and taps need it; use sudo" }),
        match tun {
            Ok(_) => finding("/dev/net/tun", true, Grade::Bad, "opens"),
            Err(error) => {
                finding("/dev/net/tun", false, Grade::Bad, format!("{error}; `modprobe tun` loads the driver"))
            }
        },
        finding(
            "cgroup v2",
            cgroup,
            Grade::Weak,
            if cgroup {
                "mounted"
            } else {
                "not mounted: VMs run without control groups; mount -t cgroup2 none /sys/fs/cgroup"
            },
        ),
        finding(
            "pressure (PSI)",
            pressure,
            Grade::Weak,
            if pressure { "readable" } else { "not in this kernel (boot with psi=1)" },
        ),
        finding(
            "KSM",
            ksm,
            Grade::Weak,
            if ksm { "there; off unless asked for" } else { "not in this kernel (CONFIG_KSM)" },
        ),
    ]
}

async fn hypervisors(context: &Context) -> Vec<Finding> {
    let ram = context.config.ram_dir.parent().unwrap_or(&context.config.ram_dir);
    let report = fleet_vm::probe::probe_host(None, ram).await;
    let choice = report.choose(None, None);
    let entry = |what, verdict: &Verdict| {
        finding(what, verdict.works, Grade::Weak, format!("{} ({} ms)", verdict.detail, verdict.took_ms))
    };
    let mut findings = vec![
        entry("qemu/kvm", &report.kvm),
        entry("uml", &report.uml),
        entry("qemu/tcg", &report.tcg),
        match choice {
            Ok(choice) => {
                finding("default", true, Grade::Bad, format!("VMs run on {} unless their file says otherwise", choice))
            }
            Err(error) => finding("default", false, Grade::Bad, error.to_string()),
        },
    ];
    findings.extend(small_qemu());
    findings
}

/// Whether VMs get the small QEMU; nothing where there is none at all, which is told already.
fn small_qemu() -> Option<Finding> {
    let found = SMALL_PROGRAM.find().ok()?;
    let small = SMALL_PROGRAM.has_best();
    let detail = if small {
        found.display().to_string()
    } else {
        "not there: with it (`make small-qemu`) a clone takes 13 MB, not 21".to_owned()
    };
    Some(finding("small QEMU", small, Grade::Weak, detail))
}

fn images(context: &Context) -> Finding {
    match image::names(&context.config) {
        Ok(names) if names.is_empty() => finding(
            "images",
            false,
            Grade::Weak,
            "none yet; `fleet image build tiny` builds one, `fleet up` does it by itself",
        ),
        Ok(names) => finding("images", true, Grade::Weak, names.join(" ")),
        Err(failure) => finding("images", false, Grade::Bad, failure.message),
    }
}

async fn controller(context: &Context) -> Vec<Finding> {
    let Ok(mut client) = connect::connect(context, Start::Never).await else {
        return vec![finding("controller", true, Grade::Weak, "none runs; `fleet up` starts one")];
    };
    match client.status(StatusRequest {}).await {
        Err(status) => vec![finding("controller", false, Grade::Bad, status.message())],
        Ok(status) => {
            let status = status.into_inner();
            let telemetry = status.telemetry.unwrap_or_default();
            let detail = if telemetry.on { telemetry.server.clone() } else { telemetry.reason.clone() };
            vec![
                finding("controller", true, Grade::Weak, format!("pid {} serves", status.pid)),
                finding("telemetry", telemetry.on && telemetry.connected, Grade::Weak, detail),
                match status.metrics_address.as_str() {
                    "" => finding("metrics", false, Grade::Weak, "not served; set `metrics_address` to a free one"),
                    address => finding("metrics", true, Grade::Weak, format!("http://{address}/metrics")),
                },
            ]
        }
    }
}
