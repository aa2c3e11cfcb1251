//! Whether the door answers, and what to do where it does not.
//!
//! Pure: the door is asked by the caller, and the monotonic clock read by it. What counts are
//! questions that went unanswered and not the time that passed meanwhile, much of which the process
//! may have been stopped for.

use std::time::Duration;

/// How many questions in a row, about a second each, go unanswered before something is done; and
/// again as many at least before the process ends.
const PATIENCE: u32 = 5;
/// How many more of them until it is done once more, should it have failed.
const AGAIN: u32 = 60;
/// How often it is said that the door does not answer, where beats are served all the same.
const SELDOM: Duration = Duration::from_secs(60);
/// How often the service manager is told at most.
const OFTEN: Duration = Duration::from_millis(10);

/// What is known of the door.
#[derive(Debug, Default)]
pub struct Doubt {
    /// How often the service manager wants to be told that all is well.
    tell_every: Option<Duration>,
    told: Option<Duration>,
    counts: Counts,
    /// Our questions that went unanswered in a row.
    unanswered: u32,
    /// How many of them since a beat was served.
    quiet: u32,
    complained: Option<Duration>,
    asking: Asking,
}

/// What was counted up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// New connections of others that had their first request answered.
    pub first_answers: u64,
    /// Beats that were served, on whatever connection.
    pub beats: u64,
}

/// Whether it is of use to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asking {
    /// Not known yet.
    #[default]
    Untried,
    /// We have been answered before.
    Works,
    /// We never were answered: something keeps us away that is not the door.
    Fails,
}

/// What follows from a look at the door.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the lease clock ticks: the door answers, or nobody depends on it.
    pub ticks: bool,
    /// Whether the service manager is told that all is well.
    pub tells: bool,
    /// What else is to be done.
    pub measure: Option<Measure>,
}

/// What is done about a door that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The accept loop is renewed.
    Renew,
    /// It is said.
    Complain,
    /// The process ends.
    Exit,
    /// It is not asked again: we never were answered, and others may be.
    StopAsking,
    /// It answers again, after it was said that it does not.
    Relax,
}

impl Doubt {
    /// `timeout` is after how long without a word the service manager ends the process, if it does.
    pub fn new(timeout: Option<Duration>) -> Self {
        Self {
            tell_every: timeout.map(|timeout| (timeout / 2).max(OFTEN)),
            ..Self::default()
        }
    }

    /// When the service manager is to be told next.
    pub fn tells_next(&self) -> Option<Duration> {
        let every = self.tell_every?;
        Some(self.told.map_or(Duration::ZERO, |told| told + every))
    }

    /// Whether the door has to be asked: it is needed, and nobody else has been answered since the
    /// last look. Until an answer it is, so that it is known whether that is possible.
    pub fn has_to_ask(&self, counts: Counts, is_needed: bool, now: Duration) -> bool {
        match self.asking {
            Asking::Untried => true,
            Asking::Fails => false,
            Asking::Works => !self.is_answered(counts) && (is_needed || self.has_to_tell(now)),
        }
    }

    /// It was not asked, or it has answered.
    pub fn answered(&mut self, counts: Counts, is_asked: bool, now: Duration) -> Verdict {
        if is_asked {
            self.asking = Asking::Works;
        }
        self.counts = counts;
        let was_said = self.unanswered >= PATIENCE;
        self.unanswered = 0;
        self.quiet = 0;
        self.complained = None;
        Verdict {
            ticks: true,
            tells: self.tell(now),
            measure: was_said.then_some(Measure::Relax),
        }
    }

    /// It was asked, and has not answered. `lease` is the longest that somebody has: without a beat
    /// for so long none is served.
    pub fn unanswered(
        &mut self,
        counts: Counts,
        is_needed: bool,
        lease: Duration,
        now: Duration,
    ) -> Verdict {
        // It has answered somebody else meanwhile, or it does not matter.
        let is_answered = self.is_answered(counts);
        if self.asking == Asking::Works && is_answered || !is_needed && !self.has_to_tell(now) {
            return self.answered(counts, false, now);
        }
        let has_beats = counts.beats > self.counts.beats;
        self.unanswered += 1;
        self.quiet = if has_beats { 0 } else { self.quiet + 1 };
        let is_quiet = self.quiet >= PATIENCE && Duration::from_secs(self.quiet.into()) > lease;
        // Where we never were answered a restart does not mend it.
        let is_apart = counts.first_answers > 0 && self.unanswered >= PATIENCE
            || self.unanswered >= 2 * PATIENCE;
        if self.asking == Asking::Untried && is_apart {
            self.asking = Asking::Fails;
            self.unanswered = 0;
            let measure = Some(Measure::StopAsking);
            return Verdict {
                measure,
                ..self.answered(counts, false, now)
            };
        }
        self.counts = counts;
        Verdict {
            ticks: is_answered,
            // It is not to be ended from outside either.
            tells: !is_quiet && self.tell(now),
            measure: self.measure(is_quiet, now),
        }
    }

