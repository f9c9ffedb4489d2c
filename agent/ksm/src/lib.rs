//! Kernel samepage merging (KSM) under control, one regulator a host.
//!
//! KSM lets equal anonymous pages of different processes share one frame. Its kernel thread, ksmd, walks over the
//! memory of the processes that opted in, at a speed that somebody has to choose: too slow and a thousand alike VMs fill
//! the host before they are merged, too quick and a core is spent for ever on pages that were merged long ago. This
//! crate chooses the speed from what merging brings and what it costs.
//!
//! - [`decide()`]: the decision, pure: from what was seen to settings, a phase, and why.
//! - [`Sysfs`]: the settings and counters of `/sys/kernel/mm/ksm`; writes only what differs.
//! - [`HostReader`]: memory, pressure and ksmd's processor time.
//! - [`Custody`]: the settings that were found, kept in a file and put back; one keeper a host.
//! - [`Regulator`]: the task that looks, decides and sets. It knows nothing of VMs but their number.
//!
//! Which processes take part is not decided here: a process opts in with `prctl(PR_SET_MEMORY_MERGE)`.
//!
//! ```text
//!            VMs that may be merged        a wave of boots ended
//!   OFF ───────────────────────────► HOLD ◄──────────┐   │ VMs were added
//!    ▲                                │ ▲            │   ▼
//!    │ none left, or not wanted       │ └─ slow ── DECAY ◄── BURST
//!    └────────────────────────────────┘   memory gets short: up again, as far as it brings something
//! ```

mod custody;
pub mod decide;
mod error;
mod host;
mod regulator;
mod settings;
mod sysfs;

pub use custody::Custody;
pub use decide::{Decision, Input, Phase, State, Wave, decide};
pub use error::KsmError;
pub use host::{HostReader, Pressure};
pub use regulator::{Demand, KsmConfig, Regulator, Status};
pub use settings::{Mode, Settings};
pub use sysfs::{Counters, Sysfs};
