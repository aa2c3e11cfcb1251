//! Killed at any instant, while cells join, beat and leave.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::*;
use crate::support::{ask, random};

const CELLS: usize = 1000;
/// Threads that speak for them.
const SPEAKERS: usize = 8;
/// What may be lost.
const LATE: Duration = SECOND;

/// A cell as whoever runs it knows it.
#[derive(Clone, Debug)]
struct Cell {
    id: String,
    run: u32,
    /// Since when it is known that it is in the list, unless it has said goodbye since.
    in_since: Option<Instant>,
    /// Since when it is known that it is not, unless it has registered since.
    out_since: Option<Instant>,
}

impl Cell {
    fn new(number: usize) -> Self {
        Self {
            id: format!("cell-{number}"),
            run: 0,
            in_since: None,
            out_since: None,
        }
    }

    /// Registers, as a new run where it has left.
    fn join(&mut self, line: &Line) -> io::Result<()> {
        if self.in_since.is_none() {
            self.run += 1;
        }
        self.out_since = None;
        let body = format!(
            r#"{{"cell_id":"{}","instance":"{}","ip":"10.0.0.1","port":7,"branch":"{}"}}"#,
            self.id, self.run, self.run
        );
        let status = line.ask("POST", "/register", &body)?;
        assert_eq!(status, 200, "{self:?} registers");
        self.in_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn beat(&self, line: &Line) -> io::Result<()> {
        let body = format!(r#"{{"cell_id":"{}","instance":"{}"}}"#, self.id, self.run);
        let status = line.ask("POST", "/heartbeat", &body)?;
        assert_eq!(status, 200, "{self:?} beats");
        Ok(())
    }

    fn leave(&mut self, line: &Line) -> io::Result<()> {
        self.in_since = None;
        let target = format!("/peer/{}?instance={}", self.id, self.run);
        let status = line.ask("DELETE", &target, "")?;
        assert_eq!(status, 200, "{self:?} leaves");
        self.out_since = Some(Instant::now());
        Ok(())
    }
}

/// How discovery is reached, and the highest revision it has told.
struct Line {
    address: String,
    revision: AtomicU64,
    stopping: AtomicBool,
}

impl Line {
    /// The status of an answer; an error where there was none, for discovery was killed.
    fn ask(&self, method: &str, target: &str, body: &str) -> io::Result<u16> {
        let (status, body) = ask(&self.address, method, target, body)?;
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        if let Some(revision) = body["revision"].as_u64() {
            self.revision.fetch_max(revision, Ordering::SeqCst);
        }
        Ok(status)
    }
}

/// Has the cells do something, one after the other, until discovery is gone.
fn speak(mut cells: Vec<Cell>, line: &Line) -> (Vec<Cell>, usize) {
    let mut answered = 0;
    // So that some have been in, or out, for more than what may be lost.
    let one = |cell: &mut Cell| match (cell.in_since, cell.out_since, random(20)) {
        (None, Some(_), 1..) => Ok(()),
        (None, _, _) | (Some(_), _, 0) => cell.join(line),
        (Some(_), _, 1) => cell.leave(line),
        (Some(_), _, _) => cell.beat(line),
    };
    loop {
        for cell in &mut cells {
            if line.stopping.load(Ordering::SeqCst) || one(cell).is_err() {
                return (cells, answered);
            }
            answered += 1;
        }
    }
}

/// Lets the cells live for a while, until discovery is killed. Returns them as they are known then,
/// when that was, and how many requests were answered.
fn live_until_killed(
    discovery: Child,
    cells: &[Cell],
    line: &Arc<Line>,
) -> (Vec<Cell>, Instant, usize) {
    line.stopping.store(false, Ordering::SeqCst);
    let speakers: Vec<JoinHandle<_>> = cells
        .chunks(CELLS / SPEAKERS)
        .map(|cells| {
            let (cells, line) = (cells.to_vec(), Arc::clone(line));
            std::thread::spawn(move || speak(cells, &line))
        })
        .collect();
    pause(2 * LATE + LATE.mul_f64(random(1500) as f64 / 1000.0));
    let killed = Instant::now();
    kill(discovery);
    line.stopping.store(true, Ordering::SeqCst);
    let mut cells = Vec::new();
    let mut answered = 0;
    for speaker in speakers {
        let (share, count) = speaker
            .join()
            .expect("nothing was answered that may not be");
        cells.extend(share);
        answered += count;
    }
    (cells, killed, answered)
}

#[test]
fn killed_at_any_instant_it_brings_back_whoever_was_there_and_nobody_else() {
    let kills = if full_form() { 50 } else { 10 };
    // In memory, where there is such a place: a kill loses nothing that was handed to the system, and
    // how slow the disk is under all the other tests is not what is asked.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.expect("a folder");
    let file = folder.path().join("discovery.state");
    let mut discovery = with_state(&file, &[]);
    let epoch = list(&discovery)["epoch"].clone();
    let line = Arc::new(Line {
        address: discovery.address.clone(),
        revision: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
    });
    let (_, port) = line.address.rsplit_once(':').expect("a port");
    let mut cells: Vec<Cell> = (0..CELLS).map(Cell::new).collect();
    let (mut there, mut gone, mut requests, mut slowest) = (0, 0, 0, Duration::ZERO);
    for _ in 0..kills {
        let (known, killed, answered) = live_until_killed(discovery, &cells, &line);
        cells = known;
        requests += answered;
        let started = Instant::now();
        let own = ["--host", "127.0.0.1", "--port", port];
        let state = ["--state-file", text(&file)];
        discovery = Child::start("aios-discovery", &[&own[..], &state].concat());
        let list = list(&discovery);
        slowest = slowest.max(started.elapsed());

        assert_eq!(list["epoch"], epoch);
        assert!(revision(&list) > line.revision.load(Ordering::SeqCst));
        let listed = list["peers"].as_array().expect("a list").iter();
        let listed: HashSet<&str> = listed.filter_map(|peer| peer["cell_id"].as_str()).collect();
        let is_due = |since: Option<Instant>| since.is_some_and(|at| at + LATE < killed);
        for cell in &mut cells {
            let is_listed = listed.contains(&*cell.id);
            // Where it was not known for long enough it may be there or not, and registers again.
            if is_due(cell.in_since) {
                assert!(is_listed, "{cell:?} is missing, killed at {killed:?}");
                there += 1;
            } else {
                cell.in_since = None;
            }
            if is_due(cell.out_since) {
                assert!(!is_listed, "{cell:?} is back, killed at {killed:?}");
                gone += 1;
            } else {
                cell.out_since = None;
            }
        }
    }
    report(&format!(
        "{kills} kills under {requests} requests of {CELLS} cells: {there} cells were there again, {gone} stayed away, slowest start {slowest:?}"
    ));
    assert!(there > 100 * kills && gone > 10 * kills);
}
