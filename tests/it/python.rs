//! Our programs in one mesh with the Python services they replace, in every pairing, and both
//! discoveries asked the same questions.
//!
//! The services are the stand-ins in `tests/python`. The Python that runs them is named by
//! `AIOS_TEST_PYTHON`, or is `python3` where that one has what `requirements.txt` lists.

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
    Answer, Child, SOON, Stub, cell, discovery, holds_for, ids, peers, register, request, run,
    skip, wait_for,
};

/// How often the cells of these tests beat.
const INTERVAL: Duration = Duration::from_millis(200);
/// By how much a busy machine may be late.
const MARGIN: Duration = Duration::from_secs(3);
/// The interval as our cells are told.
const OUR_INTERVAL: [&str; 2] = ["--heartbeat-every", "200ms"];
/// A lease nobody loses during a test.
const LONG_LEASE: (&str, &str) = ("AIOS_STALE_AFTER", "60");

/// What the stand-ins import.
const REQUIREMENTS: &str = "fastapi, uvicorn, flask, requests, prometheus_client";

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

// Our cells, the Python discovery.

#[test]
fn our_cells_live_in_the_list_of_the_python_discovery() {
    const ODD: &str = "grün & 50% +1?#";
    const IDS: [&str; 3] = ["pure", "alpha", ODD];
    let Some(python) = Python::found() else {
        return;
    };
    let mut discovery = python.discovery("0", &[LONG_LEASE]);
    let url = discovery.url();
    let flags: [&[&str]; 3] = [&["pure"], &["alpha"], &["--id", ODD]];
    let mut cells = Vec::new();
    for (flags, id) in flags.into_iter().zip(IDS) {
        cells.push(our_cell(&url, flags));
        wait_for("the cell is listed", SOON, || {
            ids(&discovery).last().is_some_and(|last| last == id)
        });
    }
    assert_eq!(ids(&discovery), IDS);
    let facts = facts(&discovery);
    for (cell, (id, preset)) in cells
        .iter()
        .zip([("pure", "pure"), ("alpha", "alpha"), (ODD, "")])
    {
        assert_eq!(facts[id], preset_facts(id, preset, &cell.address));
    }

    wait_for_beats(&discovery, &IDS);
    let synced = cells[0].post("/consciousness/sync", r#"{"level":0.7}"#);
    assert_eq!(synced.status, 200, "{}", synced.text());
    wait_for("a beat has carried the new level", SOON, || {
        peers(&discovery)[0]["consciousness_level"] == 0.7
    });

    for (cell, id) in cells.iter_mut().zip(IDS) {
        leaves_on(Signal::TERM, cell, id, &mut discovery);
        let (status, _) = cell.wait(SOON);
        assert_eq!(status.code(), Some(0));
    }
    assert!(ids(&discovery).is_empty());
    assert_eq!(count(&discovery, "Registered peer: "), IDS.len());
}

#[test]
fn the_python_discovery_reaps_a_cell_of_ours_that_was_killed() {
    let Some(python) = Python::found() else {
        return;
    };
    let lease = [("AIOS_STALE_AFTER", "1.5"), ("AIOS_REAP_EVERY", "0.1")];
    let mut discovery = python.discovery("0", &lease);
    let pure = our_cell(&discovery.url(), &["pure"]);
    let _alpha = our_cell(&discovery.url(), &["alpha"]);
    wait_for("both are listed", SOON, || {
        sorted_ids(&discovery) == ["alpha", "pure"]
    });
    kill(pure);
    let age = reaped_at_age("pure", &mut discovery);
    assert!(age >= 1.5, "{age}");
    wait_for("the other is left", SOON, || ids(&discovery) == ["alpha"]);
    assert_eq!(count(&discovery, "deregistered gracefully"), 0);
}

#[test]
fn our_cells_wait_for_the_python_discovery_and_come_back_after_its_restart() {
    const IDS: [&str; 3] = ["alpha", "plain", "pure"];
    let Some(python) = Python::found() else {
        return;
    };
    let port = Port::reserve();
    let mut cells: Vec<Child> = [&["alpha"][..], &["--id", "plain"], &["pure"]]
        .into_iter()
        .map(|flags| our_cell(&port.url(), flags))
        .collect();
    for cell in &mut cells {
        cell.wait_for_line("cannot register", SOON);
    }
    let discovery = python.discovery(&port.number, &[LONG_LEASE]);
    wait_for("all have registered, late", SOON, || {
        sorted_ids(&discovery) == IDS
    });
    let before = facts(&discovery);

    kill(discovery);
    for cell in &mut cells {
        cell.wait_for_line("heartbeat failed", SOON);
    }
    let discovery = python.discovery(&port.number, &[LONG_LEASE]);
    wait_for("all are back", INTERVAL + MARGIN, || {
        sorted_ids(&discovery) == IDS
    });
    assert_eq!(facts(&discovery), before);
    wait_for_beats(&discovery, &IDS);
    for (cell, id) in cells.iter_mut().zip(IDS) {
        cell.wait_for_line("works again after", SOON);
        assert_eq!(count(cell, &format!("does not know {id}")), 1);
        assert_eq!(count(cell, &format!("Registered {id} with")), 2);
    }
}

#[test]
fn our_cells_beat_on_while_a_gateway_to_the_python_discovery_answers_503() {
    static BROKEN: AtomicBool = AtomicBool::new(false);
    const IDS: [&str; 2] = ["alpha", "pure"];
    let Some(python) = Python::found() else {
        return;
    };
    let discovery = python.discovery("0", &[LONG_LEASE]);
    let behind = discovery.address.clone();
    let gateway = Stub::start(move |arrived| {
        if BROKEN.load(Ordering::SeqCst) {
            return Some((503, "no backend".to_owned()));
        }
        let (method, target) = arrived.line.split_once(' ').expect("a target");
        let json = ["Content-Type: application/json"];
        let answer = request(&behind, method, target, &json, &arrived.body);
        Some((answer.status, answer.text().to_owned()))
    });
    let mut cells = IDS.map(|preset| our_cell(&gateway.url(), &[preset]));
    wait_for("both are listed", SOON, || sorted_ids(&discovery) == IDS);
    wait_for_beats(&discovery, &IDS);

    BROKEN.store(true, Ordering::SeqCst);
    for cell in &mut cells {
        cell.wait_for_line("answered with status 503", SOON);
    }
    let beats = || gateway.arrived("POST /heartbeat").len();
    let before = beats();
    wait_for("both have gone on beating", SOON, || beats() > before + 4);
    BROKEN.store(false, Ordering::SeqCst);

    for cell in &mut cells {
        cell.wait_for_line("works again after", SOON);
    }
    wait_for_beats(&discovery, &IDS);
    assert_eq!(gateway.arrived("POST /register").len(), IDS.len());
}

#[test]
fn a_python_discovery_that_hangs_neither_loses_our_cell_nor_holds_it() {
    let Some(python) = Python::found() else {
        return;
    };
    let mut discovery = python.discovery("0", &[LONG_LEASE]);
    let mut cell = our_cell(&discovery.url(), &["pure"]);
    wait_for("it is listed", SOON, || ids(&discovery) == ["pure"]);

    discovery.signal(Signal::STOP);
    cell.wait_for_line("heartbeat failed: no answer in time", SOON);
    discovery.signal(Signal::CONT);
    cell.wait_for_line("works again after", SOON);
    wait_for_beats(&discovery, &["pure"]);
    assert_eq!(count(&cell, "Registered pure with"), 1);

    discovery.signal(Signal::STOP);
    cell.signal(Signal::TERM);
    let (status, took) = cell.wait(SOON);
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(2) + MARGIN, "{took:?}");
    // The goodbye lay there all the while.
    discovery.signal(Signal::CONT);
    discovery.wait_for_line("Peer deregistered gracefully: pure", SOON);
    wait_for("it is gone", SOON, || ids(&discovery).is_empty());
}

