//! What cells say of themselves: to discovery when they register, and to whoever asks them.

use serde_json::{Value, json};

use super::protocol::head_is_get_without_the_body;
use super::{Metrics, expect, expect_error, expect_not_allowed, masked, revision};
use crate::support::{Child, SOON, Stub, cell, discovery, peers, wait_for};

const ALPHA_SERVICES: [&str; 5] = [
    "code-analysis",
    "consciousness-sync",
    "dendritic-communication",
    "tachyonic-archival",
    "geometric-engine",
];

fn calm() -> Child {
    discovery(&["--stale-after", "60m"])
}

/// A cell that knows it is registered, and beats often.
fn registered(discovery: &Child, flags: &[&str]) -> Child {
    let cell = cell(
        &discovery.url(),
        &[flags, &["--heartbeat-every", "50ms"]].concat(),
    );
    wait_for("discovery has taken a beat", SOON, || {
        beats(cell.get("/metrics").text()) >= 1.0
    });
    cell
}

fn beats(metrics: &str) -> f64 {
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("aios_cell_heartbeat_total{"));
    let value = line
        .and_then(|line| line.rsplit_once(' '))
        .expect("it is there")
        .1;
    value.parse().expect("a number")
}

fn host_name() -> String {
    let host = rustix::system::uname();
    host.nodename().to_str().expect("UTF-8").to_owned()
}

fn port(cell: &Child) -> u16 {
    let (_, port) = cell.address.rsplit_once(':').expect("a port");
    port.parse().expect("a number")
}

fn primitives(values: [f64; 4]) -> Value {
    let [awareness, adaptation, coherence, momentum] = values;
    json!({
        "awareness": awareness, "adaptation": adaptation, "coherence": coherence,
        "momentum": momentum,
    })
}

#[test]
fn discovery_lists_a_cell_as_its_preset_and_its_flags_describe_it() {
    let discovery = calm();
    let flags = [
        "--id",
        "zürich 2",
        "--advertise",
        "cell.lan",
        "--level",
        "-1.5",
        "--services",
        "s, t",
        "--branch",
        "lab",
        "--type",
        "probe",
    ];
    let cells = [
        registered(&discovery, &["pure"]),
        registered(&discovery, &["alpha"]),
        registered(&discovery, &["--id", "plain"]),
        registered(&discovery, &flags),
        registered(&discovery, &[&["pure"], &flags[..2]].concat()),
    ];
    let expected = [
        json!({
            "cell_id": "pure", "consciousness_level": 0.1,
            "services": ["consciousness-primitives"], "branch": "pure", "type": "pure_cell",
        }),
        json!({
            "cell_id": "alpha", "consciousness_level": 5.2, "services": ALPHA_SERVICES,
            "branch": "main", "type": "alpha_cell",
        }),
        json!({
            "cell_id": "plain", "consciousness_level": 0.0, "services": [], "branch": "main",
            "type": "cell",
        }),
        // The last has the id of the one before and takes its place.
        json!({
            "cell_id": "zürich 2", "consciousness_level": 0.1,
            "services": ["consciousness-primitives"], "branch": "pure", "type": "pure_cell",
        }),
    ];
    let listed = peers(&discovery);
    assert_eq!(listed.len(), expected.len(), "{listed:?}");
    let cells = [&cells[0], &cells[1], &cells[2], &cells[4]];
    for ((peer, mut expected), cell) in listed.into_iter().zip(expected).zip(cells) {
        expected["ip"] = "127.0.0.1".into();
        expected["port"] = port(cell).into();
        expected["hostname"] = host_name().into();
        expected["last_seen"] = "TIME".into();
        assert_eq!(masked(peer), expected);
    }
}

#[test]
fn a_cell_that_beats_seldom_asks_for_a_lease_that_allows_for_it() {
    for (flags, lease) in [
        (&["pure"][..], Value::Null),
        (&["pure", "--heartbeat-every", "20s"], json!(60_000)),
    ] {
        let stub = Stub::start(|_| Some((200, "{}".into())));
        let _cell = cell(&stub.url(), flags);
        wait_for("it registers", SOON, || {
            !stub.arrived("POST /register").is_empty()
        });
        let arrived = &stub.arrived("POST /register")[0];
        let body: Value = serde_json::from_slice(&arrived.body).expect("JSON");
        assert_eq!(body["stale_after_ms"], lease, "{flags:?}");
    }
}

