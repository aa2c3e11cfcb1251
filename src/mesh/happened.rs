//! What has happened in the mesh, as lines and as JSON. Pure.

use super::table;
use crate::wire::{Departure, Peer, cut, host_port, one_line};

/// The most characters shown of what may be long.
const MOST: usize = 200;
/// What is not known, in JSON.
const NULL: &str = "null";

/// Something that has happened.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    /// The revision it led to, where discovery says.
    pub(super) revision: Option<u64>,
    /// When, by discovery's clock.
    pub(super) at: String,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// Somebody is there who was not, registered from that address.
    Joined(Peer, Option<String>),
    /// Somebody who was there before is another now: the later one, and what was otherwise.
    Changed(Peer, Vec<String>),
    /// Somebody is not there any more, who had that address.
    Left(Departure, Option<(String, i64)>),
    /// What has happened before is not known, and who was there is not counted any more.
    Reset,
}

impl Happened {
    /// As a line for people.
    pub(super) fn line(&self) -> String {
        let at = one_line(&self.at);
        match &self.what {
            What::Joined(peer, by) => {
                let by = by.as_deref().filter(|by| *by != peer.ip);
                let by = by.map_or_else(String::new, |by| format!(", registered by {}", shown(by)));
                format!("{at}  joined   {}{by}\n", described(peer))
            }
            What::Changed(peer, was) => {
                let was = match was.is_empty() {
                    true => String::new(),
                    false => format!(", was {}", shown(&was.join(", "))),
                };
                format!("{at}  changed  {}{was}\n", described(peer))
            }
            What::Left(departure, address) => {
                let address = match address {
                    Some((ip, port)) => shown(&host_port(ip, port)),
                    None => "-".to_owned(),
                };
                let id = shown(&departure.cell_id);
                format!(
                    "{at}  left     {id} {address} {}\n",
                    circumstances(departure)
                )
            }
            What::Reset => format!(
                "{at}  reset    what happened before is not remembered; who is there now follows\n"
            ),
        }
    }

    /// As a line of JSON.
    pub(super) fn json(&self) -> String {
        let at = text(&self.at);
        let (event, members) = match &self.what {
            What::Joined(peer, by) => {
                let by = by.as_deref().map_or(NULL.into(), text);
                let peer = members(peer);
                (
                    "join",
                    format!(",\"at\":{at},\"registered_by\":{by},{peer}"),
                )
            }
            What::Changed(peer, _) => ("change", format!(",\"at\":{at},{}", members(peer))),
            What::Left(departure, address) => {
                let (ip, port) = match address {
                    Some((ip, port)) => (text(ip), port.to_string()),
                    None => (NULL.to_owned(), NULL.to_owned()),
                };
                let optional = |value: &Option<String>| value.as_deref().map_or(NULL.into(), text);
                let number = |value: Option<u64>| value.map_or(NULL.into(), |n| n.to_string());
                let members = format!(
                    ",\"at\":{at},\"cell_id\":{},\"ip\":{ip},\"port\":{port},\"reason\":{},\"was_here_ms\":{},\"late_ms\":{},\"registered_by\":{},\"deregistered_by\":{}",
                    text(&departure.cell_id),
                    optional(&departure.reason),
                    number(departure.was_here_ms),
                    number(departure.late_ms),
                    optional(&departure.registered_by),
                    optional(&departure.deregistered_by)
                );
                ("leave", members)
            }
            What::Reset => ("reset", format!(",\"at\":{at}")),
        };
        let revision = match self.revision {
            Some(revision) => revision.to_string(),
            None => NULL.to_owned(),
        };
        let line = format!("{{\"event\":\"{event}\",\"revision\":{revision}{members}}}");
        table::json(line.as_bytes())
    }
}

/// A string of JSON.
fn text(text: &str) -> String {
    // Text alone always has a form in JSON.
    serde_json::to_string(text).unwrap_or_default()
}

/// The members of a peer in JSON.
fn members(peer: &Peer) -> String {
    let object = serde_json::to_string(peer).unwrap_or_default();
    let inner = object.strip_prefix('{');
    inner
        .and_then(|inner| inner.strip_suffix('}'))
        .unwrap_or_default()
        .to_owned()
}

/// Who a peer is, and where.
fn described(peer: &Peer) -> String {
    format!(
        "{} {} {} level {}",
        shown(&peer.cell_id),
        shown(&host_port(&peer.ip, peer.port)),
        shown(&peer.kind),
        peer.consciousness_level
    )
}

