//! Limits of this process, and of discovery.

use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::command;

/// Lets this process hold so many connections.
pub fn may_hold(connections: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections + 500;
    if limit.current.is_none_or(|current| current >= wanted) {
        return true;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).is_ok()
}

/// Discovery under a limit of descriptors.
pub fn discovery_within(descriptors: usize, flags: &[&str]) -> Command {
    let program = command("aios-discovery");
    let mut shell = Command::new("/bin/sh");
    shell
        .env_clear()
        .stdin(Stdio::null())
        .arg("-c")
        .arg(format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""))
        .arg(program.get_program())
        .args(["--host", "127.0.0.1", "--port", "0"])
        .args(flags);
    shell
}
