//! What discovery takes, and what it refuses: with a sentence that names the field, and without
//! changing anything.

use serde_json::{Value, json};

use super::{expect_error, shown};
use crate::support::{Answer, Child, discovery, peers};

const JSON: &str = "Content-Type: application/json";

/// A discovery that knows `a`, with something in each of its fields.
fn with_a_peer() -> Child {
    let discovery = discovery(&["--stale-after", "60m"]);
    let body = json!({
        "cell_id": "a", "ip": "10.0.0.1", "port": 1, "consciousness_level": 0.5,
        "services": ["s"], "branch": "b", "type": "t", "hostname": "h", "instance": "run",
    });
    assert_eq!(discovery.post("/register", &body.to_string()).status, 200);
    discovery
}

/// The body of a registration in which `field` is `raw`, JSON or not.
fn with(id: &str, field: &str, raw: &[u8]) -> Vec<u8> {
    let mut body = b"{".to_vec();
    let id = json!(id).to_string();
    for (name, usual) in [("cell_id", &*id), ("ip", "\"10.0.0.2\""), ("port", "2")] {
        if name != field {
            body.extend_from_slice(format!("\"{name}\":{usual},").as_bytes());
        }
    }
    body.extend_from_slice(format!("\"{field}\":").as_bytes());
    body.extend_from_slice(raw);
    body.push(b'}');
    body
}

/// A registration in which `field` is `raw`.
fn register(discovery: &Child, id: &str, field: &str, raw: &str) -> Answer {
    let body = with(id, field, raw.as_bytes());
    discovery.request("POST", "/register", &[JSON], &body)
}

