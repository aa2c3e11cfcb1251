//! Heartbeats and discovery for a mesh of cells.
//!
//! A **discovery** keeps the list of **cells**. Cells register, beat every few seconds and
//! deregister when they stop; a reaper takes out those that have been silent for too long; a
//! heartbeat answered with 404 makes a cell register again. One library, three roles, each a thin
//! binary under `bin/`:
//!
//! - [`discovery`] guards the list with a mutex, answers over HTTP and reaps on a thread;
//! - [`cell`] beats on a thread and answers what cells answer;
//! - [`mesh`] is the operator's tool, `up` the whole mesh in one process.
//!
//! # The map
//!
//! Pure, with time passed in and what changed returned:
//!
//! - [`wire`]: what goes over the wire, and what is refused of it;
//! - [`registry`]: the peer map itself;
//! - [`cell::pulse`]: what a cell does next, and when;
//! - [`discovery::clock`]: the clock leases run on;
//! - [`discovery::hold`]: whether a pass of the reaper is to be believed;
//! - [`discovery::watchdog::doubt`]: whether our own door answers, and what to do if not;
//! - [`discovery::state::journal`], `roll`, `book`, `former`: the form in which peers are to outlive a
//!   restart, what is written in it, and what is made of that;
//! - `http::head`, `http::body`, `http::arrived`: whether bytes are a request as we take it;
//! - `http::negotiate`: in which form a client would like its answer;
//! - `discovery::asked`: which peers a query asks for, in which form, and when;
//! - `discovery::renders::rows`, `forms`, `gzip`: the list as bytes;
//! - `mesh::table`: the list as an operator reads it;
//! - `mesh::stream`: events out of the bytes they come in;
//! - `mesh::roster`, `happened`: what is new, by an event or by another list, and how that is told;
//! - `mesh::wanted`: what is waited for; `mesh::sentences`: what is known of a peer.
//!
//! Beside each that reads what comes from outside stands a `fuzzing`, built only for tests: what
//! holds for every input. `fuzzing` at the top has them all.
//!
//! Edges, each the only one of its kind:
//!
//! - [`http`]: sockets and threads of the servers; the only place that names `tiny_http`;
//! - [`client`]: the calls to discovery; the only folder that names `ureq`;
//! - [`shutdown`]: the latch that everything waits on;
//! - `beats`: what the map writes at a beat, and whoever holds a list reads without a lock;
//! - [`tokens`]: the file of tokens, and whether a request carries one;
//! - `courtesy`: letting others go first in the middle of what takes long;
//! - [`vital`]: threads whose end is the process's;
//! - [`program`], [`args`], [`logging`], `exposition`: what every binary does around its role.
//!
//! # The way of a request
//!
//! Socket → `http` (bounded, timed, parsed) → the role's routes (method, path and body in, a
//! [`http::Reply`] out) → lock, [`registry::Registry`], unlock → log and count, wake those who wait for
//! a change → reply → socket. A reply may have to be waited for, or be without an end; then it is the
//! connection's thread that waits (`discovery::watch`).
//! The reaper is one more caller of the registry, and so is the thread that keeps the state file,
//! which is handed each change as it is made. Nothing else holds it.

pub mod args;
mod beats;
pub mod cell;
pub mod client;
mod courtesy;
pub mod discovery;
mod exposition;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
pub mod logging;
pub mod mesh;
pub mod program;
pub mod registry;
pub mod shutdown;
pub mod tokens;
pub mod vital;
pub mod wire;
