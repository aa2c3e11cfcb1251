//! How many heartbeats are answered in a second: by discovery, and by servers that give a ready
//! reply.

use crate::discovery;
use crate::fixed::{self, Kind};
use crate::nginx::Nginx;
use crate::report::{Figure, Report, Unit, rounds};
use crate::wrk::Load;
use crate::{Result, Scale};

/// Connections are kept.
pub fn beats(scale: &Scale, report: &mut Report) -> Result<()> {
    compare("beats", true, scale, report)
}

/// Each heartbeat has a connection of its own, as Python's clients do it.
pub fn connections(scale: &Scale, report: &mut Report) -> Result<()> {
    compare("connections", false, scale, report)
}

/// The servers, and what each was measured at.
const DISCOVERY: usize = 0;
const BARE: usize = 1;
const RECV: usize = 2;
const DOOR: usize = 3;
const NGINX: usize = 4;
const NAMES: [&str; 5] = ["discovery", "bare", "recv", "door", "nginx"];

fn compare(name: &'static str, kept: bool, scale: &Scale, report: &mut Report) -> Result<()> {
    let discovery = discovery::with_peers(scale.peers)?;
    let replies = discovery::replies(discovery.address)?;
    let start = |kind| fixed::start(kind, &replies);
    let [bare, recv, door] = [start(Kind::Bare)?, start(Kind::Recv)?, start(Kind::Door)?];
    let nginx = Nginx::start(replies.beat())?;
    let servers = [&discovery, &bare, &recv, &door, &nginx.server];

    let load = Load {
        request: "heartbeat.http",
        peers: scale.peers,
        connections: scale.connections,
        kept,
        lasts: scale.lasts,
    };
    let mut rates: [Vec<f64>; 5] = Default::default();
    let mut cpu = Vec::new();
    for round in rounds(name, scale.rounds) {
        // Each is first in turn, lest one has the quieter part of every round.
        for place in 0..servers.len() {
            let which = (round + place) % servers.len();
            let before = servers[which].cpu_seconds()?;
            let outcome = load.run(servers[which].address)?;
            rates[which].push(outcome.rate());
            if which == DISCOVERY {
                let used = servers[which].cpu_seconds()? - before;
                cpu.push(used / (outcome.requests / 1e6));
            }
        }
    }
    let mut section = report.of(name);
    for (which, rates) in rates.iter().enumerate() {
        section.add(Figure::of(NAMES[which], Unit::PerSecond, rates));
    }
    let ratio = |above: usize, below: usize| {
        let name = format!("{} / {}", NAMES[above], NAMES[below]);
        Figure::ratio(name, &rates[above], &rates[below])
    };
    section.add(ratio(DISCOVERY, BARE).main());
    section.add(ratio(DISCOVERY, NGINX).main());
    section.add(ratio(DISCOVERY, DOOR));
    section.add(ratio(DOOR, BARE));
    section.add(ratio(BARE, RECV));
    let name = "discovery, processor time of a million";
    section.add(Figure::of(name, Unit::Seconds, &cpu).main());
    let peak = discovery.peak()?;
    section.add(Figure::once("discovery, peak memory", Unit::Bytes, peak).main());
    Ok(())
}
