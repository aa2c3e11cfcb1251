//! What discovery says beyond the protocol: leases, revisions, epochs, whether it is ready, what
//! it counts and what it logs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Metrics, expect, expect_error, shown};
use crate::support::{Child, SOON, discovery, holds_for, ids, register, wait_for};

const CALM: [&str; 2] = ["--stale-after", "60m"];

fn status(discovery: &Child, target: &str, body: &Value) -> u16 {
    discovery.post(target, &body.to_string()).status
}

#[test]
fn a_lease_of_its_own_is_said_to_the_peer_and_kept() {
    let mut discovery = discovery(&["--stale-after", "2s", "--reap-every", "20ms"]);
    let mut rows = vec![(None, 2000)];
    rows.extend([
        (Some(1000), 1000),
        (Some(3000), 3000),
        (Some(3_600_000), 3_600_000),
    ]);
    for (lease, expected) in &rows {
        let mut body = json!({"cell_id": format!("for-{expected}"), "ip": "h", "port": 1});
        if let Some(lease) = lease {
            body["stale_after_ms"] = json!(lease);
        }
        let answer = discovery.post("/register", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        assert_eq!(answer["stale_after_ms"], *expected);
        assert_eq!(answer["heartbeat_interval_ms"], expected / 3);
        let answer = discovery.post("/heartbeat", &body.to_string()).json();
        assert_eq!(answer["expires_in_ms"], *expected);
    }
    // A peer is gone before the log says so.
    let last = "Reaping stale peer for-3000 ";
    discovery.wait_for_line(last, SOON);
    assert_eq!(ids(&discovery), ["for-3600000"]);
    let log = discovery.log();
    let reaped = log.iter().filter_map(|line| {
        let (_, reaped) = line.split_once("Reaping stale peer ")?;
        reaped.split_once(" (age: ")
    });
    let reaped: Vec<(&str, &str)> = reaped.collect();
    let order: Vec<&str> = reaped.iter().map(|(id, _)| *id).collect();
    assert_eq!(order, ["for-1000", "for-2000", "for-3000"]);
    for (lease, (id, age)) in [1.0, 2.0, 3.0].into_iter().zip(reaped) {
        let age = age.strip_suffix("s)").expect("seconds");
        let (_, tenths) = age.split_once('.').expect("a fraction");
        assert_eq!(tenths.len(), 1, "{id}: {age}");
        let age: f64 = age.parse().expect("a number");
        assert!((lease..lease + 1.0).contains(&age), "{id}: {age}");
    }
}

#[test]
fn a_lease_of_its_own_ends_with_the_registration() {
    let discovery = discovery(&CALM);
    let own = json!({"cell_id": "a", "ip": "h", "port": 1, "stale_after_ms": 1000});
    let usual = json!({"cell_id": "a", "ip": "h", "port": 1});
    for (body, expected) in [(&own, 1000), (&usual, 3_600_000), (&own, 1000)] {
        let answer = discovery.post("/register", &body.to_string()).json();
        assert_eq!(answer["stale_after_ms"], expected);
    }
}

#[test]
fn the_revision_rises_with_membership_and_with_nothing_else() {
    let discovery = discovery(&CALM);
    let cell = |more: &Value| {
        let mut body = json!({"cell_id": "a", "ip": "10.0.0.1", "port": 1});
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        body
    };
    let mut revision = 0;
    for (what, target, body, rises) in [
        ("a join", "/register", cell(&json!({})), true),
        ("the same", "/register", cell(&json!({})), false),
        ("a beat", "/heartbeat", cell(&json!({})), false),
        (
            "a level",
            "/heartbeat",
            cell(&json!({"consciousness_level": 2})),
            false,
        ),
        (
            "a level",
            "/register",
            cell(&json!({"consciousness_level": 3})),
            false,
        ),
        (
            "a lease",
            "/register",
            cell(&json!({"stale_after_ms": 60_000})),
            false,
        ),
        ("a branch", "/register", cell(&json!({"branch": "b"})), true),
        ("its end", "/register", cell(&json!({})), true),
        ("a type", "/register", cell(&json!({"type": "t"})), true),
        (
            "services",
            "/register",
            cell(&json!({"services": ["s", "t"]})),
            true,
        ),
        (
            "their order",
            "/register",
            cell(&json!({"services": ["t", "s"]})),
            true,
        ),
        (
            "a hostname",
            "/register",
            cell(&json!({"hostname": "h"})),
            true,
        ),
        ("an ip", "/register", cell(&json!({"ip": "10.0.0.2"})), true),
        ("a port", "/register", cell(&json!({"port": 2})), true),
        (
            "another cell",
            "/register",
            cell(&json!({"cell_id": "b"})),
            true,
        ),
        (
            "an unknown beat",
            "/heartbeat",
            cell(&json!({"cell_id": "c"})),
            false,
        ),
        ("a refusal", "/register", cell(&json!({"port": -1})), false),
        ("a departure", "/peer/b", Value::Null, true),
        ("none", "/peer/b", Value::Null, false),
    ] {
        let answer = match body {
            Value::Null => discovery.delete(target),
            body => discovery.post(target, &body.to_string()),
        };
        let now = discovery.get("/peers").json()["revision"].as_u64();
        let now = now.expect("a revision");
        assert_eq!(now > revision, rises, "{what}: {revision}, then {now}");
        assert!(now >= revision, "{what}: {revision}, then {now}");
        if let Some(said) = answer.json().get("revision") {
            assert_eq!(said, now, "{what}");
        }
        revision = now;
    }
}

#[test]
fn an_epoch_lasts_until_discovery_starts_anew() {
    let mut epochs = Vec::new();
    for _ in 0..2 {
        let discovery = discovery(&CALM);
        let body = r#"{"cell_id":"a","ip":"h","port":1}"#;
        let answers = [
            discovery.get("/peers"),
            discovery.post("/register", body),
            discovery.post("/heartbeat", body),
            discovery.get("/peers"),
        ];
        let said: Vec<Value> = answers.map(|answer| answer.json()["epoch"].take()).into();
        let epoch = said[0].as_str().expect("a string").to_owned();
        assert!(said.iter().all(|other| *other == epoch), "{said:?}");
        epochs.push(epoch);
    }
    assert_ne!(epochs[0], epochs[1]);
}

#[test]
fn a_discovery_without_state_settles_for_one_stale_threshold() {
    let started = Instant::now();
    let discovery = discovery(&["--stale-after", "2s"]);
    let peers = discovery.get("/peers").json();
    assert_eq!(peers["settling"], true);
    let mut before = 2;
    wait_for("it is ready", SOON, || {
        let answer = discovery.get("/ready");
        if answer.status == 200 {
            return true;
        }
        let detail = expect_error("not ready", &answer, 503);
        assert!(detail.contains("settling"), "{detail}");
        let retry = answer.header("retry-after").expect("when to come again");
        let retry: u64 = retry.parse().expect("whole seconds");
        assert!((1..=before).contains(&retry), "{retry}");
        before = retry;
        false
    });
    assert!(started.elapsed() >= Duration::from_secs(2));
    let answer = discovery.get("/ready");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("retry-after"), None);
    let expected = json!({
        "peers": [], "count": 0, "my_host": peers["my_host"], "revision": peers["revision"],
        "epoch": "EPOCH", "now": "TIME",
    });
    expect("settled", &discovery.get("/peers"), 200, &expected);
}

