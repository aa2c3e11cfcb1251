//! What a client reads of how a peer is and was. Every member that explains may be missing: of what
//! discovery does not know, or does not say.
//!
//! The members are taken out of the JSON by hand, for a derived reader of each would make the
//! operator's tool larger by as much as all that it does with them.

use serde_json::Value;

/// How a peer left.
#[derive(Clone, Debug, Default)]
pub struct Departure {
    /// Who left.
    pub cell_id: String,
    /// Why: `deregistered`, `reaped`, `replaced`, or nothing where that is not known.
    pub reason: Option<String>,
    /// When, by discovery's clock.
    pub at: String,
    /// How long it had been here, in milliseconds.
    pub was_here_ms: Option<u64>,
    /// By how much its next beat was overdue, in milliseconds.
    pub late_ms: Option<u64>,
    /// The address it had registered from.
    pub registered_by: Option<String>,
    /// The address it was deregistered from.
    pub deregistered_by: Option<String>,
}

impl Departure {
    /// Reads one, which must say who left.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        Some(Self {
            cell_id: text(value, "cell_id")?,
            reason: text(value, "reason"),
            at: text(value, "at").unwrap_or_default(),
            was_here_ms: number(value, "was_here_ms"),
            late_ms: number(value, "late_ms"),
            registered_by: text(value, "registered_by"),
            deregistered_by: text(value, "deregistered_by"),
        })
    }

    /// Reads the list that `name` is in `value`, the last departure first.
    #[must_use]
    pub fn read_all(value: &Value, name: &str) -> Option<Vec<Self>> {
        let all = value.get(name)?.as_array()?;
        Some(all.iter().filter_map(Self::read).collect())
    }
}

/// What is read of the answer to `GET /peers/{cell_id}`, beside the peer itself.
#[derive(Debug, Default)]
pub struct Portrait {
    /// `alive`, `late` or `stale`.
    pub state: String,
    /// How old its last beat is, in milliseconds.
    pub age_ms: u64,
    /// After how long a silence it is stale, in milliseconds.
    pub stale_after_ms: u64,
    /// When it is, if no beat comes, in milliseconds.
    pub expires_in_ms: u64,
    /// When it joined, by discovery's clock.
    pub joined_at: String,
    /// How long ago that is, in milliseconds.
    pub here_for_ms: u64,
    /// The address it registered from.
    pub registered_by: Option<String>,
    /// How it has beaten since it joined.
    pub heartbeat: Rhythm,
    /// How it left before, the last time first.
    pub departures: Vec<Departure>,
    /// What time it is, by discovery's clock.
    pub now: Option<String>,
}

impl Portrait {
    /// Reads one.
    #[must_use]
    pub fn read(value: &Value) -> Self {
        let heartbeat = &value["heartbeat"];
        Self {
            state: text(value, "state").unwrap_or_default(),
            age_ms: number(value, "age_ms").unwrap_or_default(),
            stale_after_ms: number(value, "stale_after_ms").unwrap_or_default(),
            expires_in_ms: number(value, "expires_in_ms").unwrap_or_default(),
            joined_at: text(value, "joined_at").unwrap_or_default(),
            here_for_ms: number(value, "here_for_ms").unwrap_or_default(),
            registered_by: text(value, "registered_by"),
            heartbeat: Rhythm {
                beats: number(heartbeat, "beats").unwrap_or_default(),
                gap_median_ms: number(heartbeat, "gap_median_ms"),
                gap_longest_ms: number(heartbeat, "gap_longest_ms"),
                misses: number(heartbeat, "misses").unwrap_or_default(),
                flaps: number(heartbeat, "flaps").unwrap_or_default(),
            },
            departures: Departure::read_all(value, "departures").unwrap_or_default(),
            now: text(value, "now"),
        }
    }
}

/// How a peer beats.
#[derive(Debug, Default)]
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

/// A text of an object, if it has it.
#[must_use]
pub fn text(object: &Value, name: &str) -> Option<String> {
    object.get(name)?.as_str().map(str::to_owned)
}

/// A whole number of an object, if it has it.
fn number(object: &Value, name: &str) -> Option<u64> {
    object.get(name)?.as_u64()
}
