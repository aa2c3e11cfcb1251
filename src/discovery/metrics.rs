//! What discovery counts, and how Prometheus reads it.

use std::time::Duration;

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry,
};

use crate::exposition::{self, Gauges};
use crate::registry::Reason;

/// Discovery's counters.
pub(super) struct Metrics {
    registry: Registry,
    gauges: Gauges,
    peers: IntGauge,
    late: IntGauge,
    revision: IntGauge,
    settling: IntGauge,
    connections: IntGauge,
    waiting: IntGauge,
    pub(super) registrations: IntCounter,
    /// Mass departures that were held.
    pub(super) holds: IntCounter,
    held: IntGauge,
    /// Lists that were rendered.
    pub(super) renderings: IntCounter,
    door_unanswered: IntGauge,
    /// Renewals of the accept loop.
    pub(super) door_renewals: IntCounter,
    state_behind: IntGauge,
    state_flaws: IntCounterVec,
    heartbeats: IntCounterVec,
    departures: IntCounterVec,
    requests: IntCounterVec,
    durations: HistogramVec,
    beats: Beats,
}

/// The series that nearly every request counts in. To look them up takes longer than to count.
struct Beats {
    taken: IntCounter,
    answered: IntCounter,
    duration: Histogram,
}

/// How a heartbeat was answered.
#[derive(Clone, Copy)]
pub(super) enum BeatResult {
    Ok,
    Unknown,
    Fenced,
}

