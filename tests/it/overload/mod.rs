//! Overload: whatever is done to discovery, whoever beats stays in the list, and once it is over all
//! is as before.

mod descriptors;
mod members;
mod readers;
mod resets;
mod threads;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use aios_mesh::shutdown::Latch;
use socket2::{Domain, Socket, Type};

use crate::support::{
    Child, SOON, ask, discovery, discovery_within, full_form, head, may_hold, metric, pause,
    random, report, skip, wait_for,
};
use members::{Members, Watch, percentile};

/// How often each is done: what the first leaves behind the second may, the third may not add to.
const ROUNDS: usize = 3;
/// How many peers beat while it is done.
const MEMBERS: usize = 100;
/// What the third round may leave behind beside the second, in KiB.
const GROWTH: u64 = 2048;
/// How soon all are served again.
const WELL: Duration = Duration::from_secs(1);

/// How long a connection may be idle.
fn idle() -> Duration {
    Duration::from_secs(if full_form() { 30 } else { 2 })
}

/// How long something lasts, in the short form and in full.
fn lasts(short: u64, full: u64) -> Duration {
    Duration::from_secs(if full_form() { full } else { short })
}

/// Registers so many peers that are silent for as long as this takes, and whose entries are long.
fn register_the_silent(discovery: &Child, count: usize) {
    let long = "x".repeat(200);
    let mut connection = discovery.connect();
    for number in 0..count {
        let body = format!(
            r#"{{"cell_id":"silent-{number}","ip":"10.0.0.1","port":7,"hostname":"{long}","stale_after_ms":3600000}}"#
        );
        let head = head("POST", "/register", &body, "keep-alive");
        connection.send(&[head.as_bytes(), body.as_bytes()].concat());
        assert_eq!(connection.answer().expect("an answer").status, 200);
    }
}

/// A discovery that is to be overloaded, with further flags.
fn usual(flags: &[&str]) -> Child {
    let idle = format!("{}s", idle().as_secs());
    discovery(&[&["--idle-timeout", &idle], flags].concat())
}

/// A discovery that is overloaded, with members that beat all the while.
struct Trial {
    name: &'static str,
    discovery: Child,
    members: Members,
    watch: Watch,
    /// How many beats may end without an answer, as a lease of three beats allows for.
    may_be_cut_off: usize,
}

impl Trial {
    fn start(name: &'static str, discovery: Child) -> Self {
        let members = Members::start(&discovery.address, MEMBERS);
        let watch = Watch::start(&discovery.address, MEMBERS);
        Self {
            name,
            discovery,
            members,
            watch,
            may_be_cut_off: 0,
        }
    }

    /// Does it three times. `overload` returns once it has let go.
    fn run(self, mut overload: impl FnMut(&Child)) {
        let name = self.name;
        let mut resident = Vec::new();
        let mut slowest = Duration::ZERO;
        for _ in 0..ROUNDS {
            overload(&self.discovery);
            slowest = slowest.max(self.is_served_again());
            resident.push(self.resident_at_rest());
        }
        let beats = self.members.stop();
        let looks = self.watch.stop();
        report(&format!(
            "overload, {name}: served again within {slowest:?}, {resident:?} KiB resident after each \
             round; {beats}; {looks}"
        ));
        assert!(slowest < WELL, "{name}: served after {slowest:?}");
        assert!(beats.count > MEMBERS, "{name}: {beats}");
        let cut_off = std::io::Error::from(io::ErrorKind::UnexpectedEof).to_string();
        let (cut_off, other): (Vec<_>, Vec<_>) =
            beats.failures.iter().partition(|why| **why == cut_off);
        assert_eq!(other, [""; 0], "{name}");
        assert!(cut_off.len() <= self.may_be_cut_off, "{name}: {beats}");
        assert!(looks.seen > ROUNDS, "{name}: {looks}");
        assert_eq!(looks.missing, [""; 0], "{name}");
        let growth = resident[2].saturating_sub(resident[1]);
        assert!(
            growth <= GROWTH,
            "{name}: resident memory grew: {resident:?}"
        );
    }

    /// A beat and `/health` are answered: how long that took.
    fn is_served_again(&self) -> Duration {
        let address = &self.discovery.address;
        wait_for("all are served again", SOON, || {
            let answered = |method, target, body: &str| {
                matches!(ask(address, method, target, body), Ok((200, _)))
            };
            answered("POST", "/heartbeat", &members::beat(0)) && answered("GET", "/health", "")
        })
    }

    /// The memory it keeps once what was open is closed and idle threads have ended.
    fn resident_at_rest(&self) -> u64 {
        let threads = || self.discovery.threads();
        // Members and watch go on, on some threads.
        wait_for("the crowd is gone", 2 * idle() + SOON, || threads() < 40);
        pause(lasts(3, 6));
        let started = Instant::now();
        let mut least = u64::MAX;
        while started.elapsed() < Duration::from_secs(1) {
            least = least.min(self.discovery.resident_kib());
            pause(Duration::from_millis(20));
        }
        least
    }
}
