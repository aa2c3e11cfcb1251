//! The thread that takes out who is stale.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Discovery;
use super::hold::Verdict;
use super::renders::UNREAD;
use crate::registry::Reason;
use crate::vital;

/// How many peers are taken out under one hold of the lock, so that no beat waits for a crowd: each
/// may be on another page of a list that somebody has.
const AT_ONCE: usize = 32;
/// After so many at a time a pass rests for a moment: beats need the processor, too.
const IN_A_ROW: u32 = 16;
const REST: Duration = Duration::from_millis(1);
/// For how long a pass waits at a time for the state file to keep up, and how often: a crowd leaves
/// faster than a disk takes it, but a disk that hangs keeps nobody in the list.
const BREATH: Duration = Duration::from_millis(10);
const BREATHS: u32 = 100;

/// Starts the thread; it ends when its latch is set.
pub(super) fn start(discovery: Arc<Discovery>) -> io::Result<JoinHandle<()>> {
    vital::spawn("reaper", move || run(&discovery))
}

fn run(discovery: &Discovery) {
    let reap_every = discovery.settings.reap_every;
    let mut next_pass = discovery.started + reap_every;
    let mut held_until = None;
    loop {
        let due = held_until.unwrap_or(next_pass);
        if discovery.reaper.wait_until(due) {
            return;
        }
        held_until = pass(discovery);
        // Here, for this thread wakes up anyway.
        discovery.renders.let_go(UNREAD);
        // Passes that were missed in a pause are not made up for.
        while next_pass <= Instant::now() {
            next_pass += reap_every;
        }
    }
}

/// Takes out the stale. Where it was not to, returns when to look again.
fn pass(discovery: &Discovery) -> Option<Instant> {
    while discovery.with_map_in_turn(|map, now| map.registry.count_late(now.lease, AT_ONCE)) {}
    let (verdict, crowd, now) = discovery.judge();
    let is_held = matches!(verdict, Verdict::Held { .. });
    discovery.metrics.set_hold(is_held);
    if let Verdict::Held { begins, until } = verdict {
        let left = until.since(now);
        if begins {
            discovery.metrics.holds.inc();
            log::warn!(
                "{} of {} peers are silent; none is taken out for {:.1}s, then those that still are",
                crowd.late,
                crowd.peers,
                left.as_secs_f64()
            );
        }
        return Some(Instant::now() + left);
    }
    let mut breaths = 0;
    for times in 1u32.. {
        let (departures, is_crowded) = discovery.reap(AT_ONCE);
        for departure in &departures {
            discovery.metrics.departure(Reason::Reaped);
            log::info!(
                "Reaping stale peer {} (age: {:.1}s)",
                departure.facts.cell_id,
                departure.silent_for.as_secs_f64()
            );
        }
        if departures.len() < AT_ONCE {
            return None;
        }
        let is_stopped = if is_crowded && breaths < BREATHS {
            breaths += 1;
            discovery.reaper.wait_for(BREATH)
        } else {
            times.is_multiple_of(IN_A_ROW) && discovery.reaper.wait_for(REST)
        };
        if is_stopped {
            break;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use super::super::Settings;
    use super::super::state::former::{Former, NewEpoch};
    use super::*;
    use crate::wire::Registration;

    const LEASE: Duration = Duration::from_millis(100);
    /// They go out at two hundred times, with twelve rests.
    const CROWD: usize = 200 * AT_ONCE;

    #[test]
    fn a_crowd_goes_out_little_by_little_and_others_have_their_turn_in_between() {
        // A busy machine may let nobody else in for the time of one pass.
        assert!((0..10).any(|_| seen_during_a_pass().len() > 4));
    }

    /// How many peers were there while a crowd went out, as somebody sees it who looks all the time.
    fn seen_during_a_pass() -> BTreeSet<usize> {
        let mut settings = Settings::local("127.0.0.1", 0).expect("settings");
        settings.stale_after = LEASE;
        settings.hold_min = 0;
        let former = Former::none(NewEpoch {
            name: "epoch".to_owned(),
            revision: 0,
        });
        let discovery = Discovery::new(settings, None, former).expect("a discovery");
        for number in 0..CROWD {
            let body = format!(r#"{{"cell_id":"c{number}","ip":"h","port":1}}"#);
            let registration = Registration::from_json(body.as_bytes()).expect("valid");
            let _ = discovery.register(registration, None).expect("taken");
        }
        let (.., began) = discovery.judge();
        while discovery.judge().2.since(began) <= LEASE {
            discovery.tick();
            assert!(!discovery.reaper.wait_for(LEASE / 20), "it is not stopped");
        }

        let mut seen = BTreeSet::new();
        thread::scope(|scope| {
            scope.spawn(|| pass(&discovery));
            while !seen.contains(&0) {
                seen.insert(discovery.peers());
            }
        });
        seen
    }
}
