//! What is to be measured, as the command line says it, and what that needs.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};

use crate::{Result, wrk};

/// Measures discovery beside other servers, and beside itself at other sizes. All of it takes some 16
/// minutes, and is worth as much as the machine is quiet.
#[derive(Parser)]
#[command(name = "benches/compare", bin_name = "benches/compare")]
pub struct Arguments {
    /// What to measure; everything where nothing is named.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,

    /// How often each is measured.
    #[arg(long, default_value_t = 5, value_parser = between(1, 1000))]
    pub rounds: usize,

    /// For how many seconds each time.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,

    /// How many peers discovery has where that is not what is measured.
    #[arg(long, default_value_t = 10_000, value_parser = between(1, 1_000_000))]
    pub peers: usize,

    /// Over how many connections heartbeats are sent: at least one for each thread of wrk.
    #[arg(long, default_value_t = 64, value_parser = between(wrk::THREADS, 1000))]
    pub connections: usize,

    /// Once, for a second, and with few peers: shows that it works, and nothing else.
    #[arg(long)]
    pub quick: bool,

    /// Say all of it in JSON.
    #[arg(long)]
    pub json: bool,

    /// Say the main figures only, as the table that the README has.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,

    /// Draw what `sizes` measures, as SVG.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,

    /// Given by cargo.
    #[arg(long, hide = true)]
    pub bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
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

fn between(least: u64, most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=most)
}

impl Arguments {
    /// What to measure, each once.
    pub fn scenarios(&self) -> Vec<Scenario> {
        let is_named =
            |scenario: &Scenario| self.scenarios.is_empty() || self.scenarios.contains(scenario);
        let all = Scenario::value_variants().iter().copied();
        all.filter(is_named).collect()
    }

    /// Refuses what would be found out at the end only.
    pub fn check(&self) -> Result<()> {
        let scenarios = self.scenarios();
        if let Some(file) = &self.plot {
            if !scenarios.contains(&Scenario::Sizes) {
                let why = "--plot draws what `sizes` measures, which is not named\n";
                let mut command = Self::command();
                command.error(ErrorKind::ArgumentConflict, why).exit();
            }
            let opened = File::options().append(true).create(true).open(file);
            opened.map_err(|e| format!("--plot: cannot write {}: {e}", file.display()))?;
        }
        let is_missing = |tool: &&Tool| {
            scenarios.iter().any(|it| it.needs().contains(tool)) && tool.is_missing()
        };
        let missing: Vec<&Tool> = [&WRK, &NGINX].into_iter().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
        let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
        let (names, packages) = (names.join(" and "), packages.join(" "));
        Err(format!("missing: {names}; apt-get install {packages}").into())
    }
}

/// A program that has to be there.
#[derive(Debug, PartialEq, Eq)]
struct Tool {
    name: &'static str,
    package: &'static str,
}

const WRK: Tool = Tool {
    name: "wrk",
    package: "wrk",
};
const NGINX: Tool = Tool {
    name: "nginx",
    package: "nginx-light",
};

impl Tool {
    fn is_missing(&self) -> bool {
        let mut command = Command::new(self.name);
        let silent = command
            .arg("-v")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        silent.status().is_err()
    }
}

impl Scenario {
    fn needs(self) -> &'static [Tool] {
        match self {
            Self::Beats | Self::Connections => &[WRK, NGINX],
            Self::Peers | Self::Latency | Self::Sizes | Self::Registers => &[WRK],
            Self::Reaping | Self::Start | Self::Idle => &[],
        }
    }
}
