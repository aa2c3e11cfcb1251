use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const LEASE: Duration = Duration::from_secs(15);

fn registry() -> Registry {
    Registry::new(Limits {
        stale_after: LEASE,
        max_peers: 100,
    })
}

fn at(seconds: f64) -> Now {
    let since_start = Duration::from_secs_f64(seconds);
    Now {
        lease: LeaseTime::default().after(since_start),
        wall: SystemTime::UNIX_EPOCH + since_start,
    }
}

fn cell(id: &str, instance: Option<&str>) -> Registration {
    Registration {
        cell_id: CellId::new(id).expect("valid"),
        ip: "10.0.0.1".into(),
        port: 1,
        consciousness_level: 0.5,
        services: vec!["s".into()],
        branch: "main".into(),
        kind: "cell".into(),
        hostname: String::new(),
        instance: instance.map(run),
        stale_after: None,
    }
}

fn run(instance: &str) -> Instance {
    Instance::new(instance).expect("valid")
}

fn beat(id: &str, instance: Option<&str>) -> Heartbeat {
    Heartbeat {
        cell_id: CellId::new(id).expect("valid"),
        consciousness_level: 0.7,
        instance: instance.map(run),
    }
}

fn ids(registry: &Registry) -> Vec<String> {
    let list = registry.list();
    list.peers()
        .map(|peer| peer.facts.cell_id.to_string())
        .collect()
}

/// The first peer of the list: id, level, and when it was last seen.
fn first(registry: &Registry) -> (String, f64, SystemTime) {
    let list = registry.list();
    let peer = list.peers().next().expect("somebody");
    (peer.facts.cell_id.to_string(), peer.level, peer.last_seen)
}

fn register(registry: &mut Registry, registration: Registration, now: f64) -> Accepted {
    registry
        .register(registration, None, at(now))
        .expect("taken")
}

#[test]
fn it_is_known_from_where_a_peer_registered_last() {
    let mut registry = registry();
    for (by, level) in [("10.0.0.1", 1.0), ("10.0.0.2", 1.0), ("::1", 2.0)] {
        let by = by.parse().ok();
        let again = Registration {
            consciousness_level: level,
            ..cell("a", None)
        };
        let _ = registry.register(again, by, at(0.0)).expect("taken");
        let portrait = registry.portrait("a", at(1.0)).expect("it is there");
        assert_eq!(portrait.registered_by, by);
    }
}

#[test]
fn a_peer_is_stale_only_when_more_than_its_lease_has_passed() {
    let mut registry = registry();
    let _ = register(&mut registry, cell("a", None), 0.0);
    assert!(registry.reap(at(15.0), 10).is_empty());
    let reaped = registry.reap(at(15.001), 10);
    assert_eq!(reaped[0].facts.cell_id.as_str(), "a");
    assert_eq!(reaped[0].silent_for, Duration::from_millis(15_001));
    assert!(registry.is_empty());
}

#[test]
fn a_beat_revives_a_stale_peer_that_no_pass_has_reaped() {
    let mut registry = registry();
    let _ = register(&mut registry, cell("a", None), 0.0);
    assert!(registry.heartbeat(&beat("a", None), at(19.0)).is_ok());
    assert!(registry.reap(at(20.0), 10).is_empty());
    assert!((first(&registry).1 - 0.7).abs() < f64::EPSILON);
}

#[test]
fn a_re_registration_keeps_its_place_and_a_return_goes_to_the_end() {
    let mut registry = registry();
    for id in ["a", "b", "c"] {
        let _ = register(&mut registry, cell(id, None), 0.0);
    }
    let _ = register(&mut registry, cell("a", None), 1.0);
    assert_eq!(ids(&registry), ["a", "b", "c"]);
    let _ = registry
        .deregister("a", None, None, at(2.0))
        .expect("known");
    let _ = register(&mut registry, cell("a", None), 3.0);
    assert_eq!(ids(&registry), ["b", "c", "a"]);
}

#[test]
fn the_revision_rises_with_membership_and_with_nothing_else() {
    let mut registry = registry();
    assert_eq!(register(&mut registry, cell("a", None), 0.0).revision, 1);
    assert_eq!(register(&mut registry, cell("a", None), 1.0).revision, 1);
    let mut louder = cell("a", None);
    louder.consciousness_level = 9.0;
    assert_eq!(register(&mut registry, louder, 2.0).revision, 1);
    assert_eq!(
        registry
            .heartbeat(&beat("a", None), at(3.0))
            .expect("known")
            .revision,
        1
    );
    let mut elsewhere = cell("a", None);
    elsewhere.branch = "other".into();
    assert_eq!(register(&mut registry, elsewhere, 4.0).revision, 2);
    let _ = registry
        .deregister("a", None, None, at(5.0))
        .expect("known");
    assert_eq!(registry.revision(), 3);
    let _ = registry
        .deregister("a", None, None, at(6.0))
        .expect_err("unknown");
    assert_eq!(registry.revision(), 3);
}

