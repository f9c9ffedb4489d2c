//! What a host measures of itself, its VMs and their ports, and the ways on which that leaves the host.
//!
//! ```text
//!  /proc, /sys, cgroups ──> Sampler ──> TelemetryBatch ──> Fanout ──> one SampleQueue a reader ──> gRPC stream
//!  port counters of the caller ─┘        (every few s)                (full: drop and count)
//!
//!  lifecycle events ──────────────────────────────────────> EventOutbox ──> EventReader ──> gRPC stream
//!                                                           (kept until acknowledged)
//! ```
//!
//! Samples are best effort: each one is worth little and the next is seconds away, so a reader that is too slow loses
//! some, they are counted, and the count travels in the next host sample. Events are few and each one matters, so they
//! are kept until the far side has acknowledged them, and may be sent twice: their ids tell them apart.
//!
//! Nothing here knows gRPC, a hypervisor or a network device. The kernel's files are read below roots that the caller
//! names, and every parser and every rate is a pure function of text and earlier readings.

mod fanout;
mod host;
mod outbox;
mod port;
pub mod procfs;
mod queue;
mod sampler;
mod vm;

pub use fanout::Fanout;
pub use outbox::{EventOutbox, EventReader, Recorded};
pub use port::{LinkCounters, PortTarget};
pub use queue::{Pushed, QueueReceiver, QueueSender, Weigh, WhenFull, queue};
pub use sampler::{MAX_SAMPLES_PER_BATCH, Roots, SampleError, Sampled, Sampler};
pub use vm::{Usage, VmSource, VmTarget};
