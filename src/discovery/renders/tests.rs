//! Renderings that are shared, and what each reader sees in them.

use std::io::Read;
use std::sync::atomic::AtomicBool;
use std::thread;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::*;
use crate::registry::{LeaseTime, Limits, Now, Registry};
use crate::wire::{Heartbeat, PeersRead, Registration};

/// More than fit one page.
const MANY: usize = 1000;
/// Fewer than that.
const FEW: usize = 20;

struct Map(Mutex<(Registry, u64)>);

impl Map {
    /// With so many peers.
    fn of(peers: usize) -> Self {
        let limits = Limits {
            stale_after: Duration::from_secs(15),
            max_peers: usize::MAX,
        };
        let map = Self(Mutex::new((Registry::new(limits), 0)));
        for number in 0..peers {
            map.register(&format!("cell-{number}"));
        }
        map
    }

    fn with<T>(&self, operation: impl FnOnce(&mut Registry, Now) -> T) -> T {
        let mut map = self.0.lock().expect("no panic");
        map.1 += 1;
        let now = Now {
            lease: LeaseTime::default(),
            wall: SystemTime::now(),
        };
        operation(&mut map.0, now)
    }

    fn register(&self, id: &str) {
        let body = json!({"cell_id": id, "ip": "10.0.0.1", "port": 8000, "services": ["a", "b"]});
        let registration = Registration::from_json(body.to_string().as_bytes()).expect("valid");
        let _ = self
            .with(|map, now| map.register(registration, None, now))
            .expect("taken");
    }

    fn beat(&self, id: &str, level: f64) {
        let body = json!({"cell_id": id, "consciousness_level": level});
        let beat = Heartbeat::from_json(body.to_string().as_bytes()).expect("valid");
        let _ = self
            .with(|map, now| map.heartbeat(&beat, now))
            .expect("known");
    }

    fn deregister(&self, id: &str) {
        let _ = self
            .with(|map, now| map.deregister(id, None, None, now))
            .expect("known");
    }
}

impl Source for Map {
    fn gone(&self) -> (Vec<Arc<Gone>>, Moment) {
        let gone = self.0.lock().expect("no panic").0.gone();
        (gone, self.moment())
    }

    fn moment(&self) -> Moment {
        let map = self.0.lock().expect("no panic");
        Moment {
            revision: map.0.revision(),
            heard: map.1,
            settling: false,
        }
    }

    fn list(&self) -> (List, Moment) {
        let map = self.0.lock().expect("no panic");
        let moment = Moment {
            revision: map.0.revision(),
            heard: map.1,
            settling: false,
        };
        (map.0.list(), moment)
    }

    fn frame(&self, count: usize, moment: Moment, now: SystemTime) -> Frame<'_> {
        Frame {
            peers: [],
            count,
            my_host: "here",
            revision: moment.revision,
            epoch: "e",
            now: wire::timestamp(now),
            settling: moment.settling,
        }
    }
}

fn renders() -> Renders {
    let counter = IntCounter::new("made", "made").expect("a name");
    Renders::new(1000, "run".to_owned(), counter)
}

fn bytes(copy: &Copy) -> Vec<u8> {
    let pieces = (0..copy.count()).map(|number| copy.piece(number));
    let bytes = pieces.collect::<Vec<_>>().concat();
    assert_eq!(bytes.len(), copy.length());
    bytes
}

/// What a reader that takes gzip or not has in the end.
fn text(renders: &Renders, map: &Map, likes_gzip: bool) -> String {
    let copy = renders.read(map, likes_gzip).expect("there is room");
    let bytes = bytes(&copy);
    if !copy.is_packed() {
        return String::from_utf8(bytes).expect("UTF-8");
    }
    let mut text = String::new();
    let mut decoder = GzDecoder::new(&bytes[..]);
    decoder.read_to_string(&mut text).expect("gzip");
    text
}

fn read(renders: &Renders, map: &Map, likes_gzip: bool) -> PeersRead {
    serde_json::from_str(&text(renders, map, likes_gzip)).expect("JSON")
}

fn wait(how_long: Duration) {
    let until = Instant::now() + how_long;
    while Instant::now() < until {
        thread::park_timeout(how_long);
    }
}

