//! A cell falls silent, or discovery does.

use super::*;
use crate::support::{Answer, Connection, full_form, register};

#[test]
fn a_killed_cell_is_gone_15_to_20_seconds_after_its_last_beat() {
    let discovery = discovery(&[]);
    let names: Vec<String> = (0..10).map(|n| format!("cell-{n}")).collect();
    let mut cells: Vec<Child> = names
        .iter()
        .map(|name| cell(&discovery.url(), &["--id", name]))
        .collect();
    wait_for("all are listed", SOON, || {
        ids(&discovery).len() == cells.len()
    });
    // Their beats are spread over the interval by now, and so are their deaths.
    let mut last: HashMap<String, SystemTime> = HashMap::new();
    let mut gone: HashMap<String, Duration> = HashMap::new();
    let started = Instant::now();
    wait_for("all are gone", Duration::from_secs(60), || {
        let lived = started.elapsed();
        let doomed = cells.len();
        if doomed > 0 && lived > Duration::from_secs(7) + SECOND / 2 * (10 - doomed as u32) {
            drop(cells.pop());
        }
        let seen = last_seen_at(&discovery.address);
        for name in &names {
            match seen.get(name) {
                Some(at) => {
                    assert!(!gone.contains_key(name), "{name} has come back");
                    last.insert(name.clone(), *at);
                }
                None => {
                    let age = SystemTime::now().duration_since(last[name]).expect("past");
                    gone.entry(name.clone()).or_insert(age);
                }
            }
        }
        gone.len() == names.len()
    });
    let soonest = gone.values().min().expect("ten");
    let latest = gone.values().max().expect("ten");
    report(&format!(
        "kill -9: gone {soonest:?} to {latest:?} after the last beat (10 cells)"
    ));
    assert!(*soonest >= 15 * SECOND, "{gone:?}");
    assert!(*latest <= 21 * SECOND, "{gone:?}");
}

#[test]
fn the_first_lease_after_a_quiet_while_runs_out_in_time() {
    let discovery = discovery(&["--stale-after", "1s", "--reap-every", "100ms"]);
    // Long enough for it to be settled, and to leave its clock alone.
    crate::support::pause(2 * SECOND);
    register(&discovery, "a");
    assert_eq!(ids(&discovery), ["a"]);
    let took = wait_for("it is gone", SOON, || ids(&discovery).is_empty());
    assert!(took > SECOND / 2, "{took:?}");
}

#[test]
fn a_discovery_that_was_stopped_gives_everybody_the_time_back() {
    let flags = ["--stale-after", "1s", "--reap-every", "100ms"];
    let mut discovery = discovery(&flags);
    let _cell = cell(&discovery.url(), &["pure"]);
    wait_for("it is listed", SOON, || ids(&discovery) == ["pure"]);
    discovery.signal(Signal::STOP);
    crate::support::pause(4 * SECOND);
    discovery.signal(Signal::CONT);
    holds_for("the cell is listed", 2 * SECOND, || {
        ids(&discovery) == ["pure"]
    });
    discovery.wait_for_line("discovery was not running for a while", SOON);
    let log = discovery.log().join("\n");
    assert!(!log.contains("Reaping"), "{log}");
    assert!(!log.contains("unknown peer"), "{log}");
}

#[test]
fn a_stop_of_discovery_costs_no_member_its_place_and_none_hears_that_it_is_unknown() {
    const CELLS: usize = 100;
    // In the short form everything is five times as fast.
    let (flags, every, stop) = match full_form() {
        true => (&[][..], 5 * SECOND, 60 * SECOND),
        false => (
            &["--stale-after", "3s", "--reap-every", "1s"][..],
            SECOND,
            12 * SECOND,
        ),
    };
    // That a mass departure is held would be enough to save them.
    let discovery = discovery(&[&["--hold-min", "0"], flags].concat());
    for n in 0..CELLS {
        register(&discovery, &n.to_string());
    }
    let done = Latch::new();
    std::thread::scope(|scope| {
        let cells: Vec<_> = (0..CELLS)
            .map(|n| {
                let (discovery, done) = (&discovery, &done);
                scope.spawn(move || {
                    let body = format!(r#"{{"cell_id":"{n}"}}"#);
                    let share = every / u32::try_from(CELLS).expect("few");
                    let mut next = Instant::now() + share * u32::try_from(n).expect("few");
                    let mut beats = 0;
                    while !done.wait_until(next) {
                        // It waits through the stop, which is what the kernel does with it.
                        let answer = beat_patiently(&discovery.address, &body);
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        beats += 1;
                        next = (next + every).max(Instant::now());
                    }
                    beats
                })
            })
            .collect();
        crate::support::pause(2 * every);
        discovery.signal(Signal::STOP);
        crate::support::pause(stop);
        discovery.signal(Signal::CONT);
        holds_for("all are listed", 5 * every, || {
            ids(&discovery).len() == CELLS
        });
        done.set();
        let beats: usize = cells
            .into_iter()
            .map(|cell| cell.join().expect("none is unknown"))
            .sum();
        report(&format!(
            "SIGSTOP for {stop:?}: {CELLS} members, none lost, {beats} beats, none answered 404"
        ));
    });
    let log = discovery.log().join("\n");
    assert!(!log.contains("Reaping"), "{log}");
}

/// A beat that is answered in the end.
fn beat_patiently(address: &str, body: &str) -> Answer {
    let mut connection = Connection::to(address);
    let patience = Some(120 * SECOND);
    connection.stream.set_read_timeout(patience).expect("set");
    let length = body.len();
    let request = format!(
        "POST /heartbeat HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    connection.send(request.as_bytes());
    connection.answer().expect("an answer")
}

#[test]
fn a_peer_with_a_short_lease_outlives_a_stop_of_a_discovery_with_the_usual_one() {
    let discovery = discovery(&[]);
    let body = r#"{"cell_id":"short","ip":"h","port":1,"stale_after_ms":1500}"#;
    assert_eq!(discovery.post("/register", body).status, 200);
    let done = Latch::new();
    std::thread::scope(|scope| {
        let beats = scope.spawn(|| {
            while !done.wait_for(Duration::from_millis(200)) {
                let answer = discovery.post("/heartbeat", r#"{"cell_id":"short"}"#);
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        });
        // Longer than from one pass of the reaper to the next.
        for _ in 0..2 {
            crate::support::pause(SECOND);
            discovery.signal(Signal::STOP);
            crate::support::pause(6 * SECOND);
            discovery.signal(Signal::CONT);
        }
        crate::support::pause(SECOND);
        done.set();
        beats.join().expect("it is never unknown");
    });
    let log = discovery.log().join("\n");
    assert!(!log.contains("Reaping"), "{log}");
}

#[test]
fn short_leases_that_come_and_go_lengthen_no_other() {
    let discovery = discovery(&["--stale-after", "10s"]);
    let silent = r#"{"cell_id":"silent","ip":"h","port":1}"#;
    let brief = r#"{"cell_id":"brief","ip":"h","port":1,"stale_after_ms":1000}"#;
    assert_eq!(discovery.post("/register", silent).status, 200);
    let took = wait_for("the silent one is gone", 60 * SECOND, || {
        assert_eq!(discovery.post("/register", brief).status, 200);
        assert_eq!(discovery.delete("/peer/brief").status, 200);
        crate::support::pause(SECOND / 20);
        ids(&discovery).is_empty()
    });
    assert!(took > 9 * SECOND && took < 18 * SECOND, "{took:?}");
}
