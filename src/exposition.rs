//! `/metrics`: the gauges every role of the mesh shows, and their text form.

use std::collections::HashMap;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Encoder, Gauge, Registry, TextEncoder};

use crate::http::Reply;

/// The four primitives of a cell, in the order they are written everywhere.
pub(crate) const PRIMITIVES: [&str; 4] = ["awareness", "adaptation", "coherence", "momentum"];

/// A registry whose every series carries the label `cell_id`.
///
/// # Errors
/// None with a label of this name.
pub(crate) fn registry(cell_id: &str) -> prometheus::Result<Registry> {
    let labels = HashMap::from([("cell_id".to_owned(), cell_id.to_owned())]);
    Registry::new_custom(None, Some(labels))
}

/// Registers a metric that was just made.
///
/// # Errors
/// When it was not made, or its name is taken.
pub(crate) fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> prometheus::Result<M> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// The gauges of discovery and cells alike; their names are those existing dashboards read.
pub(crate) struct Gauges {
    level: Gauge,
    primitives: [Gauge; 4],
    uptime: Gauge,
}

impl Gauges {
    /// # Errors
    /// When a name is taken.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: String, help: String| register(registry, Gauge::new(name, help));
        let [awareness, adaptation, coherence, momentum] = PRIMITIVES.map(|primitive| {
            gauge(
                format!("aios_cell_{primitive}"),
                format!("The primitive {primitive}."),
            )
        });
        gauge("aios_cell_up".to_owned(), "1 while it runs.".to_owned())?.set(1.0);
        Ok(Self {
            level: gauge(
                "aios_cell_consciousness_level".to_owned(),
                "The consciousness level.".to_owned(),
            )?,
            primitives: [awareness?, adaptation?, coherence?, momentum?],
            uptime: gauge(
                "aios_cell_uptime_seconds".to_owned(),
                "Seconds since the start.".to_owned(),
            )?,
        })
    }

    pub(crate) fn set(&self, level: f64, primitives: [f64; 4], uptime: Duration) {
        self.level.set(level);
        for (gauge, value) in self.primitives.iter().zip(primitives) {
            gauge.set(value);
        }
        self.uptime.set(uptime.as_secs_f64());
    }
}

/// The text form (version 0.0.4) of all that is registered.
pub(crate) fn render(registry: &Registry) -> Vec<u8> {
    let mut text = Vec::new();
    if let Err(e) = TextEncoder::new().encode(&registry.gather(), &mut text) {
        log::error!("cannot render the metrics: {e}");
    }
    text
}

/// The reply to `GET /metrics`.
pub(crate) fn reply(text: Vec<u8>) -> Reply {
    Reply::with_body(200, "text/plain; version=0.0.4; charset=utf-8", text)
}
