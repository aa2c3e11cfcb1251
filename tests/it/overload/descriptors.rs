//! More connections than there are descriptors for.

use super::*;

#[test]
fn a_thousand_held_connections_within_256_descriptors_cost_no_member_its_place() {
    if !may_hold(1000) {
        return skip("a_thousand_held_connections", "1,500 descriptors");
    }
    let idle = format!("{}s", idle().as_secs());
    let discovery = Child::listening(discovery_within(256, &["--idle-timeout", &idle]));
    let trial = Trial::start("1,000 connections held within 256 descriptors", discovery);
    trial.run(|discovery| {
        let begun = head("POST", "/register", "{}", "close");
        let served = head("GET", "/health", "", "keep-alive");
        let mut held = Vec::new();
        for count in 0..1000 {
            let mut connection = discovery.connect();
            match count % 3 {
                0 => {}
                1 => connection.send(begun.as_bytes()),
                _ => connection.send(served.as_bytes()),
            }
            held.push(connection);
        }
        assert!(discovery.descriptors() <= 256);
        pause(lasts(2, 20));
        drop(held);
    });
}