// Python cells, our discovery.

#[test]
fn python_cells_live_in_our_list_and_come_back_after_our_restart() {
    const IDS: [&str; 3] = ["alpha", "alpha-2", "pure"];
    let Some(python) = Python::found() else {
        return;
    };
    let port = Port::reserve();
    let mut pure = python.cell("pure.py", &port.url(), &[]);
    pure.wait_for_line("Registration failed", SOON);
    let discovery = port.discovery(&["--stale-after", "60s"]);
    let mut alpha = python.cell("alpha.py", &port.url(), &[]);
    let second = [("AIOS_CELL_ID", "alpha-2")];
    let mut alpha_2 = python.cell("alpha.py", &port.url(), &second);
    wait_for("all have registered", SOON, || {
        sorted_ids(&discovery) == IDS
    });
    let before = facts(&discovery);
    assert_eq!(before["pure"], preset_facts("pure", "pure", &pure.address));
    for (id, cell) in [("alpha", &alpha), ("alpha-2", &alpha_2)] {
        assert_eq!(before[id], preset_facts(id, "alpha", &cell.address));
    }
    wait_for_beats(&discovery, &IDS);
    assert_eq!(
        pure.post("/consciousness/sync", r#"{"level":0.7}"#).status,
        200
    );
    wait_for("a beat has carried the new level", SOON, || {
        facts(&discovery)["pure"]["consciousness_level"] == 0.7
    });

    kill(discovery);
    for cell in [&mut pure, &mut alpha, &mut alpha_2] {
        cell.wait_for_line("Heartbeat failed", SOON);
    }
    let mut discovery = port.discovery(&["--stale-after", "2s", "--reap-every", "100ms"]);
    wait_for("all are back", INTERVAL + MARGIN, || {
        sorted_ids(&discovery) == IDS
    });
    for cell in [&mut pure, &mut alpha, &mut alpha_2] {
        cell.wait_for_line("registering again", SOON);
    }

    leaves_on(Signal::TERM, &mut pure, "pure", &mut discovery);
    leaves_on(Signal::INT, &mut alpha_2, "alpha-2", &mut discovery);
    // The exit hook of this one is not reached.
    alpha.signal(Signal::TERM);
    alpha.wait(SOON);
    assert_eq!(ids(&discovery), ["alpha"]);
    let age = reaped_at_age("alpha", &mut discovery);
    assert!(age >= 2.0, "{age}");
    wait_for("it is gone", SOON, || ids(&discovery).is_empty());
}

// Mixed meshes.

#[test]
fn a_python_pure_and_our_alpha_share_a_mesh_under_either_discovery() {
    const IDS: [&str; 2] = ["alpha", "pure"];
    let Some(python) = Python::found() else {
        return;
    };
    for mut discovery in [
        python.discovery("0", &[LONG_LEASE]),
        discovery(&["--stale-after", "60s"]),
    ] {
        let mut pure = python.cell("pure.py", &discovery.url(), &[]);
        let mut alpha = our_cell(&discovery.url(), &["alpha"]);
        wait_for("both are listed", SOON, || sorted_ids(&discovery) == IDS);
        let expected = [("alpha", &alpha), ("pure", &pure)]
            .map(|(id, cell)| (id.to_owned(), preset_facts(id, id, &cell.address)));
        assert_eq!(facts(&discovery), BTreeMap::from(expected));
        wait_for_beats(&discovery, &IDS);
        leaves_on(Signal::TERM, &mut alpha, "alpha", &mut discovery);
        wait_for_beats(&discovery, &["pure"]);
        leaves_on(Signal::TERM, &mut pure, "pure", &mut discovery);
        assert!(ids(&discovery).is_empty());
    }
}

#[test]
fn services_are_replaced_one_by_one_and_the_list_comes_out_the_same() {
    const IDS: [&str; 2] = ["alpha", "pure"];
    let Some(python) = Python::found() else {
        return;
    };
    let (port, pure_port, alpha_port) = (Port::reserve(), Port::reserve(), Port::reserve());
    let url = port.url();
    let mut discovery = python.discovery(&port.number, &[LONG_LEASE]);
    let on_pure = [("AIOS_CELL_PORT", pure_port.number.as_str())];
    let mut pure = python.cell("pure.py", &url, &on_pure);
    let on_alpha = [("AIOS_CELL_PORT", alpha_port.number.as_str())];
    let mut alpha = python.cell("alpha.py", &url, &on_alpha);
    wait_for("all of Python's are listed", SOON, || {
        sorted_ids(&discovery) == IDS
    });
    let all = facts(&discovery);

    discovery.signal(Signal::TERM);
    discovery.wait(SOON);
    let mut discovery = port.discovery(&["--stale-after", "60s"]);
    wait_for("our discovery knows both", INTERVAL + MARGIN, || {
        sorted_ids(&discovery) == IDS
    });
    assert_eq!(facts(&discovery), all);

    leaves_on(Signal::TERM, &mut pure, "pure", &mut discovery);
    let mut pure = pure_port.cell(&url, "pure");
    pure.wait_for_line("Registered pure with", SOON);
    assert_eq!(facts(&discovery), all);

    // Gone without a word: it stays listed until its successor takes its place.
    alpha.signal(Signal::TERM);
    alpha.wait(SOON);
    let mut alpha = alpha_port.cell(&url, "alpha");
    wait_for("our alpha has registered", SOON, || {
        assert_eq!(facts(&discovery), all);
        count(&alpha, "Registered alpha with") == 1
    });
    wait_for_beats(&discovery, &IDS);
    assert_eq!(facts(&discovery), all);

    // And the way back, should somebody want to take it.
    discovery.signal(Signal::TERM);
    discovery.wait(SOON);
    let mut discovery = python.discovery(&port.number, &[LONG_LEASE]);
    wait_for("the Python discovery knows both", INTERVAL + MARGIN, || {
        sorted_ids(&discovery) == IDS
    });
    assert_eq!(facts(&discovery), all);
    leaves_on(Signal::TERM, &mut pure, "pure", &mut discovery);
    leaves_on(Signal::TERM, &mut alpha, "alpha", &mut discovery);
}

#[test]
fn a_python_cell_that_leaves_after_its_successor_came_costs_it_no_more_than_an_interval() {
    let Some(python) = Python::found() else {
        return;
    };
    let mut discovery = discovery(&["--stale-after", "60s"]);
    let mut old = python.cell("pure.py", &discovery.url(), &[]);
    wait_for("the old one is listed", SOON, || {
        ids(&discovery) == ["pure"]
    });
    let mut new = our_cell(&discovery.url(), &["pure"]);
    new.wait_for_line("Registered pure with", SOON);
    let ours = preset_facts("pure", "pure", &new.address);
    assert_eq!(facts(&discovery)["pure"], ours);
    // Both beat; the list stays with the one that registered last.
    holds_for("the new one is listed", 3 * INTERVAL, || {
        facts(&discovery)["pure"] == ours
    });

    // Its DELETE names no run, so it takes out whoever has the name.
    old.signal(Signal::TERM);
    old.wait(SOON);
    discovery.wait_for_line("Peer deregistered gracefully: pure", SOON);
    wait_for("the new one is back", INTERVAL + MARGIN, || {
        facts(&discovery).get("pure") == Some(&ours)
    });
}

// The operator's tool, the Python discovery.

/// Runs `aios-mesh` against `discovery`.
fn mesh(discovery: &Child, arguments: &[&str]) -> Output {
    run(
        "aios-mesh",
        arguments,
        &[("AIOS_DISCOVERY_URL", &discovery.url())],
    )
}

/// What a run printed, which must have succeeded.
fn printed(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_operators_tool_lists_and_takes_out_peers_of_the_python_discovery() {
    let Some(python) = Python::found() else {
        return;
    };
    let mut discovery = python.discovery("0", &[LONG_LEASE]);
    let list = |format| printed(mesh(&discovery, &["peers", "--format", format]));
    assert_eq!(list("ids"), "");
    let body = json!({
        "cell_id": "a/b ü", "ip": "::1", "port": 8002, "consciousness_level": 5.2, "type": "odd_cell",
    });
    assert_eq!(discovery.post("/register", &body.to_string()).status, 200);
    register(&discovery, "tot & weg");
    let mut cell = our_cell(&discovery.url(), &["--id", "runs"]);
    wait_for("our cell is listed", SOON, || ids(&discovery).len() == 3);

    assert_eq!(list("ids"), "a/b ü\ntot & weg\nruns\n");
    let json: Value = serde_json::from_str(&list("json")).expect("JSON");
    assert_eq!(json["count"], 3);
    assert_eq!(json["peers"][0]["cell_id"], "a/b ü");
    let tsv = list("tsv");
    let rows: Vec<Vec<&str>> = tsv.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(
        rows[0],
        ["id", "ip", "port", "type", "level", "last_seen", "age"]
    );
    assert_eq!(rows[1][..5], ["a/b ü", "::1", "8002", "odd_cell", "5.2"]);
    assert!(parse_timestamp(rows[1][5]).is_some(), "{tsv}");
    let age: f64 = rows[1][6].parse().expect("seconds");
    // This discovery does not say what time it has, so the tool's own clock is used.
    assert!((0.0..SOON.as_secs_f64()).contains(&age), "{tsv}");
    let table = list("table");
    let mut lines = table.lines();
    let head = ["ID", "ADDRESS", "TYPE", "LEVEL", "LAST", "BEAT", "STATE"];
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(lines.next().expect("a head")), head);
    let first = words(lines.next().expect("a peer"));
    assert_eq!(first[..5], ["a/b", "ü", "[::1]:8002", "odd_cell", "5.2"]);
    assert_eq!(lines.count(), 2);

    let output = mesh(&discovery, &["deregister", "tot & weg"]);
    assert_eq!(printed(output), "deregistered tot & weg\n");
    assert_eq!(ids(&discovery), ["a/b ü", "runs"]);
    let output = mesh(&discovery, &["deregister", "tot & weg"]);
    assert_eq!(output.status.code(), Some(1));
    let why = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(why.contains("no peer has the id tot & weg"), "{why}");

    // One that runs is back at its next beat.
    assert!(mesh(&discovery, &["deregister", "runs"]).status.success());
    discovery.wait_for_line("Peer deregistered gracefully: runs", SOON);
    wait_for("it is back", INTERVAL + MARGIN, || {
        ids(&discovery) == ["a/b ü", "runs"]
    });
    cell.wait_for_line("does not know runs", SOON);
}

// The same questions to both.

/// A request: method, target, JSON body.
type Question<'a> = (&'a str, &'a str, &'a str);

