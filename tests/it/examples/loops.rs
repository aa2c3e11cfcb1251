//! The examples that act on every change.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Example, example, has_tools};
use crate::support::{
    Child, SOON, discovery, holds_for, ids, median, metric, pause, register, report, wait_for,
};

const SECOND: Duration = Duration::from_secs(1);

/// A loop that runs, and what it prints.
struct Loop {
    _child: Child,
    printed: PathBuf,
    _folder: TempDir,
}

impl Loop {
    fn start(example: &Example) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let command = example.command(folder.path());
        Self::of(command, folder)
    }

    /// One that finds discovery by its variable.
    fn start_with(example: &Example, discovery: &Child) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = example.command(folder.path());
        command.env("AIOS_DISCOVERY_URL", discovery.url());
        Self::of(command, folder)
    }

    fn of(mut command: Command, folder: TempDir) -> Self {
        let printed = folder.path().join("printed");
        command.stdout(File::create(&printed).expect("a file"));
        Self {
            _child: Child::spawn(command),
            printed,
            _folder: folder,
        }
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(&self.printed).expect("UTF-8")
    }

    /// Its last line, if that is whole.
    fn last(&self) -> String {
        let printed = self.printed();
        let whole = printed.rfind('\n').map_or("", |end| &printed[..end]);
        whole.lines().last().unwrap_or_default().to_owned()
    }
}

#[test]
fn a_loop_that_waits_for_changes_prints_the_truth_after_each_of_a_hundred() {
    const CHANGES: usize = 100;
    if !has_tools("a_loop_that_waits_for_changes") {
        return;
    }
    let discovery = discovery(&["--stale-after", "1s", "--reap-every", "60m"]);
    wait_for("discovery is ready", SOON, || {
        discovery.get("/ready").status == 200
    });
    let printing = Loop::start(&example("mesh-changes").asking(&discovery));
    let mut took = Vec::new();
    let mut there: Vec<String> = Vec::new();
    for change in 0..CHANGES {
        if change % 3 == 2 {
            let gone = there.remove(change % there.len());
            assert_eq!(discovery.delete(&format!("/peer/{gone}")).status, 200);
        } else {
            there.push(format!("cell-{change}"));
            register(&discovery, &there[there.len() - 1]);
        }
        let changed = Instant::now();
        assert_eq!(ids(&discovery), there);
        wait_for("it has printed the truth", SOON, || {
            let last = printing.last();
            let (_, ids) = last.split_once(": ").unwrap_or_default();
            ids.split_whitespace().eq(&there)
        });
        took.push(changed.elapsed());
    }
    let slowest = took.iter().max().copied();
    report(&format!(
        "a loop on index and wait has printed {CHANGES} changes, each after {:?}, at most {slowest:?}",
        median(took)
    ));
    // Once for each: nobody was told twice.
    let printed = printing.printed();
    let mut lines: Vec<&str> = printed.lines().collect();
    let count = lines.len();
    lines.dedup();
    assert_eq!(lines.len(), count, "{printed}");
    assert!(count <= CHANGES + 1, "{printed}");
}

#[test]
fn a_loop_that_waits_for_changes_keeps_its_list_while_discovery_settles() {
    if !has_tools("a_loop_that_waits_for_changes_keeps_its_list") {
        return;
    }
    let held = crate::support::Held::open();
    let flags = ["--stale-after", "5s", "--reap-every", "60m"];
    let first = held.discovery(&flags);
    wait_for("discovery is ready", SOON, || {
        first.get("/ready").status == 200
    });
    register(&first, "one");
    register(&first, "two");
    let url = format!("http://{}", held.address);
    let example = example("mesh-changes").with("http://127.0.0.1:8001", &url);
    let printing = Loop::start(&example);
    let is_last = |ids: &str| printing.last().ends_with(&format!(": {ids} "));
    wait_for("it has printed both", SOON, || is_last("one two"));

    drop(first);
    let second = held.discovery(&flags);
    register(&second, "two");
    holds_for("it prints nothing while that settles", SECOND, || {
        is_last("one two")
    });
    wait_for("it has printed the one that is left", SOON, || {
        is_last("two")
    });
    let printed = printing.printed();
    assert_eq!(
        printed
            .lines()
            .filter(|line| line.ends_with(": two "))
            .count(),
        1
    );
}

#[test]
fn what_happens_is_acted_on_as_it_happens() {
    if !has_tools("what_happens_is_acted_on_as_it_happens") {
        return;
    }
    let discovery = discovery(&["--stale-after", "60m"]);
    let acting = Loop::start_with(&example("on-leave"), &discovery);
    let streaming = Loop::start(&example("events").asking(&discovery));
    wait_for("both follow", SOON, || {
        metric(&discovery, "aios_discovery_waiting", "") == 2.0
    });
    register(&discovery, "one");
    assert_eq!(discovery.delete("/peer/one").status, 200);
    wait_for("it has acted", SOON, || {
        acting.printed() == "one left: deregistered\n"
    });
    wait_for("both were told", SOON, || {
        streaming.printed().contains("event: leave\n")
    });
    assert!(streaming.printed().contains("event: join\n"));
}

#[test]
fn loops_that_ask_every_two_seconds_see_changes_too() {
    if !has_tools("loops_that_ask_every_two_seconds") {
        return;
    }
    let discovery = discovery(&["--stale-after", "1s", "--reap-every", "60m"]);
    register(&discovery, "one");
    let with_jq = Loop::start(&example("poll").asking(&discovery));
    let with_ours = Loop::start(&example("tool").asking(&discovery));
    let both = |line: &str, tabs: &str| {
        wait_for(line, SOON, || {
            with_jq.last() == line && with_ours.last() == tabs
        });
    };
    both("one 127.0.0.1:1", "one\t127.0.0.1\t1");
    register(&discovery, "two");
    both("two 127.0.0.1:1", "two\t127.0.0.1\t1");
    pause(3 * SECOND);
    assert_eq!(
        with_jq.printed(),
        "the mesh is now:\none 127.0.0.1:1\nthe mesh is now:\none 127.0.0.1:1\ntwo 127.0.0.1:1\n"
    );
}
