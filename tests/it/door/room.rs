//! More connections than there is room for.

use super::*;

/// Waits until every connection waits for its client, and long enough to tell who does longer.
fn all_wait(discovery: &Child) {
    let began = Instant::now();
    wait_for("every connection waits", SOON, || {
        let states = connection_thread_states(discovery);
        states.iter().all(|state| state == "S") && began.elapsed() > Duration::from_millis(10)
    });
}

#[test]
fn at_the_cap_the_longest_idle_connection_makes_room() {
    let discovery = discovery(&["--max-connections", "4"]);
    let mut held: Vec<Connection> = Vec::new();
    for _ in 0..4 {
        let mut connection = discovery.connect();
        assert!(serves(&mut connection));
        held.push(connection);
        all_wait(&discovery);
    }
    // The first has been open longest, but the second has been idle longest.
    assert!(serves(&mut held[0]));
    all_wait(&discovery);
    let mut newcomer = discovery.connect();
    assert!(serves(&mut newcomer), "the newcomer is served");
    assert!(held[1].ends_silently(), "the longest idle is closed");
    for kept in [0, 2, 3] {
        assert!(serves(&mut held[kept]), "connection {kept} is kept");
    }
    assert!(serves(&mut newcomer), "the newcomer is kept");
}

#[test]
fn at_the_cap_an_unfinished_request_makes_room_when_nobody_is_idle() {
    let discovery = discovery(&["--max-connections", "3"]);
    let mut held: Vec<Connection> = Vec::new();
    for _ in 0..3 {
        let mut connection = discovery.connect();
        // The invitation to go on says that the request is being read.
        start_to_register(&mut connection);
        held.push(connection);
        all_wait(&discovery);
    }
    let mut newcomer = discovery.connect();
    assert!(serves(&mut newcomer), "the newcomer is served");
    assert!(held[0].ends_silently(), "the longest under way is closed");
    for kept in &mut held[1..] {
        kept.send(WITNESS.as_bytes());
        assert_eq!(kept.answer().expect("an answer").status, 200);
    }
}

#[test]
fn at_the_cap_slow_readers_make_room_and_the_slowest_goes_first() {
    let door = Door::with(&["--max-connections", "4"]);
    register_a_crowd(&door.discovery);
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..4 {
        held.push(read_slowly(&door.discovery));
        all_wait(&door.discovery);
    }
    let full = door.discovery.descriptors();
    door.is_well("as many slow readers as there is room for");
    wait_for("it has left in place of a reader", SOON, || {
        door.discovery.descriptors() < full
    });
    let mut newcomer = door.discovery.connect();
    newcomer.send(posted("", WITNESS).as_bytes());
    assert_eq!(newcomer.answer().expect("an answer").status, 200);
    let lists = held.iter_mut().map(|reader| {
        let mut list = Vec::new();
        // A reset is an end, too.
        let _ = reader.read_to_end(&mut list);
        list.len() > CROWD * 64 * 255
    });
    // The newcomer has the place of the first, which `/health` had before it.
    assert_eq!(lists.collect::<Vec<_>>(), [false, true, true, true]);
    drop((held, newcomer));
    door.is_as_before("more slow readers than there is room for");
}

#[test]
fn at_the_cap_everybody_who_asks_gets_an_answer_and_nothing_is_done_without_one() {
    const CLIENTS: usize = 300;
    let discovery = discovery(&["--max-connections", "4"]);
    let answered: Vec<(usize, u16)> = std::thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|id| {
            let discovery = &discovery;
            scope.spawn(move || {
                let body = json!({"cell_id": id.to_string(), "ip": "h", "port": 1});
                (id, discovery.post("/register", &body.to_string()).status)
            })
        });
        let clients: Vec<_> = clients.collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("an answer"))
            .collect()
    });
    let mut taken: Vec<String> = answered
        .iter()
        .filter(|(_, status)| *status == 200)
        .map(|(id, _)| id.to_string())
        .collect();
    // On a machine with much else to do some may be turned away, and told so.
    assert!(answered.iter().all(|(_, it)| matches!(it, 200 | 503)));
    assert!(taken.len() > CLIENTS / 2, "{} were served", taken.len());
    let mut listed = ids(&discovery);
    taken.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, taken);
}

