//! Role 3: the operator's tool, one command a file.

mod deregister;
mod explain;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod happened;
mod peers;
mod roster;
mod screen;
mod sentences;
mod stream;
mod table;
mod up;
mod wait;
mod wanted;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::args;
use crate::client::{CallError, Client, DiscoveryUrl};
use crate::program::{self, Failure};
use crate::tokens::Tokens;

/// Runs a mesh for development, and looks at and changes one that runs.
#[derive(Debug, Parser)]
#[command(
    name = "aios-mesh",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run discovery, pure and alpha in this process, on 127.0.0.1.
    Up(up::Arguments),
    /// List the peers once.
    Peers(peers::Arguments),
    /// Tell who joins, changes and leaves, as it happens.
    Watch(watch::Arguments),
    /// Wait until peers are there, or one is gone.
    Wait(wait::Arguments),
    /// Tell what is known of a peer, there or gone.
    Explain(explain::Arguments),
    /// Take a peer out of the list.
    Deregister(deregister::Arguments),
}

/// Where discovery is, for commands that call it.
#[derive(Clone, Debug, clap::Args)]
struct Target {
    /// Where discovery is.
    #[arg(long, env = "AIOS_DISCOVERY_URL", default_value = "http://127.0.0.1:8001", value_parser = DiscoveryUrl::parse)]
    discovery: DiscoveryUrl,

    /// File of tokens, one a line, whose first is sent to discovery.
    #[arg(long, env = "AIOS_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl Target {
    fn client(&self) -> Result<Client, Failure> {
        let tokens = Tokens::of(self.token_file.as_deref())?;
        Ok(Client::new(self.discovery.clone(), tokens))
    }

    /// A call that did not succeed, as the operator reads it.
    fn failure(&self, error: &CallError) -> Failure {
        let discovery = &self.discovery;
        match error {
            CallError::NoAnswer {
                never_sent: true,
                cause,
            } => Failure::new(format!(
                "cannot reach discovery at {discovery}: {cause}; is it running? Set --discovery to where it is"
            )),
            CallError::Status { status: 404, .. } => Failure::new(format!(
                "{discovery} {error}; that is no discovery, set --discovery to where one is"
            )),
            CallError::Status { status: 401, .. } => Failure::new(format!(
                "{discovery} {error}; {}",
                match self.token_file {
                    Some(_) => "the first line of --token-file must be a token that is taken there",
                    None => "give a file with a token that is taken there by --token-file",
                }
            )),
            other => Failure::new(format!("discovery at {discovery}: {other}")),
        }
    }
}

/// What it takes, for whatever is made out of that.
#[must_use]
pub fn arguments() -> clap::Command {
    Arguments::command()
}

/// Runs the command the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    program::finish(
        args::parse::<Arguments>().and_then(|arguments| match arguments.command {
            Command::Up(arguments) => up::run(&arguments),
            Command::Peers(arguments) => peers::run(&arguments),
            Command::Watch(arguments) => watch::run(&arguments),
            Command::Wait(arguments) => wait::run(&arguments),
            Command::Explain(arguments) => explain::run(&arguments),
            Command::Deregister(arguments) => deregister::run(&arguments),
        }),
    )
}