#[test]
fn a_pure_cell_answers_key_for_key() {
    let discovery = calm();
    let cell = registered(&discovery, &["pure"]);
    let rows = [
        (
            "/health",
            json!({
                "status": "pure_consciousness", "cell_id": "pure", "branch": "pure",
                "consciousness_level": 0.1, "primitives": primitives([0.1; 4]),
                "type": "pure_cell",
            }),
        ),
        (
            "/consciousness",
            json!({
                "cell_id": "pure", "level": 0.1, "uptime_seconds": "SECONDS",
                "messages_processed": 0, "primitives": primitives([0.1; 4]), "registered": true,
                "timestamp": "TIME",
            }),
        ),
        (
            "/consciousness/primitives",
            json!({
                "primitives": primitives([0.1; 4]),
                "purity_level": "minimal_viable_consciousness",
            }),
        ),
    ];
    answers(&cell, &rows);
    metrics(
        &cell,
        "pure",
        &["/metrics", "/metrics/prometheus"],
        0.1,
        [0.1; 4],
    );
    let read = [
        "/health",
        "/consciousness",
        "/consciousness/primitives",
        "/metrics",
    ];
    has_manners(&cell, &[&read[..], &["/metrics/prometheus"]].concat());
}

#[test]
fn an_alpha_cell_answers_key_for_key() {
    let discovery = calm();
    let cell = registered(&discovery, &["alpha"]);
    let its_primitives = [4.5, 0.85, 0.92, 0.75];
    let rows = [
        (
            "/health",
            json!({
                "status": "healthy", "server": "Cell Alpha Communication Server",
                "cell_id": "alpha",
                "consciousness": {
                    "level": 5.2, "identity": "AIOS Cell Alpha",
                    "evolutionary_stage": "hierarchical_intelligence",
                    "communication_ready": true, "last_sync": null,
                },
                "capabilities": ALPHA_SERVICES, "peers_count": 0, "messages_count": 0,
                "timestamp": "TIME",
            }),
        ),
        (
            "/consciousness",
            json!({
                "cell_id": "alpha", "level": 5.2, "uptime_seconds": "SECONDS",
                "messages_processed": 0, "primitives": primitives(its_primitives),
                "peer_count": 0, "capabilities": ALPHA_SERVICES, "timestamp": "TIME",
            }),
        ),
    ];
    answers(&cell, &rows);
    metrics(&cell, "alpha", &["/metrics"], 5.2, its_primitives);
    has_manners(&cell, &["/health", "/consciousness", "/metrics"]);
    belongs_to_pure(&cell);
}

#[test]
fn a_plain_cell_answers_key_for_key() {
    let discovery = calm();
    let flags = ["--id", "plain", "--level", "0.5", "--services", "s"];
    let cell = registered(&discovery, &flags);
    let rows = [
        (
            "/health",
            json!({
                "status": "healthy", "cell_id": "plain", "branch": "main",
                "consciousness_level": 0.5, "services": ["s"], "type": "cell",
                "hostname": host_name(),
            }),
        ),
        (
            "/consciousness",
            json!({
                "cell_id": "plain", "level": 0.5, "uptime_seconds": "SECONDS",
                "messages_processed": 0, "primitives": primitives([0.0; 4]), "registered": true,
                "timestamp": "TIME",
            }),
        ),
    ];
    answers(&cell, &rows);
    metrics(&cell, "plain", &["/metrics"], 0.5, [0.0; 4]);
    has_manners(&cell, &["/health", "/consciousness", "/metrics"]);
    belongs_to_pure(&cell);
}

#[track_caller]
fn answers(cell: &Child, rows: &[(&str, Value)]) {
    for (target, expected) in rows {
        expect(target, &cell.get(target), 200, expected);
        let slashed = format!("{target}/");
        expect(&slashed, &cell.get(&slashed), 200, expected);
    }
}