#[test]
fn at_the_cap_nobody_keeps_a_newcomer_out_by_being_busy_all_the_time() {
    let door = Door::with(&["--max-connections", "4"]);
    let done = Latch::new();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (discovery, done) = (&door.discovery, &done);
            scope.spawn(move || {
                let mut connection = discovery.connect();
                while !done.wait_for(Duration::from_millis(20)) {
                    // Half of them ask, half of them only send line ends; whoever had to make
                    // room comes again.
                    let sent: &[u8] = if client % 2 == 0 { GET_HEALTH } else { b"\r\n" };
                    let _ = connection.stream.write_all(sent);
                    if client % 2 == 0 && connection.answer().is_none() {
                        connection = discovery.connect();
                    }
                }
            });
        }
        for _ in 0..30 {
            door.is_well("clients that are busy all the time");
        }
        done.set();
    });
    door.is_as_before("clients that were busy all the time");
}

#[test]
fn line_ends_are_no_sign_of_life() {
    let discovery = discovery(&["--max-connections", "2"]);
    let mut dripping = discovery.connect();
    let mut idle = discovery.connect();
    all_wait(&discovery);
    assert!(serves(&mut idle));
    // Idle for longer than anybody is spared, while the other keeps sending.
    for _ in 0..10 {
        dripping.send(b"\r\n");
        pause(Duration::from_millis(20));
    }
    assert!(serves(&mut discovery.connect()), "the newcomer is served");
    assert!(dripping.ends_silently(), "who has asked nothing goes first");
    assert!(serves(&mut idle), "who has asked is kept");
}

#[test]
fn a_thousand_held_connections_within_256_descriptors_leave_room_for_health() {
    if !may_hold(1000) {
        return skip("a_thousand_held_connections", "1,500 descriptors");
    }
    let door = Door::of(Child::listening(discovery_within(256, &USUAL)));
    let mut held: Vec<Connection> = Vec::new();
    for count in 0..1000 {
        let mut connection = door.discovery.connect();
        match count % 3 {
            0 => {}
            1 => connection.send(b"GET /hea"),
            _ => connection.send(GET_HEALTH),
        }
        held.push(connection);
        if count % 100 == 99 {
            door.is_well(&format!("{} held connections", count + 1));
        }
    }
    let descriptors = door.discovery.descriptors();
    assert!(descriptors <= 256, "{descriptors} descriptors");
    for _ in 0..10 {
        door.is_well("1,000 held connections");
    }
    report(&format!(
        "door, 1,000 connections within 256: {descriptors} descriptors"
    ));
    drop(held);
    door.is_unchanged("1,000 held connections");
    door.is_as_before("1,000 held connections");
}

#[test]
fn a_cap_beyond_the_descriptors_is_refused_at_start() {
    let output = discovery_within(256, &["--max-connections", "1000"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    let line = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        line.contains("--max-connections 1000: the limit of 256 file descriptors"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
}

/// Sets a limit of the running discovery, for good.
fn limit(discovery: &Child, resource: Resource, to: u64) {
    let pid = Pid::from_raw(i32::try_from(discovery.pid()).expect("a pid"));
    let to = Rlimit {
        current: Some(to),
        maximum: Some(to),
    };
    prlimit(pid, resource, to).expect("set");
}

#[test]
fn a_lack_of_descriptors_costs_the_longest_idle_connections_and_not_the_listener() {
    let door = Door::of(discovery(&[]));
    let mut held: Vec<Connection> = Vec::new();
    for _ in 0..100 {
        let mut connection = door.discovery.connect();
        assert!(serves(&mut connection));
        held.push(connection);
        all_wait(&door.discovery);
    }
    // Ten below what it has: its own bounds do not know of this.
    let so_many = u64::try_from(door.discovery.descriptors() - 10).expect("few");
    limit(&door.discovery, Resource::Nofile, so_many);
    for _ in 0..ROUNDS {
        let mut newcomer = door.discovery.connect();
        assert!(serves(&mut newcomer), "the newcomer is served");
        drop(newcomer);
        door.is_well("a lack of descriptors");
    }
    assert!(held[0].ends_silently(), "the longest idle is closed");
    assert!(serves(&mut held[99]), "the last is kept");
    let log = door.discovery.log().concat();
    assert!(log.contains("cannot accept connections"), "{log}");
}

#[test]
fn a_lack_of_threads_costs_the_longest_idle_connection_and_not_the_newcomer() {
    let discovery = discovery(&[]);
    let mut held: Vec<Connection> = Vec::new();
    for _ in 0..50 {
        let mut connection = discovery.connect();
        assert!(serves(&mut connection));
        held.push(connection);
        all_wait(&discovery);
    }
    // No room for the stack of a further thread.
    limit(&discovery, Resource::As, discovery.virtual_kib() * 1024);
    for _ in 0..ROUNDS {
        let mut newcomer = discovery.connect();
        assert!(serves(&mut newcomer), "the newcomer is served");
    }
    assert!(held[0].ends_silently(), "the longest idle is closed");
    assert!(serves(&mut held[49]), "the last is kept");
}
