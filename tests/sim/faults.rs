//! What goes wrong in a world, and when: drawn from its seed before it begins.

use std::time::Duration;

use crate::chance::Chance;
use crate::invariants::Bounds;
use crate::network::{Cut, Weather};

/// What kind of cell one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As ours are.
    Usual,
    /// A client that knows nothing of instances and of what discovery advises.
    Old,
    /// It asks for a lease of its own, and beats as discovery then advises.
    OwnLease {
        /// How long.
        lease: Duration,
    },
    /// It is told to beat less often than usual.
    Slow {
        /// How often.
        every: Duration,
    },
}

/// What is lost of a state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    Everything,
    /// A byte, or a line.
    Something,
}

/// Something that goes wrong, or just happens.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The network is like this from now on.
    Weather(Weather),
    /// These cells are cut off.
    Cut(Vec<usize>, Cut),
    /// These are reached again.
    Mend(Vec<usize>),
    /// Discovery is stopped by SIGSTOP for so long.
    Pause(Duration),
    /// For so long the reaper's thread wakes up to so much too late.
    Starve(Duration, Duration),
    /// Discovery ends, and is started again after so long.
    End {
        /// Told to, or killed.
        gracefully: bool,
        /// Whether something of the state is lost with it.
        loss: Option<Loss>,
        /// For how long there is none.
        down_for: Duration,
    },
    /// The wall clock is moved by so many milliseconds.
    Wall(i64),
    /// A cell is stopped by SIGSTOP for so long; perhaps another run of it is started meanwhile.
    Freeze {
        /// Which.
        cell: usize,
        /// For how long.
        lasts: Duration,
        /// Whether somebody takes it for dead and starts another.
        successor: bool,
    },
    /// A cell is killed, and perhaps started again after so long.
    Kill(usize, Option<Duration>),
    /// A cell is told to stop, and perhaps started again after so long.
    Stop(usize, Option<Duration>),
    /// A cell has another level.
    Level(usize, f64),
    /// A cell is reached at another address, which it says when it registers next.
    Move(usize),
    /// An operator deregisters a cell.
    Deregister(usize),
}

/// A world, before it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its cells, and when each is first started.
    pub cells: Vec<(Kind, Duration)>,
    /// What discovery runs with.
    pub bounds: Bounds,
    /// Whether it has a state file.
    pub state_file: bool,
    /// The network at the beginning.
    pub weather: Weather,
    /// What happens, and when.
    pub faults: Vec<(Duration, Fault)>,
    /// When nothing goes wrong any more.
    pub calm: Duration,
    /// When everybody who lives must be listed, and nobody else.
    pub settled: Duration,
    /// When it ends; from [`Plan::settled`] on nothing changes any more.
    pub end: Duration,
}

/// How long the first registration is waited for at most, after a failed one.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

impl Plan {
    /// Draws the world of a seed. Each has its own few kinds of trouble: where everything goes wrong
    /// at once, everything hides everything.
    pub fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed, "plan");
        let stale_after = chance.one_of(&[15, 15, 15, 6, 30]) * SECOND;
        let reap_every = chance.one_of(&[5, 5, 5, 1, 8]) * SECOND;
        let crowded = chance.odds(0.15);
        let count = if crowded {
            22 + chance.below(20)
        } else {
            2 + chance.below(9)
        };
        let bounds = Bounds {
            stale_after,
            reap_every,
            max_peers: match chance.odds(0.1) {
                true => 1 + chance.below(count),
                false => 1_000,
            },
            hold_min: if crowded {
                chance.one_of(&[20, 20, 5])
            } else {
                chance.one_of(&[20, 2, 3, 0])
            },
            interval: stale_after / 3,
        };
        let cells: Vec<_> = (0..count)
            .map(|_| (kind(&mut chance, stale_after), chance.seconds(0.0, 12.0)))
            .collect();
        let calm = chance.seconds(60.0, if crowded { 120.0 } else { 180.0 });
        let mut longest = SECOND;
        let weather = weather(&mut chance, &mut longest);
        let mut faults = Vec::new();
        let is_short = |(kind, _): &(Kind, Duration)| matches!(kind, Kind::OwnLease { .. });
        let short_lived = cells.iter().position(is_short);
        draw(
            &mut chance,
            count,
            short_lived,
            calm,
            &mut longest,
            &mut faults,
        );
        faults.sort_by_key(|(at, _)| *at);
        let longest_lease = cells.iter().map(|(kind, _)| lease(*kind, stale_after));
        let longest_lease = longest_lease.max().unwrap_or(stale_after);
        // What is still on its way arrives and may take a place; that is given up a lease later.
        // Whoever was kept out by it finds out at its next beat, or after its back-off.
        let settled = calm
            + longest
            + longest_lease * 2
            + reap_every * 2
            + bounds.interval
            + LONGEST_BACKOFF
            + 10 * SECOND;
        Self {
            cells,
            bounds,
            state_file: chance.odds(0.6),
            weather,
            faults,
            calm,
            settled,
            end: settled + 20 * SECOND,
        }
    }

    /// The same world, in which nobody sets the clock.
    pub fn without_wall_steps(mut self) -> Self {
        self.faults
            .retain(|(_, fault)| !matches!(fault, Fault::Wall(_)));
        self
    }
}

