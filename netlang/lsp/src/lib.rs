//! `fleet lsp`: a language server for network files, over standard input and output.
//!
//! ```text
//! stdin ─ wire (a thread) ─▶ queue of 64 ─ server ─┬─ documents ─▶ netlang::ide
//!                                                  ├─ answers ───▶ stdout
//!                                                  └─ diagnostics, when the queue is empty ─▶ stdout
//! ```
//!
//! A change of the text only marks its document. Diagnostics are worked out when nothing waits in the queue, so that
//! a fast writer is told about his newest text and never about an old one; a question is answered on the newest text,
//! too. The queue is bounded: when it is full, the editor's pipe is.
//!
//! # Libraries
//!
//! The messages are those of `lsp-server`, rust-analyzer's own (0.10.0 of 2026): it has no opinion on threads or
//! async, and this server needs neither more than one thread nor a runtime. `tower-lsp-server` (only a release
//! candidate of its new version) and `async-lsp` both want tokio and futures for what is a loop over a queue. The
//! protocol's types are those of `gen-lsp-types`, generated from the official metamodel, to which rust-analyzer and
//! tower-lsp-server moved from `lsp-types`, whose last release is of June 2024. It is young, so it is pinned.

mod answers;
pub mod bench;
mod convert;
mod documents;
mod server;
mod wire;

use std::io::{BufReader, Read, Write};

pub use server::ServeError;

/// Serves an editor on standard input and output until it says `exit` or closes them.
///
/// # Errors
/// When the editor does not speak the protocol, leaves without saying so, or cannot be written to.
pub fn stdio() -> Result<(), ServeError> {
    serve(std::io::stdin(), std::io::stdout().lock())
}

/// Serves an editor on a pair of pipes until it says `exit` or closes them.
///
/// # Errors
/// As for [`stdio`].
pub fn serve(input: impl Read + Send + 'static, output: impl Write) -> Result<(), ServeError> {
    server::run(BufReader::new(input), output)
}
