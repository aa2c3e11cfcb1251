//! A discovery that comes back: what its state file brings, and what it does not get in the way of.

mod flaws;
mod kills;
mod order;
mod restarts;
mod room;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Child, SOON, command, discovery, full_form, ids, metric, pause, report, skip, succeeds,
    wait_for,
};

const SECOND: Duration = Duration::from_secs(1);

/// A folder for a state file, and the file's name.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("discovery.state");
    (folder, file)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A discovery with that state file.
fn with_state(file: &Path, flags: &[&str]) -> Child {
    discovery(&[&["--state-file", text(file)], flags].concat())
}

/// A discovery cannot have that state file, and says so.
fn is_refused(file: &Path) {
    let mut second = command("aios-discovery");
    second
        .args(["--host", "127.0.0.1", "--port", "0"])
        .args(["--state-file", text(file)])
        .env("LOG_LEVEL", "error");
    let mut second = Child::spawn(second);
    assert_eq!(second.wait(SOON).0.code(), Some(1));
    let said = second.whole_log();
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].contains("in use by another discovery"), "{said:?}");
    assert!(said[0].contains("--state-file"), "{said:?}");
}

fn register(discovery: &Child, id: &str, more: &str) {
    let body = format!(r#"{{"cell_id":"{id}","ip":"10.0.0.1","port":7{more}}}"#);
    let answer = discovery.post("/register", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn list(discovery: &Child) -> Value {
    discovery.get("/peers").json()
}

fn revision(list: &Value) -> u64 {
    list["revision"].as_u64().expect("a number")
}

fn kill(mut discovery: Child) {
    discovery.signal(rustix::process::Signal::KILL);
    discovery.wait(SOON);
}

fn stop(mut discovery: Child) {
    discovery.signal(rustix::process::Signal::TERM);
    assert_eq!(discovery.wait(SOON).0.code(), Some(0));
}

/// Waits until what has happened so far is in the file: as long as it may take.
fn let_it_be_written() {
    pause(SECOND);
}