#[test]
fn a_late_delete_cannot_remove_its_successor() {
    let mut registry = registry();
    let _ = register(&mut registry, cell("a", Some("old")), 0.0);
    let accepted = register(&mut registry, cell("a", Some("new")), 1.0);
    assert!(matches!(accepted.change, Change::Replaced(_)));
    let late = registry.deregister("a", Some(&run("old")), None, at(2.0));
    assert_eq!(late.expect_err("fenced"), Refused::Fenced);
    let late = registry.heartbeat(&beat("a", Some("old")), at(2.0));
    assert_eq!(late, Err(Refused::Fenced));
    assert_eq!(ids(&registry), ["a"]);
    assert!((first(&registry).1 - 0.5).abs() < f64::EPSILON);
    assert!(registry.heartbeat(&beat("a", Some("new")), at(3.0)).is_ok());
}

#[test]
fn a_register_overtaken_by_its_own_delete_is_refused_for_a_minute() {
    let mut registry = registry();
    // The DELETE arrives first: nobody of that name is known yet.
    let early = registry.deregister("a", Some(&run("r")), None, at(0.0));
    assert_eq!(early.expect_err("unknown"), Refused::Unknown);
    let late = registry.register(cell("a", Some("r")), None, at(1.0));
    assert_eq!(late.expect_err("overtaken"), Refused::Overtaken);
    assert!(registry.is_empty());
    // Its successor, and a client that knows no instances, are taken.
    let _ = register(&mut registry, cell("a", Some("s")), 2.0);
    let _ = register(&mut registry, cell("a", None), 3.0);
    let _ = register(&mut registry, cell("a", Some("r")), 61.0);
}

#[test]
fn a_delete_without_instance_lets_the_run_come_back() {
    let mut registry = registry();
    let _ = register(&mut registry, cell("a", Some("r")), 0.0);
    let _ = registry
        .deregister("a", None, None, at(1.0))
        .expect("known");
    let _ = register(&mut registry, cell("a", Some("r")), 2.0);
    assert_eq!(ids(&registry), ["a"]);
}

#[test]
fn without_instance_nothing_is_fenced() {
    let mut registry = registry();
    let _ = register(&mut registry, cell("a", Some("r")), 0.0);
    assert!(registry.heartbeat(&beat("a", None), at(1.0)).is_ok());
    let _ = register(&mut registry, cell("a", None), 2.0);
    assert!(
        registry
            .heartbeat(&beat("a", Some("other")), at(3.0))
            .is_ok()
    );
    let _ = registry
        .deregister("a", None, None, at(4.0))
        .expect("known");
    let _ = register(&mut registry, cell("a", None), 4.0);
}

#[test]
fn a_new_address_without_instance_is_a_replacement() {
    let mut registry = registry();
    let _ = register(&mut registry, cell("a", None), 0.0);
    let mut moved = cell("a", None);
    moved.port = 2;
    let accepted = register(&mut registry, moved, 4.0);
    let Change::Replaced(departure) = accepted.change else {
        panic!("{:?}", accepted.change)
    };
    assert_eq!(departure.facts.port, 1);
    assert_eq!(departure.silent_for, Duration::from_secs(4));
}

#[test]
fn an_own_lease_is_for_that_registration_alone() {
    let mut registry = registry();
    let mut short = cell("short", None);
    short.stale_after = Some(Duration::from_secs(1));
    assert_eq!(
        register(&mut registry, short, 0.0).lease,
        Duration::from_secs(1)
    );
    let _ = register(&mut registry, cell("usual", None), 0.0);
    assert_eq!(
        registry
            .heartbeat(&beat("short", None), at(0.5))
            .expect("known")
            .lease,
        Duration::from_secs(1)
    );
    let reaped = registry.reap(at(1.6), 10);
    assert_eq!(reaped.len(), 1);
    assert_eq!(ids(&registry), ["usual"]);
    let _ = register(&mut registry, cell("short", None), 2.0);
    assert!(registry.reap(at(15.0), 10).is_empty());
}

