//! The list in other forms, and parts of it.

use super::*;

/// Three peers of different kinds.
fn three(flags: &[&str]) -> Child {
    let discovery = discovery(flags);
    enter(
        &discovery,
        "pure",
        &json!({"type": "pure_cell", "branch": "pure", "services": ["x"], "consciousness_level": 0.1}),
    );
    enter(
        &discovery,
        "alpha one",
        &json!({"ip": "::1", "port": 8000, "type": "alpha_cell", "services": ["x", "y"], "hostname": "rack"}),
    );
    enter(&discovery, "<b>", &json!({"ip": "a-host"}));
    discovery
}

fn text(discovery: &Child, target: &str, content_type: &str) -> String {
    let answer = discovery.get(target);
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some(content_type));
    assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    assert!(answer.header("x-mesh-epoch").is_some());
    assert_eq!(revision(&answer), now(discovery), "{target}");
    answer.text().to_owned()
}

const PLAIN: &str = "text/plain; charset=utf-8";

#[test]
fn a_script_gets_lines_and_prometheus_targets() {
    let discovery = three(&CALM);
    assert_eq!(
        text(&discovery, "/peers?format=ids", PLAIN),
        "pure\nalpha one\n<b>\n"
    );
    assert_eq!(
        text(&discovery, "/peers?format=hosts", PLAIN),
        "10.0.0.1\tpure\n::1\talpha one\na-host\t<b>\n"
    );
    let tsv = text(
        &discovery,
        "/peers?format=tsv",
        "text/tab-separated-values; charset=utf-8",
    );
    let lines: Vec<Vec<&str>> = tsv.lines().map(|line| line.split('\t').collect()).collect();
    let columns = ["id", "ip", "port", "type", "level", "last_seen", "age"];
    assert_eq!(lines[0], columns);
    assert_eq!(lines.len(), 4);
    assert_eq!(
        lines[2][..5],
        ["alpha one", "::1", "8000", "alpha_cell", "0.0"]
    );
    let seen = discovery.get("/peers").json()["peers"][1]["last_seen"].clone();
    assert_eq!(lines[2][5], seen);
    let age: f64 = lines[2][6].parse().expect("seconds");
    assert!((0.0..10.0).contains(&age), "{age}");

    let targets = text(&discovery, "/peers?format=prometheus", "application/json");
    let targets: Value = serde_json::from_str(&targets).expect("JSON");
    assert_eq!(targets.as_array().map(Vec::len), Some(3));
    assert_eq!(
        targets[1],
        json!({"targets": ["[::1]:8000"], "labels": {
            "__meta_mesh_id": "alpha one", "__meta_mesh_type": "alpha_cell",
            "__meta_mesh_branch": "main", "__meta_mesh_hostname": "rack",
            "__meta_mesh_services": ",x,y,",
        }})
    );
    // Unset variables of a script ask for nothing.
    let whole = discovery.get("/peers?format=&type=&service=&branch=&state=&index=&wait=&x=y");
    assert_eq!(whole.json()["count"], 3);
}

