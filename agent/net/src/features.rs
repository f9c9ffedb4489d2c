//! What the kernel has of what networks can need beyond the basics, found out by asking for it in a namespace that is
//! gone with the asking thread.

use std::io;
use std::thread;
use std::time::Duration;

use futures::StreamExt;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{
    Handle, LinkVxlan,
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcHandle, TcMessage},
    },
};

/// Longest wait for one answer: the kernel may load a module first.
const DEADLINE: Duration = Duration::from_secs(10);
/// The loopback device of a new namespace.
const LOOPBACK: i32 = 1;

/// Names of what is there: "vxlan" (segments over hosts), "netem" (shaped links). Blocks for some milliseconds, longer
/// when the kernel loads modules.
pub fn kernel_features() -> Vec<&'static str> {
    // A thread of its own: it stays in the namespace that it makes.
    thread::scope(|scope| {
        let asking = thread::Builder::new().name("net-features".into()).spawn_scoped(scope, ask);
        asking.ok().and_then(|thread| thread.join().ok()).unwrap_or_default()
    })
}

fn ask() -> Vec<&'static str> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(()), Ok(runtime)) = (unshare(CloneFlags::CLONE_NEWNET), runtime) else { return Vec::new() };
    runtime.block_on(async {
        let Ok((connection, handle, _unsolicited)) = rtnetlink::new_connection() else { return Vec::new() };
        let connection = tokio::spawn(connection);
        let vxlan = RouteNetlinkMessage::NewLink(LinkVxlan::new("probe", 1).build());
        let mut netem = TcMessage::with_index(LOOPBACK);
        netem.header.parent = TcHandle::ROOT;
        netem.attributes.push(TcAttribute::Kind("netem".into()));
        let netem = RouteNetlinkMessage::NewQueueDiscipline(netem);
        let mut features = Vec::new();
        if answer(&handle, vxlan).await.is_ok() {
            features.push("vxlan");
        }
        // Without its settings netem is refused as invalid (`netem_init`), but only where it is known at all; an
        // unknown kind is ENOENT (`qdisc_create`).
        match answer(&handle, netem).await {
            Ok(()) => features.push("netem"),
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => features.push("netem"),
            Err(_) => {}
        }
        connection.abort();
        features
    })
}

/// The kernel's answer to one request.
async fn answer(handle: &Handle, message: RouteNetlinkMessage) -> io::Result<()> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut answers = handle.clone().request(request).map_err(io::Error::other)?;
    // A connection ends the answers of a request that went well.
    match tokio::time::timeout(DEADLINE, answers.next()).await {
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
        Ok(Some(NetlinkMessage { payload: NetlinkPayload::Error(error), .. })) if error.code.is_some() => {
            Err(error.to_io())
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_is_what_asking_it_by_name_finds() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let features = kernel_features();
        // Asked twice, the same answer; and only names that others know.
        assert_eq!(features, kernel_features());
        assert!(features.iter().all(|feature| ["vxlan", "netem"].contains(feature)), "{features:?}");
        // Nothing of it is in the caller's namespace.
        let links = std::fs::read_to_string("/proc/self/net/dev").unwrap();
        assert!(!links.contains("probe:"), "{links}");
    }
}
