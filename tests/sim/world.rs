//! A world: virtual time, what is to happen in it, and what happens to whom.
//!
//! Nothing here waits and nothing is left to the machine: the next event is the one that is due
//! first, of two at the same moment the one that was scheduled first, and all chance is the seed's.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::time::{Duration, SystemTime};

use aios_mesh::registry::{Change, Refused};
use aios_mesh::wire::CellId;

use crate::cell::{self, Life, Run};
use crate::coverage::{Coverage, Seen};
use crate::discovery::Discovery;
use crate::faults::{Fault, Kind, Plan};
use crate::invariants::{Invariant, Ledger, Violation};
use crate::network::{Answer, Network, Request, Weather, What};
use crate::safeguards::Safeguard;

/// What the wall clock shows when a world begins.
const WALL_AT_START: Duration = Duration::from_secs(1_700_000_000);
/// How many of the last events a failure shows.
const LAST: usize = 60;

/// Something that is to happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A run has waited long enough.
    Wake {
        /// Which.
        run: usize,
    },
    /// A call ends.
    Answered {
        /// Whose.
        run: usize,
        /// Which.
        call: u32,
        /// How.
        answer: Answer,
    },
    /// A request arrives at discovery's machine.
    Arrive(Request),
    /// The reaper's thread wakes.
    Reaper {
        /// In which process.
        process: u64,
        /// At which of its waits.
        timer: u64,
    },
    /// The thread that keeps the state file goes on.
    Write {
        /// By which process.
        process: u64,
    },
    /// Discovery is continued.
    Resume,
    /// Discovery is started.
    Start,
    /// A run is continued.
    Thaw(usize),
    /// A cell is started.
    Launch(usize),
    /// The next of what was planned happens.
    Fault(usize),
    /// Nothing goes wrong any more.
    Calm,
    /// Whoever lives must be listed now, and nobody else.
    Settled,
    /// It is over.
    End,
}

#[derive(Debug)]
struct Scheduled {
    at: Duration,
    number: u64,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

/// What everybody in a world sees and shares.
#[derive(Debug)]
pub struct Scene {
    /// The seed it all comes from.
    pub seed: u64,
    /// The time since the beginning.
    pub now: Duration,
    /// The names of the cells.
    pub ids: Vec<CellId>,
    /// The network.
    pub network: Network,
    /// What really happened.
    pub ledger: Ledger,
    /// What was seen.
    pub coverage: Coverage,
    /// The safeguard this world does without.
    pub missing: Option<Safeguard>,
    /// Whether the reaper is to tick at once.
    pub reaper_is_woken: bool,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    wall_moved_ms: i64,
    /// A fingerprint of every answer and when it was given.
    fingerprint: u64,
    tale: Option<VecDeque<String>>,
}

impl Scene {
    /// Schedules an event.
    pub fn at(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled {
            at: at.max(self.now),
            number: self.scheduled,
            event,
        }));
    }

    /// Whether this world does without a safeguard.
    pub fn lacks(&self, safeguard: Safeguard) -> bool {
        self.missing == Some(safeguard)
    }

    /// What the wall clock shows, since the epoch.
    pub fn wall(&self) -> Duration {
        let moved = Duration::from_millis(self.wall_moved_ms.unsigned_abs());
        let wall = WALL_AT_START + self.now;
        if self.wall_moved_ms < 0 {
            wall - moved
        } else {
            wall + moved
        }
    }

    /// The same, as programs get it.
    pub fn shown_wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.wall()
    }

    /// Tells what happens, where somebody listens.
    pub fn say(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.tale.is_none() {
            return;
        }
        let line = format!("{:>12.6}  {}", self.now.as_secs_f64(), what(self));
        if let Some(tale) = &mut self.tale {
            tale.push_back(line);
        }
    }

    /// How a run is called in the tale.
    pub fn name(&self, run: usize, cell: usize) -> String {
        format!("c{cell}/{run:x}")
    }

    /// Takes an answer into the fingerprint.
    pub fn remember(&mut self, answer: &Answer) {
        let answer = match answer {
            Answer::Ok(interval) => interval.map_or(200, |i| 200 + i.as_nanos() as u64),
            Answer::Status(status) => u64::from(*status),
            Answer::Nothing { never_sent } => u64::from(*never_sent),
        };
        let revision = self.ledger.revision();
        for number in [self.now.as_nanos() as u64, answer, revision] {
            self.fingerprint = (self.fingerprint ^ number).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Counts what a registration did.
    pub fn saw_change(&mut self, change: &Change) {
        self.coverage.saw(match change {
            Change::Joined => Seen::Joined,
            Change::Replaced(_) => Seen::Replaced,
            Change::Updated => Seen::Updated,
            Change::Renewed => Seen::Renewed,
        });
    }

    /// Counts a request that was refused.
    pub fn saw_refusal(&mut self, what: What, refused: Refused) {
        let seen = match (what, refused) {
            (What::Register, Refused::Overtaken) => Seen::RegisterOvertaken,
            (What::Register, _) => Seen::RegisterFull,
            (What::Beat, Refused::Unknown) => Seen::BeatUnknown,
            (What::Beat, _) => Seen::BeatFenced,
            (What::Goodbye, Refused::Unknown) => Seen::GoodbyeUnknown,
            (What::Goodbye, _) => Seen::GoodbyeFenced,
        };
        self.coverage.saw(seen);
    }
}

/// A world.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    scene: Scene,
    discovery: Discovery,
    runs: Vec<Run>,
    step: u64,
    /// The last request of each run that arrived, by its place among all that was sent.
    arrived: Vec<u64>,
    is_calm: bool,
    /// The revision when nothing was to change any more.
    settled_at: Option<u64>,
}

