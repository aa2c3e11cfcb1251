//! Peers that beat as cells do, and somebody who looks whether they are in the list.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::*;

/// How many of them a thread speaks for.
const PER_THREAD: usize = 5;

/// How often they beat.
fn interval() -> Duration {
    lasts(1, 5)
}

/// How long their leases are.
fn lease() -> Duration {
    lasts(6, 15)
}

fn id(number: usize) -> String {
    format!("member-{number}")
}

/// The body of a beat.
pub(super) fn beat(number: usize) -> String {
    format!(
        r#"{{"cell_id":"{}","consciousness_level":0.5}}"#,
        id(number)
    )
}

/// Members that beat, each beat on a connection of its own, until they are stopped.
pub(super) struct Members {
    stopping: Latch,
    threads: Vec<JoinHandle<Beats>>,
}

/// How their beats fared.
#[derive(Default)]
pub(super) struct Beats {
    pub(super) count: usize,
    /// What was not answered with 200, and how.
    pub(super) failures: Vec<String>,
    /// From when a beat was due until it was answered, in order.
    pub(super) took: Vec<Duration>,
}

impl fmt::Display for Beats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| percentile(&self.took, part));
        write!(
            f,
            "{} beats, {} failed, p50 {p50:?}, p99 {p99:?}, p99.9 {p999:?}",
            self.count,
            self.failures.len()
        )
    }
}

/// The value below which such a part of the sorted `values` is.
pub(super) fn percentile(values: &[Duration], part: f64) -> Duration {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let place = (values.len() as f64 * part) as usize;
    values
        .get(place)
        .or(values.last())
        .copied()
        .unwrap_or_default()
}

impl Members {
    /// Registers so many, who beat at the pace of this test.
    pub(super) fn start(address: &str, count: usize) -> Self {
        Self::beating(address, count, interval(), lease())
    }

    /// Registers so many, with that lease, who beat that often.
    pub(super) fn beating(
        address: &str,
        count: usize,
        interval: Duration,
        lease: Duration,
    ) -> Self {
        let lease = lease.as_millis();
        for number in 0..count {
            let body = format!(
                r#"{{"cell_id":"{}","ip":"127.0.0.1","port":7,"stale_after_ms":{lease}}}"#,
                id(number)
            );
            let answer = ask(address, "POST", "/register", &body);
            assert_eq!(answer.expect("an answer").0, 200);
        }
        let stopping = Latch::new();
        let started = Instant::now();
        let address: Arc<str> = address.into();
        let threads = (0..count)
            .step_by(PER_THREAD)
            .map(|first| {
                let (address, stopping) = (Arc::clone(&address), stopping.clone());
                let speak = move || {
                    let numbers = first..count.min(first + PER_THREAD);
                    // Spread over the interval.
                    let part = |number| interval.mul_f64(number as f64 / count as f64);
                    let due = numbers.map(|number| (started + part(number), number));
                    speak(&address, due.collect(), interval, &stopping)
                };
                let thread = thread::Builder::new().stack_size(256 * 1024);
                thread.spawn(speak).expect("a thread")
            })
            .collect();
        Self { stopping, threads }
    }

    /// Lets them end.
    pub(super) fn stop(self) -> Beats {
        self.stopping.set();
        let mut all = Beats::default();
        for thread in self.threads {
            let one = thread.join().expect("no panic");
            all.count += one.count;
            all.failures.extend(one.failures);
            all.took.extend(one.took);
        }
        all.took.sort_unstable();
        all
    }
}

fn speak(
    address: &str,
    mut due: Vec<(Instant, usize)>,
    interval: Duration,
    stopping: &Latch,
) -> Beats {
    let mut beats = Beats::default();
    loop {
        for (at, number) in &mut due {
            if stopping.wait_until(*at) {
                return beats;
            }
            beats.count += 1;
            match ask(address, "POST", "/heartbeat", &beat(*number)) {
                Ok((200, _)) => {}
                Ok((status, body)) => {
                    let body = String::from_utf8_lossy(&body);
                    beats.failures.push(format!("{status}: {body}"));
                }
                Err(e) => beats.failures.push(e.to_string()),
            }
            beats.took.push(at.elapsed());
            *at += interval;
        }
    }
}

/// Somebody who looks again and again whether all members are in the list.
pub(super) struct Watch {
    stopping: Latch,
    thread: JoinHandle<Looks>,
}

/// What was seen.
#[derive(Default)]
pub(super) struct Looks {
    /// How often the list was seen.
    pub(super) seen: usize,
    /// How often there was none to be had.
    pub(super) refused: usize,
    /// Who was missing.
    pub(super) missing: Vec<String>,
}

impl fmt::Display for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} looks, {} refused", self.seen, self.refused)
    }
}

impl Watch {
    pub(super) fn start(address: &str, members: usize) -> Self {
        let stopping = Latch::new();
        let (address, told) = (address.to_owned(), stopping.clone());
        let thread = thread::spawn(move || {
            let mut looks = Looks::default();
            while !told.wait_for(Duration::from_millis(100)) {
                looks.look(&address, members);
            }
            looks
        });
        Self { stopping, thread }
    }

    pub(super) fn stop(self) -> Looks {
        self.stopping.set();
        self.thread.join().expect("no panic")
    }
}

impl Looks {
    fn look(&mut self, address: &str, members: usize) {
        let Ok((200, body)) = ask(address, "GET", "/peers", "") else {
            self.refused += 1;
            return;
        };
        self.seen += 1;
        let body = String::from_utf8(body).expect("UTF-8");
        let listed: HashSet<&str> = body
            .split(r#""cell_id":""#)
            .filter_map(|rest| Some(rest.split_once('"')?.0))
            .collect();
        let ids = (0..members).map(id);
        self.missing
            .extend(ids.filter(|id| !listed.contains(&**id)));
    }
}
