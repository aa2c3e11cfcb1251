//! wrk, which sends as fast as it is answered.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;

use crate::Result;
use crate::child::tether;

/// From how many threads it sends, each with some of the connections.
pub const THREADS: u64 = 2;

/// What a run of wrk is to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The name of a file under `benches/requests`.
    pub request: &'static str,
    /// In whose name.
    pub peers: usize,
    pub connections: usize,
    /// Whether connections are kept from one request to the next.
    pub kept: bool,
    pub lasts: Duration,
}

/// A run of wrk that goes on.
pub struct Running {
    process: std::process::Child,
}

/// What a run of wrk came to, as `benches/requests/ask.lua` says it.
#[derive(Debug, Deserialize)]
pub struct Outcome {
    pub requests: f64,
    micros: f64,
    /// Answers other than 2xx and 3xx.
    refused: u64,
    /// Requests without an answer.
    lost: u64,
}

impl Outcome {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.requests / (self.micros / 1e6)
    }
}

impl Load {
    /// Does it.
    pub fn run(&self, address: SocketAddr) -> Result<Outcome> {
        self.start(address)?.end()
    }

    /// Begins it.
    pub fn start(&self, address: SocketAddr) -> Result<Running> {
        let requests = Path::new("benches/requests");
        let process = tether("wrk")?
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg(format!("--threads={THREADS}"))
            .args(["--timeout", "30s"])
            .arg(format!("--connections={}", self.connections))
            .arg(format!("--duration={}s", self.lasts.as_secs()))
            .arg(format!("--script={}", requests.join("ask.lua").display()))
            .arg(format!("http://{address}"))
            .arg("--")
            .arg(requests.join(self.request))
            .arg(self.peers.to_string())
            .arg(if self.kept { "kept" } else { "closed" })
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Running { process })
    }
}

impl Running {
    /// Waits for its end.
    pub fn end(self) -> Result<Outcome> {
        let output = self.process.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().unwrap_or_default();
        let outcome: Outcome =
            serde_json::from_str(last).map_err(|e| format!("wrk failed ({e}): {text}"))?;
        // A figure of something else than answers is none.
        if outcome.requests == 0.0 || outcome.refused + outcome.lost > 0 {
            return Err(format!("not all was answered: {outcome:?}").into());
        }
        Ok(outcome)
    }
}
