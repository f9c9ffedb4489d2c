//! `fleet lsp`.

use super::{Exit, Failure};

/// Serves an editor on standard input and output.
///
/// # Errors
/// When the editor does not speak the protocol, or leaves without saying so.
pub fn lsp() -> Result<Exit, Failure> {
    use std::io::IsTerminal;
    if std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "`fleet lsp` is started by an editor, and talks to it on standard input and output",
        )
        .help("docs/editors.md says how to set editors up"));
    }
    fleet_lsp::stdio().map(|()| Exit::Ok).map_err(|error| match error {
        fleet_lsp::ServeError::Protocol(_) => Failure::usage(error),
        // The protocol wants exit code 1 of a session that ends without `shutdown`.
        fleet_lsp::ServeError::NoShutdown | fleet_lsp::ServeError::Output(_) => Failure::internal(error),
    })
}
