//! What discovery answers to those who read: the list in all its forms, one peer, what happens.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Discovery;
use super::asked::{self, Awaited, View};
use super::renders::{Departed, Shed};
use super::watch::{Events, Poll, Waiter};
use crate::http::{JSON, Pieces, Reply, Request};
use crate::registry::Portrait;
use crate::wire::{self, Listed};

/// What is asked of the list, and by whom.
pub(super) struct Reading {
    view: View,
    likes_gzip: bool,
    if_none_match: Option<String>,
}

impl Reading {
    /// What is asked for.
    pub(super) fn view(&self) -> &View {
        &self.view
    }
}

impl Discovery {
    /// `GET /peers`, perhaps once it is another.
    ///
    /// # Errors
    /// The reply to what is refused.
    pub(super) fn answer_peers(self: &Arc<Self>, request: &Request) -> Result<Reply, Reply> {
        let view = View::asked(&|name| value(request, name)).map_err(unprocessable)?;
        self.answer_view(view, awaited(request)?, request)
    }

    /// `GET /sd`: the same for Prometheus, which keeps the targets it has while there is none.
    ///
    /// # Errors
    /// The reply to what is refused.
    pub(super) fn answer_targets(self: &Arc<Self>, request: &Request) -> Result<Reply, Reply> {
        let is_fixed = |name: &str| name == "state" || name == "format";
        let query = |name: &str| match name {
            "format" => Some("prometheus".to_owned()),
            name if is_fixed(name) => None,
            name => value(request, name),
        };
        let view = View::asked(&query).map_err(unprocessable)?;
        let awaited = awaited(request)?;
        match self.settling() {
            Some(left) => Err(self.not_settled(left)),
            None => self.answer_view(view, awaited, request),
        }
    }

