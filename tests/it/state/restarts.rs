//! What is there again.

use std::fs;

use super::*;

/// What is known of a peer; its stay began at a time as the file keeps it, in milliseconds.
fn portrait(discovery: &Child, id: &str) -> Value {
    let mut portrait = discovery.get(&format!("/peers/{id}")).json();
    let joined_at = portrait["joined_at"].as_str().expect("a time");
    portrait["joined_at"] = joined_at[..joined_at.len() - 4].into();
    portrait
}

#[test]
fn all_of_it_is_back_at_once_whether_stopped_or_killed() {
    for end in [stop, kill] {
        let (_folder, file) = folder();
        let first = with_state(&file, &[]);
        // It knows nobody yet.
        assert_eq!(first.get("/ready").status, 503);
        register(
            &first,
            "a",
            r#","services":["s"],"consciousness_level":0.5"#,
        );
        register(&first, "b", r#","instance":"b1","stale_after_ms":2000"#);
        register(&first, "c", r#","instance":"c1""#);
        register(&first, "d", "");
        register(
            &first,
            "a",
            r#","services":["t"],"type":"x","consciousness_level":0.5"#,
        );
        assert_eq!(first.delete("/peer/c?instance=c1").status, 200);
        let before = list(&first);
        let stays = portrait(&first, "a");
        let_it_be_written();
        end(first);

        let second = with_state(&file, &[]);
        let after = list(&second);
        assert_eq!(after["epoch"], before["epoch"]);
        assert!(revision(&after) > revision(&before), "{after}");
        assert_eq!(after.get("settling"), None);
        assert_eq!(second.get("/ready").status, 200);
        assert_eq!(ids(&second), ["a", "b", "d"]);
        let without_time = |list: &Value| {
            let mut peers = list["peers"].as_array().expect("a list").clone();
            for peer in &mut peers {
                peer["last_seen"].take();
            }
            peers
        };
        assert_eq!(without_time(&after), without_time(&before));
        let joined = portrait(&second, "a");
        assert_eq!(joined["joined_at"], stays["joined_at"]);
        assert!(joined["here_for_ms"].as_u64() > stays["here_for_ms"].as_u64());
        // The instance is back, and so is who has said goodbye.
        let beat = |body| second.post("/heartbeat", body);
        assert_eq!(beat(r#"{"cell_id":"b","instance":"b2"}"#).status, 409);
        let own = beat(r#"{"cell_id":"b","instance":"b1"}"#).json();
        assert_eq!(own["expires_in_ms"], 2000);
        let late = r#"{"cell_id":"c","ip":"h","port":1,"instance":"c1"}"#;
        assert_eq!(second.post("/register", late).status, 409);
        // The one with the short lease of its own does not beat.
        wait_for("b is reaped", SOON, || ids(&second) == ["a", "d"]);
        end(second);
        let third = with_state(&file, &[]);
        let late = third.post("/register", late);
        assert_eq!(late.status, 409, "{}", late.text());
    }
}

#[test]
fn a_graceful_stop_writes_what_has_only_just_changed_and_the_levels() {
    let (_folder, file) = folder();
    let first = with_state(&file, &[]);
    register(&first, "a", "");
    let_it_be_written();
    let beat = r#"{"cell_id":"a","consciousness_level":0.75}"#;
    assert_eq!(first.post("/heartbeat", beat).status, 200);
    register(&first, "b", "");
    stop(first);
    let second = with_state(&file, &[]);
    let peers = list(&second)["peers"].clone();
    assert_eq!(ids(&second), ["a", "b"]);
    assert_eq!(peers[0]["consciousness_level"], 0.75);
}

#[test]
fn an_own_lease_is_kept_that_was_as_long_as_the_usual_one() {
    let (_folder, file) = folder();
    let first = with_state(&file, &["--stale-after", "10s"]);
    register(&first, "own", r#","stale_after_ms":10000"#);
    register(&first, "usual", "");
    let_it_be_written();
    stop(first);
    let second = with_state(&file, &["--stale-after", "2s"]);
    let lease = |id: &str| {
        let beat = second.post("/heartbeat", &format!(r#"{{"cell_id":"{id}"}}"#));
        beat.json()["expires_in_ms"].clone()
    };
    assert_eq!(lease("own"), 10_000);
    assert_eq!(lease("usual"), 2000);
}

#[test]
fn a_link_to_the_file_stays_one() {
    let (folder, file) = folder();
    let link = folder.path().join("link");
    fs::write(&file, b"").expect("written");
    std::os::unix::fs::symlink(&file, &link).expect("linked");
    let first = with_state(&link, &[]);
    register(&first, "a", "");
    stop(first);
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_eq!(ids(&with_state(&file, &[])), ["a"]);
}

#[test]
fn cells_beat_on_over_a_restart_and_none_registers_again() {
    let (_folder, file) = folder();
    let first = with_state(&file, &[]);
    let flags = ["pure", "--heartbeat-every", "200ms"];
    let cell = crate::support::cell(&first.url(), &flags);
    wait_for("it is listed", SOON, || ids(&first) == ["pure"]);
    let_it_be_written();
    let (_, port) = first.address.rsplit_once(':').expect("a port");
    let port = port.to_owned();
    kill(first);
    let own = ["--host", "127.0.0.1", "--port", &port];
    let state = ["--state-file", text(&file)];
    let second = Child::start("aios-discovery", &[&own[..], &state].concat());
    assert_eq!(ids(&second), ["pure"]);
    let beats = || metric(&second, "aios_discovery_heartbeats_total", "result=\"ok\"");
    wait_for("it beats", SOON, || beats() >= 3.0);
    assert_eq!(
        metric(&second, "aios_discovery_registrations_total", ""),
        0.0
    );
    let unknown = "result=\"unknown\"";
    assert_eq!(
        metric(&second, "aios_discovery_heartbeats_total", unknown),
        0.0
    );
    drop(cell);
}

#[test]
fn heartbeats_write_nothing_and_changes_a_line_each() {
    let (_folder, file) = folder();
    let discovery = with_state(&file, &[]);
    register(&discovery, "a", "");
    let_it_be_written();
    let written = || fs::read_to_string(&file).expect("UTF-8");
    let before = written();
    for level in 0..50 {
        let beat = format!(r#"{{"cell_id":"a","consciousness_level":{level}}}"#);
        assert_eq!(discovery.post("/heartbeat", &beat).status, 200);
    }
    // The same again is no change either.
    register(&discovery, "a", "");
    let_it_be_written();
    assert_eq!(written(), before);
    register(&discovery, "b", "");
    let_it_be_written();
    let after = written();
    let new = after.strip_prefix(&before).expect("it is appended to");
    assert_eq!(new.lines().count(), 1, "{new}");
    assert!(new.contains(r#"peer 1 {"cell_id":"b""#), "{new}");
}

#[test]
fn a_journal_that_has_grown_long_is_written_anew_however_often_discovery_is_killed() {
    let services: Vec<String> = (0..64).map(|n| format!("\"{n:0200}\"")).collect();
    for is_killed in [false, true] {
        let (_folder, file) = folder();
        let mut discovery = with_state(&file, &[]);
        register(&discovery, "stays", "");
        let length = || fs::metadata(&file).expect("there").len();
        let (mut longest, mut shrank) = (0, 0);
        for batch in 0..10 {
            let before = length();
            for round in 0..40 {
                let more = format!(
                    r#","branch":"{batch}.{round}","services":[{}]"#,
                    services.join(",")
                );
                register(&discovery, "changes", &more);
            }
            let_it_be_written();
            longest = longest.max(length());
            shrank += usize::from(length() < before);
            if is_killed {
                kill(discovery);
                discovery = with_state(&file, &[]);
            }
        }
        // Over 5 MB were written.
        assert!(longest < 2 << 20, "{longest}");
        assert!(shrank > 0);
        let before = list(&discovery);
        kill(discovery);
        let last = with_state(&file, &[]);
        assert_eq!(ids(&last), ["stays", "changes"]);
        assert_eq!(
            list(&last)["peers"][1]["branch"],
            before["peers"][1]["branch"]
        );
        assert!(revision(&list(&last)) > revision(&before));
    }
}

#[test]
fn two_discoveries_do_not_share_a_file() {
    let (_folder, file) = folder();
    let first = with_state(&file, &[]);
    register(&first, "a", "");
    is_refused(&file);
    // Nothing of that has hurt the first.
    let_it_be_written();
    kill(first);
    assert_eq!(ids(&with_state(&file, &[])), ["a"]);
}
