//! Who is there as far as has been told, and what a further list or event says is new. Pure.

use std::collections::HashMap;

use serde_json::Value;

use super::happened::{Happened, What};
use super::stream::Event;
use crate::wire::{self, Departure, Peer, PeersRead};

/// Who is there.
#[derive(Default)]
pub(super) struct Roster {
    peers: HashMap<String, Peer>,
}

/// What an event of discovery says.
pub(super) enum Told {
    /// Something has happened.
    News(Box<Happened>),
    /// Not all is remembered that has happened: the list is to be read.
    StartOver,
    /// Nothing that is known here.
    Nothing,
}

impl Roster {
    /// Who is there at first.
    pub(super) fn of(list: PeersRead) -> Self {
        let mut roster = Self::default();
        for peer in list.peers {
            roster.insert(peer);
        }
        roster
    }

    /// An event has come. One that led to a revision up to `known` is told, but has been counted.
    pub(super) fn event(&mut self, event: &Event, known: Option<u64>) -> Told {
        let counts = event
            .id
            .is_none_or(|id| known.is_none_or(|known| id > known));
        let data = event.data.as_bytes();
        let said: Value = serde_json::from_slice(data).unwrap_or_default();
        let (at, what) = match event.name.as_str() {
            "reset" => return Told::StartOver,
            "leave" => {
                let Some(departure) = Departure::read(&said) else {
                    return Told::Nothing;
                };
                let peer = match counts {
                    true => self.peers.remove(&departure.cell_id),
                    false => None,
                };
                let address = peer.map(|peer| (peer.ip, peer.port));
                (departure.at.clone(), What::Left(departure, address))
            }
            name @ ("join" | "change") => {
                let Ok(peer) = serde_json::from_slice::<Peer>(data) else {
                    return Told::Nothing;
                };
                let before = match counts {
                    true => self.insert(peer.clone()),
                    false => None,
                };
                let at = peer.last_seen.clone();
                let what = if name == "change" {
                    let was = before.map_or_else(Vec::new, |before| differences(&before, &peer));
                    What::Changed(peer, was)
                } else {
                    What::Joined(peer, wire::text(&said, "registered_by"))
                };
                (at, what)
            }
            _ => return Told::Nothing,
        };
        Told::News(Box::new(Happened {
            revision: event.id,
            at,
            what,
        }))
    }

    /// What a list says is new, at time `at`: joins, changes and leaves. Who is missing from it has
    /// left only where the list is `complete`.
    pub(super) fn compare(&mut self, list: PeersRead, complete: bool, at: &str) -> Vec<Happened> {
        let happened = |what| Happened {
            revision: list.revision,
            at: at.to_owned(),
            what,
        };
        let mut news = Vec::new();
        let mut before = std::mem::take(&mut self.peers);
        for peer in list.peers {
            match before.remove(&peer.cell_id) {
                None => news.push(happened(What::Joined(peer.clone(), None))),
                Some(before) => {
                    let was = differences(&before, &peer);
                    if !was.is_empty() {
                        news.push(happened(What::Changed(peer.clone(), was)));
                    }
                }
            }
            self.insert(peer);
        }
        for (id, peer) in before {
            if complete {
                let departure = Departure {
                    cell_id: id,
                    at: at.to_owned(),
                    ..Departure::default()
                };
                let address = Some((peer.ip, peer.port));
                news.push(happened(What::Left(departure, address)));
            } else {
                self.insert(peer);
            }
        }
        news
    }

    fn insert(&mut self, peer: Peer) -> Option<Peer> {
        self.peers.insert(peer.cell_id.clone(), peer)
    }
}

/// Adds to departures what discovery remembers of them, the last first.
pub(super) fn explain(news: &mut [Happened], gone: &[Departure]) {
    for one in news {
        if let What::Left(departure, _) = &mut one.what
            && let Some(known) = gone.iter().find(|one| one.cell_id == departure.cell_id)
        {
            one.at.clone_from(&known.at);
            departure.clone_from(known);
        }
    }
}

