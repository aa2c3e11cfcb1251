//! A list that is asked for when it is another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Discovery;
use super::super::asked::Awaited;
use super::super::reads::Reading;
use super::{Waiter, Want};
use crate::http::{Later, Reply};

/// A long poll.
pub(in crate::discovery) struct Poll {
    discovery: Arc<Discovery>,
    waiter: Waiter,
    reading: Reading,
    want: Want,
    index: u64,
    /// When it is answered with whatever there is.
    until: Instant,
}

impl Poll {
    pub(in crate::discovery) fn new(
        discovery: Arc<Discovery>,
        waiter: Waiter,
        reading: Reading,
        awaited: Awaited,
    ) -> Self {
        Self {
            discovery,
            waiter,
            want: Want::of(reading.view()),
            reading,
            index: awaited.index,
            until: Instant::now() + awaited.at_most,
        }
    }
}

impl Later for Poll {
    fn wait(&mut self, at_most: Duration) -> Option<Reply> {
        let is_news = || self.discovery.revision() != self.index;
        let left = self.until.saturating_duration_since(Instant::now());
        let turn = self.waiter.wait(self.want, left.min(at_most), is_news);
        let is_late = Instant::now() >= self.until;
        // At a stop it is answered, too: that somebody is answered promises no change.
        if !(is_late || is_news() || self.waiter.is_over()) {
            return None;
        }
        let reply = self.discovery.answer_list(&self.reading);
        // The next one may go on now: this one only has to send.
        drop(turn);
        Some(reply.unwrap_or_else(|error| error))
    }
}