/// The questions in a text with one a line.
fn questions(text: &str) -> impl Iterator<Item = Question<'_>> {
    let lines = text.lines();
    let asking = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    asking.map(|line| {
        let (method, rest) = line.split_once(' ').expect("a method");
        let (target, body) = rest.split_once(' ').unwrap_or((rest, ""));
        (method, target, body)
    })
}

/// What discovery is asked. Not among it is what the two answer differently on purpose: what ours
/// refuses and the other takes (empty ids, negative ports, levels that are no numbers, hosts that
/// are none, long texts, control characters, numbers spelled as only Python spells them), other
/// content types than JSON and none, ids with a slash in a path, and paths and query parameters
/// that only ours has.
const TO_DISCOVERY: &str = r##"
GET /health
HEAD /health
GET /health/
GET /peers
HEAD /peers
GET /peers/
GET /%70eers
GET /peers?unknown=1

# Registrations that are taken.
POST /register {"cell_id":"a","ip":"10.0.0.1","port":8002}
POST /register {"cell_id":"b","ip":"aios-cell-pure","port":8002,"consciousness_level":5.2,"services":["s","t"],"branch":"pure","type":"pure_cell","hostname":"h"}
POST /register {"cell_id":"c","ip":"::1","port":0,"services":[],"branch":"","type":"","hostname":""}
POST /register/ {"cell_id":"d","ip":"h","port":65535}
POST /register?x=1 {"cell_id":"e","ip":"h","port":1}
POST /register   { "cell_id" : "f" , "ip":"h", "port": 1 }
POST /register {"cell_id":"größe ✓ \u0041\ud83d\ude00","ip":"h","port":1}
POST /register {"cell_id":"with \"quotes\" & \\ <b>","ip":"h","port":1,"hostname":"größe"}
POST /register {"cell_id":" blanks ","ip":"h","port":1,"branch":" b "}
POST /register {"cell_id":"x/y","ip":"h","port":1}

