//! The README's examples, run as they stand there.
//!
//! Each is a block of code with a name behind its language. What stands for something of the
//! reader's own (discovery's address, a file of the system) is replaced by something of the test's.

mod loops;
mod once;
mod units;
mod upstream;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::deploy::{file, output};
use crate::support::{Child, command, skip, succeeds};

/// A block of code in the README.
pub(crate) struct Example {
    language: String,
    name: String,
    pub(crate) text: String,
}

/// All that are meant to be run or installed, in order.
fn examples() -> Vec<Example> {
    let readme = std::fs::read_to_string(file("README.md")).expect("a README");
    let mut examples = Vec::new();
    let mut open: Option<Example> = None;
    for line in readme.lines() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(head), None) => {
                let (language, name) = head.split_once(' ').unwrap_or((head, ""));
                open = Some(Example {
                    language: language.to_owned(),
                    name: name.to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => examples.extend(open.take()),
            (None, Some(example)) => example.text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    examples.retain(|example| ["sh", "bash", "ini"].contains(&&*example.language));
    examples
}

/// The one of this name.
pub(crate) fn example(name: &str) -> Example {
    let mut examples = examples();
    examples.retain(|example| example.name == name);
    assert_eq!(examples.len(), 1, "{name} in the README");
    examples.remove(0)
}

impl Example {
    /// With something of ours in place of what stands there.
    fn with(mut self, theirs: &str, ours: &str) -> Self {
        assert!(self.text.contains(theirs), "{theirs}: {}", self.text);
        self.text = self.text.replace(theirs, ours);
        self
    }

    /// With a discovery of ours in place of the usual one.
    fn asking(self, discovery: &Child) -> Self {
        self.with("http://127.0.0.1:8001", &discovery.url())
    }

    /// As a file.
    fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join(&self.name);
        std::fs::write(&path, &self.text).expect("written");
        path
    }

    /// A command that runs it, and finds the programs that were built before any others.
    fn command(&self, folder: &Path) -> Command {
        let built = command("aios-mesh").get_program().to_owned();
        let built = Path::new(&built).parent().expect("a folder").to_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(&self.language);
        command
            .arg(self.write(folder))
            .current_dir(folder)
            .env_clear()
            .env("PATH", format!("{}:{path}", built.display()))
            .stdin(Stdio::null())
            // What it starts ends with it.
            .process_group(0);
        command
    }

    /// Runs it to its end, which is a good one. Returns what it said.
    fn said(&self) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        crate::deploy::said(&mut self.command(folder.path()))
    }
}

/// Whether there is all that the examples for a shell use.
fn has_tools(test: &str) -> bool {
    for tool in ["curl", "jq", "bash"] {
        if !succeeds(tool, &["--version"]) {
            skip(test, tool);
            return false;
        }
    }
    true
}

#[test]
fn every_example_is_run() {
    const HERE: [&str; 18] = [
        "who",
        "until",
        "poll",
        "tool",
        "grep",
        "as-cell",
        "on-leave",
        "wait",
        "events",
        "mesh-changes",
        "report.service",
        "mesh-upstream",
        "third",
        "follow.conf",
        "follow",
        "loopback.conf",
        "loopback",
        "tokens",
    ];
    const ELSEWHERE: [(&str, &str); 10] = [
        ("start", "by cargo; up.rs tests what it starts"),
        (
            "static",
            "by .ci/run; deploy/machine.rs installs what it makes",
        ),
        ("manual", "by deploy/debian/build; deploy/manual.rs"),
        (
            "debian",
            "by .ci/run; deploy/package.rs installs what it makes",
        ),
        ("units", "deploy/machine.rs"),
        ("nginx", "deploy/front.rs, with ports and files of its own"),
        (
            "prometheus",
            "deploy/prometheus.rs, with an address of its own",
        ),
        ("docker", "deploy/containers.rs, with names of its own"),
        (
            "full",
            "it takes hours; every cargo test runs its short form",
        ),
        ("benchmarks", "by .ci/run, in their short form"),
    ];
    let known = ELSEWHERE.iter().map(|(name, _)| *name).chain(HERE);
    let mut known: Vec<&str> = known.collect();
    let examples = examples();
    let mut named: Vec<&str> = examples.iter().map(|example| &*example.name).collect();
    known.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, known);
}

#[test]
fn shellcheck_is_content_with_every_script_and_every_example() {
    const TEST: &str = "shellcheck_is_content_with_every_script_and_every_example";
    if !succeeds("shellcheck", &["--version"]) {
        return skip(TEST, "shellcheck");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut complaints = Vec::new();
    let mut check = |arguments: &[&str], path: &Path| {
        let checked = output(
            Command::new("shellcheck")
                .args(["--external-sources", "--format", "gcc"])
                .args(arguments)
                .arg(path)
                .current_dir(file(".")),
        );
        assert!(checked.stderr.is_empty(), "{checked:?}");
        complaints.push(String::from_utf8_lossy(&checked.stdout).into_owned());
    };
    let mut scripts = Vec::new();
    for place in [".ci", "benches", "deploy", "tests"] {
        scripts_in(&file(place), &mut scripts);
    }
    assert!(scripts.len() > 8, "{scripts:?}");
    for path in &scripts {
        check(&[], path);
    }
    for example in examples() {
        if example.language != "ini" {
            check(
                &["--shell", &example.language],
                &example.write(folder.path()),
            );
        }
    }
    assert_eq!(complaints.concat(), "");
}

/// The files that are written in a shell's language.
fn scripts_in(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            scripts_in(&path, found);
            continue;
        }
        let text = std::fs::read(&path).expect("readable");
        let first = text.split(|byte| *byte == b'\n').next().expect("a line");
        let first = String::from_utf8_lossy(first);
        let is_script = first.starts_with("#!") && first.ends_with("sh");
        if is_script || first.starts_with("# shellcheck shell=") {
            found.push(path);
        }
    }
}
