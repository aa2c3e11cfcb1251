//! Python cells, our discovery; and mixed meshes.

use super::*;

#[test]
fn python_cells_live_in_our_list_and_come_back_after_our_restart() {
    const IDS: [&str; 3] = ["alpha", "alpha-2", "pure"];
    let Some(python) = Python::found() else {
        return;
    };
    let port = Port::reserve();
    let mut pure = python.cell("pure.py", &port.url(), &[]);
    pure.wait_for_line("Registration failed", SOON);
    let discovery = port.discovery(&["--stale-after", "60s"]);
    let mut alpha = python.cell("alpha.py", &port.url(), &[]);
    let second = [("AIOS_CELL_ID", "alpha-2")];
    let mut alpha_2 = python.cell("alpha.py", &port.url(), &second);
    wait_for("all have registered", SOON, || {
        sorted_ids(&discovery) == IDS
    });
    let before = facts(&discovery);
    assert_eq!(before["pure"], preset_facts("pure", "pure", &pure.address));
    for (id, cell) in [("alpha", &alpha), ("alpha-2", &alpha_2)] {
        assert_eq!(before[id], preset_facts(id, "alpha", &cell.address));
    }
    wait_for_beats(&discovery, &IDS);
    assert_eq!(
        pure.post("/consciousness/sync", r#"{"level":0.7}"#).status,
        200
    );
    wait_for("a beat has carried the new level", SOON, || {
        facts(&discovery)["pure"]["consciousness_level"] == 0.7
    });

    kill(discovery);
    for cell in [&mut pure, &mut alpha, &mut alpha_2] {
        cell.wait_for_line("Heartbeat failed", SOON);
    }
    let mut discovery = port.discovery(&["--stale-after", "2s", "--reap-every", "100ms"]);
    wait_for("all are back", INTERVAL + MARGIN, || {
        sorted_ids(&discovery) == IDS
    });
    for cell in [&mut pure, &mut alpha, &mut alpha_2] {
        cell.wait_for_line("registering again", SOON);
    }

    leaves_on(Signal::TERM, &mut pure, "pure", &mut discovery);
    leaves_on(Signal::INT, &mut alpha_2, "alpha-2", &mut discovery);
    // The exit hook of this one is not reached.
    alpha.signal(Signal::TERM);
    alpha.wait(SOON);
    assert_eq!(ids(&discovery), ["alpha"]);
    let age = reaped_at_age("alpha", &mut discovery);
    assert!(age >= 2.0, "{age}");
    wait_for("it is gone", SOON, || ids(&discovery).is_empty());
}

#[test]
fn a_python_pure_and_our_alpha_share_a_mesh_under_either_discovery() {
    const IDS: [&str; 2] = ["alpha", "pure"];
    let Some(python) = Python::found() else {
        return;
    };
    for mut discovery in [
        python.discovery("0", &[LONG_LEASE]),
        discovery(&["--stale-after", "60s"]),
    ] {
        let mut pure = python.cell("pure.py", &discovery.url(), &[]);
        let mut alpha = our_cell(&discovery.url(), &["alpha"]);
        wait_for("both are listed", SOON, || sorted_ids(&discovery) == IDS);
        let expected = [("alpha", &alpha), ("pure", &pure)]
            .map(|(id, cell)| (id.to_owned(), preset_facts(id, id, &cell.address)));
        assert_eq!(facts(&discovery), BTreeMap::from(expected));
        wait_for_beats(&discovery, &IDS);
        leaves_on(Signal::TERM, &mut alpha, "alpha", &mut discovery);
        wait_for_beats(&discovery, &["pure"]);
        leaves_on(Signal::TERM, &mut pure, "pure", &mut discovery);
        assert!(ids(&discovery).is_empty());
    }
}

#[test]
fn services_are_replaced_one_by_one_and_the_list_comes_out_the_same() {
    const IDS: [&str; 2] = ["alpha", "pure"];
    let Some(python) = Python::found() else {
        return;
    };
    let (port, pure_port, alpha_port) = (Port::reserve(), Port::reserve(), Port::reserve());
    let url = port.url();
    let mut discovery = python.discovery(&port.number, &[LONG_LEASE]);
    let on_pure = [("AIOS_CELL_PORT", pure_port.number.as_str())];
    let mut pure = python.cell("pure.py", &url, &on_pure);
    let on_alpha = [("AIOS_CELL_PORT", alpha_port.number.as_str())];
    let mut alpha = python.cell("alpha.py", &url, &on_alpha);
    wait_for("all of Python's are listed", SOON, || {
        sorted_ids(&discovery) == IDS
    });
    let all = facts(&discovery);

    discovery.signal(Signal::TERM);
    discovery.wait(SOON);
    let mut discovery = port.discovery(&["--stale-after", "60s"]);
    wait_for("our discovery knows both", INTERVAL + MARGIN, || {
        sorted_ids(&discovery) == IDS
    });
    assert_eq!(facts(&discovery), all);

    leaves_on(Signal::TERM, &mut pure, "pure", &mut discovery);
    let mut pure = pure_port.cell(&url, "pure");
    pure.wait_for_line("Registered pure with", SOON);
    assert_eq!(facts(&discovery), all);

    // Gone without a word: it stays listed until its successor takes its place.
    alpha.signal(Signal::TERM);
    alpha.wait(SOON);
    let mut alpha = alpha_port.cell(&url, "alpha");
    wait_for("our alpha has registered", SOON, || {
        assert_eq!(facts(&discovery), all);
        count(&alpha, "Registered alpha with") == 1
    });
    wait_for_beats(&discovery, &IDS);
    assert_eq!(facts(&discovery), all);

    // And the way back, should somebody want to take it.
    discovery.signal(Signal::TERM);
    discovery.wait(SOON);
    let mut discovery = python.discovery(&port.number, &[LONG_LEASE]);
    wait_for("the Python discovery knows both", INTERVAL + MARGIN, || {
        sorted_ids(&discovery) == IDS
    });
    assert_eq!(facts(&discovery), all);
    leaves_on(Signal::TERM, &mut pure, "pure", &mut discovery);
    leaves_on(Signal::TERM, &mut alpha, "alpha", &mut discovery);
}

#[test]
fn a_python_cell_that_leaves_after_its_successor_came_costs_it_no_more_than_an_interval() {
    let Some(python) = Python::found() else {
        return;
    };
    let mut discovery = discovery(&["--stale-after", "60s"]);
    let mut old = python.cell("pure.py", &discovery.url(), &[]);
    wait_for("the old one is listed", SOON, || {
        ids(&discovery) == ["pure"]
    });
    let mut new = our_cell(&discovery.url(), &["pure"]);
    new.wait_for_line("Registered pure with", SOON);
    let ours = preset_facts("pure", "pure", &new.address);
    assert_eq!(facts(&discovery)["pure"], ours);
    // Both beat; the list stays with the one that registered last.
    holds_for("the new one is listed", 3 * INTERVAL, || {
        facts(&discovery)["pure"] == ours
    });

    // Its DELETE names no run, so it takes out whoever has the name.
    old.signal(Signal::TERM);
    old.wait(SOON);
    discovery.wait_for_line("Peer deregistered gracefully: pure", SOON);
    wait_for("the new one is back", INTERVAL + MARGIN, || {
        facts(&discovery).get("pure") == Some(&ours)
    });
}
