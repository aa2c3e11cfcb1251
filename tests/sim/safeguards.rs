//! What keeps the promises, and can be left out to see that the simulation notices.

use crate::invariants::Invariant;

macro_rules! safeguards {
    ($($(#[doc = $doc:literal])+ $name:ident => [$($caught:ident),+],)+) => {
        /// One thing that keeps the promises.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Safeguard {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Safeguard {
            /// The promises of which one is seen broken without it.
            pub fn keeps(self) -> &'static [Invariant] {
                match self {
                    $(Self::$name => &[$(Invariant::$caught),+],)+
                }
            }
        }
    };
}

safeguards! {
    /// Discovery: the clock of the leases stands still while nothing runs. Without: monotonic time.
    LeaseClock => [Present],
    /// Discovery: ages are not counted on the wall clock.
    NoWallClock => [Present, Gone],
    /// Discovery: the lease clock is ticked at once, and more often, for a short lease.
    ShortTicks => [Present],
    /// Discovery: a peer may have a lease of its own.
    OwnLease => [Present, Gone, Durable],
    /// Discovery: a run that said goodbye cannot register for a while.
    Fence => [Fenced],
    /// Discovery: a goodbye that names another run removes nobody.
    InstanceOfGoodbye => [Fenced],
    /// Discovery: a beat that names another run renews nothing.
    InstanceOfBeat => [Fenced],
    /// Discovery: what changes is on disk a second later.
    Journal => [Durable],
    /// Discovery: every change is on disk, and not only when it stops gracefully.
    JournalInTime => [Durable],
    /// State file: a new run of a cell is written, though nothing that is shown is new.
    RunKept => [Durable],
    /// State file: revisions are reserved ahead, and not only up to the last that was given out.
    RevisionsAhead => [Revision],
    /// State file: and before the first is given out after a start.
    ReservedFirst => [Revision],
    /// State file: a start goes on above what was reserved.
    AboveReserved => [Revision],
    /// State file: who said goodbye is known after a restart, too.
    GoodbyesKept => [Fenced],
    /// State file: where it is written anew, the goodbyes come before the runs that came after them.
    GoodbyesFirst => [Durable],
    /// State file: what changes while it is written anew stands at its end.
    Meanwhile => [Durable],
    /// State file: the new one takes the place of the old when it is all there, not before.
    WholeInPlace => [Durable, Revision],
    /// State file: nothing is appended to one that ends in the middle of a line.
    TornLeft => [Durable, Revision],
    /// State file: each line has a checksum that goes on from that of the line before.
    Checksums => [Revision, Durable],
    /// Discovery: it is another epoch when something of the state is lost.
    EpochOfDamage => [Revision],
    /// Discovery: and when all of it is.
    NewEpoch => [Revision],
    /// Discovery: a mass departure is held.
    Hold => [Held],
    /// Discovery: those who are late count for it, and not only those already stale.
    HoldCountsLate => [Held],
    /// Discovery: a mass departure is held once only.
    HoldOnce => [Held, Gone],
    /// Discovery: there are never more peers than allowed.
    MaxPeers => [Bounded],
    /// Cell: the goodbye is said after the last beat.
    GoodbyeLast => [LastWord],
    /// Cell: a registration that was not answered may have arrived, and is taken back with a goodbye.
    MaybeKnown => [LastWord],
    /// Cell: a heartbeat answered 404 makes it register again.
    RegisterAgain => [Alive],
    /// Cell: and it does so at once, and not at the next interval.
    AtOnce => [AtOnce],
    /// Cell: a call that is not answered is given up.
    TimeOut => [Alive],
    /// Cell: a heartbeat answered 409 does not make it register again.
    TwinsDoNotFight => [Quiet],
}
