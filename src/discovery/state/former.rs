//! What a discovery that starts knows of the one before it.
//!
//! Pure.

use super::journal::{Condition, Recovered};
use crate::registry::{Kept, Left};

/// An epoch that is new.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEpoch {
    /// Its name, which no other has.
    pub name: String,
    /// The revision it begins with. Those who wait for another than they know are not to take it for
    /// the one they know of the epoch before.
    pub revision: u64,
}

/// What is known of a former run.
#[derive(Clone, Debug, PartialEq)]
pub struct Former {
    /// The epoch to go on in; a new one where a revision may be given out a second time.
    pub epoch: String,
    /// The revision to begin with, above all that were given out in that epoch.
    pub revision: u64,
    /// The peers, in the order of the list.
    pub peers: Vec<Kept>,
    /// The runs that said goodbye, oldest first.
    pub left: Vec<Left>,
    /// Whether that is all there was to know. If not, those of whom nothing is known need time to
    /// register.
    pub is_all: bool,
}

impl Former {
    /// There was none before, or nothing is known of it.
    #[must_use]
    pub fn none(new: NewEpoch) -> Self {
        Self {
            epoch: new.name,
            revision: new.revision,
            peers: Vec::new(),
            left: Vec::new(),
            is_all: false,
        }
    }

    /// What the journal of the one before says; `None` where there was nothing to read.
    #[must_use]
    pub fn of(recovered: Option<Recovered>, new: NewEpoch) -> Self {
        let Some(recovered) = recovered else {
            return Self::none(new);
        };
        // Damage may have taken the last reservation of revisions with it. What is torn off has
        // not: nothing is given out before its reservation is on the disk.
        let is_all = matches!(recovered.condition, Condition::Whole | Condition::Torn);
        let next = recovered.revision + 1;
        let (epoch, revision) = match is_all {
            true => (recovered.epoch, next),
            false => (new.name, next.max(new.revision)),
        };
        Self {
            epoch,
            revision,
            peers: recovered.peers,
            left: recovered.left,
            is_all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::Writer;
    use super::*;

    #[test]
    fn the_epoch_is_kept_unless_something_is_lost() {
        let recovered = |condition| Recovered {
            epoch: "old".to_owned(),
            revision: 7,
            peers: Vec::new(),
            left: Vec::new(),
            condition,
            writer: Writer::begin("old", 7).0,
        };
        let new = |revision| NewEpoch {
            name: "new".to_owned(),
            revision,
        };
        for (condition, epoch, first, revision) in [
            (Condition::Whole, "old", 100, 8),
            (Condition::Torn, "old", 100, 8),
            (Condition::Corrupt, "new", 100, 100),
            (Condition::Behind, "new", 5, 8),
        ] {
            let recovered = Some(recovered(condition));
            let former = Former::of(recovered, new(first));
            assert_eq!((&*former.epoch, former.revision), (epoch, revision));
            assert_eq!(former.is_all, epoch == "old");
        }
        assert_eq!(Former::of(None, new(100)), Former::none(new(100)));
    }
}
