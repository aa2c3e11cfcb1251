//! HTTP for all roles: requests in, replies out, and nothing of sockets beyond this module.
//!
//! The way of a request:
//!
//! - [`Listener`] is the bound socket, on which `accept` lets connections in; [`Server`] keeps the
//!   table of them within its bounds and drains them at a stop. Each connection has a thread while
//!   it lasts, taken from those that wait idle.
//! - `connection` reads one request after another, each within total deadlines.
//! - `head`, `body` and `arrived` are the door: pure, they decide, byte by byte, whether what has
//!   arrived is a request as we take it. What they refuse is answered and the connection closed.
//! - `tiny` hands the admitted request to `tiny_http` and has it render the answer. It is the
//!   only file that names that crate, which never sees a socket of the outside world: bare, it
//!   trusts lengths, waits for ever and keeps what it reads.
//! - `negotiate` is what a client says of the answer it would like, pure as well.
//! - [`Handler`] is the role: it gets a [`Request`] and returns a [`Reply`]: one that is whole, or made
//!   of bytes that others send, too, or still to be waited for ([`Later`]), or without an end
//!   ([`Stream`]). It is the connection that waits, and sees when its client has gone.
//!
//! Beside it [`check()`], which asks a program of ours how it is, and [`Door`], by which a program
//! asks itself.

mod accept;
mod arrived;
mod body;
mod check;
mod connection;
mod door;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head;
mod listener;
mod negotiate;
mod reply;
mod request;
mod seat;
mod server;
mod tiny;
mod workers;

use std::time::Duration;

pub use check::check;
pub use door::{Connections, Door};
pub use listener::{BindError, Listener, Room};
pub use reply::{JSON, Later, Pieces, Reply, Stream};
pub use request::{Method, Request};
pub use server::Server;

/// The longest request head taken, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;
/// The longest request target taken, in bytes.
pub const MAX_TARGET: usize = 8 * 1024;
/// The most header fields taken.
pub const MAX_HEADERS: usize = 100;
/// The longest body taken, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// What a connection and a server may take of time and number.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How many connections are held at once.
    pub max_connections: usize,
    /// After how long without a request a connection is closed.
    pub idle: Duration,
    /// How long a head may take from its first byte to its last.
    pub head: Duration,
    /// How long a body may take.
    pub body: Duration,
    /// How long a reply may take, and a second more for each of its MiB.
    pub reply: Duration,
}

impl Limits {
    /// The usual limits, with the connections and the idle time given.
    #[must_use]
    pub fn new(max_connections: usize, idle: Duration) -> Self {
        Self {
            max_connections,
            idle,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            reply: Duration::from_secs(30),
        }
    }
}

/// A role: what answers requests. Called from many threads at once.
pub trait Handler: Send + Sync {
    /// Answers one request.
    fn handle(&self, request: &Request) -> Reply;

    /// Told that the server stops: what is still waited for is to be answered now, and streams are to
    /// end.
    fn stopping(&self) {}

    /// Told of each request that was answered without [`Handler::handle`]: refused before it was
    /// one, or given 500 because handling it panicked.
    fn refused(&self, status: u16);
}
