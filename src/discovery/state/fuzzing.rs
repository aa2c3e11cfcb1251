//! What holds for every state file.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::book::{Book, Goodbyes, Rewriting};
use super::former::{Former, NewEpoch};
use super::journal::{Condition, Entry, MOST, Reader, Recovered, recover};
use crate::beats;
use crate::registry::{Kept, LeaseTime, Limits, Now, Refused, Registry};
use crate::wire::Registration;

/// How many revisions are reserved at a time.
const AHEAD: u64 = 100;
/// What it is cut at.
const CUTS: usize = 8;
/// A lease that no peer asks for.
const STALE_AFTER: Duration = Duration::from_nanos(1);

/// Whatever a state file holds: what is read of it are its first whole lines. Written anew, gone on
/// with or cut off it is read as what it then is, and a map can begin with it.
///
/// In the input a line may begin with `*` in place of its checksum.
pub fn state(input: &[u8]) {
    let file = signed(input);
    let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    let text = file.get(9..).unwrap_or_default();
    let Ok(recovered) = recover(&file) else {
        assert!(!text.starts_with(b"aios-mesh-state 1 "));
        return;
    };
    let mut reader = Reader::default();
    let is_taken = |line: &&&[u8]| reader.take(line) == Ok(true);
    let taken = lines.iter().take_while(is_taken).count();
    let Some(recovered) = recovered else {
        assert_eq!(taken, 0);
        return;
    };
    let whole = lines[..taken].concat();
    check_lines(&recovered, &whole, &file);
    let former = Former::of(
        Some(recovered.clone()),
        NewEpoch {
            name: "new".to_owned(),
            revision: 0,
        },
    );
    assert!(former.revision > recovered.revision);
    let last = former.peers.last().map_or(0, |peer| peer.place);
    // Numbers that nobody ever gets to.
    if former.revision + 2 * AHEAD > MOST || last >= MOST {
        return;
    }
    check_anew(&former);
    if recovered.condition == Condition::Whole {
        check_further(&former, recovered, file);
    }
    check_cuts(&whole);
    check_map(former);
}

/// Puts the checksum in front of each line that has an asterisk instead.
fn signed(input: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut hasher = crc32fast::Hasher::new();
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let Some(text) = line.strip_prefix(b"* ") else {
            file.extend_from_slice(line);
            continue;
        };
        hasher.update(text.strip_suffix(b"\n").unwrap_or(text));
        file.extend(format!("{:08x} ", hasher.clone().finalize()).into_bytes());
        file.extend_from_slice(text);
    }
    file
}

fn read(file: &[u8]) -> Recovered {
    match recover(file) {
        Ok(Some(recovered)) => recovered,
        other => unreachable!("not read: {other:?}"),
    }
}

/// What is recovered is what the whole lines say, and all of it where there are no others.
fn check_lines(recovered: &Recovered, whole: &[u8], file: &[u8]) {
    let rest = &file[whole.len()..];
    // One that is marked as behind says what its last line does.
    let marked = [file, b"\n"].concat();
    let whole = match recovered.condition {
        Condition::Behind => &marked,
        _ => whole,
    };
    match recovered.condition {
        Condition::Whole => assert!(rest.is_empty()),
        Condition::Torn | Condition::Behind => assert!(!rest.is_empty() && !rest.contains(&b'\n')),
        Condition::Corrupt => assert!(!rest.is_empty()),
    }
    let expected = Recovered {
        condition: recovered.condition,
        ..read(whole)
    };
    assert_eq!(*recovered, expected);
    let places = recovered.peers.iter().map(|peer| peer.place);
    assert!(places.is_sorted_by(|one, next| one < next));
    let ids = recovered.peers.iter().map(|peer| &peer.facts.cell_id);
    assert_eq!(ids.collect::<HashSet<_>>().len(), recovered.peers.len());
    let lines = whole.iter().filter(|byte| **byte == b'\n').count();
    assert!(recovered.peers.len() + recovered.left.len() < lines);
}

/// Written anew, it is read as the same.
fn check_anew(former: &Former) {
    let goodbyes = Goodbyes::new(former.left.clone());
    let (mut rewriting, mut file) =
        Rewriting::begin(&former.epoch, former.revision, AHEAD, &goodbyes);
    for peers in former.peers.chunks(2) {
        file.extend(rewriting.peers(peers.iter().cloned()));
    }
    file.extend(rewriting.end(former.revision).1);
    let again = read(&file);
    assert_eq!(again.condition, Condition::Whole);
    assert_eq!(again.epoch, former.epoch);
    assert_eq!(again.revision, former.revision + AHEAD);
    assert_eq!(again.peers, former.peers);
    assert_eq!(again.left, former.left);
}

