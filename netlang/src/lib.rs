//! The network language: syntax, checks, addresses and plan; pure.
//!
//! ```text
//! text ─ syntax ─▶ tree ─ sema ─▶ rows ─ address ─▶ rows with addresses ─ proof ─▶ Plan
//!                    │ vocab                lock ◀─┘
//!                    └ format ─▶ text
//! ```
//!
//! [`compile`] takes a [`Source`] and a [`Lock`] and gives [`Diagnostic`]s, and if none is an error a [`Plan`]. The
//! result depends on nothing else, so a controller sends source and lock to its agents, and every one of them works
//! out the same names and addresses. The language itself is described in `docs/language`.

mod address;
mod diag;
mod graph;
pub mod ide;
mod placement;
mod plan;
mod proof;
mod sema;
mod sets;
mod source;
mod syntax;
mod text;
pub mod vocab;

pub use address::difference::{LockChange, LockDifference, LockEntry};
pub use address::lock::{Lock, LockError, Section};
pub use address::prefix::Prefix;
pub use diag::explain::{all_codes, explain};
pub use diag::render::{MAX_PRINTED, RenderOptions, render};
pub use diag::{Diagnostic, Label, Severity, codes};
pub use graph::{Expand, Graph, GraphError, GraphSums};
pub use placement::{Host, HostPlacement, PlaceError, PlacedRange, Placement, VmShape, committed};
pub use plan::*;
pub use sema::{Compilation, compile, design};
pub use source::{LineIndex, Source, Span};
pub use syntax::format::format;
