//! The thread that registers the cell and beats, and the goodbye at the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use super::pulse::{BeatAnswer, Notice, Pulse, Step};
use super::state::State;
use crate::args;
use crate::client::{CallError, Client};
use crate::shutdown::Latch;
use crate::vital;
use crate::wire::{self, Registration};

/// How long a call in flight gets to end once it was aborted. One that is still connecting then
/// is left to itself.
const ABORT: Duration = Duration::from_millis(500);

/// The running heartbeat of a cell.
pub(super) struct Heartbeat {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    ended: Latch,
}

struct Shared {
    state: Arc<State>,
    client: Client,
    taken: IntCounter,
    stop: Latch,
    /// Whether discovery may know the cell: it answered a registration, or one was sent and no
    /// answer came.
    maybe_known: AtomicBool,
}

impl Heartbeat {
    /// Starts the thread; `taken` counts the heartbeats that discovery has taken.
    pub(super) fn start(state: Arc<State>, taken: IntCounter) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            client: Client::new(state.settings.discovery.clone(), state.tokens.clone()),
            state,
            taken,
            stop: Latch::new(),
            maybe_known: AtomicBool::new(false),
        });
        let ended = Latch::new();
        let thread = {
            let shared = Arc::clone(&shared);
            let ended = ended.clone();
            vital::spawn("heartbeat", move || {
                shared.run();
                ended.set();
            })?
        };
        Ok(Self {
            shared,
            thread,
            ended,
        })
    }

    /// Stops beating, then takes the cell out of discovery's list: in this order, or the last
    /// beat might bring it back. Does not go on beyond `deadline`.
    pub(super) fn stop(self, deadline: Instant) {
        self.shared.stop.set();
        self.shared.client.abort();
        if self.ended.wait_for(ABORT) {
            // It ends the process before it ends any other way.
            let _ = self.thread.join();
        } else {
            // Connecting and resolving names cannot be aborted. Should that call still get
            // through, discovery refuses it: it carries an instance that has said goodbye.
            log::debug!("the call in flight did not end in time");
        }
        self.shared.deregister(deadline);
    }
}

impl Shared {
    fn run(&self) {
        let started = Instant::now();
        let fixed = self.state.settings.heartbeat_every;
        let mut pulse = Pulse::new(wire::HEARTBEAT_EVERY, fixed, Duration::ZERO);
        while !self.stop.is_set() {
            match pulse.next(started.elapsed()) {
                Step::WaitUntil(due) => {
                    if self.stop.wait_until(started + due) {
                        return;
                    }
                }
                Step::Register => {
                    let result = self.register();
                    if self.stop.is_set() {
                        return;
                    }
                    let now = started.elapsed();
                    match result {
                        Ok(interval) => {
                            for notice in pulse.registered(now, interval, chance()) {
                                self.say(notice, "");
                            }
                        }
                        Err(why) => {
                            if let Some(notice) = pulse.not_registered(now, chance()) {
                                self.say(notice, &format!("cannot register: {why}"));
                            }
                        }
                    }
                }
                Step::Beat => {
                    let (answer, why) = self.beat();
                    if self.stop.is_set() {
                        return;
                    }
                    if let Some(notice) = pulse.beat(started.elapsed(), answer) {
                        self.say(notice, &format!("heartbeat failed: {why}"));
                    }
                }
            }
        }
    }