#[test]
fn a_stale_peer_is_listed_until_a_pass_and_a_beat_revives_it() {
    let discovery = discovery(&["--stale-after", "100ms", "--reap-every", "60m"]);
    register(&discovery, "a");
    // At the end it has been silent for longer than its lease.
    holds_for("it is listed", Duration::from_millis(150), || {
        ids(&discovery) == ["a"]
    });
    let before = shown(&discovery);
    assert_eq!(
        status(&discovery, "/heartbeat", &json!({"cell_id": "a"})),
        200
    );
    let after = shown(&discovery);
    assert_eq!(after["revision"], before["revision"]);
    assert_ne!(after["peers"], before["peers"]);
}

#[test]
fn a_full_discovery_takes_nobody_new_and_keeps_who_is_there() {
    let discovery = discovery(&["--stale-after", "60m", "--max-peers", "2"]);
    register(&discovery, "a");
    register(&discovery, "b");
    let new = json!({"cell_id": "c", "ip": "h", "port": 1});
    let before = shown(&discovery);
    let answer = discovery.post("/register", &new.to_string());
    expect_error("a third", &answer, 503);
    let retry = answer.header("retry-after").expect("when to come again");
    assert!(retry.parse::<u64>().expect("whole seconds") > 0);
    assert_eq!(shown(&discovery), before);
    register(&discovery, "a");
    assert_eq!(
        status(&discovery, "/heartbeat", &json!({"cell_id": "b"})),
        200
    );
    assert_eq!(discovery.delete("/peer/a").status, 200);
    assert_eq!(status(&discovery, "/register", &new), 200);
    assert_eq!(ids(&discovery), ["b", "c"]);
}

