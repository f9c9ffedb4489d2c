//! The life of one process: from its making to its end, in a task of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_proto::v1::VmState;
use fleet_vm::{Machine, VmExit};
use fleet_wire::Settings;
use netlang::RestartMode;

use super::{Slot, TOLD_LINES, locked};
use crate::experiment::Surroundings;
use crate::metric_definitions;

/// From the making of the process to the guest's answer. An emulated guest on a busy host is slow, not dead.
const BOOT_DEADLINE: Duration = Duration::from_secs(180);
/// For a guest that runs to take new settings.
const CONFIGURE_DEADLINE: Duration = Duration::from_secs(30);

impl Slot {
    /// Waits for the guest, gives it its settings, and goes on watching until the process ends.
    pub(super) async fn follow(self: &Arc<Self>, around: &Arc<Surroundings>, machine: &Machine, since: Instant) {
        let boot = tokio::time::timeout(BOOT_DEADLINE, self.settle(machine));
        let booted = tokio::select! {
            exit = machine.wait() => return self.over(around, &exit),
            booted = boot => booted,
        };
        let problem = match booted {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(_) => Some(format!("the guest did not answer within {} s", BOOT_DEADLINE.as_secs())),
        };
        if let Some(problem) = problem {
            // It ended while it was asked: how it ended says more than that it did not answer.
            if let Some(exit) = machine.exited() {
                return self.over(around, &exit);
            }
            let lines = machine.last_lines(TOLD_LINES).unwrap_or_default();
            if let Err(error) = machine.kill().await {
                tracing::warn!(vm = self.name, %error, "a VM that did not come up could not be killed");
            }
            self.fail(around, &problem, &lines, true);
            return;
        }
        locked(&self.view).ran = true;
        let state = if machine.is_paused() { VmState::Paused } else { VmState::Running };
        if std::mem::take(&mut locked(&self.view).adopted) {
            locked(&self.view).state = state;
            self.state.send_replace(state);
            around.hub.move_on();
        } else {
            let boot = since.elapsed();
            locked(&self.view).boot_ms = u64::try_from(boot.as_millis()).unwrap_or(u64::MAX);
            metrics::histogram!(metric_definitions::BOOT_SECONDS).record(boot.as_secs_f64());
            self.set(around, state, "", &[]);
        }
        let mut link = machine.control().link();
        let mut reboots = link.borrow_and_update().reboots;
        loop {
            let rebooted = link.wait_for(|link| link.reboots != reboots);
            tokio::select! {
                exit = machine.wait() => return self.over(around, &exit),
                // The control channel's task ends only with its VM: then the other branch has its word.
                Ok(link) = rebooted => reboots = link.reboots,
            }
            around.hub.event("vm.rebooted", &around.experiment, &self.name, "the guest started again by itself");
            if let Err(problem) = self.settle(machine).await {
                tracing::warn!(vm = self.name, problem, "a guest that rebooted did not take its settings");
            }
        }
    }

    /// Waits for the guest and gives it its settings, unless it has them.
    pub(super) async fn settle(&self, machine: &Machine) -> Result<(), String> {
        if machine.is_paused() {
            return Ok(()); // it will not answer, and it had its settings when it was paused
        }
        let control = machine.control();
        let hello = control.hello(BOOT_DEADLINE).await.map_err(|error| error.to_string())?;
        let wanted = self.wanted();
        if hello.settings == wanted.vm.settings.fingerprint() {
            return Ok(());
        }
        self.configure(machine, &wanted.vm.settings).await
    }

    async fn configure(&self, machine: &Machine, settings: &Settings) -> Result<(), String> {
        let mut seed = vec![0; 32];
        // Without a seed the guest starts with what its kernel has: worse, not wrong.
        if getrandom(&mut seed).is_err() {
            seed.clear();
        }
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(0);
        let settings = Settings { seed, time_ns, ..settings.clone() };
        let control = machine.control();
        let problems = control.configure(&settings, CONFIGURE_DEADLINE).await.map_err(|error| error.to_string())?;
        if problems.is_empty() {
            Ok(())
        } else {
            Err(format!("the guest could not take its settings: {}", problems.join("; ")))
        }
    }

    /// Its process ended.
    pub(super) fn over(self: &Arc<Self>, around: &Arc<Surroundings>, exit: &VmExit) {
        match self.state() {
            VmState::Stopping | VmState::Stopped => self.set(around, VmState::Stopped, "", &[]),
            _ if exit.is_clean() && self.wanted().vm.vm.class.restart.mode == RestartMode::Always => {
                drop(self.fail(around, "the guest powered off by itself", &[], true));
            }
            _ if exit.is_clean() => self.set(around, VmState::Stopped, "the guest powered off by itself", &[]),
            _ => drop(self.fail(around, &exit.to_string(), &exit.last_lines, true)),
        }
    }
}

/// Random bytes from the kernel.
fn getrandom(bytes: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}
