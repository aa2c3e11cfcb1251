//! Requests of a run that is over: they come late, and must not touch who came after it.

use serde_json::{Value, json};

use super::{expect, expect_error, shown};
use crate::support::{Answer, Child, discovery, ids};

fn calm() -> Child {
    discovery(&["--stale-after", "60m"])
}

/// A body for both `/register` and `/heartbeat`.
fn body(id: &str, instance: Option<&str>) -> Value {
    let mut body = json!({"cell_id": id, "ip": "10.0.0.1", "port": 1, "consciousness_level": 0.5});
    if let Some(instance) = instance {
        body["instance"] = instance.into();
    }
    body
}

fn register(discovery: &Child, id: &str, instance: Option<&str>) -> Answer {
    discovery.post("/register", &body(id, instance).to_string())
}

fn beat(discovery: &Child, id: &str, instance: Option<&str>) -> Answer {
    let mut body = body(id, instance);
    body["consciousness_level"] = json!(0.9);
    discovery.post("/heartbeat", &body.to_string())
}

#[test]
fn a_late_beat_and_a_late_delete_cannot_touch_a_successor() {
    let discovery = calm();
    assert_eq!(register(&discovery, "a", Some("old")).status, 200);
    assert_eq!(register(&discovery, "a", Some("new")).status, 200);
    let before = shown(&discovery);
    let late = [
        ("beat", beat(&discovery, "a", Some("old"))),
        ("DELETE", discovery.delete("/peer/a?instance=old")),
        ("old DELETE", discovery.delete("/unregister/a?instance=old")),
    ];
    for (what, answer) in late {
        let detail = expect_error(what, &answer, 409);
        assert!(
            detail.contains('a') && detail.contains("instance"),
            "{detail}"
        );
        assert_eq!(shown(&discovery), before, "{what}");
    }
    // The successor is not disturbed.
    assert_eq!(beat(&discovery, "a", Some("new")).status, 200);
    assert_eq!(discovery.delete("/peer/a?instance=new").status, 200);
    assert_eq!(ids(&discovery), [""; 0]);
}

#[test]
fn a_register_overtaken_by_its_own_delete_is_refused() {
    let discovery = calm();
    for (id, predecessor) in [("fresh", None), ("known", Some("before"))] {
        // The goodbye comes first. It finds nobody, or a run that it may not touch.
        let expected = match predecessor {
            None => 404,
            Some(run) => {
                assert_eq!(register(&discovery, id, Some(run)).status, 200);
                409
            }
        };
        let before = shown(&discovery);
        let goodbye = discovery.delete(&format!("/peer/{id}?instance=run"));
        expect_error(id, &goodbye, expected);
        let late = register(&discovery, id, Some("run"));
        let detail = expect_error(id, &late, 409);
        assert!(detail.contains(id), "{detail}");
        assert_eq!(shown(&discovery), before);
        // Its successor is another matter.
        assert_eq!(register(&discovery, id, Some("next")).status, 200);
    }
    assert_eq!(ids(&discovery), ["fresh", "known"]);
}

#[test]
fn a_run_that_said_goodbye_does_not_come_back_and_others_do() {
    let discovery = calm();
    for path in ["peer", "unregister"] {
        assert_eq!(register(&discovery, path, Some("run")).status, 200);
        let goodbye = discovery.delete(&format!("/{path}/{path}?instance=run"));
        assert_eq!(goodbye.status, 200);
        let before = shown(&discovery);
        for _ in 0..2 {
            expect_error(path, &register(&discovery, path, Some("run")), 409);
            expect_error(path, &beat(&discovery, path, Some("run")), 404);
        }
        assert_eq!(shown(&discovery), before);
        // The same run of another cell is another run.
        let other = format!("not-{path}");
        assert_eq!(register(&discovery, &other, Some("run")).status, 200);
        assert_eq!(register(&discovery, path, Some("run-2")).status, 200);
    }
    assert_eq!(
        ids(&discovery),
        ["not-peer", "peer", "not-unregister", "unregister"]
    );
}

#[test]
fn an_instance_in_the_query_is_decoded() {
    let discovery = calm();
    for (instance, query) in [
        ("a b", "instance=a%20b"),
        ("a b", "instance=a+b"),
        ("a+b", "x=1&instance=a%2Bb&y"),
        ("ü&=", "instance=%c3%bc%26%3D"),
        ("last", "instance=first&instance=last"),
    ] {
        let id = format!("cell {query}");
        let target = format!("/peer/{}", super::encoded(&id));
        assert_eq!(register(&discovery, &id, Some(instance)).status, 200);
        let wrong = discovery.delete(&format!("{target}?instance=other"));
        expect_error(query, &wrong, 409);
        let right = discovery.delete(&format!("{target}?{query}"));
        assert_eq!(right.status, 200, "{query}: {}", right.text());
    }
}

#[test]
fn clients_without_instances_are_never_fenced() {
    let discovery = calm();
    let deregistered = json!({"status": "deregistered", "cell_id": "a"});
    let unregistered = json!({"status": "unregistered"});
    // Whether the one that is registered knows of instances, or the one that asks does.
    for (stored, asking) in [
        (None, None),
        (Some("run"), None),
        (None, Some("run")),
        (Some("run"), Some("run")),
    ] {
        for path in ["peer", "unregister"] {
            let what = format!("{stored:?} is there, {asking:?} asks, {path}");
            // Each round has runs of its own: those of the last have said goodbye.
            let named = |run: Option<&str>| run.map(|run| format!("{run} {what}"));
            let (stored, asking) = (named(stored), named(asking));
            assert_eq!(register(&discovery, "a", stored.as_deref()).status, 200);
            let answer = beat(&discovery, "a", asking.as_deref());
            assert_eq!(answer.status, 200, "{what}: {}", answer.text());
            assert_eq!(answer.json()["status"], "ok", "{what}");
            let query = asking.map(|run| format!("?instance={}", super::encoded(&run)));
            let target = format!("/{path}/a{}", query.unwrap_or_default());
            let gone = match path {
                "peer" => &deregistered,
                _ => &unregistered,
            };
            expect(&what, &discovery.delete(&target), 200, gone);
            let again = discovery.delete(&format!("/{path}/a"));
            expect(&what, &again, 404, &json!({"detail": "Peer not found"}));
        }
    }
    // At once back, and replaced by whoever comes.
    for instance in [None, None, Some("x"), None, Some("y"), None] {
        let answer = register(&discovery, "a", instance);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(ids(&discovery), ["a"]);
}

#[test]
fn a_delete_without_instance_lets_the_run_come_back() {
    let discovery = calm();
    for path in ["peer", "unregister"] {
        assert_eq!(register(&discovery, "a", Some("run")).status, 200);
        // An operator, or a predecessor that knows no instances; not the run itself.
        assert_eq!(discovery.delete(&format!("/{path}/a")).status, 200);
        expect_error(path, &beat(&discovery, "a", Some("run")), 404);
        assert_eq!(register(&discovery, "a", Some("run")).status, 200);
        assert_eq!(ids(&discovery), ["a"]);
    }
}
