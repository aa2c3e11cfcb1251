//! Discovery: the real registry, clock and hold, with a reaper that passes like the real one, a
//! disk, and a process that can be stopped, continued, killed and started again.

mod process;

use std::collections::BTreeMap;
use std::time::Duration;

use aios_mesh::discovery::clock::LeaseClock;
use aios_mesh::discovery::hold::Hold;
use aios_mesh::registry::{Limits, Now, Registry};
use aios_mesh::wire::Registration;

use crate::cell::Run;
use crate::chance::Chance;
use crate::coverage::Seen;
use crate::invariants::{Bounds, cell_of};
use crate::network::{Request, What};
use crate::safeguards::Safeguard;
use crate::world::{Event, Scene};
use process::Process;

/// How late the disk has a change at most.
const WRITTEN_AFTER: Duration = Duration::from_millis(900);
/// How long what piled up in a pause takes to be served.
const CATCHES_UP_IN: Duration = Duration::from_millis(20);

/// Discovery: a process that may or may not run, and a disk that stays.
#[derive(Debug)]
pub struct Discovery {
    bounds: Bounds,
    has_state_file: bool,
    process: Option<Process>,
    disk: Option<Disk>,
    processes: u64,
    /// Until when the reaper's thread gets little of the processor, and how late it wakes.
    starved: (Duration, Duration),
    chance: Chance,
}

/// What has reached the disk.
#[derive(Clone, Debug)]
struct Disk {
    epoch: u64,
    peers: Vec<Registration>,
    /// No revision from here on has been given out.
    reserved: u64,
}

impl Discovery {
    /// One that has not been started yet.
    pub fn new(seed: u64, bounds: Bounds, has_state_file: bool) -> Self {
        Self {
            bounds,
            has_state_file,
            process: None,
            disk: None,
            processes: 0,
            starved: (Duration::ZERO, Duration::ZERO),
            chance: Chance::new(seed, "discovery"),
        }
    }

    /// Starts it, unless it runs.
    pub fn start(&mut self, scene: &mut Scene) {
        if self.process.is_some() {
            return;
        }
        self.processes += 1;
        let number = self.processes;
        let disk = self.disk.take();
        let max_peers = match scene.lacks(Safeguard::MaxPeers) {
            true => usize::MAX,
            false => self.bounds.max_peers,
        };
        let mut process = Process {
            number,
            started: scene.now,
            wall_at_start: scene.wall(),
            epoch: match &disk {
                Some(disk) => disk.epoch,
                None if scene.lacks(Safeguard::NewEpoch) => 1,
                None => number,
            },
            registry: Registry::new(Limits {
                stale_after: self.bounds.stale_after,
                max_peers,
            }),
            revisions_from: disk.as_ref().map_or(0, |disk| disk.reserved),
            reserved: 0,
            clock: LeaseClock::new(self.bounds.stale_after, Duration::ZERO),
            hold: self.hold(scene),
            registrations: BTreeMap::new(),
            is_stopped: false,
            pile: Vec::new(),
            next_tick: scene.now,
            next_pass: scene.now + self.bounds.reap_every,
            held_until: None,
            timer: 0,
            wakes_at: scene.now,
            write_is_due: false,
        };
        let moment = process.moment(scene);
        let kept = match &disk {
            Some(disk) => {
                scene.coverage.saw(Seen::StartedWithState);
                for registration in &disk.peers {
                    let now = Now {
                        lease: moment.lease,
                        wall: moment.wall,
                    };
                    let accepted = process.registry.register(registration.clone(), now);
                    if let Ok(accepted) = accepted {
                        let cell = cell_of(&accepted.facts);
                        process.registrations.insert(cell, registration.clone());
                        let _ = process.clock.heed(accepted.lease, moment.lease);
                    }
                }
                Some(scene.was_graceful)
            }
            None => {
                scene.coverage.saw(Seen::StartedWithoutState);
                None
            }
        };
        let mut list = process.registry.list();
        list.revision = process.revision();
        let recovered: Vec<Registration> = list
            .peers
            .iter()
            .map(|peer| process.registrations[&cell_of(&peer.facts)].clone())
            .collect();
        scene.say(|_| format!("discovery starts, knows {}", recovered.len()));
        scene
            .ledger
            .started(&list, process.epoch, kept, &recovered, moment);
        self.process = Some(process);
        self.write(scene);
        scene.ledger.reaper_sleeps(scene.now);
        self.reaper(number, 0, scene);
    }