# One that is there keeps its place.
POST /register {"cell_id":"a","ip":"10.0.0.2","port":8003,"services":["s"],"branch":"b"}
POST /register {"cell_id":"b","ip":"aios-cell-pure","port":8002}

# Ports.
POST /register {"cell_id":"a","ip":"h","port":"8002"}
POST /register {"cell_id":"a","ip":"h","port":" 8003 "}
POST /register {"cell_id":"a","ip":"h","port":"\t8004\n"}
POST /register {"cell_id":"a","ip":"h","port":"+8005"}
POST /register {"cell_id":"a","ip":"h","port":"08006"}
POST /register {"cell_id":"a","ip":"h","port":8007.0}
POST /register {"cell_id":"a","ip":"h","port":8.008e3}
POST /register {"cell_id":"a","ip":"h","port":-0.0}
POST /register {"cell_id":"a","ip":"h","port":8002.5}
POST /register {"cell_id":"a","ip":"h","port":"8002.5"}
POST /register {"cell_id":"a","ip":"h","port":"0x1"}
POST /register {"cell_id":"a","ip":"h","port":"eight"}
POST /register {"cell_id":"a","ip":"h","port":""}
POST /register {"cell_id":"a","ip":"h","port":"8 002"}
POST /register {"cell_id":"a","ip":"h","port":null}
POST /register {"cell_id":"a","ip":"h","port":[1]}
POST /register {"cell_id":"a","ip":"h","port":{}}