/// What a world was like that held.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What happened in it.
    pub coverage: Coverage,
    /// How many events.
    pub steps: u64,
    /// For how long cells lived in it, all taken together.
    pub cell_time: Duration,
    /// The same for the same answers at the same moments.
    pub fingerprint: u64,
}

/// A world in which a promise was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// At which event.
    pub step: u64,
    /// When.
    pub at: Duration,
    /// Which promise, and how.
    pub violation: Violation,
    /// What happened before, where the tale was told.
    pub tale: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { invariant, what } = &self.violation;
        writeln!(
            f,
            "seed {} breaks {invariant:?} at step {}, after {:.6} s: {what}",
            self.seed,
            self.step,
            self.at.as_secs_f64()
        )?;
        for line in &self.tale[self.tale.len().saturating_sub(LAST)..] {
            writeln!(f, "{line}")?;
        }
        write!(
            f,
            "the whole tale: AIOS_SIM_SEED={} cargo test --test sim",
            self.seed
        )
    }
}

impl World {
    /// The world of a seed, perhaps without a safeguard.
    pub fn new(seed: u64, missing: Option<Safeguard>) -> Self {
        Self::planned(seed, Plan::new(seed), missing)
    }

    /// The same with another plan.
    pub fn planned(seed: u64, plan: Plan, missing: Option<Safeguard>) -> Self {
        let cells = plan.cells.len();
        let scene = Scene {
            seed,
            now: Duration::ZERO,
            ids: (0..cells).map(cell::id).collect(),
            network: Network::new(seed, cells, plan.weather),
            ledger: Ledger::new(plan.bounds, cells),
            coverage: Coverage::default(),
            missing,
            reaper_is_woken: false,
            queue: BinaryHeap::new(),
            scheduled: 0,
            wall_moved_ms: 0,
            fingerprint: 0xcbf2_9ce4_8422_2325,
            tale: None,
        };
        Self {
            discovery: Discovery::new(seed, plan.bounds, plan.state_file),
            scene,
            runs: Vec::new(),
            step: 0,
            arrived: Vec::new(),
            is_calm: false,
            settled_at: None,
            plan,
        }
    }

    /// Keeps what happens as text.
    pub fn told(mut self) -> Self {
        self.scene.tale = Some(VecDeque::new());
        self
    }