    /// Registers; returns the interval discovery asks for, or why it did not work.
    fn register(&self) -> Result<Option<Duration>, String> {
        let settings = &self.state.settings;
        let ip = match &settings.advertise {
            Some(advertise) => advertise.clone(),
            None => settings
                .discovery
                .local_address(self.state.listens.ip())
                .map_err(|e| format!("no way to discovery: {e}"))?
                .to_string(),
        };
        let registration = Registration {
            cell_id: settings.id.clone(),
            ip,
            port: self.state.listens.port(),
            consciousness_level: self.state.mind().level,
            services: settings.services.clone(),
            branch: settings.branch.clone(),
            kind: settings.kind.clone(),
            hostname: self.state.hostname.clone(),
            instance: Some(self.state.instance.clone()),
            stale_after: own_lease(settings.heartbeat_every),
        };
        let known_before = self.maybe_known.swap(true, Ordering::SeqCst);
        let result = self.client.register(&registration);
        if result.as_ref().is_err_and(CallError::changed_nothing) {
            self.maybe_known.store(known_before, Ordering::SeqCst);
        }
        self.state
            .registered
            .store(result.is_ok(), Ordering::Relaxed);
        match result {
            Ok(reply) => Ok(reply.heartbeat_interval_ms.map(Duration::from_millis)),
            Err(e) => Err(told(&e)),
        }
    }

    fn beat(&self) -> (BeatAnswer, String) {
        let beat = wire::Heartbeat {
            cell_id: self.state.settings.id.clone(),
            consciousness_level: self.state.mind().level,
            instance: Some(self.state.instance.clone()),
        };
        match self.client.heartbeat(&beat) {
            Ok(()) => {
                self.taken.inc();
                self.state.registered.store(true, Ordering::Relaxed);
                (BeatAnswer::Ok, String::new())
            }
            Err(CallError::Status { status: 404, .. }) => {
                self.state.registered.store(false, Ordering::Relaxed);
                (BeatAnswer::Unknown, String::new())
            }
            Err(e) => {
                // 409: discovery has another run of this cell.
                if matches!(e, CallError::Status { status: 409, .. }) {
                    self.state.registered.store(false, Ordering::Relaxed);
                }
                (BeatAnswer::Failed, told(&e))
            }
        }
    }

    fn deregister(&self, deadline: Instant) {
        if !self.maybe_known.load(Ordering::SeqCst) {
            return;
        }
        let settings = &self.state.settings;
        let left = deadline.saturating_duration_since(Instant::now());
        // The client of the heartbeat is aborted for good.
        let client = Client::new(settings.discovery.clone(), self.state.tokens.clone());
        match client.deregister(settings.id.as_str(), Some(&self.state.instance), left) {
            Ok(()) => log::info!("Deregistered from {}", settings.discovery),
            Err(CallError::Status { status: 404, .. }) => {
                log::info!("{} did not know this cell", settings.discovery);
            }
            Err(e) => log::warn!(
                "cannot deregister from {}: {}",
                settings.discovery,
                told(&e)
            ),
        }
    }

    fn say(&self, notice: Notice, why: &str) {
        let settings = &self.state.settings;
        let discovery = &settings.discovery;
        match notice {
            Notice::Registered => log::info!("Registered {} with {discovery}", settings.id),
            Notice::Forgotten => {
                log::warn!(
                    "{discovery} does not know {}; registering again",
                    settings.id
                );
            }
            Notice::Failing => log::warn!("{discovery}: {why}; trying on"),
            Notice::StillFailing(since) => {
                let since = args::show_duration(Duration::from_secs(since.as_secs()));
                log::warn!("{discovery}: {why}; failing for {since}, trying on");
            }
            Notice::Recovered(after) => {
                log::info!("{discovery}: works again after {:.1}s", after.as_secs_f64());
            }
        }
    }
}

/// What went wrong, and what to look at where that is known.
fn told(error: &CallError) -> String {
    match error {
        CallError::Status { status: 401, .. } => format!("{error}; look at --token-file"),
        other => other.to_string(),
    }
}

/// A random number from 0 to 1.
fn chance() -> f64 {
    // Without randomness cells would move in step, which is no reason to stop.
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

/// The lease a cell asks for that beats less often than usual: without it, it would be reaped
/// between two beats.
fn own_lease(every: Option<Duration>) -> Option<Duration> {
    let every = every.filter(|every| *every > wire::HEARTBEAT_EVERY)?;
    Some(every * wire::BEATS_PER_LEASE)
}
