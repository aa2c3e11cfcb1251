//! `watch`: what is told, and how it gets over the loss of discovery.

use std::collections::BTreeSet;
use std::process::Stdio;

use super::*;

/// The event and the id of each.
fn in_short(objects: &[Value]) -> Vec<String> {
    let short = |one: &Value| {
        let event = one["event"].as_str().expect("an event");
        format!("{event} {}", one["cell_id"].as_str().unwrap_or("-"))
    };
    objects.iter().map(short).collect()
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let discovery = discovery(&["--stale-after", "1s", "--reap-every", "100ms"]);
    register_with(&discovery, "before", 1, r#","stale_after_ms":60000"#);
    let lines = Watch::start(&discovery, &[]);
    let objects = Watch::start(&discovery, &["--format", "ndjson"]);

    let lasting = r#","stale_after_ms":60000,"type":"odd""#;
    let started = Instant::now();
    register_with(&discovery, "a b", 7, lasting);
    wait_for("it is told", SOON, || objects.lines().len() == 1);
    let took = started.elapsed();
    register_with(
        &discovery,
        "a b",
        7,
        &format!(r#"{lasting},"branch":"new""#),
    );
    register_with(&discovery, "a b", 8, lasting);
    assert_eq!(discovery.delete("/peer/a%20b").status, 200);
    register_with(&discovery, "silent", 9, "");

    let told = lines.told(7);
    assert_eq!(
        told[..4],
        [
            "joined   a b 127.0.0.1:7 odd level 0",
            "changed  a b 127.0.0.1:7 odd level 0, was branch main",
            told[2].as_str(),
            "joined   a b 127.0.0.1:8 odd level 0",
        ]
    );
    assert!(
        told[2].starts_with("left     a b 127.0.0.1:7 replaced, "),
        "{told:#?}"
    );
    assert!(
        told[4].starts_with("left     a b 127.0.0.1:8 deregistered by 127.0.0.1, after 0."),
        "{told:#?}"
    );
    assert_eq!(told[5], "joined   silent 127.0.0.1:9 cell level 0");
    assert!(
        told[6].starts_with("left     silent 127.0.0.1:9 reaped, its beat 0.")
            && told[6].ends_with("s here"),
        "{told:#?}"
    );

    let objects = objects.objects(7);
    let revisions = objects.windows(2).map(|two| {
        let revision = |one: &Value| one["revision"].as_u64().expect("a revision");
        revision(&two[1]) - revision(&two[0])
    });
    assert_eq!(revisions.collect::<Vec<_>>(), [1; 6]);
    assert_eq!(
        in_short(&objects),
        [
            "join a b",
            "change a b",
            "leave a b",
            "join a b",
            "leave a b",
            "join silent",
            "leave silent"
        ]
    );
    assert_eq!(objects[0]["type"], "odd");
    assert_eq!(objects[0]["registered_by"], "127.0.0.1");
    assert_eq!(objects[0]["at"], objects[0]["last_seen"]);
    assert_eq!(objects[4]["reason"], "deregistered");
    assert_eq!(objects[4]["port"], 8);
    assert!(objects[6]["late_ms"].as_u64().expect("a number") > 0);
    report(&format!("aios-mesh watch: a join is told after {took:?}"));
    assert!(took < SECOND, "{took:?}");
    assert_eq!(lines.end(Signal::TERM), [""; 0]);
}

#[test]
fn a_restart_is_no_departure_of_those_who_come_back() {
    let flags = ["--stale-after", "2s", "--reap-every", "200ms"];
    let mut first = discovery(&flags);
    let address = first.address.clone();
    let _pure = cell(&first.url(), &["pure"]);
    let alpha = cell(&first.url(), &["alpha"]);
    wait_for("both are listed", SOON, || ids(&first).len() == 2);
    let mut watch = Watch::start(&first, &["--format", "ndjson"]);
    first.signal(Signal::TERM);
    first.wait(SOON);
    let lost = watch.child.wait_for_line("lost discovery at", SOON);
    assert!(lost.contains(&address) && lost.contains("WARN"), "{lost}");
    // It dies meanwhile.
    drop(alpha);
    let second = discovery_at(&address, &flags);
    let _worker = cell(&second.url(), &["--id", "worker"]);
    let objects = watch.objects(2);
    let mut short = in_short(&objects);
    short.sort_unstable();
    assert_eq!(short, ["join worker", "leave alpha"]);
    let left = objects.iter().find(|one| one["event"] == "leave");
    assert!(left.expect("alpha")["reason"].is_null(), "{objects:#?}");

    // And then it goes on as before.
    assert_eq!(second.delete("/peer/worker").status, 200);
    let objects = watch.wait_for_lines(4);
    assert!(objects[2].contains("deregistered"), "{objects:#?}");
    let log = watch.end(Signal::INT);
    assert_eq!(log.len(), 2, "{log:#?}");
    assert!(log[1].contains("is back"), "{log:#?}");
}

#[test]
fn nothing_is_told_twice_over_a_restart_with_a_state_file_and_nothing_is_missed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state");
    let flags = ["--state-file", file.to_str().expect("UTF-8")];
    let first = discovery(&flags);
    let address = first.address.clone();
    register(&first, "a");
    register(&first, "b");
    let watch = Watch::start(&first, &["--format", "ndjson"]);
    register(&first, "c");
    watch.objects(1);
    let mut first = first;
    first.signal(Signal::TERM);
    first.wait(SOON);
    let second = discovery_at(&address, &flags);
    assert_eq!(ids(&second), ["a", "b", "c"]);
    assert_eq!(second.delete("/peer/b").status, 200);
    assert_eq!(in_short(&watch.objects(2)), ["join c", "leave b"]);
    register(&second, "d");
    assert_eq!(in_short(&watch.objects(3)), ["join c", "leave b", "join d"]);
}

/// Who is there by what was told: nobody joins who is there, and nobody leaves who is not.
fn adds_up(objects: &[Value]) -> BTreeSet<String> {
    let mut here = BTreeSet::new();
    for one in objects {
        let id = || one["cell_id"].as_str().expect("an id").to_owned();
        match one["event"].as_str().expect("an event") {
            "reset" => here.clear(),
            "join" => assert!(here.insert(id()), "{one} in {objects:#?}"),
            "leave" => assert!(here.remove(&id()), "{one} in {objects:#?}"),
            _ => assert!(here.contains(&id()), "{one} in {objects:#?}"),
        }
    }
    here
}

/// Cells come and go at random while discovery is killed again and again.
fn adds_up_over_kills(flags: &[&str]) {
    const PEERS: usize = 300;
    const KILLS: usize = 3;
    let lease = r#","stale_after_ms":600000"#;
    let mut discovery = discovery(flags);
    let address = discovery.address.clone();
    let settled = |discovery: &Child| {
        wait_for("it has settled", SOON, || {
            discovery.get("/ready").status == 200
        });
    };
    settled(&discovery);
    let watch = Watch::start(&discovery, &["--format", "ndjson", "--since", "0"]);
    watch.wait_for_lines(1);
    // A cell each that is there or not.
    let mut alive = [false; PEERS];
    for kills in 0..=KILLS {
        for _ in 0..PEERS {
            let one = random(PEERS);
            alive[one] = !alive[one];
            if alive[one] {
                register_with(&discovery, &one.to_string(), 1, lease);
            } else {
                assert_eq!(discovery.delete(&format!("/peer/{one}")).status, 200);
            }
        }
        if kills < KILLS {
            discovery.signal(Signal::KILL);
            discovery.wait(SOON);
            discovery = discovery_at(&address, flags);
        }
        for (one, alive) in alive.iter_mut().enumerate() {
            let listed = discovery.get(&format!("/peers/{one}")).status == 200;
            // Some die while discovery is away; a goodbye may have been lost with what was not
            // written yet; and who is not known registers again.
            *alive &= one % 10 != kills;
            if *alive && !listed {
                register_with(&discovery, &one.to_string(), 1, lease);
            } else if !*alive && listed {
                assert_eq!(discovery.delete(&format!("/peer/{one}")).status, 200);
            }
        }
        let truth: BTreeSet<String> = ids(&discovery).into_iter().collect();
        let expected = (0..PEERS).filter(|one| alive[*one]);
        assert_eq!(truth, expected.map(|one| one.to_string()).collect());
        wait_for("it adds up", 3 * SOON, || {
            adds_up(&watch.objects_so_far()) == truth
        });
        settled(&discovery);
    }
    let count = watch.objects_so_far().len();
    report(&format!(
        "aios-mesh watch, discovery {}: {count} events over {KILLS} kills add up to the list",
        flags[0]
    ));
    assert!(count > PEERS, "{count}");
}

#[test]
fn what_is_told_adds_up_to_the_list_over_kills() {
    adds_up_over_kills(&["--stale-after", "1s"]);
}

#[test]
fn what_is_told_adds_up_to_the_list_over_kills_with_a_state_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state");
    adds_up_over_kills(&[
        "--state-file",
        file.to_str().expect("UTF-8"),
        "--stale-after",
        "1s",
    ]);
}

