//! Many at a time, much, and slowly.

use super::*;

#[test]
fn two_hundred_clients_of_http2_leave_nothing_behind() {
    let door = Door::open();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for _ in 0..ROUNDS {
        let mut all: Vec<Connection> = (0..200).map(|_| door.discovery.connect()).collect();
        for connection in &mut all {
            connection.send(preface);
        }
        door.is_well("200 prefaces");
        for connection in &mut all {
            let answer = connection.answer().expect("a refusal");
            assert_refusal(&answer, 505, "a preface");
            assert!(connection.ends_silently());
        }
        door.is_well("200 prefaces");
    }
    door.is_as_before("200 prefaces of HTTP/2 at once");
}

#[test]
fn a_crowd_of_clients_leaves_nothing_behind_even_where_one_goes_on_asking() {
    let door = Door::open();
    let crowd = || {
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let mut connection = door.discovery.connect();
                    assert!((0..100).all(|_| serves(&mut connection)));
                });
            }
        });
    };
    crowd();
    door.is_as_before("a crowd");
    crowd();
    // A request every 20 ms, each on a connection of its own, needs no more than a thread or two.
    wait_for("the others end", 2 * IDLE + SOON, || {
        door.is_well("a crowd");
        pause(Duration::from_millis(20));
        connection_threads(&door.discovery) <= 2
    });
    door.is_as_before("a crowd, and one that goes on asking");
}

#[test]
fn an_endless_sender_costs_no_memory() {
    const MIB: usize = 1 << 20;
    /// What it may grow by, in KiB.
    const GROWTH: u64 = 5000;
    let door = Door::open();
    let before = door.discovery.resident_kib();
    let mut most = before;
    let (header, line) = (format!("{GET}X: "), "X-Name: a value\r\n");
    let (extension, trailer, body) = (chunked("1;"), chunked("0\r\n"), chunked(""));
    // One row a case: its name, its start, what it goes on with, how many MiB of that.
    #[rustfmt::skip]
    let cases = [
        ("a header line of 200 MB", &*header, "a", 200, 431),
        ("headers without end", GET, line, 20, 431),
        ("a target without end", "GET /", "a", 20, 414),
        ("a chunk extension without end", &*extension, "a", 20, 400),
        ("a trailer without end", &*trailer, line, 20, 400),
        ("chunks without end", &*body, "2\r\naa\r\n", 20, 413),
    ];
    let mut all_sent = 0;
    for (name, start, filler, mib, status) in cases {
        let filler = filler.repeat(MIB / filler.len() + 1);
        for _ in 0..ROUNDS {
            eprintln!("at the door: {name}");
            let mut connection = door.discovery.connect();
            connection.send(start.as_bytes());
            let mut sent = 0;
            while sent < mib && connection.stream.write_all(filler.as_bytes()).is_ok() {
                sent += 1;
                most = most.max(door.discovery.resident_kib());
            }
            all_sent += sent;
            // It is refused at once and listened to for a second more, in which a fast client
            // gets all of it through.
            let answer = connection.answer().expect("a refusal");
            assert_refusal(&answer, status, name);
            assert!(connection.ends_silently(), "{name}: a second answer");
            door.is_well(name);
        }
    }
    let growth = most - before;
    report(&format!(
        "door, endless senders: {all_sent} MiB sent; {before} KiB resident, at most {growth} more"
    ));
    assert!(growth < GROWTH, "resident memory grew by {growth} KiB");
    door.is_as_before("endless senders");
}

/// Name, what is sent at once, what is sent a byte a second, over and over, and what has to come
/// of it; what is served has to end in silence.
type Kind<'a> = (&'static str, &'a str, &'static str, Outcome);

/// A client that takes its time, or never comes to an end.
struct Slow {
    name: &'static str,
    connection: Connection,
    drip: &'static [u8],
    since: Instant,
    /// When the answer or the end had come.
    ended: Option<Duration>,
    outcome: Outcome,
}

