//! Readers that take all there is, or nothing of what they asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A reader that asks for the list and reads nothing.
fn never_reads(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    socket.connect(&address.into()).expect("it listens");
    let mut stream = TcpStream::from(socket);
    let request = head("GET", "/peers", "", "keep-alive");
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

#[test]
fn a_hundred_readers_that_never_read_cost_no_member_its_place() {
    let discovery = usual(&[]);
    register_the_silent(&discovery, 10_000 - MEMBERS);
    let trial = Trial::start("100 readers of 10,000 peers that never read", discovery);
    trial.run(|discovery| {
        let address = discovery.address.parse().expect("an address");
        let held: Vec<TcpStream> = (0..100).map(|_| never_reads(address)).collect();
        // All of what they were to get is longer than what sockets keep for them.
        wait_for("all are being sent the list", SOON, || {
            discovery.threads() > 100
        });
        pause(lasts(3, 45));
        drop(held);
    });
}

/// Clients that ask for the list without pause.
struct Readers {
    stopping: Latch,
    threads: Vec<thread::JoinHandle<()>>,
    answered: Arc<[AtomicUsize; 3]>,
}

impl Readers {
    fn start(address: &str, count: usize) -> Self {
        let stopping = Latch::new();
        let answered = Arc::<[AtomicUsize; 3]>::default();
        let threads = (0..count)
            .map(|_| {
                let (address, stopping) = (address.to_owned(), stopping.clone());
                let answered = Arc::clone(&answered);
                thread::spawn(move || {
                    while !stopping.wait_for(Duration::ZERO) {
                        let kind = match ask(&address, "GET", "/peers", "") {
                            Ok((200, _)) => 0,
                            Ok((503, _)) => 1,
                            Ok((status, _)) => panic!("answered with {status}"),
                            // Closed to make room.
                            Err(_) => 2,
                        };
                        answered[kind].fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self {
            stopping,
            threads,
            answered,
        }
    }

    /// How many were given the list, told to come again, and closed.
    fn stop(self) -> [usize; 3] {
        self.stopping.set();
        for thread in self.threads {
            thread.join().expect("no panic");
        }
        [0, 1, 2].map(|kind| self.answered[kind].load(Ordering::Relaxed))
    }
}

#[test]
fn two_thousand_cells_lose_no_beat_to_64_readers_without_pause() {
    let discovery = usual(&[]);
    let (interval, lease) = (Duration::from_secs(5), Duration::from_secs(15));
    let members = Members::beating(&discovery.address, 2000, interval, lease);
    let readers = Readers::start(&discovery.address, 64);
    let how_long = lasts(60, 600);
    pause(how_long);
    let [lists, refused, closed] = readers.stop();
    let beats = members.stop();
    let departures = "aios_discovery_departures_total";
    let reaped = metric(&discovery, departures, r#"reason="reaped""#);
    report(&format!(
        "overload, 2,000 cells and 64 readers for {how_long:?}: {beats}; {reaped} reaped; \
         {lists} lists, {refused} refused, {closed} closed"
    ));
    assert_eq!(reaped, 0.0);
    assert_eq!(beats.failures, [""; 0]);
    assert_eq!(refused + closed, 0);
    assert!(lists > 64);
    let slowest = percentile(&beats.took, 0.999);
    assert!(slowest < WELL, "p99.9 of a beat is {slowest:?}");
}

#[test]
fn readers_that_hold_all_connections_keep_no_beat_and_no_register_out() {
    let discovery = usual(&["--max-connections", "64"]);
    register_the_silent(&discovery, 2000);
    let members = Members::start(&discovery.address, MEMBERS);
    let readers = Readers::start(&discovery.address, 200);
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut count = 0;
    while started.elapsed() < lasts(10, 60) {
        let asked = Instant::now();
        let body = format!(r#"{{"cell_id":"new-{count}","ip":"127.0.0.1","port":7}}"#);
        let answer = ask(&discovery.address, "POST", "/register", &body);
        assert_eq!(answer.expect("an answer").0, 200);
        slowest = slowest.max(asked.elapsed());
        count += 1;
        pause(Duration::from_millis(50));
    }
    let [lists, refused, closed] = readers.stop();
    let beats = members.stop();
    report(&format!(
        "overload, 200 readers on 64 connections: {count} registered, the slowest within \
         {slowest:?}; {beats}; {lists} lists, {refused} refused, {closed} closed"
    ));
    assert!(lists > 0 && refused > 0);
    assert_eq!(beats.failures, [""; 0]);
    assert!(percentile(&beats.took, 0.5) < WELL, "{beats}");
}
