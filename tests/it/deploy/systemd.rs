//! The units, with systemd's own tools, and the programs as they run under it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{file, output, said};
use crate::support::{Child, SOON, command, report, skip, succeeds, uninterrupted};

/// The units, of the template the instance `pure`, as an operator installs them; but that they
/// start the binaries that were built.
fn units() -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let built = PathBuf::from(env!("CARGO_BIN_EXE_aios-cell"));
    let built = built.parent().expect("a folder").to_str().expect("UTF-8");
    let units = [
        ("aios-discovery.socket", "aios-discovery.socket"),
        ("aios-discovery.service", "aios-discovery.service"),
        ("aios-cell@.service", "aios-cell@pure.service"),
    ];
    let units = units.map(|(template, unit)| {
        let text = std::fs::read_to_string(file("deploy/systemd").join(template)).expect("a unit");
        let starts = text.contains("ExecStart=/usr/bin/aios-");
        assert_eq!(starts, unit.ends_with(".service"), "{text}");
        let path = folder.path().join(unit);
        std::fs::write(&path, text.replace("/usr/bin", built)).expect("written");
        path
    });
    (folder, units.into())
}

fn has_systemd(test: &str) -> bool {
    let here = succeeds("systemd-analyze", &["--version"]);
    if !here {
        skip(test, "systemd-analyze (systemd)");
    }
    here
}

#[test]
fn the_units_are_clean() {
    if !has_systemd("the_units_are_clean") {
        return;
    }
    let (_folder, units) = units();
    let verified = output(
        Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .args(&units),
    );
    let complaints = String::from_utf8_lossy(&verified.stderr);
    // It looks at the machine's own units as well, which are not ours to judge.
    let ours: Vec<&str> = complaints
        .lines()
        .filter(|line| line.contains("aios"))
        .collect();
    assert_eq!(ours, [""; 0]);
    assert!(verified.status.success(), "{complaints}");
}

#[test]
fn the_units_give_away_little() {
    if !has_systemd("the_units_give_away_little") {
        return;
    }
    let (_folder, units) = units();
    for unit in units {
        if unit.extension().is_some_and(|kind| kind == "socket") {
            continue;
        }
        let table = said(
            Command::new("systemd-analyze")
                .args(["security", "--offline=yes", "--no-pager"])
                .arg(&unit),
        );
        let verdict = table.lines().find(|line| line.contains("exposure level"));
        let verdict = verdict.expect("a verdict");
        let level = verdict
            .split_whitespace()
            .find_map(|word| word.parse().ok());
        let level: f64 = level.expect("a level");
        report(&format!("systemd-analyze security: {}", verdict.trim()));
        assert!(level <= 2.0, "{table}");
    }
}

/// What is told to the service manager.
fn told(manager: &UnixDatagram) -> String {
    let mut message = [0; 1024];
    let length = uninterrupted(|| manager.recv(&mut message)).expect("a message");
    String::from_utf8_lossy(&message[..length]).into_owned()
}

#[test]
fn the_service_manager_is_told_when_a_program_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("bound");
    manager.set_read_timeout(Some(SOON)).expect("set");
    for (program, flags) in [
        ("aios-discovery", &[][..]),
        ("aios-cell", &["pure", "--discovery", "http://127.0.0.1:1"]),
    ] {
        let mut command = command(program);
        command.args(["--host", "127.0.0.1", "--port", "0"]);
        command.args(flags).env("NOTIFY_SOCKET", &path);
        let mut child = Child::spawn(command);
        assert_eq!(told(&manager).trim_end(), "READY=1", "{program}");
        child.signal(Signal::TERM);
        assert_eq!(told(&manager).trim_end(), "STOPPING=1", "{program}");
        assert_eq!(child.wait(SOON).0.code(), Some(0));
    }
}

#[test]
fn the_journal_gets_priorities_and_others_get_times() {
    for is_journal in [true, false] {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let theirs = OwnedFd::from(theirs);
        let id = rustix::fs::fstat(&theirs).expect("open");
        let inode = id.st_ino + u64::from(!is_journal);
        let mut child = command("aios-discovery")
            .args(["--host", "127.0.0.1", "--port", "0"])
            .env("JOURNAL_STREAM", format!("{}:{inode}", id.st_dev))
            .stderr(File::from(theirs))
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        ours.set_read_timeout(Some(SOON)).expect("set");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(ours), &mut line).expect("a line");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        assert!(line.contains("listening on http://"), "{line}");
        assert_eq!(line.starts_with("<6>listening"), is_journal, "{line}");
        assert_eq!(line.starts_with("20"), !is_journal, "{line}");
    }
}