# Levels.
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":5}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":-0.5}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":1e3}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":1e-7}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":0.30000000000000004}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":9007199254740993}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":"5.2"}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":" 1e1 "}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":"+.5"}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":"high"}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":"0x10"}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":""}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":null}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":[]}

# Unknown members, and duplicates.
POST /register {"cell_id":"a","ip":"h","port":2,"extra":{"deep":[1,{"x":null}]},"more":true,"big":123456789012345678901234567890}
POST /register {"cell_id":"a","ip":"h","port":3,"last_seen":"2020-01-01T00:00:00.000000Z"}
POST /register {"cell_id":"a","ip":"h","port":4,"last_seen":7}
POST /register {"cell_id":"z","ip":"h","port":5,"port":6,"cell_id":"a"}
POST /register {"cell_id":"a","ip":"h","port":null,"port":7}
POST /register {"cell_id":"a","ip":"h","port":8,"port":null}

# What is missing, null or ill-typed.
POST /register {"ip":"h","port":1}
POST /register {"cell_id":"n","port":1}
POST /register {"cell_id":"n","ip":"h"}
POST /register {"cell_id":null,"ip":"h","port":1}
POST /register {"cell_id":"n","ip":null,"port":1}
POST /register {"cell_id":7,"ip":"h","port":1}
POST /register {"cell_id":["n"],"ip":"h","port":1}
POST /register {"cell_id":"n","ip":167772161,"port":1}
POST /register {"cell_id":"n","ip":"h","port":1,"services":null}
POST /register {"cell_id":"n","ip":"h","port":1,"services":"s"}
POST /register {"cell_id":"n","ip":"h","port":1,"services":{"s":1}}
POST /register {"cell_id":"n","ip":"h","port":1,"services":["s",1]}
POST /register {"cell_id":"n","ip":"h","port":1,"services":["s",null]}
POST /register {"cell_id":"n","ip":"h","port":1,"branch":null}
POST /register {"cell_id":"n","ip":"h","port":1,"branch":1}
POST /register {"cell_id":"n","ip":"h","port":1,"type":null}
POST /register {"cell_id":"n","ip":"h","port":1,"type":["t"]}
POST /register {"cell_id":"n","ip":"h","port":1,"hostname":null}
POST /register {"Cell_Id":"n","ip":"h","port":1}

