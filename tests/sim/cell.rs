//! One run of a cell: the real pulse, in surroundings like those of the heartbeat thread.
//!
//! As there: one call at a time, each with its time-out; the goodbye after the last beat, where
//! discovery may know the cell.

use std::time::Duration;

use aios_mesh::cell::pulse::{BeatAnswer, Pulse, Step};
use aios_mesh::client::{DEREGISTER_TIMEOUT, HEARTBEAT_TIMEOUT, REGISTER_TIMEOUT};
use aios_mesh::wire::{self, CellId, Heartbeat, Instance, Registration};

use crate::chance::Chance;
use crate::coverage::Seen;
use crate::faults::Kind;
use crate::network::{Answer, Request, What};
use crate::safeguards::Safeguard;
use crate::world::{Event, Scene};

/// A process of a cell.
#[derive(Debug)]
pub struct Run {
    /// Its number among all runs.
    pub number: usize,
    /// Whose run it is.
    pub cell: usize,
    /// Whether it lives.
    pub life: Life,
    /// What it registers with.
    pub registration: Registration,
    level: f64,
    address: u8,
    /// Whether it does what the answer to its registration says of the interval.
    takes_advice: bool,
    /// How often it is to beat, whatever it is told.
    fixed: Option<Duration>,
    interval: Duration,
    started: Duration,
    pulse: Pulse,
    maybe_known: bool,
    call: Option<Call>,
    goodbye: Option<u32>,
    calls: u32,
    wakes_at: Option<Duration>,
    /// What it will find when it goes on, while it is stopped.
    frozen: Option<Vec<Event>>,
    chance: Chance,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It registers and beats.
    Alive,
    /// It has been told to stop and says goodbye.
    Leaving,
    /// There is no such process.
    Dead,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    number: u32,
    what: What,
    known_before: bool,
}

impl Run {
    /// Starts a run.
    pub fn start(number: usize, cell: usize, kind: &Kind, scene: &mut Scene) -> Self {
        let mut chance = Chance::new(scene.seed ^ (number as u64) << 32, "run");
        let fixed = match kind {
            Kind::Slow { every } => Some(*every),
            Kind::Usual | Kind::Old | Kind::OwnLease { .. } => None,
        };
        // A cell that beats less often than usual asks for a lease that lets it.
        let stale_after = match kind {
            Kind::OwnLease { lease } => Some(*lease),
            _ => fixed.map(|every| every * wire::BEATS_PER_LEASE),
        };
        // Some are another version when they are started again.
        let is_old = matches!(kind, Kind::Old) && chance.odds(0.7);
        if is_old {
            scene.coverage.saw(Seen::OldClient);
        }
        if stale_after.is_some() {
            scene.coverage.saw(Seen::OwnLease);
        }
        let level = chance.fraction();
        // Most come back where they were, some at another port.
        let port = if chance.odds(0.7) { 1 } else { number % 60_000 };
        let registration = Registration {
            cell_id: scene.ids[cell].clone(),
            ip: "10.0.0.1".to_owned(),
            port: port as u16,
            consciousness_level: level,
            services: Vec::new(),
            branch: "main".to_owned(),
            kind: "cell".to_owned(),
            hostname: String::new(),
            instance: (!is_old).then(|| valid(Instance::new(&format!("{number:x}")))),
            stale_after,
        };
        let mut run = Self {
            number,
            cell,
            life: Life::Alive,
            registration,
            level,
            address: 1,
            takes_advice: !is_old,
            fixed,
            interval: fixed.unwrap_or(wire::HEARTBEAT_EVERY),
            started: scene.now,
            pulse: Pulse::new(wire::HEARTBEAT_EVERY, fixed, Duration::ZERO),
            maybe_known: false,
            call: None,
            goodbye: None,
            calls: 0,
            wakes_at: None,
            frozen: None,
            chance,
        };
        run.go_on(scene);
        run
    }

    /// Whether it is stopped, and has not been continued yet.
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Something happens to it.
    pub fn happens(&mut self, event: Event, scene: &mut Scene) {
        if let Some(later) = &mut self.frozen {
            later.push(event);
            return;
        }
        match event {
            Event::Wake { .. } => {
                self.wakes_at = None;
                self.go_on(scene);
            }
            Event::Answered { call, answer, .. } => self.answered(call, answer, scene),
            _ => {}
        }
    }

    /// What the heartbeat thread does whenever nothing holds it.
    fn go_on(&mut self, scene: &mut Scene) {
        let still_beats = match self.life {
            Life::Alive => true,
            Life::Leaving => scene.lacks(Safeguard::GoodbyeLast),
            Life::Dead => false,
        };
        if !still_beats || self.call.is_some() {
            return;
        }
        match self.pulse.next(scene.now - self.started) {
            Step::WaitUntil(due) => {
                let at = self.started + due;
                if self.wakes_at != Some(at) {
                    self.wakes_at = Some(at);
                    scene.at(at, Event::Wake { run: self.number });
                }
            }
            Step::Register => {
                let known_before = std::mem::replace(&mut self.maybe_known, true);
                self.calls(What::Register, REGISTER_TIMEOUT, known_before, scene);
            }
            Step::Beat => {
                let known_before = self.maybe_known;
                self.calls(What::Beat, HEARTBEAT_TIMEOUT, known_before, scene);
            }
        }
    }

