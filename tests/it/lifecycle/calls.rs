//! A cell's calls to discovery: when, how often, for how long.

use super::*;

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
