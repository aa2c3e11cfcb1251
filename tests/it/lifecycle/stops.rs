//! A cell is told to stop, whatever discovery does.

use super::*;

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