    fn calls(&mut self, what: What, at_most: Duration, known_before: bool, scene: &mut Scene) {
        self.calls += 1;
        let number = self.calls;
        let call = Call {
            number,
            what,
            known_before,
        };
        match what {
            What::Goodbye => self.goodbye = Some(number),
            What::Register | What::Beat => self.call = Some(call),
        }
        let request = Request {
            cell: self.cell,
            run: Some(self.number),
            call: Some(number),
            is_doubled: false,
            what,
            level: self.level,
            address: self.address,
            sent: scene.network.next_sent(),
            deadline: scene.now + at_most,
        };
        let waits = what == What::Goodbye && self.call.is_some();
        scene.say(|scene| format!("{} sends {what:?}", scene.name(self.number, self.cell)));
        scene
            .ledger
            .sends(self.number, &request, self.interval, waits, scene.now);
        scene.send(request);
    }

    fn answered(&mut self, number: u32, answer: Answer, scene: &mut Scene) {
        if self.goodbye == Some(number) {
            self.life = Life::Dead;
            return;
        }
        let Some(call) = self.call.take_if(|call| call.number == number) else {
            return;
        };
        scene.say(|scene| {
            let name = scene.name(self.number, self.cell);
            format!("{name} is answered {:?}: {answer:?}", call.what)
        });
        let now = scene.now - self.started;
        match call.what {
            What::Register => {
                let changed_nothing = matches!(
                    answer,
                    Answer::Status(_) | Answer::Nothing { never_sent: true }
                );
                if changed_nothing {
                    self.maybe_known = call.known_before;
                }
                match answer {
                    Answer::Ok(interval) => {
                        let interval = interval.filter(|_| self.takes_advice);
                        self.interval = self.fixed.or(interval).unwrap_or(wire::HEARTBEAT_EVERY);
                        let chance = self.chance.fraction();
                        let _ = self.pulse.registered(now, interval, chance);
                    }
                    _ => {
                        if scene.lacks(Safeguard::MaybeKnown) {
                            self.maybe_known = call.known_before;
                        }
                        let _ = self.pulse.not_registered(now, self.chance.fraction());
                    }
                }
            }
            What::Beat => {
                let answer = match answer {
                    Answer::Ok(_) => BeatAnswer::Ok,
                    Answer::Status(404) if !scene.lacks(Safeguard::RegisterAgain) => {
                        BeatAnswer::Unknown
                    }
                    Answer::Status(409) if scene.lacks(Safeguard::TwinsDoNotFight) => {
                        BeatAnswer::Unknown
                    }
                    _ => BeatAnswer::Failed,
                };
                let _ = self.pulse.beat(now, answer);
                if answer == BeatAnswer::Unknown {
                    scene.ledger.is_told_unknown(self.number, scene.now);
                    if scene.lacks(Safeguard::AtOnce) {
                        let _ = self.pulse.not_registered(now, 0.0);
                    }
                }
            }
            What::Goodbye => {}
        }
        self.go_on(scene);
    }

    /// SIGTERM: the call in flight is given up, then the goodbye is said.
    pub fn stop(&mut self, scene: &mut Scene) {
        if self.life != Life::Alive || self.is_frozen() {
            return;
        }
        scene.coverage.saw(Seen::CellStopped);
        self.life = Life::Leaving;
        if !scene.lacks(Safeguard::GoodbyeLast) {
            let call = self.call.take();
            let unanswered = call.filter(|call| call.what == What::Register);
            if let Some(call) = unanswered
                && scene.lacks(Safeguard::MaybeKnown)
            {
                self.maybe_known = call.known_before;
            }
        }
        if self.maybe_known {
            self.calls(What::Goodbye, DEREGISTER_TIMEOUT, true, scene);
        } else {
            scene.coverage.saw(Seen::LeftUnregistered);
            scene.ledger.leaves_without_goodbye(self.number, self.cell);
            self.life = Life::Dead;
        }
    }

    /// kill -9, or the machine is gone.
    pub fn kill(&mut self) {
        self.life = Life::Dead;
        self.frozen = None;
    }

    /// SIGSTOP.
    pub fn freeze(&mut self) {
        if self.life != Life::Dead && self.frozen.is_none() {
            self.frozen = Some(Vec::new());
        }
    }

    /// SIGCONT. What happened meanwhile, it finds in any order: an answer or that it took too long.
    pub fn thaw(&mut self, scene: &mut Scene) {
        let mut found = self.frozen.take().unwrap_or_default();
        self.chance.shuffle(&mut found);
        for event in found {
            scene.at(scene.now, event);
        }
    }

    /// The cell has another level from now on.
    pub fn set_level(&mut self, level: f64) {
        self.level = level;
    }

    /// It is reached at another address from now on.
    pub fn moves(&mut self) {
        self.address = self.address.wrapping_add(1);
    }

    /// A registration as it said it in a request.
    pub fn registers_with(&self, request: &Request) -> Registration {
        Registration {
            ip: format!("10.0.0.{}", request.address),
            consciousness_level: request.level,
            ..self.registration.clone()
        }
    }

    /// A heartbeat as it said it in a request.
    pub fn beats_with(&self, request: &Request) -> Heartbeat {
        Heartbeat {
            cell_id: self.registration.cell_id.clone(),
            consciousness_level: request.level,
            instance: self.registration.instance.clone(),
        }
    }
}

/// The name of a cell.
pub fn id(cell: usize) -> CellId {
    valid(CellId::new(&format!("c{cell}")))
}

fn valid<T, E: std::fmt::Display>(made: Result<T, E>) -> T {
    made.unwrap_or_else(|why| panic!("made of valid parts: {why}"))
}