    fn measure(&mut self, is_quiet: bool, now: Duration) -> Option<Measure> {
        if self.unanswered % AGAIN == PATIENCE {
            return Some(Measure::Renew);
        }
        if self.unanswered < 2 * PATIENCE {
            return None;
        }
        if is_quiet {
            return Some(Measure::Exit);
        }
        if self.complained.is_some_and(|at| now < at + SELDOM) {
            return None;
        }
        self.complained = Some(now);
        Some(Measure::Complain)
    }

    /// Whether others were answered since the last look.
    fn is_answered(&self, counts: Counts) -> bool {
        counts.first_answers > self.counts.first_answers
    }

    fn has_to_tell(&self, now: Duration) -> bool {
        self.tells_next().is_some_and(|at| at <= now)
    }

    /// Whether the service manager is to be told now; if so, it has been.
    fn tell(&mut self, now: Duration) -> bool {
        let has_to = self.has_to_tell(now);
        if has_to {
            self.told = Some(now);
        }
        has_to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LEASE: Duration = Duration::from_secs(2);

    /// A door that is needed and looked at every second.
    struct Watched {
        doubt: Doubt,
        counts: Counts,
        now: Duration,
    }

    impl Watched {
        fn new(timeout: Option<Duration>) -> Self {
            let mut watched = Self {
                doubt: Doubt::new(timeout),
                counts: Counts::default(),
                now: Duration::ZERO,
            };
            assert!(watched.has_to_ask());
            assert!(watched.look(true).ticks);
            watched
        }

        fn has_to_ask(&self) -> bool {
            self.doubt.has_to_ask(self.counts, true, self.now)
        }

        fn look(&mut self, is_answered: bool) -> Verdict {
            self.now += SECOND;
            match is_answered {
                true => self.doubt.answered(self.counts, true, self.now),
                false => self.doubt.unanswered(self.counts, true, LEASE, self.now),
            }
        }

        /// What is done at the next looks, where nothing is answered.
        fn measures(&mut self, looks: u32) -> Vec<Option<Measure>> {
            let looks = (0..looks).map(|_| {
                let verdict = self.look(false);
                assert!(!verdict.ticks);
                assert!(verdict.measure != Some(Measure::Exit) || !verdict.tells);
                verdict.measure
            });
            looks.collect()
        }

        /// The same, with a beat served before each look.
        fn measures_under_beats(&mut self, looks: u32) -> Vec<Option<Measure>> {
            let looks = (0..looks).map(|_| {
                self.counts.beats += 1;
                let verdict = self.look(false);
                assert!(!verdict.ticks);
                verdict.measure
            });
            looks.collect()
        }
    }

    #[test]
    fn the_accept_loop_is_renewed_first_and_the_process_ends_second() {
        let mut door = Watched::new(None);
        assert_eq!(door.measures(4), [None; 4]);
        assert_eq!(door.measures(1), [Some(Measure::Renew)]);
        assert_eq!(door.measures(4), [None; 4]);
        assert_eq!(door.measures(1), [Some(Measure::Exit)]);
    }

    #[test]
    fn an_answer_ends_all_doubt() {
        let mut door = Watched::new(None);
        assert_eq!(door.measures(4), [None; 4]);
        assert_eq!(door.look(true).measure, None);
        assert_eq!(door.measures(4), [None; 4]);
        assert_eq!(door.measures(1), [Some(Measure::Renew)]);
        let verdict = door.look(true);
        assert!(verdict.ticks);
        assert_eq!(verdict.measure, Some(Measure::Relax));
        // Somebody else's does, too, if it came while ours did not.
        assert_eq!(door.measures(4), [None; 4]);
        door.counts.first_answers += 1;
        assert!(door.look(false).ticks);
        assert_eq!(door.measures(4), [None; 4]);
    }

    #[test]
    fn it_does_not_end_while_beats_are_served() {
        let mut door = Watched::new(Some(2 * SECOND));
        let measures = door.measures_under_beats(200);
        assert_eq!(measures[4], Some(Measure::Renew));
        let said: Vec<usize> = (5..200).filter(|at| measures[*at].is_some()).collect();
        // Should the renewal have failed, it is tried again.
        assert_eq!(said, [9, 64, 69, 124, 129, 184, 189]);
        for at in said {
            let again = [64, 124, 184].contains(&at);
            let measure = if again {
                Measure::Renew
            } else {
                Measure::Complain
            };
            assert_eq!(measures[at], Some(measure));
        }
        // Nor is it ended.
        door.counts.beats += 1;
        assert!(door.look(false).tells);
        // They have to cease for as long as the others.
        assert_eq!(door.measures(4), [None; 4]);
        assert_eq!(door.measures_under_beats(1), [None]);
        assert_eq!(door.measures(4), [None; 4]);
        assert_eq!(door.measures(1), [Some(Measure::Exit)]);
    }

    #[test]
    fn beats_are_served_as_long_as_none_is_missing_for_a_lease() {
        let mut door = Watched::new(Some(2 * SECOND));
        let lease = 15 * SECOND;
        for second in 1..100 {
            door.now += SECOND;
            door.counts.beats += u64::from(second % 14 == 0);
            let verdict = door.doubt.unanswered(door.counts, true, lease, door.now);
            assert_ne!(verdict.measure, Some(Measure::Exit), "{second}");
            assert!(!verdict.ticks);
        }
        let quiet = (1..).find(|_| {
            door.now += SECOND;
            let verdict = door.doubt.unanswered(door.counts, true, lease, door.now);
            verdict.measure == Some(Measure::Exit)
        });
        // The last beat was a second before.
        assert_eq!(quiet, Some(15));
    }

    #[test]
    fn where_we_never_were_answered_the_process_does_not_end() {
        let mut door = Watched {
            doubt: Doubt::new(None),
            counts: Counts::default(),
            now: Duration::ZERO,
        };
        assert_eq!(door.measures(4), [None; 4]);
        assert_eq!(door.measures(1), [Some(Measure::Renew)]);
        assert_eq!(door.measures(4), [None; 4]);
        let verdict = door.look(false);
        assert_eq!(verdict.measure, Some(Measure::StopAsking));
        assert!(verdict.ticks && !door.has_to_ask());
    }

    #[test]
    fn it_is_asked_only_where_nobody_else_is_answered_and_somebody_needs_it() {
        let mut door = Watched::new(None);
        assert!(door.has_to_ask());
        door.counts.first_answers += 1;
        assert!(!door.has_to_ask());
        let _ = door.doubt.answered(door.counts, false, door.now);
        assert!(door.has_to_ask());
        assert!(!door.doubt.has_to_ask(door.counts, false, door.now));
        // A beat on a connection that is there says nothing of the door.
        door.counts.beats += 1;
        assert!(door.has_to_ask());
        // Where nobody depends on it, the clock goes on.
        let verdict = door.doubt.unanswered(door.counts, false, LEASE, door.now);
        assert!(verdict.ticks && !verdict.tells);
        assert_eq!(door.measures(4), [None; 4]);
    }

    #[test]
    fn the_service_manager_is_told_twice_in_its_time_while_the_door_answers() {
        let mut door = Watched::new(Some(6 * SECOND));
        assert_eq!(door.doubt.tells_next(), Some(4 * SECOND));
        let tells: Vec<bool> = (0..7).map(|_| door.look(true).tells).collect();
        assert_eq!(tells, [false, false, true, false, false, true, false]);
        // It is asked for that alone, too.
        assert!(!door.doubt.has_to_ask(door.counts, false, door.now));
        assert!(
            door.doubt
                .has_to_ask(door.counts, false, door.now + 2 * SECOND)
        );
        assert_eq!(door.measures(4), [None; 4]);
        assert!(door.look(true).tells);
        assert_eq!(Watched::new(None).doubt.tells_next(), None);
    }

    #[test]
    fn where_only_we_are_kept_away_the_door_is_believed() {
        let mut door = Watched {
            doubt: Doubt::new(Some(2 * SECOND)),
            counts: Counts::default(),
            now: Duration::ZERO,
        };
        assert_eq!(door.measures(4), [None; 4]);
        door.counts.first_answers += 1;
        let verdict = door.look(false);
        assert_eq!(verdict.measure, Some(Measure::StopAsking));
        assert!(verdict.ticks && verdict.tells);
        assert!(!door.has_to_ask());
    }
}
