//! What is remembered: who is gone, and how those beat who are here.

use super::*;

fn gone(discovery: &Child) -> Vec<Value> {
    let answer = discovery.get("/peers?state=gone");
    assert_eq!(answer.status, 200);
    let body = answer.json();
    let gone = body["gone"].as_array().expect("a list").clone();
    assert_eq!(body["count"], gone.len());
    gone
}

fn beat(discovery: &Child, id: &str) {
    let body = json!({"cell_id": id, "consciousness_level": 0.5}).to_string();
    assert_eq!(discovery.post("/heartbeat", &body).status, 200);
}

#[test]
fn every_departure_has_a_reason() {
    let discovery = discovery(&BRISK);
    let lasting = |instance: &str| json!({"stale_after_ms": 60_000, "instance": instance});
    enter(&discovery, "moved", &lasting("1"));
    enter(&discovery, "moved", &lasting("2"));
    enter(&discovery, "stopped", &lasting("1"));
    leave(&discovery, "stopped");
    enter(&discovery, "killed", &json!({}));
    wait_for("it is reaped", SOON, || ids(&discovery) == ["moved"]);

    let gone = gone(&discovery);
    let reasons: Vec<_> = gone
        .iter()
        .map(|gone| (gone["cell_id"].as_str(), gone["reason"].as_str()))
        .collect();
    let expected = [
        ("killed", "reaped"),
        ("stopped", "deregistered"),
        ("moved", "replaced"),
    ];
    assert_eq!(
        reasons,
        expected.map(|(id, reason)| (Some(id), Some(reason)))
    );
    for gone in &gone {
        let at = gone["at"].as_str().expect("a time");
        assert!(aios_mesh::wire::parse_timestamp(at).is_some(), "{at}");
        assert_eq!(gone["registered_by"], "127.0.0.1");
        let is_told = gone["reason"] == "deregistered";
        let by = if is_told {
            json!("127.0.0.1")
        } else {
            Value::Null
        };
        assert_eq!(gone["deregistered_by"], by);
    }
    // A beat was due 100 ms after it registered; it was reaped when 300 had passed.
    let late = gone[0]["late_ms"].as_u64().expect("a number");
    assert!((200..10_000).contains(&late), "{late}");
    assert!(gone[0]["was_here_ms"].as_u64() >= Some(300));
    assert_eq!(gone[1]["late_ms"], 0);

    let some = |query: &str| discovery.get(&format!("/peers?state=gone&{query}"));
    assert_eq!(some("format=ids").text(), "killed\nstopped\nmoved\n");
    assert_eq!(
        some("format=hosts").text(),
        "10.0.0.1\tkilled\n10.0.0.1\tstopped\n10.0.0.1\tmoved\n"
    );
    let targets = some("format=prometheus").json();
    assert_eq!(targets[0]["targets"], json!(["10.0.0.1:8002"]));
    assert_eq!(some("type=none").json()["count"], 0);
    let tsv = some("format=tsv");
    let lines: Vec<&str> = tsv.text().lines().collect();
    assert_eq!(lines[0], "id\treason\tat\twas_here\tlate");
    assert!(lines[1].starts_with("killed\treaped\t2"), "{}", lines[1]);
}

#[test]
fn no_more_than_a_thousand_departures_are_remembered() {
    let discovery = discovery(&CALM);
    for number in 0..1010 {
        register(&discovery, &format!("cell-{number}"));
        leave(&discovery, &format!("cell-{number}"));
    }
    let gone = gone(&discovery);
    assert_eq!(gone.len(), 1000);
    assert_eq!(gone[0]["cell_id"], "cell-1009");
    assert_eq!(gone[999]["cell_id"], "cell-10");
}

