//! Role 1: keeps the list of cells.
//!
//! `Discovery` guards the pure [`Registry`] and the clock its leases run on with one `Mutex`;
//! whatever they say is logged and counted after the lock is free again. `routes` turns requests
//! into calls of it, `renders` has one list made for many readers, `reaper` is the thread that takes
//! out the stale, `watchdog` the one that ticks the clock while our own door answers, `state` keeps a
//! file of it all for the next start.

mod asked;
pub mod clock;
mod figures;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod hold;
mod metrics;
mod packed;
mod page;
mod reads;
mod reaper;
mod renders;
mod routes;
mod settings;
pub mod state;
mod watch;
pub mod watchdog;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, MutexGuard};

use crate::http::{Connections, Limits, Listener, Room, Server};
use crate::program::{self, Failure};
use crate::registry::{
    self, Accepted, Change, Departure, Facts, Gone, List, Now, Reason, Refused, Registry, Renewal,
    Since,
};
use crate::shutdown::Latch;
use crate::tokens::Tokens;
use crate::wire::{self, CellId, Heartbeat, Instance, Registration, host_port};
use clock::LeaseClock;
use hold::{Crowd, Hold, Verdict};
use metrics::{BeatResult, Metrics};
use renders::{Frame, Moment, Renders, Source};
use routes::Routes;
use state::book::Changes;
use state::former::{Former, NewEpoch};
use state::journal::Entry;
use watch::Waiters;

pub use settings::Settings;

/// The most connections held where nothing else is said: each has a thread while it lasts.
const MOST_CONNECTIONS: usize = 8192;
/// How long requests in flight get at a stop.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the state file gets after that.
const STATE: Duration = Duration::from_secs(4);

/// What the routes and the threads share.
struct Discovery {
    settings: Settings,
    tokens: Option<Arc<Tokens>>,
    my_host: String,
    epoch: String,
    started: Instant,
    metrics: Metrics,
    /// The map and the clock are one: a reading of the clock is used before another is taken, so
    /// that time in the map never runs backwards. Held for one operation on the map, never while
    /// anything is read, written, rendered or logged.
    map: Mutex<Map>,
    renders: Renders,
    /// Those who wait for the membership to change.
    waiters: Arc<Waiters>,
    /// Those that are open, once there can be any.
    connections: OnceLock<Connections>,
    /// Whether there was nothing known to start with, and whoever is alive needs time to say so.
    settles: bool,
    /// What the reaper waits on; set at a stop.
    reaper: Latch,
    /// What the watchdog waits on; woken when the clock is to tick sooner, set at a stop.
    watchdog: Latch,
    /// What the thread that keeps the state file waits on; woken when something has changed.
    state: Latch,
}

struct Map {
    registry: Registry,
    clock: LeaseClock,
    hold: Hold,
    /// How many registrations and beats were taken.
    heard: u64,
    /// What is to be written to the state file, where there is one.
    changes: Option<Changes>,
}

impl Discovery {
    fn new(
        settings: Settings,
        tokens: Option<Arc<Tokens>>,
        former: Former,
    ) -> Result<Self, Failure> {
        let started = Instant::now();
        let mut registry = Registry::new(registry::Limits {
            stale_after: settings.stale_after,
            max_peers: settings.max_peers,
        });
        let now = Now {
            lease: registry::LeaseTime::default(),
            wall: SystemTime::now(),
        };
        registry.restore(former.peers, &former.left, former.revision, now);
        let metrics = Metrics::new(&settings.id, settings.state_file.is_some())
            .map_err(|e| Failure::new(format!("cannot set up the metrics: {e}")))?;
        let connections = settings.max_connections.unwrap_or(MOST_CONNECTIONS);
        let renders = Renders::new(connections, new_name()?, metrics.renderings.clone());
        Ok(Self {
            tokens,
            my_host: settings.my_host(),
            epoch: former.epoch,
            started,
            metrics,
            map: Mutex::new(Map {
                clock: LeaseClock::new(
                    registry.shortest_lease().unwrap_or(settings.stale_after),
                    Duration::ZERO,
                ),
                registry,
                hold: Hold::new(
                    settings.hold_min,
                    Settings::heartbeat_interval(settings.stale_after),
                ),
                heard: 0,
                changes: settings.state_file.as_ref().map(|_| Changes::default()),
            }),
            renders,
            waiters: Waiters::new(connections),
            connections: OnceLock::new(),
            settles: !former.is_all,
            reaper: Latch::new(),
            watchdog: Latch::new(),
            state: Latch::new(),
            settings,
        })
    }

    /// Runs one operation on the map, at the moment it has the lock.
    fn with_map<T>(&self, operation: impl FnOnce(&mut Map, Now) -> T) -> T {
        self.run(&mut self.map.lock(), operation)
    }

