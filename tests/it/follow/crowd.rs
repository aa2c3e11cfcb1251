//! A thousand long polls, and those who beat meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::support::{full_form, head, may_hold, metric, skip};

const POLLS: usize = 1000;
/// How often beats are measured alone and beside polls by turns. What else the machine does falls on
/// some of them; polls that beats do feel, they feel in each.
const TURNS: usize = 5;
/// How often something changes.
const ROUND: Duration = Duration::from_millis(500);
/// How often a member beats.
const EVERY: Duration = Duration::from_millis(5);
/// What other work on the machine may add to the p99 of one and not of the other.
const NOISE: Duration = Duration::from_millis(50);
/// How long all may take to be answered once something has changed.
const ALL_ANSWERED: Duration = Duration::from_secs(1);

/// How long each beat of one took that are due at fixed times, from when it was due until it was
/// answered.
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
    took
}

/// How long each beat took while something else went on.
fn beats_during(discovery: &Child, something: impl FnOnce()) -> Vec<Duration> {
    let stopping = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let member = scope.spawn(|| beats(discovery, &stopping));
        something();
        stopping.store(true, Ordering::SeqCst);
        member.join().expect("no panic")
    })
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
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
    let rounds = if full_form() { 6 } else { 3 };
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    let mut answered = Vec::new();
    let (mut rendered, mut resident) = (0.0, 0);
    for _ in 0..TURNS {
        let discovery = discovery(&CALM);
        register(&discovery, "member");
        alone.push(p99(beats_during(&discovery, || pause(ROUND * rounds))));
        let mut polls: Vec<_> = (0..POLLS).map(|_| discovery.connect()).collect();
        let mut known = now(&discovery);
        ask(&mut polls, known);
        wait_until_waiting(&discovery, POLLS);
        let before = renderings(&discovery);
        let took = beats_during(&discovery, || {
            for round in 0..rounds {
                let changed = Instant::now();
                register(&discovery, &format!("cell-{round}"));
                for connection in &mut polls {
                    let answer = connection.answer().expect("an answer");
                    assert_eq!((answer.status, revision(&answer)), (200, known + 1));
                }
                answered.push(changed.elapsed());
                known += 1;
                ask(&mut polls, known);
                pause(ROUND.saturating_sub(changed.elapsed()));
                wait_until_waiting(&discovery, POLLS);
            }
        });
        together.push(p99(took));
        let made = renderings(&discovery) - before;
        assert!(made <= f64::from(rounds) * 2.0, "{made}");
        rendered += made;
        resident = resident.max(discovery.resident_kib());
    }
    let changes = answered.len();
    let slowest = answered.iter().max().copied().unwrap_or_default();
    let usual = median(answered);
    let (alone, together) = (median(alone), median(together));
    report(&format!(
        "{POLLS} long polls: all answered {usual:?} after a change, {slowest:?} at most, with {rendered} \
         renderings for {changes} changes; p99 of a beat {alone:?} alone, {together:?} meanwhile; {resident} KiB resident"
    ));
    assert!(slowest < ALL_ANSWERED, "{slowest:?}");
    assert!(together < 2 * alone + NOISE, "{alone:?}, {together:?}");
}

/// Has each wait for the list to change from the one of revision `known`.
fn ask(polls: &mut [Connection], known: u64) {
    let target = format!("/peers?format=ids&index={known}&wait=60s");
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
    for connection in polls {
        connection.send(request.as_bytes());
    }
}

/// How many lists were made.
fn renderings(discovery: &Child) -> f64 {
    metric(discovery, "aios_discovery_renderings_total", "")
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
    let before = renderings(&discovery);
    register(&discovery, "cell");
    for connection in &mut polls {
        let answer = connection.answer().expect("an answer");
        assert_eq!((answer.status, revision(&answer)), (200, known + 1));
    }
    let made = renderings(&discovery) - before;
    report(&format!(
        "{} polls for {SERVICES} lists, with {made} renderings for a change",
        polls.len()
    ));
    assert!(made <= 2.0 * SERVICES as f64, "{made}");
}
