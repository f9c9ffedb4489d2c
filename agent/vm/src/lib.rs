//! Virtual machines as processes: hypervisors, launching, adoption, control.
//!
//! A VM is a process like any other: in a session and control group of its own, a child of the agent that started it,
//! and of nobody once that agent has died. This crate starts such processes, finds them again, watches over them, talks
//! to their guests and removes them. It knows nothing of networks but the taps that it is handed as descriptors, and
//! nothing of images but paths.
//!
//! | file | what |
//! |---|---|
//! | `spec`, `paths`, `record` | what a VM is to be; where its things are; what is written down |
//! | `hypervisor/` | the trait, and one file for each hypervisor |
//! | `probe` | what works on this host |
//! | `spawn`, `launch` | a process that cannot be lost; from specification to process |
//! | `template/` | guests that were booted and frozen, and their clones |
//! | `snapshot/` | memory and devices of a VM on disk, to go on from |
//! | `host` | [`VmHost`]: launch, adopt, remove |
//! | `usb` | cameras in a running VM |
//! | `unprivileged`, `versions` | whom QEMU becomes; which versions programs have |
//! | `machine`, `exit`, `cgroup`, `session`, `procs` | [`Machine`]: one VM; how it ended; its processes |
//! | `console`, `control/` | log and keyboard; the channel to the guest's init |
//!
//! Tasks: each [`Machine`] owns one that waits for its end; each [`ControlClient`] one that owns the stream; each open
//! console one that drains the stream. All end when their owner is dropped. A snapshot and a change of USB devices run in a
//! task each, to their end, which has deadlines.

mod cgroup;
pub mod console;
pub mod control;
pub mod error;
mod exit;
mod host;
pub mod hypervisor;
mod launch;
mod machine;
pub mod paths;
pub mod probe;
mod procs;
mod record;
mod session;
mod snapshot;
mod spawn;
pub mod spec;
mod template;
mod unprivileged;
mod usb;
mod versions;

pub use console::ConsoleSession;
pub use control::{ControlClient, ControlError, ExecEvent, ExecInput, ExecSession, ExecSpec, Hello, Link};
pub use error::{RemoveError, VmError};
pub use exit::VmExit;
pub use host::{Adopted, HostConfig, VmHost, tsc_khz};
pub use machine::{Machine, Usage};
pub use session::Session;
pub use snapshot::{Snapshot, SnapshotError, SnapshotQuota, SnapshotStore};
pub use spec::{Accelerator, Merge, NicSpec, RootFs, VmSpec};
pub use template::Expected;
pub use usb::{UsbError, usb_refusal};
