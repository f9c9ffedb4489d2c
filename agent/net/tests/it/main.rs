//! Networks of the kernel, in namespaces of their own.
#![allow(missing_docs)]

mod common;
mod crossing;
mod crossing_changes;
mod crossing_routers;
mod failing;
mod reconciling;
mod removing;
mod routing;
mod switching;
