//! What an operator installs: the static binaries, the systemd units, the images, the package.

mod binaries;
mod containers;
mod front;
pub(crate) mod machine;
mod manual;
mod package;
mod prometheus;
mod systemd;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The static binaries, where `cargo static` has put them; `AIOS_TEST_STATIC_DIR` says where.
pub(crate) fn static_binary(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("AIOS_TEST_STATIC_DIR")?;
    Some(Path::new(&folder).join(name))
}

/// A file of the project.
pub(crate) fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a command to its end.
pub(crate) fn output(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// What a command that has to succeed says on stdout.
pub(crate) fn said(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}
