//! The wall clock is stepped under running programs, by libfaketime; the monotonic clock, by which
//! the kernel counts, goes on as it does.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::support::{command, register, skip};

const HOUR: i64 = 3600;
/// The lease, and how often it is looked at: short, so that it ends while the test looks on.
const LEASE: Duration = SECOND;
const FLAGS: [&str; 4] = ["--stale-after", "1s", "--reap-every", "100ms"];
/// How late a reaper may be, on a machine with much else to do.
const LATE: Duration = SECOND;

/// A wall clock for the programs that are started with it.
struct WallClock {
    library: PathBuf,
    folder: TempDir,
}

impl WallClock {
    fn new() -> Option<Self> {
        let library = std::fs::read_dir("/usr/lib")
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
            .find(|path| path.exists())?;
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Self { library, folder };
        clock.set(0);
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// Steps it to so many seconds after the real one. Nobody reads half of that.
    fn set(&self, offset: i64) {
        let written = self.folder.path().join("next");
        std::fs::write(&written, format!("{offset:+}\n")).expect("written");
        std::fs::rename(written, self.file()).expect("renamed");
    }

    /// A program that goes by it.
    fn start(&self, program: &str, flags: &[&str]) -> Child {
        let mut command = command(program);
        command
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(flags)
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.file())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Child::listening(command)
    }
}

/// How far a time that discovery shows is from the real one, in seconds.
fn offset(shown: SystemTime) -> i64 {
    let now = SystemTime::now();
    let seconds = |ahead: Duration| ahead.as_secs_f64().round() as i64;
    match shown.duration_since(now) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    }
}

#[test]
fn a_stepped_wall_clock_loses_nobody_and_keeps_nobody() {
    let Some(clock) = WallClock::new() else {
        return skip(
            "a_stepped_wall_clock_loses_nobody_and_keeps_nobody",
            "libfaketime (faketime)",
        );
    };
    let mut discovery = clock.start("aios-discovery", &FLAGS);
    let own = ["--discovery", &discovery.url()];
    // One has a clock of its own, two that of discovery.
    let _steady = cell(&discovery.url(), &["--id", "steady"]);
    let _stepped: Vec<Child> = ["one", "two"]
        .iter()
        .map(|id| clock.start("aios-cell", &[&own[..], &["--id", id]].concat()))
        .collect();
    let members = || {
        let mut ids = ids(&discovery);
        ids.retain(|id| !id.starts_with("silent"));
        ids.sort_unstable();
        ids
    };
    let all = ["one", "steady", "two"];
    wait_for("all are listed", SOON, || members() == all);

    let mut gone_after = Vec::new();
    for hours in [1, -1, 0, -1, 1] {
        // One says a last word just before the step.
        let earliest = Instant::now();
        register(&discovery, "silent");
        let silent = Instant::now();
        clock.set(hours * HOUR);
        let mut gone = None;
        holds_for("all members are listed", 3 * LEASE, || {
            // Looked at before it is asked: what comes then is later.
            let at = silent.elapsed();
            match ids(&discovery).iter().any(|id| id == "silent") {
                true => assert!(at < LEASE + LATE, "it is kept for {at:?}"),
                false => drop(gone.get_or_insert(earliest.elapsed())),
            }
            members() == all
        });
        let gone = gone.expect("it is gone");
        assert!(gone > LEASE, "it was gone after {gone:?}");
        gone_after.push(gone);

        // What is shown has made the step.
        let list = discovery.get("/peers").json();
        let now = aios_mesh::wire::parse_timestamp(list["now"].as_str().expect("a time"));
        assert_eq!(offset(now.expect("a time")), hours * HOUR);
        for (id, at) in last_seen_at(&discovery.address) {
            let apart = (offset(at) - hours * HOUR).abs();
            assert!(apart <= 2, "{id}: {apart} s apart");
        }
    }
    report(&format!(
        "wall clock stepped by hours, a lease of 1 s: the silent gone after {gone_after:?}"
    ));
    // Nobody of them was reaped, unknown, or there a second time.
    discovery.signal(Signal::TERM);
    assert_eq!(discovery.wait(SOON).0.code(), Some(0));
    let log = discovery.whole_log();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    for id in all {
        assert_eq!(count(&format!("Registered peer: {id} ")), 1, "{log:#?}");
        assert_eq!(count(&format!("Reaping stale peer {id} ")), 0, "{log:#?}");
    }
    assert_eq!(count("Heartbeat from unknown peer"), 0, "{log:#?}");
    assert_eq!(count("Reaping stale peer silent "), 5, "{log:#?}");
}