#[test]
fn the_log_says_who_came_and_who_went() {
    let mut discovery = discovery(&CALM);
    let body = json!({"cell_id": "zürich 1", "ip": "cell-1.lan", "port": 8002, "branch": "lab"});
    assert_eq!(status(&discovery, "/register", &body), 200);
    let target = format!("/peer/{}", super::encoded("zürich 1"));
    assert_eq!(discovery.delete(&target).status, 200);
    register(&discovery, "b");
    assert_eq!(discovery.delete("/unregister/b").status, 200);
    for line in [
        "Registered peer: zürich 1 at cell-1.lan:8002 (branch: lab)",
        "zürich 1 was registered from 127.0.0.1",
        "Peer deregistered gracefully: zürich 1",
        "zürich 1 was deregistered from 127.0.0.1",
        "Registered peer: b at 127.0.0.1:1 (branch: main)",
        "Peer deregistered gracefully: b",
    ] {
        let found = discovery.wait_for_line(line, SOON);
        assert!(found.ends_with(line), "{found}");
    }
    // The address that it says is its own needs no line more.
    let log = discovery.log().join("\n");
    assert!(!log.contains("b was "), "{log}");
    // Nobody writes a line of their own into it.
    assert_eq!(
        discovery.delete("/peer/x%0aRegistered%20peer:%20y").status,
        404
    );
    let found = discovery.wait_for_line("Registered peer: y", SOON);
    assert!(found.contains("x\\nRegistered"), "{found}");
}

#[test]
fn discovery_shows_the_gauges_that_dashboards_read() {
    let discovery = discovery(&["--stale-after", "60m", "--id", "d1", "--level", "0.7"]);
    register(&discovery, "a");
    let metrics = Metrics::of(&discovery, "/metrics", "d1");
    for (name, value) in [
        ("consciousness_level", Some(0.7)),
        ("awareness", None),
        ("adaptation", None),
        ("coherence", None),
        ("momentum", None),
        ("peers_count", Some(1.0)),
        ("up", Some(1.0)),
        ("uptime_seconds", None),
    ] {
        let name = format!("aios_cell_{name}");
        assert_eq!(metrics.types[&name], "gauge", "{name}");
        let shown = metrics.samples[&name];
        assert!(value.is_none_or(|value| value == shown), "{name}: {shown}");
    }
    assert!(metrics.get("aios_cell_uptime_seconds") > 0.0);
    // That one is of cells alone.
    assert!(!metrics.types.contains_key("aios_cell_heartbeat_total"));
    assert_eq!(discovery.delete("/peer/a").status, 200);
    let metrics = Metrics::of(&discovery, "/metrics", "d1");
    assert_eq!(metrics.samples["aios_cell_peers_count"], 0.0);
}

#[test]
fn a_name_of_any_signs_is_a_label() {
    let discovery = discovery(&["--id", "a\"b\\c ü"]);
    let answer = discovery.get("/metrics");
    let line = "\naios_cell_up{cell_id=\"a\\\"b\\\\c ü\"} 1\n";
    assert!(answer.text().contains(line), "{}", answer.text());
}