#[test]
fn it_begins_where_it_is_told_to_as_far_as_that_is_remembered() {
    let discovery = discovery(&[]);
    register(&discovery, "a");
    let revision = discovery.get("/peers").json()["revision"].to_string();
    register(&discovery, "b");
    assert_eq!(discovery.delete("/peer/b").status, 200);
    let format = ["--format", "ndjson"];
    let since = Watch::start(&discovery, &[&format[..], &["--since", &revision]].concat());
    assert_eq!(in_short(&since.objects(2)), ["join b", "leave b"]);
    let anew = Watch::start(&discovery, &[&format[..], &["--since", "0"]].concat());
    assert_eq!(in_short(&anew.objects(2)), ["reset -", "join a"]);
    register(&discovery, "c");
    assert_eq!(in_short(&since.objects(3))[2], "join c");
    assert_eq!(in_short(&anew.objects(3))[2], "join c");
    assert_eq!(anew.end(Signal::TERM), [""; 0]);
}

#[test]
fn it_ends_quietly_when_nobody_reads_any_more() {
    let discovery = discovery(&[]);
    let mut command = command("aios-mesh");
    command.args(["watch", "--discovery", &discovery.url()]);
    command.stdout(Stdio::piped());
    let mut child = Child::spawn(command);
    wait_for("it follows", SOON, || {
        metric(&discovery, "aios_discovery_waiting", "") > 0.0
    });
    // Though nothing happens that it would print.
    child.close_stdout();
    let (status, _) = child.wait(SOON);
    assert_eq!(status.code(), Some(0));
    assert_eq!(child.whole_log(), [""; 0]);
}