    fn hold(&self, scene: &Scene) -> Hold {
        let at_least = match scene.lacks(Safeguard::Hold) {
            true => 0,
            false => self.bounds.hold_min,
        };
        Hold::new(at_least, self.bounds.interval)
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| !process.is_stopped)
    }

    /// It ends: killed, or gracefully, with what was accepted answered and written.
    pub fn end(&mut self, gracefully: bool, forgets: bool, scene: &mut Scene) {
        let gracefully = gracefully && self.runs();
        if self.process.is_none() {
            return;
        }
        scene.was_graceful = gracefully;
        match gracefully {
            true => {
                scene.coverage.saw(Seen::StoppedGracefully);
                self.write(scene);
            }
            false => {
                scene.coverage.saw(Seen::Crashed);
                let is_behind = |process: &Process| process.write_is_due;
                if self.process.as_ref().is_some_and(is_behind) {
                    scene.coverage.saw(Seen::LostUnwritten);
                }
            }
        }
        if let Some(process) = self.process.take() {
            for event in process.pile {
                if let Event::Arrive(request) = event {
                    scene.reset(&request);
                }
            }
        }
        if forgets {
            self.disk = None;
        }
        if let Some(disk) = &mut self.disk
            && scene.lacks(Safeguard::Journal)
        {
            disk.peers.clear();
        }
        scene.ledger.ended(scene.now);
    }

    /// SIGSTOP.
    pub fn pause(&mut self, scene: &mut Scene) {
        if let Some(process) = &mut self.process
            && !process.is_stopped
        {
            process.is_stopped = true;
            scene.coverage.saw(Seen::Paused);
            scene.ledger.paused(scene.now);
        }
    }

    /// SIGCONT: what piled up is served in any order, and the late tick comes somewhere between.
    pub fn resume(&mut self, scene: &mut Scene) {
        let Some(process) = self.process.as_mut().filter(|process| process.is_stopped) else {
            return;
        };
        process.is_stopped = false;
        scene.ledger.resumed(scene.now);
        for event in std::mem::take(&mut process.pile) {
            let at = scene.now + self.chance.between(Duration::ZERO, CATCHES_UP_IN);
            scene.at(at, event);
        }
    }

    /// The reaper's thread wakes up to so much too late, until a moment.
    pub fn starve(&mut self, until: Duration, by: Duration) {
        self.starved = (until, by);
    }

    /// Something happens to it.
    pub fn happens(&mut self, event: Event, runs: &[Run], scene: &mut Scene) {
        let Some(process) = &mut self.process else {
            if let Event::Arrive(request) = event {
                scene.refuse(&request);
            }
            return;
        };
        if process.is_stopped {
            if let Event::Arrive(request) = &event {
                scene.time_out(request);
            }
            process.pile.push(event);
            return;
        }
        match event {
            Event::Arrive(request) => self.serve(&request, runs, scene),
            Event::Reaper { process, timer } => self.reaper(process, timer, scene),
            Event::Write { process: number }
                if process.number == number && !scene.lacks(Safeguard::JournalInTime) =>
            {
                self.write(scene);
            }
            _ => {}
        }
    }

    /// Answers a request, at once.
    fn serve(&mut self, request: &Request, runs: &[Run], scene: &mut Scene) {
        let Some(process) = &mut self.process else {
            return;
        };
        let at = process.moment(scene);
        let now = Now {
            lease: at.lease,
            wall: at.wall,
        };
        if scene.now > process.next_tick + Duration::from_millis(500) {
            scene.coverage.saw(Seen::ServedBeforeTick);
        }
        let run = request.run.map(|run| &runs[run]);
        let answer = match (request.what, run) {
            (What::Register, Some(run)) => process.register(run, request, now, at, scene),
            (What::Beat, Some(run)) => process.heartbeat(run, request, now, at, scene),
            (What::Goodbye, run) => process.goodbye(run, request.cell, now, at, scene),
            (What::Register | What::Beat, None) => return,
        };
        scene.say(|scene| {
            let name = request.run.map_or("the operator".to_owned(), |run| {
                scene.name(run, request.cell)
            });
            format!(
                "discovery serves {:?} of {name} for c{}: {answer:?}",
                request.what, request.cell
            )
        });
        scene.remember(&answer);
        self.changed(scene);
        scene.answer(request, answer);
    }

    /// What the reaper's thread does whenever it wakes.
    fn reaper(&mut self, number: u64, timer: u64, scene: &mut Scene) {
        let Some(process) = &mut self.process else {
            return;
        };
        if process.number != number || process.timer != timer {
            return;
        }
        let due = process.held_until.unwrap_or(process.next_pass);
        scene.ledger.reaper_wakes(scene.now);
        process.tick(self.bounds.stale_after, scene);
        if scene.now >= due {
            process.held_until = process.pass(self.bounds, scene);
            while process.next_pass <= scene.now {
                process.next_pass += self.bounds.reap_every;
            }
        }
        self.changed(scene);
        self.sleep(scene);
    }

    /// The reaper waits for its next tick or pass.
    fn sleep(&mut self, scene: &mut Scene) {
        if let Some(process) = &self.process {
            let due = process.held_until.unwrap_or(process.next_pass);
            let due = process.next_tick.min(due);
            scene.ledger.reaper_sleeps(due);
            self.wake(due, Duration::MAX, scene);
        }
    }

    /// The reaper is to wake, which may take it a while.
    fn wake(&mut self, at: Duration, at_most: Duration, scene: &mut Scene) {
        let late = match scene.now < self.starved.0 {
            true => self
                .chance
                .between(Duration::ZERO, self.starved.1.min(at_most)),
            false => Duration::ZERO,
        };
        if let Some(process) = &mut self.process {
            process.timer += 1;
            process.wakes_at = at + late;
            let (process, timer) = (process.number, process.timer);
            scene.at(at + late, Event::Reaper { process, timer });
        }
    }

    /// After every operation: wakes the reaper, reserves revisions, sees that what changed is
    /// written, and has the list compared.
    fn changed(&mut self, scene: &mut Scene) {
        let Some(process) = &mut self.process else {
            return;
        };
        let revision = process.revision();
        let has_changed = revision >= process.reserved || scene.has_changed;
        if scene.has_changed && self.has_state_file && !process.write_is_due {
            process.write_is_due = true;
            let at = scene.now + self.chance.between(Duration::ZERO, WRITTEN_AFTER);
            let process = process.number;
            scene.at(at, Event::Write { process });
        }
        scene.has_changed = false;
        let mut list = process.registry.list();
        list.revision = revision;
        scene.ledger.compare(&list);
        if has_changed && revision >= process.reserved && self.has_state_file {
            process.reserved = revision + 64;
            let reserved = process.reserved;
            if let Some(disk) = &mut self.disk
                && !scene.lacks(Safeguard::RevisionsAhead)
            {
                disk.reserved = reserved;
            }
        }
        if std::mem::take(&mut scene.reaper_is_woken) && scene.now < process.wakes_at {
            scene.ledger.reaper_is_called(scene.now);
            let at_most = process.wakes_at - scene.now;
            self.wake(scene.now, at_most, scene);
        }
    }

    /// Writes all there is to the disk.
    fn write(&mut self, scene: &Scene) {
        let Some(process) = self.process.as_mut().filter(|_| self.has_state_file) else {
            return;
        };
        process.write_is_due = false;
        process.reserved = process.revision() + 64;
        let list = process.registry.list();
        let peers = list.peers.iter().map(|peer| cell_of(&peer.facts));
        self.disk = Some(Disk {
            epoch: process.epoch,
            peers: peers
                .map(|cell| process.registrations[&cell].clone())
                .collect(),
            reserved: match scene.lacks(Safeguard::RevisionsAhead) {
                true => process.revision(),
                false => process.reserved,
            },
        });
    }
}
