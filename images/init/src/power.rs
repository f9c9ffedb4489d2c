//! The way down: end all processes, write back, switch off.

use std::time::{Duration, Instant};

use nix::{
    errno::Errno,
    sys::{
        reboot::{RebootMode, reboot},
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, sync},
};

/// How long processes may take to end by themselves.
const GRACE: Duration = Duration::from_secs(2);
/// All processes but process 1.
const EVERYONE: Pid = Pid::from_raw(-1);

/// Ends every process, first politely; then switches off or starts again.
pub fn shut_down(restart: bool) -> ! {
    // SIGHUP for shells, which ignore SIGTERM while they wait for a person; SIGCONT so that stopped ones hear it.
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT] {
        let _nobody_left = kill(EVERYONE, signal);
    }
    wait_for_all(GRACE);
    let _nobody_left = kill(EVERYONE, Signal::SIGKILL);
    wait_for_all(GRACE);
    switch_off(restart)
}

/// Set (to "reset") on the kernel's command line of machines that nothing switches off; the kernel hands to its init, as
/// environment, what it does not know itself. Whoever runs such a machine takes a reset for its end.
const POWER_OFF: &str = "FLEET_POWER_OFF";

/// Writes back and switches off (or starts again) at once.
pub fn switch_off(restart: bool) -> ! {
    sync();
    let by_reset = std::env::var_os(POWER_OFF).is_some_and(|how| how == "reset");
    let mode = if restart || by_reset { RebootMode::RB_AUTOBOOT } else { RebootMode::RB_POWER_OFF };
    let _failed = reboot(mode); // returns only when it fails
    let _failed = reboot(RebootMode::RB_HALT_SYSTEM);
    // Nothing can be done any more; the end of process 1 is a kernel panic, which the agent sees.
    std::process::exit(1)
}

/// Reaps until no process is left, for at most this long; sleeps until SIGCHLD in between.
fn wait_for_all(limit: Duration) {
    let end = Instant::now() + limit;
    let mut child = SigSet::empty();
    child.add(Signal::SIGCHLD); // is blocked all the time, for the signalfd
    loop {
        match waitpid(EVERYONE, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::EINTR) | Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => continue,
            Err(_) => return, // ECHILD: all are gone
            Ok(_) => {}
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(left.subsec_nanos()),
        };
        // SAFETY: both pointers are to live values for the time of the call; a null siginfo is allowed.
        unsafe { libc::sigtimedwait(child.as_ref(), std::ptr::null_mut(), &raw const timeout) };
    }
}