fn kind(chance: &mut Chance, stale_after: Duration) -> Kind {
    match chance.below(10) {
        // They beat every 5 s, come what may.
        0 | 1 if stale_after >= 15 * SECOND => Kind::Old,
        2 => Kind::OwnLease {
            lease: match chance.odds(0.5) {
                true => SECOND,
                false => millis(chance.seconds(1.0, 6.0)),
            },
        },
        3 => Kind::Slow {
            every: millis(chance.seconds(6.0, 12.0)),
        },
        _ => Kind::Usual,
    }
}

/// As leases go over the wire.
fn millis(duration: Duration) -> Duration {
    Duration::from_millis(duration.as_millis() as u64)
}

fn lease(kind: Kind, stale_after: Duration) -> Duration {
    match kind {
        Kind::Usual | Kind::Old => stale_after,
        Kind::OwnLease { lease } => lease,
        Kind::Slow { every } => every * 3,
    }
}

fn weather(chance: &mut Chance, longest: &mut Duration) -> Weather {
    let long = match chance.odds(0.3) {
        true => chance.seconds(10.0, 70.0),
        false => chance.seconds(0.5, 10.0),
    };
    let mut some = |most: f64| {
        if chance.odds(0.5) {
            most * chance.fraction()
        } else {
            0.0
        }
    };
    let weather = Weather {
        lost: some(0.3),
        twice: some(0.2),
        slow: some(0.15),
        usual: Duration::from_millis(3 + (some(1.0) * 300.0) as u64),
        long,
    };
    *longest = (*longest).max(long);
    weather
}

