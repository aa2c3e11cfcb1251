//! A system that gives no more threads.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// A control group for processes and their threads, removed when it is dropped.
struct Group(PathBuf);

impl Group {
    /// Makes one, where that can be done.
    fn make(name: &str) -> Option<Self> {
        let name = format!("aios-mesh-{name}-{}", std::process::id());
        let of_its_own = Path::new("/sys/fs/cgroup/pids");
        let unified = Path::new("/sys/fs/cgroup");
        let root = if of_its_own.is_dir() {
            of_its_own
        } else {
            // Refused where it is on already, or where this may not be done.
            let _ = fs::write(unified.join("cgroup.subtree_control"), "+pids");
            unified
        };
        let path = root.join(name);
        fs::create_dir(&path).ok()?;
        let group = Self(path);
        group.limit("max").ok()?;
        Some(group)
    }

    fn limit(&self, most: &str) -> io::Result<()> {
        fs::write(self.0.join("pids.max"), most)
    }

    fn take_in(&self, child: &Child) {
        let processes = self.0.join("cgroup.procs");
        fs::write(processes, child.pid().to_string()).expect("taken in");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that have ended leave it a moment later.
        let gone = || fs::remove_dir(&self.0).is_ok();
        let deadline = Instant::now() + SOON;
        while !gone() && Instant::now() < deadline {
            pause(Duration::from_millis(20));
        }
    }
}

#[test]
fn exhausted_threads_cost_no_member_its_place() {
    let Some(group) = Group::make("exhausted") else {
        return skip("exhausted_threads", "a control group with pids.max");
    };
    let discovery = usual(&[]);
    group.take_in(&discovery);
    let mut trial = Trial::start("threads exhausted", discovery);
    // Which of those who have said nothing yet are about to nobody knows, and some have to go.
    trial.may_be_cut_off = 5;
    trial.run(|discovery| {
        // No more than there are now, with those of the members among them.
        group.limit("1").expect("limited");
        let mut held = Vec::new();
        for _ in 0..200 {
            let mut connection = discovery.connect();
            connection.send(b"GET /hea");
            held.push(connection);
        }
        pause(lasts(4, 30));
        group.limit("max").expect("limited");
        // The connections stay a while longer.
        there_is_service(&discovery.address);
        drop(held);
    });
}

#[test]
fn one_thread_is_left_to_a_discovery_that_had_nothing_to_do() {
    let Some(group) = Group::make("quiet") else {
        return skip("one_thread_is_left", "a control group with pids.max");
    };
    let discovery = discovery(&["--idle-timeout", "100ms"]);
    group.take_in(&discovery);
    let at_rest = discovery.threads() + 1;
    assert_eq!(discovery.get("/health").status, 200);
    pause(Duration::from_secs(1));
    assert!(discovery.threads() <= at_rest);
    group.limit("1").expect("limited");
    for _ in 0..20 {
        assert_eq!(discovery.get("/health").status, 200);
    }
}

/// Once there are threads again all are served.
fn there_is_service(address: &str) {
    let took = wait_for("there are threads again", SOON, || {
        matches!(ask(address, "GET", "/health", ""), Ok((200, _)))
    });
    assert!(took < WELL, "served after {took:?}");
}
