//! The network between cells and discovery: it drops, delays, duplicates and cuts off.
//!
//! Every call has a connection of its own, so any two may overtake each other, and a request may
//! arrive long after its sender gave it up, or died.

use std::time::Duration;

use crate::chance::Chance;
use crate::coverage::Seen;
use crate::safeguards::Safeguard;
use crate::world::{Event, Scene};

/// How long a connection that is refused or unreachable takes to fail.
const FAILS_AFTER: Duration = Duration::from_millis(2);

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose it is.
    pub cell: usize,
    /// The run that sent it; nobody's where an operator did.
    pub run: Option<usize>,
    /// The call it belongs to, which waits for its answer. Copies have none.
    pub call: Option<u32>,
    /// Whether something on the way sent it twice.
    pub is_doubled: bool,
    /// What it asks.
    pub what: What,
    /// The level it carries.
    pub level: f64,
    /// The last number of the address it carries.
    pub address: u8,
    /// Its place among all that was sent.
    pub sent: u64,
    /// When nobody waits any more.
    pub deadline: Duration,
}

/// What a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// `POST /register`
    Register,
    /// `POST /heartbeat`
    Beat,
    /// `DELETE /peer/{cell_id}`
    Goodbye,
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// 200, and the interval the answer to a registration asks for.
    Ok(Option<Duration>),
    /// Another status.
    Status(u16),
    /// None in time.
    Nothing {
        /// Whether the request cannot have arrived.
        never_sent: bool,
    },
}

/// How well the network works.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// How likely a request or an answer is lost.
    pub lost: f64,
    /// How likely a request arrives twice.
    pub twice: f64,
    /// How likely one takes long.
    pub slow: f64,
    /// How long it takes at most otherwise.
    pub usual: Duration,
    /// How long it then takes at most.
    pub long: Duration,
}

impl Weather {
    /// Nothing is lost and nothing is slow.
    pub const FINE: Self = Self {
        lost: 0.0,
        twice: 0.0,
        slow: 0.0,
        usual: Duration::from_millis(3),
        long: Duration::ZERO,
    };
}

/// Which way a cell is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing passes.
    Both,
    /// Its requests arrive, the answers do not.
    Answers,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    /// How it is at the moment.
    pub weather: Weather,
    /// Who is cut off, by cell.
    pub cut: Vec<Option<Cut>>,
    chance: Chance,
    sent: u64,
}

impl Network {
    /// One for so many cells.
    pub fn new(seed: u64, cells: usize, weather: Weather) -> Self {
        Self {
            weather,
            cut: vec![None; cells],
            chance: Chance::new(seed, "network"),
            sent: 0,
        }
    }

    /// The place of the next request among all.
    pub fn next_sent(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    fn delay(&mut self) -> (Duration, bool) {
        let weather = self.weather;
        let slow = self.chance.odds(weather.slow);
        let at_most = if slow { weather.long } else { weather.usual };
        (
            self.chance.between(Duration::from_micros(200), at_most),
            slow,
        )
    }
}

impl Scene {
    /// Sends a request, which somebody waits for until its deadline.
    pub fn send(&mut self, mut request: Request) {
        let (now, weather) = (self.now, self.network.weather);
        let chance = &mut self.network.chance;
        let waits_for = request.deadline.saturating_sub(now);
        if self.network.cut[request.cell] == Some(Cut::Both) {
            self.coverage.saw(Seen::CutOff);
            // No route, or no answer to the first packet: either way it never got through.
            let after = match chance.odds(0.3) {
                true => FAILS_AFTER,
                false => waits_for.mul_f64(0.9),
            };
            self.coverage.saw(Seen::Unreachable);
            self.end_call(&request, now + after, Answer::Nothing { never_sent: true });
            return;
        }
        if chance.odds(weather.lost) {
            self.coverage.saw(Seen::RequestLost);
            self.time_out(&request);
            return;
        }
        if chance.odds(weather.twice) {
            let (delay, _) = self.network.delay();
            self.coverage.saw(Seen::Duplicated);
            request.is_doubled = true;
            let copy = Request {
                call: None,
                ..request.clone()
            };
            self.at(now + delay, Event::Arrive(copy));
        }
        let (delay, slow) = self.network.delay();
        if slow {
            self.coverage.saw(Seen::ArrivedLate);
        }
        if now + delay >= request.deadline {
            self.time_out(&request);
        }
        self.at(now + delay, Event::Arrive(request));
    }

    /// Sends the answer to a request that was served.
    pub fn answer(&mut self, request: &Request, answer: Answer) {
        if request.call.is_none() || self.now >= request.deadline {
            return;
        }
        let lost = self.network.chance.odds(self.network.weather.lost);
        let (delay, _) = self.network.delay();
        if lost || self.network.cut[request.cell].is_some() {
            self.coverage.saw(Seen::AnswerLost);
            self.time_out(request);
        } else if self.now + delay >= request.deadline {
            self.time_out(request);
        } else {
            self.end_call(request, self.now + delay, answer);
        }
    }

    /// Tells the sender that nobody listens at the port.
    pub fn refuse(&mut self, request: &Request) {
        self.coverage.saw(Seen::Refused);
        let at = self.now + FAILS_AFTER;
        // Whoever sends it twice has taken it from its sender.
        let never_sent = !request.is_doubled;
        self.end_call(request, at, Answer::Nothing { never_sent });
    }

    /// Tells the sender that the connection was reset, with the request in discovery's hands.
    pub fn reset(&mut self, request: &Request) {
        let at = self.now + FAILS_AFTER;
        self.end_call(request, at, Answer::Nothing { never_sent: false });
    }

    /// Nobody will answer: the sender gives up at its deadline.
    pub fn time_out(&mut self, request: &Request) {
        if !self.lacks(Safeguard::TimeOut) {
            let at = request.deadline;
            self.end_call(request, at, Answer::Nothing { never_sent: false });
        }
    }

    fn end_call(&mut self, request: &Request, at: Duration, answer: Answer) {
        if let (Some(run), Some(call)) = (request.run, request.call) {
            self.at(at, Event::Answered { run, call, answer });
        }
    }
}
