//! What is waited for, held against the list of peers. Pure.

use std::collections::HashSet;

use super::happened::shown;
use crate::wire::PeersRead;

/// How many ids are named at most.
const MOST: usize = 10;

/// What is waited for.
#[derive(Debug)]
pub(super) enum Wanted {
    /// That all of these are there.
    All(Vec<String>),
    /// That so many are there.
    AtLeast(usize),
    /// That none of these is there.
    Without(Vec<String>),
}

impl Wanted {
    /// In the words of an operator.
    pub(super) fn words(&self) -> String {
        match self {
            Self::All(ids) => named(ids.iter().map(String::as_str)),
            Self::AtLeast(1) => "a peer".to_owned(),
            Self::AtLeast(count) => format!("{count} peers"),
            Self::Without(ids) => format!("{} to leave", named(ids.iter().map(String::as_str))),
        }
    }

    /// Why it is not so by this list, or nothing if it is. A list that may be short does not say
    /// who is gone.
    pub(super) fn lacking(&self, list: &PeersRead, complete: bool) -> Option<String> {
        let here = || list.peers.iter().map(|peer| peer.cell_id.as_str());
        match self {
            Self::All(ids) => {
                let here: HashSet<&str> = here().collect();
                let missing = ids.iter().map(String::as_str);
                let missing = missing.filter(|id| !here.contains(id));
                let named = named(missing);
                (!named.is_empty()).then(|| format!("still missing: {named}"))
            }
            Self::AtLeast(count) => {
                let there = list.peers.len();
                (there < *count).then(|| format!("{there} of {count} peers are there"))
            }
            Self::Without(ids) => {
                let here: HashSet<&str> = here().collect();
                let ids = || ids.iter().map(String::as_str);
                let there = named(ids().filter(|id| here.contains(id)));
                match there.is_empty() {
                    false => Some(format!("still there: {there}")),
                    true => (!complete).then(|| {
                        let all = named(ids());
                        format!("discovery has only just started and may not know of {all} yet")
                    }),
                }
            }
        }
    }
}

/// Some ids, not too many.
fn named<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    let mut ids = ids.map(shown);
    let mut first: Vec<String> = ids.by_ref().take(MOST).collect();
    match ids.count() {
        0 => {}
        more => first.push(format!("… and {more} more")),
    }
    first.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Peer;

    fn list(ids: &[&str]) -> PeersRead {
        let peer = |id: &&str| Peer {
            cell_id: (*id).into(),
            ..Peer::default()
        };
        PeersRead {
            peers: ids.iter().map(peer).collect(),
            ..PeersRead::default()
        }
    }

    fn lacking(wanted: &Wanted, ids: &[&str], complete: bool) -> String {
        wanted.lacking(&list(ids), complete).unwrap_or_default()
    }

    #[test]
    fn who_is_missing_is_named() {
        let wanted = Wanted::All(vec!["a".into(), "b\n".into()]);
        assert_eq!(lacking(&wanted, &[], true), "still missing: a, b\\n");
        assert_eq!(lacking(&wanted, &["a", "c"], true), "still missing: b\\n");
        assert_eq!(lacking(&wanted, &["b\n", "a"], false), "");
        let many = Wanted::All((0..12).map(|n| n.to_string()).collect());
        let said = lacking(&many, &[], true);
        assert!(said.ends_with("8, 9, … and 2 more"), "{said}");
    }

    #[test]
    fn peers_are_counted() {
        let wanted = Wanted::AtLeast(2);
        assert_eq!(lacking(&wanted, &["a"], true), "1 of 2 peers are there");
        assert_eq!(lacking(&wanted, &["a", "b"], false), "");
    }

    #[test]
    fn nobody_is_gone_by_a_list_that_may_be_short() {
        let wanted = Wanted::Without(vec!["a".into(), "c".into()]);
        assert_eq!(lacking(&wanted, &["a"], true), "still there: a");
        assert_eq!(lacking(&wanted, &["c", "a"], false), "still there: a, c");
        let said = lacking(&wanted, &["b"], false);
        assert!(said.contains("may not know of a, c yet"), "{said}");
        assert_eq!(lacking(&wanted, &["b"], true), "");
    }
}
