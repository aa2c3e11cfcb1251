//! `aios-mesh watch`: who joins, changes and leaves, as it happens.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum;

use super::Target;
use super::happened::{Happened, What};
use super::roster::{self, Roster, Told};
use super::stream::Stream;
use crate::args;
use crate::client::{CallError, Client, Events};
use crate::program::{self, Failure};
use crate::shutdown::Latch;
use crate::wire;

/// The first pause between two attempts to reach discovery, and the longest.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// A connection that held for so long was none of a row of failures.
const HELD: Duration = Duration::from_secs(10);
/// How often an older discovery, or one that settles, is asked for its list.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long an older one is asked before it is seen if it still is one.
const LOOK_FOR: Duration = Duration::from_secs(60);
/// How often it is looked whether anybody still reads.
const READER_EVERY: Duration = Duration::from_secs(1);

/// What `watch` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,

    /// How to print what happens.
    #[arg(long, env = "AIOS_WATCH_FORMAT", value_enum, default_value = "lines")]
    format: Format,

    /// Begin with what has happened after this revision, and not now. 0: with everybody who is there.
    #[arg(long, env = "AIOS_WATCH_SINCE", value_name = "REVISION", value_parser = args::revision)]
    since: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For reading.
    Lines,
    /// A JSON object a line.
    Ndjson,
}

/// Why an attempt to follow ended.
enum Ended {
    /// Nobody reads what is printed.
    Unread,
    /// Discovery wants it to be begun anew.
    StartOver,
    /// Discovery cannot be reached any more.
    Lost(CallError),
    /// It cannot go on.
    Failed(Failure),
}

impl From<CallError> for Ended {
    fn from(error: CallError) -> Self {
        Self::Lost(error)
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    program::start_log()?;
    let latch = program::signal_latch()?;
    let client = arguments.target.client()?;
    let outcome = Arc::new(Mutex::new(None));
    let mut watch = Watch {
        target: arguments.target.clone(),
        client,
        format: arguments.format,
        from_the_past: arguments.since.is_some(),
        latch: latch.clone(),
        roster: None,
        told: arguments.since,
        counted: None,
        epoch: None,
        overdue: true,
        interrupted: false,
        lost: false,
        older: false,
        sure_from: Instant::now(),
    };
    let result = Arc::clone(&outcome);
    // It may be waiting for discovery when it is time to end, and then ends with the process.
    let follow = std::thread::Builder::new().name("watch".to_owned());
    let follow = follow.spawn(move || {
        let ended = watch.follow();
        *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        watch.latch.set();
    });
    follow.map_err(|e| Failure::new(format!("cannot start a thread: {e}")))?;
    while !latch.wait_for(READER_EVERY) {
        if program::stdout_has_no_reader() {
            return Ok(());
        }
    }
    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.take().unwrap_or(Ok(()))
}

/// Somebody who watches.
struct Watch {
    target: Target,
    client: Client,
    format: Format,
    /// Whether it is still to be seen if discovery remembers what was asked for.
    from_the_past: bool,
    latch: Latch,
    /// Who is there. Nothing before the first list.
    roster: Option<Roster>,
    /// The revision up to which all has been told.
    told: Option<u64>,
    /// The revision of the roster.
    counted: Option<u64>,
    /// The epoch these are of.
    epoch: Option<String>,
    /// Whether the list is to be read, for not all may have been told.
    overdue: bool,
    /// Whether the last call failed.
    interrupted: bool,
    /// Whether it was said that discovery is lost.
    lost: bool,
    /// Whether it was said that discovery is an older one.
    older: bool,
    /// From when on a list that does not say whether it is complete is taken to be.
    sure_from: Instant,
}

/// What comes of following: an end.
type Followed = Result<std::convert::Infallible, Ended>;

impl Watch {
    /// Follows what happens, over every loss of discovery.
    fn follow(&mut self) -> Result<(), Failure> {
        let mut failed = 0;
        let mut anew = false;
        loop {
            let began = Instant::now();
            let Err(ended) = self.attempt();
            // To begin anew is no failure, unless again and again.
            let before = std::mem::replace(&mut anew, matches!(ended, Ended::StartOver));
            if began.elapsed() >= HELD || (anew && !before) {
                failed = 0;
            }
            match ended {
                Ended::Unread => return Ok(()),
                Ended::Failed(failure) => return Err(failure),
                Ended::StartOver => self.overdue = true,
                // Whoever begins is told, unless discovery only has too much to do.
                Ended::Lost(e) if self.roster.is_none() && !is_busy(&e) => {
                    return Err(self.target.failure(&e));
                }
                Ended::Lost(e) => self.lost(failed, &e),
            }
            if self.latch.wait_for(backoff(failed)) {
                return Ok(());
            }
            failed += 1;
        }
    }

    /// Follows for as long as discovery can be reached.
    fn attempt(&mut self) -> Followed {
        if self.overdue {
            while !self.compare()? {
                self.pause()?;
            }
            self.overdue = false;
        }
        match self.client.events(self.told) {
            Ok(events) => self.listen(events),
            Err(CallError::Status { status: 404, .. }) => self.look(),
            Err(e) => Err(e.into()),
        }
    }

