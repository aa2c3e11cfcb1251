//! `deploy/prometheus` and `deploy/grafana`, with a real Prometheus.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{file, said};
use crate::support::{
    Child, Held, SOON, cell, discovery, holds_for, register, report, skip, succeeds, wait_for,
};

const SECOND: Duration = Duration::from_secs(1);
/// How long anything may take that Prometheus does once a second.
const SEEN: Duration = Duration::from_secs(30);

fn has(program: &str, test: &str) -> bool {
    let here = succeeds(program, &["--version"]);
    if !here {
        skip(test, &format!("{program} (prometheus)"));
    }
    here
}

#[test]
fn promtool_is_content_with_the_configuration_and_its_rules() {
    if !has("promtool", "promtool_is_content_with_the_configuration") {
        return;
    }
    for (what, path) in [
        (["check", "config"], "deploy/prometheus/prometheus.yml"),
        (["check", "rules"], "deploy/prometheus/rules.yml"),
        (["test", "rules"], "tests/prometheus/rules.yml"),
    ] {
        said(Command::new("promtool").args(what).arg(file(path)));
    }
    let alerts = read("deploy/prometheus/rules.yml");
    let tested = read("tests/prometheus/rules.yml");
    for line in alerts.lines() {
        if let Some((_, alert)) = line.split_once("- alert: ") {
            assert!(tested.contains(&format!("alertname: {alert}\n")), "{alert}");
        }
    }
}

#[test]
fn promtool_is_content_with_the_metrics() {
    // The name is the reference's, which dashboards rely on.
    const KNOWN: &str = "aios_cell_peers_count non-histogram and non-summary metrics should not have \"_count\" suffix\n";
    if !has("promtool", "promtool_is_content_with_the_metrics") {
        return;
    }
    let discovery = discovery(&["--stale-after", "1s", "--reap-every", "100ms"]);
    let cells =
        [&["pure"][..], &["alpha"], &["--id", "plain"]].map(|flags| cell(&discovery.url(), flags));
    register(&discovery, "silent");
    wait_for("one is missing", SOON, || {
        let metrics = discovery.get("/metrics");
        metrics.text().contains("\naios_discovery_peer_missing{")
    });
    for (child, complaints) in [
        (&discovery, KNOWN),
        (&cells[0], ""),
        (&cells[1], ""),
        (&cells[2], ""),
    ] {
        let metrics = child.get("/metrics");
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = promtool.stdin.take().expect("piped");
        stdin.write_all(&metrics.body).expect("it reads");
        drop(stdin);
        let checked = promtool.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
        assert_eq!(text, complaints);
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The names of our metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("aios_cell_") || word.starts_with("aios_discovery_"))
        .map(str::to_owned)
        .collect()
}

/// What the dashboard asks for.
fn queries_of_the_dashboard() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/aios-mesh.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let queries = targets.map(|target| target["expr"].as_str().expect("a query").to_owned());
    queries.collect()
}

