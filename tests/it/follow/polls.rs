//! Long polls: answered when the list is another one, or at the end of their wait.

use std::time::Instant;

use rustix::process::Signal;

use super::*;

/// The answer to a long poll, and how long it took.
fn poll(discovery: &Child, target: &str) -> (Answer, Duration) {
    let asked = Instant::now();
    let answer = discovery.get(target);
    (answer, asked.elapsed())
}

#[test]
fn a_change_answers_and_a_beat_does_not() {
    let discovery = discovery(&CALM);
    register(&discovery, "a");
    let known = now(&discovery);
    let target = format!("/peers?format=ids&index={known}&wait=60s");
    let mut connection = ask(&discovery, &target);
    wait_until_waiting(&discovery, 1);
    let beat = r#"{"cell_id":"a","consciousness_level":7}"#;
    assert_eq!(discovery.post("/heartbeat", beat).status, 200);
    register(&discovery, "a");
    pause(Duration::from_millis(300));
    assert_eq!(waiting(&discovery), 1);

    let changed = Instant::now();
    register(&discovery, "b");
    let answer = connection.answer().expect("an answer");
    assert!(changed.elapsed() < AT_ONCE, "{:?}", changed.elapsed());
    assert_eq!((answer.status, answer.text()), (200, "a\nb\n"));
    assert_eq!(revision(&answer), known + 1);
    // The connection is there for another.
    assert_eq!(answer.header("connection"), Some("keep-alive"));
    wait_until_waiting(&discovery, 0);
}

#[test]
fn every_kind_of_change_answers_whatever_is_asked_for() {
    let discovery = discovery(&BRISK);
    let changes: [(&str, &dyn Fn()); 4] = [
        ("a join", &|| register(&discovery, "a")),
        ("something else that it says", &|| {
            let body = json!({"cell_id": "a", "ip": "127.0.0.1", "port": 1, "branch": "other"});
            assert_eq!(discovery.post("/register", &body.to_string()).status, 200);
        }),
        ("a goodbye", &|| leave(&discovery, "a")),
        ("a silence", &|| register(&discovery, "b")),
    ];
    for (what, change) in changes {
        for query in ["", "format=ids&type=nothing&", "state=gone&"] {
            let target = format!("/peers?{query}index={}&wait=60s", now(&discovery));
            let mut connection = ask(&discovery, &target);
            wait_until_waiting(&discovery, 1);
            change();
            assert_eq!(
                connection.answer().expect("an answer").status,
                200,
                "{what}"
            );
            // The next change is the same, where it can be.
            match what {
                "a join" => leave(&discovery, "a"),
                "a goodbye" => register(&discovery, "a"),
                "a silence" => {
                    wait_for("it is gone", SOON, || ids(&discovery).is_empty());
                }
                _ => {
                    leave(&discovery, "a");
                    register(&discovery, "a");
                }
            }
        }
        register(&discovery, "a");
    }
}

#[test]
fn an_index_that_is_not_the_revision_is_answered_at_once() {
    let discovery = discovery(&CALM);
    register(&discovery, "a");
    let known = now(&discovery);
    // From the past, from the future, and from before there was any.
    for index in [known - 1, known + 1, known + 1_000_000, 0, u64::MAX] {
        let (answer, took) = poll(&discovery, &format!("/peers?index={index}&wait=60s"));
        assert!(took < AT_ONCE, "{index}: {took:?}");
        assert_eq!(revision(&answer), known);
    }
    // Without an index there is nothing to wait for.
    let (answer, took) = poll(&discovery, "/peers?wait=60s");
    assert!(answer.status == 200 && took < AT_ONCE);
}

#[test]
fn nobody_waits_longer_than_asked_for() {
    let discovery = discovery(&CALM);
    let known = now(&discovery);
    let (answer, took) = poll(&discovery, &format!("/peers?index={known}&wait=0s"));
    assert!(answer.status == 200 && took < AT_ONCE);
    let wait = Duration::from_millis(700);
    for form in ["json", "ids"] {
        let target = format!("/peers?format={form}&index={known}&wait=700ms");
        let (answer, took) = poll(&discovery, &target);
        assert_eq!(revision(&answer), known);
        assert!(took >= wait && took < wait + AT_ONCE, "{took:?}");
    }
    // More than the most is the most: it waits, and is refused by nobody.
    let mut long = ask(&discovery, &format!("/peers?index={known}&wait=600m"));
    wait_until_waiting(&discovery, 1);
    register(&discovery, "a");
    assert_eq!(long.answer().expect("an answer").status, 200);
}