/// What `before` was otherwise in what a registration says.
fn differences(before: &Peer, after: &Peer) -> Vec<String> {
    let mut was = Vec::new();
    if before.port != after.port {
        was.push(format!("port {}", before.port));
    }
    if before.services != after.services {
        was.push(format!("services {}", before.services.join(" ")));
    }
    for (name, before, after) in [
        ("ip", &before.ip, &after.ip),
        ("type", &before.kind, &after.kind),
        ("branch", &before.branch, &after.branch),
        ("hostname", &before.hostname, &after.hostname),
    ] {
        if before != after {
            was.push(format!("{name} {before}"));
        }
    }
    was
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, port: i64) -> Peer {
        Peer {
            cell_id: id.into(),
            ip: "h".into(),
            port,
            ..Peer::default()
        }
    }

    fn list(peers: &[Peer]) -> PeersRead {
        PeersRead {
            peers: peers.to_vec(),
            revision: Some(9),
            ..PeersRead::default()
        }
    }

    /// In short, what has happened.
    fn told(news: &[Happened]) -> Vec<String> {
        let one = |one: &Happened| match &one.what {
            What::Joined(peer, _) => format!("+{}", peer.cell_id),
            What::Changed(peer, was) => format!("~{} {}", peer.cell_id, was.join(",")),
            What::Left(departure, address) => {
                let reason = departure.reason.as_deref().unwrap_or("?");
                let port = address.as_ref().map(|(_, port)| *port);
                format!("-{} {reason} {port:?}", departure.cell_id)
            }
            What::Reset => "reset".into(),
        };
        news.iter().map(one).collect()
    }

    fn event(roster: &mut Roster, name: &str, id: u64, data: &str, known: u64) -> Vec<String> {
        let event = Event {
            name: name.into(),
            id: Some(id),
            data: data.into(),
        };
        match roster.event(&event, Some(known)) {
            Told::News(happened) => told(&[*happened]),
            Told::StartOver => vec!["start over".into()],
            Told::Nothing => Vec::new(),
        }
    }

    #[test]
    fn a_list_tells_who_left_who_changed_and_who_joined() {
        let mut roster = Roster::of(list(&[peer("a", 1), peer("b", 1), peer("c", 1)]));
        let mut louder = peer("b", 1);
        louder.consciousness_level = 7.0;
        louder.last_seen = "later".into();
        let after = [louder, peer("c", 2), peer("d", 1)];
        let news = roster.compare(list(&after), true, "now");
        assert_eq!(told(&news), ["~c port 1", "+d", "-a ? Some(1)"]);
        assert_eq!(news[0].revision, Some(9));
        assert_eq!(news[0].at, "now");
        let news = roster.compare(list(&after), true, "now");
        assert_eq!(told(&news), [""; 0]);
    }

    #[test]
    fn nobody_has_left_by_a_list_that_may_be_short() {
        let mut roster = Roster::of(list(&[peer("a", 1), peer("b", 1)]));
        assert!(roster.compare(list(&[]), false, "").is_empty());
        let news = roster.compare(list(&[peer("b", 1), peer("c", 1)]), false, "");
        assert_eq!(told(&news), ["+c"]);
        let news = roster.compare(list(&[peer("b", 1), peer("c", 1)]), true, "");
        assert_eq!(told(&news), ["-a ? Some(1)"]);
    }

    #[test]
    fn departures_are_explained_where_they_are_remembered() {
        let mut roster = Roster::of(list(&[peer("a", 1), peer("b", 1)]));
        let mut news = roster.compare(list(&[]), true, "");
        let departure = |id: &str, reason: &str| Departure {
            cell_id: id.into(),
            reason: Some(reason.into()),
            at: "then".into(),
            ..Departure::default()
        };
        // Nobody's order.
        news.sort_by_key(|one| told(std::slice::from_ref(one)));
        explain(
            &mut news,
            &[departure("b", "reaped"), departure("b", "deregistered")],
        );
        assert_eq!(told(&news), ["-a ? Some(1)", "-b reaped Some(1)"]);
        assert_eq!((&*news[0].at, &*news[1].at), ("", "then"));
    }

    #[test]
    fn events_are_told_and_counted() {
        let mut roster = Roster::default();
        let a = r#"{"cell_id":"a","ip":"h","port":1,"registered_by":null}"#;
        let b = r#"{"cell_id":"a","ip":"h","port":2}"#;
        let left = r#"{"cell_id":"a","reason":"reaped"}"#;
        assert_eq!(event(&mut roster, "join", 8, a, 7), ["+a"]);
        assert_eq!(event(&mut roster, "change", 9, b, 8), ["~a port 1"]);
        // One from before the list that was read is told, and changes nothing.
        assert_eq!(event(&mut roster, "leave", 7, left, 9), ["-a reaped None"]);
        assert!(!roster.peers.is_empty());
        assert_eq!(
            event(&mut roster, "leave", 10, left, 9),
            ["-a reaped Some(2)"]
        );
        assert!(roster.peers.is_empty());
        assert_eq!(event(&mut roster, "reset", 11, "{}", 10), ["start over"]);
        for (name, data) in [("leave", "{}"), ("join", "[1]"), ("other", "{}")] {
            assert_eq!(event(&mut roster, name, 12, data, 11), [""; 0]);
        }
    }
}
