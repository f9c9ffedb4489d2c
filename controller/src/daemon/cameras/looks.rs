//! Looks at hosts: which are to be looked at, and what they answer. Hosts that are to be looked at together are asked by
//! one wave. A host is looked at by one wave at a time, so that an older answer never replaces a newer one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fleet_core::host_ends_of;
use fleet_proto::v1::{CamerasReply, Member};
use fleet_usb::lease::CameraId;
use tokio::time::Instant;

use super::{Cameras, locked};

/// A host that did not answer is asked again after this time, as long as it sends its beats.
const AGAIN: Duration = Duration::from_secs(5);
/// How long somebody waits for looks to end.
const WAIT: Duration = Duration::from_secs(15);

/// The looks at one host, by number.
#[derive(Default)]
struct Of {
    asked: u64,
    begun: u64,
    ended: u64,
    /// It did not answer.
    again: Option<Instant>,
}

/// All looks.
#[derive(Default)]
pub struct Looks {
    last: u64,
    hosts: BTreeMap<String, Of>,
}

impl Looks {
    /// A host is to be looked at; gives the number that its look has at least.
    pub fn ask(&mut self, host: &str) -> u64 {
        self.last += 1;
        let of = self.hosts.entry(host.to_owned()).or_default();
        (of.asked, of.again) = (self.last, None);
        self.last
    }

    /// The same for one that never was, or is due again.
    pub fn ask_if_new(&mut self, host: &str) {
        let due = |of: &Of| of.asked == of.ended && of.again.is_none_or(|at| at <= Instant::now());
        if self.hosts.get(host).is_none_or(due) {
            self.ask(host);
        }
    }

    /// A host went away: nobody waits for it.
    pub fn forget(&mut self, host: &str) {
        if let Some(of) = self.hosts.get_mut(host).filter(|of| of.begun == of.ended) {
            (of.ended, of.begun, of.again) = (of.asked, of.asked, None);
        }
    }

    /// Forgets all hosts but these.
    pub fn keep(&mut self, known: &BTreeSet<String>) {
        self.hosts.retain(|host, of| known.contains(host) || of.begun != of.ended);
    }

    /// The hosts that are to be looked at now.
    fn begin(&mut self) -> BTreeSet<String> {
        let due = self.hosts.iter_mut().filter(|(_, of)| of.begun == of.ended && of.asked > of.ended);
        due.map(|(host, of)| {
            of.begun = of.asked;
            host.clone()
        })
        .collect()
    }

    fn end(&mut self, host: &str, answered: bool) {
        if let Some(of) = self.hosts.get_mut(host) {
            of.ended = of.begun;
            of.again = (!answered).then(|| Instant::now() + AGAIN);
        }
    }

    fn is_done(&self, host: &str, number: u64) -> bool {
        self.hosts.get(host).is_none_or(|of| of.ended >= number)
    }

    /// When a host that did not answer is to be asked again.
    pub fn next(&self) -> Option<Instant> {
        self.hosts.values().filter_map(|of| of.again).filter(|at| *at > Instant::now()).min()
    }
}

impl Cameras {
    /// Something of a host's cameras changed.
    pub fn hint(&self, host: &str) {
        locked(&self.looks).ask(host);
        self.woken.notify_one();
    }

    /// Looks at hosts, at all that answer without names, and waits for what they say.
    pub(super) async fn look_at(&self, names: Option<&[&str]>) {
        let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let mut looked = self.looked.subscribe();
        let asked: Vec<(String, u64)> = {
            let members = self.members(names.as_ref());
            let mut looks = locked(&self.looks);
            members.into_iter().map(|member| (member.name.clone(), looks.ask(&member.name))).collect()
        };
        self.woken.notify_one();
        let all_done = async {
            loop {
                let done = |(host, number): &(String, u64)| locked(&self.looks).is_done(host, *number);
                if asked.iter().all(done) || looked.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            // Who has not answered by then is silent.
            _ = tokio::time::timeout(WAIT, all_done) => {}
        }
    }

    /// Begins the looks that are due.
    pub(super) fn begin_looks(self: &Arc<Self>) {
        let due = locked(&self.looks).begin();
        if due.is_empty() {
            return;
        }
        let members = self.members(Some(&due));
        for gone in due.iter().filter(|name| members.iter().all(|member| member.name != **name)) {
            locked(&self.looks).end(gone, true);
        }
        if !members.is_empty() {
            self.tasks.spawn(Arc::clone(self).look(members));
        }
    }

    async fn look(self: Arc<Self>, members: Vec<Member>) {
        let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
        let mut answered = HashSet::new();
        let asking = self.fleet.look_at_cameras(members, |host, said| {
            answered.insert(host.to_owned());
            self.told(host, said);
            self.look_ended(host, true);
        });
        let end = tokio::select! {
            end = asking => end,
            () = self.stop.cancelled() => return,
        };
        // Also one that says it cannot tell now, as an agent that is just beginning: that it has no leases is not said.
        for ended in host_ends_of(names.iter().map(String::as_str), &end) {
            for host in ended.hosts.iter().filter(|host| !answered.contains(*host)) {
                tracing::debug!(host, reason = ended.reason, "a host does not say which cameras it has");
            }
        }
        for host in names.iter().filter(|name| !answered.contains(*name)) {
            locked(&self.picture).silent(host);
            self.look_ended(host, false);
        }
        self.woken.notify_one();
    }

    fn look_ended(&self, host: &str, answered: bool) {
        locked(&self.looks).end(host, answered);
        self.looked.send_modify(|count| *count += 1);
        self.woken.notify_one();
    }

    /// A host has answered.
    fn told(&self, host: &str, said: CamerasReply) {
        let mut picture = locked(&self.picture);
        let highest = picture.highest;
        let before = picture.hosts.get(host).filter(|report| report.answers).cloned().unwrap_or_default();
        picture.told(host, said);
        if picture.highest > highest {
            // A ledger that was lost goes on above what hosts have seen.
            let highest = picture.highest;
            let noted = self.book.change(|ledger| {
                ledger.leases.seen(highest);
                Ok(())
            });
            if let Err(error) = noted {
                tracing::warn!(%error, "what is known of cameras could not be noted");
            }
        }
        let Some(now) = picture.hosts.get(host) else { return };
        let changed = now.cameras.iter().filter(|(id, camera)| {
            before.cameras.get(*id).is_none_or(|old| {
                (old.present, old.state, &old.port, &old.persona)
                    != (camera.present, camera.state, &camera.port, &camera.persona)
            })
        });
        let mut tries = locked(&self.tries);
        for (id, _) in changed {
            tries.camera_changed(&CameraId { host: host.to_owned(), camera: id.clone() });
        }
    }
}