#[test]
fn a_full_registry_takes_beats_and_re_registrations_but_no_one_new() {
    let mut registry = Registry::new(Limits {
        stale_after: LEASE,
        max_peers: 1,
    });
    let _ = register(&mut registry, cell("a", None), 0.0);
    let refused = registry.register(cell("b", None), None, at(0.0));
    assert_eq!(refused.expect_err("full"), Refused::Full);
    let _ = register(&mut registry, cell("a", None), 1.0);
    assert!(registry.heartbeat(&beat("a", None), at(2.0)).is_ok());
}

#[test]
fn a_pass_takes_out_no_more_than_asked_for() {
    let mut registry = registry();
    for n in 0..10 {
        let _ = register(&mut registry, cell(&format!("c{n}"), None), 0.0);
    }
    let sizes: Vec<usize> = (0..4).map(|_| registry.reap(at(16.0), 4).len()).collect();
    assert_eq!(sizes, [4, 4, 2, 0]);
}

#[test]
fn a_wall_clock_step_changes_only_what_last_seen_shows() {
    let mut registry = registry();
    let stepped = Now {
        lease: at(1.0).lease,
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(3_600_000),
    };
    let _ = registry
        .register(cell("a", None), None, stepped)
        .expect("taken");
    let back = Now {
        lease: at(2.0).lease,
        wall: SystemTime::UNIX_EPOCH,
    };
    assert!(registry.heartbeat(&beat("a", None), back).is_ok());
    assert!(registry.reap(at(17.0), 10).is_empty());
    assert_eq!(first(&registry).2, SystemTime::UNIX_EPOCH);
}

#[test]
fn a_flood_of_refused_goodbyes_does_not_bring_a_departed_run_back() {
    let mut registry = registry();
    let _ = register(&mut registry, cell("a", Some("r")), 0.0);
    let _ = register(&mut registry, cell("b", Some("r")), 0.0);
    let left = registry.deregister("a", Some(&run("r")), None, at(1.0));
    let _ = left.expect("it was there");
    for n in 0..110_000 {
        let made_up = run(&n.to_string());
        let id = if n % 2 == 0 { "b" } else { "nobody" };
        let _ = registry.deregister(id, Some(&made_up), None, at(2.0));
        let _ = registry.deregister(id, Some(&made_up), None, at(2.0));
    }
    let late = registry.register(cell("a", Some("r")), None, at(3.0));
    assert_eq!(late.expect_err("it has left"), Refused::Overtaken);
}

#[test]
fn what_is_kept_is_restored_in_its_place_with_a_fresh_lease() {
    let mut before = registry();
    let _ = register(&mut before, cell("a", Some("r1")), 0.0);
    let mut short = cell("b", None);
    short.stale_after = Some(Duration::from_secs(2));
    let _ = register(&mut before, short, 1.0);
    let _ = register(&mut before, cell("c", None), 2.0);
    assert!(
        before
            .deregister("a", Some(&run("r1")), None, at(3.0))
            .is_ok()
    );
    let _ = register(&mut before, cell("a", Some("r2")), 4.0);
    let mut kept = before.kept_from(0, 2);
    let next = kept[1].place + 1;
    kept.extend(before.kept_from(next, 2));
    assert_eq!(before.kept(&kept[0].facts.cell_id).as_ref(), Some(&kept[0]));

    let mut after = registry();
    let left = |seconds| Left {
        id: CellId::new("a").expect("valid"),
        instance: run(&format!("left at {seconds}")),
        at: at(seconds).wall,
    };
    after.restore(kept, &[left(30.0), left(45.0)], 1000, at(100.0));
    assert_eq!(ids(&after), ["b", "c", "a"]);
    assert_eq!(after.revision(), 1000);
    // Each has its own lease, and it begins now.
    assert!(after.reap(at(102.0), 10).is_empty());
    let reaped = after.reap(at(102.001), 10);
    assert_eq!(reaped[0].facts.cell_id.as_str(), "b");
    // Instances still fence, and who left within the minute stays out.
    let fenced = after.heartbeat(&beat("a", Some("r1")), at(103.0));
    assert_eq!(fenced, Err(Refused::Fenced));
    assert!(after.heartbeat(&beat("a", Some("r2")), at(103.0)).is_ok());
    let late = cell("a", Some("left at 45"));
    assert_eq!(
        after.register(late, None, at(103.0)).map(|_| ()),
        Err(Refused::Overtaken)
    );
    assert!(
        after
            .register(cell("a", Some("left at 30")), None, at(103.0))
            .is_ok()
    );
    // Newcomers stand behind.
    let _ = register(&mut after, cell("d", None), 104.0);
    assert_eq!(ids(&after), ["c", "a", "d"]);
}