# What is no JSON object.
POST /register
POST /register {}
POST /register []
POST /register null
POST /register 7
POST /register "{\"cell_id\":\"n\",\"ip\":\"h\",\"port\":1}"
POST /register [{"cell_id":"n","ip":"h","port":1}]
POST /register {"cell_id":"n","ip":"h","port":1
POST /register {"cell_id":"n","ip":"h","port":1,}
POST /register {"cell_id":"n","ip":"h","port":1} x
POST /register {'cell_id':'n','ip':'h','port':1}
POST /register cell_id=n&ip=h&port=1

# Heartbeats.
POST /heartbeat {"cell_id":"a","consciousness_level":0.7}
POST /heartbeat {"cell_id":"b","consciousness_level":3}
POST /heartbeat {"cell_id":"b","consciousness_level":"0.25"}
POST /heartbeat/ {"cell_id":"c","consciousness_level":-1}
POST /heartbeat {"cell_id":"größe ✓ A😀","consciousness_level":1.5,"more":[]}
POST /heartbeat {"cell_id":"a"}
POST /heartbeat {"cell_id":"nobody","consciousness_level":0.1}
POST /heartbeat {"cell_id":"nobody"}
POST /heartbeat {"cell_id":"größe \"✓\" \\ <b>"}
POST /heartbeat {"cell_id":"nobody","cell_id":"a","consciousness_level":2}
POST /heartbeat {"cell_id":"a","consciousness_level":null}
POST /heartbeat {"cell_id":"a","consciousness_level":"low"}
POST /heartbeat {"cell_id":"a","consciousness_level":[1]}
POST /heartbeat {"cell_id":null}
POST /heartbeat {"cell_id":1}
POST /heartbeat {"consciousness_level":1}
POST /heartbeat {}
POST /heartbeat []
POST /heartbeat
POST /heartbeat {

# Departures.
DELETE /peer/nobody
DELETE /unregister/nobody
DELETE /peer/a
DELETE /peer/a
POST /heartbeat {"cell_id":"a","consciousness_level":1}
DELETE /unregister/b
DELETE /unregister/b
DELETE /peer/c/
DELETE /unregister/d/
DELETE /peer/%65
DELETE /peer/f?x=1
DELETE /peer/gr%C3%B6%C3%9Fe%20%E2%9C%93%20A%F0%9F%98%80
DELETE /peer/with+%22quotes%22+%26+%5C+%3Cb%3E
DELETE /peer/with%20%22quotes%22%20%26%20%5C%20%3Cb%3E
DELETE /unregister/%20blanks%20

# Who comes again comes last.
POST /register {"cell_id":"50% +1","ip":"h","port":1}
POST /register {"cell_id":"a","ip":"h","port":1}
DELETE /peer/50%25%20+1

# Paths and methods there are not.
GET /nothing
POST /nothing {}
DELETE /nothing/a
HEAD /nothing
GET /Peers
GET //peers
GET /peers;x
GET /register/a
GET /health/a
DELETE /peer
DELETE /peer/
DELETE /unregister/
GET /register
HEAD /register
PUT /register {"cell_id":"n","ip":"h","port":1}
DELETE /register
GET /heartbeat
PATCH /heartbeat {"cell_id":"a"}
GET /peer/a
HEAD /peer/a
POST /peer/a {}
GET /unregister/a
POST /peers {}
DELETE /peers
OPTIONS /peers
TRACE /peers
POST /health {}
PUT /metrics {}
"##;

/// Asks one question; a redirect to the same path without its trailing slash is followed.
fn ask(service: &Child, (method, target, body): Question<'_>) -> Answer {
    let json = ["Content-Type: application/json"];
    let headers = if method == "POST" { &json[..] } else { &[] };
    let answer = service.request(method, target, headers, body.as_bytes());
    if answer.status != 307 {
        return answer;
    }
    let location = answer.header("location").expect("a location");
    let target = location.strip_prefix(&service.url()).expect("its own");
    service.request(method, target, headers, body.as_bytes())
}

/// Replaces what differs from one moment to the next, checking its form.
fn steadied(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            for (name, member) in members {
                let steady = match name.as_str() {
                    "last_seen" | "timestamp" => {
                        let text = member.as_str().expect("a string");
                        let well_formed = text.len() == 27 && text.ends_with('Z');
                        assert!(well_formed && parse_timestamp(text).is_some(), "{text}");
                        json!("a time")
                    }
                    "uptime_seconds" => {
                        assert!(member.is_f64(), "{member}");
                        json!("some seconds")
                    }
                    _ => steadied(member.take()),
                };
                *member = steady;
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = steadied(item.take());
            }
        }
        _ => {}
    }
    value
}

