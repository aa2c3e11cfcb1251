//! How cells come and go: started, stopped, killed, forgotten, and all of it with discovery up,
//! down, hanging or restarted.

mod calls;
mod clock;
mod holds;
mod leases;
mod restarts;
mod stops;
mod watchdog;

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aios_mesh::cell::{self, Preset};
use aios_mesh::client::DiscoveryUrl;
use aios_mesh::http::Listener;
use aios_mesh::shutdown::Latch;
use aios_mesh::wire::CellId;
use rustix::process::Signal;

use crate::support::{
    Child, SOON, Stub, cell, discovery, holds_for, ids, last_seen_at, median, peers, report,
    request, wait_for,
};

const SECOND: Duration = Duration::from_secs(1);

/// A discovery in the place of one that is gone.
fn discovery_at(address: &str) -> Child {
    let (_, port) = address.rsplit_once(':').expect("a port");
    Child::start("aios-discovery", &["--host", "127.0.0.1", "--port", port])
}

/// An address nobody listens at, for a discovery that comes later.
fn free_address() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

#[test]
fn discovery_answers_at_once_and_a_cell_is_listed_at_once() {
    let mut answers = Vec::new();
    let mut joins = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        let discovery = discovery(&[]);
        assert_eq!(discovery.get("/health").status, 200);
        answers.push(started.elapsed());

        let started = Instant::now();
        let _cell = cell(&discovery.url(), &["pure"]);
        wait_for("the cell is listed", SOON, || ids(&discovery) == ["pure"]);
        joins.push(started.elapsed());
    }
    let (answers, joins) = (median(answers), median(joins));
    report(&format!(
        "from process start: discovery answers after {answers:?}, a cell is listed after {joins:?} (medians of 20)"
    ));
    assert!(answers < Duration::from_millis(100), "{answers:?}");
    assert!(joins < Duration::from_millis(200), "{joins:?}");
}

#[test]
fn twins_do_not_fight_over_their_name() {
    let discovery = discovery(&[]);
    let flags = ["--id", "twin", "--heartbeat-every", "50ms"];
    let mut old = cell(&discovery.url(), &flags);
    old.wait_for_line("Registered twin", SOON);
    let new = cell(&discovery.url(), &flags);
    old.wait_for_line("another instance of this cell is registered", SOON);
    let port = |discovery: &Child| peers(discovery)[0]["port"].clone();
    let (_, new_port) = new.address.rsplit_once(':').expect("a port");
    let new_port: u16 = new_port.parse().expect("a port");
    holds_for("the newer one is listed", SECOND, || {
        port(&discovery) == new_port
    });
    // The old one's goodbye does not take the new one with it.
    old.signal(Signal::TERM);
    assert_eq!(old.wait(SOON).0.code(), Some(0));
    assert_eq!(port(&discovery), new_port);
    let said = old
        .log()
        .iter()
        .filter(|line| line.contains("another instance"))
        .count();
    assert!(said <= 2, "{:#?}", old.log());
}

#[test]
fn a_cell_advertises_the_address_that_reaches_discovery_unless_told() {
    let discovery = discovery(&[]);
    let _found = cell(&discovery.url(), &["--id", "found"]);
    wait_for("it is listed", SOON, || ids(&discovery) == ["found"]);
    assert_eq!(peers(&discovery)[0]["ip"], "127.0.0.1");
    let mut command = crate::support::command("aios-cell");
    command
        .env("HOSTNAME", "container-7")
        .args(["pure", "--port", "0"]);
    command.args(["--discovery", &discovery.url()]);
    let _told = Child::listening(command);
    wait_for("it is listed", SOON, || ids(&discovery).len() == 2);
    assert_eq!(peers(&discovery)[1]["ip"], "container-7");
}

#[test]
fn discovery_and_cells_work_over_ipv6() {
    let discovery = Child::start("aios-discovery", &["--host", "::1", "--port", "0"]);
    assert!(
        discovery.address.starts_with("[::1]:"),
        "{}",
        discovery.address
    );
    let flags = [
        "pure",
        "--host",
        "[::1]",
        "--port",
        "0",
        "--discovery",
        &discovery.url(),
    ];
    let mut cell = Child::start("aios-cell", &flags);
    wait_for("it is listed", SOON, || ids(&discovery) == ["pure"]);
    assert_eq!(peers(&discovery)[0]["ip"], "::1");
    assert_eq!(cell.get("/health").status, 200);
    cell.signal(Signal::TERM);
    assert_eq!(cell.wait(SOON).0.code(), Some(0));
    assert!(ids(&discovery).is_empty());
}

#[test]
fn whoever_listens_on_all_ipv6_addresses_is_reached_over_ipv4_too() {
    let discovery = Child::start("aios-discovery", &["--host", "::", "--port", "0"]);
    let (_, port) = discovery.address.rsplit_once(':').expect("a port");
    for host in ["127.0.0.1", "[::1]"] {
        let answer = request(&format!("{host}:{port}"), "GET", "/health", &[], b"");
        assert_eq!(answer.status, 200, "{host}");
    }
}
