//! `aios-mesh wait`: until some peers are there, or some are not.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};

use super::{Target, wanted::Wanted};
use crate::args;
use crate::client::{CallError, Client};
use crate::logging;
use crate::program::{self, Failure};
use crate::shutdown::Latch;
use crate::wire;

/// How long one call waits for a change.
const LONG_POLL: Duration = Duration::from_secs(20);
/// How often a discovery is asked that lets nobody wait, or cannot be reached.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long it is waited without a word.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the last call may take to be answered.
const GRACE: Duration = Duration::from_secs(1);
/// The longest time-out.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What `wait` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    until: Until,

    /// How long to wait at most; then the exit code is 3.
    #[arg(long, env = "AIOS_WAIT_TIMEOUT", default_value = "30s", value_parser = args::duration_within(Duration::ZERO..=LONGEST))]
    timeout: Duration,
}

/// What is to be waited for: one of [`Given`]. Where a flag says it, no variable counts.
#[derive(Debug)]
struct Until(Wanted);

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Given {
    /// Until all of these are listed: ids, separated by commas, so none with a comma.
    #[arg(long = "for", env = "AIOS_WAIT_FOR", value_name = "IDS", value_delimiter = ',', value_parser = id)]
    ids: Option<Vec<String>>,

    /// Until so many peers are listed.
    #[arg(long, env = "AIOS_WAIT_MIN", value_name = "COUNT", value_parser = args::count)]
    min: Option<usize>,

    /// Until none of these is listed: ids, separated by commas, so none with a comma.
    #[arg(long, env = "AIOS_WAIT_GONE", value_name = "IDS", value_delimiter = ',', value_parser = id)]
    gone: Option<Vec<String>>,
}

/// One of a list of ids, which may be written with blanks between them.
fn id(text: &str) -> Result<String, String> {
    args::name(text.trim())
}

impl clap::Args for Until {
    fn augment_args(command: Command) -> Command {
        Given::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Given::augment_args_for_update(command)
    }
}

impl FromArgMatches for Until {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = Given::from_arg_matches(matches)?;
        let by = |source| {
            let is_by = |name: &&str| matches.value_source(name) == Some(source);
            ["ids", "min", "gone"].into_iter().filter(is_by).collect()
        };
        let mut named: Vec<&str> = by(ValueSource::CommandLine);
        let mut allowed = "--for, --min and --gone";
        if named.is_empty() {
            named = by(ValueSource::EnvVariable);
            allowed = "AIOS_WAIT_FOR, AIOS_WAIT_MIN and AIOS_WAIT_GONE";
        }
        let wanted = match (&*named, given) {
            (["ids"], Given { ids: Some(ids), .. }) => Wanted::All(ids),
            (
                ["min"],
                Given {
                    min: Some(count), ..
                },
            ) => Wanted::AtLeast(count),
            (
                ["gone"],
                Given {
                    gone: Some(ids), ..
                },
            ) => Wanted::Without(ids),
            _ => {
                let why = format!("give one of {allowed}, and not several of them");
                return Err(clap::Error::raw(ErrorKind::ArgumentConflict, why));
            }
        };
        Ok(Self(wanted))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    program::start_log()?;
    let now = Instant::now();
    Wait {
        target: &arguments.target,
        client: arguments.target.client()?,
        wanted: &arguments.until.0,
        timeout: arguments.timeout,
        deadline: now + arguments.timeout,
        speak_at: io::stderr().is_terminal().then_some(now + PATIENCE),
        index: None,
        lets_wait: true,
        lost: false,
        sure_from: now,
        complete: true,
    }
    .run()
}

/// A wait.
struct Wait<'a> {
    target: &'a Target,
    client: Client,
    wanted: &'a Wanted,
    timeout: Duration,
    deadline: Instant,
    /// When to say what is waited for.
    speak_at: Option<Instant>,
    /// The revision of the list that was read last.
    index: Option<u64>,
    /// Whether discovery answers when something has changed, and not at once.
    lets_wait: bool,
    /// Whether discovery could not be reached the last time.
    lost: bool,
    /// From when on a list that does not say whether it is complete is taken to be.
    sure_from: Instant,
    /// Whether the last list was.
    complete: bool,
}

impl Wait<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        // Nobody sets it.
        let pause = Latch::new();
        loop {
            let asked = Instant::now();
            let (lacking, pausing) = match self.ask(asked) {
                Ok((None, _)) => return Ok(()),
                Ok((Some(lacking), pausing)) => (lacking, pausing),
                Err(e) if is_final(&e) => return Err(self.target.failure(&e)),
                Err(e) => {
                    self.lost = true;
                    (self.target.failure(&e).to_string(), true)
                }
            };
            if Instant::now() >= self.deadline {
                let timeout = args::show_duration(self.timeout);
                return Err(Failure::timed_out(format!("after {timeout}: {lacking}")));
            }
            self.speak();
            if pausing {
                let _ = pause.wait_until(self.deadline.min(asked + LOOK_EVERY));
            }
        }
    }

    /// Asks once. Returns what is lacking, and whether to pause before it is asked again.
    fn ask(&mut self, asked: Instant) -> Result<(Option<String>, bool), CallError> {
        let left = self.deadline.saturating_duration_since(asked);
        // A word is to be said soon, and a list that may be short may be complete soon.
        let longest = match self.speak_at.is_none() && self.complete {
            true => LONG_POLL,
            false => PATIENCE,
        };
        let index = self.index.take().filter(|_| self.lets_wait);
        let wait = index.map_or(Duration::ZERO, |_| left.min(longest));
        let answer = self.client.peers_after(index, wait, left + GRACE);
        let list = match answer {
            Ok(list) => list,
            Err(e) => {
                // Another may take its place.
                self.lets_wait = true;
                return Err(e);
            }
        };
        let now = Instant::now();
        if std::mem::take(&mut self.lost) && list.epoch.is_none() {
            // It may have been started anew, and does not say that it knows nobody yet.
            self.sure_from = now + wire::STALE_AFTER;
        }
        self.complete = !list.settling && now >= self.sure_from;
        let at_once = index.is_some() && index == list.revision && now - asked < wait / 2;
        self.lets_wait &= list.revision.is_some() && !at_once;
        self.index = list.revision;
        Ok((self.wanted.lacking(&list, self.complete), !self.lets_wait))
    }

    /// Says what is waited for, once, where somebody looks.
    fn speak(&mut self) {
        if self.speak_at.is_some_and(|at| Instant::now() >= at) {
            self.speak_at = None;
            let timeout = args::show_duration(self.timeout);
            let line = format!("waiting for {}, {timeout} at most\n", self.wanted.words());
            let _ = logging::Stderr::default().write_all(line.as_bytes());
        }
    }
}

/// Whether it will not be otherwise in a while: what was answered is meant for whoever asks, and not
/// that discovery is not there yet, or has too much to do.
fn is_final(error: &CallError) -> bool {
    match error {
        CallError::Status { status, .. } => {
            (300..500).contains(status) && !matches!(status, 408 | 429)
        }
        CallError::NoAnswer { .. } => false,
    }
}