fn metrics(cell: &Child, id: &str, targets: &[&str], level: f64, primitives: [f64; 4]) {
    let [awareness, adaptation, coherence, momentum] = primitives;
    for target in targets {
        let metrics = Metrics::of(cell, target, id);
        let rows = [
            ("consciousness_level", level),
            ("awareness", awareness),
            ("adaptation", adaptation),
            ("coherence", coherence),
            ("momentum", momentum),
            ("up", 1.0),
        ];
        for (name, value) in rows {
            let name = format!("aios_cell_{name}");
            assert_eq!(metrics.types[&name], "gauge", "{name}");
            assert_eq!(metrics.samples[&name], value, "{name}");
        }
        assert_eq!(metrics.types["aios_cell_uptime_seconds"], "gauge");
        assert!(metrics.samples["aios_cell_uptime_seconds"] > 0.0);
        assert_eq!(metrics.types["aios_cell_heartbeat_total"], "counter");
        assert!(!metrics.types.contains_key("aios_cell_peers_count"));
        let before = metrics.samples["aios_cell_heartbeat_total"];
        wait_for("further beats are counted", SOON, || {
            let now = Metrics::of(cell, target, id);
            now.samples["aios_cell_heartbeat_total"] >= before + 2.0
        });
    }
}

/// What holds for every path that is read.
fn has_manners(cell: &Child, read: &[&str]) {
    for target in read {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            expect_not_allowed(cell, method, target, "GET, HEAD");
        }
    }
    for target in [
        "/nowhere",
        "/health/deep",
        "/Health",
        "/consciousness/nowhere",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let answer = cell.request(method, target, &[], b"");
            expect(target, &answer, 404, &json!({"detail": "Not Found"}));
        }
    }
    head_is_get_without_the_body(cell, &[read, &["/nowhere"]].concat());
}