#[test]
fn one_peer_is_told_with_how_it_beats() {
    let discovery = discovery(&[
        "--stale-after",
        "6s",
        "--reap-every",
        "60m",
        "--hold-min",
        "0",
    ]);
    enter(&discovery, "a b", &json!({"type": "t", "services": ["x"]}));
    let one = |id: &str| discovery.get(&format!("/peers/{id}"));
    let first = one("a%20b").json();
    let listed = discovery.get("/peers").json()["peers"][0].clone();
    for (key, value) in listed.as_object().expect("an object") {
        assert_eq!(first[key], *value, "{key}");
    }
    assert_eq!(first["state"], "alive");
    assert_eq!(first["stale_after_ms"], 6000);
    assert_eq!(first["registered_by"], "127.0.0.1");
    assert_eq!(first["joined_at"], first["last_seen"]);
    assert_eq!(
        first["heartbeat"],
        json!({"beats": 0, "gap_median_ms": null, "gap_longest_ms": null, "misses": 0, "flaps": 0})
    );
    assert_eq!(first["departures"], json!([]));
    assert_eq!(first["revision"], now(&discovery));

    for gap in [100, 100, 100] {
        pause(Duration::from_millis(gap));
        beat(&discovery, "a b");
    }
    // A beat every 2 s is asked for.
    pause(Duration::from_millis(3200));
    let late = one("a%20b/").json();
    assert_eq!(late["state"], "late");
    let [age, left] = ["age_ms", "expires_in_ms"].map(|key| late[key].as_u64().expect("ms"));
    assert!(age >= 3200 && age + left == 6000, "{age} {left}");
    beat(&discovery, "a b");
    let heartbeat = one("a%20b").json()["heartbeat"].clone();
    let ms = |key: &str| heartbeat[key].as_u64().expect("a number");
    assert_eq!(ms("beats"), 4);
    assert!((100..2000).contains(&ms("gap_median_ms")), "{heartbeat}");
    assert!(ms("gap_longest_ms") >= 3200, "{heartbeat}");
    assert!(ms("misses") >= 1, "{heartbeat}");

    leave(&discovery, "a%20b");
    let unknown = one("a%20b");
    assert_eq!(
        (unknown.status, unknown.detail().as_str()),
        (404, "Peer not found")
    );
    enter(&discovery, "a b", &json!({}));
    let back = one("a%20b").json();
    // What was before counts on, but for the median.
    let mut expected = heartbeat;
    expected["flaps"] = 1.into();
    expected["gap_median_ms"] = Value::Null;
    assert_eq!(back["heartbeat"], expected);
    assert_eq!(back["departures"][0]["reason"], "deregistered");
    let not_allowed = discovery.request("POST", "/peers/a", &[], b"");
    assert_eq!(not_allowed.header("allow"), Some("GET, HEAD"));
}

#[test]
fn the_metrics_tell_of_peers_one_by_one() {
    let discovery = discovery(&BRISK);
    let odd = "a \"b\" \\ ü";
    enter(
        &discovery,
        odd,
        &json!({"consciousness_level": 2.5, "stale_after_ms": 60_000}),
    );
    enter(&discovery, "killed", &json!({}));
    wait_for("it is reaped", SOON, || ids(&discovery) == [odd]);
    let metric = |name: &str, label: &str| crate::support::metric(&discovery, name, label);
    let label = r#"peer="a \"b\" \\ ü""#;
    assert_eq!(metric("aios_discovery_peer_level", label), 2.5);
    let age = metric("aios_discovery_peer_beat_age_seconds", label);
    assert!((0.0..10.0).contains(&age), "{age}");
    assert_eq!(metric("aios_discovery_peer_flaps_total", label), 0.0);
    assert_eq!(
        metric("aios_discovery_peer_missing", "peer=\"killed\""),
        1.0
    );
    assert_eq!(metric("aios_discovery_peers_without_series", ""), 0.0);
    assert_eq!(metric("aios_discovery_store", "kind=\"memory\""), 1.0);
    assert_eq!(metric("aios_discovery_settling", ""), 0.0);
    assert!(metric("aios_discovery_connections", "") >= 1.0);
    assert_eq!(
        metric("aios_discovery_revision", "") as u64,
        now(&discovery)
    );

    enter(&discovery, "killed", &json!({"stale_after_ms": 60_000}));
    let text = discovery.get("/metrics").text().to_owned();
    assert!(!text.contains("aios_discovery_peer_missing{"), "{text}");
    assert_eq!(
        metric("aios_discovery_peer_flaps_total", "peer=\"killed\""),
        1.0
    );
}

#[test]
fn there_are_series_for_no_more_than_a_thousand_peers() {
    let discovery = discovery(&CALM);
    for number in 0..1007 {
        register(&discovery, &format!("cell-{number}"));
    }
    let metrics = discovery.get("/metrics");
    let series = metrics.text().lines();
    let ages = series.filter(|line| line.starts_with("aios_discovery_peer_beat_age_seconds{"));
    assert_eq!(ages.count(), 1000);
    let has_series =
        |metrics: &Answer, id: &str| metrics.text().contains(&format!("peer=\"{id}\""));
    assert!(has_series(&metrics, "cell-999") && !has_series(&metrics, "cell-1000"));
    // Whoever comes and goes has some, wherever in the list.
    for id in ["cell-0", "cell-1003"] {
        leave(&discovery, id);
        register(&discovery, id);
    }
    let other_run = r#"{"cell_id":"cell-1005","ip":"10.0.0.9","port":9}"#;
    assert_eq!(discovery.post("/register", other_run).status, 200);
    for id in ["cell-0", "cell-1003", "cell-1005"] {
        let label = format!("peer=\"{id}\"");
        let flaps = "aios_discovery_peer_flaps_total";
        assert_eq!(
            crate::support::metric(&discovery, flaps, &label),
            1.0,
            "{id}"
        );
    }
    let without = crate::support::metric(&discovery, "aios_discovery_peers_without_series", "");
    assert_eq!(without, 7.0);
}
