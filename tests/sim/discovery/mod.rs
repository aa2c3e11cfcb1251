//! Discovery: the real registry, clock, hold and state file, with a reaper that passes and a keeper
//! that writes like the real ones, a disk, and a process that can be stopped, continued, killed and
//! started again.

mod disk;
mod keeper;
mod process;

use std::time::Duration;

use aios_mesh::discovery::clock::LeaseClock;
use aios_mesh::discovery::hold::Hold;
use aios_mesh::discovery::state::former::{Former, NewEpoch};
use aios_mesh::registry::{Kept, LeaseTime, Limits, Now, Registry};

use crate::cell::Run;
use crate::chance::Chance;
use crate::coverage::Seen;
use crate::faults::Loss;
use crate::invariants::{Bounds, Memory, Moment};
use crate::network::{Request, What};
use crate::safeguards::Safeguard;
use crate::world::{Event, Scene};
use disk::Disk;
use keeper::Keeper;
use process::Process;

/// How long what piled up in a pause takes to be served.
const CATCHES_UP_IN: Duration = Duration::from_millis(20);

/// Discovery: a process that may or may not run, and a disk that stays.
#[derive(Debug)]
pub struct Discovery {
    bounds: Bounds,
    has_state_file: bool,
    process: Option<Process>,
    disk: Disk,
    /// What the next process has to know.
    memory: Memory,
    processes: u64,
    /// Until when the reaper's thread gets little of the processor, and how late it wakes.
    starved: (Duration, Duration),
    chance: Chance,
}

impl Discovery {
    /// One that has not been started yet.
    pub fn new(seed: u64, bounds: Bounds, has_state_file: bool) -> Self {
        Self {
            bounds,
            has_state_file,
            process: None,
            disk: Disk::new(seed),
            memory: Memory::Lost,
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
        let (former, keeper) = self.remember(number.to_string(), scene);
        let max_peers = match scene.lacks(Safeguard::MaxPeers) {
            true => usize::MAX,
            false => self.bounds.max_peers,
        };
        let mut registry = Registry::new(Limits {
            stale_after: self.bounds.stale_after,
            max_peers,
        });
        let moment = Moment {
            now: scene.now,
            lease: LeaseTime::default(),
            wall: scene.shown_wall(),
        };
        let now = Now {
            lease: moment.lease,
            wall: moment.wall,
        };
        registry.restore(former.peers, &former.left, former.revision, now);
        let kept = registry.kept_from(0, usize::MAX);
        let kept: Vec<_> = kept.iter().map(Kept::registration).collect();
        scene.say(|_| {
            let (epoch, revision) = (&former.epoch, former.revision);
            format!(
                "discovery starts, knows {} in epoch {epoch} from {revision} on",
                kept.len()
            )
        });
        let list = registry.list();
        let memory = std::mem::replace(&mut self.memory, Memory::Lost);
        scene
            .ledger
            .started(&list, &former.epoch, memory, &kept, moment);
        self.process = Some(Process {
            number,
            started: scene.now,
            wall_at_start: scene.wall(),
            registry,
            keeper,
            clock: LeaseClock::new(self.bounds.stale_after, Duration::ZERO),
            hold: self.hold(scene),
            is_stopped: false,
            pile: Vec::new(),
            next_tick: scene.now,
            next_pass: scene.now + self.bounds.reap_every,
            held_until: None,
            timer: 0,
            wakes_at: scene.now,
        });
        scene.ledger.reaper_sleeps(scene.now);
        self.reaper(number, 0, scene);
    }

    /// What there is to know of the process before, and the thread that goes on from it.
    fn remember(&mut self, new_epoch: String, scene: &mut Scene) -> (Former, Option<Keeper>) {
        scene.coverage.saw(match self.memory {
            Memory::Lost => Seen::StartedWithoutState,
            _ => Seen::StartedWithState,
        });
        if !self.has_state_file {
            let epoch = match scene.lacks(Safeguard::NewEpoch) {
                true => "1".to_owned(),
                false => new_epoch,
            };
            return (Former::none(first(epoch)), None);
        }
        let (former, writer) = self.disk.read(first(new_epoch.clone()), scene);
        let keeper = Keeper::start(&former, writer, &mut self.disk, scene);
        if self.chance.odds(0.05) {
            scene.coverage.saw(Seen::KilledStarting);
            self.disk.is_killed(false, scene);
            return self.remember(new_epoch, scene);
        }
        if !scene.lacks(Safeguard::ReservedFirst) {
            self.disk.sync();
        }
        (former, Some(keeper))
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
    pub fn end(&mut self, gracefully: bool, loss: Option<Loss>, scene: &mut Scene) {
        let gracefully = gracefully && self.runs();
        let Some(mut process) = self.process.take() else {
            return;
        };
        for event in std::mem::take(&mut process.pile) {
            if let Event::Arrive(request) = event {
                scene.reset(&request);
            }
        }
        scene.coverage.saw(match gracefully {
            true => Seen::StoppedGracefully,
            false => Seen::Crashed,
        });
        if let Some(keeper) = process.keeper {
            match gracefully {
                true => keeper.stop(&process.registry, &mut self.disk, scene),
                false => {
                    if keeper.is_behind() {
                        scene.coverage.saw(Seen::LostUnwritten);
                    }
                    self.disk.is_killed(keeper.renames(), scene);
                }
            }
        }
        self.memory = match (
            self.has_state_file && loss != Some(Loss::Everything),
            gracefully,
        ) {
            (false, _) => Memory::Lost,
            (true, _) if loss.is_some() && self.disk.is_damaged(scene) => Memory::Damaged,
            (true, true) => Memory::Stopped,
            (true, false) => Memory::Killed,
        };
        if loss == Some(Loss::Everything) {
            self.disk.forget();
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
            Event::Write { process: number } if process.number == number => {
                let again = process
                    .keeper
                    .as_mut()
                    .and_then(|keeper| keeper.goes_on(&process.registry, &mut self.disk, scene));
                if let Some(at) = again {
                    scene.at(at, Event::Write { process: number });
                }
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

    /// After every operation: wakes the reaper, and has the list compared.
    fn changed(&mut self, scene: &mut Scene) {
        let Some(process) = &mut self.process else {
            return;
        };
        scene.ledger.compare(&process.registry.list());
        if std::mem::take(&mut scene.reaper_is_woken) && scene.now < process.wakes_at {
            scene.ledger.reaper_is_called(scene.now);
            let at_most = process.wakes_at - scene.now;
            self.wake(scene.now, at_most, scene);
        }
    }
}

/// A new epoch, which begins with nothing.
fn first(name: String) -> NewEpoch {
    NewEpoch { name, revision: 0 }
}
