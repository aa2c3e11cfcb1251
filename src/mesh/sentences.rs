//! What is known of a peer, in sentences. Pure.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::happened::{circumstances, shown, span};
use crate::wire::{self, Departure, Peer, PeersRead, Portrait, Rhythm, host_port};

/// How many departures are told.
const MOST: usize = 10;

/// Of one that is there.
pub(super) fn present(peer: &Peer, portrait: &Portrait) -> String {
    let id = shown(&peer.cell_id);
    let age = span(portrait.age_ms);
    let mut text = match portrait.state.as_str() {
        "late" => format!("{id} is here, but late: it was last heard of {age} ago.\n"),
        "stale" => format!("{id} is listed, but stale: it was last heard of {age} ago.\n"),
        state => format!(
            "{id} is here, and {}: it was last heard of {age} ago.\n",
            shown(state)
        ),
    };
    text.push_str(&whereabouts(peer));
    let by = match &portrait.registered_by {
        Some(by) => format!(", registered by {}", shown(by)),
        None => String::new(),
    };
    let here = span(portrait.here_for_ms);
    let joined = shown(&portrait.joined_at);
    let _ = writeln!(text, "It joined at {joined}, {here} ago{by}.");
    text.push_str(&rhythm(&portrait.heartbeat));
    let lease = span(portrait.stale_after_ms);
    let _ = match portrait.expires_in_ms {
        0 => writeln!(
            text,
            "Its lease of {lease} is over: the next pass of the reaper takes it out unless it beats."
        ),
        left => writeln!(
            text,
            "Without a further beat its lease of {lease} ends in {}, and the pass of the reaper after that takes it out.",
            span(left)
        ),
    };
    let now = portrait.now.as_deref().and_then(wire::parse_timestamp);
    text.push_str(&past(&portrait.departures, now));
    text
}

/// Of one that is in the list, by a discovery that says no more.
pub(super) fn listed(peer: &Peer, list: &PeersRead, clock: SystemTime) -> String {
    let id = shown(&peer.cell_id);
    let now = list.now.as_deref().and_then(wire::parse_timestamp);
    let age = wire::parse_timestamp(&peer.last_seen).map(|seen| {
        let now = now.unwrap_or(clock);
        now.duration_since(seen).unwrap_or(Duration::ZERO)
    });
    let mut text = match age {
        Some(age) => format!(
            "{id} is here: it was last heard of {} ago.\n",
            span(wire::millis(age))
        ),
        None => format!("{id} is here.\n"),
    };
    text.push_str(&whereabouts(peer));
    text.push_str(
        "This discovery is an older one: when it joined, how it beats and how it left before, only a newer one knows.\n",
    );
    text
}

/// Of one that is not there, by what is remembered of its departures, the last first.
pub(super) fn absent(id: &str, departures: &[Departure], clock: SystemTime) -> String {
    format!(
        "{} is not here.\n{}",
        shown(id),
        past(departures, Some(clock))
    )
}

fn whereabouts(peer: &Peer) -> String {
    let mut text = format!("It is at {}", shown(&host_port(&peer.ip, peer.port)));
    if !peer.hostname.is_empty() && peer.hostname != peer.ip {
        let _ = write!(text, ", on host {}", shown(&peer.hostname));
    }
    let _ = write!(
        text,
        ": type {}, branch {}, level {}, ",
        shown(&peer.kind),
        shown(&peer.branch),
        peer.consciousness_level
    );
    match peer.services.is_empty() {
        true => text.push_str("no services.\n"),
        false => {
            let services = shown(&peer.services.join(", "));
            let _ = writeln!(text, "services {services}.");
        }
    }
    text
}

fn rhythm(rhythm: &Rhythm) -> String {
    let mut text = match (rhythm.beats, rhythm.gap_median_ms) {
        (0, _) => "No beat has come from it yet".to_owned(),
        (1, _) => "One beat has come from it".to_owned(),
        (beats, Some(median)) => format!(
            "{beats} beats have come from it, lately one every {}",
            exact(median)
        ),
        (beats, None) => format!("{beats} beats have come from it"),
    };
    if let Some(longest) = rhythm.gap_longest_ms {
        let _ = write!(text, "; its longest silence was {}", exact(longest));
    }
    let _ = match rhythm.misses {
        0 => write!(text, "; none was missed"),
        1 => write!(text, "; one was missed"),
        misses => write!(text, "; {misses} were missed"),
    };
    match rhythm.flaps {
        0 => text.push_str(".\n"),
        1 => text.push_str(". It has left and come back once.\n"),
        flaps => {
            let _ = writeln!(text, ". It has left and come back {flaps} times.");
        }
    }
    text
}

/// So many milliseconds, to the millisecond where that is much of it.
fn exact(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis}ms"),
        _ => span(millis),
    }
}