impl Metrics {
    /// For a discovery of this id, which has a state file or not.
    pub(super) fn new(id: &str, has_state_file: bool) -> prometheus::Result<Self> {
        let registry = exposition::registry(id)?;
        let gauge = |name, help| exposition::register(&registry, IntGauge::new(name, help));
        let counter = |name, help| exposition::register(&registry, IntCounter::new(name, help));
        let counters = |name, help, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels);
            exposition::register(&registry, counters)
        };
        let heartbeats = counters(
            "aios_discovery_heartbeats_total",
            "Heartbeats by result: ok, unknown (404) or fenced (409).",
            &["result"],
        )?;
        let requests = counters(
            "aios_discovery_requests_total",
            "Requests answered by route and status; what was refused before it was a request has the route refused.",
            &["route", "status"],
        )?;
        let durations = exposition::register(
            &registry,
            HistogramVec::new(
                HistogramOpts::new(
                    "aios_discovery_request_duration_seconds",
                    "Time from a whole request to its rendered reply, by route.",
                )
                .buckets(vec![
                    0.000_025, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0,
                ]),
                &["route"],
            ),
        )?;
        let metrics = Self {
            beats: Beats {
                taken: heartbeats.with_label_values(&[BeatResult::Ok.label()]),
                answered: requests.with_label_values(&[Beats::ROUTE, "200"]),
                duration: durations.with_label_values(&[Beats::ROUTE]),
            },
            heartbeats,
            requests,
            durations,
            gauges: Gauges::new(&registry)?,
            peers: gauge("aios_cell_peers_count", "Peers registered.")?,
            late: gauge(
                "aios_discovery_peers_late",
                "Peers of whom a beat is missing, as the last pass of the reaper counted them.",
            )?,
            revision: gauge("aios_discovery_revision", "The revision of the membership.")?,
            settling: gauge(
                "aios_discovery_settling",
                "1 while cells may be missing, because discovery was started a short while ago.",
            )?,
            connections: gauge("aios_discovery_connections", "Connections that are open.")?,
            waiting: gauge(
                "aios_discovery_waiting",
                "Clients that wait for changes: long polls and streams of events.",
            )?,
            registrations: counter("aios_discovery_registrations_total", "Registrations taken.")?,
            holds: counter(
                "aios_discovery_holds_total",
                "Mass departures that were held for a heartbeat interval.",
            )?,
            held: gauge("aios_discovery_hold", "1 while a mass departure is held.")?,
            renderings: counter(
                "aios_discovery_renderings_total",
                "Lists rendered, each for all who read at about the same time.",
            )?,
            door_unanswered: gauge(
                "aios_discovery_door_unanswered",
                "1 while discovery is not answered when it asks itself.",
            )?,
            door_renewals: counter(
                "aios_discovery_door_renewals_total",
                "Accept loops replaced because they did not answer.",
            )?,
            state_behind: gauge(
                "aios_discovery_state_behind",
                "1 while the state file cannot be written.",
            )?,
            state_flaws: counters(
                "aios_discovery_state_flaws_total",
                "State files set aside at the start by flaw: torn, behind, corrupt, foreign or unreadable.",
                &["flaw"],
            )?,
            departures: counters(
                "aios_discovery_departures_total",
                "Peers gone by reason: deregistered, reaped or replaced.",
                &["reason"],
            )?,
            registry,
        };
        // Series exist from the start, so that a rate over their first rise is seen.
        for result in [BeatResult::Ok, BeatResult::Unknown, BeatResult::Fenced] {
            metrics.heartbeats.with_label_values(&[result.label()]);
        }
        for reason in Reason::ALL {
            metrics.departures.with_label_values(&[reason.name()]);
        }
        let store = GaugeVec::new(
            Opts::new(
                "aios_discovery_store",
                "1 for where the list is kept: memory alone, or a file, too.",
            ),
            &["kind"],
        );
        let kind = if has_state_file { "file" } else { "memory" };
        exposition::register(&metrics.registry, store)?
            .with_label_values(&[kind])
            .set(1.0);
        for flaw in super::state::flaws() {
            metrics.state_flaws.with_label_values(&[flaw]);
        }
        Ok(metrics)
    }

    pub(super) fn heartbeat(&self, result: BeatResult) {
        match result {
            BeatResult::Ok => self.beats.taken.inc(),
            result => self.heartbeats.with_label_values(&[result.label()]).inc(),
        }
    }

    /// How many were answered with 200.
    pub(super) fn beats(&self) -> u64 {
        self.beats.taken.get()
    }

    pub(super) fn departure(&self, reason: Reason) {
        self.departures.with_label_values(&[reason.name()]).inc();
    }

    pub(super) fn set_hold(&self, is_held: bool) {
        self.held.set(i64::from(is_held));
    }

    pub(super) fn set_door_unanswered(&self, is_unanswered: bool) {
        self.door_unanswered.set(i64::from(is_unanswered));
    }

    pub(super) fn set_state_behind(&self, is_behind: bool) {
        self.state_behind.set(i64::from(is_behind));
    }

    pub(super) fn state_flaw(&self, flaw: &str) {
        self.state_flaws.with_label_values(&[flaw]).inc();
    }

    pub(super) fn request(&self, route: &str, status: u16, took: Duration) {
        if route == Beats::ROUTE && status == 200 {
            self.beats.answered.inc();
            self.beats.duration.observe(took.as_secs_f64());
            return;
        }
        self.answered(route, status);
        let duration: Histogram = self.durations.with_label_values(&[route]);
        duration.observe(took.as_secs_f64());
    }

    /// Counts a request without the time it took.
    pub(super) fn answered(&self, route: &str, status: u16) {
        self.requests
            .with_label_values(&[route, &status.to_string()])
            .inc();
    }

    pub(super) fn refused(&self, status: u16) {
        self.answered("refused", status);
    }

    /// The text Prometheus reads. Discovery has no primitives of its own: where the dashboards
    /// expect them it shows its level.
    pub(super) fn render(&self, level: f64, uptime: Duration, now: &Standing) -> Vec<u8> {
        self.gauges.set(level, [level; 4], uptime);
        for (gauge, count) in [
            (&self.peers, now.peers),
            (&self.late, now.late),
            (&self.connections, now.connections),
            (&self.waiting, now.waiting),
        ] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let revision = i64::try_from(now.revision).unwrap_or(i64::MAX);
        self.revision.set(revision);
        self.settling.set(i64::from(now.settling));
        exposition::render(&self.registry)
    }
}

/// What is looked at when the metrics are read.
pub(super) struct Standing {
    pub(super) peers: usize,
    pub(super) late: usize,
    pub(super) revision: u64,
    pub(super) settling: bool,
    pub(super) connections: usize,
    pub(super) waiting: usize,
}

impl Beats {
    const ROUTE: &'static str = "/heartbeat";
}

impl BeatResult {
    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Fenced => "fenced",
        }
    }
}
