//! What happened in the worlds, so that it can be asserted that it did.

macro_rules! kinds {
    ($($name:ident),+ $(,)?) => {
        /// Something worth counting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Seen { $($name),+ }

        impl Seen {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

kinds! {
    // The network.
    RequestLost, AnswerLost, Duplicated, ArrivedLate, Overtook, CutOff, Refused, Unreachable,
    // Discovery.
    Paused, ServedBeforeTick, Starved, Crashed, StoppedGracefully, StartedWithState,
    StartedWithoutState, WallForward, WallBack, HoldBegan, MassReaped, Reaped,
    // The state file.
    LostUnwritten, Torn, Damaged, Rewritten, ChangedMeanwhile, KilledRewriting,
    KilledStarting,
    // Cells.
    CellFrozen, CellKilled, CellStopped, CellRestarted, Twin, DeadRunSpeaks, LeftUnregistered,
    LevelChanged, Moved, OwnLease, OldClient, OperatorDeregistered,
    // Answers.
    Joined, Replaced, Updated, Renewed, BeatTaken, BeatUnknown, BeatFenced, RegisterOvertaken,
    RegisterFull, GoodbyeTaken, GoodbyeUnknown, GoodbyeFenced,
}

/// How often each kind was seen.
#[derive(Clone, Debug)]
pub struct Coverage([u64; Seen::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; Seen::ALL.len()])
    }
}

impl Coverage {
    /// Counts one.
    pub fn saw(&mut self, what: Seen) {
        self.0[what as usize] += 1;
    }

    /// How many of these there were.
    pub fn of(&self, what: Seen) -> u64 {
        self.0[what as usize]
    }

    /// Adds those of another world.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}
