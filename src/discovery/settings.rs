//! What discovery is started with.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::args;
use crate::program::{self, Failure};
use crate::wire;

/// Keeps the list of cells: who is registered, and alive by their heartbeats.
#[derive(Clone, Debug, Parser)]
#[command(name = "aios-discovery", version)]
pub struct Settings {
    /// Address to listen on.
    #[arg(long, env = "DISCOVERY_HOST", default_value = "0.0.0.0", value_parser = args::host)]
    pub host: String,

    /// Port to listen on; 0 for any free one.
    #[arg(long, env = "DISCOVERY_PORT", default_value_t = 8001, value_parser = args::port)]
    pub port: u16,

    /// Name shown in /health and as the label of the metrics.
    #[arg(long, env = "CELL_ID", default_value = "discovery", value_parser = args::name)]
    pub id: String,

    /// Label of the host discovery runs on, shown in /peers and /health [default: the host's name].
    #[arg(long, env = "AIOS_MY_HOST", value_parser = args::name)]
    pub my_host: Option<String>,

    /// Branch shown in /health.
    #[arg(long, env = "AIOS_BRANCH", default_value = "main", value_parser = args::text)]
    pub branch: String,

    /// Level shown in /health.
    #[arg(long, env = "AIOS_LEVEL", default_value = "1.0", value_parser = args::level, allow_negative_numbers = true)]
    pub level: f64,

    /// A peer whose last heartbeat is older than this is stale.
    #[arg(long, env = "AIOS_STALE_AFTER", default_value = "15s",
          value_parser = args::duration_within(Duration::from_millis(100)..=Duration::from_secs(3600)))]
    pub stale_after: Duration,

    /// How often stale peers are looked for and removed.
    #[arg(long, env = "AIOS_REAP_EVERY", default_value = "5s",
          value_parser = args::duration_within(Duration::from_millis(10)..=Duration::from_secs(3600)))]
    pub reap_every: Duration,

    /// File the list is kept in over a restart [default: none, cells register again].
    #[arg(long, env = "AIOS_STATE_FILE")]
    pub state_file: Option<PathBuf>,

    /// File of tokens, one a line: whatever changes something needs one of them [default: none, whoever reaches discovery may change the list].
    #[arg(long, env = "AIOS_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Ask for a token where the list or the metrics are read, too.
    #[arg(long, env = "AIOS_PROTECT_READS", value_parser = args::switch)]
    pub protect_reads: bool,

    /// From how many peers on it is held once for a heartbeat interval when more than half of all fall silent together; 0 for never.
    #[arg(long, env = "AIOS_HOLD_MIN", default_value_t = 20, value_parser = args::count_or_none)]
    pub hold_min: usize,

    /// How many peers are taken; more are refused with 503.
    #[arg(long, env = "AIOS_MAX_PEERS", default_value_t = 1_000_000, value_parser = args::count)]
    pub max_peers: usize,

    /// How many connections are held at once [default: from the file-descriptor limit, at most 8192].
    #[arg(long, env = "AIOS_MAX_CONNECTIONS", value_parser = args::count)]
    pub max_connections: Option<usize>,

    /// After how long without a request a connection is closed.
    #[arg(long, env = "AIOS_IDLE_TIMEOUT", default_value = "30s",
          value_parser = args::duration_within(Duration::from_millis(100)..=Duration::from_secs(3600)))]
    pub idle_timeout: Duration,

    /// Ask the running discovery's /health (same host and port) and exit 0 or 1.
    #[arg(long)]
    pub check: bool,
}

impl Settings {
    /// The defaults, on another address; no variable is looked at.
    ///
    /// # Errors
    /// When the address is none.
    pub fn local(host: &str, port: u16) -> Result<Self, Failure> {
        let port = port.to_string();
        args::without_environment(&["aios-discovery", "--host", host, "--port", &port])
    }

    /// What cannot be seen of one setting alone.
    ///
    /// # Errors
    /// One line that names the settings at fault.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.protect_reads && self.token_file.is_none() {
            return Err(Failure::usage(
                "--protect-reads (AIOS_PROTECT_READS) is of use only with --token-file (AIOS_TOKEN_FILE): give that, or leave it out",
            ));
        }
        Ok(())
    }

    /// The label of the host, read from the system where none is set.
    #[must_use]
    pub fn my_host(&self) -> String {
        self.my_host.clone().unwrap_or_else(program::host_name)
    }

    /// How often a cell with the lease `stale_after` should beat.
    #[must_use]
    pub fn heartbeat_interval(stale_after: Duration) -> Duration {
        stale_after / wire::BEATS_PER_LEASE
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "id={} my-host={} branch={} level={} stale-after={} reap-every={} hold-min={} max-peers={} idle-timeout={} state-file={} token-file={} protect-reads={}",
            self.id,
            self.my_host(),
            self.branch,
            self.level,
            args::show_duration(self.stale_after),
            args::show_duration(self.reap_every),
            self.hold_min,
            self.max_peers,
            args::show_duration(self.idle_timeout),
            self.state_file
                .as_ref()
                .map_or("none".into(), |path| path.to_string_lossy()),
            args::given(self.token_file.as_ref()),
            self.protect_reads
        )
    }
}
