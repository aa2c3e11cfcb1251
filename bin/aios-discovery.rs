//! The `aios-discovery` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    aios_mesh::program::run_until_signal(aios_mesh::discovery::run)
}
