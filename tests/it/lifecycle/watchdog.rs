//! Discovery's own door does not answer: as seen by its peers, and by the service manager.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::*;
use crate::support::{Connection, command, pause, skip, succeeds, uninterrupted};

/// How long a door may be shut before something follows, on a machine with much else to do.
const LONG: Duration = Duration::from_secs(60);
/// After how long in vain the accept loop is renewed, and after how long again the process ends.
const PATIENCE: Duration = Duration::from_secs(4);

/// A discovery on a network of its own, which can be cut off from itself.
struct Apart {
    discovery: Child,
}

impl Apart {
    fn start(test: &str, flags: &[&str]) -> Option<Self> {
        if !succeeds("unshare", &["-n", "ip", "link", "set", "lo", "up"]) {
            skip(
                test,
                "the right to make network namespaces (root), unshare or ip",
            );
            return None;
        }
        let program = command("aios-discovery");
        let mut unshare = Command::new("unshare");
        unshare
            .args(["-n", "sh", "-c", r#"ip link set lo up; exec "$0" "$@""#])
            .arg(program.get_program())
            .args(["--host", "0.0.0.0", "--port", "0"])
            .args(flags)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut discovery = Child::listening(unshare);
        // It is its own loopback that is reached.
        discovery.address = discovery.address.replace("0.0.0.0", "127.0.0.1");
        Some(Self { discovery })
    }

    /// Does something on its network.
    fn inside<T: Send>(&self, run: impl FnOnce(&Child) -> T + Send) -> T {
        let network = format!("/proc/{}/ns/net", self.discovery.pid());
        let network = File::open(network).expect("it runs");
        let run = || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may");
            run(&self.discovery)
        };
        std::thread::scope(|scope| scope.spawn(run).join().expect("no panic"))
    }

    fn ip(&self, arguments: &str) {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        assert!(self.inside(|_| succeeds("ip", &arguments)), "{arguments:?}");
    }

    fn listed(&self) -> Vec<String> {
        self.inside(ids)
    }

    /// Registers a peer that never beats.
    fn register(&self, id: &str) {
        self.inside(|discovery| crate::support::register(discovery, id));
    }

    fn says(&self, text: &str) -> bool {
        self.discovery.log().iter().any(|line| line.contains(text))
    }
}

const RENEWED: &str = "the accept loop is renewed";
const ENDS: &str = "the process ends";

#[test]
fn a_door_that_does_not_answer_is_renewed_and_then_the_process_ends() {
    let flags = ["--stale-after", "1s", "--reap-every", "100ms"];
    let Some(mut apart) = Apart::start("a_door_that_does_not_answer", &flags) else {
        return;
    };
    apart.register("silent");
    let shut = Instant::now();
    apart.ip("link set lo down");
    apart.discovery.wait_for_line(RENEWED, LONG);
    let renewed = shut.elapsed();
    assert!(apart.discovery.runs());
    apart.discovery.wait_for_line(ENDS, LONG);
    let (status, _) = apart.discovery.wait(SOON);
    let ended = shut.elapsed();
    report(&format!(
        "a door that does not answer: renewed after {renewed:?}, ended after {ended:?}"
    ));
    assert_eq!(status.code(), Some(1));
    assert!(
        renewed > PATIENCE && ended > 2 * PATIENCE,
        "{renewed:?}, {ended:?}"
    );
    // Ten times its lease has passed, and its beats could not have arrived.
    let log = apart.discovery.whole_log().join("\n");
    assert!(!log.contains("Reaping"), "{log}");
}

#[test]
fn leases_stand_still_while_the_door_does_not_answer_and_go_on_when_it_does() {
    let flags = ["--stale-after", "2s", "--reap-every", "100ms"];
    let Some(mut apart) = Apart::start("leases_stand_still", &flags) else {
        return;
    };
    apart.register("silent");
    apart.ip("link set lo down");
    apart.discovery.wait_for_line(RENEWED, LONG);
    apart.ip("link set lo up");
    assert_eq!(apart.listed(), ["silent"], "two leases later");
    apart.discovery.wait_for_line("answers again", SOON);
    let metrics = apart.inside(|discovery| discovery.get("/metrics").text().to_owned());
    for series in ["door_renewals_total", "door_unanswered"] {
        let value = u8::from(series == "door_renewals_total");
        let line = format!("aios_discovery_{series}{{cell_id=\"discovery\"}} {value}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    // The rest of its lease is left to it, and no more; the new accept loop serves.
    wait_for("it is gone", SOON, || apart.listed().is_empty());
    assert!(!apart.says(ENDS));
}

#[test]
fn a_discovery_whose_door_does_not_answer_goes_on_while_beats_are_served() {
    let Some(mut apart) = Apart::start("a_discovery_whose_door", &[]) else {
        return;
    };
    let beat = r#"{"cell_id":"kept"}"#;
    let length = beat.len();
    let beat =
        format!("POST /heartbeat HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{beat}");
    apart.register("kept");
    let mut kept = apart.inside(|discovery| {
        let at: SocketAddr = discovery.address.parse().expect("an address");
        let other = |port| SocketAddr::from(([127, 0, 0, 2], port)).into();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&other(0)).expect("bound");
        socket.connect(&other(at.port())).expect("it listens");
        Connection::over(socket.into())
    });
    let mut beats = |apart: &Apart, what: &str| {
        wait_for(what, LONG, || {
            kept.send(beat.as_bytes());
            assert_eq!(kept.answer().expect("an answer").status, 200);
            pause(Duration::from_millis(200));
            apart.says(what)
        });
    };
    // New connections to where it listens end here, and the one that is there goes on.
    apart.ip("rule add pref 10 lookup local");
    apart.ip("rule add pref 5 to 127.0.0.1/32 unreachable");
    apart.ip("rule del pref 0");
    beats(&apart, RENEWED);
    beats(&apart, "but heartbeats are served; going on");
    let complained = Instant::now();
    wait_for("it has had time to end", LONG, || {
        kept.send(beat.as_bytes());
        assert_eq!(kept.answer().expect("an answer").status, 200);
        pause(Duration::from_millis(200));
        complained.elapsed() > 2 * PATIENCE
    });
    assert!(!apart.says(ENDS));
    let said = apart.discovery.log();
    let said = said.iter().filter(|line| line.contains("going on"));
    assert_eq!(said.count(), 1, "at most once a minute");
    // Without them it ends, too.
    let (status, took) = apart.discovery.wait(LONG);
    assert_eq!(status.code(), Some(1));
    assert!(took > PATIENCE / 2, "{took:?}");
}

/// The service manager, as far as it is told something.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("bound");
        Self { socket, folder }
    }

