//! One connection at a time: what is served, what is refused, and what is met with silence.

use super::*;

/// Bytes that arrive at the door.
struct Case {
    name: &'static str,
    sent: Vec<u8>,
    /// The client says that nothing more comes.
    finished: bool,
    outcome: Outcome,
}

/// Bytes after which the client waits.
fn sent(name: &'static str, sent: impl Into<Vec<u8>>, outcome: Outcome) -> Case {
    Case {
        name,
        sent: sent.into(),
        finished: false,
        outcome,
    }
}

/// Bytes after which the client says that nothing more comes.
fn cut(name: &'static str, sent: impl Into<Vec<u8>>, outcome: Outcome) -> Case {
    Case {
        name,
        sent: sent.into(),
        finished: true,
        outcome,
    }
}

impl Case {
    fn try_at(&self, door: &Door) {
        let name = self.name;
        // Shown with a failure.
        eprintln!("at the door: {name}");
        let mut connection = door.discovery.connect();
        connection.send(&self.sent);
        if self.finished {
            connection.finish();
        }
        if !matches!(self.outcome, Silence) {
            let answer = connection.answer().expect("an answer");
            let (status, next) = match self.outcome {
                Served(status) => (status, "keep-alive"),
                Refused(status) | Last(status) => (status, "close"),
                Silence => unreachable!(),
            };
            assert_eq!(answer.status, status, "{name}: {}", answer.text());
            assert_eq!(answer.header("connection"), Some(next), "{name}");
            if matches!(self.outcome, Refused(_)) {
                assert_refusal(&answer, status, name);
            }
        }
        if matches!(self.outcome, Served(_)) {
            assert!(serves(&mut connection), "{name}: out of step");
        } else {
            assert!(connection.ends_silently(), "{name}: one answer too many");
        }
        drop(connection);
        door.is_well(name);
        door.is_unchanged(name);
    }
}

fn try_each(cases: impl IntoIterator<Item = Case>) {
    let door = Door::open();
    let mut count = 0;
    for case in cases {
        for _ in 0..ROUNDS {
            case.try_at(&door);
        }
        count += 1;
    }
    door.is_as_before(&format!("{count} cases {ROUNDS} times"));
}

/// Two requests that must never run: they would show in `/peers`.
fn smuggled() -> String {
    let registration = posted("", &WITNESS.replace("witness", "smuggled"));
    format!("DELETE /peer/witness HTTP/1.1\r\nHost: door\r\n\r\n{registration}")
}

