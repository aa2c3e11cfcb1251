//! What the tests share: the built programs as children, a client that shows everything, and
//! waiting for conditions with a deadline.

mod child;
mod limits;
mod log;
mod raw;
mod socket;
mod stub;
mod traffic;
mod watch;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write as _};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use aios_mesh::wire::parse_timestamp;
pub use child::{Child, command, run};
pub use limits::{discovery_within, may_hold};
pub use raw::{Answer, Connection, ask, head, request};
use serde_json::Value;
pub use socket::{Held, ONE, passed};
pub use stub::Stub;
pub use traffic::Traffic;
pub use watch::Watch;

/// How long anything may take that takes milliseconds on an idle machine.
pub const SOON: Duration = Duration::from_secs(10);

/// A discovery on a free port of 127.0.0.1, with further flags.
pub fn discovery(flags: &[&str]) -> Child {
    let own = ["--host", "127.0.0.1", "--port", "0"];
    Child::start("aios-discovery", &[&own, flags].concat())
}

/// A cell on a free port of 127.0.0.1 that knows `discovery`, with further flags.
pub fn cell(discovery: &str, flags: &[&str]) -> Child {
    let own = [
        "--discovery",
        discovery,
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ];
    Child::start("aios-cell", &[&own, flags].concat())
}

/// The ids in `/peers`, in order.
pub fn ids(discovery: &Child) -> Vec<String> {
    ids_at(&discovery.address)
}

/// The peers in `/peers`, in order.
pub fn peers(discovery: &Child) -> Vec<Value> {
    peers_at(&discovery.address)
}

/// The ids in the `/peers` of a discovery that may be no child of ours.
pub fn ids_at(address: &str) -> Vec<String> {
    let id = |peer: &Value| peer["cell_id"].as_str().expect("a string").to_owned();
    peers_at(address).iter().map(id).collect()
}

/// Its peers.
pub fn peers_at(address: &str) -> Vec<Value> {
    let answer = request(address, "GET", "/peers", &[], b"");
    assert_eq!(answer.status, 200);
    answer.json()["peers"].as_array().expect("a list").clone()
}

/// When each of its peers was last seen, by its own clock.
pub fn last_seen_at(address: &str) -> HashMap<String, SystemTime> {
    peers_at(address)
        .iter()
        .map(|peer| {
            let id = peer["cell_id"].as_str().expect("an id").to_owned();
            let at = parse_timestamp(peer["last_seen"].as_str().expect("a time"));
            (id, at.expect("a time"))
        })
        .collect()
}

/// Registers a peer the way a client does that knows nothing of instances.
pub fn register(discovery: &Child, id: &str) {
    let body = serde_json::json!({"cell_id": id, "ip": "127.0.0.1", "port": 1});
    let answer = discovery.post("/register", &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The one line a program ends with.
pub fn one_line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(output.stdout.is_empty());
    text.trim_end().to_owned()
}

/// Waits until `condition` holds; fails after `at_most` with `what` was waited for. Returns how
/// long it took.
pub fn wait_for(what: &str, at_most: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < at_most,
            "waited {at_most:?} in vain until {what}"
        );
        pause(Duration::from_millis(5));
    }
    started.elapsed()
}

/// Asserts that `condition` holds all the while.
pub fn holds_for(what: &str, how_long: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < how_long {
        assert!(condition(), "no longer true: {what}");
        pause(Duration::from_millis(20));
    }
}

/// What `call` comes to. A socket with a time-out cuts it short for any signal, even one that nobody
/// heeds (signal(7)), such as that a child of another test has ended.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Lets time pass between two looks at something.
pub fn pause(how_long: Duration) {
    let until = Instant::now() + how_long;
    loop {
        // A thread that has waited for others may have been woken once more than it slept.
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

/// Whether a command can be run and succeeds: whether what it asks about is there.
pub fn succeeds(command: &str, arguments: &[&str]) -> bool {
    Command::new(command)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A figure of discovery's, of the series that has this label.
pub fn metric(discovery: &Child, name: &str, label: &str) -> f64 {
    let metrics = discovery.get("/metrics");
    let line = metrics.text().lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{') && rest.contains(label))
    });
    let value = line.and_then(|line| line.rsplit_once(' '));
    let (_, value) = value.unwrap_or_else(|| panic!("no {name} in {}", metrics.text()));
    value.parse().expect("a number")
}

/// A number below this one.
pub fn random(below: usize) -> usize {
    getrandom::u32().expect("random numbers") as usize % below
}

/// Whether what is measured is measured for as long and as often as it is promised, and not in the
/// short form that a change has to pass.
pub fn full_form() -> bool {
    std::env::var_os("AIOS_TEST_FULL").is_some_and(|value| value == "1")
}

/// Says that a test needs something this machine does not have. In CI that is a failure.
pub fn skip(test: &str, missing: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} needs {missing}, and nothing is skipped in CI"
    );
    // Past the capture of the test runner, which shows only what failing tests print.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {missing} is missing");
}

/// The middle of several measurements.
pub fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Shows a measured figure with the run, past the capture of the test runner.
pub fn report(figure: &str) {
    let _ = writeln!(std::io::stderr(), "MEASURED {figure}");
}
