//! What a client reads of how a peer is and was. Every member that explains may be missing: of what
//! discovery does not know, or does not say.

use serde::{Deserialize, Serialize};

/// How a peer left.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Departure {
    /// Who left.
    pub cell_id: String,
    /// Why: `deregistered`, `reaped`, `replaced`, or nothing where that is not known.
    #[serde(default)]
    pub reason: Option<String>,
    /// When, by discovery's clock.
    #[serde(default)]
    pub at: String,
    /// How long it had been here, in milliseconds.
    #[serde(default)]
    pub was_here_ms: Option<u64>,
    /// By how much its next beat was overdue, in milliseconds.
    #[serde(default)]
    pub late_ms: Option<u64>,
    /// The address it had registered from.
    #[serde(default)]
    pub registered_by: Option<String>,
    /// The address it was deregistered from.
    #[serde(default)]
    pub deregistered_by: Option<String>,
}

/// What is read of the answer to `GET /peers?state=gone`.
#[derive(Debug, Deserialize)]
pub struct GoneRead {
    /// Who has left, the last first.
    pub gone: Vec<Departure>,
}

/// What is read of the answer to `GET /peers/{cell_id}`, beside the peer itself.
#[derive(Debug, Default, Deserialize)]
pub struct Portrait {
    /// `alive`, `late` or `stale`.
    pub state: String,
    /// How old its last beat is, in milliseconds.
    pub age_ms: u64,
    /// After how long a silence it is stale, in milliseconds.
    #[serde(default)]
    pub stale_after_ms: u64,
    /// When it is, if no beat comes, in milliseconds.
    #[serde(default)]
    pub expires_in_ms: u64,
    /// When it joined, by discovery's clock.
    #[serde(default)]
    pub joined_at: String,
    /// How long ago that is, in milliseconds.
    #[serde(default)]
    pub here_for_ms: u64,
    /// The address it registered from.
    #[serde(default)]
    pub registered_by: Option<String>,
    /// How it has beaten since it joined.
    #[serde(default)]
    pub heartbeat: Rhythm,
    /// How it left before, the last time first.
    #[serde(default)]
    pub departures: Vec<Departure>,
    /// What time it is, by discovery's clock.
    #[serde(default)]
    pub now: Option<String>,
}

/// How a peer beats.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rhythm {
    /// How many beats have come.
    pub beats: u64,
    /// The median of the last eight gaps between them, in milliseconds.
    pub gap_median_ms: Option<u64>,
    /// The longest gap, in milliseconds.
    pub gap_longest_ms: Option<u64>,
    /// How many beats have not come.
    pub misses: u64,
    /// How often the peer had left and come back before.
    pub flaps: u64,
}
