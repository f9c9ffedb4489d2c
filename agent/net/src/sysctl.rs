//! Settings of a namespace under `/proc/sys/net`.
//!
//! What these files show depends on the namespace of the thread that opens them, so everything here must run on a
//! thread that has entered the namespace; the host's own settings are out of reach from there. They are set before
//! any device exists, for a device takes its values from `default` when it is born.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{error::NetError, state::Place};

/// One file below `/proc/sys/net` and the value it must hold.
type Setting = (&'static str, &'static str);

/// For bridges and routers alike.
const COMMON: &[Setting] = &[
    // Neither the plan nor the guests' addresses use IPv6; a thousand ports with duplicate address detection, router
    // solicitations and MLD reports cost more than all the rest (41 s against 2 s until 1000 guests answer).
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
];

/// A switch forwards frames, never packets. The host's forwarding is inherited by new namespaces, hence the zero.
const SWITCH: &[Setting] = &[
    ("ipv4/ip_forward", "0"),
    // br_netfilter would push every bridged frame through iptables and drop malformed packets.
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
];

/// A router forwards, and does it like a router out of the box: asymmetric paths are allowed (no reverse path filter)
/// and nobody is told of better ways (no redirects, which would bypass the routes that the file declares).
const ROUTER: &[Setting] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

/// Sets what differs in the namespace that the calling thread is in; returns whether anything did.
pub(crate) fn apply(place: &Place) -> Result<bool, NetError> {
    let mut changed = false;
    for (file, value) in differing(place)? {
        fs::write(&file, value).map_err(NetError::path("write", &file))?;
        changed = true;
    }
    Ok(changed)
}

/// The settings that differ in the namespace that the calling thread is in.
pub(crate) fn differing(place: &Place) -> Result<Vec<(PathBuf, &'static str)>, NetError> {
    let own = match place {
        Place::Switch => SWITCH,
        Place::Router(_) => ROUTER,
    };
    let mut differing = Vec::new();
    for (name, value) in COMMON.iter().chain(own) {
        let file = Path::new("/proc/sys/net").join(name);
        match fs::read_to_string(&file) {
            Ok(now) if now.trim() == *value => {}
            Ok(_) => differing.push((file, *value)),
            // The kernel has no IPv6, or br_netfilter is not loaded: there is nothing to turn off.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(NetError::path("read", file)(error)),
        }
    }
    Ok(differing)
}

/// Whether the namespace that the calling thread is in forwards packets.
pub(crate) fn forwards() -> Result<bool, NetError> {
    let file = "/proc/sys/net/ipv4/ip_forward";
    let now = fs::read_to_string(file).map_err(NetError::path("read", file))?;
    Ok(now.trim() == "1")
}
