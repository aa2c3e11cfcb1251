//! What cells may send, and when.

use std::time::Duration;

use super::{Invariant, Ledger, Said, run_name};
use crate::network::{Request, What};

impl Ledger {
    /// A run that is to beat at an interval sends a request, perhaps while another call of it still
    /// `waits`.
    pub fn sends(
        &mut self,
        run: usize,
        request: &Request,
        interval: Duration,
        waits: bool,
        now: Duration,
    ) {
        let said = self.said(run);
        let before = said.clone();
        match request.what {
            What::Goodbye => said.goodbye = Some(request.sent),
            What::Register => said.unknown_since = None,
            What::Beat if said.interval == interval => said.beats = [said.beats[1], Some(now)],
            What::Beat => {
                said.interval = interval;
                said.beats = [None, Some(now)];
            }
        }
        let cell = request.cell;
        self.holds(Invariant::LastWord, before.goodbye.is_none(), || {
            format!("c{cell} sends {:?} after its goodbye", request.what)
        });
        self.holds(Invariant::LastWord, !waits, || {
            format!("c{cell} says goodbye while it waits for an answer")
        });
        let is_at_once = match (before.unknown_since, request.what) {
            (None, _) | (_, What::Goodbye) => true,
            (Some(since), What::Register) => since == now,
            (Some(_), What::Beat) => false,
        };
        self.holds(Invariant::AtOnce, is_at_once, || {
            format!("c{cell} is unknown and does not register at once")
        });
        // Each stands for an interval of its own, in which it may come late, but no third one can.
        let is_in_pace = match (request.what, before.beats[0]) {
            (What::Beat, Some(first)) => before.interval != interval || now - first >= interval,
            _ => true,
        };
        self.holds(Invariant::Pace, is_in_pace, || {
            format!("c{cell} beats three times in its interval of {interval:?}")
        });
    }

    /// A run is answered that it is unknown.
    pub fn is_told_unknown(&mut self, run: usize, now: Duration) {
        self.said(run).unknown_since = Some(now);
    }

    /// A run ends without a goodbye, because discovery cannot know it.
    pub fn leaves_without_goodbye(&mut self, run: usize, cell: usize) {
        let is_listed = self.order.contains(&cell)
            && self.entries[cell]
                .as_ref()
                .is_some_and(|entry| entry.instance == Some(run_name(run)) && !entry.by_copy);
        self.holds(Invariant::LastWord, !is_listed, || {
            format!("c{cell} is listed and leaves without a goodbye")
        });
        self.said(run).left_silently = true;
    }

    pub(super) fn said(&mut self, run: usize) -> &mut Said {
        if self.said.len() <= run {
            self.said.resize(run + 1, Said::default());
        }
        &mut self.said[run]
    }
}
