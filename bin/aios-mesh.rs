//! The `aios-mesh` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    aios_mesh::mesh::main()
}