/// Gone on with, what comes is read after what was there.
fn check_further(former: &Former, recovered: Recovered, mut file: Vec<u8>) {
    let Some(peer) = newcomer(former) else {
        return;
    };
    let (mut book, bytes) = Book::go_on(recovered.writer, former.revision, AHEAD);
    file.extend(bytes);
    let mut peers = recovered.peers;
    if let Some(first) = peers.first().cloned() {
        let gone = Entry::Gone {
            id: first.facts.cell_id.clone(),
            left: None,
        };
        book.write(&[gone], former.revision + 1, &mut file);
        peers.remove(0);
    }
    book.write(
        &[Entry::Peer(peer.clone())],
        former.revision + AHEAD,
        &mut file,
    );
    peers.push(peer);
    let again = read(&file);
    assert_eq!(again.condition, Condition::Whole);
    assert_eq!(again.revision, former.revision + 2 * AHEAD);
    assert_eq!(again.peers, peers);
    assert_eq!(again.left, recovered.left);
}

fn somebody() -> Registration {
    let body = br#"{"cell_id":"newcomer","ip":"h","port":1,"instance":"i"}"#;
    match Registration::from_json(body) {
        Ok(registration) => registration,
        Err(why) => unreachable!("not taken: {why}"),
    }
}

/// Somebody whom nobody knows.
fn newcomer(former: &Former) -> Option<Kept> {
    let place = former.peers.last().map_or(0, |peer| peer.place + 1);
    let peer = Kept::new(place, somebody(), None);
    let mut known = former.peers.iter().map(|peer| &peer.facts.cell_id);
    known.all(|id| *id != peer.facts.cell_id).then_some(peer)
}

/// Cut off anywhere, its whole lines are read, and it is seen.
fn check_cuts(whole: &[u8]) {
    let step = whole.len() / CUTS + 1;
    let first = crc32fast::hash(whole) as usize % step;
    for cut in (first..whole.len()).step_by(step) {
        let cut = &whole[..cut];
        let lines = cut.iter().rposition(|byte| *byte == b'\n');
        let lines = &cut[..lines.map_or(0, |at| at + 1)];
        match recover(cut) {
            Ok(None) => assert!(lines.is_empty()),
            Ok(Some(recovered)) => {
                assert_eq!(recovered.condition == Condition::Whole, lines == cut);
                assert_ne!(recovered.condition, Condition::Corrupt);
                check_lines(&recovered, lines, cut);
            }
            Err(foreign) => unreachable!("not ours any more: {foreign:?}"),
        }
    }
}

/// A map begins with all of it, and goes on above.
fn check_map(former: Former) {
    let mut registry = Registry::new(Limits {
        stale_after: STALE_AFTER,
        max_peers: usize::MAX,
    });
    let last = former.left.iter().max_by_key(|left| left.at).cloned();
    let now = Now {
        lease: LeaseTime::default(),
        wall: last.as_ref().map_or(SystemTime::UNIX_EPOCH, |left| left.at),
    };
    let newcomer = newcomer(&former);
    let as_kept = |at| beats::after_1970(beats::since_1970(at));
    let mut peers = former.peers.clone();
    for peer in &mut peers {
        let joined_at = peer.joined_at.unwrap_or(now.wall);
        peer.joined_at = Some(as_kept(joined_at));
    }
    registry.restore(former.peers, &former.left, former.revision, now);
    assert_eq!(registry.revision(), former.revision);
    assert_eq!(registry.kept_from(0, usize::MAX), peers);
    assert!(!registry.any_stale(now.lease));
    if let Some(left) = last {
        let again = Registration {
            cell_id: left.id,
            instance: Some(left.instance),
            ..somebody()
        };
        let refused = registry.register(again, None, now).map(|_| ());
        assert_eq!(refused, Err(Refused::Overtaken));
    }
    if let Some(newcomer) = newcomer {
        let id = newcomer.facts.cell_id.clone();
        match registry.register(newcomer.registration(), None, now) {
            Ok(accepted) => assert!(accepted.revision > former.revision),
            Err(refused) => {
                assert_eq!(refused, Refused::Overtaken);
                return;
            }
        }
        let expected = Kept {
            joined_at: Some(as_kept(now.wall)),
            ..newcomer
        };
        assert_eq!(registry.kept(&id), Some(expected));
    }
}