#[test]
fn a_body_whose_end_is_in_doubt_is_refused_and_nothing_in_it_runs() {
    let smuggled = smuggled();
    let headers = [
        ("Content-Length: 10000000000", 413),
        ("Content-Length: 100000000000000", 413),
        ("Content-Length: 18446744073709551616", 413),
        ("Content-Length: 18446744073709551621", 413),
        ("Content-Length: -1", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: 5 5", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length:", 400),
        ("Content-Length: 5\r\nContent-Length: 5", 400),
        ("Content-Length: 0\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\ncontent-length: 0", 400),
        ("Content-Length : 5", 400),
        ("X: folded\r\n Content-Length: 5", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: chunked, identity", 400),
        ("Transfer-Encoding: chunked, chunked", 400),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding:", 400),
        ("Transfer-Encoding : chunked", 400),
        ("Transfer-Encoding\t: chunked", 400),
        ("Transfer-Encoding: \u{b}chunked", 400),
    ];
    let chunks = [
        ("10000000000000000\r\n", 400),
        ("1\r\n{\r\n10000000000000000\r\n", 400),
        ("FFFFFFFFFFFFFFFF\r\n", 413),
        ("-1\r\n", 400),
        ("0x1\r\n", 400),
        (" 1\r\n", 400),
        ("\r\n", 400),
        ("1\r\n{}\r\n", 400),
        ("1\n{\r\n", 400),
        ("1\r{\r\n", 400),
        ("2;\n\r\n{}\r\n0\r\n\r\n", 400),
        ("2;\r\n{}\r\n0;\n\r\n\r\n", 400),
        ("2;a\0b\r\n{}\r\n0\r\n\r\n", 400),
        ("0\r\nA: b\n\r\n\r\n", 400),
        ("0\r\nA: b\rC: d\r\n\r\n", 400),
    ];
    // A whole body by either reading: five bytes, or no chunk but the last.
    let headers = headers.map(|(lines, status)| {
        let request = format!("{POST}{lines}\r\n\r\n0\r\n\r\n{smuggled}");
        sent(lines, request, Refused(status))
    });
    let chunks = chunks.map(|(chunks, status)| {
        let request = chunked(&format!("{chunks}{smuggled}"));
        sent(chunks, request, Refused(status))
    });
    let old = chunked(&format!("0\r\n\r\n{smuggled}")).replace("HTTP/1.1", "HTTP/1.0");
    let old = sent("chunks in HTTP/1.0", old, Refused(400));
    try_each(headers.into_iter().chain(chunks).chain([old]));
}

#[test]
fn what_is_no_http_or_too_much_of_it_is_refused() {
    let client_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let no_utf8 = b"GET /peer/\xff HTTP/1.1\r\nHost: door\r\n\r\n";
    let (megabyte, kilobytes) = (letters(1 << 20), letters(16 << 10));
    let (hundred, many) = ("X: a\r\n".repeat(100), "X: a\r\n".repeat(10_000));
    let too_long = posted("", &letters((64 << 10) + 1));
    let short = posted("", WITNESS).into_bytes();
    let short = &short[..short.len() - 1];
    // One row a case.
    #[rustfmt::skip]
    let cases = [
        sent("LF for line ends", GET.replace("\r\n", "\n") + "\n", Refused(400)),
        sent("LF for one line end", format!("{GET}X: a\n\r\n"), Refused(400)),
        sent("LF for the last line end", format!("{GET}\n"), Refused(400)),
        sent("CR for line ends", GET.replace("\r\n", "\r") + "\r", Refused(400)),
        sent("NUL in the target", "GET /hea\0lth HTTP/1.1\r\n", Refused(400)),
        sent("NUL in a name", format!("{GET}X\0: a\r\n\r\n"), Refused(400)),
        sent("NUL in a value", format!("{GET}X: a\0b\r\n\r\n"), Refused(400)),
        sent("nothing but NUL", [0; 1000], Refused(400)),
        sent("TLS", client_hello, Refused(400)),
        sent("HTTP/0.9", "GET /health\r\n\r\n", Refused(400)),
        sent("HTTP/2", preface, Refused(505)),
        sent("HTTP/3.1", GET.replace("1.1", "3.1") + "\r\n", Refused(505)),
        sent("two blanks", GET.replace(' ', "  ") + "\r\n", Refused(400)),
        sent("a blank in the target", GET.replace("/h", "/ h") + "\r\n", Refused(400)),
        sent("a blank in front", format!(" {GET}\r\n"), Refused(400)),
        sent("no host", "GET /health HTTP/1.1\r\n\r\n", Refused(400)),
        sent("a host with a tab in it", GET.replace("door", "do\tor") + "\r\n", Refused(400)),
        sent("two hosts", format!("{GET}Host: door\r\n\r\n"), Refused(400)),
        sent("a header without a colon", format!("{GET}X\r\n\r\n"), Refused(400)),
        sent("a target without a slash", GET.replace('/', "") + "\r\n", Refused(400)),
        sent("a target that is no UTF-8", no_utf8, Refused(400)),
        sent("CONNECT", "CONNECT door:80 HTTP/1.1\r\nHost: door\r\n\r\n", Refused(400)),
        sent("a URL of 1 MB", format!("GET /{megabyte} HTTP/1.1\r\n\r\n"), Refused(414)),
        sent("a method of 1 MB", format!("{megabyte} / HTTP/1.1\r\n\r\n"), Refused(414)),
        sent("a header of 16 KiB", format!("{GET}X: {kilobytes}\r\n\r\n"), Refused(431)),
        sent("10,000 headers", format!("{GET}{many}\r\n"), Refused(431)),
        sent("101 headers", format!("{GET}{hundred}\r\n"), Refused(431)),
        sent("a body of 64 KiB and a byte", too_long, Refused(413)),
        cut("half a request line", "GET /hea", Refused(400)),
        cut("half a head", GET, Refused(400)),
        cut("a body one byte short", short, Refused(400)),
        cut("chunks without the last", chunked("2\r\n{}\r\n"), Refused(400)),
        cut("chunks without their end", chunked("2\r\n{}\r\n0\r\n"), Refused(400)),
        cut("nothing", "", Silence),
        cut("blank lines", "\r\n\r\n\r\n", Silence),
        cut("half a blank line", "\r", Silence),
    ];
    try_each(cases);
}

#[test]
fn a_request_in_an_unusual_dress_is_served_and_leaves_the_connection_in_step() {
    let smuggled = smuggled();
    let length = smuggled.len();
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n";
    let (front, rear) = WITNESS.split_at(10);
    let plain = chunked(&format!("a\r\n{front}\r\n25\r\n{rear}\r\n0\r\n\r\n"));
    let decorated = chunked(&format!(
        "00A;a=\"b\"\r\n{front}\r\n25 ; c\r\n{rear}\r\n000;d\r\nA: b\r\nC: d\r\n\r\n"
    ));
    let ninety_nine = "X: a\r\n".repeat(99);
    let long = letters(8000);
    let old = GET.replace("1.1", "1.0");
    let old_post = posted("", WITNESS).replace("1.1", "1.0");
    // One row a case.
    #[rustfmt::skip]
    let cases = [
        sent("an upgrade with a body", posted(upgrade, WITNESS), Served(200)),
        sent("chunks", &*plain, Served(200)),
        sent("Chunked", plain.replace("chunked", "Chunked"), Served(200)),
        sent("chunks with extensions and a trailer", decorated, Served(200)),
        sent("no chunk but the last", chunked("0\r\n\r\n"), Served(422)),
        sent("a GET with a body", format!("{GET}Content-Length: {length}\r\n\r\n{smuggled}"), Served(200)),
        sent("a body of 64 KiB", posted("", &letters(64 << 10)), Served(422)),
        sent("100 headers", format!("{GET}{ninety_nine}\r\n"), Served(200)),
        sent("a header that is no ASCII", format!("{GET}X: z\u{fc}rich\r\n\r\n"), Served(200)),
        sent("HOST, and tabs", GET.replace("Host: door", "HOST:\tdoor\t") + "\r\n", Served(200)),
        sent("a host without a name", GET.replace("door", "") + "\r\n", Served(200)),
        sent("8,000 bytes of URL", GET.replace("health", &long) + "\r\n", Served(404)),
        sent("blank lines in front", format!("\r\n\r\n{GET}\r\n"), Served(200)),
        sent("a blank line behind", format!("{}\r\n", posted("", WITNESS)), Served(200)),
        sent("a method nobody has", GET.replace("GET", "BREW") + "\r\n", Served(405)),
        sent("a URL", GET.replace("/h", "http://else:9/h") + "\r\n", Served(200)),
        sent("a URL without a path", GET.replace("/health", "HTTP://else") + "\r\n", Served(200)),
        sent("OPTIONS *", GET.replace("GET /health", "OPTIONS *") + "\r\n", Served(404)),
        sent("HTTP/1.0", format!("{old}\r\n{smuggled}"), Last(200)),
        sent("HTTP/1.0, posted", format!("{old_post}{smuggled}"), Last(200)),
        sent("HTTP/1.0, kept", format!("{old}Connection: Keep-Alive\r\n\r\n"), Served(200)),
        sent("the last", format!("{GET}Connection: close\r\n\r\n{smuggled}"), Last(200)),
        cut("the last, cut", format!("{GET}Connection: close\r\n\r\n"), Last(200)),
    ];
    try_each(cases);
}

#[test]
fn a_path_may_come_as_raw_utf8_or_percent_encoded() {
    let discovery = discovery(&[]);
    for target in [
        "/peer/z\u{fc}rich",
        "/peer/z%C3%BCrich",
        "http://a/peer/z%c3%bcrich/",
    ] {
        register(&discovery, "z\u{fc}rich");
        let mut connection = discovery.connect();
        connection.send(format!("DELETE {target} HTTP/1.1\r\nHost: door\r\n\r\n").as_bytes());
        let answer = connection.answer().expect("an answer");
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(answer.json()["cell_id"], "z\u{fc}rich");
        assert!(ids(&discovery).is_empty());
    }
}

#[test]
fn head_has_the_length_of_the_body_and_not_the_body() {
    let discovery = discovery(&[]);
    register(&discovery, "a");
    let mut connection = discovery.connect();
    for (target, status) in [
        ("/health", 200),
        ("/peers", 200),
        ("/nowhere", 404),
        ("/register", 405),
    ] {
        let head = format!("HEAD {target} HTTP/1.1\r\nHost: door\r\n\r\n");
        let get = head.replacen("HEAD", "GET", 1);
        connection.send(format!("{head}{get}").as_bytes());
        let without = connection.answer_without_body().expect("an answer");
        let with = connection.answer().expect("in step");
        assert_eq!((without.status, with.status), (status, status), "{target}");
        let length = with.body.len().to_string();
        assert_eq!(without.header("content-length"), Some(&*length), "{target}");
        assert_eq!(without.header("content-type"), with.header("content-type"));
    }
    // A refusal neither.
    for refused in [
        "HEAD /health HTTP/1.1\r\n\r\n",
        "HEAD /health HTTP/1.1\r\nHost: door\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut connection = discovery.connect();
        connection.send(refused.as_bytes());
        let answer = connection.answer_without_body().expect("an answer");
        assert_eq!(answer.status, 400);
        assert!(connection.ends_silently(), "{refused}");
    }
}

#[test]
fn one_connection_serves_a_thousand_requests_with_one_thread() {
    let discovery = discovery(&[]);
    let mut connection = discovery.connect();
    for turn in 0..500 {
        connection.send(posted("", WITNESS).as_bytes());
        let answer = connection.answer().expect("an answer");
        assert_eq!(answer.status, 200, "{turn}");
        assert!(serves(&mut connection), "{turn}");
    }
    assert_eq!(connection_threads(&discovery), 1);
}

#[test]
fn fifty_pipelined_requests_are_answered_in_order_and_to_a_half_closed_connection_too() {
    let door = Door::open();
    let mut all = String::new();
    for turn in 0..50 {
        let beat = format!("{{\"cell_id\":\"n{turn:02}\"}}");
        let (front, rear) = beat.split_at(4);
        let request = match turn % 3 {
            0 => posted("", WITNESS),
            1 => chunked(&format!("4\r\n{front}\r\nd\r\n{rear}\r\n0\r\n\r\n"))
                .replace("/register", "/heartbeat"),
            _ => format!("DELETE /peer/n{turn} HTTP/1.1\r\nHost: door\r\n\r\n"),
        };
        all.push_str(&request);
    }
    for _ in 0..ROUNDS {
        for finished in [false, true] {
            let mut connection = door.discovery.connect();
            connection.send(all.as_bytes());
            if finished {
                connection.finish();
            }
            for turn in 0..50 {
                let answer = connection.answer().expect("an answer");
                let text = answer.text();
                match turn % 3 {
                    0 => assert_eq!(answer.json()["cell_id"], "witness"),
                    1 => assert!(text.contains(&format!("Peer n{turn:02} not")), "{text}"),
                    _ => assert_eq!(answer.detail(), "Peer not found"),
                }
            }
            if finished {
                assert!(connection.ends_silently());
            } else {
                assert!(serves(&mut connection), "it serves on");
            }
            door.is_well("50 pipelined requests");
            door.is_unchanged("50 pipelined requests");
        }
    }
    door.is_as_before("50 pipelined requests");
}

#[test]
fn what_is_sent_behind_the_last_request_does_not_cost_the_answer() {
    let discovery = discovery(&[]);
    let mut stream = TcpStream::connect(&discovery.address).expect("it listens");
    let last = "GET /peers HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    // More than is read at once.
    let sent = [last, &letters(100_000)].concat();
    stream.write_all(sent.as_bytes()).expect("sent");
    pause(Duration::from_millis(300));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("no reset");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with('}'), "{answer}");
}

#[test]
fn a_client_that_asks_before_it_sends_a_body_is_told_to_go_on_or_refused() {
    let door = Door::open();
    let asks = "Expect: 100-continue\r\n";
    let old = posted(asks, WITNESS).replace("1.1", "1.0");
    for _ in 0..ROUNDS {
        let mut connection = door.discovery.connect();
        for _ in 0..2 {
            start_to_register(&mut connection);
            connection.send(WITNESS.as_bytes());
            assert_eq!(connection.answer().expect("an answer").status, 200);
        }
        let mut connection = door.discovery.connect();
        connection.send(format!("{POST}{asks}Content-Length: 10000000000\r\n\r\n").as_bytes());
        let answer = connection.answer().expect("a refusal");
        assert_refusal(&answer, 413, "a question about 10^10 bytes");
        assert!(connection.ends_silently());
        // Nobody who speaks HTTP/1.0 knows what 100 means.
        let mut connection = door.discovery.connect();
        connection.send(old.as_bytes());
        assert_eq!(connection.answer().expect("an answer").status, 200);
        assert!(connection.ends_silently());
        door.is_well("Expect: 100-continue");
    }
    door.is_as_before("Expect: 100-continue");
}
