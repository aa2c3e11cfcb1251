//! The operator's tool: the list, and where it follows the mesh.

mod explain;
mod peers;
mod wait;
mod watch;

use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Child, SOON, Stub, Watch, cell, command, discovery, holds_for, ids, metric, one_line, pause,
    random, register, report, run, skip, wait_for,
};

const SECOND: Duration = Duration::from_secs(1);

/// A discovery in the place of one that is gone.
fn discovery_at(address: &str, flags: &[&str]) -> Child {
    let (_, port) = address.rsplit_once(':').expect("a port");
    let own = ["--host", "127.0.0.1", "--port", port];
    Child::start("aios-discovery", &[&own, flags].concat())
}

/// An address nobody listens at, for a discovery that comes later.
fn free_address() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

/// Runs a command of the tool to its end.
fn mesh(url: &str, arguments: &[&str]) -> Output {
    run("aios-mesh", arguments, &[("AIOS_DISCOVERY_URL", url)])
}

/// Registers a peer with further members.
fn register_with(discovery: &Child, id: &str, port: u16, more: &str) {
    let body = format!(r#"{{"cell_id":"{id}","ip":"127.0.0.1","port":{port}{more}}}"#);
    let answer = discovery.post("/register", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
}
