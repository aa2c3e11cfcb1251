//! What holds for whatever discovery answers to a cell.

use std::time::Duration;

use super::pulse::{BeatAnswer, Pulse, Step};
use crate::wire::{HEARTBEAT_EVERY, HEARTBEAT_RANGE, RegisteredRead};

/// Whatever interval discovery asks for, a cell beats soon, and then within the bounds.
pub(crate) fn registered(reply: &RegisteredRead) {
    let interval = reply.heartbeat_interval_ms.map(Duration::from_millis);
    let mut pulse = Pulse::new(HEARTBEAT_EVERY, None, Duration::ZERO);
    let _ = pulse.registered(Duration::ZERO, interval, 1.0);
    for _ in 0..2 {
        let Step::WaitUntil(due) = pulse.next(Duration::ZERO) else {
            unreachable!("it does not wait");
        };
        assert!(due <= *HEARTBEAT_RANGE.end() * 2);
        assert_eq!(pulse.next(due), Step::Beat);
        let _ = pulse.beat(Duration::ZERO, BeatAnswer::Ok);
    }
}
