//! One process of discovery: what it answers, and what its reaper does when it wakes.

use std::time::{Duration, SystemTime};

use aios_mesh::discovery::Settings;
use aios_mesh::discovery::clock::LeaseClock;
use aios_mesh::discovery::hold::{Crowd, Hold, Verdict};
use aios_mesh::discovery::state::journal::Entry;
use aios_mesh::registry::{Change, LeaseTime, Now, Refused, Registry};
use aios_mesh::wire::{CellId, Instance};

use super::keeper::Keeper;
use crate::cell::{Run, id};
use crate::coverage::Seen;
use crate::invariants::{Bounds, Moment, cell_of};
use crate::network::{Answer, Request, What};
use crate::safeguards::Safeguard;
use crate::world::{Event, Scene};

/// How many peers a pass takes out at once.
const AT_ONCE: usize = 256;

#[derive(Debug)]
pub(super) struct Process {
    pub(super) number: u64,
    pub(super) started: Duration,
    pub(super) wall_at_start: Duration,
    pub(super) registry: Registry,
    /// The thread that keeps the state file up, where there is one.
    pub(super) keeper: Option<Keeper>,
    pub(super) clock: LeaseClock,
    pub(super) hold: Hold,
    pub(super) is_stopped: bool,
    /// What arrived while it was stopped.
    pub(super) pile: Vec<Event>,
    pub(super) next_tick: Duration,
    pub(super) next_pass: Duration,
    pub(super) held_until: Option<Duration>,
    pub(super) timer: u64,
    pub(super) wakes_at: Duration,
}

impl Process {
    /// Now, as its clocks show it.
    pub(super) fn moment(&self, scene: &Scene) -> Moment {
        let since = scene.now - self.started;
        let lease = if scene.lacks(Safeguard::LeaseClock) {
            LeaseTime::default().after(since)
        } else if scene.lacks(Safeguard::NoWallClock) {
            LeaseTime::default().after(scene.wall().saturating_sub(self.wall_at_start))
        } else {
            self.clock.read(since)
        };
        Moment {
            now: scene.now,
            lease,
            wall: scene.shown_wall(),
        }
    }

