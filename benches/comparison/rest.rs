//! What a start takes, and what is used when nothing happens.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::child::{Child, free_port};
use crate::client::Connection;
use crate::report::{Figure, Report, Unit, rounds, say, with_commas};
use crate::{Result, Scale, discovery, folder, pause, requests};

/// How often wakes are counted until no thread ends meanwhile.
const TRIES: usize = 5;

/// How long discovery takes to be back with everybody from its state file.
pub fn start(scale: &Scale, report: &mut Report) -> Result<()> {
    let peers = scale.kept;
    let folder = folder()?;
    let file = folder.path().join("state");
    let path = file.to_string_lossy();
    let flags = [&discovery::FOR_EVER[..], &["--state-file", &path]].concat();
    let first = discovery::empty(&flags)?;
    let what = format!("{} peers register, and are written", with_commas(peers));
    say("start", what);
    discovery::register(first.address, 0..peers)?;
    first.has_written()?;
    first.stop()?;
    let (mut served, mut listed) = (Vec::new(), Vec::new());
    for _ in rounds("start", scale.rounds) {
        let begins = Instant::now();
        let discovery = discovery::empty(&flags)?;
        let mut connection = Connection::to(discovery.address)?;
        let found = discovery::count(&mut connection, peers - 1)?;
        served.push(begins.elapsed().as_secs_f64());
        let length = connection.ask(&requests::peers())?.body.len();
        listed.push(begins.elapsed().as_secs_f64());
        if found != peers || length < 100 * peers {
            return Err(format!("{found} of {peers} peers are back").into());
        }
        discovery.stop()?;
    }
    let mut section = report.of("start");
    let name = |what: &str| format!("{what} {} peers", with_commas(peers));
    let beats = name("until heartbeats are answered, with");
    section.add(Figure::of(beats, Unit::Seconds, &served).main());
    let list = name("until the list is read, of");
    section.add(Figure::of(list, Unit::Seconds, &listed));
    Ok(())
}

/// What a discovery and a cell use when nothing happens but that the cell beats.
pub fn idle(scale: &Scale, report: &mut Report) -> Result<()> {
    let alone = discovery::empty(&[])?;
    let beaten = discovery::empty(&[])?;
    let port = free_port()?;
    let arguments = [
        "--id",
        "idle",
        "--host",
        "127.0.0.1",
        "--port",
        &port.to_string(),
        "--discovery",
        &format!("http://{}", beaten.address),
    ];
    let cell = env!("CARGO_BIN_EXE_aios-cell");
    let cell = Child::start(cell, &arguments.map(str::to_owned), port)?;
    say("idle", "nothing happens");
    // The threads that served the start have ended after this.
    pause(scale.idle_for / 5);

    let programs = [
        ("discovery", &alone),
        ("discovery with one cell", &beaten),
        ("cell", &cell),
    ];
    let wakes = wakes(&programs.map(|(_, program)| program), scale.idle_for)?;
    let mut section = report.of("idle");
    for ((name, program), wakes) in programs.iter().zip(wakes) {
        let name = |what: &str| format!("{name}, {what}");
        let memory = |what, bytes| Figure::once(name(what), Unit::Bytes, bytes);
        section.add(memory("memory", program.resident()?).main());
        section.add(memory("peak memory", program.peak()?));
        section.add(Figure::once(name("wakes"), Unit::PerSecond, wakes).main());
    }
    Ok(())
}

/// How often a thread of each of the programs goes to sleep by itself, a second.
fn wakes(programs: &[&Child], lasts: Duration) -> Result<Vec<f64>> {
    for _ in 0..TRIES {
        let count = || -> Result<Vec<_>> { programs.iter().map(|it| it.sleeps()).collect() };
        let before = count()?;
        pause(lasts);
        let after = count()?;
        // A thread that has ended took its count with it.
        let pairs = || before.iter().zip(&after);
        if pairs().any(|(before, after)| before.keys().any(|it| !after.contains_key(it))) {
            continue;
        }
        let sum = |sleeps: &HashMap<_, f64>| sleeps.values().sum::<f64>();
        let wakes = pairs().map(|(before, after)| sum(after) - sum(before));
        return Ok(wakes.map(|it| it / lasts.as_secs_f64()).collect());
    }
    Err("threads kept ending while their wakes were counted".into())
}
