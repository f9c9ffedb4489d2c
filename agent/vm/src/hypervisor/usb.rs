//! USB devices of a running QEMU: a camera on a port of this host (`usb-host`), or one that speaks usbredir over a stream
//! (`usb-redir`). All of it is a conversation with the monitor; QEMU opens nothing by itself.
//!
//! - A device node of the host is given as a descriptor of a set (`add-fd`), which QEMU opens as `/dev/fdset/N`. The device
//!   then has a copy of it, so the set is given back in the same conversation.
//! - A stream is given under a name (`getfd`), from which `chardev-add` makes a character device of the same id.
//!   `device_del` of a `usb-redir` deletes that as well.
//! - QEMU gives a device no port when all are taken, and puts a hub (USB 1) between where it can: so the port is chosen here.
//! - All names of ours begin with [`PREFIX`], so that a later agent, or the next attempt, finds what is left of an earlier one.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::MONITOR_SOCKET;
use super::qemu::Qemu;
use super::qmp::{self, Qmp, QmpError};
use crate::error::VmError;
use crate::paths::VmPaths;

/// Ports of the controller for each of USB 2 and 3, as many as `qemu-xhci` can have. A device fits any of them.
pub(super) const PORTS: u8 = 15;

/// The controller's name; its bus is the same with ".0".
pub(super) const CONTROLLER: &str = "usb";

/// Begins the names of our devices, character devices and descriptors in QEMU.
const PREFIX: &str = "camera-";

/// Where QEMU lists the devices that have a name.
const PERIPHERAL: &str = "/machine/peripheral";

/// The USB devices of a VM that has a controller. Ids are the caller's.
#[async_trait]
pub trait UsbBus: Send + Sync {
    /// How many devices it takes.
    fn ports(&self) -> u8;