    /// The same for one of many operations of one thread in a row: it gives the lock to whoever
    /// waits for it, and does not take it again before they had it.
    fn with_map_in_turn<T>(&self, operation: impl FnOnce(&mut Map, Now) -> T) -> T {
        let mut map = self.map.lock();
        let result = self.run(&mut map, operation);
        MutexGuard::unlock_fair(map);
        result
    }

    fn run<T>(&self, map: &mut Map, operation: impl FnOnce(&mut Map, Now) -> T) -> T {
        let now = Now {
            lease: map.clock.read(self.started.elapsed()),
            wall: SystemTime::now(),
        };
        operation(map, now)
    }

    /// Ticks the lease clock. Returns how late that was, and when the next tick is due.
    fn tick(&self) -> (Duration, Instant) {
        let mut map = self.map.lock();
        let now = self.started.elapsed();
        let late = match map.registry.shortest_lease() {
            Some(shortest) => map.clock.tick(shortest, now),
            None if self.settles_at(map.clock.read(now)).is_some() => {
                map.clock.tick(self.settings.stale_after, now)
            }
            None => map.clock.idle(now),
        };
        (late, self.started + map.clock.next_tick())
    }

    /// Judges whether the peers that are stale may be taken out.
    fn judge(&self) -> (Verdict, Crowd, registry::LeaseTime) {
        self.with_map(|map, now| {
            let crowd = Crowd {
                peers: map.registry.len(),
                late: map.registry.late(),
                any_stale: map.registry.any_stale(now.lease),
            };
            (map.hold.judge(crowd, now.lease), crowd, now.lease)
        })
    }

    /// The mass departure that is held: the peers when it was noticed, and for how long it still is.
    fn held(&self) -> Option<(Crowd, Duration)> {
        self.with_map(|map, now| {
            let (crowd, until) = map.hold.held()?;
            Some((crowd, until.since(now.lease)))
        })
    }

    /// Takes a registration that came `by` this address.
    fn register(
        &self,
        registration: Registration,
        by: Option<IpAddr>,
    ) -> Result<Accepted, Refused> {
        let (accepted, is_short, wakes) = self.with_map(|map, now| {
            let accepted = map.registry.register(registration, by, now)?;
            map.heard += 1;
            let is_short = map.clock.heed(accepted.lease, now.lease);
            let wakes = accepted.to_keep && map.has_changed(&accepted.facts.cell_id, None);
            Ok((accepted, is_short, wakes))
        })?;
        if is_short {
            self.watchdog.wake();
        }
        if wakes {
            self.state.wake();
        }
        if !matches!(accepted.change, Change::Renewed) {
            self.waiters.tell();
        }
        self.metrics.registrations.inc();
        let facts = &accepted.facts;
        let id = &facts.cell_id;
        if let Change::Replaced(departure) = &accepted.change {
            self.metrics.departure(Reason::Replaced);
            log::info!(
                "Replaced peer: {id} at {}, silent for {:.1}s",
                host_port(&departure.facts.ip, departure.facts.port),
                departure.silent_for.as_secs_f64()
            );
        }
        log::info!(
            "Registered peer: {id} at {} (branch: {})",
            host_port(&facts.ip, facts.port),
            facts.branch
        );
        if let Some(by) = stranger(facts, by) {
            log::info!("{id} was registered from {by}");
        }
        Ok(accepted)
    }

    fn heartbeat(&self, beat: &Heartbeat) -> Result<Renewal, Refused> {
        let result = self.with_map(|map, now| {
            let renewal = map.registry.heartbeat(beat, now)?;
            map.heard += 1;
            Ok(renewal)
        });
        match &result {
            Ok(_) => self.metrics.heartbeat(BeatResult::Ok),
            Err(Refused::Unknown) => {
                self.metrics.heartbeat(BeatResult::Unknown);
                log::info!("Heartbeat from unknown peer: {}", beat.cell_id);
            }
            Err(refused) => {
                self.metrics.heartbeat(BeatResult::Fenced);
                log::warn!("Refused a heartbeat of {}: {refused}", beat.cell_id);
            }
        }
        result
    }

    /// Takes out a peer, as was asked for `by` this address.
    fn deregister(
        &self,
        id: &str,
        instance: Option<&Instance>,
        by: Option<IpAddr>,
    ) -> Result<(), Refused> {
        let result = self.with_map(|map, now| {
            let departure = map.registry.deregister(id, instance, by, now)?;
            let left = instance.map(|instance| (instance.clone(), now.wall));
            let wakes = map.has_changed(&departure.facts.cell_id, left);
            Ok((departure, wakes))
        });
        match result {
            Ok((departure, wakes)) => {
                if wakes {
                    self.state.wake();
                }
                self.waiters.tell();
                self.metrics.departure(Reason::Deregistered);
                let id = &departure.facts.cell_id;
                log::info!("Peer deregistered gracefully: {id}");
                if let Some(by) = stranger(&departure.facts, by) {
                    log::info!("{id} was deregistered from {by}");
                }
                Ok(())
            }
            Err(refused) => {
                let from = by.map(|by| format!(" from {by}")).unwrap_or_default();
                log::info!("Refused to deregister {id}{from}: {refused}");
                Err(refused)
            }
        }
    }