    /// Lets it happen, until it ends or a promise is broken.
    pub fn run(mut self) -> Result<Outcome, Box<Failure>> {
        self.scene.at(Duration::ZERO, Event::Start);
        for (cell, (_, starts)) in self.plan.cells.iter().enumerate() {
            self.scene.at(*starts, Event::Launch(cell));
        }
        for (index, (at, _)) in self.plan.faults.iter().enumerate() {
            self.scene.at(*at, Event::Fault(index));
        }
        self.scene.at(self.plan.calm, Event::Calm);
        self.scene.at(self.plan.settled, Event::Settled);
        self.scene.at(self.plan.end, Event::End);
        while let Some(Reverse(next)) = self.scene.queue.pop() {
            self.step += 1;
            self.scene.now = next.at;
            if matches!(next.event, Event::End) {
                break;
            }
            self.happens(next.event);
            self.scene.ledger.look_for_the_silent(self.scene.now);
            self.stays_quiet();
            if let Some(violation) = self.scene.ledger.broken() {
                return Err(Box::new(Failure {
                    seed: self.scene.seed,
                    step: self.step,
                    at: self.scene.now,
                    violation: violation.clone(),
                    tale: self.scene.tale.unwrap_or_default().into(),
                }));
            }
        }
        Ok(Outcome {
            coverage: self.scene.coverage,
            steps: self.step,
            cell_time: self.scene.now * self.plan.cells.len() as u32,
            fingerprint: self.scene.fingerprint,
        })
    }

    fn happens(&mut self, event: Event) {
        let scene = &mut self.scene;
        match event {
            Event::Wake { run } | Event::Answered { run, .. } => {
                self.runs[run].happens(event, scene);
            }
            Event::Arrive(ref request) => {
                if let Some(run) = request.run {
                    if request.sent < self.arrived[run] {
                        scene.coverage.saw(Seen::Overtook);
                    }
                    self.arrived[run] = self.arrived[run].max(request.sent);
                    if self.runs[run].life == Life::Dead {
                        scene.coverage.saw(Seen::DeadRunSpeaks);
                    }
                }
                self.discovery.happens(event, &self.runs, scene);
            }
            Event::Reaper { .. } | Event::Write { .. } => {
                self.discovery.happens(event, &self.runs, scene);
            }
            Event::Resume => {
                scene.say(|_| "discovery is continued".to_owned());
                self.discovery.resume(scene);
            }
            Event::Start => self.discovery.start(scene),
            Event::Thaw(run) => self.runs[run].thaw(scene),
            Event::Launch(cell) => self.launch(cell),
            Event::Fault(index) => {
                let fault = self.plan.faults[index].1.clone();
                if !self.is_calm {
                    self.scene.say(|_| format!("{fault:?}"));
                    self.fault(fault);
                }
            }
            Event::Calm => self.calm(),
            Event::Settled => self.settled(),
            Event::End => {}
        }
    }

    fn launch(&mut self, cell: usize) {
        let number = self.runs.len();
        let kind: Kind = self.plan.cells[cell].0;
        if self.runs.iter().any(|run| run.cell == cell) {
            self.scene.coverage.saw(Seen::CellRestarted);
        }
        self.arrived.push(0);
        let run = Run::start(number, cell, &kind, &mut self.scene);
        self.runs.push(run);
    }

