//! Our programs in one mesh with the Python services they replace, in every pairing, and both
//! discoveries asked the same questions; and the page, which a browser shows that Python drives.
//!
//! The services are the stand-ins in `tests/python`. The Python that runs them is named by
//! `AIOS_TEST_PYTHON`, or is `python3` where that one has what `requirements.txt` lists.

mod answers;
mod cells;
mod document;
mod meshes;
mod page;
mod tool;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aios_mesh::wire::parse_timestamp;
use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::{
    Answer, Child, SOON, Stub, Watch, cell, discovery, holds_for, ids, peers, register, request,
    run, skip, wait_for,
};

/// How often the cells of these tests beat.
const INTERVAL: Duration = Duration::from_millis(200);
/// By how much a busy machine may be late.
const MARGIN: Duration = Duration::from_secs(3);
/// The interval as our cells are told.
const OUR_INTERVAL: [&str; 2] = ["--heartbeat-every", "200ms"];
/// A lease nobody loses during a test.
const LONG_LEASE: (&str, &str) = ("AIOS_STALE_AFTER", "60");

/// What the stand-ins and the tests import.
const REQUIREMENTS: &str = "fastapi, uvicorn, flask, requests, prometheus_client, schemathesis";

/// A Python that can run the stand-ins.
#[derive(Clone, Copy)]
struct Python(&'static PathBuf);

impl Python {
    /// The one there is. Without one the test that asks is skipped, and should return.
    fn found() -> Option<Self> {
        static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
        let found = FOUND.get_or_init(|| match std::env::var("AIOS_TEST_PYTHON") {
            Ok(named) => {
                let usable = interpreter(&named);
                assert!(
                    usable.is_some(),
                    "AIOS_TEST_PYTHON={named} cannot import {REQUIREMENTS}"
                );
                usable
            }
            Err(_) => interpreter("python3"),
        });
        if found.is_none() {
            let test = std::thread::current();
            let missing = "a Python with tests/python/requirements.txt (AIOS_TEST_PYTHON)";
            skip(test.name().unwrap_or("python"), missing);
        }
        found.as_ref().map(Self)
    }

    /// Starts a stand-in that sees nothing of this process's settings, and waits until it listens.
    fn start(self, script: &str, variables: &[(&str, &str)]) -> Child {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");
        let mut command = Command::new(self.0);
        command
            .arg(format!("{folder}/{script}"))
            .env_clear()
            // Where packages of the user alone would be.
            .envs(std::env::var("HOME").map(|home| ("HOME", home)))
            // The sources stay as they are.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(variables.iter().copied())
            .stdin(Stdio::null());
        Child::listening(command)
    }

    /// The Python discovery on `port` of 127.0.0.1.
    fn discovery(self, port: &str, variables: &[(&str, &str)]) -> Child {
        let own = [("DISCOVERY_HOST", "127.0.0.1"), ("DISCOVERY_PORT", port)];
        self.start("discovery.py", &[&own, variables].concat())
    }

    /// A Python cell, `pure.py` or `alpha.py`, on a free port of 127.0.0.1 unless `variables` say
    /// otherwise.
    fn cell(self, script: &str, discovery: &str, variables: &[(&str, &str)]) -> Child {
        let own = [
            ("AIOS_DISCOVERY_URL", discovery),
            ("AIOS_CELL_HOST", "127.0.0.1"),
            ("AIOS_CELL_PORT", "0"),
            ("AIOS_CELL_ADVERTISE", "127.0.0.1"),
            ("AIOS_HEARTBEAT_EVERY", "0.2"),
        ];
        self.start(script, &[&own, variables].concat())
    }
}

/// The interpreter behind `python`, if it can run the stand-ins.
fn interpreter(python: &str) -> Option<PathBuf> {
    let program = format!("import sys, {REQUIREMENTS}; print(sys.executable)");
    let mut command = Command::new(python);
    // The stand-ins will not see it either.
    command.args(["-c", &program]).env_remove("PYTHONPATH");
    let output = command.output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim().into())
}

/// A port of 127.0.0.1 that stays ours between two servers on it: it is bound, which keeps others
/// away, and not listened on, which leaves it to whoever is told its number.
struct Port {
    number: String,
    _held: Socket,
}

impl Port {
    fn reserve() -> Self {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        held.set_reuse_address(true).expect("set");
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        held.bind(&any.into()).expect("a free port");
        let bound = held.local_addr().expect("bound").as_socket();
        Self {
            number: bound.expect("IPv4").port().to_string(),
            _held: held,
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.number)
    }