#[test]
fn what_others_chose_steers_no_terminal_and_a_stream_that_ends_is_not_asked_for_without_pause() {
    let list = r#"{"peers":[],"count":0,"my_host":"h","revision":7,"epoch":"e"}"#;
    let evil = "event: leave\nid: 8\ndata: {\"cell_id\":\"\\u001b[2Ja\\nb\\u009b\",\"reason\":\"\\u2028\",\"at\":\"\\r\"}\n\n";
    let stub = Stub::start(
        move |arrived| match arrived.line.starts_with("GET /events") {
            true => Some((200, evil.into())),
            false => Some((200, list.into())),
        },
    );
    let watch = Watch::of(&stub.url(), &[]);
    wait_for("it is told", SOON, || !watch.lines().is_empty());
    holds_for("it does not hurry", 2 * SECOND, || {
        stub.arrived("GET /events").len() <= 4
    });
    let lines = watch.lines();
    assert_eq!(lines[0], "\\r  left     \\u{1b}[2Ja\\nb\\u{9b} - \\u{2028}");
    // It asks for what comes after.
    let asked = stub.arrived("GET /events");
    assert_eq!(asked[0].line, "GET /events?since=7");
    assert_eq!(asked[1].line, "GET /events?since=8");
    let log = watch.end(Signal::TERM);
    assert!(log.len() <= 6, "{log:#?}");
}

#[test]
fn where_there_are_no_events_the_list_is_read_and_compared() {
    let step = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let now = std::sync::Arc::clone(&step);
    let stub = Stub::start(move |arrived| {
        let peer = |id: &str, port: u16| format!(r#"{{"cell_id":"{id}","ip":"h","port":{port}}}"#);
        let peers = match now.load(std::sync::atomic::Ordering::Relaxed) {
            0 => peer("a", 1),
            1 => [peer("a", 2), peer("b", 1)].join(","),
            // It has restarted, and says that cells may be missing.
            2 => String::new(),
            _ => peer("b", 1),
        };
        let settling = now.load(std::sync::atomic::Ordering::Relaxed) == 2;
        match arrived.line.as_str() {
            "GET /peers" => Some((
                200,
                format!(r#"{{"peers":[{peers}],"count":1,"my_host":"h","settling":{settling}}}"#),
            )),
            _ => Some((404, r#"{"detail":"Not Found"}"#.into())),
        }
    });
    let mut watch = Watch::of(&stub.url(), &[]);
    watch.child.wait_for_line("is an older one", SOON);
    let set = |to| step.store(to, std::sync::atomic::Ordering::Relaxed);
    set(1);
    assert_eq!(
        watch.told(2),
        [
            "changed  a h:2  level 0, was port 1",
            "joined   b h:1  level 0"
        ]
    );
    set(2);
    let before = stub.arrived("GET /peers").len();
    wait_for("it has looked", SOON, || {
        stub.arrived("GET /peers").len() > before + 1
    });
    assert_eq!(watch.lines().len(), 2);
    set(3);
    assert_eq!(
        watch.told(3)[2],
        "left     a h:2 for a reason that is not known"
    );
    let log = watch.end(Signal::TERM);
    assert_eq!(log.len(), 1, "{log:#?}");
}

#[test]
fn at_its_start_discovery_must_be_there_and_let_it_read() {
    let address = free_address();
    let output = mesh(&format!("http://{address}"), &["watch"]);
    assert_eq!(output.status.code(), Some(1));
    let line = one_line(&output);
    assert!(line.contains("cannot reach discovery"), "{line}");
    let refusing = Stub::start(|_| Some((401, r#"{"detail":"a token is needed"}"#.into())));
    for arguments in [
        &["watch"][..],
        &["wait", "--min", "1"],
        &["wait", "--gone", "a"],
        &["explain", "a"],
    ] {
        let output = mesh(&refusing.url(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let line = one_line(&output);
        assert!(line.contains("--token-file"), "{line}");
    }
}