#[test]
fn a_bad_field_is_refused_by_name_and_changes_nothing() {
    let long = format!("\"{}\"", "x".repeat(256));
    let long_by_bytes = format!("\"{}\"", "ü".repeat(128));
    let long_host = format!("\"{}\"", "h".repeat(254));
    let nested = "[".repeat(30_000);
    let nested_objects = "{\"a\":".repeat(10_000);
    let nested_and_closed = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let many = format!("[{}]", vec!["\"s\""; 65].join(","));
    let long_service = format!("[\"s\",{long}]");
    // What no field that is a text may be, however it is called.
    let no_texts: [&[u8]; 21] = [
        b"null",
        b"5",
        b"1.5",
        b"true",
        b"[]",
        b"[\"a\"]",
        b"{}",
        long.as_bytes(),
        long_by_bytes.as_bytes(),
        b"\"a\\u0000b\"",
        b"\"a\\nb\"",
        b"\"a\nb\"",
        b"\"a\\u007fb\"",
        b"\"a\\u0085b\"",
        b"\"a\\u2028b\"",
        b"\"a\xe2\x80\xa9b\"",
        b"\"a\x1b[2Jb\"",
        b"\"\\ud800\"",
        b"\"\xff\xfe\"",
        nested.as_bytes(),
        nested_and_closed.as_bytes(),
    ];
    let texts = ["cell_id", "ip", "branch", "type", "hostname", "instance"];
    let mut rows: Vec<(&str, &[u8])> = Vec::new();
    for field in texts {
        rows.extend(no_texts.iter().map(|raw| (field, *raw)));
    }
    let more: [(&str, &[&str]); 7] = [
        ("cell_id", &["\"\""]),
        (
            "ip",
            &[
                "\"\"",
                "\" \"",
                "\"10.0.0.1 \"",
                "\"[::1]\"",
                "\"::1%eth0\"",
                "\"10.0.0.1:80\"",
                "\"http://h\"",
                "\"a/b\"",
                "\"user@h\"",
                "\"zürich\"",
                "\"::1::2\"",
                "\"h?\"",
                &long_host,
            ],
        ),
        (
            "port",
            &[
                "null",
                "true",
                "false",
                "\"\"",
                "\" \"",
                "\"http\"",
                "-1",
                "\"-1\"",
                "65536",
                "\"65536\"",
                "1.5",
                "\"1.5\"",
                "1e999",
                "-1e999",
                "1e30",
                "NaN",
                "Infinity",
                "\"NaN\"",
                "\"0x50\"",
                "\"80 80\"",
                "18446744073709551616",
                "[80]",
                "{}",
                &nested,
            ],
        ),
        (
            "consciousness_level",
            &[
                "null",
                "true",
                "\"\"",
                "\"high\"",
                "NaN",
                "-NaN",
                "Infinity",
                "-Infinity",
                "1e999",
                "-1e999",
                "\"nan\"",
                "\"NaN\"",
                "\"inf\"",
                "\"-Infinity\"",
                "\"1e999\"",
                "[1]",
                "{}",
                ".5",
                &nested_objects,
            ],
        ),
        (
            "services",
            &[
                "null",
                "\"s\"",
                "5",
                "{}",
                "{\"a\":\"b\"}",
                "[1]",
                "[null]",
                "[\"s\",[\"t\"]]",
                "[\"a\\u0000\"]",
                "[\"a\\u2028\"]",
                "[\"s\",true]",
                &many,
                &long_service,
                &nested,
            ],
        ),
        (
            "stale_after_ms",
            &[
                "null",
                "999",
                "3600001",
                "0",
                "-1000",
                "1500.5",
                "\"soon\"",
                "1e999",
                "NaN",
                "true",
                "[]",
                "18446744073709551616",
            ],
        ),
        // Unknown members are ignored, but have to be JSON.
        (
            "whatever",
            &[
                "NaN",
                "1e999",
                "\"\\ud800\"",
                "\"a\nb\"",
                &nested,
                &nested_objects,
            ],
        ),
    ];
    for (field, values) in more {
        rows.extend(values.iter().map(|raw| (field, raw.as_bytes())));
    }
    rows.push(("whatever", b"\"\xff\""));

    let discovery = with_a_peer();
    let before = shown(&discovery);
    for (field, raw) in rows {
        // Both for a peer that is there, in which half a change would show, and for a new one.
        for id in ["a", "new"] {
            let body = with(id, field, raw);
            let answer = discovery.request("POST", "/register", &[JSON], &body);
            let end = raw.len().min(60);
            let what = format!("{field} = {}", raw[..end].escape_ascii());
            let detail = expect_error(&what, &answer, 422);
            assert!(detail.contains(&format!("{field}: ")), "{what}: {detail}");
            assert!(detail.len() < 300, "{what}: {detail}");
            assert!(!detail.contains(char::is_control), "{what}: {detail:?}");
        }
    }
    assert_eq!(shown(&discovery), before);
}

#[test]
fn a_missing_field_is_refused_by_name_and_changes_nothing() {
    let discovery = with_a_peer();
    let before = shown(&discovery);
    for (target, body, field) in [
        ("/register", json!({"ip": "h", "port": 1}), "cell_id"),
        ("/register", json!({"cell_id": "a", "port": 1}), "ip"),
        ("/register", json!({"cell_id": "a", "ip": "h"}), "port"),
        ("/register", json!({}), "cell_id"),
        ("/heartbeat", json!({"consciousness_level": 1}), "cell_id"),
        ("/heartbeat", json!({"Cell_Id": "a"}), "cell_id"),
    ] {
        let what = format!("{target} {body}");
        let detail = expect_error(&what, &discovery.post(target, &body.to_string()), 422);
        assert!(detail.contains(&format!("{field}: ")), "{what}: {detail}");
    }
    assert_eq!(shown(&discovery), before);
}

