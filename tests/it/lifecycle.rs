//! How cells come and go: started, stopped, killed, forgotten, and all of it with discovery up,
//! down, hanging or restarted.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aios_mesh::cell::{self, Preset};
use aios_mesh::client::DiscoveryUrl;
use aios_mesh::http::Listener;
use aios_mesh::shutdown::Latch;
use aios_mesh::wire::CellId;
use rustix::process::Signal;

use crate::support::{
    Child, SOON, Stub, cell, discovery, holds_for, ids, last_seen_at, median, peers, report,
    request, wait_for,
};

const SECOND: Duration = Duration::from_secs(1);

/// A discovery in the place of one that is gone.
fn discovery_at(address: &str) -> Child {
    let (_, port) = address.rsplit_once(':').expect("a port");
    Child::start("aios-discovery", &["--host", "127.0.0.1", "--port", port])
}

/// An address nobody listens at, for a discovery that comes later.
fn free_address() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

#[test]
fn discovery_answers_at_once_and_a_cell_is_listed_at_once() {
    let mut answers = Vec::new();
    let mut joins = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        let discovery = discovery(&[]);
        assert_eq!(discovery.get("/health").status, 200);
        answers.push(started.elapsed());

        let started = Instant::now();
        let _cell = cell(&discovery.url(), &["pure"]);
        wait_for("the cell is listed", SOON, || ids(&discovery) == ["pure"]);
        joins.push(started.elapsed());
    }
    let (answers, joins) = (median(answers), median(joins));
    report(&format!(
        "from process start: discovery answers after {answers:?}, a cell is listed after {joins:?} (medians of 20)"
    ));
    assert!(answers < Duration::from_millis(100), "{answers:?}");
    assert!(joins < Duration::from_millis(200), "{joins:?}");
}

#[test]
fn a_cell_told_to_stop_is_gone_from_the_list_at_once() {
    let mut discovery = discovery(&[]);
    let mut gone = Vec::new();
    let mut ended = Vec::new();
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::TERM,
        Signal::INT,
        Signal::TERM,
    ] {
        let mut cell = cell(&discovery.url(), &["pure"]);
        wait_for("the cell is listed", SOON, || ids(&discovery) == ["pure"]);
        let told = Instant::now();
        cell.signal(signal);
        wait_for("it is gone", SOON, || ids(&discovery).is_empty());
        gone.push(told.elapsed());
        let (status, _) = cell.wait(SOON);
        ended.push(told.elapsed());
        assert_eq!(status.code(), Some(0));
    }
    discovery.wait_for_line("Peer deregistered gracefully: pure", SOON);
    let (gone, ended) = (median(gone), median(ended));
    report(&format!(
        "after SIGTERM: gone from the list after {gone:?}, process ended after {ended:?}"
    ));
    assert!(gone < Duration::from_millis(200), "{gone:?}");
    assert!(ended < Duration::from_millis(500), "{ended:?}");
}

/// A cell told to stop while it is at what the test made it wait for.
fn stops_in_time(mut cell: Child, what: &str) {
    let told = Instant::now();
    cell.signal(Signal::TERM);
    let (status, _) = cell.wait(SOON);
    let took = told.elapsed();
    report(&format!("SIGTERM with {what}: ended after {took:?}"));
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

#[test]
fn a_cell_stops_in_time_when_discovery_is_down() {
    let mut cell = cell(&format!("http://{}", free_address()), &["pure"]);
    cell.wait_for_line("cannot register", SOON);
    stops_in_time(cell, "discovery down");
}

#[test]
fn a_cell_stops_in_time_when_discovery_hangs_in_a_registration() {
    let hanging = Stub::start(|_| None);
    let cell = cell(&hanging.url(), &["pure"]);
    wait_for("it registers", SOON, || {
        !hanging.arrived("POST /register").is_empty()
    });
    stops_in_time(cell, "discovery hanging in a registration");
    // It may be registered for all it knows.
    assert_eq!(hanging.arrived("DELETE /peer/pure").len(), 1);
}

#[test]
fn a_cell_stops_in_time_when_nobody_accepts_its_connection() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let cell = cell(&format!("http://{address}"), &["pure"]);
    // The kernel completes the connection, and nobody ever reads from it.
    let (stream, _) = listener.accept().expect("it connects");
    stops_in_time(cell, "a listener that never answers");
    drop(stream);
}

