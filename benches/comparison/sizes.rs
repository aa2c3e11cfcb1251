//! What changes with the number of peers, and what does not.

use std::time::{Duration, Instant};

use crate::child::Child;
use crate::client::Connection;
use crate::report::{self, Figure, Report, Section, Unit, with_commas};
use crate::wrk::Load;
use crate::{Result, Scale, discovery, requests};

/// How often the list is read at least where one takes long.
const READ_AT_LEAST: usize = 3;

/// A discovery of one size.
struct Sized {
    peers: usize,
    discovery: Child,
    beats: Vec<f64>,
    lists: Vec<Duration>,
}

/// What one size came to.
pub struct Point {
    pub peers: usize,
    /// Heartbeats a second.
    pub beats: f64,
    /// How long the list took, in milliseconds.
    pub list_median: f64,
    pub list_p99: f64,
}

/// Heartbeats and lists at each size, and the memory of the largest.
pub fn sizes(scale: &Scale, report: &mut Report) -> Result<Vec<Point>> {
    let mut section = report.of("sizes");
    let mut sizes = Vec::new();
    for &peers in &scale.sizes {
        let what = format!("{} peers register", with_commas(peers));
        report::say("sizes", what);
        let is_largest = Some(&peers) == scale.sizes.last();
        let discovery = discovery::empty(&discovery::FOR_EVER)?;
        let empty = discovery.resident()?;
        discovery::register(discovery.address, 0..peers)?;
        if is_largest {
            memory(&discovery, empty, peers, &mut section)?;
        }
        sizes.push(Sized {
            peers,
            discovery,
            beats: Vec::new(),
            lists: Vec::new(),
        });
    }
    for _ in report::rounds("sizes", scale.rounds) {
        for size in &mut sizes {
            size.measure(scale)?;
        }
        // The first is last in the next round.
        sizes.rotate_left(1);
    }
    sizes.sort_by_key(|size| size.peers);
    let points = sizes.iter().map(|size| size.tell(&mut section)).collect();
    if let [smallest, .., largest] = sizes.as_slice() {
        let [large, small] = [largest, smallest].map(|size| with_commas(size.peers));
        let ratio = format!("beats at {large} peers / at {small}");
        section.add(Figure::ratio(ratio, &largest.beats, &smallest.beats).main());
    }
    Ok(points)
}

/// What a peer takes of memory.
fn memory(discovery: &Child, empty: f64, peers: usize, section: &mut Section) -> Result<()> {
    let registered = discovery.resident()?;
    let mut connection = Connection::to(discovery.address)?;
    connection.ask(&requests::peers())?;
    let read = discovery.resident()?;
    let mut each = |what: &str, bytes: f64| {
        let name = format!("memory a peer, {} {what}", with_commas(peers));
        section.add(Figure::once(name, Unit::Bytes, bytes / peers as f64).main());
    };
    each("registered", registered - empty);
    each("listed once, more", read - registered);
    Ok(())
}

impl Sized {
    fn measure(&mut self, scale: &Scale) -> Result<()> {
        let load = Load {
            request: "heartbeat.http",
            peers: self.peers,
            connections: scale.connections,
            kept: true,
            lasts: scale.lasts,
        };
        self.beats.push(load.run(self.discovery.address)?.rate());

        let mut connection = Connection::to(self.discovery.address)?;
        let begins = Instant::now();
        for number in 0.. {
            if number >= READ_AT_LEAST && begins.elapsed() > scale.lasts {
                break;
            }
            let asked = Instant::now();
            let status = connection.ask(&requests::peers())?.status;
            if status != 200 {
                return Err(format!("the list was answered {status}").into());
            }
            self.lists.push(asked.elapsed());
        }
        Ok(())
    }

    fn tell(&self, section: &mut Section) -> Point {
        let at = |what: &str| format!("{what} {} peers", with_commas(self.peers));
        let mut lists = self.lists.clone();
        lists.sort_unstable();
        let list = |part| report::quantile(&lists, part).as_secs_f64() * 1e3;
        let beats = Figure::of(at("beats at"), Unit::PerSecond, &self.beats);
        let point = Point {
            peers: self.peers,
            beats: beats.median(),
            list_median: list(0.5),
            list_p99: list(0.99),
        };
        section.add(beats);
        let list = |name, took| Figure::once(name, Unit::Milliseconds, took);
        section.add(list(at("list, median, of"), point.list_median));
        section.add(list(at("list, p99, of"), point.list_p99));
        point
    }
}
