//! What discovery answers, held against the document it gives at `/openapi.json`.

use std::thread;

use super::*;

/// What has to have been answered in the course of it, by route: else it showed little.
const ANSWERED: [(&str, &[u16]); 13] = [
    ("/register", &[200, 405, 415, 422, 503]),
    ("/heartbeat", &[200, 404, 405, 415, 422]),
    ("/peer/{cell_id}", &[200, 404, 405, 422]),
    ("/unregister/{cell_id}", &[200, 404, 405, 422]),
    ("/peers", &[200, 304, 405, 422]),
    ("/peers/{cell_id}", &[200, 404, 405]),
    ("/sd", &[200, 304, 405, 422, 503]),
    // To HEAD: what has no end is not read by who makes requests up.
    ("/events", &[200, 405, 422]),
    ("/health", &[200, 405]),
    ("/ready", &[200, 405, 503]),
    ("/metrics", &[200, 405]),
    ("/openapi.json", &[200, 405]),
    ("/", &[200, 304, 405]),
];

/// What asks for a token wherever there are any.
const CHANGES: [&str; 4] = [
    "/register",
    "/heartbeat",
    "/peer/{cell_id}",
    "/unregister/{cell_id}",
];
/// What asks for one where reads do, too.
const ALL_BUT_THE_OPEN: [&str; 9] = [
    "/register",
    "/heartbeat",
    "/peer/{cell_id}",
    "/unregister/{cell_id}",
    "/peers",
    "/peers/{cell_id}",
    "/sd",
    "/events",
    "/metrics",
];
const TOKEN: &str = "q7Zp0vXKd3Rw9TfLb2Hs5YgMn8Jc4UeA";

impl Python {
    /// Has requests made up from the document, those it allows and those it does not, and checks
    /// what comes back; each carries the token, if one is given.
    fn holds_to_its_document(self, discovery: &Child, token: Option<&str>) {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/python/schemathesis.toml"
        );
        // It computes all the while; what is measured beside it must not feel that.
        let output = Command::new("nice")
            .args(["-n", "19"])
            .arg(self.0)
            .args(["-m", "schemathesis.cli", "--config-file", settings, "run"])
            .arg(format!("{}/openapi.json", discovery.url()))
            .args(token.map(|token| format!("--header=Authorization: Bearer {token}")))
            .env_clear()
            .envs(std::env::var("HOME").map(|home| ("HOME", home)))
            .current_dir(&folder)
            .stdin(Stdio::null())
            .output()
            .expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{errors}");
    }
}

#[test]
fn discovery_answers_as_its_document_says() {
    let Some(python) = Python::found() else {
        return;
    };
    // One that is ready and has room, with nobody taken out on the way, and one that is neither.
    let roomy = discovery(&["--stale-after", "100ms", "--reap-every", "60m"]);
    let narrow = discovery(&["--stale-after", "60m", "--max-peers", "5"]);
    wait_for("it is ready", SOON, || roomy.get("/ready").status == 200);
    thread::scope(|scope| {
        scope.spawn(|| python.holds_to_its_document(&roomy, None));
        scope.spawn(|| python.holds_to_its_document(&narrow, None));
    });

    let counted = format!(
        "{}{}",
        roomy.get("/metrics").text(),
        narrow.get("/metrics").text()
    );
    for (route, statuses) in ANSWERED {
        for status in statuses {
            let series = format!("requests_total{{route=\"{route}\",status=\"{status}\"");
            assert!(
                counted.contains(&series),
                "no {status} of {route}: {counted}"
            );
        }
    }
}

#[test]
fn discovery_with_tokens_and_a_state_file_answers_as_its_document_says() {
    let Some(python) = Python::found() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("tokens"), format!("{TOKEN}\n")).expect("written");
    let start = |state: &str, more: &[&str]| {
        let (tokens, state) = (path("tokens"), path(state));
        let flags = ["--token-file", &tokens, "--state-file", &state];
        discovery(&[&flags, more].concat())
    };
    // One that is ready, and one whose reads are closed, too.
    let open = start("open", &["--stale-after", "100ms", "--reap-every", "60m"]);
    let closed = start("closed", &["--stale-after", "60m", "--protect-reads"]);
    wait_for("it is ready", SOON, || open.get("/ready").status == 200);
    thread::scope(|scope| {
        for (program, token) in [(&open, None), (&closed, None), (&closed, Some(TOKEN))] {
            scope.spawn(move || python.holds_to_its_document(program, token));
        }
    });

    let token = format!("Authorization: Bearer {TOKEN}");
    let counted = [&open, &closed].map(|program| {
        let answer = program.request("GET", "/metrics", &[&token], b"");
        answer.text().to_owned()
    });
    let refused = CHANGES.map(|route| (0, route, 401)).into_iter();
    let both = ALL_BUT_THE_OPEN.map(|route| {
        // It settles all the while.
        let let_in = if route == "/sd" { 503 } else { 200 };
        [(1, route, 401), (1, route, let_in)]
    });
    for (of, route, status) in refused.chain(both.concat()) {
        let series = format!("requests_total{{route=\"{route}\",status=\"{status}\"");
        let counted = &counted[of];
        assert!(
            counted.contains(&series),
            "no {status} of {route}: {counted}"
        );
    }
}