    /// Our discovery on it.
    fn discovery(&self, flags: &[&str]) -> Child {
        let own = ["--host", "127.0.0.1", "--port", &self.number];
        Child::start("aios-discovery", &[&own, flags].concat())
    }

    /// Our cell on it.
    fn cell(&self, discovery: &str, preset: &str) -> Child {
        let own = ["--host", "127.0.0.1", "--port", &self.number];
        let told = ["--discovery", discovery, preset];
        Child::start("aios-cell", &[&own[..], &told, &OUR_INTERVAL].concat())
    }
}

/// A cell of ours that beats at the interval of these tests.
fn our_cell(discovery: &str, flags: &[&str]) -> Child {
    cell(discovery, &[flags, &OUR_INTERVAL].concat())
}

/// The ids in `/peers`, sorted.
fn sorted_ids(discovery: &Child) -> Vec<String> {
    let mut ids = ids(discovery);
    ids.sort_unstable();
    ids
}

/// What `/peers` shows of each peer, without `last_seen`.
fn facts(discovery: &Child) -> BTreeMap<String, Value> {
    let facts = peers(discovery).into_iter().map(|mut peer| {
        let members = peer.as_object_mut().expect("an object");
        members.remove("last_seen").expect("shown");
        let id = peer["cell_id"].as_str().expect("a string").to_owned();
        (id, peer)
    });
    facts.collect()
}

/// What `/peers` shows of a cell of a preset at `address`, without `last_seen`.
fn preset_facts(id: &str, preset: &str, address: &str) -> Value {
    let (ip, port) = address.rsplit_once(':').expect("IP:PORT");
    let port: u16 = port.parse().expect("a port");
    let hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let (level, services, branch, kind) = match preset {
        "pure" => (0.1, &["consciousness-primitives"][..], "pure", "pure_cell"),
        "alpha" => (
            5.2,
            &[
                "code-analysis",
                "consciousness-sync",
                "dendritic-communication",
                "tachyonic-archival",
                "geometric-engine",
            ][..],
            "main",
            "alpha_cell",
        ),
        _ => (0.0, &[][..], "main", "cell"),
    };
    json!({
        "cell_id": id, "ip": ip, "port": port, "consciousness_level": level,
        "services": services, "branch": branch, "type": kind, "hostname": hostname,
    })
}

/// When each of `ids` was last seen.
fn last_seen(discovery: &Child, ids: &[&str]) -> Vec<String> {
    let peers = peers(discovery);
    let last_seen = |id: &&str| {
        let peer = peers.iter().find(|peer| peer["cell_id"] == *id);
        let peer = peer.unwrap_or_else(|| panic!("{id} is not among {peers:#?}"));
        peer["last_seen"].as_str().expect("a string").to_owned()
    };
    ids.iter().map(last_seen).collect()
}

/// Waits until a beat has been taken from each of `ids`.
fn wait_for_beats(discovery: &Child, ids: &[&str]) {
    let before = last_seen(discovery, ids);
    wait_for("everybody has beaten", SOON, || {
        let now = last_seen(discovery, ids);
        now.iter().zip(&before).all(|(now, before)| now > before)
    });
}

/// Sends `cell` a signal that it obeys, and expects it to be gone from the list once it has ended.
fn leaves_on(signal: Signal, cell: &mut Child, id: &str, discovery: &mut Child) {
    cell.signal(signal);
    cell.wait(SOON);
    let left = ids(discovery);
    assert!(!left.iter().any(|one| one == id), "{id} is in {left:?}");
    discovery.wait_for_line(&format!("Peer deregistered gracefully: {id}"), SOON);
}

/// How many lines `child` has said with `text` in them.
fn count(child: &Child, text: &str) -> usize {
    let log = child.log();
    log.iter().filter(|line| line.contains(text)).count()
}

/// How old the last beat of `id` was when it was reaped, which is waited for.
fn reaped_at_age(id: &str, discovery: &mut Child) -> f64 {
    let start = format!("Reaping stale peer {id} (age: ");
    let line = discovery.wait_for_line(&start, SOON);
    let (_, age) = line.split_once(&start).expect("in there");
    let seconds = age.strip_suffix("s)").expect("seconds");
    seconds.parse().expect("a number")
}

/// Kills `child` with nothing cleaned up.
fn kill(mut child: Child) {
    child.signal(Signal::KILL);
    child.wait(SOON);
}
