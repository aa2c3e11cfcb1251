//! The static binaries: that they are, how large, and how little memory they take.

use std::process::Command;
use std::time::Duration;

use super::{output, static_binary};
use crate::support::{Child, SOON, holds_for, ids, report, skip, wait_for};

/// A million bytes.
const MB: f64 = 1e6;

/// A static binary as a child process that listens.
fn start(name: &str, flags: &[&str]) -> Option<Child> {
    let mut command = Command::new(static_binary(name)?);
    command.env_clear().args(["--host", "127.0.0.1"]);
    command.args(["--port", "0"]).args(flags);
    Some(Child::listening(command))
}

#[test]
fn the_binaries_need_no_library_and_little_room() {
    let mut said = Vec::new();
    for (name, at_most) in [
        ("aios-discovery", 3.0),
        ("aios-cell", 4.2),
        ("aios-mesh", 4.5),
    ] {
        let Some(binary) = static_binary(name) else {
            return skip(
                "the_binaries_need_no_library_and_little_room",
                "AIOS_TEST_STATIC_DIR, where cargo static has put them,",
            );
        };
        let ldd = output(Command::new("ldd").arg(&binary));
        let ldd = [ldd.stdout, ldd.stderr].concat();
        let ldd = String::from_utf8_lossy(&ldd);
        assert!(
            ldd.contains("statically linked") || ldd.contains("not a dynamic executable"),
            "{name}: {ldd}"
        );
        let bytes = std::fs::metadata(&binary).expect("it is built").len();
        let mb = bytes as f64 / MB;
        assert!(mb < at_most, "{name} has {bytes} bytes");
        said.push(format!("{name} {mb:.3} MB"));
    }
    report(&format!("static binaries: {}", said.join(", ")));
}

#[test]
fn an_idle_discovery_and_cell_take_little_memory() {
    let Some(discovery) = start("aios-discovery", &[]) else {
        return skip(
            "an_idle_discovery_and_cell_take_little_memory",
            "AIOS_TEST_STATIC_DIR, where cargo static has put the binaries,",
        );
    };
    let flags = ["pure", "--discovery", &discovery.url()];
    let cell = start(
        "aios-cell",
        &[&flags[..], &["--heartbeat-every", "100ms"]].concat(),
    );
    let cell = cell.expect("it is there, too");
    wait_for("it is listed", SOON, || ids(&discovery) == ["pure"]);
    let mut most = (0, 0);
    holds_for("they beat and answer", Duration::from_secs(2), || {
        most.0 = most.0.max(discovery.resident_kib());
        most.1 = most.1.max(cell.resident_kib());
        true
    });
    report(&format!(
        "resident: discovery {} KiB, cell {} KiB",
        most.0, most.1
    ));
    assert!(most.0 < 6_000, "discovery has {} KiB", most.0);
    assert!(most.1 < 6_000, "the cell has {} KiB", most.1);
}
