//! A whole fleet in one process: the real decisions ([`fleet_core`]), the real placement and the real tree
//! ([`fleet_tree`]) over an in-memory network, with simulated hosts and VMs and a virtual clock.
//!
//! Faults come at any moment: agents are killed between two messages and start again, hosts fall silent and come back,
//! the controller is killed, also between storing and acting, and goes on from its records. Users bring experiments up
//! and down, drain and remove hosts meanwhile. After every step, and once more when faults have stopped, invariants are
//! checked ([`check`]). All of it follows from the seed: the same parameters give the same run, and the same digest
//! of its event log.
//!
//! VMs of a host are ranges, not objects: a million of them are as many ranges as there are hosts.
//!
//! | file | what |
//! |---|---|
//! | [`params`] | what is simulated |
//! | [`fleet`] | hosts: how they die and come back |
//! | [`work`] | their VMs, and what a wave does to them |
//! | [`network`] | latency, and deaths between two messages |
//! | [`controller`] | the driver of the core, which can be killed |
//! | [`users`] | what is wanted, and who waits for an answer |
//! | [`script`] | the steps: faults and users |
//! | [`check`] | what must hold |
//! | [`log`] | the event log and its digest |

mod check;
mod controller;
mod fleet;
mod log;
mod network;
mod params;
mod ranges;
mod report;
mod rng;
mod script;
mod users;
mod work;

pub use params::{Params, ParamsError};
pub use report::{Progress, Report, SimError};

/// Runs a simulation in a runtime of its own, and tells how far it is. Its events are traced (`fleet_sim=trace`).
///
/// # Errors
/// When an invariant does not hold, with the command that replays the run; or when the parameters make no sense.
pub fn run(params: &Params, tell: &mut dyn FnMut(Progress)) -> Result<Report, SimError> {
    params.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(SimError::Runtime)?;
    let wall = std::time::Instant::now();
    let result = runtime.block_on(script::play(params, tell));
    runtime.shutdown_background();
    let mut report = result.map_err(|what| SimError::Violation { what, replay: params.command() })?;
    report.wall_ms = u64::try_from(wall.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}
