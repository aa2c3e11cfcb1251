//! Those who read the list, and those who beat meanwhile.

use std::time::Duration;

use crate::child::Child;
use crate::fixed::{self, Kind};
use crate::open_loop::{OpenLoop, Waits};
use crate::report::{Figure, Report, Unit, rounds};
use crate::wrk::Load;
use crate::{Result, Scale, discovery, pause, requests};

/// How many heartbeats a second arrive meanwhile: of 10,000 cells at the usual interval.
pub const BEATS: u32 = 2000;

/// Discovery, and a loop that has a list of the same size ready.
struct Pair {
    discovery: Child,
    bare: Child,
}

impl Pair {
    fn start(scale: &Scale) -> Result<Self> {
        let discovery = discovery::with_peers(scale.peers)?;
        let replies = discovery::replies(discovery.address)?;
        let bare = fixed::start(Kind::Bare, &replies)?;
        Ok(Self { discovery, bare })
    }

    /// Both, in another order in every other round.
    fn in_turn(&self, round: usize) -> [(usize, &Child); 2] {
        let mut both = [(0, &self.discovery), (1, &self.bare)];
        both.rotate_left(round % 2);
        both
    }
}

fn readers(connections: usize, lasts: Duration) -> Load {
    Load {
        request: "peers.http",
        peers: 0,
        connections,
        kept: true,
        lasts,
    }
}

/// Heartbeats of `peers` peers in turn.
pub fn beats(server: &Child, peers: usize) -> Result<OpenLoop> {
    OpenLoop::start(server.address, BEATS, move |number| {
        requests::heartbeat(number % peers)
    })
}

/// How often the list is read by four while cells beat.
pub fn lists(scale: &Scale, report: &mut Report) -> Result<()> {
    let pair = Pair::start(scale)?;
    let mut rates: [Vec<f64>; 2] = Default::default();
    let mut answered = rates.clone();
    for round in rounds("peers", scale.rounds) {
        for (which, server) in pair.in_turn(round) {
            let beats = beats(server, scale.peers)?;
            let lists = readers(4, scale.lasts).run(server.address)?;
            answered[which].push(beats.end()?.rate);
            rates[which].push(lists.rate());
        }
    }
    let [discovery, bare] = rates;
    let mut section = report.of("peers");
    section.add(Figure::of("discovery", Unit::PerSecond, &discovery));
    section.add(Figure::of("bare", Unit::PerSecond, &bare));
    section.add(Figure::ratio("discovery / bare", &discovery, &bare).main());
    for (name, answered) in ["discovery", "bare"].iter().zip(&answered) {
        let name = format!("{name}, heartbeats meanwhile");
        section.add(Figure::of(name, Unit::PerSecond, answered));
    }
    let peak = pair.discovery.peak()?;
    section.add(Figure::once("discovery, peak memory", Unit::Bytes, peak).main());
    Ok(())
}

/// How long heartbeats wait, with and without eight who read the list without pause.
pub fn latency(scale: &Scale, report: &mut Report) -> Result<()> {
    let pair = Pair::start(scale)?;
    let alone = |server: &Child| -> Result<Waits> {
        let beats = beats(server, scale.peers)?;
        pause(scale.lasts);
        beats.end()
    };
    let among = |server: &Child| -> Result<Waits> {
        let beats = beats(server, scale.peers)?;
        readers(8, scale.lasts).run(server.address)?;
        beats.end()
    };
    let mut waits: [[Vec<f64>; 2]; 2] = Default::default();
    for round in rounds("latency", scale.rounds) {
        for (which, server) in pair.in_turn(round) {
            waits[which][0].push(alone(server)?.quantile(0.99));
            waits[which][1].push(among(server)?.quantile(0.99));
        }
    }
    let mut section = report.of("latency");
    for (name, [alone, among]) in ["discovery", "bare"].iter().zip(&waits) {
        let name = |what: &str| format!("{name}, p99 {what}");
        section.add(Figure::of(name("alone"), Unit::Milliseconds, alone).main());
        section.add(Figure::of(name("with 8 readers"), Unit::Milliseconds, among).main());
        section.add(Figure::ratio(name("with / alone"), among, alone).main());
    }
    Ok(())
}
