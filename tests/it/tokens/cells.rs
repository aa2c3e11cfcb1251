//! Cells and the operator's tool with tokens: what they send, and what cells ask for.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::{ONE, OTHER, TWO, TokenFile, bearer, expect_no_token_in, lines, said, with};
use crate::support::{
    SOON, Stub, cell, discovery, holds_for, ids, one_line, register, run, wait_for,
};

#[test]
fn a_cell_with_a_token_registers_beats_and_leaves_where_one_is_asked_for() {
    let file = TokenFile::of(&[ONE, TWO]);
    let theirs = TokenFile::of(&[TWO, OTHER]);
    let discovery = discovery(&["--token-file", file.path(), "--stale-after", "1s"]);
    let flags = [
        "pure",
        "--token-file",
        theirs.path(),
        "--heartbeat-every",
        "100ms",
    ];
    let mut cell = cell(&discovery.url(), &flags);
    wait_for("it is registered", SOON, || ids(&discovery) == ["pure"]);
    holds_for("it is in the list", Duration::from_secs(2), || {
        ids(&discovery) == ["pure"]
    });
    cell.signal(Signal::TERM);
    assert_eq!(cell.wait(SOON).0.code(), Some(0));
    assert!(ids(&discovery).is_empty());
    assert!(said(&cell, "WARN").is_empty(), "{:?}", cell.log());
}

#[test]
fn a_cell_without_a_token_is_not_taken_and_says_where_to_look() {
    let file = TokenFile::of(&[ONE]);
    let discovery = discovery(&["--token-file", file.path()]);
    let theirs = TokenFile::of(&[OTHER]);
    for tokens in [&[][..], &["--token-file", theirs.path()]] {
        let flags = [&["pure"], tokens].concat();
        let mut cell = cell(&discovery.url(), &flags);
        let line = cell.wait_for_line("cannot register", SOON);
        assert!(
            line.contains("401") && line.contains("--token-file"),
            "{line}"
        );
        assert!(ids(&discovery).is_empty());
        cell.signal(Signal::TERM);
        cell.wait(SOON);
        expect_no_token_in(&cell.whole_log().join("\n"));
    }
}

