//! The images and the compose file, in real containers on a network of their own.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{file, said, static_binary};
use crate::support::{
    ids_at, last_seen_at, pause, peers_at, report, request, skip, succeeds, wait_for,
};

const SECOND: Duration = Duration::from_secs(1);
/// How long a container may take to start or stop, on a machine with much else to do.
const STARTED: Duration = Duration::from_secs(20);

fn docker(arguments: &[&str]) -> String {
    said(Command::new("docker").args(arguments))
        .trim()
        .to_owned()
}

/// The mesh of `deploy/compose.yaml` as it is, but that its names begin with one of this test and
/// its ports are any free ones: the names and ports of the file may be in use here.
struct Mesh {
    prefix: String,
    file: PathBuf,
    _folder: TempDir,
}

impl Mesh {
    /// Builds the images and starts the containers.
    fn up() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let prefix = format!("test{}-", std::process::id());
        let project = file(".").canonicalize().expect("it is there");
        let text = std::fs::read_to_string(file("deploy/compose.yaml")).expect("a compose file");
        let mut adapted = text;
        for (before, after) in [
            (
                "container_name: aios-",
                format!("container_name: {prefix}aios-"),
            ),
            ("image: aios-", format!("image: {prefix}aios-")),
            ("name: aios-mesh", format!("name: {prefix}aios-mesh")),
            ("context: ..", format!("context: {}", project.display())),
            ("127.0.0.1:8001:", "127.0.0.1::".to_owned()),
            ("127.0.0.1:8002:", "127.0.0.1::".to_owned()),
            ("127.0.0.1:8000:", "127.0.0.1::".to_owned()),
        ] {
            assert!(adapted.contains(before), "{before} is not in the file");
            adapted = adapted.replace(before, &after);
        }
        let path = folder.path().join("compose.yaml");
        std::fs::write(&path, adapted).expect("written");
        let mesh = Self {
            prefix,
            file: path,
            _folder: folder,
        };
        said(mesh.compose().args(["up", "--build", "--detach"]));
        mesh
    }

    fn compose(&self) -> Command {
        let mut command = Command::new("docker-compose");
        command.env("BUILDER", BUILDER);
        command.args(["--project-name", &self.prefix, "--file"]);
        command.arg(&self.file);
        command
    }

    /// The name of a container, an image or the network here.
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn docker(&self, command: &[&str], container: &str) -> String {
        docker(&[command, &[&*self.name(container)]].concat())
    }

    /// What `docker inspect` says of it.
    fn look(&self, container: &str, what: &str) -> String {
        self.docker(&["inspect", "--format", what], container)
    }

    /// Where a container's port is on this host.
    fn address(&self, container: &str, port: &str) -> String {
        docker(&["port", &self.name(container), port])
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.compose().args(["logs", "--no-color"]).output();
            let logs = logs.map(|output| output.stdout).unwrap_or_default();
            eprintln!("{}", String::from_utf8_lossy(&logs));
        }
        let down = ["down", "--rmi", "all", "--volumes", "--timeout", "3"];
        let _ = self.compose().args(down).output();
    }
}

/// The image the binaries are built in.
const BUILDER: &str = "aios-mesh-builder";

/// Whether there is a Docker that builds; if so, its builder image is made.
fn has_docker(test: &str) -> bool {
    if !succeeds("docker", &["info"]) {
        skip(test, "a running Docker");
        return false;
    }
    if !succeeds("docker-compose", &["version"]) {
        skip(test, "docker-compose");
        return false;
    }
    said(Command::new(file("tests/docker/builder-image")).arg(BUILDER));
    true
}

