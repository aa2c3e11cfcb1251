//! `aios-mesh up`: the whole mesh in one process, alive.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Child, Connection, SOON, command, pause, report, request, skip, wait_for};

/// Held by a test while its mesh runs: the presets' ports are the same for all.
static PORTS: Mutex<()> = Mutex::new(());

fn ports() -> MutexGuard<'static, ()> {
    PORTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `aios-mesh up` with its output piped, and where its discovery listens.
fn up() -> Child {
    let mut command = command("aios-mesh");
    command.args(["up", "--port", "0"]).stdout(Stdio::piped());
    // Its log says the same of all three; discovery is the first.
    Child::listening(command)
}

fn peers(address: &str) -> Value {
    request(address, "GET", "/peers", &[], b"").json()
}

#[test]
fn both_cells_are_listed_and_beat_and_ctrl_c_ends_it_all() {
    let _ports = ports();
    // A preset's port that is taken is no obstacle; it may be taken already.
    let taken = TcpListener::bind(("127.0.0.1", 8002));
    let mut up = up();
    wait_for("both are listed", SOON, || peers(&up.address)["count"] == 2);
    let seen = || {
        let peers = peers(&up.address)["peers"].clone();
        let times = peers.as_array().expect("a list").iter();
        times
            .map(|peer| peer["last_seen"].to_string())
            .collect::<Vec<_>>()
    };
    let first = seen();
    wait_for("every beat has moved", Duration::from_secs(8), || {
        seen().iter().zip(&first).all(|(now, then)| now > then)
    });

    // Nobody is waited for who only began to say something.
    let mut unfinished = Connection::to(&up.address);
    unfinished.send(b"GET /hea");
    let told = Instant::now();
    up.signal(Signal::INT);
    let (status, _) = up.wait(SOON);
    let took = told.elapsed();
    assert_eq!(status.code(), Some(0));
    report(&format!("aios-mesh up: ended {took:?} after Ctrl-C"));
    assert!(took < Duration::from_secs(1), "{took:?}");

    let said = up.stdout();
    let at = |text: &str| {
        said.find(text)
            .unwrap_or_else(|| panic!("{text:?} is not in:\n{said}"))
    };
    assert!(at("discovery  http://127.0.0.1:") < at("join  pure 127.0.0.1:"));
    assert!(at("alpha      http://127.0.0.1:") < at("join  alpha 127.0.0.1:"));
    assert!(at("join  pure") < at("leave pure"));
    assert!(at("leave alpha") < at("stopped"));
    at("pure: port 8002 is taken, a free one is used instead");
    drop(taken);
}

#[test]
fn on_a_terminal_the_table_is_refreshed_in_place() {
    if !Path::new("/usr/bin/script").exists() {
        return skip(
            "on_a_terminal_the_table_is_refreshed_in_place",
            "script (bsdutils)",
        );
    }
    let _ports = ports();
    // script(1) gives the program a terminal of its own and hands on what it writes there.
    let program = format!("exec {} up --port 0", env!("CARGO_BIN_EXE_aios-mesh"));
    let folder = tempfile::tempdir().expect("a folder");
    let typescript = folder.path().join("typescript");
    let mut command = Command::new("/usr/bin/script");
    command.args(["--quiet", "--flush", "--return", "--command", &program]);
    command
        .arg(&typescript)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command.env_clear().env("TERM", "xterm");
    let mut script = Child::spawn(command);
    let written = || std::fs::read_to_string(&typescript).unwrap_or_default();
    wait_for("the table is there", SOON, || {
        let written = written();
        written.contains("LAST BEAT") && written.contains("pure") && written.contains("alpha_cell")
    });
    // Up four lines or fewer and clear, again and again.
    wait_for("it is drawn over", SOON, || {
        written().matches("A\u{1b}[J").count() > 5
    });
    assert!(!written().contains("join  "), "{}", written());
    pause(Duration::from_millis(100));
    script.type_in("\u{3}");
    let (status, _) = script.wait(SOON);
    assert_eq!(status.code(), Some(0));
    let written = written();
    assert!(written.contains("stopped"), "{written}");
    // Whatever was typed, the cursor is at the start of a line before it goes up, and the last
    // table is one with somebody in it.
    for (at, _) in written.match_indices("A\u{1b}[J") {
        let before = written[..at].trim_end_matches(|c: char| c.is_ascii_digit());
        assert!(before.ends_with("\r\u{1b}["), "{before:?}");
    }
    let (_, last) = written.rsplit_once("LAST BEAT").expect("a table");
    assert!(last.contains("pure"), "{last:?}");
}
