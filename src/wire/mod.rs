//! What goes over the wire, both ways, and what is refused of it.
//!
//! Pure: bytes in, validated values out, and back. No socket, no clock, no lock.
//!
//! The protocol is that of the services which run today; what is added to it (`instance`,
//! `stale_after_ms`, `epoch`, `revision`, …) is optional for clients that do not know it.

mod fields;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod past;
mod reply;
mod request;
mod text;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use smol_str::SmolStr;
use time::OffsetDateTime;

pub use past::{Departure, Portrait, Rhythm, text};
pub use reply::{
    Beat, Deregistered, Detail, Health, Listed, Peer, Peers, PeersRead, Registered, RegisteredRead,
    Unregistered,
};
pub use request::{Heartbeat, LevelSync, Registration};
pub use text::{cut, duration, host_port, one_line};

/// How often a cell beats unless told otherwise.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// A peer whose last beat is older than this is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(15);
/// How many heartbeats a peer may miss: the interval is the stale threshold divided by this.
pub const BEATS_PER_LEASE: u32 = 3;
/// The heartbeat intervals that make sense: the longest fits the longest lease three times.
pub const HEARTBEAT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(1200);
/// The leases a peer may ask for itself.
pub const OWN_LEASE_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;
/// The longest text taken for a field, in bytes.
pub const MAX_TEXT: usize = 255;
/// The longest host name, in bytes (RFC 1035, 2.3.4).
pub const MAX_HOST: usize = 253;
/// The most services one peer may name.
pub const MAX_SERVICES: usize = 64;

/// The detail of the 404 to a DELETE of a peer that is not there.
pub const PEER_NOT_FOUND: &str = "Peer not found";

/// Why a body was refused: a sentence that names the field and says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The unique name of a cell: 1 to 255 bytes, no control characters. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct CellId(SmolStr);

impl CellId {
    /// Checks an id.
    ///
    /// # Errors
    /// When it is empty, too long or contains a control character.
    pub fn new(id: &str) -> Result<Self, Invalid> {
        if id.is_empty() {
            return Err(Invalid("cell_id: must not be empty".to_owned()));
        }
        check_text(id).map_err(|why| Invalid(format!("cell_id: {why}")))?;
        Ok(Self(id.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for CellId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Which run of a cell a request comes from: an opaque string, new at every start of the cell.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Instance(Arc<str>);

impl Instance {
    /// Checks an instance: at most 255 bytes, no control characters.
    ///
    /// # Errors
    /// A sentence that names `instance`.
    pub fn new(instance: &str) -> Result<Self, Invalid> {
        check_text(instance).map_err(|why| Invalid(format!("instance: {why}")))?;
        Ok(Self(instance.into()))
    }

    /// The instance as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `c` could forge a line or steer a terminal: the control characters (Unicode category
/// Cc) and the two separators that some readers take for line ends.
#[must_use]
pub fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Checks a text field.
///
/// # Errors
/// What is wrong with it, without the field's name.
pub fn check_text(text: &str) -> Result<(), String> {
    if text.len() > MAX_TEXT {
        return Err(format!(
            "{} bytes long, at most {MAX_TEXT} are allowed",
            text.len()
        ));
    }
    // Nearly every text is like this, and looked at in a moment.
    if text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Ok(());
    }
    match text.chars().find(|c| is_control(*c)) {
        Some(c) => Err(format!(
            "the control character U+{:04X} is not allowed",
            u32::from(c)
        )),
        None => Ok(()),
    }
}

/// Checks an address or host name.
///
/// # Errors
/// What is wrong with it, without the field's name.
pub fn check_host(host: &str) -> Result<(), String> {
    let is_name = |host: &str| {
        (1..=MAX_HOST).contains(&host.len())
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if host.parse::<IpAddr>().is_ok() || is_name(host) {
        return Ok(());
    }
    Err(format!(
        "{} is neither an IPv4 or IPv6 address nor a host name of at most {MAX_HOST} letters, digits, '.', '_' and '-'",
        fields::shortened(&format!("{host:?}"))
    ))
}

/// A point in time as the mesh writes it: UTC, six digits, `Z`; 27 characters.
#[must_use]
pub fn timestamp(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    )
}

/// Reads a point in time as any RFC 3339 writer puts it.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .ok()
        .map(SystemTime::from)
}

/// `duration` in whole milliseconds, as the wire carries it.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_has_six_digits_even_when_they_are_zeros() {
        let at = SystemTime::UNIX_EPOCH + Duration::new(1_767_356_505, 755_329_999);
        assert_eq!(timestamp(at), "2026-01-02T12:21:45.755329Z");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_356_505);
        assert_eq!(timestamp(at), "2026-01-02T12:21:45.000000Z");
        assert_eq!(parse_timestamp("2026-01-02T12:21:45.000000Z"), Some(at));
        assert_eq!(parse_timestamp("2026-01-02T12:21:45+00:00"), Some(at));
        assert_eq!(parse_timestamp("yesterday"), None);
    }

    #[test]
    fn a_host_is_an_address_or_a_name() {
        for good in [
            "10.0.0.1",
            "::1",
            "aios-cell-pure",
            "a_b.example",
            "2001:db8::1",
        ] {
            assert_eq!(check_host(good), Ok(()), "{good}");
        }
        let long = "a".repeat(254);
        for bad in [
            "", "a b", "[::1]", "http://x", "zürich", "::1%eth0", "a/b", "a\n", &long,
        ] {
            assert!(check_host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn line_separators_count_as_control_characters() {
        assert!(check_text("a\u{2028}b").is_err());
        assert!(check_text("a\u{0085}b").is_err());
        assert!(check_text("größer ✓").is_ok());
        assert!(check_text(&"ü".repeat(128)).is_err());
    }
}