#[test]
fn a_restart_is_news() {
    let port = {
        let discovery = discovery(&CALM);
        discovery
            .address
            .rsplit_once(':')
            .expect("a port")
            .1
            .to_owned()
    };
    let start = || {
        let own = ["--host", "127.0.0.1", "--port", &port];
        Child::start("aios-discovery", &[&own[..], &CALM].concat())
    };
    let before = start();
    for id in ["a", "b", "c"] {
        register(&before, id);
    }
    let known = now(&before);
    let epoch = before.get("/peers").json()["epoch"].clone();
    drop(before);
    let after = start();
    // As many changes as before, and not the same.
    for id in ["a", "b", "d"] {
        register(&after, id);
    }
    let (answer, took) = poll(&after, &format!("/peers?index={known}&wait=60s"));
    assert!(took < AT_ONCE, "{took:?}");
    assert!(revision(&answer) > known);
    assert_ne!(answer.json()["epoch"], epoch);
}

#[test]
fn at_a_stop_they_are_answered() {
    let mut discovery = discovery(&CALM);
    register(&discovery, "a");
    let known = now(&discovery);
    let target = format!("/peers?format=ids&index={known}&wait=60s");
    let mut all: Vec<_> = (0..20).map(|_| ask(&discovery, &target)).collect();
    wait_until_waiting(&discovery, all.len());
    discovery.signal(Signal::TERM);
    for connection in &mut all {
        let answer = connection.answer().expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, "a\n"));
        assert_eq!(answer.header("connection"), Some("close"));
    }
    drop(all);
    let (status, took) = discovery.wait(SOON);
    assert_eq!(status.code(), Some(0));
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn who_has_gone_does_not_wait_on() {
    let discovery = discovery(&CALM);
    let target = format!("/peers?index={}&wait=5m", now(&discovery));
    let all: Vec<_> = (0..10).map(|_| ask(&discovery, &target)).collect();
    wait_until_waiting(&discovery, all.len());
    let threads = discovery.threads();
    drop(all);
    let took = wait_for("they are let go of", 2 * SOON, || waiting(&discovery) == 0);
    report(&format!(
        "long polls whose clients have gone are let go of after {took:?}"
    ));
    wait_for("so are their threads", 2 * SOON, || {
        discovery.threads() < threads
    });
}

#[test]
fn there_is_room_for_others_beside_those_who_wait() {
    let discovery = discovery(&[&CALM[..], &["--max-connections", "16"]].concat());
    let target = format!("/peers?index={}&wait=60s", now(&discovery));
    let mut all: Vec<_> = (0..6).map(|_| ask(&discovery, &target)).collect();
    wait_until_waiting(&discovery, 6);
    for more in [&target, "/events"] {
        let refused = discovery.get(more);
        assert_eq!(refused.status, 503);
        assert!(refused.header("retry-after").is_some());
        assert!(refused.detail().starts_with("as many clients as may wait"));
    }
    assert_eq!(discovery.get("/peers").status, 200);
    for number in 0..20 {
        register(&discovery, &format!("cell-{number}"));
    }
    for connection in &mut all {
        assert_eq!(connection.answer().expect("an answer").status, 200);
    }
}

#[test]
fn head_waits_as_get_does() {
    let discovery = discovery(&CALM);
    let known = now(&discovery);
    let mut connection = discovery.connect();
    let request = format!("HEAD /peers?index={known}&wait=60s HTTP/1.1\r\nHost: h\r\n\r\n");
    connection.send(request.as_bytes());
    wait_until_waiting(&discovery, 1);
    register(&discovery, "a");
    let answer = connection.answer_without_body().expect("an answer");
    assert_eq!(revision(&answer), known + 1);
}

/// Runs as an operator writes it: what it printed last is the list.
#[test]
fn a_loop_in_the_shell_ends_up_with_the_truth() {
    const CHANGES: usize = 100;
    if !crate::support::succeeds("curl", &["--version"]) {
        crate::support::skip("a loop in the shell", "curl");
        return;
    }
    let discovery = discovery(&CALM);
    let folder = tempfile::tempdir().expect("a folder");
    let script = r#"
        index=0
        while answer=$(curl -sf -w '\n%header{x-mesh-revision}' \
                "$0/peers?format=ids&index=$index&wait=30s"); do
            index=${answer##*$'\n'}
            printf '%s' "${answer%$'\n'*}" > "$1.new"
            mv "$1.new" "$1"
        done"#;
    let shown = folder.path().join("list");
    let mut shell = std::process::Command::new("bash")
        .args(["-c", script, &discovery.url()])
        .arg(&shown)
        .spawn()
        .expect("bash starts");
    let mut here: Vec<String> = Vec::new();
    let is_shown = |here: &[String]| {
        let text = std::fs::read_to_string(&shown).unwrap_or_default();
        text.lines().eq(here)
    };
    let mut slowest = Duration::ZERO;
    for number in 0..CHANGES {
        match number % 3 {
            2 => leave(&discovery, &here.remove(number % here.len())),
            _ => {
                here.push(format!("cell-{number}"));
                register(&discovery, &here[here.len() - 1]);
            }
        }
        let took = wait_for("it shows the list", SOON, || is_shown(&here));
        slowest = slowest.max(took);
    }
    let _ = shell.kill();
    let _ = shell.wait();
    report(&format!(
        "a shell that polls has shown each of {CHANGES} changes, the slowest after {slowest:?}"
    ));
}