    /// The run of a cell that was started last.
    fn latest(&mut self, cell: usize) -> Option<usize> {
        self.runs
            .iter()
            .rposition(|run| run.cell == cell && run.life == Life::Alive)
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Weather(weather) => self.scene.network.weather = weather,
            Fault::Cut(cells, way) => {
                for cell in cells {
                    self.scene.network.cut[cell] = Some(way);
                }
            }
            Fault::Mend(cells) => {
                for cell in cells {
                    self.scene.network.cut[cell] = None;
                }
            }
            Fault::Pause(lasts) => {
                self.discovery.pause(&mut self.scene);
                let until = (self.scene.now + lasts).min(self.plan.calm);
                self.scene.at(until, Event::Resume);
            }
            Fault::Starve(lasts, by) => {
                self.scene.coverage.saw(Seen::Starved);
                let until = (self.scene.now + lasts).min(self.plan.calm);
                self.discovery
                    .starve(until, by.min(self.plan.calm - self.scene.now));
            }
            Fault::End {
                gracefully,
                loss,
                down_for,
            } => {
                self.discovery.end(gracefully, loss, &mut self.scene);
                let until = (self.scene.now + down_for).min(self.plan.calm);
                self.scene.at(until, Event::Start);
            }
            Fault::Wall(by) => {
                let seen = if by < 0 {
                    Seen::WallBack
                } else {
                    Seen::WallForward
                };
                self.scene.coverage.saw(seen);
                self.scene.wall_moved_ms += by;
                self.scene.ledger.wall_is_set();
            }
            Fault::Freeze {
                cell,
                lasts,
                successor,
            } => {
                let Some(run) = self.latest(cell) else { return };
                self.scene.coverage.saw(Seen::CellFrozen);
                self.runs[run].freeze();
                let until = (self.scene.now + lasts).min(self.plan.calm);
                self.scene.at(until, Event::Thaw(run));
                if successor {
                    self.scene.coverage.saw(Seen::Twin);
                    self.launch(cell);
                }
            }
            Fault::Kill(cell, again) => {
                let Some(run) = self.latest(cell) else { return };
                self.scene.coverage.saw(Seen::CellKilled);
                self.runs[run].kill();
                self.again(cell, again);
            }
            Fault::Stop(cell, again) => {
                let Some(run) = self.latest(cell) else { return };
                self.runs[run].stop(&mut self.scene);
                self.again(cell, again);
            }
            Fault::Level(cell, level) => {
                let Some(run) = self.latest(cell) else { return };
                self.scene.coverage.saw(Seen::LevelChanged);
                self.runs[run].set_level(level);
            }
            Fault::Move(cell) => {
                let Some(run) = self.latest(cell) else { return };
                self.scene.coverage.saw(Seen::Moved);
                self.runs[run].moves();
            }
            Fault::Deregister(cell) => {
                let sent = self.scene.network.next_sent();
                let deadline = self.scene.now;
                self.scene.at(
                    deadline,
                    Event::Arrive(Request {
                        cell,
                        run: None,
                        call: None,
                        is_doubled: false,
                        what: What::Goodbye,
                        level: 0.0,
                        address: 0,
                        sent,
                        deadline,
                    }),
                );
            }
        }
    }

    fn again(&mut self, cell: usize, after: Option<Duration>) {
        if let Some(after) = after {
            let at = (self.scene.now + after).min(self.plan.calm);
            self.scene.at(at, Event::Launch(cell));
        }
    }

    fn calm(&mut self) {
        self.is_calm = true;
        self.scene.say(|_| "nothing goes wrong any more".to_owned());
        self.scene.network.weather = Weather::FINE;
        self.scene.network.cut.fill(None);
    }

    /// Everybody who lives is listed by now, and nobody else.
    fn settled(&mut self) {
        let lives = |cell: usize| {
            let mut runs = self.runs.iter().filter(|run| run.cell == cell);
            runs.any(|run| run.life == Life::Alive)
        };
        let living: Vec<usize> = (0..self.plan.cells.len())
            .filter(|cell| lives(*cell))
            .collect();
        let mut listed = self.scene.ledger.listed().to_vec();
        let room = self.plan.bounds.max_peers;
        listed.sort_unstable();
        let is_right = match living.len() > room {
            true => listed.len() == room && listed.iter().all(|cell| living.contains(cell)),
            false => listed == living,
        };
        if !is_right {
            self.scene.ledger.breaks(Invariant::Alive, || {
                format!("{listed:?} are listed and {living:?} live, long after the last trouble")
            });
        }
        self.settled_at = Some(self.scene.ledger.revision());
    }

    fn stays_quiet(&mut self) {
        if let Some(before) = self.settled_at
            && self.scene.ledger.revision() != before
        {
            self.scene.ledger.breaks(Invariant::Quiet, || {
                "the membership changes although nobody comes or goes".to_owned()
            });
        }
    }
}