#[test]
fn what_is_true_is_rendered_once_for_all_who_ask_within_the_lag() {
    let (renders, map) = (renders(), Map::of(MANY));
    let first = renders.read(&map, false).expect("there is room");
    for _ in 0..100 {
        map.beat("cell-7", 2.0);
        let next = renders.read(&map, false).expect("there is room");
        if first.rendering.since.elapsed() <= LAG {
            assert_eq!(next.tag(), first.tag());
        }
    }
    // As many as a busy machine gave time for.
    let most = first.rendering.since.elapsed().div_duration_f64(LAG) + 1.0;
    assert!((renders.counter.get() as f64) <= most);
    wait(LAG);
    let next = renders.read(&map, false).expect("there is room");
    assert_ne!(next.tag(), first.tag());
    let shown = read(&renders, &map, false).peers[7].consciousness_level;
    assert_eq!(shown, 2.0);
}

#[test]
fn few_are_shown_as_they_are() {
    let (renders, map) = (renders(), Map::of(FEW));
    for level in 0..100 {
        map.beat("cell-3", f64::from(level));
        let shown = read(&renders, &map, level % 2 == 0).peers[3].consciousness_level;
        assert_eq!(shown, f64::from(level));
    }
}

#[test]
fn somebody_who_comes_or_goes_is_seen_at_once_and_other_pages_stay_as_they_are() {
    let (renders, map) = (renders(), Map::of(MANY));
    let first = renders.read(&map, false).expect("there is room");
    map.register("new");
    let second = renders.read(&map, false).expect("there is room");
    assert_eq!(second.rendering.moment.revision, MANY as u64 + 1);
    let stays = |of: &Copy, to: &Copy| {
        let known = |part: &&Arc<Part>| of.rendering.parts.iter().any(|old| Arc::ptr_eq(old, part));
        to.rendering.parts.iter().filter(known).count()
    };
    if first.rendering.since.elapsed() <= LAG {
        let all = second.rendering.parts.len();
        assert!(all > 2);
        assert_eq!(stays(&first, &second), all - 1);
    }
    map.deregister("new");
    let text = text(&renders, &map, false);
    assert!(!text.contains(r#""new""#));
    assert!(text.contains(r#""cell-0""#));
}

#[test]
fn gzip_holds_the_same_under_another_tag() {
    for peers in [FEW, MANY] {
        let (renders, map) = (renders(), Map::of(peers));
        // The second has parts of the first, and parts that were never sent in gzip.
        for round in 0..3 {
            let plain = renders.read(&map, false).expect("there is room");
            let packed = renders.read(&map, true).expect("there is room");
            assert!(packed.is_packed() && !plain.is_packed());
            assert!(4 * packed.length() < plain.length());
            assert_ne!(plain.tag(), packed.tag());
            if Arc::ptr_eq(&plain.rendering, &packed.rendering) {
                let mut unpacked = Vec::new();
                let packed = bytes(&packed);
                let mut decoder = GzDecoder::new(&packed[..]);
                decoder.read_to_end(&mut unpacked).expect("gzip");
                assert_eq!(unpacked, bytes(&plain));
            }
            map.register(&format!("new-{round}"));
        }
    }
    let (renders, map) = (renders(), Map::of(2));
    let short = renders.read(&map, true).expect("there is room");
    assert!(!short.is_packed());
    let list: Value = serde_json::from_slice(&bytes(&short)).expect("JSON");
    assert_eq!(list["count"], 2);
}

#[test]
fn an_empty_list_is_one() {
    let (renders, map) = (renders(), Map::of(0));
    let list: Value = serde_json::from_str(&text(&renders, &map, false)).expect("JSON");
    assert_eq!(list["peers"], json!([]));
}

#[test]
fn nobody_was_seen_later_than_the_list_was_made() {
    let (renders, map) = (renders(), Map::of(MANY));
    let stopping = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stopping.load(Ordering::Relaxed) {
                (0..MANY).for_each(|number| map.beat(&format!("cell-{number}"), 1.0));
            }
        });
        let later = (0..20).find(|_| {
            let list = read(&renders, &map, false);
            wait(LAG / 4);
            list.peers
                .iter()
                .any(|peer| Some(&peer.last_seen) > list.now.as_ref())
        });
        // Before anything can fail, or it would never end.
        stopping.store(true, Ordering::Relaxed);
        assert_eq!(later, None);
    });
}

