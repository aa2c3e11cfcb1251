//! What many peers take.

use crate::support::{SOON, discovery, head, report, wait_for};

/// How many are there before it is measured, so that what a process takes anyway is aside.
const BEFORE: usize = 10_000;
const PEERS: usize = 60_000;
/// How many registrations are sent before an answer is waited for.
const AT_ONCE: usize = 100;
/// In bytes of resident memory. The benchmark at a million peers shows how much it really is.
const MOST: usize = 600;

#[test]
fn many_take_some_hundred_bytes_each_and_their_list_only_while_it_is_read() {
    let discovery = discovery(&["--reap-every", "1s"]);
    let mut connection = discovery.connect();
    let mut register = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            // As the benchmark's: an id of 11 bytes, two services.
            let id = format!("cell-{number:06}");
            let body = format!(
                r#"{{"cell_id": "{id}", "ip": "10.0.0.1", "port": 8002, "consciousness_level": 0.1, "services": ["consciousness-primitives", "code-analysis"], "branch": "main", "type": "pure_cell", "hostname": "{id}", "stale_after_ms": 3600000}}"#
            );
            let head = head("POST", "/register", &body, "keep-alive");
            connection.send(&[head.as_bytes(), body.as_bytes()].concat());
            if (number + 1) % AT_ONCE == 0 {
                for _ in 0..AT_ONCE {
                    assert_eq!(connection.answer().expect("an answer").status, 200);
                }
            }
        }
    };
    register(0..BEFORE);
    let before = discovery.resident_kib();
    register(BEFORE..PEERS);
    let each = || {
        let more = discovery.resident_kib().saturating_sub(before);
        usize::try_from(more).expect("fits") * 1024 / (PEERS - BEFORE)
    };
    report(&format!("{} bytes resident for each of many peers", each()));
    wait_for("a peer takes no more", SOON, || each() <= MOST);

    // A list of them is let go of soon after it was read.
    let without = discovery.resident_kib();
    connection.send(head("GET", "/peers", "", "keep-alive").as_bytes());
    let length = connection.answer().expect("an answer").body.len() as u64 / 1024;
    wait_for("the list is let go of", SOON, || {
        discovery.resident_kib() < without + length / 2
    });
}
