//! The protocol of the mesh as clients know it that were there before us: every answer of
//! discovery, key for key.

use serde_json::{Value, json};

use super::{
    after, encoded, expect, expect_error, expect_not_allowed, is_timestamp, masked, revision, shown,
};
use crate::support::{Child, Connection, discovery, ids, peers, register};

/// So long a lease that nothing is reaped, and everything settles all the while.
const CALM: [&str; 6] = ["--stale-after", "60m", "--my-host", "rack-7", "--id", "d1"];

fn peer(id: &str, more: &Value) -> Value {
    let mut peer = json!({
        "cell_id": id, "ip": "10.0.0.1", "port": 7, "consciousness_level": 0.0, "services": [],
        "branch": "main", "type": "cell", "hostname": "", "last_seen": "TIME",
    });
    for (key, value) in more.as_object().expect("an object") {
        peer[key] = value.clone();
    }
    peer
}

fn list(revision: u64, peers: &[Value]) -> Value {
    json!({
        "peers": peers, "count": peers.len(), "my_host": "rack-7", "revision": revision,
        "epoch": "EPOCH", "now": "TIME", "settling": true,
    })
}

fn registered(id: &str, revision: u64) -> Value {
    json!({
        "status": "registered", "cell_id": id, "heartbeat_interval_ms": 1_200_000,
        "stale_after_ms": 3_600_000, "epoch": "EPOCH", "revision": revision,
    })
}

fn beaten(id: &str, count: u64, revision: u64) -> Value {
    json!({
        "status": "ok", "cell_id": id, "peers_count": count, "expires_in_ms": 3_600_000,
        "epoch": "EPOCH", "revision": revision,
    })
}

#[test]
fn every_answer_of_discovery_is_known_key_for_key() {
    let discovery = discovery(&[&CALM[..], &["--branch", "lab", "--level", "0.7"]].concat());
    let full = json!({
        "cell_id": "full", "ip": "2001:db8::1", "port": 8002, "consciousness_level": 5.2,
        "services": ["b", "a", "b"], "branch": "pure", "type": "pure_cell", "hostname": "host-1",
        "last_seen": "1999-01-01T00:00:00.000000Z", "instance": "run-1",
        "stale_after_ms": 3_600_000, "unknown": {"deep": [null]},
    });
    let full_peer = peer(
        "full",
        &json!({
            "ip": "2001:db8::1", "port": 8002, "consciousness_level": 5.2,
            "services": ["b", "a", "b"], "branch": "pure", "type": "pure_cell",
            "hostname": "host-1",
        }),
    );
    let bare = json!({"cell_id": "bare", "ip": "10.0.0.1", "port": 7});
    let moved = json!({"cell_id": "full", "ip": "10.0.0.1", "port": 7});
    let beat = |id: &str, level: f64| json!({"cell_id": id, "consciousness_level": level});
    let unknown = json!({"detail": "Peer not found"});
    let health = json!({
        "status": "healthy", "cell_id": "d1", "branch": "lab", "consciousness_level": 0.7,
        "services": [], "type": "discovery", "hostname": "rack-7",
    });

    let rows: [(&str, &str, Value, u16, Value); 20] = [
        ("GET", "/health", Value::Null, 200, health),
        ("GET", "/peers", Value::Null, 200, list(0, &[])),
        ("POST", "/register", full, 200, registered("full", 1)),
        (
            "POST",
            "/register",
            bare.clone(),
            200,
            registered("bare", 2),
        ),
        (
            "GET",
            "/peers",
            Value::Null,
            200,
            list(2, &[full_peer, peer("bare", &json!({}))]),
        ),
        (
            "POST",
            "/heartbeat",
            beat("bare", 0.25),
            200,
            beaten("bare", 2, 2),
        ),
        (
            "POST",
            "/heartbeat",
            json!({"cell_id": "full"}),
            200,
            beaten("full", 2, 2),
        ),
        (
            "POST",
            "/heartbeat",
            beat("zürich", 1.0),
            404,
            json!({"detail": "Peer zürich not registered. Call /register first."}),
        ),
        // One left and another came.
        ("POST", "/register", moved, 200, registered("full", 4)),
        (
            "GET",
            "/peers",
            Value::Null,
            200,
            list(
                4,
                &[
                    peer("full", &json!({})),
                    peer("bare", &json!({"consciousness_level": 0.25})),
                ],
            ),
        ),
        (
            "DELETE",
            "/peer/full",
            Value::Null,
            200,
            json!({"status": "deregistered", "cell_id": "full"}),
        ),
        ("DELETE", "/peer/full", Value::Null, 404, unknown.clone()),
        (
            "POST",
            "/heartbeat",
            beat("full", 1.0),
            404,
            json!({"detail": "Peer full not registered. Call /register first."}),
        ),
        (
            "DELETE",
            "/unregister/bare",
            Value::Null,
            200,
            json!({"status": "unregistered"}),
        ),
        (
            "DELETE",
            "/unregister/bare",
            Value::Null,
            404,
            unknown.clone(),
        ),
        ("DELETE", "/peer/never", Value::Null, 404, unknown),
        ("GET", "/peers", Value::Null, 200, list(6, &[])),
        ("POST", "/register", bare, 200, registered("bare", 7)),
        (
            "GET",
            "/nowhere",
            Value::Null,
            404,
            json!({"detail": "Not Found"}),
        ),
        (
            "PUT",
            "/peers",
            Value::Null,
            405,
            json!({"detail": "Method Not Allowed"}),
        ),
    ];
    let first = revision(&discovery);
    for (index, (method, target, body, status, expected)) in rows.into_iter().enumerate() {
        let what = format!("row {index}: {method} {target} {body}");
        let answer = match body {
            Value::Null => discovery.request(method, target, &[], b""),
            body => discovery.post(target, &body.to_string()),
        };
        expect(&what, &answer, status, &after(first, expected));
    }
}