/// Whether `ours` is `theirs` with perhaps more members; within lists nothing may be more.
fn covers(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => theirs
            .iter()
            .all(|(name, theirs)| ours.get(name).is_some_and(|ours| covers(ours, theirs))),
        _ => ours == theirs,
    }
}

/// The methods an answer allows.
fn allowed(answer: &Answer) -> BTreeSet<&str> {
    let allow = answer.header("allow").unwrap_or_default();
    allow.split(',').map(str::trim).collect()
}

/// What is wrong with our answer, given the other one.
fn difference(method: &str, theirs: &Answer, ours: &Answer) -> Option<&'static str> {
    if ours.status != theirs.status {
        return Some("the status differs");
    }
    if ours.header("content-type") != theirs.header("content-type") {
        return Some("the content type differs");
    }
    if ours.status == 405 && ours.header("allow").is_none() {
        return Some("it is not said what is allowed");
    }
    if method == "HEAD" {
        let length = ours.header("content-length").and_then(|n| n.parse().ok());
        return (length.unwrap_or(0) == 0).then_some("the length of the body is not told");
    }
    let (theirs, ours) = (steadied(theirs.json()), steadied(ours.json()));
    if theirs
        .get("detail")
        .is_some_and(|detail| !detail.is_string())
    {
        // What the other says of ill-typed fields is its library's own list.
        return (!ours["detail"].is_string()).then_some("there is no detail");
    }
    (!covers(&ours, &theirs)).then_some("the body lacks something")
}