#[test]
fn a_refused_beat_is_a_failure_like_any_other_and_a_new_token_ends_it() {
    let file = TokenFile::of(&[ONE, TWO]);
    let header = bearer(TWO).to_lowercase();
    let stub = Stub::start(move |request| {
        let is_new = request.head.to_lowercase().contains(&header);
        Some(match request.line.as_str() {
            "POST /heartbeat" if !is_new => (401, r#"{"detail":"no"}"#.to_owned()),
            _ => (200, "{}".to_owned()),
        })
    });
    let flags = [
        "pure",
        "--token-file",
        file.path(),
        "--heartbeat-every",
        "50ms",
    ];
    let mut cell = cell(&stub.url(), &flags);
    let line = cell.wait_for_line("heartbeat failed", SOON);
    assert!(
        line.contains("401") && line.contains("--token-file"),
        "{line}"
    );
    wait_for("it beats on", SOON, || {
        stub.arrived("POST /heartbeat").len() >= 10
    });
    assert_eq!(said(&cell, "heartbeat failed").len(), 1);
    file.replace(&lines(&[TWO, ONE]));
    cell.wait_for_line("works again", SOON);
    assert_eq!(stub.arrived("POST /register").len(), 1);
    cell.signal(Signal::TERM);
    cell.wait(SOON);
    assert_eq!(stub.arrived("DELETE /peer/pure").len(), 1);
    for (what, token) in [
        ("POST /register", ONE),
        ("POST /heartbeat", ONE),
        ("DELETE", TWO),
    ] {
        let head = stub.arrived(what)[0].head.to_lowercase();
        let sent = bearer(token).to_lowercase();
        assert_eq!(head.matches(&sent).count(), 1, "{head}");
        assert_eq!(head.matches("authorization").count(), 1, "{head}");
    }
}

#[test]
fn a_cell_asks_for_a_token_where_it_is_told_something_and_is_read_without() {
    let unreachable = Stub::start(|_| Some((200, "{}".to_owned())));
    let file = TokenFile::of(&[ONE, TWO]);
    let guarded = cell(&unreachable.url(), &["pure", "--token-file", file.path()]);
    let open = cell(&unreachable.url(), &["pure"]);
    let level = r#"{"level":0.5}"#;
    let sync = "/consciousness/sync";
    for (token, wrong) in [(None, false), (Some(OTHER), true), (Some(&ONE[1..]), true)] {
        let answer = match token {
            Some(token) => with(&guarded, token, "POST", sync, level),
            None => guarded.post(sync, level),
        };
        assert_eq!(answer.status, 401);
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(challenge.starts_with(r#"Bearer realm="aios-mesh""#));
        assert_eq!(challenge.contains("invalid_token"), wrong);
        assert_eq!(guarded.get("/consciousness").json()["level"], json!(0.1));
    }
    let foreign = ["Origin: http://evil.example", &bearer(ONE)];
    let answer = guarded.request("POST", sync, &foreign, level.as_bytes());
    assert_eq!(answer.status, 403);
    for token in [ONE, TWO] {
        assert_eq!(with(&guarded, token, "POST", sync, level).status, 200);
    }
    assert_eq!(guarded.get("/consciousness").json()["level"], json!(0.5));
    assert_eq!(open.post(sync, level).status, 200);
    for target in ["/health", "/consciousness", "/metrics"] {
        assert_eq!(guarded.get(target).status, 200, "{target}");
    }
    assert_eq!(guarded.get(sync).status, 405);
}

#[test]
fn the_tool_sends_its_token_and_says_when_one_is_missing() {
    let file = TokenFile::of(&[ONE]);
    let wrong = TokenFile::of(&[OTHER, ONE]);
    let discovery = discovery(&["--token-file", file.path(), "--protect-reads"]);
    let body = super::registration("a");
    let answer = with(&discovery, ONE, "POST", "/register", &body);
    assert_eq!(answer.status, 200);
    let url = discovery.url();
    for (command, said) in [
        (&["peers", "--format", "ids"][..], "a\n"),
        (&["deregister", "a"], "deregistered a\n"),
    ] {
        let arguments = [command, &["--discovery", &url]].concat();
        let output = run("aios-mesh", &arguments, &[]);
        assert_eq!(output.status.code(), Some(1));
        let line = one_line(&output);
        assert!(
            line.contains("401") && line.contains("--token-file"),
            "{line}"
        );

        let output = run(
            "aios-mesh",
            &arguments,
            &[("AIOS_TOKEN_FILE", wrong.path())],
        );
        assert_eq!(output.status.code(), Some(1));
        let line = one_line(&output);
        assert!(line.contains("first line of --token-file"), "{line}");
        expect_no_token_in(&line);

        let arguments = [&arguments[..], &["--token-file", file.path()]].concat();
        let output = run("aios-mesh", &arguments, &[("LOG_LEVEL", "error")]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(output.stdout, said.as_bytes());
    }
}

#[test]
fn a_token_does_not_follow_a_redirect() {
    let elsewhere = Stub::start(|_| Some((200, "{}".to_owned())));
    let location = elsewhere.url();
    let stub = Stub::start(move |request| {
        let path = request.line.rsplit(' ').next().unwrap_or_default();
        Some((307, format!("{location}{path}")))
    });
    let file = TokenFile::of(&[ONE]);
    let tokens = ["--token-file", file.path()];
    let url = ["--discovery", &stub.url()];
    for command in [&["peers"][..], &["deregister", "a"]] {
        let output = run("aios-mesh", &[command, &url, &tokens].concat(), &[]);
        assert_eq!(output.status.code(), Some(1));
    }
    let mut cell = cell(&stub.url(), &["pure", "--token-file", file.path()]);
    cell.wait_for_line("cannot register", SOON);
    assert_eq!(stub.arrived("").len(), 3);
    assert!(elsewhere.arrived("").is_empty());
}

#[test]
fn a_token_is_sent_to_a_discovery_that_asks_for_none() {
    let discovery = discovery(&[]);
    let file = TokenFile::of(&[ONE]);
    let _cell = cell(&discovery.url(), &["pure", "--token-file", file.path()]);
    wait_for("it is registered", SOON, || ids(&discovery) == ["pure"]);
    register(&discovery, "a");
    assert_eq!(ids(&discovery), ["pure", "a"]);
}
