//! What a cell shows Prometheus.

use prometheus::{IntCounter, Registry};

use super::state::State;
use crate::exposition::{self, Gauges};

/// A cell's metrics.
pub(super) struct Metrics {
    registry: Registry,
    gauges: Gauges,
    /// Heartbeats that discovery has taken.
    pub(super) heartbeats: IntCounter,
}

impl Metrics {
    pub(super) fn new(id: &str) -> prometheus::Result<Self> {
        let registry = exposition::registry(id)?;
        Ok(Self {
            gauges: Gauges::new(&registry)?,
            heartbeats: exposition::register(
                &registry,
                IntCounter::new(
                    "aios_cell_heartbeat_total",
                    "Heartbeats that discovery has taken.",
                ),
            )?,
            registry,
        })
    }

    pub(super) fn render(&self, state: &State) -> Vec<u8> {
        let mind = state.mind();
        self.gauges.set(mind.level, mind.primitives, state.uptime());
        exposition::render(&self.registry)
    }
}
