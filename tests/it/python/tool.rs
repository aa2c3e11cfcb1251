//! The operator's tool, the Python discovery.

use super::*;

/// Runs `aios-mesh` against `discovery`.
fn mesh(discovery: &Child, arguments: &[&str]) -> Output {
    run(
        "aios-mesh",
        arguments,
        &[("AIOS_DISCOVERY_URL", &discovery.url())],
    )
}

/// What a run printed, which must have succeeded.
fn printed(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_operators_tool_lists_and_takes_out_peers_of_the_python_discovery() {
    let Some(python) = Python::found() else {
        return;
    };
    let mut discovery = python.discovery("0", &[LONG_LEASE]);
    let list = |format| printed(mesh(&discovery, &["peers", "--format", format]));
    assert_eq!(list("ids"), "");
    let body = json!({
        "cell_id": "a/b ü", "ip": "::1", "port": 8002, "consciousness_level": 5.2, "type": "odd_cell",
    });
    assert_eq!(discovery.post("/register", &body.to_string()).status, 200);
    register(&discovery, "tot & weg");
    let mut cell = our_cell(&discovery.url(), &["--id", "runs"]);
    wait_for("our cell is listed", SOON, || ids(&discovery).len() == 3);

    assert_eq!(list("ids"), "a/b ü\ntot & weg\nruns\n");
    let json: Value = serde_json::from_str(&list("json")).expect("JSON");
    assert_eq!(json["count"], 3);
    assert_eq!(json["peers"][0]["cell_id"], "a/b ü");
    let tsv = list("tsv");
    let rows: Vec<Vec<&str>> = tsv.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(
        rows[0],
        ["id", "ip", "port", "type", "level", "last_seen", "age"]
    );
    assert_eq!(rows[1][..5], ["a/b ü", "::1", "8002", "odd_cell", "5.2"]);
    assert!(parse_timestamp(rows[1][5]).is_some(), "{tsv}");
    let age: f64 = rows[1][6].parse().expect("seconds");
    // This discovery does not say what time it has, so the tool's own clock is used.
    assert!((0.0..SOON.as_secs_f64()).contains(&age), "{tsv}");
    let table = list("table");
    let mut lines = table.lines();
    let head = ["ID", "ADDRESS", "TYPE", "LEVEL", "LAST", "BEAT", "STATE"];
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(lines.next().expect("a head")), head);
    let first = words(lines.next().expect("a peer"));
    assert_eq!(first[..5], ["a/b", "ü", "[::1]:8002", "odd_cell", "5.2"]);
    assert_eq!(lines.count(), 2);

    let output = mesh(&discovery, &["deregister", "tot & weg"]);
    assert_eq!(printed(output), "deregistered tot & weg\n");
    assert_eq!(ids(&discovery), ["a/b ü", "runs"]);
    let output = mesh(&discovery, &["deregister", "tot & weg"]);
    assert_eq!(output.status.code(), Some(1));
    let why = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(why.contains("no peer has the id tot & weg"), "{why}");

    // One that runs is back at its next beat.
    assert!(mesh(&discovery, &["deregister", "runs"]).status.success());
    discovery.wait_for_line("Peer deregistered gracefully: runs", SOON);
    wait_for("it is back", INTERVAL + MARGIN, || {
        ids(&discovery) == ["a/b ü", "runs"]
    });
    cell.wait_for_line("does not know runs", SOON);
}

#[test]
fn the_operators_tool_follows_the_python_discovery_over_its_restart() {
    let Some(python) = Python::found() else {
        return;
    };
    let port = Port::reserve();
    let discovery = python.discovery(&port.number, &[LONG_LEASE]);
    let ok = |arguments: &[&str]| {
        let output = run(
            "aios-mesh",
            arguments,
            &[("AIOS_DISCOVERY_URL", &port.url())],
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let mut watch = Watch::of(&port.url(), &[]);
    watch.child.wait_for_line("is an older one", SOON);
    let cell = our_cell(&port.url(), &["pure"]);
    ok(&["wait", "--for", "pure", "--timeout", "10s"]);
    assert!(ok(&["explain", "pure"]).starts_with("pure is here: it was last heard of 0."));
    let joined = format!("joined   pure {} pure_cell level 0.1", cell.address);
    assert_eq!(watch.told(1), [joined.as_str()]);

    // Who comes back after a restart was not away, though this discovery does not say that it has
    // only just started.
    kill(discovery);
    watch.child.wait_for_line("lost discovery", SOON);
    let discovery = python.discovery(&port.number, &[LONG_LEASE]);
    watch.child.wait_for_line("is back", SOON);
    ok(&["wait", "--min", "1", "--timeout", "10s"]);
    register(&discovery, "b");
    assert_eq!(watch.told(2)[1], "joined   b 127.0.0.1:1 cell level 0");
    // Nor is anybody gone yet.
    assert_eq!(discovery.delete("/peer/b").status, 200);
    ok(&["wait", "--gone", "b"]);
    assert_eq!(watch.lines().len(), 2);
    assert_eq!(watch.end(Signal::TERM).len(), 3);
}
