//! The bodies that go out, and what a client reads of them.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::CellId;

/// The answer to `POST /register`.
#[derive(Debug, Serialize)]
pub struct Registered<'a> {
    /// Always `registered`.
    pub status: &'static str,
    /// The id that was registered.
    pub cell_id: &'a CellId,
    /// How often the cell should beat, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// After how long a silence the cell is stale, in milliseconds.
    pub stale_after_ms: u64,
    /// Changes when discovery starts without its former state.
    pub epoch: &'a str,
    /// The revision of the membership after this registration.
    pub revision: u64,
}

/// What a cell reads of the answer to `POST /register`; every member may be missing.
#[derive(Debug, Default, Deserialize)]
pub struct RegisteredRead {
    /// How often to beat, in milliseconds.
    #[serde(default)]
    pub heartbeat_interval_ms: Option<u64>,
}

/// The answer to `POST /heartbeat`.
#[derive(Debug, Serialize)]
pub struct Beat<'a> {
    /// Always `ok`.
    pub status: &'static str,
    /// The id whose lease was renewed.
    pub cell_id: &'a CellId,
    /// How many peers are registered.
    pub peers_count: usize,
    /// How long the lease now lasts, in milliseconds.
    pub expires_in_ms: u64,
    /// Changes when discovery starts without its former state.
    pub epoch: &'a str,
    /// The revision of the membership.
    pub revision: u64,
}

/// The answer to `DELETE /peer/{cell_id}`.
#[derive(Debug, Serialize)]
pub struct Deregistered<'a> {
    /// Always `deregistered`.
    pub status: &'static str,
    /// Who has left.
    pub cell_id: &'a str,
}

/// The answer to `DELETE /unregister/{cell_id}`.
#[derive(Debug, Serialize)]
pub struct Unregistered {
    /// Always `unregistered`.
    pub status: &'static str,
}

/// The answer to `GET /peers`.
#[derive(Debug, Serialize)]
pub struct Peers<'a, L: Serialize> {
    /// The peers, first registered first: a sequence of [`Listed`].
    pub peers: L,
    /// How many there are.
    pub count: usize,
    /// A label for the host discovery runs on.
    pub my_host: &'a str,
    /// The revision this list shows.
    pub revision: u64,
    /// Changes when discovery starts without its former state.
    pub epoch: &'a str,
    /// When the list was made, as `last_seen` is written.
    pub now: String,
    /// Whether discovery started too short a while ago to know everybody.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub settling: bool,
}

/// One peer in the answer to `GET /peers`: exactly these nine members.
#[derive(Debug, Serialize)]
pub struct Listed<'a> {
    /// The cell's unique name.
    pub cell_id: &'a CellId,
    /// Its address or host name.
    pub ip: &'a str,
    /// Its port.
    pub port: u16,
    /// Its level at its last beat.
    pub consciousness_level: f64,
    /// What it offers.
    pub services: &'a [SmolStr],
    /// Its branch.
    pub branch: &'a str,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The host it runs on.
    pub hostname: &'a str,
    /// When it last registered or beat.
    pub last_seen: String,
}

/// What a client reads of the answer to `GET /peers`. Only what every discovery sends is required.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PeersRead {
    /// The peers, first registered first.
    pub peers: Vec<Peer>,
    /// When the list was made, by discovery's own clock, if it says so.
    #[serde(default)]
    pub now: Option<String>,
    /// Whether discovery has only just started, so that cells may be missing from the list.
    #[serde(default)]
    pub settling: bool,
    /// The revision this list shows, if discovery has one.
    #[serde(default)]
    pub revision: Option<u64>,
    /// Changes when discovery starts without its former state, if it says so.
    #[serde(default)]
    pub epoch: Option<String>,
}

/// One peer as a client reads it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Peer {
    /// The cell's unique name.
    pub cell_id: String,
    /// Its address or host name.
    pub ip: String,
    /// Its port. Not every discovery checks that it is one.
    pub port: i64,
    /// Its level at its last beat.
    #[serde(default)]
    pub consciousness_level: f64,
    /// What it offers.
    #[serde(default)]
    pub services: Vec<String>,
    /// Its branch.
    #[serde(default)]
    pub branch: String,
    /// Its kind.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The host it runs on.
    #[serde(default)]
    pub hostname: String,
    /// When it last registered or beat.
    #[serde(default)]
    pub last_seen: String,
}

/// The answer to `GET /health` of discovery and of plain cells.
#[derive(Debug, Serialize)]
pub struct Health<'a> {
    /// Always `healthy`.
    pub status: &'static str,
    /// Who answers.
    pub cell_id: &'a str,
    /// Its branch.
    pub branch: &'a str,
    /// Its level.
    pub consciousness_level: f64,
    /// What it offers.
    pub services: &'a [String],
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The host it runs on.
    pub hostname: &'a str,
}

/// The body of every error.
#[derive(Debug, Serialize, Deserialize)]
pub struct Detail {
    /// What was wrong and what is allowed.
    pub detail: String,
}
