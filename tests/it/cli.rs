//! How the programs are started, and what they say when that is done wrongly.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use aios_mesh::shutdown::Latch;
use rustix::process::Signal;

use crate::support::{
    Child, SOON, Stub, cell, command, discovery, holds_for, one_line, register, run, wait_for,
};

#[test]
fn a_bad_setting_is_refused_in_one_line_that_names_it_its_value_and_what_is_allowed() {
    let plain: &[(&str, &str)] = &[];
    for (program, arguments, variables, named) in [
        (
            "aios-discovery",
            &["--port", "70000"][..],
            plain,
            &["--port", "70000", "65535"][..],
        ),
        (
            "aios-discovery",
            &[],
            &[("DISCOVERY_PORT", "x")],
            &["DISCOVERY_PORT", "'x'", "65535"],
        ),
        (
            "aios-discovery",
            &["--host", "not a host"],
            plain,
            &["--host", "not a host", "IP address"],
        ),
        (
            "aios-discovery",
            &["--stale-after", "15"],
            plain,
            &["--stale-after", "'15'", "500ms, 5s or 2m"],
        ),
        (
            "aios-discovery",
            &["--stale-after", "1ms"],
            plain,
            &["--stale-after", "1ms", "100ms to 60m"],
        ),
        (
            "aios-discovery",
            &[],
            &[("AIOS_REAP_EVERY", "-1s")],
            &["AIOS_REAP_EVERY", "-1s", "5s"],
        ),
        (
            "aios-discovery",
            &["--level", "NaN"],
            plain,
            &["--level", "NaN", "finite"],
        ),
        (
            "aios-discovery",
            &["--max-peers", "0"],
            plain,
            &["--max-peers", "0", "from 1 on"],
        ),
        (
            "aios-discovery",
            &["--max-connections", "many"],
            plain,
            &["--max-connections", "'many'", "from 1 on"],
        ),
        (
            "aios-discovery",
            &["--branch", "a\nb"],
            plain,
            &["--branch", "'a\\nb'", "U+000A"],
        ),
        (
            "aios-discovery",
            &["--id", ""],
            plain,
            &["--id", "''", "1 to 255 bytes"],
        ),
        (
            "aios-discovery",
            &[],
            &[("DISCOVERY_HOST", "256.0.0.1")],
            &["DISCOVERY_HOST", "'256.0.0.1'", "IP address"],
        ),
        (
            "aios-discovery",
            &["--max-connections", "99999999"],
            plain,
            &["--max-connections", "99999999", "descriptors"],
        ),
        (
            "aios-discovery",
            &["--bogus"],
            plain,
            &["--bogus", "--help"],
        ),
        (
            "aios-discovery",
            &[],
            &[("LOG_LEVEL", "loud")],
            &["LOG_LEVEL", "loud", "debug"],
        ),
        (
            "aios-discovery",
            &[],
            &[("RUST_LOG", "a=b=c")],
            &["RUST_LOG", "a=b=c", "debug"],
        ),
        (
            "aios-cell",
            &[],
            plain,
            &["--id", "AIOS_CELL_ID", "pure", "alpha"],
        ),
        ("aios-cell", &["beta"], plain, &["beta", "pure", "alpha"]),
        (
            "aios-cell",
            &["pure", "--id", "a/b"],
            plain,
            &["--id", "a/b", "without '/'"],
        ),
        (
            "aios-cell",
            &["pure", "--id", ".."],
            plain,
            &["--id", "..", "allowed"],
        ),
        (
            "aios-cell",
            &["pure"],
            &[("AIOS_CELL_ID", ".")],
            &["AIOS_CELL_ID", "'.'", "allowed"],
        ),
        (
            "aios-cell",
            &["pure"],
            &[("PORT", "http")],
            &["PORT", "http", "65535"],
        ),
        (
            "aios-cell",
            &["pure"],
            &[("HOSTNAME", "a b")],
            &["HOSTNAME", "a b", "host name"],
        ),
        (
            "aios-cell",
            &["pure", "--discovery", "ftp://x"],
            plain,
            &["--discovery", "ftp://x", "http://HOST:PORT"],
        ),
        (
            "aios-cell",
            &["pure", "--services", "a\u{7}b"],
            plain,
            &["--services", "U+0007"],
        ),
        (
            "aios-cell",
            &["pure", "--advertise", "0.0.0.0"],
            plain,
            &["--advertise", "0.0.0.0", "others reach"],
        ),
        (
            "aios-cell",
            &["pure", "--heartbeat-every", "0s"],
            plain,
            &["--heartbeat-every", "0s", "10ms"],
        ),
        (
            "aios-mesh",
            &["peers", "--format", "xml"],
            plain,
            &["--format", "xml", "table"],
        ),
        ("aios-mesh", &["deregister"], plain, &["missing", "<ID>"]),
        (
            "aios-mesh",
            &["deregister", ""],
            plain,
            &["<ID>", "''", "1 to 255 bytes"],
        ),
        ("aios-mesh", &["fly"], plain, &["fly"]),
        (
            "aios-mesh",
            &["wait"],
            plain,
            &["missing", "--for", "--min", "--gone"],
        ),
        (
            "aios-mesh",
            &["wait", "--for", "a", "--min", "2"],
            plain,
            &["--for", "--min", "not several"],
        ),
        (
            "aios-mesh",
            &["wait"],
            &[("AIOS_WAIT_MIN", "1"), ("AIOS_WAIT_GONE", "a")],
            &["AIOS_WAIT_MIN", "AIOS_WAIT_GONE", "not several"],
        ),
        (
            "aios-mesh",
            &["wait", "--for", "a,,b"],
            plain,
            &["--for", "''", "1 to 255 bytes"],
        ),
        (
            "aios-mesh",
            &["wait"],
            &[("AIOS_WAIT_MIN", "0")],
            &["AIOS_WAIT_MIN", "'0'", "from 1 on"],
        ),
        (
            "aios-mesh",
            &["wait", "--min", "1", "--timeout", "2h"],
            plain,
            &["--timeout", "2h", "5s or 2m, from 0s to 1440m"],
        ),
        (
            "aios-mesh",
            &["watch", "--since", "yesterday"],
            plain,
            &["--since", "yesterday"],
        ),
        (
            "aios-mesh",
            &["watch"],
            &[("AIOS_WATCH_FORMAT", "xml")],
            &["AIOS_WATCH_FORMAT", "xml", "ndjson"],
        ),
        ("aios-mesh", &["explain"], plain, &["missing", "<ID>"]),
    ] {
        let output = run(program, arguments, variables);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{program} {arguments:?} {variables:?}"
        );
        let line = one_line(&output);
        for word in named {
            assert!(line.contains(word), "{word:?} is not in: {line}");
        }
    }
}