#[test]
fn the_mesh_in_containers_sees_its_cells_stop_start_die_and_get_lost() {
    if !has_docker("the_mesh_in_containers") {
        return;
    }
    let mesh = Mesh::up();
    let at = mesh.address("aios-discovery", "8001");
    // Until discovery is started there is nobody to ask.
    wait_for("discovery is healthy", STARTED, || {
        mesh.look("aios-discovery", "{{.State.Health.Status}}") == "healthy"
    });
    let both = ["alpha", "pure"];
    let listed = || {
        let mut ids = ids_at(&at);
        ids.sort_unstable();
        ids
    };
    wait_for("both cells are listed", STARTED, || listed() == both);
    for peer in peers_at(&at) {
        let id = peer["cell_id"].as_str().expect("an id");
        assert_eq!(peer["ip"], format!("aios-cell-{id}"));
    }

    // Small, healthy, and nobody's root.
    for (container, image) in [
        ("aios-discovery", "aios-discovery"),
        ("aios-cell-pure", "aios-cell"),
        ("aios-cell-alpha", "aios-cell"),
    ] {
        let size = docker(&[
            "image",
            "inspect",
            "--format",
            "{{.Size}}",
            &mesh.name(image),
        ]);
        report(&format!("image {image}: {size} bytes"));
        assert!(
            size.parse::<u64>().expect("a number") <= 8_000_000,
            "{size}"
        );
        wait_for("it is healthy", STARTED, || {
            mesh.look(container, "{{.State.Health.Status}}") == "healthy"
        });
        let pid = mesh.look(container, "{{.State.Pid}}");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        assert!(
            status.contains("\nUid:\t65532\t65532\t65532\t65532\n"),
            "{status}"
        );
        assert!(status.contains("\nCapEff:\t0000000000000000\n"), "{status}");
        assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    }

    // Stopped, it says goodbye.
    let told = Instant::now();
    let stop = Command::new("docker")
        .args(["stop", &mesh.name("aios-cell-pure")])
        .spawn();
    let mut stop = stop.expect("docker runs");
    wait_for("pure is gone", STARTED, || listed() == ["alpha"]);
    report(&format!("docker stop: gone after {:?}", told.elapsed()));
    assert!(told.elapsed() < SECOND, "{:?}", told.elapsed());
    assert!(stop.wait().expect("it ends").success());
    assert_eq!(mesh.look("aios-cell-pure", "{{.State.ExitCode}}"), "0");
    let log = said(
        mesh.compose()
            .args(["logs", "--no-color", "aios-discovery"]),
    );
    assert!(
        log.contains("Peer deregistered gracefully: pure\n"),
        "{log}"
    );

    // Started, it is back.
    let told = Instant::now();
    mesh.docker(&["start"], "aios-cell-pure");
    wait_for("both are listed", STARTED, || listed() == both);
    report(&format!("docker start: back after {:?}", told.elapsed()));
    assert!(told.elapsed() < 10 * SECOND, "{:?}", told.elapsed());

    // Killed, or cut off from the network, both are gone 15 to 20 s after their last beats.
    let identity = "{{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}";
    let before = mesh.look("aios-cell-alpha", identity);
    let network = mesh.name("aios-mesh");
    let mut last = last_seen_at(&at);
    mesh.docker(&["kill"], "aios-cell-pure");
    mesh.docker(&["network", "disconnect", &network], "aios-cell-alpha");
    let cut_off = Instant::now();
    let mut ages = HashMap::new();
    wait_for("both are gone", 30 * SECOND, || {
        let seen = last_seen_at(&at);
        for id in both {
            match seen.get(id) {
                Some(beat) => drop(last.insert(id.to_owned(), *beat)),
                None => {
                    let age = || SystemTime::now().duration_since(last[id]).expect("past");
                    ages.entry(id).or_insert_with(age);
                }
            }
        }
        ages.len() == both.len()
    });
    report(&format!(
        "killed and cut off: gone at {ages:?} after the last beat"
    ));
    for age in ages.values() {
        assert!(*age >= 15 * SECOND && *age <= 21 * SECOND, "{ages:?}");
    }

    // Reconnected after 30 s, it is back by itself.
    wait_for("30 s have passed", 30 * SECOND, || {
        pause(SECOND / 10);
        cut_off.elapsed() >= 30 * SECOND
    });
    mesh.docker(&["network", "connect", &network], "aios-cell-alpha");
    let connected = Instant::now();
    wait_for("alpha is back", STARTED, || listed() == ["alpha"]);
    let took = connected.elapsed();
    report(&format!("reconnected after 30 s: back after {took:?}"));
    assert!(took < 6 * SECOND, "{took:?}");
    assert_eq!(mesh.look("aios-cell-alpha", identity), before);

    // In a container that is new, discovery knows what the old one knew.
    let epoch = |at: &str| request(at, "GET", "/peers", &[], b"").json()["epoch"].clone();
    let before = epoch(&at);
    let recreate = ["up", "--detach", "--no-deps", "--force-recreate"];
    said(mesh.compose().args(recreate).arg("aios-discovery"));
    let at = mesh.address("aios-discovery", "8001");
    wait_for("discovery is healthy", STARTED, || {
        mesh.look("aios-discovery", "{{.State.Health.Status}}") == "healthy"
    });
    assert_eq!(ids_at(&at), ["alpha"]);
    assert_eq!(epoch(&at), before);
    let log = || {
        let logs = ["logs", "--no-color", "aios-discovery"];
        said(mesh.compose().args(logs))
    };
    assert!(
        log().contains("back from the state file /var/lib/aios-mesh/discovery.state, peers: 1")
    );

    // All of it stopped, each says goodbye before discovery goes.
    said(mesh.compose().args(["stop"]));
    for container in ["aios-discovery", "aios-cell-alpha"] {
        assert_eq!(
            mesh.look(container, "{{.State.ExitCode}}"),
            "0",
            "{container}"
        );
    }
    let log = log();
    assert!(
        log.contains("Peer deregistered gracefully: alpha\n"),
        "{log}"
    );
}