    /// Tells what happens as discovery says it.
    fn listen(&mut self, mut events: Events) -> Followed {
        self.reached();
        if events.epoch().is_some() && events.epoch() != self.epoch.as_deref() {
            return Err(Ended::StartOver);
        }
        let mut stream = Stream::default();
        let mut buffer = [0; 8192];
        loop {
            let count = events.read(&mut buffer)?;
            if count == 0 {
                return Err(cut_off("the stream of events has ended"));
            }
            let taken = stream.take(&buffer[..count]);
            for event in taken.map_err(|_| cut_off("an event has no end"))? {
                let roster = self.roster.get_or_insert_default();
                let told = roster.event(&event, self.counted);
                let from_the_past = std::mem::take(&mut self.from_the_past);
                match told {
                    Told::StartOver => {
                        if from_the_past {
                            self.forget(event.id)?;
                        }
                        return Err(Ended::StartOver);
                    }
                    Told::News(news) => self.tell(&[*news])?,
                    Told::Nothing => {}
                }
                self.told = event.id.or(self.told);
                self.counted = self.counted.max(event.id);
            }
        }
    }

    /// Tells what has happened between one look at the list and the next, where discovery tells no
    /// events. After a while it may be another, which does.
    fn look(&mut self) -> Followed {
        if !std::mem::replace(&mut self.older, true) {
            let discovery = self.client.base();
            log::info!(
                "the discovery at {discovery} is an older one, which tells no events: its list is read instead, and does not say why somebody leaves"
            );
        }
        if std::mem::take(&mut self.from_the_past) {
            self.forget(None)?;
        }
        let until = Instant::now() + LOOK_FOR;
        while Instant::now() < until {
            self.compare()?;
            self.pause()?;
        }
        Err(Ended::StartOver)
    }

    /// Reads the list and tells what it says is new. Returns whether it is complete: one that is
    /// not says nothing about those who are missing from it.
    fn compare(&mut self) -> Result<bool, Ended> {
        let (list, _) = self.client.peers()?;
        self.reached();
        if std::mem::take(&mut self.interrupted) && list.epoch.is_none() {
            // It may have been started anew, and does not say that it knows nobody yet.
            self.sure_from = Instant::now() + wire::STALE_AFTER;
        }
        let complete = !list.settling && Instant::now() >= self.sure_from;
        self.counted = list.revision;
        self.epoch.clone_from(&list.epoch);
        let Some(roster) = &mut self.roster else {
            self.told = self.told.or(list.revision);
            self.roster = Some(Roster::of(list));
            return Ok(true);
        };
        if !self.from_the_past {
            self.told = list.revision;
        }
        let at = list.now.clone().unwrap_or_else(now);
        let mut news = roster.compare(list, complete, &at);
        let somebody_left = news.iter().any(|one| matches!(one.what, What::Left(..)));
        if somebody_left && let Ok(gone) = self.client.gone() {
            roster::explain(&mut news, &gone);
        }
        self.tell(&news)?;
        Ok(complete)
    }

    /// Says that what has happened is not remembered; who is there is told anew.
    fn forget(&mut self, revision: Option<u64>) -> Result<(), Ended> {
        self.roster = Some(Roster::default());
        self.tell(&[Happened {
            revision,
            at: now(),
            what: What::Reset,
        }])
    }

    fn tell(&self, news: &[Happened]) -> Result<(), Ended> {
        for one in news {
            let text = match self.format {
                Format::Lines => one.line(),
                Format::Ndjson => one.json(),
            };
            match program::print_to_reader(&text) {
                Ok(true) => {}
                Ok(false) => return Err(Ended::Unread),
                Err(failure) => return Err(Ended::Failed(failure)),
            }
        }
        Ok(())
    }

    fn pause(&self) -> Result<(), Ended> {
        match self.latch.wait_for(LOOK_EVERY) {
            true => Err(Ended::Unread),
            false => Ok(()),
        }
    }

    fn reached(&mut self) {
        if std::mem::take(&mut self.lost) {
            log::info!("discovery at {} is back", self.client.base());
        }
    }

    fn lost(&mut self, failed: u32, error: &CallError) {
        self.interrupted = true;
        // Where it is only restarted, it is there again at once.
        if failed > 0 && !std::mem::replace(&mut self.lost, true) {
            log::warn!(
                "lost discovery at {}: {error}; trying on",
                self.client.base()
            );
        }
    }
}

fn cut_off(cause: &str) -> Ended {
    Ended::Lost(CallError::NoAnswer {
        never_sent: false,
        cause: cause.to_owned(),
    })
}

/// Whether discovery is there, and will have time later.
fn is_busy(error: &CallError) -> bool {
    matches!(error, CallError::Status { status: 503, .. })
}

/// How long to wait after so many failures in a row: those who were cut off together do not come
/// back in step.
fn backoff(failed: u32) -> Duration {
    let Some(doublings) = failed.checked_sub(1) else {
        return Duration::ZERO;
    };
    let longest = FIRST_BACKOFF
        .saturating_mul(2u32.saturating_pow(doublings))
        .min(LONGEST_BACKOFF);
    // Without randomness they would, which is no reason to stop.
    let chance = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
    longest.mul_f64(1.0 - chance / 5.0)
}

/// The time, as discovery writes it.
fn now() -> String {
    wire::timestamp(SystemTime::now())
}
