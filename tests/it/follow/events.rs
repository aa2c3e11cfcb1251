//! The stream of events.

use std::time::Instant;

use rustix::process::Signal;

use super::*;

/// A stream of events as it arrives.
struct Stream {
    head: Answer,
    connection: Connection,
}

/// One event.
#[derive(Debug)]
struct Event {
    name: String,
    id: u64,
    data: Value,
}

impl Stream {
    fn open(discovery: &Child, target: &str, headers: &[&str]) -> Self {
        let mut connection = discovery.connect();
        let headers: String = headers.iter().map(|it| format!("{it}\r\n")).collect();
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        connection.send(request.as_bytes());
        let head = connection.answer_without_body().expect("an answer");
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("content-length"), None);
        assert_eq!(head.header("connection"), Some("close"));
        assert_eq!(head.header("cache-control"), Some("no-cache"));
        // A proxy that keeps answers back is not to keep these.
        assert_eq!(head.header("x-accel-buffering"), Some("no"));
        Self { head, connection }
    }

    /// The next block that is an event; those that are comments are counted.
    fn next_after(&mut self, comments: &mut usize) -> Option<Event> {
        loop {
            let block = self.connection.until(b"\n\n")?;
            let block = String::from_utf8(block).expect("UTF-8");
            if block.starts_with(':') {
                *comments += 1;
                continue;
            }
            let field = |name: &str| {
                let mut lines = block.lines();
                let found = lines.find_map(|line| line.strip_prefix(name));
                found
                    .unwrap_or_else(|| panic!("no {name} in {block}"))
                    .to_owned()
            };
            assert_eq!(block.lines().count(), 4, "{block}");
            return Some(Event {
                name: field("event: "),
                id: field("id: ").parse().expect("a revision"),
                data: serde_json::from_str(&field("data: ")).expect("JSON"),
            });
        }
    }

    fn next(&mut self) -> Event {
        self.next_after(&mut 0).expect("an event")
    }

    /// The next one, which is of this kind and cell.
    #[track_caller]
    fn expect(&mut self, name: &str, id: &str) -> Event {
        let event = self.next();
        assert_eq!(
            (&*event.name, &event.data["cell_id"]),
            (name, &json!(id)),
            "{event:?}"
        );
        event
    }
}

#[test]
fn what_happens_is_told_as_it_happens_and_in_order() {
    let discovery = discovery(&BRISK);
    let known = now(&discovery);
    let mut stream = Stream::open(&discovery, "/events", &[]);
    assert_eq!(revision(&stream.head), known);
    let epoch = discovery.get("/peers").json()["epoch"].clone();
    assert_eq!(stream.head.header("x-mesh-epoch"), epoch.as_str());

    let own = json!({"stale_after_ms": 60_000, "instance": "1", "services": ["x"], "type": "t"});
    enter(&discovery, "a", &own);
    let listed = discovery.get("/peers").json()["peers"][0].clone();
    let join = stream.expect("join", "a");
    assert_eq!(join.id, known + 1);
    for (key, value) in listed.as_object().expect("an object") {
        assert_eq!(join.data[key], *value, "{key}");
    }
    assert_eq!(join.data["registered_by"], "127.0.0.1");

    // Nothing is told of a beat, nor of a registration with nothing new in it.
    let beat = r#"{"cell_id":"a","consciousness_level":7}"#;
    assert_eq!(discovery.post("/heartbeat", beat).status, 200);
    enter(&discovery, "a", &own);
    enter(
        &discovery,
        "a",
        &json!({"stale_after_ms": 60_000, "instance": "1", "branch": "b"}),
    );
    let change = stream.expect("change", "a");
    assert_eq!(
        (change.id, &change.data["branch"]),
        (known + 2, &json!("b"))
    );

    enter(
        &discovery,
        "a",
        &json!({"stale_after_ms": 60_000, "instance": "2", "branch": "b"}),
    );
    let leave = stream.expect("leave", "a");
    assert_eq!(
        (leave.id, &leave.data["reason"]),
        (known + 3, &json!("replaced"))
    );
    assert_eq!(stream.expect("join", "a").id, known + 4);

    enter(&discovery, "silent", &json!({}));
    assert_eq!(stream.expect("join", "silent").id, known + 5);
    let leave = stream.expect("leave", "silent");
    assert_eq!(
        (leave.id, &leave.data["reason"]),
        (known + 6, &json!("reaped"))
    );
    // A beat was due after 100 ms, and the lease was over after 300.
    assert!(leave.data["late_ms"].as_u64() >= Some(200), "{leave:?}");
    assert!(leave.data["was_here_ms"].as_u64() >= Some(300), "{leave:?}");

    assert_eq!(discovery.delete("/peer/a").status, 200);
    let leave = stream.expect("leave", "a");
    assert_eq!(
        (leave.id, &leave.data["reason"]),
        (known + 7, &json!("deregistered"))
    );
    assert_eq!(leave.data["deregistered_by"], "127.0.0.1");
    assert_eq!(now(&discovery), known + 7);
}

#[test]
fn a_stream_goes_on_where_it_was() {
    let discovery = discovery(&CALM);
    let first = enter(&discovery, "a", &json!({}));
    for id in ["b", "c", "d"] {
        register(&discovery, id);
    }
    let since = format!("/events?since={}", first + 1);
    for headers in [&[][..], &["Last-Event-ID:"]] {
        let mut stream = Stream::open(&discovery, &since, headers);
        stream.expect("join", "c");
        stream.expect("join", "d");
    }
    // What the client says it has had counts more than where it began.
    let last = format!("Last-Event-ID: {}", first + 2);
    let mut stream = Stream::open(&discovery, &since, &[&last]);
    stream.expect("join", "d");
    register(&discovery, "e");
    stream.expect("join", "e");
    // From now on, where nothing is said.
    let mut stream = Stream::open(&discovery, "/events", &[]);
    register(&discovery, "f");
    stream.expect("join", "f");
}

