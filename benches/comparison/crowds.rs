//! Many who come at once, and many who are gone at once.

use std::fs;
use std::time::{Duration, Instant};

use crate::client::Connection;
use crate::open_loop::OpenLoop;
use crate::report::{Figure, Report, Unit, say, with_commas};
use crate::wrk::Load;
use crate::{Result, Scale, discovery, folder, pause, readers, requests, sleep_until};

/// How many beat on while the others are reaped.
const BEATING: usize = 1000;
/// For how long heartbeats are watched before the others are reaped.
const BEFORE: Duration = Duration::from_secs(1);

/// How long a heartbeat waits while one pass of the reaper takes out a crowd.
pub fn reaping(scale: &Scale, report: &mut Report) -> Result<()> {
    let crowd = scale.reaped;
    let pass_after = format!("{}s", scale.reaped_after.as_secs());
    let flags = [
        "--stale-after",
        "2s",
        "--hold-min",
        "0",
        "--reap-every",
        &pass_after,
    ];
    let started = Instant::now();
    let discovery = discovery::empty(&flags)?;
    say(
        "reaping",
        format_args!("{} peers register, and are silent", with_commas(crowd)),
    );
    discovery::register(discovery.address, 0..crowd)?;
    let pass = started + scale.reaped_after;
    if Instant::now() + Duration::from_secs(4) > pass {
        return Err("this machine registers too slowly to have all of them reaped at once".into());
    }
    sleep_until(pass - BEFORE);
    discovery::register(discovery.address, crowd..crowd + BEATING)?;
    let beat = move |number: usize| requests::heartbeat(crowd + number % BEATING);
    let beats = OpenLoop::start(discovery.address, readers::BEATS, beat)?;
    let mut connection = Connection::to(discovery.address)?;
    let mut begun: Option<Instant> = None;
    let took = loop {
        let left = discovery::count(&mut connection, crowd)?;
        if left < crowd + BEATING {
            begun.get_or_insert_with(Instant::now);
        }
        if left == BEATING {
            break begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        }
        if started.elapsed() > 3 * scale.reaped_after {
            return Err(format!("{left} peers are left after the pass").into());
        }
        pause(Duration::from_millis(1));
    };
    let lasted = pass.elapsed() + BEFORE;
    let waits = beats.end()?;
    let beats = OpenLoop::start(discovery.address, readers::BEATS, beat)?;
    pause(lasted);
    let quiet = beats.end()?;

    let mut section = report.of("reaping");
    let millis = |name: &str, value| Figure::once(name, Unit::Milliseconds, value);
    let gone = format!("{} peers taken out in", with_commas(crowd));
    section.add(millis(&gone, took.as_secs_f64() * 1e3).main());
    section.add(millis("longest wait of a beat meanwhile", waits.longest()).main());
    section.add(millis("longest wait of a beat otherwise", quiet.longest()));
    Ok(())
}

/// How fast newcomers are taken and written to the state file, while two read the list.
pub fn registers(scale: &Scale, report: &mut Report) -> Result<()> {
    let folder = folder()?;
    let file = folder.path().join("state");
    let path = file.to_string_lossy();
    let flags = [&discovery::FOR_EVER[..], &["--state-file", &path]].concat();
    let discovery = discovery::empty(&flags)?;
    let before = discovery.written()?;
    let load = Load {
        request: "peers.http",
        peers: 0,
        connections: 2,
        kept: true,
        lasts: scale.registers_for,
    };
    say("registers", "newcomers register");
    let registers = OpenLoop::start(discovery.address, scale.registers, requests::register)?;
    let lists = load.run(discovery.address)?;
    let waits = registers.end()?;
    discovery.has_written()?;
    let changes = waits.count() as f64;
    let written = (discovery.written()? - before) / changes;
    let kept = fs::metadata(&file)?.len() as f64 / changes;

    let mut section = report.of("registers");
    let rate = |name: &str, value| Figure::once(name, Unit::PerSecond, value);
    let millis = |name: &str, value| Figure::once(name, Unit::Milliseconds, value);
    let bytes = |name: &str, value| Figure::once(name, Unit::Bytes, value);
    section.add(rate("asked for", scale.registers.into()).main());
    section.add(rate("answered", waits.rate).main());
    section.add(millis("p99 of the wait", waits.quantile(0.99)));
    section.add(millis("longest wait", waits.longest()).main());
    section.add(rate("lists read meanwhile", lists.rate()));
    section.add(bytes("written for each", written));
    section.add(bytes("kept of each", kept));
    section.add(Figure::once("written / kept", Unit::Ratio, written / kept).main());
    Ok(())
}
