//! Telemetry in MongoDB: the server that fleet runs itself, the writer and the queries.
//!
//! ```text
//!  task `server`      finds, starts, watches (pidfd) and restarts the local server ── ServerState (watch) ──┐
//!  task `connection`  connects to whatever ServerState says, ensures the collections ── Link (watch) ──────┐│
//!  TelemetrySink ──> SampleQueue (bounded, drops counted) ──> task `samples` ──> insert_many ──────────────┤│
//!           └──────> EventOutbox (kept until acknowledged) ──> task `events` ──> insert_many, again if lost ┘
//!  Query ──> pipeline (pure) ──> cursor ──> RowStream ──> Exporter (table, JSON, CSV)
//! ```
//!
//! Nothing here ever makes a producer wait: [`TelemetrySink::offer`] takes a lock for some nanoseconds, whatever state
//! the database is in. Every operation on the database has a deadline of seconds, and what is lost is counted.

pub mod document;
pub mod export;
pub mod metric_definitions;
pub mod query;
pub mod schema;
pub mod server;
pub mod writer;

pub use query::{Query, QueryError, RowStream, Selection, VmNames};
pub use server::{ProgramSearch, ServerConfig, ServerError, ServerState, ServerSupervisor};
pub use writer::{Flushed, NotConnected, TelemetrySink, Writer, WriterConfig, WriterStatus};