#[test]
fn what_is_not_remembered_is_to_be_read_anew() {
    let discovery = discovery(&CALM);
    let before = now(&discovery);
    register(&discovery, "a");
    let known = before + 1;
    let future = (known + 1).to_string();
    let past = (before - 1).to_string();
    for since in ["0", &past, &future] {
        let mut stream = Stream::open(&discovery, &format!("/events?since={since}"), &[]);
        let reset = stream.next();
        assert_eq!((&*reset.name, reset.id), ("reset", known), "{since}");
        assert_eq!(reset.data["revision"], known);
        assert_eq!(reset.data["epoch"], discovery.get("/peers").json()["epoch"]);
        register(&discovery, "b");
        stream.expect("join", "b");
        leave(&discovery, "b");
        stream.expect("leave", "b");
        // From there on it goes on as any.
        let id = format!("Last-Event-ID: {}", reset.id);
        Stream::open(&discovery, "/events", &[&id]).expect("join", "b");
        let answer = discovery.get("/peers?format=ids");
        assert_eq!(answer.text(), "a\n");
        assert_eq!(revision(&answer), now(&discovery));
        // The next one begins where this one did.
        if since != future {
            break;
        }
    }
    let mut stream = Stream::open(&discovery, "/events", &["Last-Event-ID: no revision"]);
    assert_eq!(stream.next().name, "reset");
    // More has happened than is remembered.
    let mut connection = discovery.connect();
    let flip = |number: usize| json!({"cell_id": "a", "ip": "h", "port": number}).to_string();
    for number in 0..5100 {
        let body = flip(number);
        let head = crate::support::head("POST", "/register", &body, "keep-alive");
        connection.send(&[head.as_bytes(), body.as_bytes()].concat());
        assert_eq!(connection.answer().expect("an answer").status, 200);
    }
    let mut stream = Stream::open(&discovery, &format!("/events?since={known}"), &[]);
    assert_eq!(stream.next().name, "reset");
    let mut stream = Stream::open(
        &discovery,
        &format!("/events?since={}", now(&discovery) - 10_000),
        &[],
    );
    let first = stream.next();
    assert_ne!(first.name, "reset");
    for next in 1..10_000 {
        assert_eq!(stream.next().id, first.id + next);
    }
}

#[test]
fn a_quiet_stream_says_that_it_is_alive() {
    let discovery = discovery(&CALM);
    let mut stream = Stream::open(&discovery, "/events", &[]);
    let opened = Instant::now();
    let mut comments = 0;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| stream.next_after(&mut comments));
        pause(Duration::from_secs(15) + AT_ONCE);
        register(&discovery, "a");
        let event = reader.join().expect("no panic").expect("an event");
        assert_eq!(event.name, "join");
    });
    // How it began, and that nothing was new.
    assert_eq!(comments, 2, "{:?}", opened.elapsed());
}

#[test]
fn at_a_stop_a_stream_ends() {
    let mut discovery = discovery(&CALM);
    register(&discovery, "a");
    let since = format!("/events?since={}", now(&discovery) - 1);
    let mut all: Vec<_> = (0..10)
        .map(|_| Stream::open(&discovery, &since, &[]))
        .collect();
    for stream in &mut all {
        stream.expect("join", "a");
    }
    wait_until_waiting(&discovery, all.len());
    discovery.signal(Signal::TERM);
    for stream in &mut all {
        assert!(stream.next_after(&mut 0).is_none());
    }
    drop(all);
    let (status, took) = discovery.wait(SOON);
    assert_eq!(status.code(), Some(0));
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn who_has_gone_is_not_told_any_more() {
    let discovery = discovery(&CALM);
    let all: Vec<_> = (0..10)
        .map(|_| Stream::open(&discovery, "/events", &[]))
        .collect();
    wait_until_waiting(&discovery, all.len());
    drop(all);
    wait_for("they are let go of", 2 * SOON, || waiting(&discovery) == 0);
}

#[test]
fn who_does_not_read_is_dropped_and_holds_up_nobody() {
    let discovery = discovery(&CALM);
    let deaf = discovery.connect();
    // As little as may be is on its way to who does not take it.
    let socket = socket2::SockRef::from(&deaf.stream);
    socket.set_recv_buffer_size(4096).expect("set");
    let mut deaf = deaf;
    deaf.send(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut stream = Stream::open(&discovery, "/events", &[]);
    wait_until_waiting(&discovery, 2);
    let long = "x".repeat(200);
    let services: Vec<&str> = vec![&long; 64];
    let mut number = 0;
    let mut slowest = Duration::ZERO;
    let took = wait_for("it is dropped", 6 * SOON, || {
        number += 1;
        let id = format!("cell-{number}");
        let entered = Instant::now();
        enter(&discovery, &id, &json!({"services": services}));
        stream.expect("join", &id);
        slowest = slowest.max(entered.elapsed());
        waiting(&discovery) == 1
    });
    report(&format!(
        "a subscriber that does not read is dropped after {took:?} and {number} joins, of which the \
         slowest reached another one after {slowest:?}"
    ));
    assert!(slowest < AT_ONCE, "{slowest:?}");
}

#[test]
fn head_says_how_a_stream_would_begin() {
    let discovery = discovery(&CALM);
    let answer = discovery.request("HEAD", "/events", &[], b"");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    wait_until_waiting(&discovery, 0);
}