#[test]
fn nobody_misses_their_own_writes() {
    let (renders, map) = (renders(), Map::of(MANY));
    thread::scope(|scope| {
        for writer in 0..6 {
            let (renders, map) = (&renders, &map);
            scope.spawn(move || {
                for round in 0..100 {
                    let likes_gzip = (writer + round) % 3 == 0;
                    let id = format!("w-{writer}-{round}");
                    let named = format!("\"{id}\"");
                    map.register(&id);
                    let there = text(renders, map, likes_gzip).contains(&named);
                    assert!(there, "{id} is missing");
                    map.deregister(&id);
                    let there = text(renders, map, likes_gzip).contains(&named);
                    assert!(!there, "{id} is still there");
                }
            });
        }
    });
}

#[test]
fn what_nobody_reads_is_let_go_of() {
    let (renders, map) = (renders(), Map::of(MANY));
    let copy = renders.read(&map, true).expect("there is room");
    renders.let_go(UNREAD);
    assert!(renders.kept().last.is_some());
    renders.let_go(Duration::ZERO);
    assert!(renders.kept().last.is_none());
    // What is being sent stays.
    assert!(renders.room.held() > copy.length());
    drop(copy);
    assert_eq!(renders.room.held(), 0);
    assert_eq!(renders.readers.waiting.taken(), 0);
}

/// Lists whose rendering takes so long that the reaper comes by meanwhile.
struct Slow<'a> {
    map: Map,
    renders: &'a Renders,
}

impl Source for Slow<'_> {
    fn gone(&self) -> (Vec<Arc<Gone>>, Moment) {
        self.map.gone()
    }

    fn moment(&self) -> Moment {
        self.map.moment()
    }

    fn list(&self) -> (List, Moment) {
        self.map.list()
    }

    fn frame(&self, count: usize, moment: Moment, now: SystemTime) -> Frame<'_> {
        self.renders.let_go(Duration::ZERO);
        self.map.frame(count, moment, now)
    }
}

#[test]
fn what_was_long_in_the_making_is_let_go_of_too() {
    let renders = renders();
    let map = Map::of(MANY);
    let slow = Slow {
        map,
        renders: &renders,
    };
    drop(renders.read(&slow, false).expect("there is room"));
    renders.let_go(Duration::ZERO);
    assert!(renders.kept().last.is_none());
    assert_eq!(renders.room.held(), 0);
}

#[test]
fn what_is_kept_of_a_former_rendering_lags_by_no_more() {
    let (renders, map) = (renders(), Map::of(MANY));
    drop(read(&renders, &map, false));
    map.beat("cell-7", 2.0);
    wait(LAG / 2);
    // Others come, and the page it is on stays as it was.
    map.register("new");
    drop(read(&renders, &map, false));
    wait(LAG / 2);
    let shown = read(&renders, &map, false).peers[7].consciousness_level;
    assert_eq!(shown, 2.0);
}

/// A list that settles, until it does not.
struct Settling {
    map: Map,
    settling: AtomicBool,
}

impl Settling {
    fn as_is(&self, moment: Moment) -> Moment {
        let settling = self.settling.load(Ordering::SeqCst);
        Moment { settling, ..moment }
    }
}

impl Source for Settling {
    fn gone(&self) -> (Vec<Arc<Gone>>, Moment) {
        let (gone, moment) = self.map.gone();
        (gone, self.as_is(moment))
    }

    fn moment(&self) -> Moment {
        self.as_is(self.map.moment())
    }

    fn list(&self) -> (List, Moment) {
        let (list, moment) = self.map.list();
        (list, self.as_is(moment))
    }

    fn frame(&self, count: usize, moment: Moment, now: SystemTime) -> Frame<'_> {
        self.map.frame(count, moment, now)
    }
}

#[test]
fn nobody_reads_that_it_settles_when_it_does_not_any_more() {
    for peers in [0, FEW, MANY] {
        let renders = renders();
        let source = Settling {
            map: Map::of(peers),
            settling: AtomicBool::new(true),
        };
        let ends = |settling: bool| {
            let copy = renders.read(&source, false).expect("there is room");
            let shown = copy.rendering.moment.settling;
            let text = String::from_utf8(bytes(&copy)).expect("UTF-8");
            assert_eq!(text.contains(r#""settling":true"#), settling);
            assert_eq!(shown, settling);
        };
        ends(true);
        source.settling.store(false, Ordering::SeqCst);
        ends(false);
    }
}