    /// What is kept of a peer is new, or it is gone: `left` is the run that said so, and when.
    fn has_changed(
        &mut self,
        id: &CellId,
        left: Option<(Instance, SystemTime)>,
        scene: &mut Scene,
    ) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let wakes_at = keeper.push(
            match self.registry.kept(id) {
                Some(kept) => Entry::Peer(kept),
                None => Entry::Gone {
                    id: id.clone(),
                    left,
                },
            },
            scene.now,
        );
        if let Some(at) = wakes_at
            && !scene.lacks(Safeguard::JournalInTime)
        {
            let process = self.number;
            scene.at(at, Event::Write { process });
        }
    }

    pub(super) fn register(
        &mut self,
        run: &Run,
        request: &Request,
        now: Now,
        at: Moment,
        scene: &mut Scene,
    ) -> Answer {
        let registration = run.registers_with(request);
        let mut asked = registration.clone();
        if scene.lacks(Safeguard::OwnLease) {
            asked.stale_after = None;
        }
        match self.registry.register(asked, None, now) {
            Ok(mut accepted) => {
                if !scene.lacks(Safeguard::ShortTicks) {
                    scene.reaper_is_woken = self.clock.heed(accepted.lease, now.lease);
                }
                let to_keep = match scene.lacks(Safeguard::RunKept) {
                    true => !matches!(accepted.change, Change::Renewed),
                    false => accepted.to_keep,
                };
                if to_keep {
                    self.has_changed(&registration.cell_id, None, scene);
                }
                scene.saw_change(&accepted.change);
                let interval = Settings::heartbeat_interval(accepted.lease);
                if scene.lacks(Safeguard::OwnLease) {
                    accepted.lease = registration.stale_after.unwrap_or(accepted.lease);
                }
                scene
                    .ledger
                    .registered(request, &registration, &accepted, at);
                Answer::Ok(Some(interval))
            }
            Err(refused) => {
                scene
                    .ledger
                    .registration_refused(request, &registration, refused, at);
                scene.saw_refusal(request.what, refused);
                Answer::Status(status(refused))
            }
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        run: &Run,
        request: &Request,
        now: Now,
        at: Moment,
        scene: &mut Scene,
    ) -> Answer {
        let mut beat = run.beats_with(request);
        if scene.lacks(Safeguard::InstanceOfBeat) {
            beat.instance = None;
        }
        let mut result = self.registry.heartbeat(&beat, now);
        if let Ok(renewal) = &mut result
            && scene.lacks(Safeguard::OwnLease)
        {
            renewal.lease = run.registration.stale_after.unwrap_or(renewal.lease);
        }
        let instance = run.registration.instance.as_ref();
        scene.ledger.beat(request, instance, &result, at);
        match result {
            Ok(_) => {
                scene.coverage.saw(Seen::BeatTaken);
                Answer::Ok(None)
            }
            Err(refused) => {
                scene.saw_refusal(request.what, refused);
                Answer::Status(status(refused))
            }
        }
    }

    pub(super) fn goodbye(
        &mut self,
        run: Option<&Run>,
        cell: usize,
        now: Now,
        at: Moment,
        scene: &mut Scene,
    ) -> Answer {
        let instance = run.and_then(|run| run.registration.instance.clone());
        let registered = self.registry.kept(&id(cell)).and_then(|it| it.instance);
        let named = match scene.missing {
            Some(Safeguard::InstanceOfGoodbye) => None,
            // Without a name nothing is remembered.
            Some(Safeguard::Fence) if registered.is_none() || registered == instance => None,
            _ => instance.as_ref(),
        };
        let result = self
            .registry
            .deregister(id(cell).as_str(), named, None, now);
        scene.ledger.goodbye(cell, instance.as_ref(), &result, at);
        match result {
            Ok(_) => {
                let left = named.map(|instance| (instance.clone(), now.wall));
                self.has_changed(&id(cell), left, scene);
                scene.coverage.saw(match run {
                    Some(_) => Seen::GoodbyeTaken,
                    None => Seen::OperatorDeregistered,
                });
                scene.ledger.departed(self.registry.revision(), 1);
                Answer::Ok(None)
            }
            Err(refused) => {
                scene.saw_refusal(What::Goodbye, refused);
                Answer::Status(status(refused))
            }
        }
    }

    /// Ticks the clock.
    pub(super) fn tick(&mut self, usual: Duration, scene: &Scene) {
        let shortest = match scene.lacks(Safeguard::ShortTicks) {
            true => None,
            false => self.registry.shortest_lease(),
        };
        let now = scene.now - self.started;
        let _ = self.clock.tick(shortest.unwrap_or(usual), now);
        self.next_tick = self.started + self.clock.next_tick();
    }

    /// A pass of the reaper. Returns when to look again where nobody was to be taken out.
    pub(super) fn pass(&mut self, bounds: Bounds, scene: &mut Scene) -> Option<Duration> {
        let at = self.moment(scene);
        while self.registry.count_late(at.lease, AT_ONCE) {}
        let mut crowd = Crowd {
            peers: self.registry.len(),
            late: self.registry.late(),
            any_stale: self.registry.any_stale(at.lease),
        };
        if scene.lacks(Safeguard::HoldCountsLate) {
            crowd.late = scene.ledger.stale(at.lease);
        }
        if scene.lacks(Safeguard::HoldOnce)
            && self.hold.held().is_some_and(|(_, until)| until <= at.lease)
        {
            self.hold = Hold::new(bounds.hold_min, bounds.interval);
        }
        if let Verdict::Held { begins, until } = self.hold.judge(crowd, at.lease) {
            if begins {
                scene.coverage.saw(Seen::HoldBegan);
            }
            scene.say(|_| format!("the pass is held: {crowd:?}"));
            scene.ledger.pass(&[], true, at);
            return Some(scene.now + until.since(at.lease));
        }
        let mut gone = Vec::new();
        let now = Now {
            lease: at.lease,
            wall: at.wall,
        };
        loop {
            let departures = self.registry.reap(now, AT_ONCE);
            let more = departures.len() == AT_ONCE;
            gone.extend(
                departures
                    .into_iter()
                    .map(|left| (cell_of(&left.facts), left)),
            );
            if !more {
                break;
            }
        }
        for (cell, departure) in &gone {
            self.has_changed(&departure.facts.cell_id, None, scene);
            scene.coverage.saw(Seen::Reaped);
            scene.say(|_| format!("c{cell} is reaped, silent for {:?}", departure.silent_for));
        }
        if gone.len() * 2 > crowd.peers && gone.len() >= bounds.hold_min.max(2) {
            scene.coverage.saw(Seen::MassReaped);
        }
        scene.ledger.pass(&gone, false, at);
        scene.ledger.departed(self.registry.revision(), gone.len());
        None
    }
}

fn status(refused: Refused) -> u16 {
    match refused {
        Refused::Unknown => 404,
        Refused::Fenced | Refused::Overtaken => 409,
        Refused::Full => 503,
    }
}
