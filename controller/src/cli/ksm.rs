//! `fleet ksm`: what merging of equal memory pages saves and costs, and why it goes as quickly as it does.

use std::time::Duration;

use clap::Args;
use fleet_proto::v1::{KsmHost, KsmRequest, KsmSetting};

use super::connect::{self, Client, Start};
use super::output::{self, Table};
use super::{Context, Exit, Failure};

/// Between two answers of `--watch`.
const WATCH: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
pub struct KsmArgs {
    /// Also show what would be set if a wave of boots ended now; nothing is changed
    #[arg(long)]
    pub dry_run: bool,
    /// Show it again every two seconds, until interrupted
    #[arg(long)]
    pub watch: bool,
}

pub async fn ksm(context: &Context, args: &KsmArgs) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUp).await?;
    loop {
        show(context, args, &mut client).await?;
        if !args.watch {
            break;
        }
        tokio::time::sleep(WATCH).await;
        if !context.json {
            output::say!();
        }
    }
    connect::end_if_idle(&mut client).await;
    Ok(Exit::Ok)
}

async fn show(context: &Context, args: &KsmArgs, client: &mut Client) -> Result<(), Failure> {
    let reply = client.ksm(KsmRequest { dry_run: args.dry_run }).await?.into_inner();
    if context.json {
        output::json(&serde_json::json!({ "hosts": reply.hosts.iter().map(host_json).collect::<Vec<_>>() }));
    } else {
        reply.hosts.iter().for_each(print);
    }
    Ok(())
}

fn print(host: &KsmHost) {
    output::say!("{}: {}: {}", host.host, host.phase, host.reason);
    if !host.problem.is_empty() {
        output::say!("  problem: {}", host.problem);
    }
    let each = if host.vms > 0 {
        format!(", {} a VM", output::bytes(host.saved_bytes / u64::from(host.vms)))
    } else {
        String::new()
    };
    output::say!(
        "  gain: {} saved{each} ({} may be merged, `{}`)",
        output::bytes(host.saved_bytes),
        output::plural(host.vms, "VM"),
        host.mode
    );
    let now =
        host.cpu_percent.map_or_else(|| "not known here".to_owned(), |percent| format!("{percent:.2} % of a core"));
    let since = host.cpu_ms.map_or_else(String::new, |ms| format!(", {:.1} s since it began", ms as f64 / 1000.0));
    output::say!("  cost: ksmd takes {now}{since}; it is given {:.2} %", host.share_percent);
    output::say!(
        "  memory: {} of {} available; {} pages volatile, {} like no other",
        output::bytes(host.memory_available),
        output::bytes(host.memory_total),
        host.pages_volatile,
        host.pages_unshared
    );
    if !host.would.is_empty() {
        output::say!("  after a wave of boots: {}", host.would);
    }
    for group in &host.groups {
        let profit = u64::try_from(group.profit_bytes).unwrap_or(0);
        output::say!(
            "  {}.{}: {} saved in {}, {} each",
            group.experiment,
            group.group,
            output::bytes(profit),
            output::plural(group.vms, "VM"),
            output::bytes(profit / u64::from(group.vms.max(1)))
        );
    }
    let dry = host.settings.iter().any(|setting| setting.would.is_some());
    let mut table = if dry {
        Table::new(&["SETTING", "NOW", "FOUND", "WOULD BE"])
    } else {
        Table::new(&["SETTING", "NOW", "FOUND"])
    };
    for setting in &host.settings {
        let mut row = vec![setting.name.clone(), value(setting, Some(setting.now)), value(setting, setting.found)];
        if dry {
            row.push(value(setting, setting.would.filter(|would| *would != setting.now)));
        }
        table.row(row);
    }
    table.print();
}

/// A setting as its file shows it; nothing for one that was not changed.
fn value(setting: &KsmSetting, value: Option<u64>) -> String {
    match (setting.name.as_str(), value) {
        (_, None) => "-".to_owned(),
        ("advisor_mode", Some(0)) => "none".to_owned(),
        ("advisor_mode", Some(_)) => "scan-time".to_owned(),
        (_, Some(value)) => value.to_string(),
    }
}

fn host_json(host: &KsmHost) -> serde_json::Value {
    serde_json::json!({
        "host": host.host, "phase": host.phase, "reason": host.reason, "problem": host.problem, "mode": host.mode,
        "vms": host.vms, "saved_bytes": host.saved_bytes, "share_percent": host.share_percent,
        "cpu_percent": host.cpu_percent, "cpu_ms": host.cpu_ms, "pages_shared": host.pages_shared,
        "pages_sharing": host.pages_sharing, "pages_unshared": host.pages_unshared,
        "pages_volatile": host.pages_volatile, "pages_zero": host.pages_zero, "full_scans": host.full_scans,
        "memory_available": host.memory_available, "memory_total": host.memory_total, "would": host.would,
        "settings": host.settings.iter().map(|setting| serde_json::json!({
            "name": setting.name, "now": setting.now, "found": setting.found, "would": setting.would,
        })).collect::<Vec<_>>(),
        "groups": host.groups.iter().map(|group| serde_json::json!({
            "experiment": group.experiment, "group": group.group, "vms": group.vms, "profit_bytes": group.profit_bytes,
        })).collect::<Vec<_>>(),
    })
}
