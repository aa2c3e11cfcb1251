//! The examples for systemd, on a machine of their own.

use std::time::Duration;

use super::example;
use crate::deploy::machine::{DONE, Machine};
use crate::support::{holds_for, wait_for};

const SECOND: Duration = Duration::from_secs(1);

/// Puts a file in place that says itself, in its first line, where it belongs.
fn install(machine: &Machine, name: &str) {
    let text = example(name).text;
    let path = text.lines().next().and_then(|line| line.strip_prefix("# "));
    let path = path.expect("a path");
    machine.shell(&format!(
        "mkdir -p \"$(dirname {path})\"\ncat >{path} <<'END'\n{text}END\nsystemctl daemon-reload"
    ));
}

/// A machine on which discovery runs.
fn boot(name: &str) -> Option<Machine> {
    let machine = Machine::boot(name)?;
    machine.shell(
        "install -m 644 /project/deploy/systemd/aios-* /etc/systemd/system/
         systemctl daemon-reload
         systemctl start aios-discovery.socket aios-discovery",
    );
    Some(machine)
}

#[test]
fn a_service_starts_once_the_cells_it_needs_are_there() {
    let Some(machine) = boot("report") else {
        return;
    };
    install(&machine, "report.service");
    machine.shell(
        "mkdir -p /usr/local/bin
         printf '#!/bin/sh\\naios-mesh peers --format ids >/run/reported; exec sleep infinity\\n' \\
             >/usr/local/bin/report
         chmod +x /usr/local/bin/report
         systemctl start --no-block report",
    );
    let state = || machine.show("report", "ActiveState");
    machine.shell("systemctl start aios-cell@pure");
    holds_for("it waits for alpha", 2 * SECOND, || state() == "activating");
    machine.shell("systemctl start aios-cell@alpha");
    wait_for("it is started", DONE, || state() == "active");
    wait_for("it has reported", DONE, || {
        machine.shell("cat /run/reported || true") == "pure\nalpha"
    });
    assert_eq!(machine.show("report", "NRestarts"), "0");

    // What does not come in time is waited for once more.
    machine.shell(
        "systemctl stop report aios-cell@alpha
         sed -i 's/--timeout 60s/--timeout 1s/' /etc/systemd/system/report.service
         systemctl daemon-reload
         systemctl start --no-block report",
    );
    wait_for("it has tried again", DONE, || {
        machine.show("report", "NRestarts") == "1"
    });
    let log = machine.journal("report");
    assert!(log.contains("status=3"), "{log}");
    machine.shell("systemctl start aios-cell@alpha");
    wait_for("it is started", DONE, || state() == "active");
}

#[test]
fn a_cell_follows_the_unit_it_stands_for() {
    let Some(machine) = boot("follows") else {
        return;
    };
    machine.shell(
        "printf '[Service]\\nExecStart=sleep infinity\\n' \\
             >/etc/systemd/system/postgresql@15-main.service",
    );
    install(&machine, "follow.conf");
    machine.shell(&example("follow").text);
    machine.shell("systemctl start postgresql@15-main");
    wait_for("its cell is listed", DONE, || machine.listed() == ["db"]);
    machine.shell("systemctl kill --signal KILL postgresql@15-main");
    wait_for("its cell is gone", DONE, || machine.listed().is_empty());
}

#[test]
fn discovery_is_kept_to_its_own_host() {
    let Some(machine) = boot("loopback") else {
        return;
    };
    assert!(!machine.is_refused());
    install(&machine, "loopback.conf");
    machine.shell(&example("loopback").text);
    assert!(machine.is_refused());
    machine.shell("aios-discovery --check");
}