#[test]
fn a_bad_heartbeat_is_refused_by_name_and_changes_nothing() {
    let discovery = with_a_peer();
    let before = shown(&discovery);
    for (body, field) in [
        (&b"{\"cell_id\":null}"[..], "cell_id"),
        (b"{\"cell_id\":\"\"}", "cell_id"),
        (b"{\"cell_id\":[\"a\"]}", "cell_id"),
        (b"{\"cell_id\":\"a\\u0000\"}", "cell_id"),
        (b"{\"cell_id\":\"\xff\"}", "cell_id"),
        (
            b"{\"cell_id\":\"a\",\"consciousness_level\":null}",
            "consciousness_level",
        ),
        (
            b"{\"cell_id\":\"a\",\"consciousness_level\":NaN}",
            "consciousness_level",
        ),
        (
            b"{\"cell_id\":\"a\",\"consciousness_level\":1e999}",
            "consciousness_level",
        ),
        (
            b"{\"cell_id\":\"a\",\"consciousness_level\":\"nan\"}",
            "consciousness_level",
        ),
        (
            b"{\"cell_id\":\"a\",\"consciousness_level\":{}}",
            "consciousness_level",
        ),
        (b"{\"cell_id\":\"a\",\"instance\":1}", "instance"),
        (b"{\"cell_id\":\"a\",\"instance\":\"\\u0007\"}", "instance"),
    ] {
        let answer = discovery.request("POST", "/heartbeat", &[JSON], body);
        let what = body.escape_ascii().to_string();
        let detail = expect_error(&what, &answer, 422);
        assert!(detail.contains(&format!("{field}: ")), "{what}: {detail}");
    }
    for instance in [encoded_control(), "x".repeat(256)] {
        for path in ["peer", "unregister"] {
            let target = format!("/{path}/a?instance={instance}");
            let detail = expect_error(&target, &discovery.delete(&target), 422);
            assert!(detail.contains("instance: "), "{detail}");
        }
    }
    assert_eq!(shown(&discovery), before);
}

fn encoded_control() -> String {
    super::encoded("run\u{7}")
}

#[test]
fn a_body_that_is_no_json_object_is_refused_and_changes_nothing() {
    let discovery = with_a_peer();
    let before = shown(&discovery);
    let nested = "[".repeat(60_000);
    let cut = r#"{"cell_id":"a","ip":"10.0.0.2","port":2"#;
    let twice = format!("{cut}}}{cut}}}");
    for body in [
        &b""[..],
        b" ",
        b"null",
        b"5",
        b"true",
        b"\"cell_id\"",
        b"[]",
        b"[{\"cell_id\":\"a\",\"ip\":\"h\",\"port\":1}]",
        b"{",
        b"{\"cell_id\"}",
        b"{'cell_id':'a','ip':'h','port':1}",
        b"{\"cell_id\":\"a\",\"ip\":\"h\",\"port\":1,}",
        b"{\"cell_id\":\"a\",\"ip\":\"h\",\"port\":0x1}",
        b"cell_id=a&ip=h&port=1",
        b"\xff\xfe",
        b"{\"cell_id\":\"a\",\"ip\":\"h\",\"port\":1} // it is",
        b"{\"cell_id\":\"a\",\"ip\":\"h\",\"port\":1}\0",
        cut.as_bytes(),
        twice.as_bytes(),
        nested.as_bytes(),
    ] {
        for target in ["/register", "/heartbeat"] {
            let answer = discovery.request("POST", target, &[JSON], body);
            let end = body.len().min(60);
            let what = format!("{target} {}", body[..end].escape_ascii());
            let detail = expect_error(&what, &answer, 422);
            assert!(detail.contains("body"), "{what}: {detail}");
        }
    }
    assert_eq!(shown(&discovery), before);
}

