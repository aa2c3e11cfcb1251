//! The examples that ask once, or wait and end.

use std::fs::File;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::{example, has_tools};
use crate::support::{Child, SOON, discovery, ids, ids_at, peers, register, wait_for};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_list_is_read_with_jq_and_without() {
    if !has_tools("the_list_is_read_with_jq_and_without") {
        return;
    }
    let discovery = discovery(&[]);
    register(&discovery, "one");
    register(&discovery, "two");
    let said = example("who").asking(&discovery).said();
    assert_eq!(said, "one\t127.0.0.1\t1\ntwo\t127.0.0.1\t1\n");
    let said = example("grep").asking(&discovery).said();
    assert_eq!(said, "one\ntwo\n");
}

#[test]
fn a_script_waits_for_a_cell() {
    if !has_tools("a_script_waits_for_a_cell") {
        return;
    }
    let discovery = discovery(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let example = example("until").asking(&discovery);
    let mut waiting = Child::spawn(example.command(folder.path()));
    register(&discovery, "impure");
    crate::support::holds_for("it waits", SECOND, || waiting.runs());
    register(&discovery, "pure");
    assert!(waiting.wait(SOON).0.success());
}

#[test]
fn a_script_waits_for_one_thing_after_the_other() {
    let discovery = discovery(&["--stale-after", "1s", "--reap-every", "60m"]);
    register(&discovery, "pure");
    register(&discovery, "worker7");
    let folder = tempfile::tempdir().expect("a folder");
    let printed = folder.path().join("printed");
    let mut command = example("wait").command(folder.path());
    command
        .env("AIOS_DISCOVERY_URL", discovery.url())
        .stdout(File::create(&printed).expect("a file"));
    let mut waiting = Child::spawn(command);
    let both = || std::fs::read_to_string(&printed).expect("UTF-8") == "both are there\n";
    crate::support::holds_for("alpha is waited for", SECOND, || !both());
    register(&discovery, "alpha");
    wait_for("both are there", SOON, both);
    crate::support::holds_for("it waits until one is gone", SECOND, || waiting.runs());
    assert_eq!(discovery.delete("/peer/worker7").status, 200);
    assert!(waiting.wait(SOON).0.success());
}

#[test]
fn a_third_cell_is_added() {
    let discovery = discovery(&[]);
    let example = example("third").with("cargo run --release --bin aios-cell --", "exec aios-cell");
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = example.command(folder.path());
    command.env("AIOS_DISCOVERY_URL", discovery.url());
    let third = Child::listening(command);
    wait_for("it is listed", SOON, || ids(&discovery) == ["worker7"]);
    third.signal(Signal::TERM);
    wait_for("it is gone", SOON, || ids(&discovery).is_empty());
}

#[test]
fn a_script_is_a_cell_for_as_long_as_its_command_runs() {
    if !has_tools("a_script_is_a_cell_for_as_long_as_its_command_runs") {
        return;
    }
    let discovery = discovery(&["--stale-after", "8s"]);
    let folder = tempfile::tempdir().expect("a folder");
    let example = example("as-cell").asking(&discovery);
    // Its command hears of a signal, and says so.
    let (script, output) = (
        "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done",
        folder.path().join("out"),
    );
    let mut command = example.command(folder.path());
    command
        .args(["backup", "sh", "-c", script])
        .stdout(File::create(&output).expect("a file"));
    let mut running = Child::spawn(command);
    wait_for("it is listed", SOON, || ids(&discovery) == ["backup"]);
    wait_for("it runs", SOON, || {
        std::fs::read_to_string(&output).is_ok_and(|text| text == "ready\n")
    });
    let peer = peers(&discovery).remove(0);
    assert_eq!(
        (&peer["type"], &peer["port"]),
        (&json!("script"), &json!(0))
    );
    // It beats, or it would be gone.
    crate::support::holds_for("it is listed", 10 * SECOND, || {
        ids(&discovery) == ["backup"]
    });
    running.signal(Signal::TERM);
    assert_eq!(running.wait(SOON).0.code(), Some(7));
    wait_for("it is gone", SOON, || ids(&discovery).is_empty());

    let mut command = example.command(folder.path());
    command.args(["quick", "cat"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    assert!(Child::spawn(command).wait(SOON).0.success());
}

#[test]
fn tokens_are_asked_for() {
    if !has_tools("tokens_are_asked_for") {
        return;
    }
    let port = {
        let free = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        free.local_addr().expect("bound").port()
    };
    let at = format!("127.0.0.1:{port}");
    let url = format!("http://{at}");
    let folder = tempfile::tempdir().expect("a folder");
    // A reader types one command after the other, and what takes a moment is done by then.
    let example = example("tokens").with("http://127.0.0.1:8001", &url);
    let listed = |count: usize| {
        wait_for("the cell is there, or not", SOON, || {
            std::net::TcpStream::connect(&at).is_ok() && ids_at(&at).len() == count
        });
    };
    let mut lines = example.text.lines();
    let mut started = Vec::new();
    let mut next = |count: usize, commands: usize| {
        let lines: Vec<&str> = lines.by_ref().take(commands).collect();
        let text = lines.join("\n");
        let part = super::Example {
            language: "sh".to_owned(),
            name: "part".to_owned(),
            // Where it was to run on, it is this test that lets it.
            text: match text.strip_suffix(" &") {
                Some(program) => format!("exec {program}"),
                None => text.clone(),
            },
        };
        let mut command = part.command(folder.path());
        command
            .env("DISCOVERY_HOST", "127.0.0.1")
            .env("DISCOVERY_PORT", port.to_string())
            .env("AIOS_CELL_PORT", "0")
            .env("AIOS_DISCOVERY_URL", &url)
            .stdout(Stdio::null());
        let mut child = Child::spawn(command);
        if text.ends_with('&') {
            started.push(child);
        } else {
            assert!(child.wait(SOON).0.success(), "{text}");
        }
        if !started.is_empty() {
            listed(count);
        }
    };
    next(0, 1);
    next(0, 1);
    next(1, 1);
    next(0, 1);
    // The cell comes back by itself, and is taken out once more.
    wait_for("it is back", SOON, || ids_at(&at) == ["pure"]);
    next(0, 2);
    assert_eq!(lines.next(), None);
    let answer = crate::support::request(&at, "DELETE", "/peer/pure", &[], b"");
    assert_eq!(answer.status, 401);
}
