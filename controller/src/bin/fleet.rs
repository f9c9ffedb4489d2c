//! The program `fleet`: a command line over the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fleet_controller::cli::main()
}
