//! The list of peers as an operator reads it. Pure.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::wire::{self, Peer, PeersRead, host_port, one_line};

/// The widest a column gets; what is longer is cut.
const WIDEST: usize = 40;

/// How a peer is, judged by the age of its last beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// Its last beat came within an interval and a half.
    Alive,
    /// A beat is missing.
    Late,
    /// Silent for longer than the usual lease: the next pass takes it out, unless its own lease
    /// is longer.
    Stale,
}

impl Condition {
    fn of(age: Duration) -> Self {
        if age > wire::STALE_AFTER {
            Self::Stale
        } else if age > wire::HEARTBEAT_EVERY.mul_f64(1.5) {
            Self::Late
        } else {
            Self::Alive
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Late => "late",
            Self::Stale => "stale",
        }
    }
}

/// When the list was made: discovery says so, and its clock is the one `last_seen` is by. A
/// discovery that does not say is taken to have our clock.
fn made_at(list: &PeersRead, clock: SystemTime) -> SystemTime {
    list.now
        .as_deref()
        .and_then(wire::parse_timestamp)
        .unwrap_or(clock)
}

fn age(peer: &Peer, made_at: SystemTime) -> Option<Duration> {
    let last_seen = wire::parse_timestamp(&peer.last_seen)?;
    Some(made_at.duration_since(last_seen).unwrap_or_default())
}

