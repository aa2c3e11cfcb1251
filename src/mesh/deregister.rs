//! `aios-mesh deregister`: takes a peer out of the list.

use super::Target;
use crate::args;
use crate::client::{CallError, DEREGISTER_TIMEOUT};
use crate::program::{self, Failure};
use crate::wire::{self, one_line};

/// What `deregister` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,

    /// The peer's id. A cell that still runs registers again at its next heartbeat.
    #[arg(value_parser = args::name)]
    id: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    program::start_log()?;
    let target = &arguments.target;
    let id = &arguments.id;
    match target.client()?.deregister(id, None, DEREGISTER_TIMEOUT) {
        Ok(()) => program::print(&format!("deregistered {}\n", one_line(id))),
        // On a path it does not know, whatever listens there answers 404 as well.
        Err(CallError::Status {
            status: 404,
            detail,
        }) if detail == wire::PEER_NOT_FOUND => Err(Failure::new(format!(
            "no peer has the id {id}; 'aios-mesh peers' lists those there are"
        ))),
        Err(e) => Err(target.failure(&e)),
    }
}