#[test]
fn whatever_happens_is_counted() {
    let discovery = discovery(&[
        "--stale-after",
        "60m",
        "--reap-every",
        "20ms",
        "--id",
        "d1",
        "--max-peers",
        "2",
    ]);
    let look = || Metrics::of(&discovery, "/metrics", "d1");
    let first = look();
    for (name, kind) in [
        ("registrations_total", "counter"),
        ("heartbeats_total", "counter"),
        ("departures_total", "counter"),
    ] {
        assert_eq!(first.types[&format!("aios_discovery_{name}")], kind);
    }
    // Those with a cause are there before it comes, so that a rate sees its first rise.
    for series in [
        "registrations_total",
        "heartbeats_total{result=\"ok\"}",
        "heartbeats_total{result=\"unknown\"}",
        "heartbeats_total{result=\"fenced\"}",
        "departures_total{reason=\"deregistered\"}",
        "departures_total{reason=\"reaped\"}",
        "departures_total{reason=\"replaced\"}",
    ] {
        let value = first.samples.get(&format!("aios_discovery_{series}"));
        assert_eq!(value, Some(&0.0), "{series}");
    }

    let cell = |id: &str, instance: &str| json!({"cell_id": id, "ip": "h", "port": 1, "instance": instance});
    let brief = json!({"cell_id": "brief", "ip": "h", "port": 1, "stale_after_ms": 1000});
    let long_body = "x".repeat(65_537);
    for (what, expected) in [
        (status(&discovery, "/register", &cell("a", "1")), 200),
        (status(&discovery, "/register", &cell("a", "1")), 200),
        (status(&discovery, "/register", &cell("a", "2")), 200),
        (status(&discovery, "/register", &cell("b", "1")), 200),
        (status(&discovery, "/register", &cell("c", "1")), 503),
        (status(&discovery, "/register", &json!({})), 422),
        (status(&discovery, "/heartbeat", &cell("a", "2")), 200),
        (status(&discovery, "/heartbeat", &cell("b", "1")), 200),
        (status(&discovery, "/heartbeat", &cell("a", "1")), 409),
        (status(&discovery, "/heartbeat", &cell("d", "1")), 404),
        (discovery.delete("/peer/b?instance=1").status, 200),
        (status(&discovery, "/register", &brief), 200),
        (discovery.delete("/peer/a?instance=1").status, 409),
        (discovery.delete("/unregister/d").status, 404),
        (discovery.get("/peers").status, 200),
        (discovery.get("/health").status, 200),
        (discovery.get("/ready").status, 503),
        (discovery.get("/nowhere").status, 404),
        (discovery.get("/register").status, 405),
        (discovery.post("/register", &long_body).status, 413),
    ] {
        assert_eq!(what, expected);
    }
    // A peer is gone before it is counted.
    let reaped = "aios_discovery_departures_total{reason=\"reaped\"}";
    wait_for("the brief one is reaped", SOON, || {
        look().get(reaped) >= 1.0
    });
    assert_eq!(ids(&discovery), ["a"]);

    let last = look();
    assert_eq!(last.types["aios_discovery_requests_total"], "counter");
    let mut rows = vec![
        ("registrations_total", 5.0),
        ("heartbeats_total{result=\"ok\"}", 2.0),
        ("heartbeats_total{result=\"unknown\"}", 1.0),
        ("heartbeats_total{result=\"fenced\"}", 1.0),
        ("departures_total{reason=\"deregistered\"}", 1.0),
        ("departures_total{reason=\"reaped\"}", 1.0),
        ("departures_total{reason=\"replaced\"}", 1.0),
    ];
    rows.extend([
        ("requests_total{route=\"/register\",status=\"200\"}", 5.0),
        ("requests_total{route=\"/register\",status=\"405\"}", 1.0),
        ("requests_total{route=\"/register\",status=\"422\"}", 1.0),
        ("requests_total{route=\"/register\",status=\"503\"}", 1.0),
        ("requests_total{route=\"/heartbeat\",status=\"200\"}", 2.0),
        ("requests_total{route=\"/heartbeat\",status=\"404\"}", 1.0),
        ("requests_total{route=\"/heartbeat\",status=\"409\"}", 1.0),
        (
            "requests_total{route=\"/peer/{cell_id}\",status=\"200\"}",
            1.0,
        ),
        (
            "requests_total{route=\"/peer/{cell_id}\",status=\"409\"}",
            1.0,
        ),
        (
            "requests_total{route=\"/unregister/{cell_id}\",status=\"404\"}",
            1.0,
        ),
        ("requests_total{route=\"/health\",status=\"200\"}", 1.0),
        ("requests_total{route=\"/ready\",status=\"503\"}", 1.0),
        ("requests_total{route=\"unknown\",status=\"404\"}", 1.0),
        ("requests_total{route=\"refused\",status=\"413\"}", 1.0),
    ]);
    for (series, expected) in rows {
        assert_eq!(
            last.get(&format!("aios_discovery_{series}")),
            expected,
            "{series}"
        );
    }
    histogram(&last, "/register", 8.0);
    histogram(&last, "/heartbeat", 4.0);
}

fn histogram(metrics: &Metrics, route: &str, count: f64) {
    let name = "aios_discovery_request_duration_seconds";
    assert_eq!(metrics.types[name], "histogram");
    let route = format!("route=\"{route}\"");
    let infinite = format!("{name}_bucket{{le=\"+Inf\",{route}}}");
    assert_eq!(metrics.samples[&infinite], count);
    assert_eq!(metrics.samples[&format!("{name}_count{{{route}}}")], count);
    assert!(metrics.samples[&format!("{name}_sum{{{route}}}")] > 0.0);
    let mut buckets: Vec<(f64, f64)> = metrics
        .samples
        .iter()
        .filter(|(series, _)| series.starts_with(&format!("{name}_bucket")))
        .filter(|(series, _)| series.contains(&route))
        .map(|(series, value)| {
            let (_, le) = series.split_once("le=\"").expect("a bound");
            let (le, _) = le.split_once('"').expect("a bound");
            (le.parse().expect("a number"), *value)
        })
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(buckets.len() > 5, "{buckets:?}");
    assert!(buckets.is_sorted_by_key(|bucket| bucket.1), "{buckets:?}");
}