fn draw(
    chance: &mut Chance,
    cells: usize,
    short_lived: Option<usize>,
    calm: Duration,
    longest: &mut Duration,
    faults: &mut Vec<(Duration, Fault)>,
) {
    let times = |chance: &mut Chance, likely: f64, most: usize| -> Vec<Duration> {
        let count = if chance.odds(likely) {
            1 + chance.below(most)
        } else {
            0
        };
        (0..count)
            .map(|_| chance.between(2 * SECOND, calm))
            .collect()
    };
    for at in times(chance, 0.5, 4) {
        let weather = weather(chance, longest);
        faults.push((at, Fault::Weather(weather)));
    }
    for at in times(chance, 0.5, 4) {
        let share = if chance.odds(0.5) { 0.9 } else { 0.3 };
        let cut: Vec<usize> = (0..cells).filter(|_| chance.odds(share)).collect();
        let way = if chance.odds(0.8) {
            Cut::Both
        } else {
            Cut::Answers
        };
        let lasts = chance.seconds(1.0, 60.0);
        faults.push((at, Fault::Cut(cut.clone(), way)));
        faults.push((at + lasts, Fault::Mend(cut)));
    }
    for at in times(chance, 0.5, 6) {
        let lasts = if chance.odds(0.5) {
            chance.seconds(0.05, 4.0)
        } else {
            chance.seconds(4.0, 90.0)
        };
        faults.push((at, Fault::Pause(lasts)));
    }
    for at in times(chance, 0.3, 3) {
        faults.push((
            at,
            Fault::Starve(chance.seconds(5.0, 40.0), chance.seconds(0.1, 20.0)),
        ));
    }
    if let Some(cell) = short_lived {
        for at in times(chance, 0.4, 4) {
            // It begins a lease anew, the reaper is slow to hear of it, and then all stops.
            let again = Some(chance.seconds(0.0, 0.05));
            let stops = at + chance.seconds(0.05, 0.4);
            faults.push((at, Fault::Starve(SECOND, 2 * SECOND)));
            faults.push((at, Fault::Kill(cell, again)));
            faults.push((stops, Fault::Pause(chance.seconds(4.0, 20.0))));
        }
    }
    for at in times(chance, 0.5, 4) {
        faults.push((
            at,
            Fault::End {
                gracefully: chance.odds(0.3),
                loss: match chance.below(7) {
                    0 => Some(Loss::Everything),
                    1 => Some(Loss::Something),
                    _ => None,
                },
                down_for: if chance.odds(0.5) {
                    chance.seconds(0.01, 1.0)
                } else {
                    chance.seconds(1.0, 40.0)
                },
            },
        ));
    }
    for at in times(chance, 0.4, 5) {
        // Somebody comes or goes, and soon after it is killed.
        let ends = at + chance.seconds(0.0, 3.0);
        for _ in 0..1 + chance.below(6) {
            let cell = chance.below(cells);
            let again = Some(chance.seconds(0.01, 0.5));
            let fault = match chance.odds(0.5) {
                true => Fault::Kill(cell, again),
                false => Fault::Stop(cell, again),
            };
            faults.push((at + chance.seconds(0.0, 2.0), fault));
        }
        faults.push((
            ends,
            Fault::End {
                gracefully: false,
                loss: None,
                down_for: chance.seconds(0.01, 1.0),
            },
        ));
    }
    for at in times(chance, 0.2, 2) {
        // Somebody comes and goes, it is killed, and only then all arrives a second time.
        let long = chance.seconds(5.0, 40.0);
        *longest = (*longest).max(long);
        let doubled = Weather {
            twice: 0.9,
            slow: 0.4,
            long,
            ..Weather::FINE
        };
        let cell = chance.below(cells);
        let again = Some(chance.seconds(0.01, 0.5));
        let stops = at + chance.seconds(1.0, 6.0);
        faults.push((at, Fault::Weather(doubled)));
        faults.push((at, Fault::Kill(cell, again)));
        faults.push((stops, Fault::Stop(cell, None)));
        faults.push((
            stops + chance.seconds(0.5, 5.0),
            Fault::End {
                gracefully: chance.odds(0.3),
                loss: None,
                down_for: chance.seconds(0.01, 2.0),
            },
        ));
        faults.push((stops + long, Fault::Weather(Weather::FINE)));
    }
    for at in times(chance, 0.4, 4) {
        let by = chance.one_of(&[3_600_000, 60_000, 14_000, 2_000, 40]);
        let by = if chance.odds(0.5) { by } else { -by };
        faults.push((at, Fault::Wall(by)));
    }
    let again = |chance: &mut Chance| match chance.odds(0.75) {
        true if chance.odds(0.5) => Some(chance.seconds(0.01, 0.5)),
        true => Some(chance.seconds(0.5, 40.0)),
        false => None,
    };
    for at in times(chance, 0.4, 5) {
        faults.push((
            at,
            Fault::Freeze {
                cell: chance.below(cells),
                lasts: chance.seconds(0.1, 60.0),
                successor: chance.odds(0.4),
            },
        ));
    }
    for at in times(chance, 0.5, 6) {
        faults.push((at, Fault::Kill(chance.below(cells), again(chance))));
    }
    for at in times(chance, 0.6, 8) {
        faults.push((at, Fault::Stop(chance.below(cells), again(chance))));
    }
    if chance.odds(0.2) {
        // A rack loses power.
        let at = chance.between(20 * SECOND, calm);
        for cell in 0..cells {
            if chance.odds(0.8) {
                faults.push((at, Fault::Kill(cell, again(chance))));
            }
        }
    }
    for at in times(chance, 0.4, 6) {
        faults.push((at, Fault::Level(chance.below(cells), chance.fraction())));
    }
    for at in times(chance, 0.5, 8) {
        faults.push((at, Fault::Move(chance.below(cells))));
    }
    for at in times(chance, 0.2, 3) {
        faults.push((at, Fault::Deregister(chance.below(cells))));
    }
}
