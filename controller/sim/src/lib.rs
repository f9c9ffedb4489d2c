//! A whole fleet in one process: the real decisions ([`fleet_core`]), the real placement and the real tree
//! ([`fleet_tree`]) over an in-memory network, with simulated hosts and VMs and a virtual clock.
//!
//! Faults come at any moment: agents are killed between two messages and start again, hosts fall silent and come back,
//! the controller is killed, also between storing and acting, and goes on from its records. Users bring experiments up
//! and down, drain and remove hosts meanwhile. After every step, and once more when faults have stopped, invariants are
//! checked ([`check`]). All of it follows from the seed: the same parameters give the same run, and the same hash of
//! its event log.
//!
//! VMs of a host are ranges, not objects: a million of them are as many ranges as there are hosts.
//!
//! | file | what |
//! |---|---|
//! | [`params`] | what is simulated |
//! | [`fleet`] | hosts, their VMs, and what a wave does to them |
//! | [`network`] | latency, and deaths between two messages |
//! | [`controller`] | the driver of the core, which can be killed |
//! | [`script`] | the steps: faults and users |
//! | [`check`] | what must hold |

mod check;
mod controller;
mod fleet;
mod log;
mod network;
mod params;
mod report;
mod rng;
mod script;

pub use params::{Params, ParamsError};
pub use report::{Report, SimError};

/// Runs a simulation in a runtime of its own.
///
/// # Errors
/// When an invariant does not hold, with the command that replays the run; or when the parameters make no sense.
pub fn run(params: &Params) -> Result<Report, SimError> {
    params.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(SimError::Runtime)?;
    let wall = std::time::Instant::now();
    let result = runtime.block_on(script::play(params));
    runtime.shutdown_background();
    let mut report = result.map_err(|what| SimError::Violation { what, replay: params.command() })?;
    report.wall_ms = u64::try_from(wall.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}