#[test]
fn every_metric_that_is_asked_for_exists() {
    let discovery = discovery(&["--stale-after", "1s", "--reap-every", "100ms"]);
    let _cell = cell(&discovery.url(), &["pure"]);
    register(&discovery, "silent");
    wait_for("one is missing", SOON, || {
        let metrics = discovery.get("/metrics");
        metrics.text().contains("\naios_discovery_peer_missing{")
    });
    let metrics = discovery.get("/metrics");
    let there = named(metrics.text());
    for (path, at_least) in [
        ("deploy/prometheus/rules.yml", 6),
        ("deploy/grafana/aios-mesh.json", 15),
    ] {
        let asked: BTreeSet<String> = named(&read(path));
        assert!(asked.len() >= at_least, "{path}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&there).collect();
        assert_eq!(unknown, [""; 0], "{path}");
    }
}

/// A running Prometheus with the configuration as it is, but for discovery's address, and a second
/// where there are fifteen.
struct Prometheus {
    address: String,
    _child: Child,
    _folder: TempDir,
}

impl Prometheus {
    fn start(discovery: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut configuration = read("deploy/prometheus/prometheus.yml");
        for (before, after) in [("127.0.0.1:8001", discovery), (": 15s", ": 1s")] {
            assert!(configuration.contains(before), "{before}");
            configuration = configuration.replace(before, after);
        }
        std::fs::write(path("prometheus.yml"), configuration).expect("written");
        let rules = read("deploy/prometheus/rules.yml");
        assert!(rules.contains("for: 1m\n"));
        let rules = rules.replace("for: 1m\n", "for: 1s\n");
        std::fs::write(path("rules.yml"), rules).expect("written");
        // It says which port it got only to those who look, so it is given one that was free.
        let address = {
            let free = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            free.local_addr().expect("bound").to_string()
        };
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", path("data")))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = Child::spawn(command);
        wait_for("Prometheus is ready", SEEN, || {
            assert!(child.runs(), "{:#?}", child.log());
            let url = format!("http://{address}/-/ready");
            succeeds("curl", &["-fsS", "-m", "5", &url])
        });
        Self {
            address,
            _child: child,
            _folder: folder,
        }
    }

    /// What it answers.
    fn get(&self, path: &str, query: &str) -> Value {
        let answer = said(
            Command::new("curl")
                .args(["-sS", "-m", "10", "-G", "--data-urlencode"])
                .arg(format!("query={query}"))
                .arg(format!("http://{}/api/v1/{path}", self.address)),
        );
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"].clone()
    }

    /// The series a query gives now.
    fn series(&self, query: &str) -> Vec<Value> {
        let data = self.get("query", query);
        data["result"].as_array().expect("a list").clone()
    }

    /// The cells it scrapes with success.
    fn scraped(&self) -> Vec<String> {
        let up = self.series(r#"up{job="aios-cells"} == 1"#);
        let mut ids: Vec<String> = up.iter().map(|one| peer(&one["metric"])).collect();
        ids.sort_unstable();
        ids
    }

    /// The cells it means to scrape.
    fn targets(&self) -> Vec<String> {
        let data = self.get("targets", "");
        let active = data["activeTargets"].as_array().expect("a list").iter();
        let mut ids: Vec<String> = active
            .filter(|target| target["labels"]["job"] == "aios-cells")
            .map(|target| peer(&target["labels"]))
            .collect();
        ids.sort_unstable();
        ids
    }

    /// The peers for whom this alert fires.
    fn firing(&self, alert: &str) -> Vec<String> {
        let data = self.get("alerts", "");
        let alerts = data["alerts"].as_array().expect("a list").iter();
        alerts
            .filter(|one| one["state"] == "firing" && one["labels"]["alertname"] == alert)
            .map(|one| peer(&one["labels"]))
            .collect()
    }
}

fn peer(labels: &Value) -> String {
    labels["peer"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn prometheus_finds_the_cells_keeps_them_over_a_restart_and_tells_who_is_missing() {
    const TEST: &str = "prometheus_finds_the_cells";
    if !has("prometheus", TEST) || !has("curl", TEST) {
        return;
    }
    let held = Held::open();
    let flags = ["--stale-after", "6s", "--reap-every", "200ms"];
    let first = held.discovery(&flags);
    let url = format!("http://{}", held.address);
    let start = |flags: &[&str]| {
        let own = ["--advertise", "127.0.0.1", "--heartbeat-every", "100ms"];
        cell(&url, &[flags, &own].concat())
    };
    let _pure = start(&["pure"]);
    let _alpha = start(&["alpha"]);
    let plain = start(&["--id", "plain", "--services", "web,mail"]);
    // Who listens nowhere is no target.
    let nowhere = r#"{"cell_id":"nowhere","ip":"127.0.0.1","port":0,"stale_after_ms":3600000}"#;
    assert_eq!(first.post("/register", nowhere).status, 200);
    let three = ["alpha", "plain", "pure"];

    let prometheus = Prometheus::start(&held.address);
    let took = wait_for("it scrapes all three", SEEN, || {
        prometheus.scraped() == three
    });
    report(&format!(
        "Prometheus scrapes three cells after {took:?}, of which discovery settles 6 s"
    ));
    assert_eq!(
        prometheus.series(r#"up{job="aios-discovery"} == 1"#).len(),
        1
    );
    for labels in [
        r#"{peer="pure",type="pure_cell",branch="pure",services=",consciousness-primitives,"}"#,
        r#"{peer="plain",type="cell",branch="main",services=~".*,mail,.*"}"#,
    ] {
        let query = format!(r#"aios_cell_heartbeat_total{labels}"#);
        assert_eq!(prometheus.series(&query).len(), 1, "{labels}");
    }
    let data = prometheus.get("targets", "");
    let scraped_at = data.to_string();
    assert!(scraped_at.contains("/metrics/prometheus\""), "{scraped_at}");

    // A discovery that knows nobody yet takes nobody away.
    drop(first);
    let second = held.discovery(&flags);
    let settles = || second.get("/sd").status == 503;
    assert!(settles());
    let mut looks = 0;
    let started = Instant::now();
    while settles() {
        assert_eq!(prometheus.targets(), three);
        looks += 1;
    }
    report(&format!(
        "discovery restarted without its state: all targets kept through {:?} of settling ({looks} looks)",
        started.elapsed()
    ));
    assert!(looks > 5, "{looks}");
    holds_for("they are kept after it, too", 3 * SECOND, || {
        prometheus.targets() == three
    });
    wait_for("all are scraped", SEEN, || prometheus.scraped() == three);
    wait_for("it is told of", SEEN, || {
        prometheus.firing("MeshDiscoverySettling") == [""]
    });
    assert_eq!(prometheus.firing("MeshCellMissing"), [""; 0]);

    // One that is killed is missing, and out of the targets; and back, it is neither.
    plain.signal(Signal::KILL);
    let killed = Instant::now();
    wait_for("the alert fires", SEEN, || {
        prometheus.firing("MeshCellMissing") == ["plain"]
    });
    report(&format!(
        "killed: the alert fires after {:?}, with a lease of 6 s and everything once a second",
        killed.elapsed()
    ));
    wait_for("it is no target", SEEN, || {
        prometheus.targets() == ["alpha", "pure"]
    });

    // All the dashboard asks for is understood, and is there to be shown.
    for query in queries_of_the_dashboard() {
        let query = query
            .replace("$__rate_interval", "1m")
            .replace("$discovery", ".*")
            .replace("$peer", ".*");
        let empty = prometheus.series(&query).is_empty();
        // Nobody has come back yet.
        assert_eq!(empty, query.contains("flaps_total"), "{query}");
    }

    let _plain = start(&["--id", "plain"]);
    wait_for("the alert is over", SEEN, || {
        prometheus.firing("MeshCellMissing").is_empty()
    });
    wait_for("it is a target again", SEEN, || {
        prometheus.scraped() == three
    });
    assert_eq!(
        prometheus
            .series("aios_discovery_peer_flaps_total > 0")
            .len(),
        1
    );
}