impl Slow {
    fn start(door: &Door, (name, sent, drip, outcome): Kind) -> Self {
        let since = Instant::now();
        let mut connection = door.discovery.connect();
        connection.send(sent.as_bytes());
        if let Served(status) = outcome {
            assert_eq!(connection.answer().expect("an answer").status, status);
        }
        Self {
            name,
            connection,
            drip: drip.as_bytes(),
            since,
            ended: None,
            outcome,
        }
    }

    fn look(&mut self) {
        if self.ended.is_none() && has_news(&self.connection.stream) {
            self.ended = Some(self.since.elapsed());
        }
    }

    fn send_byte(&mut self, turn: usize) {
        if let (None, [_, ..]) = (self.ended, self.drip) {
            self.connection
                .send(&self.drip[turn % self.drip.len()..][..1]);
        }
    }

    /// Asserts that it was cut off at its deadline, neither before nor long after.
    fn judge(mut self) {
        let (name, ended) = (self.name, self.ended.expect("it ended"));
        let deadline = match self.outcome {
            Silence | Served(_) => {
                assert!(self.connection.ends_silently(), "{name}: a stray answer");
                IDLE
            }
            Refused(status) => {
                let answer = self.connection.answer().expect("a refusal");
                assert_refusal(&answer, status, name);
                assert!(self.connection.ends_silently(), "{name}: a second answer");
                Duration::from_secs(10)
            }
            Last(_) => panic!("{name} is never the last"),
        };
        assert!(ended > deadline.mul_f64(0.9), "{name}: after {ended:?}");
        assert!(
            ended < deadline + Duration::from_secs(6),
            "{name}: after {ended:?}"
        );
    }
}

/// Whether something or the end has arrived that was not read yet.
fn has_news(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("set");
    let news = match stream.peek(&mut [0]) {
        Err(e) => e.kind() != ErrorKind::WouldBlock,
        Ok(_) => true,
    };
    stream.set_nonblocking(false).expect("set");
    news
}

#[test]
fn a_slow_or_silent_client_is_cut_off_at_its_deadline() {
    let door = Door::open();
    let whole = posted("", WITNESS);
    let head = whole.trim_end_matches(WITNESS);
    let short = whole.trim_end_matches('}');
    let (chunks, one) = (chunked(""), chunked("2\r\n{}\r\n"));
    let kept = "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    // One row a kind of client, and how many there are of it.
    #[rustfmt::skip]
    let kinds: [(usize, Kind); 11] = [
        (34, ("a head, a byte a second", "G", "ET /health", Refused(408))),
        (33, ("a body, a byte a second", head, WITNESS, Refused(408))),
        (33, ("chunks, a byte a second", &chunks, "1\r\na\r\n", Refused(408))),
        (1, ("a head without end", GET, "", Refused(408))),
        (1, ("a body one byte short", short, "", Refused(408))),
        (1, ("chunks without the last", &one, "", Refused(408))),
        (1, ("silence", "", "", Silence)),
        (1, ("half a blank line", "\r", "", Silence)),
        (1, ("blank lines, a byte a second", "", "\r\n", Silence)),
        (1, ("silence after a request", &whole, "", Served(200))),
        (1, ("silence after a request in HTTP/1.0", kept, "", Served(200))),
    ];
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        for (count, kind) in kinds {
            all.extend((0..count).map(|_| Slow::start(&door, kind)));
        }
    }

    let started = Instant::now();
    let mut turn = 0;
    let at_most = Duration::from_secs(20);
    wait_for("every slow client is cut off", at_most, || {
        if started.elapsed() >= Duration::from_secs(turn) {
            for slow in &mut all {
                slow.send_byte(usize::try_from(turn).expect("few"));
            }
            door.is_well("a second of slow clients");
            turn += 1;
        }
        pause(Duration::from_millis(20));
        all.iter_mut().for_each(Slow::look);
        all.iter().all(|slow| slow.ended.is_some())
    });
    let last = all.iter().filter_map(|slow| slow.ended).max();
    let count = all.len();
    report(&format!(
        "door, {count} slow clients: the last cut off after {last:?}"
    ));
    for slow in all {
        slow.judge();
    }
    door.is_unchanged("slow clients");
    door.is_as_before("slow clients");
}