    fn answer_view(
        self: &Arc<Self>,
        view: View,
        awaited: Option<Awaited>,
        request: &Request,
    ) -> Result<Reply, Reply> {
        let reading = Reading {
            view,
            likes_gzip: request.prefers_gzip(),
            if_none_match: request.if_none_match().map(str::to_owned),
        };
        match awaited {
            Some(awaited) if !awaited.at_most.is_zero() && awaited.index == self.revision() => {
                let waiter = self.admit_waiter()?;
                let poll = Poll::new(Arc::clone(self), waiter, reading, awaited);
                Ok(Reply::later(Box::new(poll)))
            }
            _ => self.answer_list(&reading),
        }
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// The reply to a reader for whom there is no room.
    pub(super) fn answer_list(&self, reading: &Reading) -> Result<Reply, Reply> {
        if reading.view == View::default() {
            let list = self.renders.read(self, reading.likes_gzip).map_err(shed)?;
            let said = (list.revision(), list.tag().to_owned(), list.is_packed());
            Ok(self.list_reply(reading, said, JSON, Arc::new(list)))
        } else {
            let text = self
                .renders
                .view(self, &reading.view, reading.likes_gzip)
                .map_err(shed)?;
            let said = (text.revision(), text.tag().to_owned(), text.is_packed());
            let content_type = text.content_type();
            Ok(self.list_reply(reading, said, content_type, Arc::new(text)))
        }
    }

    fn list_reply(
        &self,
        reading: &Reading,
        (revision, tag, is_packed): (u64, String, bool),
        content_type: &'static str,
        list: Arc<dyn Pieces>,
    ) -> Reply {
        let tags = reading.if_none_match.as_deref();
        let mut reply = if tags.is_some_and(|tags| Request::is_among(&tag, tags)) {
            Reply::not_modified()
        } else if is_packed {
            Reply::shared(200, content_type, list).header("Content-Encoding", "gzip")
        } else {
            Reply::shared(200, content_type, list)
        };
        for (name, value) in [
            ("ETag", tag),
            ("X-Mesh-Revision", revision.to_string()),
            ("X-Mesh-Epoch", self.epoch.clone()),
        ] {
            reply = reply.header(name, value);
        }
        // Whoever keeps it is to ask each time whether it is still true.
        reply
            .header("Cache-Control", "no-cache")
            .header("Vary", "Accept-Encoding")
    }

    /// `GET /peers/{cell_id}`.
    ///
    /// # Errors
    /// A 404 where there is no such peer.
    pub(super) fn answer_peer(&self, id: &str) -> Result<Reply, Reply> {
        let (portrait, gone, revision) = self.with_map(|map, now| {
            let portrait = map.registry.portrait(id, now);
            (portrait, map.registry.gone(), map.registry.revision())
        });
        let portrait = portrait.ok_or_else(|| Reply::error(404, wire::PEER_NOT_FOUND))?;
        let departures = gone.iter().filter(|gone| gone.facts.cell_id.as_str() == id);
        let departures = departures.map(|gone| Departed::from(&**gone)).collect();
        let (median, tally) = (portrait.quality.median_gap, portrait.quality.tally);
        let millis = |duration: Option<Duration>| duration.map(wire::millis);
        let reply = Reply::json(
            200,
            &OnePeer {
                listed: portrait.facts.listed(portrait.level, portrait.last_seen),
                state: state(&portrait),
                age_ms: wire::millis(portrait.age),
                stale_after_ms: wire::millis(portrait.lease),
                expires_in_ms: wire::millis(portrait.lease)
                    .saturating_sub(wire::millis(portrait.age)),
                joined_at: wire::timestamp(portrait.joined_at),
                here_for_ms: wire::millis(portrait.here_for),
                registered_by: portrait.registered_by,
                heartbeat: Heartbeats {
                    beats: tally.beats,
                    gap_median_ms: millis(median),
                    gap_longest_ms: millis(tally.longest_gap()),
                    misses: tally.misses,
                    flaps: tally.flaps,
                },
                departures,
                revision,
                epoch: &self.epoch,
                now: wire::timestamp(SystemTime::now()),
            },
        );
        Ok(reply.header("Cache-Control", "no-cache"))
    }

    /// `GET /events`.
    ///
    /// # Errors
    /// The reply to what is refused.
    pub(super) fn answer_events(self: &Arc<Self>, request: &Request) -> Result<Reply, Reply> {
        let since = value(request, "since");
        let since = since.map(|since| asked::revision("since", &since));
        let since = since.transpose().map_err(unprocessable)?;
        let revision = self.revision();
        let seen = match request.last_event_id().filter(|id| !id.is_empty()) {
            // A browser that goes on asks as it did at first, and says where it is. What is no
            // revision of ours is none that is remembered: it has to start over.
            Some(last) => asked::revision("Last-Event-ID", last).unwrap_or(u64::MAX),
            None => since.unwrap_or(revision),
        };
        let waiter = self.admit_waiter()?;
        let events = Events::new(Arc::clone(self), waiter, seen);
        Ok(Reply::stream("text/event-stream", Box::new(events))
            .header("X-Mesh-Revision", revision.to_string())
            .header("X-Mesh-Epoch", self.epoch.clone())
            .header("Cache-Control", "no-cache")
            // A proxy is not to gather what is news now (nginx, proxy_buffering).
            .header("X-Accel-Buffering", "no"))
    }

    fn admit_waiter(&self) -> Result<Waiter, Reply> {
        self.waiters.admit().ok_or_else(|| {
            let detail = "as many clients as may wait for changes do; ask without index, or later";
            Reply::error(503, detail).header("Retry-After", "1")
        })
    }
}

/// The change that a request waits for, if it does.
fn awaited(request: &Request) -> Result<Option<Awaited>, Reply> {
    Awaited::asked(&|name| value(request, name)).map_err(unprocessable)
}

/// What the query of a request gives a name; a script's variable that is not set gives none.
fn value(request: &Request, name: &str) -> Option<String> {
    let value = request.query(name).filter(|value| !value.is_empty());
    value.map(std::borrow::Cow::into_owned)
}

fn unprocessable(why: String) -> Reply {
    Reply::error(422, why)
}

fn shed(shed: Shed) -> Reply {
    Reply::error(503, shed.to_string()).header("Retry-After", "1")
}

/// How a peer stands with its lease, in a word.
fn state(portrait: &Portrait) -> &'static str {
    let interval = portrait.lease / wire::BEATS_PER_LEASE;
    if portrait.age > portrait.lease {
        "stale"
    } else if portrait.age > interval + interval / 2 {
        "late"
    } else {
        "alive"
    }
}

/// The answer to `GET /peers/{cell_id}`.
#[derive(Serialize)]
struct OnePeer<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    state: &'static str,
    age_ms: u64,
    stale_after_ms: u64,
    expires_in_ms: u64,
    joined_at: String,
    here_for_ms: u64,
    registered_by: Option<IpAddr>,
    heartbeat: Heartbeats,
    departures: Vec<Departed<'a>>,
    revision: u64,
    epoch: &'a str,
    now: String,
}

/// How a peer beats.
#[derive(Serialize)]
struct Heartbeats {
    beats: u32,
    gap_median_ms: Option<u64>,
    gap_longest_ms: Option<u64>,
    misses: u32,
    flaps: u16,
}