#[test]
fn what_is_shown_is_what_was_sent_at_every_bound() {
    let longest = json!("x".repeat(255)).to_string();
    let widest = json!(format!("{}x", "ü".repeat(127))).to_string();
    let longest_host = json!("h".repeat(253)).to_string();
    let most = json!(vec!["s"; 64]).to_string();
    let discovery = discovery(&["--stale-after", "60m"]);
    // What is shown, or nothing where it is what was sent.
    let rows: [(&str, &str, &str); 36] = [
        ("ip", "\"10.0.0.1\"", ""),
        ("ip", "\"::1\"", ""),
        ("ip", "\"2001:DB8::1\"", ""),
        ("ip", "\"::ffff:10.0.0.1\"", ""),
        ("ip", "\"aios_cell-pure.1\"", ""),
        ("ip", &longest_host, ""),
        ("port", "0", ""),
        ("port", "65535", ""),
        ("port", "8002.0", "8002"),
        ("port", "8.002e3", "8002"),
        ("port", "\"8002\"", "8002"),
        ("port", "\" 8002 \"", "8002"),
        ("port", "\"0\"", "0"),
        ("consciousness_level", "0.0", ""),
        ("consciousness_level", "-5.25", ""),
        ("consciousness_level", "5", "5.0"),
        ("consciousness_level", "1e308", ""),
        ("consciousness_level", "-1e-300", ""),
        ("consciousness_level", "\"5.2\"", "5.2"),
        ("consciousness_level", "\" -1e3 \"", "-1000.0"),
        (
            "consciousness_level",
            "18446744073709551616",
            "1.8446744073709552e19",
        ),
        ("services", "[]", ""),
        ("services", "[\"\"]", ""),
        ("services", "[\"b\",\"a\",\"b\"]", ""),
        ("services", &most, ""),
        ("branch", "\"\"", ""),
        ("branch", &longest, ""),
        ("branch", "\"größer ✓ \\u00e9\\ud83e\\udde0\"", ""),
        ("type", "\"\"", ""),
        ("type", &widest, ""),
        ("hostname", &longest, ""),
        ("hostname", "\"</script>&\\\"\\\\\"", ""),
        ("unknown", "{\"a\":[1,null,{}],\"b\":\"\\u0000\"}", "null"),
        ("last_seen", "5", "\"TIME\""),
        ("instance", &widest, "null"),
        ("stale_after_ms", "3600000", "null"),
    ];
    for (field, sent, expected) in rows {
        let answer = register(&discovery, "a", field, sent);
        assert_eq!(answer.status, 200, "{field} = {sent}: {}", answer.text());
        let peer = super::masked(peers(&discovery).remove(0));
        assert_eq!(peer.as_object().expect("an object").len(), 9, "{peer}");
        let expected = if expected.is_empty() { sent } else { expected };
        let expected: Value = serde_json::from_str(expected).expect("JSON");
        assert_eq!(peer[field], expected, "{field} = {sent}");
    }
}

#[test]
fn a_level_is_shown_to_the_last_bit() {
    let discovery = discovery(&["--stale-after", "60m"]);
    for level in [
        "0.1",
        "5.2",
        "0.30000000000000004",
        "1.3406740388773197",
        "7.2785215279845525",
        "9.398371057422425",
        "5e-324",
        "1.7976931348623157e308",
    ] {
        for sent in [level.to_owned(), format!("\"{level}\"")] {
            let answer = register(&discovery, "a", "consciousness_level", &sent);
            assert_eq!(answer.status, 200, "{}", answer.text());
            let answer = discovery.get("/peers");
            let (_, rest) = answer
                .text()
                .split_once("\"consciousness_level\":")
                .expect("a level");
            let (shown, _) = rest.split_once(',').expect("more");
            let value = |text: &str| text.parse::<f64>().expect("a number").to_bits();
            assert_eq!(value(shown), value(level), "{sent} is shown as {shown}");
        }
    }
}