#[test]
fn what_is_no_utf8_is_refused_by_name() {
    let odd = OsStr::from_bytes(b"a\xff");
    for (variable, named) in [("CELL_ID", "CELL_ID"), ("LOG_LEVEL", "LOG_LEVEL")] {
        let mut command = command("aios-discovery");
        let output = command.env(variable, odd).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2));
        let line = one_line(&output);
        assert!(line.contains(named) && line.contains("a\u{fffd}"), "{line}");
    }
    let mut command = command("aios-discovery");
    let output = command
        .arg("--branch")
        .arg(odd)
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    let line = one_line(&output);
    assert!(line.contains("'a\u{fffd}' is not UTF-8"), "{line}");
}

#[test]
fn a_host_that_cannot_be_found_is_one_line_that_says_what_to_do() {
    let output = run("aios-discovery", &["--host", "no.such.host.invalid"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let line = one_line(&output);
    let named = ["no.such.host.invalid", "choose an address", "--host"];
    assert!(named.iter().all(|word| line.contains(word)), "{line}");
}

#[test]
fn a_port_that_is_taken_is_one_line_that_says_what_to_do() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    for (program, arguments) in [
        (
            "aios-discovery",
            &["--host", "127.0.0.1", "--port", &port][..],
        ),
        (
            "aios-cell",
            &["pure", "--host", "127.0.0.1", "--port", &port],
        ),
        ("aios-mesh", &["up", "--port", &port]),
    ] {
        let output = run(program, arguments, &[]);
        assert_eq!(output.status.code(), Some(1));
        let line = one_line(&output);
        assert!(
            line.contains(&port) && line.contains("choose another port"),
            "{line}"
        );
    }
    let output = run(
        "aios-discovery",
        &["--host", "203.0.113.7", "--port", "0"],
        &[],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(one_line(&output).contains("choose an address of this host"));
}

#[test]
fn help_and_version_are_everywhere() {
    for arguments in [
        &["aios-discovery"][..],
        &["aios-cell"],
        &["aios-mesh"],
        &["aios-mesh", "up"],
        &["aios-mesh", "peers"],
        &["aios-mesh", "watch"],
        &["aios-mesh", "wait"],
        &["aios-mesh", "explain"],
        &["aios-mesh", "deregister"],
    ] {
        let help = run(arguments[0], &[&arguments[1..], &["--help"]].concat(), &[]);
        assert_eq!(help.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&help.stdout).contains("Usage:"));
    }
    for program in ["aios-discovery", "aios-cell", "aios-mesh"] {
        let version = run(program, &["--version"], &[]);
        assert_eq!(version.status.code(), Some(0));
        let version = String::from_utf8(version.stdout).expect("UTF-8");
        assert_eq!(
            version,
            format!("{program} {}\n", env!("CARGO_PKG_VERSION"))
        );
    }
}

#[test]
fn flags_win_over_variables_and_empty_variables_count_as_unset() {
    let mut command = command("aios-discovery");
    command.args(["--port", "0", "--branch", "flag"]);
    command
        .env("DISCOVERY_HOST", "127.0.0.1")
        .env("DISCOVERY_PORT", "1");
    command
        .env("AIOS_BRANCH", "variable")
        .env("CELL_ID", "")
        .env("AIOS_LEVEL", "2.5");
    let discovery = Child::listening(command);
    let health = discovery.get("/health").json();
    assert_eq!(health["branch"], "flag");
    assert_eq!(health["cell_id"], "discovery");
    assert_eq!(health["consciousness_level"], 2.5);
}

#[test]
fn the_first_line_of_the_log_says_where_it_listens_and_the_next_how_it_is_set() {
    let discovery = discovery(&["--stale-after", "90s"]);
    wait_for("two lines", SOON, || discovery.log().len() >= 2);
    let log = discovery.log();
    assert!(
        log[0].ends_with(&format!("listening on http://{}", discovery.address)),
        "{log:?}"
    );
    assert!(log[1].contains("stale-after=90s"), "{log:?}");
    let cell = cell(&discovery.url(), &["pure"]);
    wait_for("two lines", SOON, || cell.log().len() >= 2);
    let log = cell.log();
    assert!(
        log[0].ends_with(&format!("listening on http://{}", cell.address)),
        "{log:?}"
    );
    assert!(
        log[1].contains("id=pure") && log[1].contains(&discovery.url()),
        "{log:?}"
    );
}

#[test]
fn the_log_level_is_set_by_either_variable_in_either_language() {
    for (name, value, lines) in [
        ("LOG_LEVEL", "WARNING", false),
        ("LOG_LEVEL", "error", false),
        ("RUST_LOG", "off", false),
        ("RUST_LOG", "aios_mesh=info", true),
        ("LOG_LEVEL", "INFO", true),
    ] {
        // A cell's first call says that it runs, and its end that its log is complete.
        let discovery = Stub::start(|_| Some((200, "{}".into())));
        let mut command = command("aios-cell");
        command
            .args(["pure", "--host", "127.0.0.1", "--port", "0"])
            .args(["--discovery", &discovery.url()])
            .env(name, value);
        let mut cell = Child::spawn(command);
        wait_for("it registers", SOON, || {
            !discovery.arrived("POST /register").is_empty()
        });
        cell.signal(Signal::TERM);
        assert_eq!(cell.wait(SOON).0.code(), Some(0));
        assert_eq!(!cell.whole_log().is_empty(), lines, "{name}={value}");
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let mut discovery = discovery(&[]);
    let reading = discovery.reading();
    // Some 150 KB of log, twice what a pipe holds.
    let talk = |discovery: &Child| {
        let started = Instant::now();
        for n in 0..500 {
            register(discovery, &format!("{n:0>250}"));
        }
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    };
    let unread = reading.lock();
    talk(&discovery);
    drop(unread);
    // Read again, it goes on and says what is missing.
    let missing = "lines of the log that nobody read in time and are lost: ";
    wait_for("it says what is missing", SOON, || {
        register(&discovery, "again");
        discovery.log().concat().contains(missing)
    });
    let line = discovery.wait_for_line(missing, SOON);
    let (_, lost) = line.split_once(missing).expect("in there");
    let lost: u32 = lost.parse().expect("a number");
    assert!((100..500).contains(&lost), "{line}");

    let unread = reading.lock();
    talk(&discovery);
    discovery.signal(Signal::TERM);
    let (status, took) = discovery.wait(SOON);
    drop(unread);
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn check_asks_the_running_program_and_no_other() {
    let discovery = discovery(&[]);
    let (_, port) = discovery.address.rsplit_once(':').expect("a port");
    let check = |program: &str, arguments: &[&str]| {
        run(
            program,
            &[&["--check", "--host", "0.0.0.0"], arguments].concat(),
            &[],
        )
    };
    assert_eq!(
        check("aios-discovery", &["--port", port]).status.code(),
        Some(0)
    );

    let cell = cell(&discovery.url(), &["pure"]);
    let (_, cell_port) = cell.address.rsplit_once(':').expect("a port");
    assert_eq!(
        check("aios-cell", &["--port", cell_port]).status.code(),
        Some(0)
    );
    assert_eq!(
        check("aios-cell", &["pure", "--port", cell_port])
            .status
            .code(),
        Some(0)
    );

    let cell_port = cell_port.to_owned();
    drop(cell);
    let dead = check("aios-cell", &["--port", &cell_port]);
    assert_eq!(dead.status.code(), Some(1));
    assert!(one_line(&dead).contains("is not healthy"));
    assert_eq!(
        check("aios-discovery", &["--port", "0"]).status.code(),
        Some(2)
    );
    assert_eq!(check("aios-cell", &["--port", "0"]).status.code(), Some(2));

    let sick = Stub::start(|_| Some((500, "{}".into())));
    let (_, port) = sick.address.rsplit_once(':').expect("a port");
    assert_eq!(
        check("aios-discovery", &["--port", port]).status.code(),
        Some(1)
    );
}

#[test]
fn a_check_that_is_stopped_for_a_while_goes_on_where_it_was() {
    let go_on = Latch::new();
    let answer = go_on.clone();
    let stub = Stub::start(move |_| {
        answer.wait();
        Some((200, "{}".into()))
    });
    let (_, port) = stub.address.rsplit_once(':').expect("a port");
    let mut command = command("aios-discovery");
    command.args(["--check", "--host", "127.0.0.1", "--port", port]);
    let mut check = Child::spawn(command);
    wait_for("it asks", SOON, || !stub.arrived("GET /health").is_empty());
    wait_for("it waits", SOON, || check.state() == "S");
    check.signal(Signal::STOP);
    wait_for("it is stopped", SOON, || check.state() == "T");
    check.signal(Signal::CONT);
    wait_for("it waits again", SOON, || check.state() == "S");
    go_on.set();
    let (status, _) = check.wait(SOON);
    assert_eq!(status.code(), Some(0), "{:?}", check.whole_log());
}

#[test]
fn a_second_signal_ends_a_program_at_once() {
    let hanging = Stub::start(|_| None);
    let mut cell = cell(&hanging.url(), &["pure"]);
    wait_for("it registers", SOON, || {
        !hanging.arrived("POST /register").is_empty()
    });
    // One that follows on the heels of the first is the same one, told twice.
    cell.signal(Signal::TERM);
    cell.signal(Signal::TERM);
    cell.wait_for_line("stopping", SOON);
    holds_for("it says goodbye", Duration::from_millis(600), || {
        cell.runs()
    });
    cell.signal(Signal::TERM);
    let (status, took) = cell.wait(SOON);
    assert_eq!(status.code(), Some(130));
    assert!(took < Duration::from_secs(1), "{took:?}");
}