    /// Takes out at most `at_most` peers that are stale. Returns whether the state file cannot keep
    /// up with it, too.
    fn reap(&self, at_most: usize) -> (Vec<Departure>, bool) {
        let (departures, wakes, is_crowded) = self.with_map_in_turn(|map, now| {
            let departures = map.registry.reap(now, at_most);
            let mut wakes = false;
            for departure in &departures {
                wakes |= map.has_changed(&departure.facts.cell_id, None);
            }
            let is_crowded = map.changes.as_ref().is_some_and(Changes::is_crowded);
            (departures, wakes, is_crowded)
        });
        if wakes {
            self.state.wake();
        }
        if !departures.is_empty() {
            self.waiters.tell();
        }
        (departures, is_crowded)
    }

    /// Whether anything would be lost if the lease clock ran on while nobody is let in.
    fn is_depended_on(&self) -> bool {
        self.peers() > 0 || self.settling().is_some()
    }

    /// The longest lease that somebody has; the usual one where there is nobody.
    fn longest_lease(&self) -> Duration {
        let longest = self.map.lock().registry.longest_lease();
        longest.unwrap_or(self.settings.stale_after)
    }

    fn revision(&self) -> u64 {
        self.map.lock().registry.revision()
    }

    /// What came after `revision`, at most so many changes, and the revision now.
    fn since(&self, revision: u64, at_most: usize) -> (Since, u64) {
        let map = self.map.lock();
        (
            map.registry.since(revision, at_most),
            map.registry.revision(),
        )
    }

    fn peers(&self) -> usize {
        self.map.lock().registry.len()
    }

    fn moment_of(&self, map: &Map, now: Now) -> Moment {
        Moment {
            revision: map.registry.revision(),
            heard: map.heard,
            settling: self.settles_at(now.lease).is_some(),
        }
    }

    fn settling(&self) -> Option<Duration> {
        self.settles_at(self.with_map(|_, now| now.lease))
    }

    /// A discovery that starts without state knows nobody. Whoever is alive has had time to say so
    /// after one stale threshold; until then its list is no truth.
    fn settles_at(&self, now: registry::LeaseTime) -> Option<Duration> {
        let age = now.since(registry::LeaseTime::default());
        self.settings
            .stale_after
            .checked_sub(age)
            .filter(|left| self.settles && !left.is_zero())
    }
}

impl Source for Discovery {
    fn moment(&self) -> Moment {
        self.with_map(|map, now| self.moment_of(map, now))
    }

    fn list(&self) -> (List, Moment) {
        self.with_map(|map, now| (map.registry.list(), self.moment_of(map, now)))
    }

    fn gone(&self) -> (Vec<Arc<Gone>>, Moment) {
        self.with_map(|map, now| (map.registry.gone(), self.moment_of(map, now)))
    }

    fn frame(&self, count: usize, moment: Moment, now: SystemTime) -> Frame<'_> {
        Frame {
            peers: [],
            count,
            my_host: &self.my_host,
            revision: moment.revision,
            epoch: &self.epoch,
            now: wire::timestamp(now),
            settling: moment.settling,
        }
    }
}

impl Map {
    /// Notes for the state file that what is kept of a peer is new, or that it is gone: `left` is
    /// the run that said so itself, and when. Returns whether whoever writes it is to be woken.
    fn has_changed(&mut self, id: &CellId, left: Option<(Instance, SystemTime)>) -> bool {
        let Some(changes) = &mut self.changes else {
            return false;
        };
        changes.push(match self.registry.kept(id) {
            Some(kept) => Entry::Peer(kept),
            None => Entry::Gone {
                id: id.clone(),
                left,
            },
        })
    }
}

/// A discovery that runs until [`Running::stop`].
pub struct Running {
    server: Server,
    reaper: JoinHandle<()>,
    stop_reaper: Latch,
    watchdog: JoinHandle<()>,
    stop_watchdog: Latch,
    state: Option<state::Running>,
}

/// Starts discovery on the address its settings name.
///
/// # Errors
/// One line when it cannot listen or cannot get what it needs from the system.
pub fn start(settings: Settings) -> Result<Running, Failure> {
    let listener = Listener::bind(&settings.host, settings.port)?;
    start_on(listener, settings)
}

