//! How fast discovery is, beside the HTTP layer it is built on, beside nginx, and beside itself at
//! other sizes. Run by `benches/compare`.
//!
//! Each scenario starts what it compares as child processes on the loopback and measures them by
//! turns, round by round, so that whatever else the machine does falls on all alike.

// It is a program: nothing in it is for others, and it says what it has measured.
#![allow(unreachable_pub, clippy::print_stdout, clippy::print_stderr)]

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
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use report::Report;
use tempfile::TempDir;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures discovery beside other servers, and beside itself at other sizes. Needs wrk and nginx.
#[derive(Parser)]
#[command(name = "benches/compare", bin_name = "benches/compare")]
struct Arguments {
    /// What to measure [default: all].
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,

    /// How often each is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// For how many seconds each time.
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// How many peers discovery has where that is not what is measured.
    #[arg(long, default_value_t = 10_000)]
    peers: usize,

    /// Over how many connections heartbeats are sent.
    #[arg(long, default_value_t = 64)]
    connections: usize,

    /// Once, for a second, and with few peers: shows that it works, and nothing else.
    #[arg(long)]
    quick: bool,

    /// Say all of it in JSON.
    #[arg(long)]
    json: bool,

    /// Say the main figures only, as the table that the README has.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,

    /// Draw what `sizes` measures, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Heartbeats over kept connections.
    Beats,
    /// Heartbeats with a connection each.
    Connections,
    /// The list, read by four while cells beat.
    Peers,
    /// How long heartbeats wait while eight read the list.
    Latency,
    /// Heartbeats, lists and memory at up to a million peers.
    Sizes,
    /// How long heartbeats wait while many are reaped.
    Reaping,
    /// Newcomers, and what is written of them to the state file.
    Registers,
    /// A start from a state file.
    Start,
    /// What is used when nothing happens.
    Idle,
}

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
    let scale = Scale::of(arguments);
    let mut report = Report::default();
    let scenarios = match arguments.scenarios.as_slice() {
        [] => Scenario::value_variants(),
        some => some,
    };
    for scenario in scenarios {
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
    Ok(TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?)
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
