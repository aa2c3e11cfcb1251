//! A socket that the service manager holds and passes on. This process plays the manager.

use std::net::UdpSocket;
use std::os::unix::net::UnixListener;

use super::*;
use crate::support::{Held, ONE, Traffic, passed, request, run};

const TWO: &str = r#"exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec "$@""#;

fn stop(discovery: &mut Child) {
    discovery.signal(Signal::TERM);
    assert_ended_well(discovery);
}

fn assert_ended_well(discovery: &mut Child) {
    let (status, took) = discovery.wait(SOON);
    assert_eq!(status.code(), Some(0), "{:#?}", discovery.log());
    assert!(took < NO_WAITING, "it took {took:?} to end");
}

#[test]
fn a_socket_that_is_passed_on_is_served_in_place_of_one_of_our_own() {
    let socket = Held::open();
    let address = &socket.address;
    // Nobody could listen at this address.
    let mut discovery = socket.discovery(&["--host", "192.0.2.1", "--port", "1"]);
    assert_eq!(&discovery.address, address);
    assert!(discovery.log()[0].ends_with(&format!("listening on http://{address}")));
    discovery.wait_for_line("the socket is the service manager's", SOON);
    let (_, port) = address.rsplit_once(':').expect("a port");
    discovery.wait_for_line(&format!("set DISCOVERY_PORT={port}"), SOON);
    assert_eq!(discovery.get("/health").status, 200);

    // The check of the unit has its variables, and those of another process mean nothing to it.
    let check = |port: &str| {
        let flags = ["--check", "--host", "127.0.0.1", "--port", port];
        let variables = [("LISTEN_FDS", "1"), ("LISTEN_PID", "1")];
        run("aios-discovery", &flags, &variables).status.code()
    };
    assert_eq!(check(port), Some(0));
    assert_eq!(check("1"), Some(1));
    stop(&mut discovery);
}

#[test]
fn variables_that_were_meant_for_another_process_are_not_heeded() {
    for pid in ["", "LISTEN_PID=1", "LISTEN_PID=none"] {
        let Held { socket, address } = Held::open();
        let script = format!(r#"exec 3<&0 </dev/null; LISTEN_FDS=1 {pid} exec "$@""#);
        let flags = ["--host", "127.0.0.1", "--port", "0"];
        let discovery = Child::listening(passed(vec![socket.into()], &script, &flags));
        assert_ne!(discovery.address, address, "{pid}");
        assert_eq!(discovery.get("/health").status, 200);
    }
}

#[test]
fn what_is_not_one_socket_that_listens_is_refused_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let [first, second] = [Held::open().socket, Held::open().socket];
    let connected = TcpStream::connect(first.local_addr().expect("bound")).expect("it listens");
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let local = UnixListener::bind(folder.path().join("socket")).expect("a socket");
    let file = std::fs::File::open("/dev/null").expect("a file");
    for (what, script, sockets) in [
        ("two", TWO, vec![first.into(), second.into()]),
        ("a connection", ONE, vec![connected.into()]),
        ("not listening", ONE, vec![bound.into()]),
        ("UDP", ONE, vec![datagrams.into()]),
        ("a local socket", ONE, vec![local.into()]),
        ("a file", ONE, vec![file.into()]),
    ] {
        let mut discovery = Child::spawn(passed(sockets, script, &[]));
        assert_eq!(discovery.wait(SOON).0.code(), Some(1), "{what}");
        let lines = discovery.whole_log();
        let [line] = &lines[..] else {
            panic!("{what}: {lines:#?}");
        };
        assert!(line.contains("the service manager passed"), "{line}");
        assert!(line.contains("ListenStream="), "{line}");
    }
}

/// So many wait to be let in when discovery is told to stop, and all are answered. Returns how many
/// by it, and not by its successor.
fn answered_before_the_stop(many: usize) -> usize {
    let socket = Held::open();
    let mut first = socket.discovery(&[]);
    let ask = || {
        let mut connection = Connection::to(&socket.address);
        connection.send(GET_HEALTH);
        connection
    };
    first.signal(Signal::STOP);
    let mut queued: Vec<Connection> = (0..many).map(|_| ask()).collect();
    first.signal(Signal::TERM);
    first.signal(Signal::CONT);
    assert_ended_well(&mut first);
    let is_answered = |connection: &&Connection| {
        connection.stream.set_nonblocking(true).expect("set");
        let arrived = connection.stream.peek(&mut [0]);
        connection.stream.set_nonblocking(false).expect("set");
        arrived.is_ok()
    };
    let by_the_first = queued.iter().filter(is_answered).count();
    // One comes while nobody is there.
    queued.push(ask());
    let _second = socket.discovery(&[]);
    for connection in &mut queued {
        assert_eq!(connection.answer().expect("an answer").status, 200);
    }
    by_the_first
}

#[test]
fn who_waits_to_be_let_in_at_a_stop_is_left_to_the_successor() {
    const MANY: usize = 60;
    // One that is slow to hear of the stop takes them all, hence the turns.
    let left = (0..5).any(|_| answered_before_the_stop(MANY) < MANY);
    assert!(left, "all were let in");
}

#[test]
fn who_was_let_in_before_a_stop_is_answered() {
    let socket = Held::open();
    let mut first = socket.discovery(&[]);
    // Half a request holds the stop for as long as the rest takes, and idle ones do not.
    let mut held = first.connect();
    start_to_register(&mut held);
    let mut idle = first.connect();
    assert!(serves(&mut idle));
    pause(Duration::from_millis(200));
    first.signal(Signal::TERM);
    assert!(idle.ends_silently());
    let mut queued = Connection::to(&socket.address);
    queued.send(GET_HEALTH);
    assert!(first.runs());
    held.send(WITNESS.as_bytes());
    let answer = held.answer().expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), Some("close"));
    drop(held);
    assert_ended_well(&mut first);
    let _second = socket.discovery(&[]);
    assert_eq!(queued.answer().expect("an answer").status, 200);
}

#[test]
fn restarts_under_traffic_refuse_and_reset_nobody() {
    const RESTARTS: usize = 10;
    let socket = Held::open();
    let mut discovery = socket.discovery(&[]);
    let traffic = Traffic::start(&socket.address, 16);
    let mut down = Vec::new();
    for _ in 0..RESTARTS {
        pause(Duration::from_millis(300));
        let started = Instant::now();
        stop(&mut discovery);
        discovery = socket.discovery(&[]);
        down.push(started.elapsed());
    }
    let fared = traffic.stop();
    report(&format!(
        "{RESTARTS} restarts on an inherited socket, {:?} each: {} answered, {} sent again on a new connection, slowest {:?}",
        crate::support::median(down),
        fared.answered,
        fared.sent_again,
        fared.slowest
    ));
    assert_eq!(fared.failures, [""; 0]);
    assert!(fared.answered > 100 * RESTARTS, "{fared:?}");
    assert_eq!(
        request(&socket.address, "GET", "/health", &[], b"").status,
        200
    );
}