#[test]
fn only_what_is_new_of_a_peer_is_to_be_kept() {
    let mut registry = registry();
    assert!(register(&mut registry, cell("a", None), 0.0).to_keep);
    let mut louder = cell("a", None);
    louder.consciousness_level = 9.0;
    assert!(!register(&mut registry, louder, 1.0).to_keep);
    assert!(register(&mut registry, cell("a", Some("r1")), 2.0).to_keep);
    assert!(!register(&mut registry, cell("a", Some("r1")), 3.0).to_keep);
    let mut longer = cell("a", Some("r1"));
    longer.stale_after = Some(Duration::from_secs(60));
    let accepted = register(&mut registry, longer, 4.0);
    assert!(accepted.to_keep && matches!(accepted.change, Change::Renewed));
}

#[derive(Clone, Debug)]
enum Op {
    Register { cell: u8, port: u16, run: u8 },
    Beat { cell: u8 },
    Leave { cell: u8 },
    Pass { seconds: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u8..5, 1u16..3, 0u8..3).prop_map(|(cell, port, run)| Op::Register { cell, port, run }),
        2 => (0u8..5).prop_map(|cell| Op::Beat { cell }),
        2 => (0u8..5).prop_map(|cell| Op::Leave { cell }),
        2 => (1u32..20).prop_map(|seconds| Op::Pass { seconds }),
    ]
}

/// The peers as somebody knows them who follows the events, and how often each has come back.
#[derive(Debug, Default)]
struct Follower {
    seen: u64,
    peers: Vec<Arc<Facts>>,
    came: HashMap<String, u16>,
    left: Vec<String>,
}

impl Follower {
    /// Reads a few events at a time until there is no more.
    fn catch_up(&mut self, registry: &Registry) {
        loop {
            let Since::Events(events) = registry.since(self.seen, 2) else {
                panic!("nothing is forgotten");
            };
            if events.is_empty() {
                assert_eq!(self.seen, registry.revision());
                return;
            }
            for (revision, event) in events {
                assert_eq!(revision, self.seen + 1);
                self.seen = revision;
                match event {
                    Event::Join(came) => {
                        let id = came.facts.cell_id.to_string();
                        *self.came.entry(id).or_default() += 1;
                        self.peers.push(came.facts);
                    }
                    Event::Change(came) => {
                        let id = &came.facts.cell_id;
                        let known = self.peers.iter_mut().find(|peer| peer.cell_id == *id);
                        *known.expect("it was there") = came.facts;
                    }
                    Event::Leave(gone) => {
                        let count = self.peers.len();
                        self.peers.retain(|peer| *peer != gone.facts);
                        assert_eq!(self.peers.len() + 1, count, "{gone:?}");
                        self.left.insert(0, gone.facts.cell_id.to_string());
                    }
                }
            }
        }
    }
}

proptest! {
    /// Whatever happens, the events add up to the list, and the departures to those that are told.
    #[test]
    fn the_events_add_up_to_the_list(ops in proptest::collection::vec(op(), 1..120)) {
        let mut registry = registry();
        let mut follower = Follower::default();
        let mut now = 0.0;
        for op in ops {
            match op {
                Op::Register { cell: number, port, run } => {
                    let instance = ["a", "b"].get(usize::from(run)).copied();
                    let mut registration = cell(&number.to_string(), instance);
                    registration.port = port;
                    let _ = registry.register(registration, None, at(now));
                }
                Op::Beat { cell } => {
                    let _ = registry.heartbeat(&beat(&cell.to_string(), None), at(now));
                }
                Op::Leave { cell } => {
                    let _ = registry.deregister(&cell.to_string(), None, None, at(now));
                }
                Op::Pass { seconds } => {
                    now += f64::from(seconds);
                    drop(registry.reap(at(now), 10));
                }
            }
            follower.catch_up(&registry);
            let list = registry.list();
            prop_assert_eq!(follower.seen, list.revision);
            let mut listed: Vec<_> = list.peers().map(|peer| Arc::clone(peer.facts)).collect();
            let mut known = follower.peers.clone();
            for peers in [&mut listed, &mut known] {
                peers.sort_by_key(|peer| peer.cell_id.to_string());
            }
            prop_assert_eq!(listed, known);
            let gone: Vec<String> = registry
                .gone()
                .iter()
                .map(|gone| gone.facts.cell_id.to_string())
                .collect();
            prop_assert_eq!(gone, follower.left.clone());
            for peer in list.peers() {
                let id = peer.facts.cell_id.as_str();
                let portrait = registry.portrait(id, at(now)).expect("it is there");
                prop_assert_eq!(portrait.quality.tally.flaps + 1, follower.came[id]);
            }
        }
    }
}