#[test]
fn a_cell_stops_in_time_when_discovery_hangs_in_a_beat() {
    let hanging = Stub::start(|request| match &*request.line {
        "POST /register" => Some((200, r#"{"status":"registered","cell_id":"pure"}"#.into())),
        _ => None,
    });
    let cell = cell(&hanging.url(), &["pure", "--heartbeat-every", "50ms"]);
    wait_for("it beats", SOON, || {
        !hanging.arrived("POST /heartbeat").is_empty()
    });
    stops_in_time(cell, "discovery hanging in a beat");
}

#[test]
fn a_cell_that_was_never_registered_sends_no_delete() {
    for status in [422, 500, 503] {
        let refusing = Stub::start(move |_| Some((status, r#"{"detail":"no"}"#.into())));
        let mut cell = cell(&refusing.url(), &["pure"]);
        cell.wait_for_line(&format!("answered with status {status}: no"), SOON);
        stops_in_time(cell, "a discovery that refuses");
        assert!(refusing.arrived("DELETE").is_empty(), "{status}");
    }
}

#[test]
fn a_cell_that_cannot_find_discovery_has_nobody_to_say_goodbye_to() {
    let flags = ["pure", "--advertise", "a"];
    let mut cell = cell("http://no.such.host.invalid:1", &flags);
    cell.wait_for_line("cannot register", SOON);
    cell.signal(Signal::TERM);
    assert_eq!(cell.wait(SOON).0.code(), Some(0));
    let log = cell.whole_log().concat();
    assert!(!log.contains("cannot deregister"), "{log}");
}

#[test]
fn a_cell_whose_registration_a_gateway_lost_says_goodbye() {
    let gateway = Stub::start(|_| Some((504, String::new())));
    let mut cell = cell(&gateway.url(), &["pure"]);
    cell.wait_for_line("answered with status 504", SOON);
    stops_in_time(cell, "a gateway that lost a registration");
    assert_eq!(gateway.arrived("DELETE /peer/pure").len(), 1);
}

#[test]
fn a_call_in_flight_is_aborted_at_a_stop_and_the_goodbye_comes_after_it() {
    for hanging in ["POST /register", "POST /heartbeat"] {
        let stub = Stub::start(move |request| match request.line.starts_with(hanging) {
            true => None,
            false => Some((200, "{}".into())),
        });
        let mut cell = cell(&stub.url(), &["pure", "--heartbeat-every", "50ms"]);
        wait_for("it hangs", SOON, || !stub.arrived(hanging).is_empty());
        let told = Instant::now();
        cell.signal(Signal::TERM);
        assert_eq!(cell.wait(SOON).0.code(), Some(0));
        // Waiting for the call to time out, or for half a second in vain, takes longer.
        let took = told.elapsed();
        assert!(took < Duration::from_millis(450), "{hanging}: {took:?}");
        assert_eq!(stub.arrived("DELETE /peer/pure").len(), 1);
        let last = stub.arrived("").pop().expect("many");
        assert!(last.line.starts_with("DELETE"), "{hanging}: {}", last.line);
    }
}

#[test]
fn a_call_is_given_up_after_its_time_and_tried_again() {
    let gap = |first: &Stub, line: &str| {
        wait_for("it is tried again", 2 * SOON, || {
            first.arrived(line).len() > 1
        });
        let arrived = first.arrived(line);
        (arrived[1].at - arrived[0].at).as_secs_f64()
    };
    let deaf = Stub::start(|_| None);
    let _registering = cell(&deaf.url(), &["pure"]);
    let mute = Stub::start(|request| match &*request.line {
        "POST /register" => Some((200, "{}".into())),
        _ => None,
    });
    let _beating = cell(&mute.url(), &["alpha", "--heartbeat-every", "100ms"]);
    let beat = gap(&mute, "POST /heartbeat");
    assert!((2.9..5.0).contains(&beat), "3 s, not {beat}");
    // The back-off of one second follows, or a quarter more.
    let register = gap(&deaf, "POST /register");
    assert!(
        (5.9..8.5).contains(&register),
        "5 s and 1 s, not {register}"
    );
}

#[test]
fn cells_call_discovery_itself_and_hang_on_to_no_connection() {
    let elsewhere = Stub::start(|_| Some((200, "{}".into())));
    let moved = elsewhere.url();
    let discovery = Stub::start(move |request| match &*request.line {
        "POST /heartbeat" => Some((307, format!("{moved}/heartbeat"))),
        _ => Some((200, "{}".into())),
    });
    let mut command = crate::support::command("aios-cell");
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"] {
        command.env(name, elsewhere.url());
    }
    command.args(["pure", "--host", "127.0.0.1", "--port", "0"]);
    command.args(["--discovery", &discovery.url(), "--heartbeat-every", "50ms"]);
    let mut cell = Child::listening(command);
    cell.wait_for_line("answered with status 307", SOON);
    wait_for("it beats on", SOON, || {
        discovery.arrived("POST /heartbeat").len() > 5
    });
    let arrived = elsewhere.arrived("");
    assert!(arrived.is_empty(), "{arrived:?}");
    let arrived = discovery.arrived("");
    assert!(arrived.iter().all(|one| one.before == 0), "{arrived:?}");
}

#[test]
fn a_register_on_its_way_when_the_delete_is_sent_does_not_bring_the_cell_back() {
    let discovery = discovery(&[]);
    let release = Latch::new();
    let between = {
        let (address, release) = (discovery.address.clone(), release.clone());
        Stub::start(move |arrived| {
            let (method, target) = arrived.line.split_once(' ').expect("a request line");
            if target == "/register" {
                assert!(release.wait_for(SOON));
            }
            let answer = request(&address, method, target, &[], &arrived.body);
            Some((answer.status, answer.text().to_owned()))
        })
    };
    let mut cell = cell(&between.url(), &["pure"]);
    wait_for("it registers", SOON, || {
        !between.arrived("POST /register").is_empty()
    });
    cell.signal(Signal::TERM);
    assert_eq!(cell.wait(SOON).0.code(), Some(0));
    assert_eq!(between.arrived("DELETE /peer/pure?instance=").len(), 1);
    release.set();
    let log = || discovery.log().join("\n");
    wait_for("the late register arrives", SOON, || {
        log().contains("Refused to register pure")
    });
    assert!(ids(&discovery).is_empty());
}

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
fn cells_are_back_soon_after_discovery_was_killed_and_started_again() {
    let first = discovery(&[]);
    let address = first.address.clone();
    let _pure = cell(&first.url(), &["pure"]);
    let _alpha = cell(&first.url(), &["alpha"]);
    wait_for("both are listed", SOON, || ids(&first).len() == 2);
    drop(first);
    let second = discovery_at(&address);
    let took = wait_for("both are back", 2 * SOON, || ids(&second).len() == 2);
    report(&format!(
        "discovery restarted without state: both cells back after {took:?}"
    ));
    assert!(took < 6 * SECOND, "{took:?}");
}

#[test]
fn cells_that_were_there_first_find_a_discovery_that_comes_later() {
    let address = free_address();
    let url = format!("http://{address}");
    let mut cells: Vec<Child> = (0..5)
        .map(|n| cell(&url, &["--id", &format!("cell-{n}")]))
        .collect();
    // They answer before they are registered.
    assert_eq!(cells[0].get("/consciousness").json()["registered"], false);
    let mut here = cells.iter().map(|cell| cell.get("/health").status);
    assert!(here.all(|status| status == 200));
    holds_for("they wait", 30 * SECOND, || {
        cells.iter_mut().all(Child::runs)
    });
    let discovery = discovery_at(&address);
    // Attempts come 1, 2, 4, 8 and 16 s after each other, or up to a quarter later.
    let took = wait_for("all are listed", 20 * SECOND, || ids(&discovery).len() == 5);
    report(&format!(
        "discovery started 30 s after its cells: all registered after {took:?}"
    ));
    assert!(took < 17 * SECOND, "{took:?}");
}

#[test]
fn two_hundred_cells_come_back_from_a_restart_and_do_not_beat_in_step() {
    const CELLS: usize = 200;
    let first = discovery(&[]);
    let address = first.address.clone();
    let url = DiscoveryUrl::parse(&first.url()).expect("a URL");
    let cells: Vec<cell::Running> = (0..CELLS)
        .map(|n| {
            let mut settings =
                cell::Settings::local(Preset::Pure, &url, "127.0.0.1", 0).expect("valid");
            settings.id = CellId::new(&format!("cell-{n}")).expect("valid");
            let listener = Listener::bind("127.0.0.1", 0).expect("a free port");
            cell::start(settings, listener).expect("started")
        })
        .collect();
    wait_for("all are listed", SOON, || ids(&first).len() == CELLS);
    drop(first);
    let second = discovery_at(&address);
    let took = wait_for("all are back", 3 * SOON, || ids(&second).len() == CELLS);
    assert!(took < 6 * SECOND, "{took:?}");

    // Each is last seen at its own moment of the five seconds.
    let seen = last_seen_at(&second.address);
    let earliest = seen.values().min().expect("many");
    let mut tenths = [0; 10];
    for at in seen.values() {
        let offset = at
            .duration_since(*earliest)
            .expect("not before the earliest");
        tenths[(offset.as_millis() / 500 % 10) as usize] += 1;
    }
    report(&format!(
        "200 cells through a restart: all back after {took:?}; beats by half second {tenths:?}"
    ));
    let crowded = tenths.iter().max().expect("ten");
    assert!(*crowded < CELLS / 2, "{tenths:?}");
    std::thread::scope(|scope| {
        for cell in cells {
            scope.spawn(|| cell.stop());
        }
    });
    assert!(ids(&second).is_empty());
}

#[test]
fn beats_do_not_drift_though_each_is_answered_late() {
    let slow = Stub::start(|_| {
        crate::support::pause(Duration::from_millis(70));
        Some((200, "{}".into()))
    });
    let _cell = cell(&slow.url(), &["pure", "--heartbeat-every", "200ms"]);
    wait_for("it has beaten for a while", SOON, || {
        slow.arrived("POST /heartbeat").len() > 20
    });
    let beats = slow.arrived("POST /heartbeat");
    let first = beats[0].at;
    // How far each is from a multiple of the interval. A beat may be skipped on a machine that
    // stands still for a moment; a drift of 70 ms a beat would spread them all over the interval.
    let off = beats.iter().map(|beat| {
        let off = (beat.at - first).as_millis() as u64 % 200;
        Duration::from_millis(off.min(200 - off))
    });
    let off = median(off.collect());
    assert!(off < Duration::from_millis(25), "{off:?}");
}

#[test]
fn a_beat_answered_404_registers_at_once() {
    let stub = Stub::start(|request| match &*request.line {
        "POST /heartbeat" => Some((404, "not even JSON".into())),
        _ => Some((200, "nor this".into())),
    });
    let _cell = cell(&stub.url(), &["pure", "--heartbeat-every", "300ms"]);
    wait_for("it registers again", SOON, || {
        stub.arrived("POST /register").len() > 3
    });
    let beats = stub.arrived("POST /heartbeat");
    let registers = stub.arrived("POST /register");
    let delay = median(
        beats
            .iter()
            .zip(&registers[1..])
            .map(|(beat, register)| register.at.saturating_duration_since(beat.at))
            .collect(),
    );
    assert!(delay < Duration::from_millis(100), "{delay:?}");
}

#[test]
fn a_cell_that_was_forgotten_does_not_call_itself_registered() {
    static FORGOTTEN: AtomicBool = AtomicBool::new(false);
    let stub = Stub::start(|request| {
        let forgotten = FORGOTTEN.load(Ordering::SeqCst);
        Some(match (&*request.line, forgotten) {
            ("POST /heartbeat", true) => (404, "{}".into()),
            (_, true) => (500, "{}".into()),
            (_, false) => (200, "{}".into()),
        })
    });
    let cell = cell(&stub.url(), &["pure", "--heartbeat-every", "50ms"]);
    let registered = || cell.get("/consciousness").json()["registered"] == true;
    wait_for("it is registered", SOON, registered);
    FORGOTTEN.store(true, Ordering::SeqCst);
    wait_for("it knows that it is not", SOON, || !registered());
    FORGOTTEN.store(false, Ordering::SeqCst);
    wait_for("it is registered again", SOON, registered);
}

#[test]
fn a_cell_that_cannot_be_heard_keeps_beating_and_says_so_once() {
    let first = discovery(&[]);
    let address = first.address.clone();
    let mut cell = cell(&first.url(), &["pure", "--heartbeat-every", "50ms"]);
    cell.wait_for_line("Registered pure with", SOON);
    wait_for("it beats", SOON, || {
        first
            .get("/metrics")
            .text()
            .contains(r#"result="ok",cell_id="discovery"} 3"#)
    });
    drop(first);
    cell.wait_for_line("heartbeat failed", SOON);
    holds_for("it runs on", SECOND, || cell.runs());
    let second = discovery_at(&address);
    cell.wait_for_line("works again", SOON);
    wait_for("it is back", SOON, || ids(&second) == ["pure"]);
    let log = cell.log();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("trying on"), 1, "{log:#?}");
    assert_eq!(count("works again"), 1, "{log:#?}");
    assert_eq!(count("registering again"), 1, "{log:#?}");
}

#[test]
fn twins_do_not_fight_over_their_name() {
    let discovery = discovery(&[]);
    let flags = ["--id", "twin", "--heartbeat-every", "50ms"];
    let mut old = cell(&discovery.url(), &flags);
    old.wait_for_line("Registered twin", SOON);
    let new = cell(&discovery.url(), &flags);
    old.wait_for_line("another instance of this cell is registered", SOON);
    let port = |discovery: &Child| peers(discovery)[0]["port"].clone();
    let (_, new_port) = new.address.rsplit_once(':').expect("a port");
    let new_port: u16 = new_port.parse().expect("a port");
    holds_for("the newer one is listed", SECOND, || {
        port(&discovery) == new_port
    });
    // The old one's goodbye does not take the new one with it.
    old.signal(Signal::TERM);
    assert_eq!(old.wait(SOON).0.code(), Some(0));
    assert_eq!(port(&discovery), new_port);
    let said = old
        .log()
        .iter()
        .filter(|line| line.contains("another instance"))
        .count();
    assert!(said <= 2, "{:#?}", old.log());
}

#[test]
fn a_cell_advertises_the_address_that_reaches_discovery_unless_told() {
    let discovery = discovery(&[]);
    let _found = cell(&discovery.url(), &["--id", "found"]);
    wait_for("it is listed", SOON, || ids(&discovery) == ["found"]);
    assert_eq!(peers(&discovery)[0]["ip"], "127.0.0.1");
    let mut command = crate::support::command("aios-cell");
    command
        .env("HOSTNAME", "container-7")
        .args(["pure", "--port", "0"]);
    command.args(["--discovery", &discovery.url()]);
    let _told = Child::listening(command);
    wait_for("it is listed", SOON, || ids(&discovery).len() == 2);
    assert_eq!(peers(&discovery)[1]["ip"], "container-7");
}

#[test]
fn discovery_and_cells_work_over_ipv6() {
    let discovery = Child::start("aios-discovery", &["--host", "::1", "--port", "0"]);
    assert!(
        discovery.address.starts_with("[::1]:"),
        "{}",
        discovery.address
    );
    let flags = [
        "pure",
        "--host",
        "[::1]",
        "--port",
        "0",
        "--discovery",
        &discovery.url(),
    ];
    let mut cell = Child::start("aios-cell", &flags);
    wait_for("it is listed", SOON, || ids(&discovery) == ["pure"]);
    assert_eq!(peers(&discovery)[0]["ip"], "::1");
    assert_eq!(cell.get("/health").status, 200);
    cell.signal(Signal::TERM);
    assert_eq!(cell.wait(SOON).0.code(), Some(0));
    assert!(ids(&discovery).is_empty());
}

#[test]
fn whoever_listens_on_all_ipv6_addresses_is_reached_over_ipv4_too() {
    let discovery = Child::start("aios-discovery", &["--host", "::", "--port", "0"]);
    let (_, port) = discovery.address.rsplit_once(':').expect("a port");
    for host in ["127.0.0.1", "[::1]"] {
        let answer = request(&format!("{host}:{port}"), "GET", "/health", &[], b"");
        assert_eq!(answer.status, 200, "{host}");
    }
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
