//! A guest's two moments as a template: it comes to rest before it is frozen; and each copy of it becomes somebody.
//!
//! What is drawn before the freeze is the same in all clones, so nothing is: the init draws its boot id anew, the kernel
//! makes its own (`/proc/sys/kernel/random/boot_id`) when it is first read, its hash secrets of sockets and routes when
//! the first ones are made, and no socket for echo requests is open. The kernel's random number generator takes the
//! clone's seed and forgets the template's state at once.

use std::{fs, thread, time::Duration};

use fleet_wire::MacAddress;
use nix::unistd::sync;

use crate::{net, settings};

/// How long the kernel gets for what it does after boot (grace periods, deferred probing, freeing), so that each clone
/// need not do it again. Nothing depends on it but the clones' memory and time.
const REST: Duration = Duration::from_millis(300);

/// Brings interfaces up, lets go of memory that nobody needs and comes to rest. What a kernel does not offer is left out.
/// Gives a line for each thing that failed.
pub fn settle() -> Vec<String> {
    let problems = net::all_up();
    sync();
    let _not_offered = fs::write("/proc/sys/vm/drop_caches", "3");
    thread::sleep(REST);
    problems
}

/// Makes this clone of a template a guest of its own. Gives a line for each thing that failed.
pub fn leave(macs: &[(MacAddress, MacAddress)], seed: &[u8], time_ns: u64) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(error) = result {
            problems.push(format!("{what}: {error}"));
        }
    };
    note("random seed", settings::add_entropy(seed));
    note("clock", settings::set_clock(time_ns));
    problems.extend(net::change_macs(macs));
    problems
}
