//! A thousand long polls, and those who beat meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::support::{full_form, head, may_hold, skip};

const POLLS: usize = 1000;
/// How often a member beats.
const EVERY: Duration = Duration::from_millis(5);
/// What other work on the machine may add to the p99 of one and not of the other.
const NOISE: Duration = Duration::from_millis(50);
/// How often it is measured until nothing else came in between: other work may fall on the one p99
/// more than it allows for, too. Polls that beats do feel, they feel each time.
const GOES: usize = 3;
/// How long all may take to be answered once something has changed.
const ALL_ANSWERED: Duration = Duration::from_secs(1);

/// How long each beat of one took that are due at fixed times, from when it was due until it was
/// answered, in order.
fn beats(discovery: &Child, stopping: &AtomicBool) -> Vec<Duration> {
    let body = r#"{"cell_id":"member","consciousness_level":0.5}"#;
    let request = head("POST", "/heartbeat", body, "keep-alive") + body;
    let mut connection = discovery.connect();
    let mut took = Vec::new();
    let mut due = Instant::now();
    while !stopping.load(Ordering::SeqCst) {
        pause(due.saturating_duration_since(Instant::now()));
        connection.send(request.as_bytes());
        assert_eq!(connection.answer().expect("an answer").status, 200);
        took.push(due.elapsed());
        due += EVERY;
    }
    took.sort_unstable();
    took
}

/// The p99 of beats while something else goes on.
fn p99_during(discovery: &Child, something: impl FnOnce()) -> Duration {
    let stopping = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let member = scope.spawn(|| beats(discovery, &stopping));
        something();
        stopping.store(true, Ordering::SeqCst);
        let took = member.join().expect("no panic");
        took[took.len() * 99 / 100]
    })
}

#[test]
fn a_thousand_are_answered_within_a_second_and_beats_do_not_feel_it() {
    if !may_hold(POLLS as u64) {
        skip(
            "a thousand long polls",
            "a limit of descriptors that can be raised",
        );
        return;
    }
    let felt = || {
        let (alone, together) = p99s();
        (together >= 2 * alone + NOISE).then_some((alone, together))
    };
    let felt: Vec<_> = (0..GOES).map_while(|_| felt()).collect();
    assert!(felt.len() < GOES, "{felt:?}");
}

/// The p99 of beats alone, and of beats while a thousand polls are answered again and again.
fn p99s() -> (Duration, Duration) {
    let rounds = if full_form() { 30 } else { 6 };
    let discovery = discovery(&CALM);
    register(&discovery, "member");
    let lasts = Duration::from_millis(500) * rounds;
    let alone = p99_during(&discovery, || pause(lasts));

    let poll = |connection: &mut Connection, known: u64| {
        let target = format!("/peers?format=ids&index={known}&wait=60s");
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
    };
    let mut polls: Vec<_> = (0..POLLS).map(|_| discovery.connect()).collect();
    let mut known = now(&discovery);
    for connection in &mut polls {
        poll(connection, known);
    }
    wait_until_waiting(&discovery, POLLS);
    let rendered = || crate::support::metric(&discovery, "aios_discovery_renderings_total", "");
    let before = rendered();
    let mut slowest = Vec::new();
    let together = p99_during(&discovery, || {
        for round in 0..rounds {
            let changed = Instant::now();
            register(&discovery, &format!("cell-{round}"));
            for connection in &mut polls {
                let answer = connection.answer().expect("an answer");
                assert_eq!((answer.status, revision(&answer)), (200, known + 1));
            }
            slowest.push(changed.elapsed());
            known += 1;
            for connection in &mut polls {
                poll(connection, known);
            }
            pause(Duration::from_millis(500).saturating_sub(changed.elapsed()));
            wait_until_waiting(&discovery, POLLS);
        }
    });
    let renderings = rendered() - before;
    slowest.sort_unstable();
    let (usual, slowest) = (slowest[slowest.len() / 2], slowest[slowest.len() - 1]);
    report(&format!(
        "{POLLS} long polls: all answered {usual:?} after a change, {slowest:?} at most, with {renderings} \
         renderings for {rounds} changes; p99 of a beat {alone:?} alone, {together:?} meanwhile; {} KiB resident",
        discovery.resident_kib()
    ));
    assert!(slowest < ALL_ANSWERED, "{slowest:?}");
    assert!(renderings <= f64::from(rounds) * 2.0, "{renderings}");
    (alone, together)
}

#[test]
fn a_list_is_made_once_for_all_who_want_the_same() {
    const SERVICES: usize = 12;
    const POLLS_EACH: usize = 20;
    let discovery = discovery(&CALM);
    register(&discovery, "member");
    let known = now(&discovery);
    // They come by turns, so that no two who want the same came one after the other.
    let mut polls: Vec<_> = (0..SERVICES * POLLS_EACH)
        .map(|number| {
            let service = number % SERVICES;
            let target = format!("/peers?service=s{service}&index={known}&wait=60s");
            let mut connection = discovery.connect();
            connection.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
            connection
        })
        .collect();
    wait_until_waiting(&discovery, polls.len());
    let rendered = || crate::support::metric(&discovery, "aios_discovery_renderings_total", "");
    let before = rendered();
    register(&discovery, "cell");
    for connection in &mut polls {
        let answer = connection.answer().expect("an answer");
        assert_eq!((answer.status, revision(&answer)), (200, known + 1));
    }
    let renderings = rendered() - before;
    report(&format!(
        "{} polls for {SERVICES} lists, with {renderings} renderings for a change",
        polls.len()
    ));
    assert!(renderings <= 2.0 * SERVICES as f64, "{renderings}");
}
