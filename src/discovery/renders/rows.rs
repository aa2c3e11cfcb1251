//! The list as JSON: rows, and what stands before and behind them.
//!
//! Pure. The form is that of [`wire::Peers`] and [`wire::Listed`]; rows are written by hand, for that
//! is what a rendering takes its time for.

use std::time::SystemTime;

use serde::Serialize;

use crate::registry::Facts;
use crate::wire;

/// What stands before the rows.
pub(super) const HEAD: &[u8] = br#"{"peers":["#;
/// What stands between two of them.
pub(super) const COMMA: &[u8] = b",";

/// Appends rows with commas between them: what is known of a peer, its level and when it was seen.
pub(super) fn write<'a>(
    out: &mut Vec<u8>,
    rows: impl Iterator<Item = (&'a Facts, f64, SystemTime)>,
) -> serde_json::Result<()> {
    let mut stamps = Stamps::default();
    for (number, (facts, level, last_seen)) in rows.enumerate() {
        if number > 0 {
            out.extend_from_slice(COMMA);
        }
        out.extend_from_slice(br#"{"cell_id":"#);
        text(out, facts.cell_id.as_str())?;
        out.extend_from_slice(br#","ip":"#);
        text(out, &facts.ip)?;
        out.extend_from_slice(br#","port":"#);
        value(out, &facts.port)?;
        out.extend_from_slice(br#","consciousness_level":"#);
        value(out, &level)?;
        out.extend_from_slice(br#","services":["#);
        for (number, service) in facts.services.iter().enumerate() {
            if number > 0 {
                out.extend_from_slice(COMMA);
            }
            text(out, service)?;
        }
        out.extend_from_slice(br#"],"branch":"#);
        text(out, &facts.branch)?;
        out.extend_from_slice(br#","type":"#);
        text(out, &facts.kind)?;
        out.extend_from_slice(br#","hostname":"#);
        text(out, &facts.hostname)?;
        out.extend_from_slice(br#","last_seen":""#);
        stamps.write(out, last_seen);
        out.extend_from_slice(br#""}"#);
    }
    Ok(())
}

/// Appends what stands behind the rows: `list` is all of it, but for them.
pub(super) fn write_tail(
    out: &mut Vec<u8>,
    list: &wire::Peers<'_, [wire::Listed<'_>; 0]>,
) -> serde_json::Result<()> {
    let whole = serde_json::to_vec(list)?;
    out.extend_from_slice(whole.get(HEAD.len()..).unwrap_or_default());
    Ok(())
}

fn value(out: &mut Vec<u8>, value: &impl Serialize) -> serde_json::Result<()> {
    serde_json::to_writer(out, value)
}

/// Nearly every text is one that stands in JSON as it is.
fn text(out: &mut Vec<u8>, text: &str) -> serde_json::Result<()> {
    let is_plain = |byte| byte >= b' ' && byte != b'"' && byte != b'\\';
    if !text.bytes().all(is_plain) {
        return value(out, &text);
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Ok(())
}

/// Writes points in time as [`wire::timestamp`] does, most of which are of the same second as the one
/// before.
#[derive(Default)]
struct Stamps {
    second: u64,
    /// As far as that.
    text: String,
}

impl Stamps {
    fn write(&mut self, out: &mut Vec<u8>, at: SystemTime) {
        const FRACTION: usize = "755329Z".len();

        let Ok(since) = at.duration_since(SystemTime::UNIX_EPOCH) else {
            out.extend_from_slice(wire::timestamp(at).as_bytes());
            return;
        };
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            self.text = wire::timestamp(at);
            self.text.truncate(self.text.len() - FRACTION);
        }
        out.extend_from_slice(self.text.as_bytes());
        let mut micros = since.subsec_micros();
        let mut digits = *b"000000Z";
        for digit in digits[..FRACTION - 1].iter_mut().rev() {
            *digit += (micros % 10) as u8;
            micros /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wire::CellId;

    struct Row {
        facts: Facts,
        level: f64,
        last_seen: SystemTime,
    }

    fn peers() -> Vec<Row> {
        let odd = ["", "a", "ü ✓", "\"", "a\\b", "</script>", "\u{1f642}"];
        let levels = [0.0, -0.0, 5.2, 0.1 + 0.2, 1e300, f64::MIN_POSITIVE, -7.0];
        let times = [
            0,
            1,
            999_999,
            1_000_000,
            1_767_356_505_755_329,
            253_402_300_799_999_999,
        ];
        (0..70)
            .map(|number: usize| Row {
                facts: Facts {
                    cell_id: CellId::new(&format!("cell {} {number}", odd[number % 7]))
                        .expect("an id"),
                    ip: "10.0.0.1".into(),
                    port: 9 * number as u16,
                    services: (0..number % 3)
                        .map(|n| odd[n + number % 4].into())
                        .collect(),
                    branch: odd[number % 7].into(),
                    kind: odd[number % 5].into(),
                    hostname: odd[number % 3].into(),
                },
                level: levels[number % 7],
                last_seen: SystemTime::UNIX_EPOCH + Duration::from_micros(times[number % 6]),
            })
            .chain([Row {
                facts: Facts {
                    cell_id: CellId::new("before").expect("an id"),
                    ip: "::1".into(),
                    port: u16::MAX,
                    services: Default::default(),
                    branch: "".into(),
                    kind: "".into(),
                    hostname: "".into(),
                },
                level: 1.0,
                last_seen: SystemTime::UNIX_EPOCH - Duration::from_micros(1_500_001),
            }])
            .collect()
    }

    fn listed(peer: &Row) -> wire::Listed<'_> {
        wire::Listed {
            cell_id: &peer.facts.cell_id,
            ip: &peer.facts.ip,
            port: peer.facts.port,
            consciousness_level: peer.level,
            services: &peer.facts.services,
            branch: &peer.facts.branch,
            kind: &peer.facts.kind,
            hostname: &peer.facts.hostname,
            last_seen: wire::timestamp(peer.last_seen),
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_wire() {
        let all = peers();
        for peers in [&all[..], &all[..1], &[]] {
            for settling in [false, true] {
                fn list<L: Serialize>(peers: L, settling: bool) -> wire::Peers<'static, L> {
                    wire::Peers {
                        peers,
                        count: 7,
                        my_host: "the \"host\"",
                        revision: u64::MAX,
                        epoch: "00ff",
                        now: "now".to_owned(),
                        settling,
                    }
                }
                let mut written = HEAD.to_vec();
                let rows = peers
                    .iter()
                    .map(|row| (&row.facts, row.level, row.last_seen));
                write(&mut written, rows).expect("written");
                write_tail(&mut written, &list([], settling)).expect("written");
                let rows: Vec<_> = peers.iter().map(listed).collect();
                let expected = serde_json::to_string(&list(rows, settling)).expect("JSON");
                assert_eq!(String::from_utf8(written).expect("UTF-8"), expected);
            }
        }
    }
}
