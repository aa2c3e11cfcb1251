//! Role 2: a cell, alive for as long as its heartbeat arrives.
//!
//! `pulse` decides, purely, what is due; `heartbeat` is the thread that does it; `routes` is what
//! the cell answers. The listener is bound before the first registration, so that whoever finds
//! the cell in the list can reach it.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod heartbeat;
mod metrics;
pub mod pulse;
mod routes;
mod settings;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::DEREGISTER_TIMEOUT;
use crate::exposition;
use crate::http::{Limits, Listener, Room, Server};
use crate::program::{self, Failure};
use crate::shutdown::Latch;
use crate::tokens::Tokens;
use crate::wire::Instance;
use heartbeat::Heartbeat;
use metrics::Metrics;
use state::State;

pub use settings::{Arguments, Preset, Settings};

/// After how long without a request a cell closes a connection.
const IDLE: Duration = Duration::from_secs(30);
/// The most connections a cell holds: its callers are few.
const CONNECTIONS: usize = 512;
/// How long a stop takes at most: the goodbye, and answering who was talking to the cell.
const GOODBYE: Duration = DEREGISTER_TIMEOUT;
/// How much of it the latter may take.
const DRAIN: Duration = Duration::from_millis(200);

/// What the routes see.
struct Cell {
    state: Arc<State>,
    metrics: Metrics,
}

/// A cell that runs until [`Running::stop`].
pub struct Running {
    server: Server,
    heartbeat: Heartbeat,
}

/// Starts a cell that answers on `listener`, and registers, for as long as it takes, on a thread.
///
/// # Errors
/// One line when it cannot get what it needs from the system.
pub fn start(settings: Settings, listener: Listener) -> Result<Running, Failure> {
    let tokens = Tokens::of(settings.token_file.as_deref())?;
    log::info!("listening on http://{}", listener.address());
    log::info!("cell with {settings}");
    let instance = getrandom::u64()
        .map_err(|e| Failure::new(format!("cannot get random numbers: {e}")))
        .and_then(|n| {
            Instance::new(&format!("{n:016x}")).map_err(|e| Failure::new(e.to_string()))
        })?;
    let metrics = Metrics::new(settings.id.as_str())
        .map_err(|e| Failure::new(format!("cannot set up the metrics: {e}")))?;
    let taken = metrics.heartbeats.clone();
    let state = Arc::new(State::new(
        settings,
        tokens,
        program::host_name(),
        listener.address(),
        instance,
    ));
    let cell = Arc::new(Cell {
        state: Arc::clone(&state),
        metrics,
    });
    let cannot = |e: std::io::Error| Failure::new(format!("cannot start a thread: {e}"));
    let limits = Limits::new(Room::make().connections.min(CONNECTIONS), IDLE);
    let server = Server::start(listener, limits, cell).map_err(cannot)?;
    let heartbeat = Heartbeat::start(state, taken).map_err(cannot)?;
    Ok(Running { server, heartbeat })
}

impl Running {
    /// The address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Stops beating, leaves discovery's list, then stops answering: two seconds at most.
    pub fn stop(self) {
        let deadline = Instant::now() + GOODBYE;
        self.heartbeat.stop(deadline);
        let left = deadline.saturating_duration_since(Instant::now());
        self.server.stop(left.min(DRAIN));
    }
}

/// Runs a cell until the latch is set, or asks one that runs already (`--check`).
///
/// # Errors
/// One line when it cannot be started, or when the check fails.
pub fn run(arguments: Arguments, latch: &Latch) -> Result<(), Failure> {
    if arguments.check {
        return check(&arguments);
    }
    let settings = Settings::new(arguments)?;
    let listener = Listener::bind(&settings.host, settings.port)?;
    let cell = start(settings, listener)?;
    program::notify(&sd_notify::NotifyState::Ready);
    latch.wait();
    program::notify(&sd_notify::NotifyState::Stopping);
    log::info!("stopping");
    cell.stop();
    log::info!("stopped");
    Ok(())
}

fn check(arguments: &Arguments) -> Result<(), Failure> {
    let mut result = Ok(());
    for port in settings::ports_to_check(arguments)? {
        result = program::check(&arguments.host, port);
        if result.is_ok() {
            break;
        }
    }
    result
}
