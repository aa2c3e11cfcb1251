//! What a discovery that starts knows of the one before it.
//!
//! Pure.

use super::journal::{Condition, Recovered};
use crate::registry::{Kept, Left};

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
    pub fn none(new_epoch: String) -> Self {
        Self {
            epoch: new_epoch,
            revision: 0,
            peers: Vec::new(),
            left: Vec::new(),
            is_all: false,
        }
    }

    /// What the journal of the one before says; `None` where there was nothing to read.
    #[must_use]
    pub fn of(recovered: Option<Recovered>, new_epoch: String) -> Self {
        let Some(recovered) = recovered else {
            return Self::none(new_epoch);
        };
        // Damage may have taken the last reservation of revisions with it. What is torn off has
        // not: nothing is given out before its reservation is on the disk.
        let is_all = matches!(recovered.condition, Condition::Whole | Condition::Torn);
        Self {
            epoch: if is_all { recovered.epoch } else { new_epoch },
            revision: recovered.revision + 1,
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
        for (condition, epoch) in [
            (Condition::Whole, "old"),
            (Condition::Torn, "old"),
            (Condition::Corrupt, "new"),
            (Condition::Behind, "new"),
        ] {
            let former = Former::of(Some(recovered(condition)), "new".to_owned());
            assert_eq!((&*former.epoch, former.revision), (epoch, 8));
            assert_eq!(former.is_all, epoch == "old");
        }
        let former = Former::of(None, "new".to_owned());
        assert_eq!(former, Former::none("new".to_owned()));
    }
}
