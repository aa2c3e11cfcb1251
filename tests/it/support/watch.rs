//! `aios-mesh watch` as a child process, and what it tells.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{Child, SOON, command, metric, wait_for};

/// A running `aios-mesh watch`.
pub struct Watch {
    pub child: Child,
    folder: TempDir,
}

impl Watch {
    /// Starts it; what happens from when this returns is told.
    pub fn start(discovery: &Child, flags: &[&str]) -> Self {
        let waiting = || metric(discovery, "aios_discovery_waiting", "");
        let before = waiting();
        let watch = Self::of(&discovery.url(), flags);
        wait_for("it follows", SOON, || waiting() > before);
        watch
    }

    pub fn of(url: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let printed = File::create(folder.path().join("printed")).expect("a file");
        let mut command = command("aios-mesh");
        command.args(["watch", "--discovery", url]).args(flags);
        command.stdout(Stdio::from(printed));
        let child = Child::spawn(command);
        Self { child, folder }
    }

    /// The lines it has printed.
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("printed")).expect("UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        text.lines().map(str::to_owned).collect()
    }

    /// So many lines, waited for.
    pub fn wait_for_lines(&self, count: usize) -> Vec<String> {
        wait_for("it is told", 2 * SOON, || self.lines().len() >= count);
        let lines = self.lines();
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }

    /// Its lines without the time.
    pub fn told(&self, count: usize) -> Vec<String> {
        let lines = self.wait_for_lines(count);
        let untimed = |line: &String| {
            let (time, rest) = line.split_once("  ").expect("a time");
            assert!(time.ends_with('Z') && time.len() == 27, "{line}");
            rest.to_owned()
        };
        lines.iter().map(untimed).collect()
    }

    /// So many lines as objects, waited for.
    pub fn objects(&self, count: usize) -> Vec<Value> {
        self.wait_for_lines(count);
        self.objects_so_far()
    }

    /// The lines it has printed, as objects.
    pub fn objects_so_far(&self) -> Vec<Value> {
        let lines = self.lines();
        let object = |line: &String| serde_json::from_str(line).expect("JSON");
        lines.iter().map(object).collect()
    }

    /// Ends it; returns what it has said on stderr.
    pub fn end(mut self, signal: Signal) -> Vec<String> {
        self.child.signal(signal);
        let (status, took) = self.child.wait(SOON);
        assert_eq!(status.code(), Some(0));
        assert!(took < Duration::from_secs(1), "{took:?}");
        self.child.whole_log()
    }
}