#[test]
fn without_flags_the_intervals_are_those_of_the_mesh() {
    let discovery = discovery(&[]);
    let body = r#"{"cell_id":"a","ip":"h","port":1}"#;
    let expected = json!({
        "status": "registered", "cell_id": "a", "heartbeat_interval_ms": 5000,
        "stale_after_ms": 15000, "epoch": "EPOCH", "revision": revision(&discovery) + 1,
    });
    expect(
        "register",
        &discovery.post("/register", body),
        200,
        &expected,
    );
    let answer = discovery.post("/heartbeat", body);
    assert_eq!(answer.json()["expires_in_ms"], 15000);

    let host = rustix::system::uname();
    let host = host.nodename().to_str().expect("UTF-8");
    assert_eq!(discovery.get("/peers").json()["my_host"], host);
    let health = json!({
        "status": "healthy", "cell_id": "discovery", "branch": "main", "consciousness_level": 1.0,
        "services": [], "type": "discovery", "hostname": host,
    });
    expect("health", &discovery.get("/health"), 200, &health);
}

#[test]
fn last_seen_is_set_by_discovery_at_every_sign_of_life() {
    let discovery = discovery(&CALM);
    let look = || {
        let body = discovery.get("/peers").json();
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let (seen, now) = (text(&body["peers"][0]["last_seen"]), text(&body["now"]));
        assert!(is_timestamp(&seen) && is_timestamp(&now), "{seen} {now}");
        // Written alike, they sort as they follow one another.
        assert!(seen <= now, "{seen} is later than {now}");
        (seen, now)
    };
    let mut before = String::new();
    let mut micros = false;
    for (target, body) in [
        (
            "/register",
            r#"{"cell_id":"a","ip":"h","port":1,"last_seen":"2999-01-01T00:00:00.000000Z"}"#,
        ),
        ("/heartbeat", r#"{"cell_id":"a"}"#),
        ("/register", r#"{"cell_id":"a","ip":"h","port":1}"#),
    ] {
        assert_eq!(discovery.post(target, body).status, 200);
        let (seen, now) = look();
        assert!(before < seen, "{target} did not set it");
        assert_eq!(look().0, seen, "looking must not set it");
        micros |= !seen.ends_with("000Z") || !now.ends_with("000Z");
        before = now;
    }
    assert!(micros, "six digits are not three and three zeros");
}

#[test]
fn ids_of_every_script_and_sign_pass_through_body_and_path() {
    let discovery = discovery(&CALM);
    let longest = format!("{}x", "ü".repeat(127));
    let all = [
        "zürich ✓",
        "日本 42",
        "a/b",
        "/",
        ".",
        "..",
        "a b+c",
        "50%",
        "%2F",
        "a?b#c&d=e",
        "'\"\\",
        "{}[]<>",
        "e\u{301}",
        "\u{1f9e0}",
        &longest,
    ];
    for id in all {
        register(&discovery, id);
        let beat = json!({"cell_id": id}).to_string();
        let answer = discovery.post("/heartbeat", &beat);
        assert_eq!(answer.status, 200, "{id}: {}", answer.text());
        assert_eq!(answer.json()["cell_id"], id);
    }
    assert_eq!(ids(&discovery), all);
    for (index, id) in all.iter().enumerate() {
        let (path, gone) = match index % 2 {
            0 => ("peer", json!({"status": "deregistered", "cell_id": id})),
            _ => ("unregister", json!({"status": "unregistered"})),
        };
        // Lower-case digits are the same digits, and the query is no part of the id.
        let target = format!("/{path}/{}?x=y", encoded(id).to_ascii_lowercase());
        expect(id, &discovery.delete(&target), 200, &gone);
        let again = discovery.delete(&target);
        expect(id, &again, 404, &json!({"detail": "Peer not found"}));
    }
    assert_eq!(ids(&discovery), [""; 0]);

    // As small clients send it: the bytes that were typed.
    register(&discovery, "zürich");
    assert_eq!(discovery.delete("/peer/zürich").status, 200);
    // A plus is a plus in a path.
    register(&discovery, "a+b");
    assert_eq!(discovery.delete("/peer/a+b").status, 200);
    let answer = discovery.delete("/peer/%FF%FE");
    expect_error("no UTF-8", &answer, 400);
}

#[test]
fn a_registered_id_keeps_its_place_whatever_changes_of_it() {
    let discovery = discovery(&CALM);
    for id in ["a", "b", "c"] {
        register(&discovery, id);
    }
    for body in [
        json!({"cell_id": "a", "ip": "127.0.0.1", "port": 1}),
        json!({"cell_id": "a", "ip": "10.9.9.9", "port": 2, "branch": "other"}),
        json!({"cell_id": "a", "ip": "10.9.9.9", "port": 2, "instance": "x"}),
        json!({"cell_id": "a", "ip": "10.9.9.9", "port": 2, "instance": "y"}),
    ] {
        let answer = discovery.post("/register", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(ids(&discovery), ["a", "b", "c"], "{body}");
    }
    let body = json!({"cell_id": "a", "ip": "10.9.9.9", "port": 2});
    let body = peer("a", &body);
    assert_eq!(masked(peers(&discovery).remove(0)), body);
    // Whoever was gone comes last.
    assert_eq!(discovery.delete("/peer/a").status, 200);
    register(&discovery, "a");
    assert_eq!(ids(&discovery), ["b", "c", "a"]);
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let discovery = discovery(&CALM);
    register(&discovery, "a");
    let before = shown(&discovery);
    for (target, allowed) in [
        ("/register", "POST"),
        ("/heartbeat", "POST"),
        ("/peer/a", "DELETE"),
        ("/unregister/a", "DELETE"),
        ("/peers", "GET, HEAD"),
        ("/health", "GET, HEAD"),
        ("/ready", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            if !allowed.contains(method) {
                expect_not_allowed(&discovery, method, target, allowed);
            }
        }
    }
    assert_eq!(shown(&discovery), before);
}

#[test]
fn an_unknown_path_is_not_found_whatever_the_method() {
    let discovery = discovery(&CALM);
    for target in [
        "/nowhere",
        "/peers/a/b",
        "/Peers",
        "//peers",
        "/peer",
        "/peer/",
        "/unregister",
        "/peer/a/b",
        "/register/a",
        "/health.json",
    ] {
        for method in ["GET", "POST", "DELETE", "PUT"] {
            let answer = discovery.request(method, target, &[], b"");
            let what = format!("{method} {target}");
            expect(&what, &answer, 404, &json!({"detail": "Not Found"}));
        }
    }
}

#[test]
fn a_trailing_slash_makes_no_difference() {
    let discovery = discovery(&CALM);
    let cell = r#"{"cell_id":"a","ip":"h","port":1}"#;
    for (method, target, body) in [
        ("POST", "/register/", cell),
        ("POST", "/heartbeat/", cell),
        ("GET", "/peers/", ""),
        ("GET", "/peers/?x=y", ""),
        ("GET", "/health/", ""),
        ("GET", "/metrics/", ""),
        ("DELETE", "/peer/a/", ""),
        ("POST", "/register/", cell),
        ("DELETE", "/unregister/a/", ""),
    ] {
        let answer = discovery.request(method, target, &[], body.as_bytes());
        assert_eq!(answer.status, 200, "{method} {target}: {}", answer.text());
    }
    assert_eq!(discovery.get("/ready/").status, 503);
}

/// Asserts that HEAD of each target is its GET without the body.
pub(super) fn head_is_get_without_the_body(program: &Child, targets: &[&str]) {
    for target in targets {
        let get = program.get(target);
        let mut connection = Connection::to(&program.address);
        let address = &program.address;
        let head =
            format!("HEAD {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        connection.send(head.as_bytes());
        let head = connection.answer_without_body().expect("an answer");
        assert!(connection.ends_silently(), "{target} has a body");
        assert_eq!(head.status, get.status, "{target}");
        // The length of what is counted or timed differs from one look to the next.
        let differs = |name: &str| name == "date" || name == "content-length";
        let lasting = |headers: &[(String, String)]| {
            let mut headers = headers.to_vec();
            headers.retain(|(name, _)| !differs(name));
            headers
        };
        assert_eq!(lasting(&head.headers), lasting(&get.headers), "{target}");
        let length = head.header("content-length").expect("a length");
        let length: usize = length.parse().expect("a number");
        assert!(length > 0, "{target}");
    }
}

#[test]
fn head_is_answered_as_get_without_the_body() {
    let discovery = discovery(&CALM);
    register(&discovery, "a");
    head_is_get_without_the_body(
        &discovery,
        &[
            "/peers",
            "/health",
            "/ready",
            "/metrics",
            "/nowhere",
            "/register",
        ],
    );
    let peers = discovery.get("/peers");
    let head = discovery.request("HEAD", "/peers", &[], b"");
    assert_eq!(
        head.header("content-length"),
        peers.header("content-length")
    );
}
