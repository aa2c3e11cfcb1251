//! Reading the list: its bytes, its tags, its codings, and that nobody misses what they did.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aios_mesh::shutdown::Latch;
use flate2::read::GzDecoder;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Answer, Child, Connection, SOON, ask, discovery, metric, pause, peers, register, wait_for,
};

const CALM: [&str; 2] = ["--stale-after", "60m"];
/// By how much levels and the times of beats may lag.
const LAG: Duration = Duration::from_millis(100);
/// More than are rendered as one.
const MANY: usize = 1000;

/// A discovery with so many peers.
fn with_peers(count: usize) -> Child {
    let discovery = discovery(&[&CALM[..], &["--hold-min", "0"]].concat());
    let mut connection = discovery.connect();
    for number in 0..count {
        let body = format!(r#"{{"cell_id":"cell-{number}","ip":"10.0.0.1","port":7}}"#);
        let head = crate::support::head("POST", "/register", &body, "keep-alive");
        connection.send(&[head.as_bytes(), body.as_bytes()].concat());
        assert_eq!(connection.answer().expect("an answer").status, 200);
    }
    discovery
}

fn get(discovery: &Child, headers: &[&str]) -> Answer {
    let mut connection = Connection::to(&discovery.address);
    send(&mut connection, "GET", headers)
}

/// One request for the list, and its answer: with no body where it has none.
fn send(connection: &mut Connection, method: &str, headers: &[&str]) -> Answer {
    let mut head = format!("{method} /peers HTTP/1.1\r\nHost: h\r\n");
    headers
        .iter()
        .for_each(|header| head.extend([header, "\r\n"]));
    connection.send(format!("{head}\r\n").as_bytes());
    let probe = connection.answer_without_body().expect("an answer");
    if method == "HEAD" || probe.status == 304 {
        return probe;
    }
    let length = probe.header("content-length").expect("a length").parse();
    let body = connection.body(length.expect("a number"));
    Answer { body, ..probe }
}

fn tag(answer: &Answer) -> String {
    let tag = answer.header("etag").expect("a tag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    tag
}

/// The list as a client reads it in the end.
fn list(answer: &Answer) -> Value {
    match answer.header("content-encoding") {
        None => answer.json(),
        Some(coding) => {
            assert_eq!(coding, "gzip");
            serde_json::from_reader(GzDecoder::new(&answer.body[..])).expect("JSON in gzip")
        }
    }
}

/// Asserts what every answer with the list says of it, and what none says that has no body.
#[track_caller]
fn check(answer: &Answer, revision: u64, epoch: &str) {
    assert!(matches!(answer.status, 200 | 304), "{answer:?}");
    tag(answer);
    let said = |name| answer.header(name);
    assert_eq!(said("x-mesh-revision"), Some(&*revision.to_string()));
    assert_eq!(said("x-mesh-epoch"), Some(epoch));
    assert_eq!(said("vary"), Some("Accept-Encoding"));
    assert_eq!(said("cache-control"), Some("no-cache"));
    if answer.status == 304 {
        for name in ["content-length", "content-type", "content-encoding"] {
            assert_eq!(said(name), None, "{name}");
        }
        assert!(answer.body.is_empty());
    }
}

#[test]
fn the_list_is_written_like_this_to_the_byte() {
    let discovery = discovery(&[&CALM[..], &["--my-host", "the \"host\""]].concat());
    for body in [
        r#"{"cell_id":"a","ip":"10.0.0.1","port":1}"#,
        r#"{"cell_id":"b \"ü\" /","ip":"::1","port":65535,"consciousness_level":5.2,"services":["x","y\\z"],"branch":"","type":"alpha_cell","hostname":"h"}"#,
        r#"{"cell_id":"c","ip":"h","port":0,"consciousness_level":1e300,"services":["s"]}"#,
    ] {
        assert_eq!(discovery.post("/register", body).status, 200);
    }
    let answer = discovery.get("/peers");
    let list = answer.json();
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let seen = |number: usize| text(&list["peers"][number]["last_seen"]);
    let (epoch, now) = (text(&list["epoch"]), text(&list["now"]));
    let expected = format!(
        concat!(
            r#"{{"peers":["#,
            r#"{{"cell_id":"a","ip":"10.0.0.1","port":1,"consciousness_level":0.0,"services":[],"#,
            r#""branch":"main","type":"cell","hostname":"","last_seen":"{}"}},"#,
            r#"{{"cell_id":"b \"ü\" /","ip":"::1","port":65535,"consciousness_level":5.2,"#,
            r#""services":["x","y\\z"],"branch":"","type":"alpha_cell","hostname":"h","#,
            r#""last_seen":"{}"}},"#,
            r#"{{"cell_id":"c","ip":"h","port":0,"consciousness_level":1e+300,"services":["s"],"#,
            r#""branch":"main","type":"cell","hostname":"","last_seen":"{}"}}"#,
            r#"],"count":3,"my_host":"the \"host\"","revision":{},"epoch":"{}","now":"{}","#,
            r#""settling":true}}"#
        ),
        seen(0),
        seen(1),
        seen(2),
        list["revision"],
        epoch,
        now
    );
    assert_eq!(answer.text(), expected);
    assert!((0..3).all(|number| seen(number) <= now));
}

#[test]
fn a_tag_names_one_rendering_in_one_coding() {
    for (count, codings) in [(2, &[None][..]), (MANY, &[None, Some("gzip")])] {
        let discovery = with_peers(count);
        let whole = get(&discovery, &[]);
        let epoch = whole.json()["epoch"].as_str().expect("text").to_owned();
        let revision = super::revision(&discovery);
        check(&whole, revision, &epoch);
        let mut connection = discovery.connect();
        for coding in codings {
            let accepts = format!("Accept-Encoding: {}", coding.unwrap_or("identity"));
            let other = match coding {
                Some(_) => "Accept-Encoding: identity",
                None => "Accept-Encoding: gzip",
            };
            for method in ["GET", "HEAD"] {
                // A rendering lasts for a moment; some are caught in it.
                let mut caught = 0;
                wait_for("each has been told so", 6 * SOON, || {
                    let whole = send(&mut connection, method, &[&accepts]);
                    check(&whole, revision, &epoch);
                    assert_eq!(whole.status, 200);
                    assert_eq!(whole.header("content-encoding"), *coding);
                    if method == "GET" {
                        assert_eq!(list(&whole)["count"], count);
                    }
                    let own = tag(&whole);
                    let forms = [
                        own.clone(),
                        format!("W/{own}"),
                        format!("\"x, y\",W/\"z\" , {own}"),
                    ];
                    let form = format!("If-None-Match: {}", forms[caught % forms.len()]);
                    let again = send(&mut connection, method, &[&accepts, &form]);
                    check(&again, revision, &epoch);
                    if again.status == 304 {
                        assert_eq!(tag(&again), own);
                        caught += 1;
                    } else {
                        assert_ne!(tag(&again), own);
                    }
                    // In another coding it is another answer.
                    let elsewhere = send(&mut connection, method, &[other, &form]);
                    check(&elsewhere, revision, &epoch);
                    if codings.len() > 1 {
                        assert_eq!(elsewhere.status, 200);
                        assert_ne!(tag(&elsewhere), own);
                    }
                    caught >= 6
                });
                let any = send(&mut connection, method, &[&accepts, "If-None-Match: *"]);
                assert_eq!(any.status, 304);
                check(&any, revision, &epoch);
                let none = send(&mut connection, method, &[&accepts, "If-None-Match: \"\""]);
                assert_eq!(none.status, 200);
            }
        }
    }
}

#[test]
fn who_has_what_is_no_longer_true_gets_the_list() {
    let discovery = with_peers(20);
    let mut former = tag(&get(&discovery, &[]));
    let beat = json!({"cell_id": "cell-3", "consciousness_level": 7.5}).to_string();
    for change in 0..30 {
        match change % 3 {
            0 => register(&discovery, "new"),
            1 => assert_eq!(discovery.post("/heartbeat", &beat).status, 200),
            _ => assert_eq!(discovery.delete("/peer/new").status, 200),
        }
        let answer = get(&discovery, &[&format!("If-None-Match: {former}")]);
        assert_eq!(answer.status, 200);
        assert_ne!(tag(&answer), former);
        former = tag(&answer);
    }
    assert_eq!(peers(&discovery)[3]["consciousness_level"], 7.5);
}

#[test]
fn tags_do_not_come_again_after_a_restart_with_all_there_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state");
    let flags = ["--state-file", file.to_str().expect("UTF-8")];
    let flags = [&CALM[..], &flags].concat();
    let mut seen = Vec::new();
    let mut epochs = Vec::new();
    for _ in 0..2 {
        let mut discovery = discovery(&flags);
        register(&discovery, "a");
        for _ in 0..5 {
            let answer = get(&discovery, &[]);
            epochs.push(answer.json()["epoch"].clone());
            seen.push(tag(&answer));
            register(&discovery, "a");
        }
        discovery.signal(Signal::TERM);
        discovery.wait(SOON);
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 10);
}

#[test]
fn gzip_is_sent_to_who_likes_it_and_to_nobody_else() {
    let discovery = with_peers(MANY);
    let plain = get(&discovery, &[]);
    for (headers, packed) in [
        (&["Accept-Encoding: gzip"][..], true),
        (&["accept-encoding: GZIP"], true),
        (&["Accept-Encoding: gzip, deflate, br"], true),
        (&["Accept-Encoding: br", "Accept-Encoding: gzip"], true),
        (&["Accept-Encoding: *"], true),
        (&["Accept-Encoding: identity;q=0, *;q=0.1"], true),
        (&["Accept-Encoding: gzip;q=0"], false),
        (&["Accept-Encoding: *;q=0"], false),
        (&["Accept-Encoding: identity"], false),
        (&["Accept-Encoding: identity;q=0"], false),
        (&["Accept-Encoding: gzip;q=0.1, identity;q=0.2"], false),
        (&["Accept-Encoding:"], false),
        (&["Accept-Encoding: \u{fc}"], false),
        (&[], false),
    ] {
        let answer = get(&discovery, headers);
        let coding = answer.header("content-encoding");
        assert_eq!(coding, packed.then_some("gzip"), "{headers:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let list = list(&answer);
        assert_eq!(list["peers"], plain.json()["peers"], "{headers:?}");
        assert_eq!(list["count"], MANY);
        if packed {
            assert!(4 * answer.body.len() < plain.body.len());
        }
    }
    let head = send(&mut discovery.connect(), "HEAD", &["Accept-Encoding: gzip"]);
    assert_eq!(head.header("content-encoding"), Some("gzip"));
    // So are the files that are served as they are, and what is short is not.
    let headers = ["Accept-Encoding: gzip"];
    for target in ["/", "/openapi.json"] {
        let packed = discovery.request("GET", target, &headers, b"");
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{target}");
        assert_eq!(packed.header("vary"), Some("Accept-Encoding"));
        let mut decoded = String::new();
        let mut reader = GzDecoder::new(&packed.body[..]);
        reader.read_to_string(&mut decoded).expect("text in gzip");
        let plain = discovery.get(target);
        assert_eq!(plain.header("content-encoding"), None);
        assert_eq!(plain.text(), decoded);
    }
    let health = discovery.request("GET", "/health", &headers, b"");
    assert_eq!(health.header("content-encoding"), None);
}

#[test]
fn many_readers_cost_few_renderings() {
    let discovery = with_peers(MANY);
    let rendered = || metric(&discovery, "aios_discovery_renderings_total", "");
    let before = rendered();
    let started = Instant::now();
    let count = AtomicUsize::new(0);
    thread::scope(|scope| {
        for reader in 0..8 {
            let (discovery, count) = (&discovery, &count);
            scope.spawn(move || {
                let mut connection = discovery.connect();
                let accepts = ["Accept-Encoding: gzip", "Accept-Encoding: identity"];
                while started.elapsed() < 10 * LAG {
                    let answer = send(&mut connection, "GET", &[accepts[reader % 2]]);
                    assert_eq!(answer.status, 200);
                    count.fetch_add(1, Ordering::Relaxed);
                    // Beats do not make it more.
                    let beat = json!({"cell_id": "cell-5", "consciousness_level": 1}).to_string();
                    assert_eq!(discovery.post("/heartbeat", &beat).status, 200);
                }
            });
        }
    });
    let most = started.elapsed().as_secs_f64() / LAG.as_secs_f64() + 1.0;
    let (made, count) = (rendered() - before, count.into_inner());
    assert!(made <= most, "{made} were made, of at most {most}");
    assert!(count as f64 > 2.0 * most, "only {count} were read");
    // And they are seen in the end.
    wait_for("the beat is seen", 2 * LAG + SOON, || {
        peers(&discovery)[5]["consciousness_level"] == 1.0
    });
}

#[test]
fn nobody_misses_what_they_did_while_many_read() {
    let discovery = with_peers(MANY);
    let stopping = Latch::new();
    let polled = AtomicUsize::new(0);
    thread::scope(|scope| {
        for reader in 0..16 {
            let (discovery, stopping, polled) = (&discovery, &stopping, &polled);
            scope.spawn(move || {
                let mut connection = discovery.connect();
                let accepts = ["Accept-Encoding: gzip", "Accept-Encoding: identity"];
                while !stopping.is_set() {
                    let answer = send(&mut connection, "GET", &[accepts[reader % 2]]);
                    assert!(matches!(answer.status, 200), "{answer:?}");
                    polled.fetch_add(1, Ordering::Relaxed);
                    pause(Duration::from_millis(1));
                }
            });
        }
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let discovery = &discovery;
                scope.spawn(move || {
                    for round in 0..25 {
                        let id = format!("w-{writer}-{round}");
                        let named = format!("\"{id}\"");
                        let gzip = ["Accept-Encoding: gzip"];
                        let is_listed = || match round % 2 {
                            0 => list(&get(discovery, &gzip)).to_string().contains(&named),
                            _ => {
                                let (status, body) =
                                    ask(&discovery.address, "GET", "/peers", "").expect("read");
                                assert_eq!(status, 200);
                                String::from_utf8(body).expect("UTF-8").contains(&named)
                            }
                        };
                        register(discovery, &id);
                        assert!(is_listed(), "{id} is missing");
                        assert_eq!(discovery.delete(&format!("/peer/{id}")).status, 200);
                        assert!(!is_listed(), "{id} is still there");
                    }
                })
            })
            .collect();
        for writer in writers {
            let result = writer.join();
            stopping.set();
            assert!(result.is_ok());
        }
    });
    assert!(polled.into_inner() > 16);
}
