//! A disk without room under the state file.

use std::fs::{self, OpenOptions};
use std::io::Write;

use super::*;

/// A file system of 4 MiB, until it is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let options = ["-t", "tmpfs", "-o", "size=4m", "tmpfs", text(folder.path())];
        if !succeeds("mount", &options) {
            skip(test, "the right to mount a small disk");
            return None;
        }
        Some(Self(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("ballast"))
            .expect("made");
        for size in [4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.path("ballast")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = succeeds("umount", &["-l", text(self.0.path())]);
    }
}

fn complaints(discovery: &Child) -> usize {
    let is_one = |line: &&String| line.contains("cannot write the state file");
    discovery.log().iter().filter(is_one).count()
}

/// Cells come, beat and leave, and all of it is answered as ever.
fn live(discovery: &Child, round: usize) {
    let slowest = (0..20).map(|n| {
        let asked = Instant::now();
        register(discovery, &format!("{round}.{n}"), "");
        let beat = format!(r#"{{"cell_id":"{round}.{n}"}}"#);
        assert_eq!(discovery.post("/heartbeat", &beat).status, 200);
        if n % 2 == 0 {
            let gone = discovery.delete(&format!("/peer/{round}.{n}"));
            assert_eq!(gone.status, 200);
        }
        asked.elapsed()
    });
    let slowest = slowest.max().expect("some");
    assert!(slowest < 2 * SECOND, "{slowest:?}");
}

#[test]
fn a_full_disk_is_no_bodys_trouble_and_written_to_once_there_is_room() {
    let Some(disk) = SmallDisk::mount("a full disk under the state file") else {
        return;
    };
    let file = disk.path("discovery.state");
    let mut discovery = with_state(&file, &[]);
    register(&discovery, "before", "");
    let_it_be_written();
    disk.fill();
    // In full: more than a minute, for what is said once a minute.
    let (rounds, most) = if full_form() { (130, 3) } else { (12, 1) };
    let full_from = Instant::now();
    for round in 0..rounds {
        live(&discovery, round);
        pause(SECOND / 2);
    }
    let full_for = full_from.elapsed();
    let said = complaints(&discovery);
    report(&format!(
        "the disk full for {full_for:?}: {said} lines in the log, {} cells came and half of them left",
        20 * rounds
    ));
    assert!((1..=most).contains(&said), "{said}");
    assert_eq!(metric(&discovery, "aios_discovery_state_behind", ""), 1.0);
    let before = list(&discovery);
    disk.make_room();
    discovery.wait_for_line("is up to date", SOON);
    assert_eq!(metric(&discovery, "aios_discovery_state_behind", ""), 0.0);
    kill(discovery);
    comes_back(&file, &before);
}

#[test]
fn killed_while_its_disk_is_full_the_next_knows_that_some_are_missing() {
    let Some(disk) = SmallDisk::mount("a kill on a full disk") else {
        return;
    };
    let file = disk.path("discovery.state");
    let first = with_state(&file, &[]);
    fill_the_page(&first, &file);
    let before = list(&first);
    disk.fill();
    register(&first, "unwritten", "");
    wait_for("it cannot be written", SOON, || complaints(&first) == 1);
    // Nobody else may write it meanwhile.
    is_refused(&file);
    kill(first);
    let mut second = with_state(&file, &[]);
    let after = list(&second);
    assert_eq!(ids(&second), ["a"]);
    assert_eq!(after["settling"], true);
    assert_ne!(after["epoch"], before["epoch"]);
    assert_eq!(second.get("/ready").status, 503);
    second.wait_for_line("could not be written any more before the end", SOON);
    let flaws = "aios_discovery_state_flaws_total";
    assert_eq!(metric(&second, flaws, "\"behind\""), 1.0);
    // Where there was room again in time, nothing is missing.
    disk.make_room();
    second.wait_for_line("is up to date", SOON);
    register(&second, "b", "");
    let_it_be_written();
    let before = list(&second);
    kill(second);
    let third = with_state(&file, &[]);
    assert_eq!(ids(&third), ["a", "b"]);
    assert_eq!(list(&third)["epoch"], before["epoch"]);
}

/// The next discovery has all that was in the list.
fn comes_back(file: &Path, before: &Value) {
    let after = list(&with_state(file, &[]));
    assert_eq!(after["count"], before["count"]);
    assert_eq!(after["epoch"], before["epoch"]);
    assert!(revision(&after) > revision(before));
}

/// Registers peer `a` again and again until the file ends just before the end of a page: the rest
/// of one that is begun has room on a full disk, too.
fn fill_the_page(discovery: &Child, file: &Path) {
    const PAGE: usize = 4096;
    let length = || {
        let_it_be_written();
        usize::try_from(fs::metadata(file).expect("there").len()).expect("small")
    };
    let branch = |text: &str| register(discovery, "a", &format!(r#","branch":"{text}""#));
    let before = length();
    branch("0");
    let mut end = length();
    let line = end - before;
    for n in 1.. {
        let rest = PAGE - end % PAGE;
        if (line + 5..line + 200).contains(&rest) {
            branch(&"x".repeat(rest - line - 2));
            break;
        }
        branch(&(n % 10).to_string());
        end += line;
    }
    assert!(length() % PAGE > PAGE - 10);
}

#[test]
fn on_a_full_disk_it_starts_with_what_was_there() {
    let Some(disk) = SmallDisk::mount("a start on a full disk") else {
        return;
    };
    let file = disk.path("discovery.state");
    let first = with_state(&file, &[]);
    fill_the_page(&first, &file);
    let before = list(&first);
    kill(first);
    disk.fill();
    let mut second = with_state(&file, &[]);
    assert_eq!(ids(&second), ["a"]);
    // No revision could be reserved, so nobody may compare with those there were.
    assert_ne!(list(&second)["epoch"], before["epoch"]);
    assert_eq!(complaints(&second), 1);
    live(&second, 0);
    disk.make_room();
    second.wait_for_line("is up to date", SOON);
    let before = list(&second);
    kill(second);
    comes_back(&file, &before);
}
