//! `explain`: what is known of a peer.

use super::*;

/// The sentences, of a peer that is known.
fn sentences(discovery: &Child, id: &str) -> Vec<String> {
    let output = mesh(&discovery.url(), &["explain", id]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.is_empty(), "{said}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn of_one_that_is_there_it_tells_how_it_beats() {
    let discovery = discovery(&["--stale-after", "1s", "--reap-every", "100ms"]);
    let flags = ["--id", "a/b ü", "--services", "x,y"];
    let refused = run("aios-cell", &flags, &[]);
    assert_eq!(refused.status.code(), Some(2));
    let flags = [
        "--id",
        "a ü",
        "--services",
        "x,y",
        "--heartbeat-every",
        "100ms",
    ];
    let cell = cell(&discovery.url(), &flags);
    wait_for("it has beaten", SOON, || {
        let told = discovery.get("/peers/a%20%C3%BC");
        told.status == 200 && told.json()["heartbeat"]["beats"].as_u64() > Some(3)
    });
    let told = sentences(&discovery, "a ü");
    assert_eq!(told.len(), 5, "{told:#?}");
    assert!(
        told[0].starts_with("a ü is here, and alive: it was last heard of 0."),
        "{told:#?}"
    );
    assert!(
        told[1].contains(&format!("It is at {}", cell.address))
            && told[1].contains("services x, y."),
        "{told:#?}"
    );
    assert!(
        told[2].contains(" ago, registered by 127.0.0.1."),
        "{told:#?}"
    );
    assert!(
        told[3].contains("beats have come from it, lately one every")
            && told[3].contains("its longest silence was"),
        "{told:#?}"
    );
    assert!(
        told[4].contains("its lease of 1.0s ends in 0."),
        "{told:#?}"
    );

    // It dies, and is late before it is gone; then it is known why.
    drop(cell);
    wait_for("it is late", SOON, || {
        sentences(&discovery, "a ü")[0].contains("but ")
    });
    wait_for("it is reaped", SOON, || ids(&discovery).is_empty());
    let told = sentences(&discovery, "a ü");
    assert_eq!(told[0], "a ü is not here.");
    assert!(
        told[1].starts_with("It last left at ")
            && told[1].contains(" ago: reaped, its beat 0.")
            && told[1].ends_with("it had been registered by 127.0.0.1."),
        "{told:#?}"
    );

    // It comes back, and says goodbye.
    register(&discovery, "a ü");
    let told = sentences(&discovery, "a ü");
    assert!(told[3].contains("left and come back once"), "{told:#?}");
    assert!(told[5].contains("reaped"), "{told:#?}");
    assert_eq!(discovery.delete("/peer/a%20%C3%BC").status, 200);
    let told = sentences(&discovery, "a ü");
    assert!(told[1].contains("deregistered by 127.0.0.1"), "{told:#?}");
    assert!(
        told[2].starts_with("Before, it left at ") && told[2].contains("reaped"),
        "{told:#?}"
    );
}

#[test]
fn of_one_that_never_was_there_nothing_is_known() {
    let discovery = discovery(&[]);
    let output = mesh(&discovery.url(), &["explain", "a/b?"]);
    assert_eq!(output.status.code(), Some(1));
    let line = one_line(&output);
    assert!(line.contains("nothing is known of a/b?"), "{line}");
    // One with any name is found.
    register(&discovery, "a/b?");
    assert!(sentences(&discovery, "a/b?")[0].starts_with("a/b? is here"));
}

#[test]
fn an_older_discovery_tells_what_it_knows() {
    let list = r#"{"peers":[{"cell_id":"a","ip":"h","port":1}],"count":1,"my_host":"h"}"#;
    let stub = Stub::start(move |arrived| match arrived.line.as_str() {
        "GET /peers" => Some((200, list.into())),
        _ => Some((404, r#"{"detail":"Not Found"}"#.into())),
    });
    let output = mesh(&stub.url(), &["explain", "a"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        text.starts_with("a is here.\nIt is at h:1") && text.contains("only a newer one knows"),
        "{text}"
    );
    let output = mesh(&stub.url(), &["explain", "b"]);
    assert_eq!(output.status.code(), Some(1));
    let line = one_line(&output);
    assert!(line.contains("only a newer discovery knows"), "{line}");
}
