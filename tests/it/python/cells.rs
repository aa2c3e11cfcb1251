//! Our cells, the Python discovery.

use super::*;

#[test]
fn our_cells_live_in_the_list_of_the_python_discovery() {
    const ODD: &str = "grün & 50% +1?#";
    const IDS: [&str; 3] = ["pure", "alpha", ODD];
    let Some(python) = Python::found() else {
        return;
    };
    let mut discovery = python.discovery("0", &[LONG_LEASE]);
    let url = discovery.url();
    let flags: [&[&str]; 3] = [&["pure"], &["alpha"], &["--id", ODD]];
    let mut cells = Vec::new();
    for (flags, id) in flags.into_iter().zip(IDS) {
        cells.push(our_cell(&url, flags));
        wait_for("the cell is listed", SOON, || {
            ids(&discovery).last().is_some_and(|last| last == id)
        });
    }
    assert_eq!(ids(&discovery), IDS);
    let facts = facts(&discovery);
    for (cell, (id, preset)) in cells
        .iter()
        .zip([("pure", "pure"), ("alpha", "alpha"), (ODD, "")])
    {
        assert_eq!(facts[id], preset_facts(id, preset, &cell.address));
    }

    wait_for_beats(&discovery, &IDS);
    let synced = cells[0].post("/consciousness/sync", r#"{"level":0.7}"#);
    assert_eq!(synced.status, 200, "{}", synced.text());
    wait_for("a beat has carried the new level", SOON, || {
        peers(&discovery)[0]["consciousness_level"] == 0.7
    });

    for (cell, id) in cells.iter_mut().zip(IDS) {
        leaves_on(Signal::TERM, cell, id, &mut discovery);
        let (status, _) = cell.wait(SOON);
        assert_eq!(status.code(), Some(0));
    }
    assert!(ids(&discovery).is_empty());
    assert_eq!(count(&discovery, "Registered peer: "), IDS.len());
}

#[test]
fn the_python_discovery_reaps_a_cell_of_ours_that_was_killed() {
    let Some(python) = Python::found() else {
        return;
    };
    let lease = [("AIOS_STALE_AFTER", "1.5"), ("AIOS_REAP_EVERY", "0.1")];
    let mut discovery = python.discovery("0", &lease);
    let pure = our_cell(&discovery.url(), &["pure"]);
    let _alpha = our_cell(&discovery.url(), &["alpha"]);
    wait_for("both are listed", SOON, || {
        sorted_ids(&discovery) == ["alpha", "pure"]
    });
    kill(pure);
    let age = reaped_at_age("pure", &mut discovery);
    assert!(age >= 1.5, "{age}");
    wait_for("the other is left", SOON, || ids(&discovery) == ["alpha"]);
    assert_eq!(count(&discovery, "deregistered gracefully"), 0);
}

#[test]
fn our_cells_wait_for_the_python_discovery_and_come_back_after_its_restart() {
    const IDS: [&str; 3] = ["alpha", "plain", "pure"];
    let Some(python) = Python::found() else {
        return;
    };
    let port = Port::reserve();
    let mut cells: Vec<Child> = [&["alpha"][..], &["--id", "plain"], &["pure"]]
        .into_iter()
        .map(|flags| our_cell(&port.url(), flags))
        .collect();
    for cell in &mut cells {
        cell.wait_for_line("cannot register", SOON);
    }
    let discovery = python.discovery(&port.number, &[LONG_LEASE]);
    wait_for("all have registered, late", SOON, || {
        sorted_ids(&discovery) == IDS
    });
    let before = facts(&discovery);

    kill(discovery);
    for cell in &mut cells {
        cell.wait_for_line("heartbeat failed", SOON);
    }
    let discovery = python.discovery(&port.number, &[LONG_LEASE]);
    wait_for("all are back", INTERVAL + MARGIN, || {
        sorted_ids(&discovery) == IDS
    });
    assert_eq!(facts(&discovery), before);
    wait_for_beats(&discovery, &IDS);
    for (cell, id) in cells.iter_mut().zip(IDS) {
        cell.wait_for_line("works again after", SOON);
        assert_eq!(count(cell, &format!("does not know {id}")), 1);
        assert_eq!(count(cell, &format!("Registered {id} with")), 2);
    }
}

#[test]
fn our_cells_beat_on_while_a_gateway_to_the_python_discovery_answers_503() {
    static BROKEN: AtomicBool = AtomicBool::new(false);
    const IDS: [&str; 2] = ["alpha", "pure"];
    let Some(python) = Python::found() else {
        return;
    };
    let discovery = python.discovery("0", &[LONG_LEASE]);
    let behind = discovery.address.clone();
    let gateway = Stub::start(move |arrived| {
        if BROKEN.load(Ordering::SeqCst) {
            return Some((503, "no backend".to_owned()));
        }
        let (method, target) = arrived.line.split_once(' ').expect("a target");
        let json = ["Content-Type: application/json"];
        let answer = request(&behind, method, target, &json, &arrived.body);
        Some((answer.status, answer.text().to_owned()))
    });
    let mut cells = IDS.map(|preset| our_cell(&gateway.url(), &[preset]));
    wait_for("both are listed", SOON, || sorted_ids(&discovery) == IDS);
    wait_for_beats(&discovery, &IDS);

    BROKEN.store(true, Ordering::SeqCst);
    for cell in &mut cells {
        cell.wait_for_line("answered with status 503", SOON);
    }
    let beats = || gateway.arrived("POST /heartbeat").len();
    let before = beats();
    wait_for("both have gone on beating", SOON, || beats() > before + 4);
    BROKEN.store(false, Ordering::SeqCst);

    for cell in &mut cells {
        cell.wait_for_line("works again after", SOON);
    }
    wait_for_beats(&discovery, &IDS);
    assert_eq!(gateway.arrived("POST /register").len(), IDS.len());
}

#[test]
fn a_python_discovery_that_hangs_neither_loses_our_cell_nor_holds_it() {
    let Some(python) = Python::found() else {
        return;
    };
    let mut discovery = python.discovery("0", &[LONG_LEASE]);
    let mut cell = our_cell(&discovery.url(), &["pure"]);
    wait_for("it is listed", SOON, || ids(&discovery) == ["pure"]);

    discovery.signal(Signal::STOP);
    cell.wait_for_line("heartbeat failed: no answer in time", SOON);
    discovery.signal(Signal::CONT);
    cell.wait_for_line("works again after", SOON);
    wait_for_beats(&discovery, &["pure"]);
    assert_eq!(count(&cell, "Registered pure with"), 1);

    discovery.signal(Signal::STOP);
    cell.signal(Signal::TERM);
    let (status, took) = cell.wait(SOON);
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(2) + MARGIN, "{took:?}");
    // The goodbye lay there all the while.
    discovery.signal(Signal::CONT);
    discovery.wait_for_line("Peer deregistered gracefully: pure", SOON);
    wait_for("it is gone", SOON, || ids(&discovery).is_empty());
}