/// Why, and how late and for how long.
pub(super) fn circumstances(departure: &Departure) -> String {
    let mut words = match (departure.reason.as_deref(), &departure.deregistered_by) {
        (None | Some(""), _) => "for a reason that is not known".to_owned(),
        (Some(reason), None) => shown(reason),
        (Some(reason), Some(by)) => format!("{} by {}", shown(reason), shown(by)),
    };
    if let Some(late) = departure.late_ms.filter(|late| *late > 0) {
        words = format!("{words}, its beat {} overdue", span(late));
    }
    if let Some(here) = departure.was_here_ms {
        words = format!("{words}, after {} here", span(here));
    }
    words
}

/// Text from outside.
pub(super) fn shown(text: &str) -> String {
    one_line(&cut(text, MOST))
}

/// So many milliseconds, for people.
pub(super) fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d {}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h {}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else {
        format!("{seconds}.{}s", millis % 1000 / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            cell_id: "a\nb".into(),
            ip: "::1".into(),
            port: 8002,
            kind: "pure_cell".into(),
            consciousness_level: 0.1,
            services: vec!["x\u{9b}{}".into()],
            ..Peer::default()
        }
    }

    fn happened(what: What) -> Happened {
        Happened {
            revision: Some(7),
            at: "2026-01-02T12:21:45.755329Z".into(),
            what,
        }
    }

    fn departure() -> Departure {
        Departure {
            cell_id: "a".into(),
            reason: Some("reaped".into()),
            at: "2026-01-02T12:21:45.755329Z".into(),
            was_here_ms: Some(3_723_000),
            late_ms: Some(11_250),
            ..Departure::default()
        }
    }

    #[test]
    fn each_has_a_line() {
        let address = Some(("127.0.0.1".to_owned(), 8002));
        let by_hand = Departure {
            reason: Some("deregistered".into()),
            deregistered_by: Some("10.0.0.9".into()),
            late_ms: Some(0),
            ..departure()
        };
        for (what, line) in [
            (
                What::Joined(peer(), Some("::1".into())),
                "joined   a\\nb [::1]:8002 pure_cell level 0.1",
            ),
            (
                What::Joined(peer(), Some("10.0.0.7".into())),
                "joined   a\\nb [::1]:8002 pure_cell level 0.1, registered by 10.0.0.7",
            ),
            (
                What::Changed(peer(), vec!["port 1".into()]),
                "changed  a\\nb [::1]:8002 pure_cell level 0.1, was port 1",
            ),
            (
                What::Left(departure(), address),
                "left     a 127.0.0.1:8002 reaped, its beat 11.2s overdue, after 1h 2m here",
            ),
            (
                What::Left(by_hand, None),
                "left     a - deregistered by 10.0.0.9, after 1h 2m here",
            ),
            (
                What::Left(Departure::default(), None),
                "left      - for a reason that is not known",
            ),
            (
                What::Reset,
                "reset    what happened before is not remembered; who is there now follows",
            ),
        ] {
            let expected = format!("2026-01-02T12:21:45.755329Z  {line}\n");
            assert_eq!(happened(what).line(), expected);
        }
    }

    #[test]
    fn each_is_an_object_on_a_line_that_no_terminal_obeys() {
        let joined = happened(What::Joined(peer(), None)).json();
        assert_eq!(
            joined,
            "{\"event\":\"join\",\"revision\":7,\"at\":\"2026-01-02T12:21:45.755329Z\",\
             \"registered_by\":null,\"cell_id\":\"a\\nb\",\"ip\":\"::1\",\"port\":8002,\
             \"consciousness_level\":0.1,\"services\":[\"x\\u009b{}\"],\"branch\":\"\",\
             \"type\":\"pure_cell\",\"hostname\":\"\",\"last_seen\":\"\"}\n"
        );
        for what in [
            What::Joined(peer(), Some("::1".into())),
            What::Changed(peer(), Vec::new()),
            What::Left(departure(), Some(("h".into(), -1))),
            What::Left(departure(), None),
            What::Reset,
        ] {
            let json = happened(what).json();
            let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            assert_eq!(value["at"], "2026-01-02T12:21:45.755329Z", "{json}");
            assert_eq!(json.lines().count(), 1);
        }
    }

    #[test]
    fn spans_are_as_exact_as_people_want_them() {
        for (millis, text) in [
            (0, "0.0s"),
            (16_250, "16.2s"),
            (60_000, "1m 0s"),
            (3_599_999, "59m 59s"),
            (86_399_999, "23h 59m"),
            (u64::MAX, "213503982334d 14h"),
        ] {
            assert_eq!(span(millis), text);
        }
    }
}
