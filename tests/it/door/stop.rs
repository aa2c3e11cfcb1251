//! A stop.

use super::*;

/// Asks for a stop, and waits until nobody is let in any more.
fn stop(discovery: &Child) {
    discovery.signal(Signal::TERM);
    wait_for("new connections are refused", SOON, || {
        TcpStream::connect(&discovery.address).is_err()
    });
}

fn assert_ended_well(discovery: &mut Child, at_most: Duration) {
    let (status, took) = discovery.wait(SOON);
    assert_eq!(status.code(), Some(0));
    assert!(took < at_most, "it took {took:?} to end");
}

#[test]
fn a_request_half_sent_at_a_stop_is_answered_and_its_connection_closed() {
    for (front, rear) in [WITNESS.split_at(0), WITNESS.split_at(20)] {
        let mut discovery = discovery(&[]);
        let mut connection = discovery.connect();
        start_to_register(&mut connection);
        connection.send(front.as_bytes());
        stop(&discovery);
        assert!(discovery.runs(), "it waits for the rest");
        connection.send(rear.as_bytes());
        let answer = connection.answer().expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(connection.ends_silently());
        drop(connection);
        assert_ended_well(&mut discovery, NO_WAITING);
    }
}

#[test]
fn a_request_never_finished_does_not_hold_up_a_stop_for_long() {
    let mut discovery = discovery(&[]);
    let mut connection = discovery.connect();
    start_to_register(&mut connection);
    discovery.signal(Signal::TERM);
    let (status, took) = discovery.wait(SOON);
    assert_eq!(status.code(), Some(0));
    let limit = Duration::from_secs(5);
    assert!(
        took > limit.mul_f64(0.8) && took < limit + NO_WAITING,
        "{took:?}"
    );
    assert!(connection.ends_silently());
}

#[test]
fn a_head_never_finished_does_not_hold_up_a_stop() {
    let mut discovery = discovery(&[]);
    let mut connection = discovery.connect();
    connection.send(b"GET /hea");
    stop(&discovery);
    assert_ended_well(&mut discovery, NO_WAITING);
    assert!(connection.ends_silently());
}

#[test]
fn a_connection_just_opened_at_a_stop_still_gets_its_answer() {
    let served = (0..5).any(|_| {
        let mut discovery = discovery(&[]);
        let mut opened = discovery.connect();
        discovery.signal(Signal::TERM);
        discovery.wait_for_line("stopping", SOON);
        // On a machine with much else to do a client may take so long to get at it. One that is put
        // to sleep here is too late, hence the five turns.
        pause(Duration::from_millis(300));
        opened.send(GET_HEALTH);
        let answer = opened.answer();
        drop(opened);
        assert_ended_well(&mut discovery, NO_WAITING);
        answer.is_some_and(|answer| answer.header("connection") == Some("close"))
    });
    assert!(served);
}

#[test]
fn idle_connections_do_not_delay_a_stop() {
    let mut discovery = discovery(&[]);
    let mut held: Vec<Connection> = (0..50).map(|_| discovery.connect()).collect();
    for used in held.iter_mut().step_by(2) {
        assert!(serves(used));
    }
    let started = Instant::now();
    stop(&discovery);
    assert_ended_well(&mut discovery, NO_WAITING);
    report(&format!(
        "door, a stop with 50 idle connections: {:?}",
        started.elapsed()
    ));
    for connection in &mut held {
        assert!(connection.ends_silently(), "a stray answer");
    }
}

#[test]
fn an_answer_half_read_at_a_stop_arrives_whole_and_its_connection_is_closed() {
    let mut discovery = discovery(&[]);
    register_a_crowd(&discovery);
    let mut reader = read_slowly(&discovery);
    stop(&discovery);
    let started = Instant::now();
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).expect("an answer");
    let head = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head");
    let list: Value = serde_json::from_slice(&answer[head + 4..]).expect("whole");
    assert_eq!(list["count"], CROWD);
    assert_ended_well(&mut discovery, NO_WAITING);
    assert!(
        started.elapsed() < NO_WAITING,
        "after {:?}",
        started.elapsed()
    );
}
