//! What discovery answers, held against the document it gives at `/openapi.json`.

use std::thread;

use super::*;

/// What has to have been answered in the course of it, by route: else it showed little.
const ANSWERED: [(&str, &[u16]); 9] = [
    ("/register", &[200, 405, 415, 422, 503]),
    ("/heartbeat", &[200, 404, 405, 415, 422]),
    ("/peer/{cell_id}", &[200, 404, 405, 422]),
    ("/unregister/{cell_id}", &[200, 404, 405, 422]),
    ("/peers", &[200, 405]),
    ("/health", &[200, 405]),
    ("/ready", &[200, 405, 503]),
    ("/metrics", &[200, 405]),
    ("/openapi.json", &[200, 405]),
];

impl Python {
    /// Has requests made up from the document, those it allows and those it does not, and checks
    /// what comes back.
    fn holds_to_its_document(self, discovery: &Child) {
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
        scope.spawn(|| python.holds_to_its_document(&roomy));
        scope.spawn(|| python.holds_to_its_document(&narrow));
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