    /// A discovery that it ends after a second without a word.
    fn start(&self, flags: &[&str], variables: &[(&str, &str)]) -> Child {
        let mut command = command("aios-discovery");
        command
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(flags)
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("WATCHDOG_USEC", "1000000")
            .envs(variables.iter().copied());
        Child::listening(command)
    }

    /// What it is told next, within `at_most`.
    fn told(&self, at_most: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(at_most)).expect("set");
        let mut message = [0; 1024];
        let length = uninterrupted(|| self.socket.recv(&mut message)).ok()?;
        Some(
            String::from_utf8_lossy(&message[..length])
                .trim_end()
                .to_owned(),
        )
    }

    /// How often it is told that all is well in the next seconds, and with what longest pause.
    fn told_well(&self, how_long: Duration) -> (usize, Duration) {
        let (started, mut last) = (Instant::now(), Instant::now());
        let (mut count, mut longest) = (0, Duration::ZERO);
        while started.elapsed() < how_long {
            if self.told(SECOND / 10).as_deref() == Some("WATCHDOG=1") {
                count += 1;
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
        }
        (count, longest.max(last.elapsed()))
    }
}

#[test]
fn the_service_manager_is_told_that_the_door_answers_also_when_there_is_no_room() {
    let manager = Manager::new();
    let discovery = manager.start(&["--max-connections", "2"], &[]);
    let (count, longest) = manager.told_well(4 * SECOND);
    // Every half second, where the machine has time for it.
    assert!((4..=9).contains(&count), "{count}");
    assert!(longest < 2 * SECOND, "{longest:?}");

    // Both places are taken, by one that is idle and one that is half way through a request.
    let mut idle = discovery.connect();
    idle.send(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(idle.answer().expect("an answer").status, 200);
    let mut half = discovery.connect();
    half.send(b"GET /health HTTP/1.1\r\n");
    let (count, longest) = manager.told_well(4 * SECOND);
    report(&format!(
        "WATCHDOG=1 at the connection cap: {count} in 4 s, the longest pause {longest:?}"
    ));
    assert!((4..=9).contains(&count), "{count}");
    assert!(longest < 2 * SECOND, "{longest:?}");
    // Nobody had to make room.
    half.send(b"Host: h\r\n\r\n");
    assert_eq!(half.answer().expect("an answer").status, 200);
    idle.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
    let metrics = idle.answer().expect("an answer");
    // What we ask ourselves is not among what is asked.
    let asked = metrics.text().lines().find(|line| {
        line.starts_with("aios_discovery_requests_total{") && line.contains(r#""/health""#)
    });
    assert!(asked.is_some_and(|line| line.ends_with(" 2")), "{asked:?}");
}

#[test]
fn a_discovery_that_hangs_says_nothing_and_one_that_goes_on_says_so() {
    let manager = Manager::new();
    let discovery = manager.start(&[], &[]);
    assert!(manager.told_well(2 * SECOND).0 > 0);
    discovery.signal(Signal::STOP);
    let _ = manager.told_well(SECOND);
    assert_eq!(manager.told_well(3 * SECOND).0, 0);
    discovery.signal(Signal::CONT);
    assert!(manager.told_well(2 * SECOND).0 > 0);
    let log = discovery.log().join("\n");
    assert!(!log.contains("does not answer"), "{log}");
}

#[test]
fn a_watchdog_that_was_meant_for_another_process_is_not_heeded() {
    let manager = Manager::new();
    let _discovery = manager.start(&[], &[("WATCHDOG_PID", "1")]);
    assert_eq!(manager.told(SOON).as_deref(), Some("READY=1"));
    assert_eq!(manager.told(2 * SECOND), None);
}
