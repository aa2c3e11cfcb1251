//! `aios-mesh explain`: what is known of a peer, in sentences.

use std::time::SystemTime;

use super::{Target, sentences};
use crate::args;
use crate::client::{CallError, Client};
use crate::program::{self, Failure};
use crate::wire::{self, Departure, one_line};

/// What `explain` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,

    /// The peer's id, whether it is there or not.
    #[arg(value_parser = args::name)]
    id: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    program::start_log()?;
    let client = arguments.target.client()?;
    let text = match client.portrait(&arguments.id) {
        Ok((peer, portrait)) => sentences::present(&peer, &portrait),
        Err(CallError::Status {
            status: 404,
            detail,
        }) if detail == wire::PEER_NOT_FOUND => absent(arguments, &client)?,
        // An older discovery does not know the path.
        Err(CallError::Status { status: 404, .. }) => listed(arguments, &client)?,
        Err(e) => return Err(arguments.target.failure(&e)),
    };
    program::print(&text)
}

/// Of a peer that is not there.
fn absent(arguments: &Arguments, client: &Client) -> Result<String, Failure> {
    let id = &arguments.id;
    let gone = client.gone().map_err(|e| arguments.target.failure(&e))?;
    let its = gone.into_iter().filter(|one| one.cell_id == *id);
    let departures: Vec<Departure> = its.collect();
    if departures.is_empty() {
        return Err(Failure::new(format!(
            "nothing is known of {}: it is not here, and since discovery started, or among the last 1000 departures, it has not left; 'aios-mesh peers' lists those there are",
            one_line(id)
        )));
    }
    Ok(sentences::absent(id, &departures, SystemTime::now()))
}

/// What an older discovery knows.
fn listed(arguments: &Arguments, client: &Client) -> Result<String, Failure> {
    let id = &arguments.id;
    let (list, _) = client.peers().map_err(|e| arguments.target.failure(&e))?;
    match list.peers.iter().find(|peer| peer.cell_id == *id) {
        Some(peer) => Ok(sentences::listed(peer, &list, SystemTime::now())),
        None => Err(Failure::new(format!(
            "{} is not here; whether it was, only a newer discovery knows",
            one_line(id)
        ))),
    }
}