#[test]
fn filters_leave_out_and_go_with_every_form() {
    let discovery = three(&CALM);
    for (query, expected) in [
        ("type=pure_cell", "pure\n"),
        ("service=x", "pure\nalpha one\n"),
        ("service=y&type=alpha_cell", "alpha one\n"),
        ("service=y&branch=pure", ""),
        ("branch=main", "alpha one\n<b>\n"),
        ("type=cell", "<b>\n"),
        ("type=none%20such", ""),
    ] {
        let target = format!("/peers?format=ids&{query}");
        assert_eq!(text(&discovery, &target, PLAIN), expected, "{query}");
        let list = discovery.get(&format!("/peers?{query}")).json();
        let ids: String = list["peers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|peer| format!("{}\n", peer["cell_id"].as_str().expect("text")))
            .collect();
        assert_eq!(
            (ids.as_str(), &list["count"]),
            (expected, &json!(expected.lines().count()))
        );
        assert!(list["now"].is_string() && list["my_host"].is_string());
        assert_eq!(list["settling"], true);
    }
    // A peer in a part of the list is as in all of it.
    let all = discovery.get("/peers").json();
    let some = discovery.get("/peers?type=alpha_cell").json();
    assert_eq!(some["peers"][0], all["peers"][1]);
}

#[test]
fn what_is_not_allowed_is_named() {
    let discovery = discovery(&CALM);
    for (target, names) in [
        (
            "/peers?format=xml",
            "format: allowed is json, tsv, ids, hosts or prometheus",
        ),
        ("/peers?state=here", "state: allowed is gone"),
        ("/peers?index=one", "index: allowed is a revision"),
        ("/peers?index=-1", "index: allowed is a revision"),
        (
            "/peers?index=1&wait=30",
            "wait: allowed is a duration like 500ms, 5s or 2m",
        ),
        ("/peers?wait=soon", "wait: allowed is a duration"),
        ("/sd?index=x", "index: allowed is a revision"),
        ("/events?since=x", "since: allowed is a revision"),
    ] {
        let answer = discovery.get(target);
        assert_eq!(answer.status, 422, "{target}");
        let detail = answer.detail();
        assert!(detail.starts_with(names), "{target}: {detail}");
    }
}

#[test]
fn who_has_a_form_already_is_told_so_until_the_membership_changes() {
    let discovery = three(&CALM);
    let beat = json!({"cell_id": "pure", "consciousness_level": 3.0}).to_string();
    for target in [
        "/peers?format=ids",
        "/peers?format=hosts&type=cell",
        "/peers?format=prometheus",
        "/peers?state=gone",
    ] {
        let first = discovery.get(target);
        let tag = first.header("etag").expect("a tag").to_owned();
        let header = format!("If-None-Match: {tag}");
        // A beat is no change of these, however long ago they were read.
        assert_eq!(discovery.post("/heartbeat", &beat).status, 200);
        pause(Duration::from_millis(200));
        let mut connection = discovery.connect();
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n");
        connection.send(request.as_bytes());
        let again = connection.answer_without_body().expect("an answer");
        assert_eq!(
            (again.status, again.header("etag")),
            (304, Some(&*tag)),
            "{target}"
        );
        register(&discovery, "new");
        let answer = discovery.request("GET", target, &[&header], b"");
        assert_eq!(answer.status, 200, "{target}");
        assert_ne!(answer.header("etag"), Some(&*tag));
        leave(&discovery, "new");
    }
    // Levels and times are in this one.
    let target = "/peers?type=pure_cell";
    let first = discovery.get(target);
    let header = format!("If-None-Match: {}", first.header("etag").expect("a tag"));
    let beat = json!({"cell_id": "pure", "consciousness_level": 4.0}).to_string();
    assert_eq!(discovery.post("/heartbeat", &beat).status, 200);
    let answer = discovery.request("GET", target, &[&header], b"");
    assert_eq!(answer.json()["peers"][0]["consciousness_level"], 4.0);
}

#[test]
fn long_forms_come_in_gzip_to_who_likes_it() {
    let discovery = discovery(&CALM);
    for number in 0..300 {
        register(&discovery, &format!("cell-{number}"));
    }
    for target in [
        "/peers?format=ids",
        "/peers?format=tsv",
        "/peers?branch=main",
        "/sd",
    ] {
        if target == "/sd" {
            // It settles, and says so in a sentence.
            continue;
        }
        let plain = discovery.get(target);
        assert_eq!(plain.header("content-encoding"), None);
        let packed = discovery.request("GET", target, &["Accept-Encoding: gzip"], b"");
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{target}");
        assert!(packed.body.len() * 3 < plain.body.len());
        let mut text = String::new();
        let mut reader = flate2::read::GzDecoder::new(&packed.body[..]);
        std::io::Read::read_to_string(&mut reader, &mut text).expect("gzip");
        assert_eq!(text.lines().count(), plain.text().lines().count());
        assert_ne!(packed.header("etag"), plain.header("etag"));
    }
}

#[test]
fn prometheus_gets_no_targets_while_they_are_not_known() {
    let discovery = discovery(&["--stale-after", "1s"]);
    enter(&discovery, "a", &json!({}));
    let early = discovery.get("/sd");
    assert_eq!(early.status, 503);
    assert!(early.header("retry-after").is_some());
    assert!(early.detail().starts_with("settling: "));
    wait_for("it is settled", SOON, || {
        enter(&discovery, "a", &json!({}));
        discovery.get("/sd").status == 200
    });
    let targets = discovery.get("/sd?format=ids&state=gone&type=cell");
    assert_eq!(targets.json()[0]["targets"], json!(["10.0.0.1:8002"]));
    assert_eq!(discovery.get("/sd?type=other").json(), json!([]));
    assert_eq!(ids(&discovery), ["a"]);
}

#[test]
fn nobody_misses_what_they_did_in_any_form() {
    const ROUNDS: usize = 40;
    let discovery = discovery(&CALM);
    let forms = [
        "format=ids",
        "format=hosts",
        "type=cell",
        "format=tsv&type=cell",
    ];
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for form in forms {
            let (discovery, done) = (&discovery, &done);
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    assert_eq!(discovery.get(&format!("/peers?{form}")).status, 200);
                }
            });
        }
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let discovery = &discovery;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let id = format!("own-{writer}-{round}");
                        let form = forms[round % forms.len()];
                        let shows = || {
                            let answer = discovery.get(&format!("/peers?{form}"));
                            answer.text().contains(&format!("{id}\n"))
                                || answer.text().contains(&format!("{id}\t"))
                                || answer.text().contains(&format!("\"{id}\""))
                        };
                        register(discovery, &id);
                        assert!(shows(), "{id} is missing in {form}");
                        leave(discovery, &id);
                        assert!(!shows(), "{id} is still in {form}");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("no panic");
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}
