//! The stream of what happens, as server-sent events (HTML, 9.2).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::Discovery;
use super::super::renders::Departed;
use super::{Waiter, Want};
use crate::http::Stream;
use crate::registry::{Came, Event, Since};
use crate::wire::Listed;

/// After how long without an event a comment says that the stream is alive.
const QUIET: Duration = Duration::from_secs(15);
/// How many events are taken out of the map and sent at once.
const BATCH: usize = 128;
/// What a stream begins with, so that whoever is in between sees that it has; and after how many
/// milliseconds a browser asks again when it has ended.
const GREETING: &str = ": what happens from here on\nretry: 1000\n\n";

/// What one subscriber is sent.
pub(in crate::discovery) struct Events {
    discovery: Arc<Discovery>,
    waiter: Waiter,
    /// The revision that was sent last.
    seen: u64,
    /// When it is time to say something, be it nothing.
    speaks_at: Instant,
    has_begun: bool,
}

impl Events {
    pub(in crate::discovery) fn new(discovery: Arc<Discovery>, waiter: Waiter, seen: u64) -> Self {
        Self {
            discovery,
            waiter,
            seen,
            speaks_at: Instant::now(),
            has_begun: false,
        }
    }
}

impl Stream for Events {
    fn next(&mut self, at_most: Duration) -> Option<Vec<u8>> {
        let now = Instant::now();
        if !self.has_begun {
            self.has_begun = true;
            self.speaks_at = now + QUIET;
            return Some(GREETING.into());
        }
        let left = self.speaks_at.saturating_duration_since(now);
        let is_news = || self.discovery.revision() != self.seen;
        let turn = self.waiter.wait(Want::EVENTS, left.min(at_most), is_news);
        let (since, revision) = self.discovery.since(self.seen, BATCH);
        let text = match since {
            Since::Events(events) => {
                if let Some((last, _)) = events.last() {
                    self.seen = *last;
                }
                written(&events)
            }
            Since::Unknown => {
                self.seen = revision;
                start_over(revision, &self.discovery.epoch)
            }
        };
        drop(turn);
        let now = Instant::now();
        if !text.is_empty() {
            self.speaks_at = now + QUIET;
            return Some(text.into_bytes());
        }
        // What was news until now has been said.
        if self.waiter.is_over() {
            return None;
        }
        if now >= self.speaks_at {
            self.speaks_at = now + QUIET;
            return Some(b": nothing new\n\n".to_vec());
        }
        Some(Vec::new())
    }
}

fn written(events: &[(u64, Event)]) -> String {
    let mut text = String::new();
    for (revision, event) in events {
        match event {
            Event::Join(came) => write(&mut text, "join", *revision, &Arrival::from(came)),
            Event::Change(came) => write(&mut text, "change", *revision, &Arrival::from(came)),
            Event::Leave(gone) => write(&mut text, "leave", *revision, &Departed::from(&**gone)),
        }
    }
    text
}

/// What happened cannot be told: the list has to be read anew.
fn start_over(revision: u64, epoch: &str) -> String {
    let mut text = String::new();
    let data = serde_json::json!({"revision": revision, "epoch": epoch});
    write(&mut text, "reset", revision, &data);
    text
}

fn write(text: &mut String, event: &str, revision: u64, data: &impl Serialize) {
    // Nothing in it cannot be JSON, and that has no line ends.
    match serde_json::to_string(data) {
        Ok(data) => {
            let _ = write!(text, "event: {event}\nid: {revision}\ndata: {data}\n\n");
        }
        Err(e) => log::error!("cannot render an event: {e}"),
    }
}

/// A peer that came, as in the list, and where from.
#[derive(Serialize)]
struct Arrival<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    registered_by: Option<IpAddr>,
}

impl<'a> From<&'a Came> for Arrival<'a> {
    fn from(came: &'a Came) -> Self {
        Self {
            listed: came.facts.listed(came.level, came.at),
            registered_by: came.by,
        }
    }
}
