//! What holds for all that a discovery may answer to the operator's tool and to a cell.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::table;
use crate::cell;
use crate::wire::{PeersRead, RegisteredRead, is_control};

/// The widest a line of the table can be.
const WIDEST_LINE: usize = 6 * 42;

/// Whatever a discovery answers: what is shown of its list has one line for each peer and nothing
/// that would steer a terminal, and a cell beats at an interval that makes sense.
pub fn answers(input: &[u8]) {
    if let Ok(reply) = serde_json::from_slice::<RegisteredRead>(input) {
        cell::fuzzing::registered(&reply);
    }
    let Ok(list) = serde_json::from_slice::<PeersRead>(input) else {
        return;
    };
    let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_356_505);
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