/// The system calls a set of systemd's stands for.
fn calls_of(set: &str, found: &mut Vec<String>) {
    let text = said(Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", set]));
    for line in text.lines().skip(1) {
        match line.trim() {
            comment if comment.starts_with('#') || comment.is_empty() => {}
            set if set.starts_with('@') => calls_of(set, found),
            call => found.push(call.to_owned()),
        }
    }
}

/// The units' `SystemCallFilter`, as a profile of Docker's.
fn profile_of_the_units() -> Value {
    let unit = std::fs::read_to_string(file("deploy/systemd/aios-discovery.service"));
    let unit = unit.expect("a unit");
    let mut calls = Vec::new();
    for line in unit.lines() {
        let Some(sets) = line.strip_prefix("SystemCallFilter=") else {
            continue;
        };
        let mut named = Vec::new();
        for set in sets.trim_start_matches('~').split(' ') {
            calls_of(set, &mut named);
        }
        match sets.starts_with('~') {
            true => calls.retain(|call| !named.contains(call)),
            false => calls.append(&mut named),
        }
    }
    assert!(calls.len() > 100, "{calls:?}");
    // What Docker itself needs between the filter and the program; systemd comes first.
    calls.extend(["capset", "setuid", "setgid", "setgroups", "prctl"].map(str::to_owned));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "syscalls": [{"names": calls, "action": "SCMP_ACT_ALLOW"}],
    })
}

/// The containers and the image of a test, removed at its end.
struct Leftovers(Vec<String>);

impl Drop for Leftovers {
    fn drop(&mut self) {
        let (image, containers) = self.0.split_last().expect("an image");
        let _ = Command::new("docker")
            .args(["rm", "-f"])
            .args(containers)
            .output();
        let _ = Command::new("docker").args(["rmi", "-f", image]).output();
    }
}

#[test]
fn the_system_calls_that_the_units_allow_are_enough() {
    const TEST: &str = "the_system_calls_that_the_units_allow_are_enough";
    if !succeeds("docker", &["info"]) {
        return skip(TEST, "a running Docker");
    }
    if !succeeds("systemd-analyze", &["--version"]) {
        return skip(TEST, "systemd-analyze (systemd)");
    }
    let Some(discovery) = static_binary("aios-discovery") else {
        return skip(
            TEST,
            "AIOS_TEST_STATIC_DIR, where cargo static has put the binaries,",
        );
    };
    let prefix = format!("filtered{}-", std::process::id());
    let names = ["discovery", "cell", "image"].map(|name| format!("{prefix}{name}"));
    let [discovery_name, cell_name, image] = &names;
    let _leftovers = Leftovers(names.to_vec());

    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("profile.json");
    std::fs::write(&profile, profile_of_the_units().to_string()).expect("written");
    let archive = folder.path().join("image.tar");
    said(
        Command::new("tar")
            .args(["--create", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(discovery.parent().expect("a folder"))
            .args(["aios-discovery", "aios-cell"]),
    );
    said(
        Command::new("docker")
            .arg("import")
            .arg(&archive)
            .arg(image),
    );

    let filter = format!("seccomp={}", profile.display());
    let run = |name: &str, with: &[&str], what: &[&str]| {
        let first = ["run", "--detach", "--name", name, "--security-opt", &filter];
        docker(&[&first, with, &[&**image], what].concat());
    };
    run(
        discovery_name,
        &["--publish", "127.0.0.1::8001"],
        &["/aios-discovery"],
    );
    let network = format!("container:{discovery_name}");
    run(cell_name, &["--network", &network], &["/aios-cell", "pure"]);
    let at = docker(&["port", discovery_name, "8001"]);
    wait_for("the cell is listed", STARTED, || {
        std::net::TcpStream::connect(&at).is_ok() && ids_at(&at) == ["pure"]
    });
    let mode = docker(&["inspect", "--format", "{{.State.Pid}}", cell_name]);
    let status = std::fs::read_to_string(format!("/proc/{mode}/status")).expect("it runs");
    assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
    docker(&["exec", discovery_name, "/aios-discovery", "--check"]);
    docker(&["stop", cell_name]);
    assert!(ids_at(&at).is_empty());
    docker(&["stop", discovery_name]);
    for name in [discovery_name, cell_name] {
        let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", name]);
        assert_eq!(code, "0", "{name}");
    }
}
