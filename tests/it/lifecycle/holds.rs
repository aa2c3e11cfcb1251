//! Most cells fall silent together.

use super::*;
use std::collections::HashSet;

use crate::support::{Connection, full_form, pause};

/// The peers of a discovery of its own that this test speaks for, on one connection.
struct Crowd {
    discovery: Child,
    connection: Connection,
}

impl Crowd {
    fn register(flags: &[&str], count: usize) -> Self {
        let discovery = discovery(flags);
        let connection = discovery.connect();
        let mut crowd = Self {
            discovery,
            connection,
        };
        for n in 0..count {
            crowd.post(
                "/register",
                &format!(r#"{{"cell_id":"{n}","ip":"h","port":1}}"#),
            );
        }
        crowd
    }

    fn post(&mut self, target: &str, body: &str) {
        let length = body.len();
        let request =
            format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}");
        self.connection.send(request.as_bytes());
        let answer = self.connection.answer().expect("an answer");
        assert_eq!(answer.status, 200, "{target} {body}: {}", answer.text());
    }

    /// Beats for the first so many.
    fn beat(&mut self, count: usize) {
        for n in 0..count {
            self.post("/heartbeat", &format!(r#"{{"cell_id":"{n}"}}"#));
        }
    }

    fn listed(&self) -> usize {
        ids(&self.discovery).len()
    }
}

#[test]
fn when_most_fall_silent_at_once_they_are_held_for_an_interval_and_then_reaped() {
    // In the short form everything is five times as fast.
    let (flags, lease) = match full_form() {
        true => (&[][..], 15 * SECOND),
        false => (
            &["--stale-after", "3s", "--reap-every", "1s"][..],
            3 * SECOND,
        ),
    };
    let mut crowd = Crowd::register(flags, 600);
    // They beat at different moments, as cells do.
    let silent_from = Instant::now();
    for n in 100..600 {
        crowd.post("/heartbeat", &format!(r#"{{"cell_id":"{n}"}}"#));
        if n % 50 == 0 {
            crowd.beat(100);
            pause(lease / 36);
        }
    }
    let mut held = None;
    let mut ready = Vec::new();
    wait_for("those still silent are gone", 3 * lease, || {
        crowd.beat(100);
        let answer = crowd.discovery.get("/ready");
        if answer.status == 503 && answer.detail().starts_with("holding: ") {
            let first = held.is_none();
            held.get_or_insert_with(|| silent_from.elapsed());
            assert!(answer.header("retry-after").is_some());
            let metrics = crowd.discovery.get("/metrics");
            let holds = "aios_discovery_hold{cell_id=\"discovery\"} 1\n";
            // It may have ended before the metrics were read, but not as soon as it was seen.
            let has_ended = || !first && crowd.discovery.get("/ready").status == 200;
            assert!(metrics.text().contains(holds) || has_ended());
            ready.push(answer.detail());
        }
        let listed = ids(&crowd.discovery);
        let there: HashSet<&str> = listed.iter().map(String::as_str).collect();
        assert!((0..100).all(|n| there.contains(&*n.to_string())));
        let listed = listed.len();
        // All or only the living: nobody goes while they are held.
        assert!(listed == 600 || listed == 100 || held.is_some(), "{listed}");
        listed == 100
    });
    let held = held.expect("they are held");
    let gone = silent_from.elapsed();
    report(&format!(
        "500 of 600 silent with a lease of {lease:?}: held from {held:?} on, gone after {gone:?}"
    ));
    assert!(held > lease, "{held:?}");
    // For an interval, of which the beginning may have been seen late.
    assert!(gone - held > lease / 6, "{gone:?}");
    assert!(
        ready[0].contains(" of 600 peers fell silent together"),
        "{ready:?}"
    );
    let mut beaten = ids(&crowd.discovery);
    beaten.sort_unstable();
    let mut living: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    living.sort_unstable();
    assert_eq!(beaten, living);
    assert_eq!(crowd.discovery.get("/ready").status, 200);
    let log = crowd.discovery.log().join("\n");
    let said = log.matches("of 600 peers are silent").count();
    assert_eq!(said, 1, "{log}");
    let metrics = crowd.discovery.get("/metrics");
    let metrics = metrics.text();
    assert!(metrics.contains("aios_discovery_holds_total{cell_id=\"discovery\"} 1\n"));
    assert!(metrics.contains("aios_discovery_hold{cell_id=\"discovery\"} 0\n"));
}

#[test]
fn when_most_of_a_few_fall_silent_they_are_not_held() {
    let mut crowd = Crowd::register(&["--stale-after", "2s", "--reap-every", "500ms"], 12);
    let took = wait_for("the silent are gone", SOON, || {
        crowd.beat(2);
        crowd.listed() == 2
    });
    assert!(took < 2 * SECOND + 8 * SECOND / 10, "{took:?}");
    let log = crowd.discovery.log().join("\n");
    assert!(!log.contains("are silent; none"), "{log}");
}
