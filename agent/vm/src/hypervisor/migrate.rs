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

fn capabilities(names: &[&str]) -> Value {
    let on: Vec<Value> = names.iter().map(|name| json!({ "capability": name, "state": true })).collect();
    json!({ "capabilities": on })
}
