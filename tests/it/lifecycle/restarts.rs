//! Discovery goes and comes, or comes late.

use super::*;

#[test]
fn cells_are_back_soon_after_discovery_was_killed_and_started_again() {
    let first = discovery(&[]);
    let address = first.address.clone();
    let _pure = cell(&first.url(), &["pure"]);
    let _alpha = cell(&first.url(), &["alpha"]);
    wait_for("both are listed", SOON, || ids(&first).len() == 2);
    drop(first);
    let second = discovery_at(&address);
    let took = wait_for("both are back", 2 * SOON, || ids(&second).len() == 2);
    report(&format!(
        "discovery restarted without state: both cells back after {took:?}"
    ));
    assert!(took < 6 * SECOND, "{took:?}");
}

#[test]
fn cells_that_were_there_first_find_a_discovery_that_comes_later() {
    let address = free_address();
    let url = format!("http://{address}");
    let mut cells: Vec<Child> = (0..5)
        .map(|n| cell(&url, &["--id", &format!("cell-{n}")]))
        .collect();
    // They answer before they are registered.
    assert_eq!(cells[0].get("/consciousness").json()["registered"], false);
    let mut here = cells.iter().map(|cell| cell.get("/health").status);
    assert!(here.all(|status| status == 200));
    holds_for("they wait", 30 * SECOND, || {
        cells.iter_mut().all(Child::runs)
    });
    let discovery = discovery_at(&address);
    // Attempts come 1, 2, 4, 8 and 16 s after each other, or up to a quarter later.
    let took = wait_for("all are listed", 20 * SECOND, || ids(&discovery).len() == 5);
    report(&format!(
        "discovery started 30 s after its cells: all registered after {took:?}"
    ));
    assert!(took < 17 * SECOND, "{took:?}");
}

#[test]
fn two_hundred_cells_come_back_from_a_restart_and_do_not_beat_in_step() {
    const CELLS: usize = 200;
    let first = discovery(&[]);
    let address = first.address.clone();
    let url = DiscoveryUrl::parse(&first.url()).expect("a URL");
    let cells: Vec<cell::Running> = (0..CELLS)
        .map(|n| {
            let mut settings =
                cell::Settings::local(Preset::Pure, &url, "127.0.0.1", 0).expect("valid");
            settings.id = CellId::new(&format!("cell-{n}")).expect("valid");
            let listener = Listener::bind("127.0.0.1", 0).expect("a free port");
            cell::start(settings, listener).expect("started")
        })
        .collect();
    wait_for("all are listed", SOON, || ids(&first).len() == CELLS);
    drop(first);
    let second = discovery_at(&address);
    let took = wait_for("all are back", 3 * SOON, || ids(&second).len() == CELLS);
    assert!(took < 6 * SECOND, "{took:?}");

    // Each is last seen at its own moment of the five seconds.
    let seen = last_seen_at(&second.address);
    let earliest = seen.values().min().expect("many");
    let mut tenths = [0; 10];
    for at in seen.values() {
        let offset = at
            .duration_since(*earliest)
            .expect("not before the earliest");
        tenths[(offset.as_millis() / 500 % 10) as usize] += 1;
    }
    report(&format!(
        "200 cells through a restart: all back after {took:?}; beats by half second {tenths:?}"
    ));
    let crowded = tenths.iter().max().expect("ten");
    assert!(*crowded < CELLS / 2, "{tenths:?}");
    std::thread::scope(|scope| {
        for cell in cells {
            scope.spawn(|| cell.stop());
        }
    });
    assert!(ids(&second).is_empty());
}