fn past(departures: &[Departure], now: Option<SystemTime>) -> String {
    let mut text = String::new();
    for (index, departure) in departures.iter().take(MOST).enumerate() {
        let at = wire::parse_timestamp(&departure.at);
        let ago = now.zip(at).map(|(now, at)| {
            let ago = now.duration_since(at).unwrap_or(Duration::ZERO);
            format!(", {} ago", span(wire::millis(ago)))
        });
        let from = match &departure.registered_by {
            Some(by) => format!("; it had been registered by {}", shown(by)),
            None => String::new(),
        };
        let _ = writeln!(
            text,
            "{} at {}{}: {}{from}.",
            if index == 0 {
                "It last left"
            } else {
                "Before, it left"
            },
            shown(&departure.at),
            ago.unwrap_or_default(),
            circumstances(departure)
        );
    }
    if departures.len() > MOST {
        let more = departures.len() - MOST;
        let _ = writeln!(text, "{more} departures before these are remembered.");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T12:21:45.000000Z";

    fn peer() -> Peer {
        Peer {
            cell_id: "pure".into(),
            ip: "::1".into(),
            port: 8002,
            consciousness_level: 0.1,
            services: vec!["a".into(), "b\n".into()],
            branch: "main".into(),
            kind: "pure_cell".into(),
            hostname: "box".into(),
            last_seen: "2026-01-02T12:21:43.500000Z".into(),
        }
    }

    fn departure(at: &str) -> Departure {
        Departure {
            cell_id: "pure".into(),
            reason: Some("reaped".into()),
            at: at.into(),
            was_here_ms: Some(60_000),
            late_ms: Some(12_000),
            registered_by: Some("10.0.0.7".into()),
            deregistered_by: None,
        }
    }

    #[test]
    fn of_one_that_is_there_everything_is_told() {
        let mut portrait = Portrait {
            state: "alive".into(),
            age_ms: 1500,
            stale_after_ms: 15_000,
            expires_in_ms: 13_500,
            joined_at: "2026-01-02T10:21:45.000000Z".into(),
            here_for_ms: 7_200_000,
            registered_by: Some("10.0.0.7".into()),
            heartbeat: Rhythm {
                beats: 1440,
                gap_median_ms: Some(5001),
                gap_longest_ms: Some(10_100),
                misses: 1,
                flaps: 1,
            },
            departures: vec![departure("2026-01-02T10:20:45.000000Z")],
            now: Some(NOW.into()),
        };
        let text = present(&peer(), &portrait);
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "pure is here, and alive: it was last heard of 1.5s ago.",
                "It is at [::1]:8002, on host box: type pure_cell, branch main, level 0.1, services a, b\\n.",
                "It joined at 2026-01-02T10:21:45.000000Z, 2h 0m ago, registered by 10.0.0.7.",
                "1440 beats have come from it, lately one every 5.0s; its longest silence was 10.1s; one was missed. It has left and come back once.",
                "Without a further beat its lease of 15.0s ends in 13.5s, and the pass of the reaper after that takes it out.",
                "It last left at 2026-01-02T10:20:45.000000Z, 2h 1m ago: reaped, its beat 12.0s overdue, after 1m 0s here; it had been registered by 10.0.0.7.",
            ]
        );
        portrait.state = "stale".into();
        portrait.expires_in_ms = 0;
        portrait.heartbeat = Rhythm::default();
        let text = present(&peer(), &portrait);
        assert!(text.contains("but stale"), "{text}");
        assert!(text.contains("the next pass"), "{text}");
        assert!(
            text.contains("No beat has come from it yet; none was missed.\n"),
            "{text}"
        );
    }

    #[test]
    fn of_one_that_is_not_there_its_departures_are_told() {
        let departures = vec![departure("2026-01-02T12:21:44.000000Z"); 12];
        let clock = wire::parse_timestamp(NOW).expect("a time");
        let text = absent("pu\nre", &departures, clock);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "pu\\nre is not here.");
        assert!(
            lines[1].starts_with("It last left at 2026-01-02T12:21:44.000000Z, 1.0s ago: reaped"),
            "{text}"
        );
        assert!(lines[2].starts_with("Before, it left at"), "{text}");
        assert_eq!(lines[11], "2 departures before these are remembered.");
    }

    #[test]
    fn an_older_discovery_knows_little() {
        let list = PeersRead {
            now: Some(NOW.into()),
            ..PeersRead::default()
        };
        let text = listed(&peer(), &list, SystemTime::UNIX_EPOCH);
        assert!(
            text.starts_with("pure is here: it was last heard of 1.5s ago.\n"),
            "{text}"
        );
        assert!(text.contains("only a newer one knows"), "{text}");
    }
}
