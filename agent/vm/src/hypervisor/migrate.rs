//! Freezing a QEMU machine to a file, and letting another process go on from it: QEMU's migration, with the file in the
//! place of another host. RAM is not part of it (`x-ignore-shared`): it is a file that both processes map.
//!
//! QEMU 7.2 migrates to a descriptor (`fd:`) that was given over the monitor, and from one that the process was born
//! with, so nothing is forked.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::qmp::{self, QmpError};
use crate::error::VmError;

/// What the monitor calls the file's descriptor.
const NAME: &str = "state";

/// Stops the guest and writes the state of its devices.
pub(super) async fn freeze(monitor: &Path, state: &File, deadline: Duration) -> Result<(), VmError> {
    qmp::converse(monitor, "freeze", deadline, async |qmp| {
        qmp.execute("stop", None).await?;
        qmp.execute("migrate-set-capabilities", Some(capabilities(&["x-ignore-shared", "events"]))).await?;
        qmp.give(state, NAME).await?;
        // Its answer comes before or between the events.
        qmp.send("migrate", Some(json!({ "uri": format!("fd:{NAME}") }))).await?;
        let ended = qmp.event(|name, data| match (name, data.get("status").and_then(Value::as_str)) {
            ("MIGRATION", Some("completed")) => Some(Ok(())),
            ("MIGRATION", Some(bad @ ("failed" | "cancelled"))) => Some(Err(bad.to_owned())),
            _ => None,
        });
        ended.await?.map_err(|bad| QmpError::Refused(format!("writing the devices' state has {bad}")))
    })
    .await
}

/// Lets a process that was started with `-incoming defer` read the state from its descriptor and go on. All is said at
/// once, and QEMU says when the guest runs; when the state does not fit, QEMU says so in its log and ends.
pub(super) async fn thaw(monitor: &Path, state: i32, deadline: Duration) -> Result<(), VmError> {
    qmp::converse(monitor, "thaw", deadline, async |qmp| {
        qmp.send("migrate-set-capabilities", Some(capabilities(&["x-ignore-shared"]))).await?;
        qmp.send("migrate-incoming", Some(json!({ "uri": format!("fd:{state}") }))).await?;
        qmp.event(|name, _| (name == "RESUME").then_some(())).await
    })
    .await
}

/// Writes the state of the devices of a guest that stands still. The command is Xen's, for which QEMU runs no memory of its
/// own; it leaves out the RAM. QEMU may not open files; `file` is one that is open for writing only, as QEMU would open it.
///
/// What waits in the control channel's socket QEMU puts into the guest's memory also now. It looks at all of its sockets in
/// each round of its main loop, and at this monitor in the same rounds: when two questions were answered, all that was
/// there before the first is in memory, or stays in the socket for lack of room.
pub(super) async fn save(monitor: &Path, file: &File, deadline: Duration) -> Result<(), VmError> {
    qmp::converse(monitor, "save", deadline, async |qmp| {
        for _ in 0..2 {
            qmp.execute("query-status", None).await?;
        }
        let set = qmp.add_fd(file, NAME).await?;
        let arguments = json!({ "filename": format!("/dev/fdset/{set}"), "live": true });
        let saved = qmp.execute("xen-save-devices-state", Some(arguments)).await;
        qmp.execute("remove-fd", Some(json!({ "fdset-id": set }))).await?;
        saved.map(|_| ())
    })
    .await
}

/// The version of QEMU that runs.
pub(super) async fn version(monitor: &Path, deadline: Duration) -> Result<String, VmError> {
    qmp::converse(monitor, "query-version", deadline, async |qmp| {
        let said = qmp.execute("query-version", None).await?;
        let number = |name: &str| said.get("qemu").and_then(|qemu| qemu.get(name)).and_then(Value::as_u64);
        match (number("major"), number("minor"), number("micro")) {
            (Some(major), Some(minor), Some(micro)) => Ok(format!("{major}.{minor}.{micro}")),
            _ => Err(QmpError::Refused(format!("no version in \"{said}\""))),
        }
    })
    .await
}

/// Gives the devices of a process that was started with `-incoming defer` their state, and lets the guest go on. What
/// [`save`] wrote is a migration that has neither RAM nor a description of its settings (`send-configuration=off`).
pub(super) async fn load(monitor: &Path, file: &File, deadline: Duration) -> Result<(), VmError> {
    qmp::converse(monitor, "load", deadline, async |qmp| {
        qmp.give(file, NAME).await?;
        qmp.send("migrate-incoming", Some(json!({ "uri": format!("fd:{NAME}") }))).await?;
        qmp.event(|name, _| (name == "RESUME").then_some(())).await
    })
    .await
}

/// Where the RAM begins in QEMU's address space.
pub(super) async fn ram_address(monitor: &Path, deadline: Duration) -> Result<u64, VmError> {
    let arguments = json!({ "command-line": "gpa2hva 0x0" });
    qmp::converse(monitor, "gpa2hva", deadline, async |qmp| {
        let said = qmp.execute("human-monitor-command", Some(arguments)).await?;
        let said = said.as_str().unwrap_or_default().trim();
        let address = said.rsplit_once(" is 0x").and_then(|(_, digits)| u64::from_str_radix(digits, 16).ok());
        address.ok_or_else(|| QmpError::Refused(format!("no address in \"{said}\"")))
    })
    .await
}

fn capabilities(names: &[&str]) -> Value {
    let on: Vec<Value> = names.iter().map(|name| json!({ "capability": name, "state": true })).collect();
    json!({ "capabilities": on })
}
