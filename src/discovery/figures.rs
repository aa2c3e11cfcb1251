//! What `/metrics` tells: how discovery stands, and series for each peer, for as many as a Prometheus
//! may well keep.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use prometheus::{GaugeVec, IntCounterVec, IntGauge, Opts};

use super::Discovery;
use super::metrics::Standing;
use crate::exposition;
use crate::http::{Connections, Reply};
use crate::registry::Portrait;
use crate::wire::CellId;

/// For how many peers there are series: those whose departures are remembered, for it is them that flap,
/// and the first of the list.
const MOST: usize = 1000;
/// For how long a peer that was reaped and is not back is missing.
const MISSING_FOR: Duration = Duration::from_secs(3600);
/// How many peers are looked at under one hold of the lock.
const PORTRAITS_AT_ONCE: usize = 64;

impl Discovery {
    /// `GET /metrics`.
    pub(super) fn answer_metrics(&self) -> Reply {
        let standing = self.standing();
        let uptime = self.started.elapsed();
        let level = self.settings.level;
        let mut text = self.metrics.render(level, uptime, &standing);
        let (peers, missing) = self.portraits();
        let without = standing.peers.saturating_sub(peers.len());
        match render(&self.settings.id, &peers, without, &missing) {
            Ok(series) => text.extend(series),
            Err(e) => log::error!("cannot render the series of peers: {e}"),
        }
        exposition::reply(text)
    }

    /// How discovery stands.
    fn standing(&self) -> Standing {
        let connections = self.connections.get().map_or(0, Connections::count);
        self.with_map(|map, now| Standing {
            peers: map.registry.len(),
            late: map.registry.late(),
            revision: map.registry.revision(),
            settling: self.settles_at(now.lease).is_some(),
            connections,
            waiting: self.waiters.count(),
        })
    }

    /// The peers that have series, and who is missing.
    fn portraits(&self) -> (Vec<Portrait>, Vec<CellId>) {
        let mut portraits: Vec<Portrait> = Vec::new();
        let departed = self.with_map_in_turn(|map, _| map.registry.departed());
        for ids in departed.chunks(PORTRAITS_AT_ONCE) {
            portraits.extend(self.with_map_in_turn(|map, now| {
                let here = ids.iter().map(|id| map.registry.portrait(id.as_str(), now));
                here.flatten().collect::<Vec<_>>()
            }));
        }
        let has_come_back: HashSet<CellId> = portraits
            .iter()
            .map(|portrait| portrait.facts.cell_id.clone())
            .collect();
        let mut place = 0;
        while portraits.len() < MOST {
            let (some, next) = self.with_map_in_turn(|map, now| {
                map.registry.portraits_from(place, PORTRAITS_AT_ONCE, now)
            });
            if some.is_empty() {
                break;
            }
            portraits.extend(
                some.into_iter()
                    .filter(|portrait| !has_come_back.contains(&portrait.facts.cell_id)),
            );
            place = next;
        }
        portraits.truncate(MOST);
        let missing = self.with_map_in_turn(|map, now| {
            let since = now.wall.checked_sub(MISSING_FOR);
            map.registry
                .missing(since.unwrap_or(SystemTime::UNIX_EPOCH))
        });
        (portraits, missing)
    }
}

/// The series of these peers, of `without` more that get none, and of those who are `missing`, as
/// Prometheus reads them from a discovery of this id.
///
/// # Errors
/// None with these names.
fn render(
    id: &str,
    peers: &[Portrait],
    without: usize,
    missing: &[CellId],
) -> prometheus::Result<Vec<u8>> {
    let registry = exposition::registry(id)?;
    let gauges = |name: &str, help: &str| {
        exposition::register(&registry, GaugeVec::new(Opts::new(name, help), &["peer"]))
    };
    let ages = gauges(
        "aios_discovery_peer_beat_age_seconds",
        "How long ago a peer was heard of, by the clock leases run on.",
    )?;
    let levels = gauges(
        "aios_discovery_peer_level",
        "The consciousness level of a peer at its last beat.",
    )?;
    let flaps = exposition::register(
        &registry,
        IntCounterVec::new(
            Opts::new(
                "aios_discovery_peer_flaps_total",
                "How often a peer left and came back, as far as that is remembered.",
            ),
            &["peer"],
        ),
    )?;
    for peer in peers {
        let labels = &[peer.facts.cell_id.as_str()];
        ages.with_label_values(labels).set(peer.age.as_secs_f64());
        levels.with_label_values(labels).set(peer.level);
        let times = u64::from(peer.quality.tally.flaps);
        flaps.with_label_values(labels).inc_by(times);
    }
    let absent = gauges(
        "aios_discovery_peer_missing",
        "1 for a peer that was reaped within the last hour and is not back.",
    )?;
    for id in missing {
        absent.with_label_values(&[id.as_str()]).set(1.0);
    }
    exposition::register(
        &registry,
        IntGauge::new(
            "aios_discovery_peers_without_series",
            "Peers beyond 1000, which have no series of their own.",
        ),
    )?
    .set(i64::try_from(without).unwrap_or(i64::MAX));
    Ok(exposition::render(&registry))
}
