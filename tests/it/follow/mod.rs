//! Those who follow the membership: lists in other forms, long polls, streams of events, and what is
//! remembered of who is gone.

mod crowd;
mod events;
mod forms;
mod history;
mod polls;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Answer, Child, Connection, SOON, discovery, ids, pause, register, report, wait_for,
};

/// Nobody is taken out on the way.
const CALM: [&str; 4] = ["--stale-after", "60m", "--hold-min", "0"];
/// Peers that say nothing are soon gone.
const BRISK: [&str; 6] = [
    "--stale-after",
    "300ms",
    "--reap-every",
    "50ms",
    "--hold-min",
    "0",
];
/// What an answer takes that nothing is waited for, on a machine with too much to do.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The revision an answer shows.
#[track_caller]
fn revision(answer: &Answer) -> u64 {
    let revision = answer.header("x-mesh-revision").expect("a revision");
    revision.parse().expect("a number")
}

fn now(discovery: &Child) -> u64 {
    revision(&discovery.get("/peers"))
}

/// Registers a peer with more than its id.
#[track_caller]
fn enter(discovery: &Child, id: &str, more: &Value) -> u64 {
    let mut body = json!({"cell_id": id, "ip": "10.0.0.1", "port": 8002});
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    let answer = discovery.post("/register", &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["revision"].as_u64().expect("a number")
}

#[track_caller]
fn leave(discovery: &Child, id: &str) {
    assert_eq!(discovery.delete(&format!("/peer/{id}")).status, 200);
}

/// Asks on a connection of its own, and reads the answer later.
fn ask(discovery: &Child, target: &str) -> Connection {
    let mut connection = discovery.connect();
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
    connection
}

/// How many wait for changes, as discovery counts them.
fn waiting(discovery: &Child) -> usize {
    crate::support::metric(discovery, "aios_discovery_waiting", "") as usize
}

/// Waits until so many wait.
fn wait_until_waiting(discovery: &Child, count: usize) {
    wait_for("they wait", SOON, || waiting(discovery) == count);
}