/// What other cells do not have.
fn belongs_to_pure(cell: &Child) {
    let found = json!({"detail": "Not Found"});
    for target in ["/metrics/prometheus", "/consciousness/primitives"] {
        expect(target, &cell.get(target), 404, &found);
    }
    let answer = cell.post("/consciousness/sync", r#"{"level":1}"#);
    expect("sync", &answer, 404, &found);
}

#[test]
fn a_sync_sets_level_and_primitives_and_the_next_beat_carries_it() {
    let discovery = calm();
    let cell = registered(&discovery, &["pure"]);
    let before = revision(&discovery);
    let mut old = 0.1;
    for (body, new, updated, values) in [
        (json!({"level": 0.5}), 0.5, false, [0.1; 4]),
        (json!({"level": 7}), 1.0, false, [0.1; 4]),
        (
            json!({"level": -0.5, "context": null}),
            0.0,
            false,
            [0.1; 4],
        ),
        (json!({"level": 1, "context": {}}), 1.0, false, [0.1; 4]),
        (
            json!({"level": "0.25", "context": {"unknown": 3}}),
            0.25,
            false,
            [0.1; 4],
        ),
        (
            json!({"level": 0.75, "context": {"coherence": 0.9, "unknown": 1}, "more": [{}]}),
            0.75,
            true,
            [0.1, 0.1, 0.9, 0.1],
        ),
        (
            json!({"level": 0.5, "context": primitives([0.2, 4.5, -1.0, 0.0])}),
            0.5,
            true,
            [0.2, 4.5, -1.0, 0.0],
        ),
    ] {
        let answer = cell.post("/consciousness/sync/", &body.to_string());
        let expected = json!({
            "old_level": old, "new_level": new, "primitives_updated": updated,
            "purity": "maintained",
        });
        expect(&body.to_string(), &answer, 200, &expected);
        let health = cell.get("/health").json();
        assert_eq!(health["consciousness_level"], new, "{body}");
        assert_eq!(health["primitives"], primitives(values), "{body}");
        assert_eq!(cell.get("/consciousness").json()["level"], new, "{body}");
        let shown = cell.get("/consciousness/primitives").json();
        assert_eq!(shown["primitives"], primitives(values), "{body}");
        wait_for("discovery shows the level", SOON, || {
            peers(&discovery)[0]["consciousness_level"] == new
        });
        old = new;
    }
    let metrics = Metrics::of(&cell, "/metrics", "pure");
    assert_eq!(metrics.samples["aios_cell_consciousness_level"], 0.5);
    assert_eq!(metrics.samples["aios_cell_adaptation"], 4.5);
    // Its registration stays what it was.
    assert_eq!(revision(&discovery), before);
}

#[test]
fn a_bad_sync_is_refused_by_name_and_changes_nothing() {
    let discovery = calm();
    let cell = registered(&discovery, &["pure"]);
    let before = cell.get("/health").json();
    let nested = format!("{{\"level\":{}1", "[".repeat(20_000));
    for (body, names) in [
        ("", "body"),
        ("[]", "body"),
        ("0.5", "body"),
        ("{", "body"),
        ("{}", "level: "),
        ("{\"level\":null}", "level: "),
        ("{\"level\":true}", "level: "),
        ("{\"level\":\"high\"}", "level: "),
        ("{\"level\":\"nan\"}", "level: "),
        ("{\"level\":NaN}", "level: "),
        ("{\"level\":1e999}", "level: "),
        ("{\"level\":[0.5]}", "level: "),
        (&nested, "level: "),
        ("{\"context\":{\"coherence\":1}}", "level: "),
        ("{\"level\":0.5,\"context\":\"x\"}", "context: "),
        ("{\"level\":0.5,\"context\":[1]}", "context: "),
        (
            "{\"level\":0.5,\"context\":{\"coherence\":null}}",
            "context: ",
        ),
        (
            "{\"level\":0.5,\"context\":{\"coherence\":\"x\"}}",
            "coherence",
        ),
        (
            "{\"level\":0.5,\"context\":{\"coherence\":1e999}}",
            "context: ",
        ),
        (
            "{\"level\":0.5,\"context\":{\"awareness\":1,\"coherence\":{}}}",
            "coherence",
        ),
    ] {
        let what = &body[..body.len().min(60)];
        let detail = expect_error(what, &cell.post("/consciousness/sync", body), 422);
        assert!(detail.contains(names), "{what}: {detail}");
    }
    let good = br#"{"level":0.5}"#;
    let long = format!("{{\"level\":0.5,\"more\":\"{}\"}}", "x".repeat(65_536));
    let json = "Content-Type: application/json";
    let target = "/consciousness/sync";
    for (status, method, headers, body) in [
        (
            403,
            "POST",
            &[json, "Origin: http://evil.example"][..],
            &good[..],
        ),
        (403, "POST", &[json, "Origin: null"], good),
        (413, "POST", &[json], long.as_bytes()),
        (415, "POST", &["Content-Type: text/plain"], good),
        (405, "GET", &[], b""),
        (405, "PUT", &[json], good),
        (405, "DELETE", &[], b""),
    ] {
        let answer = cell.request(method, target, headers, body);
        expect_error(&format!("{method} {headers:?}"), &answer, status);
        let allow = (status == 405).then_some("POST");
        assert_eq!(answer.header("allow"), allow, "{method}");
    }
    assert_eq!(cell.get("/health").json(), before);
    let own = format!("Origin: http://{}", cell.address);
    let answer = cell.request("POST", target, &[json, &own], good);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_cell_that_discovery_has_not_answered_says_that_it_is_not_registered() {
    // It listens, but never answers.
    let mute = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = mute.local_addr().expect("bound");
    let cell = cell(&format!("http://{address}"), &["pure"]);
    let expected = json!({
        "cell_id": "pure", "level": 0.1, "uptime_seconds": "SECONDS", "messages_processed": 0,
        "primitives": primitives([0.1; 4]), "registered": false, "timestamp": "TIME",
    });
    expect(
        "/consciousness",
        &cell.get("/consciousness"),
        200,
        &expected,
    );
    let metrics = Metrics::of(&cell, "/metrics", "pure");
    assert_eq!(metrics.samples["aios_cell_heartbeat_total"], 0.0);
}