/// Asks both the same and collects what differs, together with `state` after each change.
fn ask_both(theirs: &Child, ours: &Child, text: &str, state: &str) {
    let mut differences = Vec::new();
    let mut compare = |question: Question<'_>, after: &str| {
        let (theirs, ours) = (ask(theirs, question), ask(ours, question));
        let (method, target, body) = question;
        if let Some(what) = difference(method, &theirs, &ours) {
            differences.push(format!(
                "{method} {target} {body}{after}: {what}\n  theirs: {} {}\n  ours:   {} {}",
                theirs.status,
                theirs.text(),
                ours.status,
                ours.text()
            ));
        }
    };
    for question in questions(text) {
        compare(question, "");
        let (method, target, body) = question;
        if !matches!(method, "GET" | "HEAD") {
            compare(
                ("GET", state, ""),
                &format!(" after {method} {target} {body}"),
            );
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The series in an answer to `/metrics`, and the lines that name their types.
fn series(service: &Child, target: &str) -> (BTreeMap<String, f64>, BTreeSet<String>) {
    let answer = service.get(target);
    assert_eq!(answer.status, 200);
    let content_type = answer.header("content-type").expect("a content type");
    assert!(
        content_type.starts_with("text/plain; version=0.0.4"),
        "{content_type}"
    );
    let (comments, samples): (Vec<_>, Vec<_>) = answer
        .text()
        .lines()
        .partition(|line| line.starts_with('#'));
    let samples = samples.into_iter().map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    let types = comments
        .into_iter()
        .filter(|line| line.starts_with("# TYPE"))
        .map(str::to_owned);
    (samples.collect(), types.collect())
}

/// Whoever reads their metrics finds the same in ours.
fn same_metrics(theirs: &Child, ours: &Child, target: &str) {
    let ((theirs, their_types), (ours, our_types)) = (series(theirs, target), series(ours, target));
    assert!(!theirs.is_empty());
    let missing: Vec<_> = their_types.difference(&our_types).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (name, value) in theirs {
        let found = ours.get(&name);
        let found = *found.unwrap_or_else(|| panic!("{name} is not in {ours:#?}"));
        let steady = !name.contains("uptime");
        assert!(
            !steady || found.to_bits() == value.to_bits(),
            "{name} {found}"
        );
    }
}

#[test]
fn both_discoveries_give_the_same_answers() {
    let Some(python) = Python::found() else {
        return;
    };
    let theirs = [LONG_LEASE, ("AIOS_MY_HOST", "here"), ("AIOS_LEVEL", "0.75")];
    let theirs = python.discovery("0", &theirs);
    let ours = [
        "--my-host",
        "here",
        "--level",
        "0.75",
        "--stale-after",
        "60s",
    ];
    let ours = discovery(&ours);
    ask_both(&theirs, &ours, TO_DISCOVERY, "/peers");
    assert_eq!(ids(&ours), ["x/y", "a"]);
    same_metrics(&theirs, &ours, "/metrics");
    for peer in peers(&ours) {
        assert_eq!(
            peer.as_object().map(serde_json::Map::len),
            Some(9),
            "{peer}"
        );
    }
    for question in questions(TO_DISCOVERY) {
        let ours = ask(&ours, question);
        if ours.status == 405 {
            let theirs = ask(&theirs, question);
            assert_eq!(allowed(&ours), allowed(&theirs), "{question:?}");
        }
    }
}

#[test]
fn a_content_type_of_json_may_have_parameters_and_a_prefix_for_both_discoveries() {
    let Some(python) = Python::found() else {
        return;
    };
    for discovery in [python.discovery("0", &[LONG_LEASE]), discovery(&[])] {
        for content_type in [
            "application/json; charset=utf-8",
            "Application/JSON",
            "application/vnd.cell+json",
        ] {
            let header = format!("Content-Type: {content_type}");
            let body = br#"{"cell_id":"a","ip":"h","port":1}"#;
            let answer = discovery.request("POST", "/register", &[&header], body);
            assert_eq!(answer.status, 200, "{content_type}: {}", answer.text());
        }
    }
}

/// What a pure cell is asked; messages aside.
const TO_PURE: &str = r##"
GET /health
GET /health/
GET /consciousness
GET /consciousness/primitives
POST /consciousness/sync {"level":0.5}
POST /consciousness/sync {"level":1.5}
POST /consciousness/sync {"level":-3}
POST /consciousness/sync {"level":"0.25"}
POST /consciousness/sync {"level":0.5,"context":null}
POST /consciousness/sync {"level":0.5,"context":{}}
POST /consciousness/sync {"level":0.5,"context":{"unknown":1}}
POST /consciousness/sync {"level":0.5,"context":{"awareness":0.9,"unknown":1}}
POST /consciousness/sync {"level":0.5,"context":{"coherence":"0.3","momentum":7}}
POST /consciousness/sync {"level":0.6,"context":{"awareness":"much"}}
POST /consciousness/sync {"level":0.6,"context":[]}
POST /consciousness/sync {"level":null}
POST /consciousness/sync {"level":"high"}
POST /consciousness/sync {}
POST /consciousness/sync []
POST /consciousness/sync
POST /consciousness/sync {
GET /consciousness/sync
POST /health {}
GET /nothing
"##;

/// What an alpha cell is asked; messages and peers registered by hand aside.
const TO_ALPHA: &str = r##"
GET /health
HEAD /health
GET /consciousness
POST /consciousness {}
GET /consciousness/primitives
GET /nothing
POST /nothing {}
"##;

#[test]
fn our_cells_give_the_answers_python_cells_give() {
    let Some(python) = Python::found() else {
        return;
    };
    // Nobody is there to register with, so no beat is counted on either side.
    let nobody = Port::reserve();
    let theirs = python.cell("pure.py", &nobody.url(), &[]);
    let ours = our_cell(&nobody.url(), &["pure"]);
    ask_both(&theirs, &ours, TO_PURE, "/consciousness");
    same_metrics(&theirs, &ours, "/metrics");
    same_metrics(&theirs, &ours, "/metrics/prometheus");

    let theirs = python.cell("alpha.py", &nobody.url(), &[]);
    let ours = our_cell(&nobody.url(), &["alpha"]);
    ask_both(&theirs, &ours, TO_ALPHA, "/health");
    same_metrics(&theirs, &ours, "/metrics");
}
