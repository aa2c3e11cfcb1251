//! How fast discovery is, beside the HTTP layer it is built on, beside nginx, and beside itself at
//! other sizes. Run by `benches/compare`.
//!
//! Each scenario starts what it compares as child processes on the loopback and measures them by
//! turns, round by round, so that whatever else the machine does falls on all alike.

// It is a program: nothing in it is for others, and it says what it has measured.
#![allow(unreachable_pub, clippy::print_stdout, clippy::print_stderr)]

mod arguments;
mod child;
mod client;
mod crowds;
mod discovery;
mod fixed;
mod nginx;
mod open_loop;
mod plot;
mod readers;
mod report;
mod requests;
mod rest;
mod sizes;
mod throughput;
mod wrk;

use std::convert::Infallible;
use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use tempfile::TempDir;

use arguments::{Arguments, Scenario};
use report::Report;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How much is done.
struct Scale {
    rounds: usize,
    lasts: Duration,
    peers: usize,
    connections: usize,
    sizes: Vec<usize>,
    /// How many peers are reaped at once, and how long after the start.
    reaped: usize,
    reaped_after: Duration,
    /// How many register in a second, and for how long.
    registers: u32,
    registers_for: Duration,
    /// How many peers a state file has.
    kept: usize,
    idle_for: Duration,
}

impl Scale {
    fn of(arguments: &Arguments) -> Self {
        if arguments.quick {
            return Self {
                rounds: 1,
                lasts: Duration::from_secs(1),
                peers: 1000,
                connections: arguments.connections,
                sizes: vec![100, 1000, 10_000],
                reaped: 10_000,
                reaped_after: Duration::from_secs(10),
                registers: 2000,
                registers_for: Duration::from_secs(2),
                kept: 10_000,
                idle_for: Duration::from_secs(5),
            };
        }
        Self {
            rounds: arguments.rounds,
            lasts: Duration::from_secs(arguments.seconds),
            peers: arguments.peers,
            connections: arguments.connections,
            sizes: vec![100, 1000, 10_000, 100_000, 1_000_000],
            reaped: 200_000,
            reaped_after: Duration::from_secs(40),
            registers: 20_000,
            registers_for: Duration::from_secs(10),
            kept: 1_000_000,
            idle_for: Duration::from_secs(60),
        }
    }
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let becomes = match arguments.split_first() {
        Some((what, rest)) if what == fixed::SERVE => Some(fixed::serve(rest)),
        Some((what, rest)) if what == child::TETHERED => Some(child::tethered(rest)),
        _ => None,
    };
    match becomes {
        Some(ended) => ended.map(|never: Infallible| match never {}),
        None => measure(&Arguments::parse()),
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    if !arguments.bench {
        // `cargo test --benches` has come by.
        eprintln!("nothing is measured but by benches/compare");
        return Ok(());
    }
    arguments.check()?;
    ctrlc::set_handler(interrupted)?;
    let scale = Scale::of(arguments);
    let mut report = Report::default();
    if arguments.quick {
        eprintln!("these are figures of a quick run, which say that it works and nothing else");
    }
    for scenario in arguments.scenarios() {
        match scenario {
            Scenario::Beats => throughput::beats(&scale, &mut report)?,
            Scenario::Connections => throughput::connections(&scale, &mut report)?,
            Scenario::Peers => readers::lists(&scale, &mut report)?,
            Scenario::Latency => readers::latency(&scale, &mut report)?,
            Scenario::Sizes => {
                let points = sizes::sizes(&scale, &mut report)?;
                if let Some(file) = &arguments.plot {
                    plot::draw(file, &points)?;
                }
            }
            Scenario::Reaping => crowds::reaping(&scale, &mut report)?,
            Scenario::Registers => crowds::registers(&scale, &mut report)?,
            Scenario::Start => rest::start(&scale, &mut report)?,
            Scenario::Idle => rest::idle(&scale, &mut report)?,
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else if arguments.markdown {
        print!("{}", report.markdown());
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

/// A folder on the disk the project is on: in memory nothing is written.
fn folder() -> Result<TempDir> {
    let named = tempfile::Builder::new()
        .prefix(&folders())
        .tempdir_in(FOLDERS);
    Ok(named?)
}

/// Where the folders are.
const FOLDERS: &str = env!("CARGO_TARGET_TMPDIR");

/// What the names of this run's begin with.
fn folders() -> String {
    format!("comparison-{}-", std::process::id())
}

/// Leaves no folder behind, and no program, for those are tethered.
fn interrupted() {
    for entry in fs::read_dir(FOLDERS).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&folders()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    std::process::exit(130);
}

/// Lets time pass.
fn pause(how_long: Duration) {
    sleep_until(Instant::now() + how_long);
}

/// Waits until that moment has come.
fn sleep_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}
