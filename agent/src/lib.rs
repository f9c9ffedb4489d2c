//! The daemon of one host.
//!
//! The mechanisms are crates of their own, which know nothing of one another: `fleet-vm` (VMs as processes), `fleet-net`
//! (bridges, taps, routers), `fleet-images` (guest images), `fleet-telemetry` (measuring), `fleet-ksm` (merging of memory), `fleet-usb` (USB cameras). This crate knows the order
//! in which they are used. Its tasks, and who owns them:
//!
//! | task | started by | ends with |
//! |---|---|---|
//! | one a VM with a process: [`slot`], boot, settings, end | a start, or adoption | its slot; the VM goes on |
//! | one a VM with a process: its exit and its control channel (`fleet-vm`) | the same | its machine |
//! | [`sampling`], every few seconds | [`Agent::start`] | [`Agent::shutdown`] |
//! | those of cameras: see [`cameras`] | [`Agent::start`] | [`Agent::shutdown`]; VMs keep their cameras |
//! | one that regulates KSM (`fleet-ksm`) | [`Agent::start`] | [`Agent::shutdown`], which puts the settings back |
//! | one a wave, and one a stream of it: [`wave`], with [`apply`], [`teardown`], [`act`] | the tree | its own end; [`Agent::shutdown`] |
//! | two of a member of a fleet: its server for others, and one that attends the controller ([`membership`]) | [`Prepared::join`] | [`Membership::ended`] |
//! | one a session: [`session`] | the service | its caller, or the guest's command |
//!
//! Readers never wait for writers: what `ps` and telemetry read is behind locks that are held for an assignment.

mod act;
mod admit;
mod agent;
mod apply;
mod cameras;
mod choose;
mod config;
mod enter;
mod epoch;
mod experiment;
mod generations;
mod hub;
mod membership;
mod merging;
mod metric_definitions;
mod pace;
mod probe;
mod progress;
mod prove;
mod recover;
mod room;
mod sampling;
mod service;
mod session;
mod slice;
mod slot;
mod teardown;
mod wave;

pub use admit::{RESERVE, overhead};
pub use agent::{Agent, AgentError};
pub use cameras::CamerasConfig;
pub use config::AgentConfig;
pub use epoch::{Epoch, EpochError};
pub use experiment::any_remembered;
pub use fleet_net::VXLAN_PORT;
pub use fleet_tree::fold_names;
pub use fleet_usbexport::ServerAddress;
pub use membership::{IDENTITY_FILE, JoinArgs, Membership, MembershipError, Prepared, prepare};
pub use service::{router, with_cameras};
