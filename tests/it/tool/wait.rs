//! `wait`: what it waits for, and how it ends.

use super::*;

/// Runs `aios-mesh wait` on a thread of its own.
fn waiting(
    url: &str,
    arguments: &'static [&'static str],
) -> std::thread::JoinHandle<(Output, Instant)> {
    let url = url.to_owned();
    std::thread::spawn(move || {
        let output = mesh(&url, &[&["wait"], arguments].concat());
        (output, Instant::now())
    })
}

/// What it said at the time-out.
fn timed_out(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(3));
    one_line(output)
}

#[track_caller]
fn expect_met(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.is_empty() && output.stdout.is_empty(), "{said}");
}

#[test]
fn it_ends_as_soon_as_it_is_so() {
    let discovery = discovery(&["--stale-after", "1s"]);
    wait_for("it has settled", SOON, || {
        discovery.get("/ready").status == 200
    });
    let url = discovery.url();
    let both = waiting(&url, &["--for", "a,b c"]);
    let two = waiting(&url, &["--min", "2"]);
    let held = || metric(&discovery, "aios_discovery_waiting", "");
    wait_for("they wait", SOON, || held() == 2.0);
    register_with(&discovery, "a", 1, r#","stale_after_ms":60000"#);
    pause(Duration::from_millis(100));
    assert!(!both.is_finished() && !two.is_finished());
    let at = Instant::now();
    register_with(&discovery, "b c", 1, r#","stale_after_ms":60000"#);
    let (output, both) = both.join().expect("it ends");
    expect_met(&output);
    let (output, two) = two.join().expect("it ends");
    expect_met(&output);

    let gone = waiting(&url, &["--gone", "a"]);
    wait_for("it waits", SOON, || held() > 0.0);
    let at_last = Instant::now();
    assert_eq!(discovery.delete("/peer/a").status, 200);
    let (output, gone) = gone.join().expect("it ends");
    expect_met(&output);
    let took = [both - at, two - at, gone - at_last];
    report(&format!(
        "aios-mesh wait: has ended {took:?} after it was so"
    ));
    assert!(took.iter().all(|took| *took < SECOND), "{took:?}");

    // A flag makes a variable that says otherwise void.
    let variables = [("AIOS_DISCOVERY_URL", &*url), ("AIOS_WAIT_FOR", "a")];
    let output = run("aios-mesh", &["wait", "--gone", "a"], &variables);
    expect_met(&output);

    // What is so already is not waited for, however short the time.
    expect_met(&mesh(
        &url,
        &["wait", "--gone", "nobody", "--timeout", "0s"],
    ));
    expect_met(&mesh(&url, &["wait", "--for", "b c", "--timeout", "0s"]));
}

#[test]
fn at_the_time_out_it_says_what_is_lacking() {
    let discovery = discovery(&[]);
    register(&discovery, "a");
    let url = discovery.url();
    for (arguments, said) in [
        (&["--for", "b, a,c"][..], "after 1s: still missing: b, c"),
        (&["--min", "3"], "after 1s: 1 of 3 peers are there"),
        (&["--gone", "a"], "after 1s: still there: a"),
        (&["--gone", "b, a"], "after 1s: still there: a"),
        (&["--gone", "b"], "discovery has only just started"),
    ] {
        let started = Instant::now();
        let output = mesh(&url, &[&["wait", "--timeout", "1s"], arguments].concat());
        let took = started.elapsed();
        let line = timed_out(&output);
        assert!(line.contains(said), "{line}");
        assert!(took >= SECOND && took < 2 * SECOND, "{took:?}");
    }
}

#[test]
fn a_discovery_that_comes_later_is_waited_for() {
    let address = free_address();
    let url = format!("http://{address}");
    let output = mesh(&url, &["wait", "--min", "1", "--timeout", "600ms"]);
    let line = timed_out(&output);
    assert!(
        line.contains("after 600ms: cannot reach discovery") && line.contains(&address),
        "{line}"
    );
    let wait = waiting(&url, &["--for", "pure"]);
    pause(Duration::from_millis(700));
    assert!(!wait.is_finished());
    let discovery = discovery_at(&address, &[]);
    let _cell = cell(&discovery.url(), &["pure"]);
    wait_for("the cell is listed", SOON, || ids(&discovery) == ["pure"]);
    let at = Instant::now();
    let (output, ended) = wait.join().expect("it ends");
    expect_met(&output);
    let took = ended.saturating_duration_since(at);
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn nobody_is_gone_from_a_discovery_that_settles() {
    let address = free_address();
    let wait = waiting(&format!("http://{address}"), &["--gone", "pure"]);
    let discovery = discovery_at(&address, &["--stale-after", "2s"]);
    let started = Instant::now();
    let (output, ended) = wait.join().expect("it ends");
    expect_met(&output);
    let took = ended - started;
    assert_eq!(discovery.get("/ready").status, 200);
    assert!(took > SECOND && took < 5 * SECOND, "{took:?}");
}

#[test]
fn nobody_is_gone_at_once_from_a_discovery_that_was_away_and_does_not_say_if_it_settles() {
    for (epoch, code) in [("", 3), (r#","epoch":"e""#, 0)] {
        let asked = std::sync::atomic::AtomicBool::new(false);
        let list = format!(r#"{{"peers":[],"count":0,"my_host":"h"{epoch}}}"#);
        let stub =
            Stub::start(
                move |_| match asked.swap(true, std::sync::atomic::Ordering::Relaxed) {
                    false => Some((502, "{}".into())),
                    true => Some((200, list.clone())),
                },
            );
        let output = mesh(&stub.url(), &["wait", "--gone", "a", "--timeout", "2s"]);
        assert_eq!(output.status.code(), Some(code));
    }
}

#[test]
fn it_outlives_a_restart() {
    let first = discovery(&[]);
    let address = first.address.clone();
    let wait = waiting(&first.url(), &["--for", "a"]);
    wait_for("it waits", SOON, || {
        metric(&first, "aios_discovery_waiting", "") > 0.0
    });
    drop(first);
    let second = discovery_at(&address, &[]);
    pause(Duration::from_millis(700));
    assert!(!wait.is_finished());
    register(&second, "a");
    let (output, _) = wait.join().expect("it ends");
    expect_met(&output);
}

#[test]
fn a_discovery_that_hangs_does_not_hold_it() {
    let hanging = Stub::start(|_| None);
    let started = Instant::now();
    let output = mesh(
        &hanging.url(),
        &["wait", "--min", "1", "--timeout", "500ms"],
    );
    let took = started.elapsed();
    let line = timed_out(&output);
    assert!(line.contains("no answer in time"), "{line}");
    assert!(took < 3 * SECOND, "{took:?}");
}

#[test]
fn nobody_is_asked_without_pause() {
    let list = r#"{"peers":[],"count":0,"my_host":"h","revision":7}"#;
    for (status, body) in [
        // It knows no long poll, and answers at once.
        (200, list),
        // It does not even know revisions.
        (200, r#"{"peers":[],"count":0,"my_host":"h"}"#),
        (503, r#"{"detail":"later"}"#),
        (502, "<html>"),
        (200, "<html>"),
    ] {
        let stub = Stub::start(move |_| Some((status, body.into())));
        let output = mesh(&stub.url(), &["wait", "--min", "1", "--timeout", "2s"]);
        timed_out(&output);
        let asked = stub.arrived("GET /peers").len();
        assert!((3..=6).contains(&asked), "{status} {body}: {asked}");
    }
    // What is no discovery is not waited for.
    let other = Stub::start(|_| Some((404, r#"{"detail":"Not Found"}"#.into())));
    let output = mesh(&other.url(), &["wait", "--min", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(one_line(&output).contains("that is no discovery"));
}

#[test]
fn on_a_terminal_it_says_what_it_waits_for() {
    if !std::path::Path::new("/usr/bin/script").exists() {
        return skip(
            "on_a_terminal_it_says_what_it_waits_for",
            "script (bsdutils)",
        );
    }
    let discovery = discovery(&[]);
    let program = format!(
        "exec {} wait --for pure,alpha --timeout 3s --discovery {}",
        env!("CARGO_BIN_EXE_aios-mesh"),
        discovery.url()
    );
    let folder = tempfile::tempdir().expect("a folder");
    let typescript = folder.path().join("typescript");
    let mut command = std::process::Command::new("/usr/bin/script");
    command.args(["--quiet", "--flush", "--return", "--command", &program]);
    command
        .arg(&typescript)
        .env_clear()
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null());
    let mut script = Child::spawn(command);
    let (status, _) = script.wait(SOON);
    assert_eq!(status.code(), Some(3));
    let written = std::fs::read_to_string(&typescript).expect("UTF-8");
    let waiting = "waiting for pure, alpha, 3s at most";
    assert_eq!(written.matches(waiting).count(), 1, "{written}");
    assert!(written.contains("after 3s: still missing"), "{written}");
}
