//! What holds for all that a discovery may answer to the operator's tool and to a cell.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::happened::{Happened, What};
use super::roster::{self, Roster, Told};
use super::stream::{Event, Stream, TooLong};
use super::wanted::Wanted;
use super::{sentences, table};
use crate::cell;
use crate::wire::{Departure, Peer, PeersRead, Portrait, RegisteredRead, is_control};

/// The widest a line of the table can be.
const WIDEST_LINE: usize = 6 * 42;

/// Whatever a discovery answers: what is shown of its list has one line for each peer and nothing
/// that would steer a terminal, and a cell beats at an interval that makes sense.
pub fn answers(input: &[u8]) {
    if let Ok(reply) = serde_json::from_slice::<RegisteredRead>(input) {
        cell::fuzzing::registered(&reply);
    }
    let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_356_505);
    let value: Value = serde_json::from_slice(input).unwrap_or_default();
    if let Some(gone) = Departure::read_all(&value, "gone") {
        let text = sentences::absent("a\nb", &gone, clock);
        check_lines(&text, text.lines().count(), 0);
    }
    if let Ok(peer) = serde_json::from_slice::<Peer>(input) {
        let text = sentences::present(&peer, &Portrait::read(&value));
        check_lines(&text, text.lines().count(), 0);
    }
    let Ok(list) = serde_json::from_slice::<PeersRead>(input) else {
        return;
    };
    let peers = list.peers.len();

    let text = table::table(&list, clock, Duration::from_millis(500));
    check_lines(&text, peers + 1, 0);
    for line in text.lines() {
        assert!(line.chars().count() <= WIDEST_LINE, "{line}");
    }
    check_lines(&table::tsv(&list, clock), peers + 1, 6);
    check_lines(&table::ids(&list), peers, 0);
    for line in table::changes(&list.peers, &[]) {
        check_lines(&(line + "\n"), 1, 0);
    }
    for line in table::changes(&[], &list.peers) {
        check_lines(&(line + "\n"), 1, 0);
    }

    for peer in &list.peers {
        let text = sentences::listed(peer, &list, clock);
        check_lines(&text, 3, 0);
        let wanted = Wanted::Without(vec![peer.cell_id.clone()]);
        let lacking = wanted.lacking(&list, true).unwrap_or_default();
        check_lines(&(lacking + "\n"), 1, 0);
    }
    // Everybody is there once, however often he is listed; and then nobody.
    let mut roster = Roster::default();
    let joined = roster.compare(list.clone(), true, "");
    check_news(&joined);
    let empty = PeersRead::default();
    assert!(roster.compare(empty.clone(), false, "").is_empty());
    let left = roster.compare(empty, true, "");
    check_news(&left);
    assert!(left.len() <= peers && joined.len() >= left.len());

    let json = table::json(input);
    assert!(
        !json
            .chars()
            .any(|c| is_control(c) && !matches!(c, '\n' | '\t'))
    );
    if let Ok(sent) = serde_json::from_slice::<Value>(input) {
        assert_eq!(serde_json::from_str(&json).ok(), Some(sent));
    }
}

/// Whatever arrives as a stream of events: where it is cut into pieces makes no difference, and what
/// is shown of it is a line for each event that steers no terminal.
pub fn events(input: &[u8]) {
    let (at, input) = match input.split_first() {
        Some((at, rest)) => (usize::from(*at).min(rest.len()), rest),
        None => (0, input),
    };
    let whole = taken(&[input]);
    assert_eq!(whole, taken(&[&input[..at], &input[at..]]));
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(whole, taken(&bytes));

    let mut roster = Roster::default();
    let (mut known, mut gone) = (None, Vec::new());
    for event in whole.unwrap_or_default() {
        if let Told::News(news) = roster.event(&event, known) {
            let mut news = [*news];
            check_news(&news);
            roster::explain(&mut news, &gone);
            check_news(&news);
            if let What::Left(departure, _) = &news[0].what {
                gone.insert(0, departure.clone());
            }
        }
        known = known.max(event.id);
    }
}

/// What comes of a stream in these pieces.
fn taken(pieces: &[&[u8]]) -> Result<Vec<Event>, TooLong> {
    let mut stream = Stream::default();
    let events: Result<Vec<_>, _> = pieces.iter().map(|piece| stream.take(piece)).collect();
    events.map(|events| events.concat())
}

/// Each of them is a line, in either form.
fn check_news(news: &[Happened]) {
    for one in news {
        check_lines(&one.line(), 1, 0);
        let json = one.json();
        check_lines(&json, 1, 0);
        let object = serde_json::from_str::<Value>(&json).unwrap_or_default();
        assert!(object["event"].is_string(), "{json}");
    }
}

/// So many lines, each with so many tabs and no other control character.
fn check_lines(text: &str, count: usize, tabs: usize) {
    let lines: Vec<&str> = text.split_terminator('\n').collect();
    assert_eq!(lines.len(), count, "{text}");
    for line in lines {
        let controls: Vec<char> = line.chars().filter(|c| is_control(*c)).collect();
        assert!(
            controls.iter().all(|c| *c == '\t') && controls.len() == tabs,
            "{line:?}"
        );
    }
}
