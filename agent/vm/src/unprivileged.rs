//! Whom QEMU becomes: `fleet-vm` where there is such a user, else `nobody`.
//!
//! QEMU starts as root, opens what its command line names, and gives up all rights before it serves its monitor. That it
//! does so by itself, and is not started so, has two reasons: what it opens may be root's only (images, RAM, `/dev/kvm`),
//! and the kernel lets no other process of that user look into one that has changed its user.

use nix::unistd::{User as Entry, geteuid};

use crate::hypervisor::User;
use crate::versions::major_minor;

/// The users that are looked for, in this order.
const NAMES: [&str; 2] = ["fleet-vm", "nobody"];

/// `CAP_SETGID` and `CAP_SETUID` of `linux/capability.h`.
const SETID: u64 = 1 << 6 | 1 << 7;

/// The first version of QEMU with `-run-with user=`; `-runas` is deprecated from there on.
const RUN_WITH: (u32, u32) = (9, 1);

/// A user and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The user of this host.
    ///
    /// # Errors
    /// In words, why there is none to become.
    pub(crate) fn find() -> Result<Account, String> {
        if !geteuid().is_root() {
            return Err("it is not root".to_owned());
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if !may_set_ids(&status) {
            return Err("it may not change users; let its service have CAP_SETUID and CAP_SETGID".to_owned());
        }
        let named = |name: &&str| Entry::from_name(name).ok().flatten().filter(|entry| !entry.uid.is_root());
        let found =
            NAMES.iter().find_map(named).map(|entry| Account { uid: entry.uid.as_raw(), gid: entry.gid.as_raw() });
        found.ok_or_else(|| format!("there is no user {}; make one: useradd --system {}", NAMES.join(" or "), NAMES[0]))
    }

    /// How QEMU of this version is told.
    pub(crate) fn told(self, version: &str) -> User {
        User { uid: self.uid, gid: self.gid, run_with: major_minor(version) >= RUN_WITH }
    }
}

fn may_set_ids(status: &str) -> bool {
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_some_and(|effective| effective & SETID == SETID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_in_its_own_words() {
        let account = Account { uid: 1, gid: 2 };
        let run_with = ["7.2.22", "9.0.4", "9.1.0", "10.0.2"].map(|version| account.told(version).run_with);
        assert_eq!(run_with, [false, false, true, true]);
    }

    #[test]
    fn a_service_that_may_not_change_users_does_not_try() {
        assert!(may_set_ids("Name:\tfleet\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_set_ids("CapEff:\t0000000000000080\n"));
        assert!(!may_set_ids(""));
    }
}