    /// Makes a device of a device node of the host that is open for reading and writing; what has this id is replaced.
    /// False: no port is free.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or refuses.
    async fn plug_host(
        &self,
        paths: &VmPaths,
        id: &str,
        node: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<bool, VmError>;

    /// Makes a device of what speaks usbredir at the other end of this stream, if the filter lets it in; what has this id is
    /// replaced. False: no port is free.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or refuses.
    async fn plug_redir(
        &self,
        paths: &VmPaths,
        id: &str,
        filter: &str,
        stream: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<bool, VmError>;

    /// Whether the device is on the bus; false when there is none of this id.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or refuses.
    async fn attached(&self, paths: &VmPaths, id: &str, deadline: Duration) -> Result<bool, VmError>;

    /// Removes a device and all that was given for it; it is no error when there is none.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or refuses.
    async fn unplug(&self, paths: &VmPaths, id: &str, deadline: Duration) -> Result<(), VmError>;

    /// Ids of the devices that there are.
    ///
    /// # Errors
    /// When the monitor does not answer within the deadline, or refuses.
    async fn devices(&self, paths: &VmPaths, deadline: Duration) -> Result<Vec<String>, VmError>;
}

#[async_trait]
impl UsbBus for Qemu {
    fn ports(&self) -> u8 {
        PORTS
    }

    async fn plug_host(
        &self,
        paths: &VmPaths,
        id: &str,
        node: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<bool, VmError> {
        let name = encode(id);
        qmp::converse(&paths.socket(MONITOR_SOCKET)?, "device_add usb-host", deadline, async |qmp| {
            remove(qmp, &name).await?;
            let Some(port) = free_port(qmp).await? else { return Ok(false) };
            let set = qmp.add_fd(node, &name).await?;
            let device = json!({
                "driver": "usb-host", "id": name, "bus": bus(), "port": port, "hostdevice": format!("/dev/fdset/{set}"),
            });
            let added = qmp.execute("device_add", Some(device)).await;
            qmp.execute("remove-fd", Some(json!({ "fdset-id": set }))).await?;
            added.map(|_| true)
        })
        .await
    }

    async fn plug_redir(
        &self,
        paths: &VmPaths,
        id: &str,
        filter: &str,
        stream: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<bool, VmError> {
        let name = encode(id);
        qmp::converse(&paths.socket(MONITOR_SOCKET)?, "device_add usb-redir", deadline, async |qmp| {
            remove(qmp, &name).await?;
            let Some(port) = free_port(qmp).await? else { return Ok(false) };
            qmp.give(stream, &name).await?;
            let address = json!({ "type": "fd", "data": { "str": name } });
            let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
            qmp.execute("chardev-add", Some(json!({ "id": name, "backend": backend }))).await?;
            let device = json!({
                "driver": "usb-redir", "id": name, "bus": bus(), "port": port, "chardev": name, "filter": filter,
            });
            qmp.execute("device_add", Some(device)).await.map(|_| true)
        })
        .await
    }

    async fn attached(&self, paths: &VmPaths, id: &str, deadline: Duration) -> Result<bool, VmError> {
        let name = encode(id);
        qmp::converse(&paths.socket(MONITOR_SOCKET)?, "qom-get attached", deadline, async |qmp| {
            if !names(qmp).await?.contains(&name) {
                return Ok(false);
            }
            Ok(property(qmp, &name, "attached").await?.as_bool().unwrap_or(false))
        })
        .await
    }

    async fn unplug(&self, paths: &VmPaths, id: &str, deadline: Duration) -> Result<(), VmError> {
        let name = encode(id);
        qmp::converse(&paths.socket(MONITOR_SOCKET)?, "device_del", deadline, async |qmp| remove(qmp, &name).await)
            .await
    }

    async fn devices(&self, paths: &VmPaths, deadline: Duration) -> Result<Vec<String>, VmError> {
        let names =
            qmp::converse(&paths.socket(MONITOR_SOCKET)?, "qom-list", deadline, async |qmp| names(qmp).await).await?;
        Ok(names.iter().filter_map(|name| decode(name)).collect())
    }
}

fn bus() -> String {
    format!("{CONTROLLER}.0")
}

/// Names of our devices.
async fn names(qmp: &mut Qmp) -> Result<Vec<String>, QmpError> {
    let listed = qmp.execute("qom-list", Some(json!({ "path": PERIPHERAL }))).await?;
    let named = listed.as_array().into_iter().flatten().filter_map(|each| each.get("name").and_then(Value::as_str));
    Ok(named.filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect())
}

async fn property(qmp: &mut Qmp, name: &str, property: &str) -> Result<Value, QmpError> {
    let path = format!("{PERIPHERAL}/{name}");
    qmp.execute("qom-get", Some(json!({ "path": path, "property": property }))).await
}

/// The first port that none of our devices has; no others have one.
async fn free_port(qmp: &mut Qmp) -> Result<Option<String>, QmpError> {
    let mut taken = Vec::new();
    for name in names(qmp).await? {
        taken.extend(property(qmp, &name, "port").await?.as_str().map(str::to_owned));
    }
    Ok((1..=PORTS).map(|port| port.to_string()).find(|port| !taken.contains(port)))
}

/// Removes a device and what an attempt that was broken off may have left.
async fn remove(qmp: &mut Qmp, name: &str) -> Result<(), QmpError> {
    if names(qmp).await?.iter().any(|there| there == name) {
        // A device with parts tells of each of them, and then of itself.
        let is_gone = |event: &str, data: &Value| {
            event == "DEVICE_DELETED" && data.get("device").and_then(Value::as_str) == Some(name)
        };
        qmp.execute_until("device_del", Some(json!({ "id": name })), is_gone).await?;
    }
    let all = qmp.execute("query-chardev", None).await?;
    let labels = all.as_array().into_iter().flatten().filter_map(|each| each.get("label").and_then(Value::as_str));
    if labels.into_iter().any(|label| label == name) {
        qmp.execute("chardev-remove", Some(json!({ "id": name }))).await?;
    }
    let all = qmp.execute("query-fdsets", None).await?;
    let is_ours = |set: &&Value| {
        let fds = set.get("fds").and_then(Value::as_array).into_iter().flatten();
        fds.into_iter().any(|fd| fd.get("opaque").and_then(Value::as_str) == Some(name))
    };
    for set in all.as_array().into_iter().flatten().filter(is_ours) {
        qmp.execute("remove-fd", Some(json!({ "fdset-id": set.get("fdset-id") }))).await?;
    }
    // There is no list of named descriptors; the usual answer is that there is none of this name.
    match qmp.execute("closefd", Some(json!({ "fdname": name }))).await {
        Err(QmpError::Refused(_)) => Ok(()),
        closed => closed.map(|_| ()),
    }
}

/// A name for QEMU, which takes letters, digits, '-', '.' and '_': any other byte is '_' and two digits.
fn encode(id: &str) -> String {
    let mut name = PREFIX.to_owned();
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => name.push(char::from(byte)),
            byte => name.push_str(&format!("_{byte:02x}")),
        }
    }
    name
}

/// The id that has this name.
fn decode(name: &str) -> Option<String> {
    let mut rest = name.strip_prefix(PREFIX)?.bytes();
    let mut id = Vec::new();
    while let Some(byte) = rest.next() {
        id.push(match byte {
            b'_' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_id_is_a_name_for_qemu_and_comes_back() {
        for id in ["", "a", "04b0:0428:300123", "pci 0/1.2_3", "Ünï", "_00"] {
            let name = encode(id);
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)), "{name}");
            assert_eq!(decode(&name).as_deref(), Some(id), "{name}");
        }
        for other in ["usb", "camera", "camera-_", "camera-_g0", "camera-_ff"] {
            assert_eq!(decode(other), None, "{other}");
        }
    }
}