/// A table with a line for each peer. `clock` is the time now, `waited` how long ago the list was
/// made; ages count on from there.
#[must_use]
pub(super) fn table(list: &PeersRead, clock: SystemTime, waited: Duration) -> String {
    let made_at = made_at(list, clock);
    let mut rows =
        vec![["ID", "ADDRESS", "TYPE", "LEVEL", "LAST BEAT", "STATE"].map(str::to_owned)];
    rows.extend(list.peers.iter().map(|peer| {
        let age = age(peer, made_at).map(|age| age + waited);
        [
            cell(&peer.cell_id),
            cell(&host_port(&peer.ip, peer.port)),
            cell(&peer.kind),
            cell(&peer.consciousness_level.to_string()),
            age.map_or("?".to_owned(), |age| {
                format!("{:.1}s ago", age.as_secs_f64())
            }),
            age.map_or("?", |age| Condition::of(age).name()).to_owned(),
        ]
    }));
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (value, &width) in row.iter().zip(&widths) {
            let _ = write!(line, "{value:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A value in a column: nothing in it moves the cursor or is longer than a column.
fn cell(text: &str) -> String {
    let text = one_line(text);
    if text.chars().count() <= WIDEST {
        return text;
    }
    text.chars().take(WIDEST - 1).chain(['…']).collect()
}

/// A header line, then a line for each peer: id, ip, port, type, level, last_seen, and the age of
/// the last beat in seconds, separated by tabs.
#[must_use]
pub(super) fn tsv(list: &PeersRead, clock: SystemTime) -> String {
    let made_at = made_at(list, clock);
    let mut text = "id\tip\tport\ttype\tlevel\tlast_seen\tage\n".to_owned();
    for peer in &list.peers {
        let age =
            age(peer, made_at).map_or_else(String::new, |age| format!("{:.3}", age.as_secs_f64()));
        let _ = writeln!(
            text,
            "{}\t{}\t{}\t{}\t{}\t{}\t{age}",
            one_line(&peer.cell_id),
            one_line(&peer.ip),
            peer.port,
            one_line(&peer.kind),
            peer.consciousness_level,
            one_line(&peer.last_seen),
        );
    }
    text
}

/// The list as it was sent, in JSON that means the same and that no terminal obeys.
#[must_use]
pub(super) fn json(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len() + 1);
    for c in String::from_utf8_lossy(body).chars() {
        match c {
            '\n' | '\t' => text.push(c),
            // It can stand only where blanks do.
            '\r' => text.push(' '),
            // It can stand only in strings.
            c if wire::is_control(c) => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('\n');
    text
}

/// The ids, one a line.
#[must_use]
pub(super) fn ids(list: &PeersRead) -> String {
    list.peers
        .iter()
        .map(|peer| one_line(&peer.cell_id) + "\n")
        .collect()
}

/// Who has joined and who has left between two lists, as lines.
#[must_use]
pub(super) fn changes(before: &[Peer], after: &[Peer]) -> Vec<String> {
    fn ids(peers: &[Peer]) -> HashSet<&str> {
        peers.iter().map(|peer| &*peer.cell_id).collect()
    }
    let (ids_before, ids_after) = (ids(before), ids(after));
    let left = before
        .iter()
        .filter(|peer| !ids_after.contains(&*peer.cell_id));
    let joined = after
        .iter()
        .filter(|peer| !ids_before.contains(&*peer.cell_id));
    left.map(|peer| format!("leave {}", one_line(&peer.cell_id)))
        .chain(joined.map(|peer| {
            format!(
                "join  {} {} {} level {}",
                one_line(&peer.cell_id),
                one_line(&host_port(&peer.ip, peer.port)),
                one_line(&peer.kind),
                peer.consciousness_level
            )
        }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, last_seen: &str) -> Peer {
        Peer {
            cell_id: id.into(),
            ip: "::1".into(),
            port: 8002,
            consciousness_level: 0.1,
            kind: "pure_cell".into(),
            last_seen: last_seen.into(),
            ..Peer::default()
        }
    }

    fn list(peers: Vec<Peer>) -> PeersRead {
        PeersRead {
            settling: false,
            peers,
            now: Some("2026-01-02T12:21:45.000000Z".into()),
            ..PeersRead::default()
        }
    }

    #[test]
    fn a_table_shows_how_long_ago_each_peer_beat() {
        let list = list(vec![
            peer("pure", "2026-01-02T12:21:43.000000Z"),
            peer("a\nb", "2026-01-02T12:21:36.000000Z"),
            peer("old", "2026-01-02T12:21:25.000000Z"),
            peer("odd", "yesterday"),
        ]);
        let text = table(&list, SystemTime::UNIX_EPOCH, Duration::from_millis(500));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "ID    ADDRESS     TYPE       LEVEL  LAST BEAT  STATE",
                "pure  [::1]:8002  pure_cell  0.1    2.5s ago   alive",
                "a\\nb  [::1]:8002  pure_cell  0.1    9.5s ago   late",
                "old   [::1]:8002  pure_cell  0.1    20.5s ago  stale",
                "odd   [::1]:8002  pure_cell  0.1    ?          ?",
            ]
        );
    }

    #[test]
    fn tsv_and_ids_have_one_line_a_peer() {
        let list = list(vec![peer("a\tb", "2026-01-02T12:21:43.500000Z")]);
        assert_eq!(
            tsv(&list, SystemTime::UNIX_EPOCH),
            "id\tip\tport\ttype\tlevel\tlast_seen\tage\n\
             a\\tb\t::1\t8002\tpure_cell\t0.1\t2026-01-02T12:21:43.500000Z\t1.500\n"
        );
        assert_eq!(ids(&list), "a\\tb\n");
    }

    #[test]
    fn json_is_what_was_sent_without_what_a_terminal_obeys() {
        assert_eq!(
            json("{\r\n\t\"a\": \"ü\u{9b}2J\u{7f}\"}".as_bytes()),
            "{ \n\t\"a\": \"ü\\u009b2J\\u007f\"}\n"
        );
    }

    #[test]
    fn joins_and_leaves_are_told_apart() {
        let before = [peer("a", ""), peer("b", "")];
        let after = [peer("b", ""), peer("c", "")];
        assert_eq!(
            changes(&before, &after),
            ["leave a", "join  c [::1]:8002 pure_cell level 0.1"]
        );
    }
}
