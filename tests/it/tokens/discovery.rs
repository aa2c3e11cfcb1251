//! What discovery asks a token for.

use serde_json::json;

use super::{ONE, OTHER, TWO, TokenFile, bearer, beat, registration, said, with};
use crate::support::{Answer, Child, command, discovery, ids, one_line, run};

/// Asserts that a request was refused for its token, or for want of one.
#[track_caller]
fn expect_refused(what: &str, answer: &Answer, wrong: bool) {
    assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    let challenge = match wrong {
        true => r#"Bearer realm="aios-mesh", error="invalid_token""#,
        false => r#"Bearer realm="aios-mesh""#,
    };
    assert_eq!(answer.header("www-authenticate"), Some(challenge), "{what}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.detail().contains("token"), "{what}");
    super::expect_no_token_in(answer.text());
}

/// Everything that changes the list of a discovery that knows `a` and `b`.
fn changes() -> [(&'static str, &'static str, String); 4] {
    [
        ("POST", "/heartbeat", beat("a")),
        ("POST", "/register", registration("c")),
        ("DELETE", "/peer/a", String::new()),
        ("DELETE", "/unregister/b", String::new()),
    ]
}

#[test]
fn whoever_changes_something_sends_a_token_of_the_file_and_nothing_like_it() {
    let file = TokenFile::of(&[ONE, TWO]);
    let discovery = discovery(&["--token-file", file.path()]);
    for id in ["a", "b"] {
        let answer = with(&discovery, TWO, "POST", "/register", &registration(id));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let before = discovery.get("/peers").json()["revision"].clone();
    let wrong = [
        OTHER.to_owned(),
        ONE[..ONE.len() - 1].to_owned(),
        ONE[1..].to_owned(),
        format!("{ONE}A"),
        ONE.to_ascii_lowercase(),
        ONE.to_ascii_uppercase(),
        format!("{ONE}{TWO}"),
        format!("{ONE}, Bearer {ONE}"),
        format!("{ONE} {TWO}"),
        format!("\"{ONE}\""),
        TWO.trim_end_matches('=').to_owned(),
        "=".to_owned(),
        "x".repeat(8000),
    ];
    let none = [
        "X-Nothing: here".to_owned(),
        "Authorization:".to_owned(),
        "Authorization: Bearer".to_owned(),
        format!("Authorization: {ONE}"),
        format!("Authorization: Bearer{ONE}"),
        format!("Authorization: Basic {ONE}"),
        format!("Proxy-Authorization: Bearer {ONE}"),
        format!("Cookie: Authorization=Bearer {ONE}"),
    ];
    for (method, target, body) in changes() {
        for token in &wrong {
            let answer = with(&discovery, token, method, target, &body);
            expect_refused(&format!("{method} {target} {token}"), &answer, true);
        }
        for header in &none {
            let answer = discovery.request(method, target, &[header], body.as_bytes());
            expect_refused(&format!("{method} {target} {header}"), &answer, false);
        }
        let target = format!("{target}?access_token={ONE}");
        let answer = discovery.request(method, &target, &[], body.as_bytes());
        expect_refused(&target, &answer, false);
    }
    let after = discovery.get("/peers").json();
    assert_eq!(after["revision"], before);
    assert_eq!(ids(&discovery), ["a", "b"]);

    for (method, target, body) in changes() {
        let header = format!("authorization:  bEARER  {ONE} ");
        let answer = discovery.request(method, target, &[&header], body.as_bytes());
        assert_eq!(answer.status, 200, "{method} {target}: {}", answer.text());
    }
    assert_eq!(ids(&discovery), ["c"]);
}

#[test]
fn what_is_not_there_and_who_may_not_ask_come_before_the_token_and_the_body_after_it() {
    let file = TokenFile::of(&[ONE]);
    let discovery = discovery(&["--token-file", file.path(), "--protect-reads"]);
    let ours = format!("Origin: http://{}", discovery.address);
    let token = bearer(ONE);
    let twice = [&*token, &*token];
    for (method, target, headers, body, expected) in [
        ("POST", "/nothing", &[][..], "", 404),
        ("GET", "/register", &[], "", 405),
        ("PATCH", "/peers", &[], "", 405),
        (
            "POST",
            "/register",
            &["Origin: http://evil.example"],
            "",
            403,
        ),
        (
            "POST",
            "/register",
            &["Origin: http://evil.example", &token],
            "",
            403,
        ),
        ("DELETE", "/peer/a", &["Origin: null", &token], "", 403),
        ("DELETE", "/peer/a", &[&ours], "", 401),
        ("DELETE", "/peer/a", &[&ours, &token], "", 404),
        ("DELETE", "/peer/a", &[], "", 401),
        ("POST", "/register", &[], "no JSON", 401),
        (
            "POST",
            "/register",
            &["Content-Type: text/plain"],
            "{}",
            401,
        ),
        ("POST", "/register", &[&token], "no JSON", 422),
        (
            "POST",
            "/register",
            &[&token, "Content-Type: text/plain"],
            "{}",
            415,
        ),
        ("POST", "/heartbeat", &[&token], r#"{"cell_id":"a"}"#, 404),
        ("GET", "/peers", &["Origin: http://evil.example"], "", 401),
        ("GET", "/peers", &twice, "", 400),
        ("POST", "/register", &[&*token, "AUTHORIZATION: x"], "", 400),
        ("GET", "/health", &["Authorization: \u{fc}"], "", 400),
        ("GET", "/health", &["Authorization: Bearer\tx"], "", 400),
    ] {
        let answer = discovery.request(method, target, headers, body.as_bytes());
        let what = format!("{method} {target} {headers:?}");
        assert_eq!(answer.status, expected, "{what}: {}", answer.text());
    }
}

#[test]
fn reads_are_open_to_all_unless_they_are_protected() {
    let file = TokenFile::of(&[ONE]);
    let open = discovery(&["--token-file", file.path()]);
    let closed = discovery(&["--token-file", file.path(), "--protect-reads"]);
    for method in ["GET", "HEAD"] {
        for (target, is_protected, status) in [
            ("/peers", true, 200),
            ("/peers/", true, 200),
            ("/metrics", true, 200),
            ("/health", false, 200),
            ("/ready", false, 503),
            ("/", false, 200),
            ("/nowhere", false, 404),
            ("/openapi.json", false, 200),
        ] {
            let what = format!("{method} {target}");
            let answer = open.request(method, target, &[], b"");
            assert_eq!(answer.status, status, "{what}");
            let answer = closed.request(method, target, &[], b"");
            let expected = if is_protected { 401 } else { status };
            assert_eq!(answer.status, expected, "{what}");
            for discovery in [&open, &closed] {
                let answer = with(discovery, ONE, method, target, "");
                assert_eq!(answer.status, status, "{what}");
            }
            // Where anybody may read, nobody is turned away for what he sends along.
            let answer = with(&open, OTHER, method, target, "");
            assert_eq!(answer.status, status, "{what}");
        }
    }
    expect_refused("none", &closed.get("/peers"), false);
    expect_refused("wrong", &with(&closed, TWO, "GET", "/peers", ""), true);
    let metrics = with(&closed, ONE, "GET", "/metrics", "");
    let counted = metrics.text().lines().find(|line| {
        line.starts_with("aios_discovery_requests_total{")
            && line.contains(r#"route="/peers""#)
            && line.contains(r#"status="401""#)
    });
    assert!(
        counted.is_some_and(|line| line.ends_with(" 6")),
        "{counted:?}"
    );
}

#[test]
fn reads_are_protected_as_the_variable_says() {
    let file = TokenFile::of(&[ONE]);
    for (value, expected) in [("on", 401), ("1", 401), ("False", 200), ("", 200)] {
        let mut command = command("aios-discovery");
        command.args(["--host", "127.0.0.1", "--port", "0"]);
        command.env("AIOS_TOKEN_FILE", file.path());
        command.env("AIOS_PROTECT_READS", value);
        let discovery = Child::listening(command);
        assert_eq!(discovery.get("/peers").status, expected, "{value:?}");
        assert_eq!(discovery.delete("/peer/a").status, 401);
    }
    for (arguments, variables, named) in [
        (
            &["--protect-reads"][..],
            &[][..],
            &["--protect-reads", "--token-file"][..],
        ),
        (
            &[],
            &[("AIOS_PROTECT_READS", "true")],
            &["AIOS_PROTECT_READS", "AIOS_TOKEN_FILE"],
        ),
        (
            &["--token-file", file.path()],
            &[("AIOS_PROTECT_READS", "maybe")],
            &["AIOS_PROTECT_READS", "'maybe'", "true", "off"],
        ),
    ] {
        let output = run("aios-discovery", arguments, variables);
        assert_eq!(output.status.code(), Some(2));
        let line = one_line(&output);
        assert!(named.iter().all(|word| line.contains(word)), "{line}");
    }
}

#[test]
fn a_discovery_that_others_reach_says_at_the_start_that_it_is_open() {
    let file = TokenFile::of(&[ONE]);
    let tokens = ["--token-file", file.path()];
    for (host, flags, warns) in [
        ("0.0.0.0", &[][..], true),
        ("0.0.0.0", &tokens, false),
        ("127.0.0.1", &[], false),
        ("127.0.0.2", &[], false),
        ("::", &[], true),
        ("::1", &[], false),
    ] {
        let own = ["--host", host, "--port", "0"];
        let mut discovery = Child::start("aios-discovery", &[&own, flags].concat());
        discovery.signal(rustix::process::Signal::TERM);
        discovery.wait(crate::support::SOON);
        discovery.whole_log();
        let warnings = said(&discovery, "WARN");
        assert_eq!(warnings.len(), usize::from(warns), "{host}: {warnings:?}");
        let told = |line: &String| line.contains("--token-file") && line.contains("--host");
        assert!(warnings.iter().all(told), "{warnings:?}");
        let settings = said(&discovery, "discovery with ");
        let shown = match flags {
            [] => "token-file=none",
            _ => "token-file=given",
        };
        assert!(settings[0].contains(shown), "{settings:?}");
    }
}

#[test]
fn a_discovery_without_tokens_takes_requests_that_bring_one() {
    let discovery = discovery(&[]);
    let answer = with(&discovery, ONE, "POST", "/register", &registration("a"));
    assert_eq!(answer.status, 200);
    let answer = with(&discovery, OTHER, "DELETE", "/peer/a", "");
    assert_eq!(
        answer.json(),
        json!({"status": "deregistered", "cell_id": "a"})
    );
}