#[test]
fn of_duplicate_members_the_last_counts() {
    let discovery = with_a_peer();
    for (body, port) in [
        (r#"{"cell_id":"a","ip":"h","port":3,"port":4}"#, 4),
        (r#"{"cell_id":"a","ip":"h","port":"x","port":5}"#, 5),
        (
            r#"{"port":null,"cell_id":9,"ip":[],"cell_id":"a","ip":"h","port":6}"#,
            6,
        ),
        (
            r#"{"cell_id":"b","ip":"h","p\u006frt":6,"cell_id":"a","port":7}"#,
            7,
        ),
    ] {
        assert_eq!(discovery.post("/register", body).status, 200, "{body}");
        assert_eq!(peers(&discovery)[0]["port"], port, "{body}");
    }
    assert_eq!(peers(&discovery).len(), 1);
    let before = shown(&discovery);
    let body = r#"{"cell_id":"a","ip":"h","port":8,"port":"x"}"#;
    let detail = expect_error(body, &discovery.post("/register", body), 422);
    assert!(detail.contains("port: "), "{detail}");
    assert_eq!(shown(&discovery), before);
}

#[test]
fn a_body_may_have_64_kib_and_not_a_byte_more() {
    let discovery = with_a_peer();
    let body = |length: usize| {
        let start = r#"{"cell_id":"a","ip":"h","port":1,"unknown":""#;
        let padding = "x".repeat(length - start.len() - 2);
        format!("{start}{padding}\"}}")
    };
    assert_eq!(discovery.post("/register", &body(65_536)).status, 200);
    let before = shown(&discovery);
    for target in ["/register", "/heartbeat"] {
        let answer = discovery.post(target, &body(65_537));
        let detail = expect_error(target, &answer, 413);
        assert!(detail.contains("65536"), "{detail}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert_eq!(shown(&discovery), before);
}

#[test]
fn a_content_type_is_json_or_absent() {
    let discovery = with_a_peer();
    let before = shown(&discovery);
    for target in ["/register", "/heartbeat"] {
        // What half the clients send for a string, and what a form in a page may send.
        for other in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "text/plain; application/json",
            "",
        ] {
            let header = format!("Content-Type: {other}");
            let body = br#"{"cell_id":"a","ip":"h","port":9}"#;
            let answer = discovery.request("POST", target, &[&header], body);
            let detail = expect_error(&header, &answer, 415);
            assert!(detail.contains("content type"), "{detail}");
        }
    }
    assert_eq!(shown(&discovery), before);
    for taken in [
        &["Content-Type: application/json"][..],
        &["Content-Type: application/json;charset=UTF-8"],
        &["content-type: Application/JSON ; charset=utf-8"],
        &["Content-Type: application/vnd.aios+json"],
        &[],
    ] {
        let body = br#"{"cell_id":"a","ip":"h","port":9}"#;
        let answer = discovery.request("POST", "/register", taken, body);
        assert_eq!(answer.status, 200, "{taken:?}: {}", answer.text());
    }
}

#[test]
fn a_page_of_another_origin_may_change_nothing() {
    let discovery = with_a_peer();
    let body = r#"{"cell_id":"a","ip":"h","port":9}"#;
    let writes = [
        ("POST", "/register", body),
        ("POST", "/heartbeat", body),
        ("DELETE", "/peer/a", ""),
        ("DELETE", "/unregister/a", ""),
    ];
    let before = shown(&discovery);
    let (_, port) = discovery.address.split_once(':').expect("a port");
    for origin in [
        "http://evil.example".to_owned(),
        "null".to_owned(),
        "http://127.0.0.1".to_owned(),
        "http://127.0.0.1:1".to_owned(),
        format!("http://localhost:{port}"),
        format!("http://{}.evil.example", discovery.address),
        format!("http://evil.example/{}", discovery.address),
        discovery.address.clone(),
        String::new(),
    ] {
        let header = format!("Origin: {origin}");
        for (method, target, body) in writes {
            let answer = discovery.request(method, target, &[&header], body.as_bytes());
            let what = format!("{method} {target} {header}");
            let detail = expect_error(&what, &answer, 403);
            assert!(detail.contains("origin"), "{what}: {detail}");
        }
        let answer = discovery.request("GET", "/peers", &[&header], b"");
        assert_eq!(answer.status, 200, "{header}");
    }
    assert_eq!(shown(&discovery), before);
    let own = format!("Origin: http://{}", discovery.address);
    for (method, target, body) in &writes[..3] {
        let answer = discovery.request(method, target, &[&own], body.as_bytes());
        assert_eq!(answer.status, 200, "{method} {target}: {}", answer.text());
    }
}
