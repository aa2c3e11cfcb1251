//! The Debian package: what Debian's own judge says of it, and that it comes and goes without a trace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::machine::{DONE, Machine};
use super::{output, said};
use crate::support::{Traffic, cell, report, skip, succeeds, wait_for};

/// The package, where `deploy/debian/build` has put it; `AIOS_TEST_DEB` says where.
fn package(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("AIOS_TEST_DEB").map(PathBuf::from);
    if path.is_none() {
        skip(test, "AIOS_TEST_DEB, what deploy/debian/build has made,");
    }
    path
}

#[test]
fn lintian_finds_nothing_wrong_with_the_package() {
    const TEST: &str = "lintian_finds_nothing_wrong_with_the_package";
    // It was never asked for in a bug report to Debian, where it is not.
    const KNOWN: [&str; 1] = ["initial-upload-closes-no-bugs"];
    let Some(package) = package(TEST) else {
        return;
    };
    if !succeeds("lintian", &["--version"]) {
        return skip(TEST, "lintian");
    }
    let judged = output(
        Command::new("lintian")
            .args(["--allow-root", "--fail-on", "error"])
            .arg(package),
    );
    let verdict = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success(), "{verdict}");
    let new: Vec<&str> = verdict
        .lines()
        .filter(|line| !KNOWN.iter().any(|tag| line.contains(tag)))
        .collect();
    assert_eq!(new, [""; 0]);
}

/// The same package in a later version.
fn later(package: &Path, folder: &Path) -> PathBuf {
    let (root, path) = (folder.join("root"), folder.join("later.deb"));
    let work = |arguments: &[&str], from: &Path, to: &Path| {
        said(Command::new("dpkg-deb").args(arguments).arg(from).arg(to));
    };
    work(&["--raw-extract"], package, &root);
    let control = root.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).expect("a control file");
    let version = text.lines().find(|line| line.starts_with("Version: "));
    let version = version.expect("a version");
    let text = text.replace(version, "Version: 999");
    std::fs::write(&control, text).expect("written");
    work(&["--root-owner-group", "--build"], &root, &path);
    path
}

/// Every file there is, but for those of the system's own doings.
fn files(machine: &Machine) -> BTreeSet<String> {
    // dpkg and those that keep accounts keep their last versions, systemd what it has been doing,
    // and folders for what is enabled.
    let found = machine.shell(
        "find / -xdev -path /var/lib/dpkg -prune -o -path /var/log -prune -o \
             ! -path '/etc/*-' ! -path /etc/.pwd.lock ! -path '/etc/*shadow' \
             ! -path '/var/lib/systemd/*' ! -name '*.wants' -print
         find /var/lib/systemd -name '*aios*'
         cat /etc/passwd /etc/group",
    );
    found.lines().map(str::to_owned).collect()
}

#[test]
fn the_package_is_installed_upgraded_under_load_removed_and_purged_without_a_trace() {
    const TEST: &str = "package";
    const OURS: [&str; 2] = ["aios-discovery.socket", "aios-discovery.service"];
    let Some(package) = package(TEST) else {
        return;
    };
    if !succeeds("dpkg-deb", &["--version"]) {
        return skip(TEST, "dpkg-deb");
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(&package, folder.path().join("package.deb")).expect("copied");
    later(&package, folder.path());
    let Some(machine) = Machine::bare(TEST, folder.path()) else {
        return;
    };
    let before = files(&machine);

    // Installed, discovery runs, as its own user, and no cell does.
    machine.shell("dpkg --install /built/package.deb");
    for unit in OURS {
        assert_eq!(machine.show(unit, "UnitFileState"), "enabled", "{unit}");
        wait_for(unit, DONE, || machine.is_active(unit));
    }
    machine.shell("aios-discovery --check");
    assert_eq!(machine.listed(), [""; 0]);
    let cells = || machine.shell("systemctl list-units --all --plain --no-legend 'aios-cell@*'");
    assert_eq!(cells(), "");
    let pid = machine.show("aios-discovery", "MainPID");
    let user = machine.shell(&format!("stat -c %U /proc/{pid}"));
    assert_eq!(user, "aios-discovery");
    let owner = machine.shell("stat -L -c %U:%a /var/lib/aios-mesh");
    assert_eq!(owner, "aios-discovery:700");

    // Upgraded under load, nobody is refused and no beat is lost.
    machine.shell("systemctl enable --now aios-cell@pure aios-cell@alpha");
    machine.both_are_listed();
    let url = format!("http://{}", machine.discovery);
    let beating = ["client-beat-a", "client-beat-b"]
        .map(|id| cell(&url, &["--id", id, "--heartbeat-every", "20ms"]));
    let traffic = Traffic::start(&machine.discovery, 32);
    let told = Instant::now();
    machine.shell("dpkg --install /built/later.deb");
    let took = told.elapsed();
    assert_ne!(machine.show("aios-discovery", "MainPID"), pid);
    machine.both_are_listed();
    let fared = traffic.stop();
    report(&format!(
        "upgrade of the package in {took:?}: {} answered, {} sent again on a new connection, slowest {:?}",
        fared.answered, fared.sent_again, fared.slowest
    ));
    assert_eq!(fared.failures, [""; 0]);
    for cell in &beating {
        let log = cell.log();
        let registered = log
            .iter()
            .filter(|line| line.contains("Registered "))
            .count();
        assert_eq!(registered, 1, "{log:#?}");
        assert!(!log.iter().any(|line| line.contains(" WARN ")), "{log:#?}");
    }
    drop(beating);

    // Who has disabled it and changed a setting finds both as they were.
    machine.shell(
        "systemctl disable aios-discovery.socket
         echo AIOS_HOLD_MIN=7 >>/etc/aios-mesh/discovery.env
         dpkg --install --force-downgrade /built/package.deb",
    );
    let state = machine.show("aios-discovery.socket", "UnitFileState");
    assert_eq!(state, "disabled");
    machine.shell("grep -x AIOS_HOLD_MIN=7 /etc/aios-mesh/discovery.env");
    machine.both_are_listed();
    let pid = machine.show("aios-discovery", "MainPID");
    machine.shell(&format!("grep -z -x AIOS_HOLD_MIN=7 /proc/{pid}/environ"));

    // Removed, it is gone but for what its operator has written and what it knew; and it stopped
    // its cells first, or discovery would not have heard of it.
    machine.shell("dpkg --remove aios-mesh");
    assert!(machine.is_refused());
    for unit in OURS {
        assert!(!machine.is_active(unit), "{unit}");
    }
    machine.shell("test -e /var/lib/aios-mesh/discovery.state -a ! -e /usr/bin/aios-discovery");
    machine.shell("grep -x AIOS_HOLD_MIN=7 /etc/aios-mesh/discovery.env");
    for id in ["pure", "alpha"] {
        let log = machine.journal(&format!("aios-cell@{id}"));
        let (_, last) = log.rsplit_once("Registered ").expect("it was there");
        assert!(last.contains("Deregistered from"), "{log}");
    }

    // Installed again it is back, with its settings; purged, there was nothing.
    machine.shell("dpkg --install /built/later.deb && aios-discovery --check");
    machine.shell("umask 077; echo secret >/etc/aios-mesh/token; dpkg --purge aios-mesh");
    assert!(machine.is_refused());
    let after = files(&machine);
    let left: Vec<_> = after.difference(&before).collect();
    assert_eq!(left, [""; 0]);
    let taken: Vec<_> = before.difference(&after).collect();
    assert_eq!(taken, [""; 0]);
    assert_eq!(machine.shell("dpkg-query -l | grep -c aios || true"), "0");
}