fn start_on(listener: Listener, mut settings: Settings) -> Result<Running, Failure> {
    settings.check()?;
    let tokens = Tokens::of(settings.token_file.as_deref())?;
    let max_connections = max_connections(settings.max_connections)?;
    let limits = Limits::new(max_connections, settings.idle_timeout);
    let port = listener.address().port();
    log::info!("listening on http://{}", listener.address());
    if listener.is_inherited() {
        log::info!("the socket is the service manager's; --host and --port are not used");
        if port != settings.port {
            log::warn!(
                "--check asks at port {}, the socket has {port}; set DISCOVERY_PORT={port}, too",
                settings.port
            );
        }
    }
    log::info!("discovery with {settings} max-connections={max_connections}");
    if tokens.is_none() && !listener.address().ip().to_canonical().is_loopback() {
        log::warn!(
            "whoever reaches {} can change the list of peers; give --token-file, or listen on --host 127.0.0.1",
            listener.address()
        );
    }

    settings.max_connections = Some(max_connections);

    let new = NewEpoch {
        name: new_name()?,
        // So high that no epoch before got there, if it changed less than a thousand times a second.
        revision: wire::millis(
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        ),
    };
    // Only now: nobody who is in the way of another discovery touches its file.
    let (former, opened) = match &settings.state_file {
        None => (Former::none(new), None),
        Some(path) => {
            let (former, opened) = state::open(path, new)?;
            (former, Some(opened))
        }
    };
    let discovery = Arc::new(Discovery::new(settings, tokens, former)?);
    let stop_reaper = discovery.reaper.clone();
    let stop_watchdog = discovery.watchdog.clone();
    let cannot = |e: std::io::Error| Failure::new(format!("cannot start a thread: {e}"));
    let state = opened
        .map(|opened| state::start(Arc::clone(&discovery), opened))
        .transpose()
        .map_err(cannot)?;
    let reaper = reaper::start(Arc::clone(&discovery)).map_err(cannot)?;
    let handler = Arc::new(Routes(Arc::clone(&discovery)));
    let server = Server::start(listener, limits, handler).map_err(cannot)?;
    let _ = discovery.connections.set(server.connections());
    let watchdog = watchdog::start(discovery, server.door()).map_err(cannot)?;
    Ok(Running {
        server,
        reaper,
        stop_reaper,
        watchdog,
        stop_watchdog,
        state,
    })
}

/// The address a request about a peer came from, unless it is the one the peer says is its own. The
/// line before says that one already, and stays as others have read it for as long as there is a log.
fn stranger(facts: &Facts, by: Option<IpAddr>) -> Option<IpAddr> {
    by.filter(|by| facts.ip.parse() != Ok(*by))
}

/// A name that nothing else has.
fn new_name() -> Result<String, Failure> {
    let number =
        getrandom::u64().map_err(|e| Failure::new(format!("cannot get random numbers: {e}")))?;
    Ok(format!("{number:016x}"))
}

/// How many connections are held: as many as asked for, if there is room.
fn max_connections(asked: Option<usize>) -> Result<usize, Failure> {
    let Room {
        descriptors,
        connections,
    } = Room::make();
    match asked {
        Some(asked) if asked > connections => Err(Failure::usage(format!(
            "--max-connections {asked}: the limit of {descriptors} file descriptors leaves room for {connections}"
        ))),
        Some(asked) => Ok(asked),
        None => Ok(connections.min(MOST_CONNECTIONS)),
    }
}

impl Running {
    /// The address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Stops: no new connections, requests in flight are answered, but nobody is waited for
    /// longer than `at_most`.
    pub fn stop(self, at_most: Duration) {
        // From here on the door may stay shut.
        self.stop_watchdog.set();
        self.server.stop(at_most);
        self.stop_reaper.set();
        // They end the process before they end any other way.
        let _ = self.watchdog.join();
        let _ = self.reaper.join();
        // Last, when nothing changes any more.
        if let Some(state) = self.state {
            state.stop(STATE);
        }
    }
}

/// Runs discovery until the latch is set, or asks one that runs already (`--check`).
///
/// # Errors
/// One line when it cannot be started, or when the check fails.
pub fn run(settings: Settings, latch: &Latch) -> Result<(), Failure> {
    if settings.check {
        return program::check(&settings.host, settings.port);
    }
    let discovery = match Listener::inherited().map_err(Failure::new)? {
        Some(listener) => start_on(listener, settings),
        None => start(settings),
    }?;
    program::notify(&sd_notify::NotifyState::Ready);
    latch.wait();
    program::notify(&sd_notify::NotifyState::Stopping);
    log::info!("stopping");
    discovery.stop(DRAIN);
    log::info!("stopped");
    Ok(())
}
