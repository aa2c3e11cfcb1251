//! What a cell is started with, and the presets.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::args;
use crate::client::DiscoveryUrl;
use crate::program::Failure;
use crate::wire;

/// One cell of the mesh: registers at discovery, beats while it lives, deregisters when it stops.
#[derive(Clone, Debug, Parser)]
#[command(name = "aios-cell", version)]
pub struct Arguments {
    /// What kind of cell to be; a plain one, which needs --id, where none is given.
    #[arg(env = "AIOS_CELL_PRESET")]
    pub preset: Option<Preset>,

    /// Where discovery is.
    #[arg(long, env = "AIOS_DISCOVERY_URL", default_value = "http://127.0.0.1:8001", value_parser = DiscoveryUrl::parse)]
    pub discovery: DiscoveryUrl,

    /// Unique name of the cell [default: the preset's].
    #[arg(long, env = "AIOS_CELL_ID", value_parser = cell_id)]
    pub id: Option<wire::CellId>,

    /// Address to listen on.
    #[arg(long, env = "AIOS_CELL_HOST", default_value = "0.0.0.0", value_parser = args::host)]
    pub host: String,

    /// Port to listen on, 0 for any free one; the variable PORT is taken too [default: the preset's, else 0].
    #[arg(long, env = "AIOS_CELL_PORT", value_parser = args::port)]
    pub port: Option<u16>,

    /// Address or host name that others reach the cell at [default: the variable HOSTNAME, else the address that reaches discovery].
    #[arg(long, env = "AIOS_CELL_ADVERTISE", value_parser = args::reachable_host)]
    pub advertise: Option<String>,

    /// Consciousness level [default: the preset's, else 0].
    #[arg(long, env = "AIOS_CELL_LEVEL", value_parser = args::level, allow_negative_numbers = true)]
    pub level: Option<f64>,

    /// What the cell offers, separated by commas [default: the preset's, else nothing].
    #[arg(long, env = "AIOS_CELL_SERVICES", value_parser = services)]
    pub services: Option<Services>,

    /// Branch of the mesh [default: the preset's, else main].
    #[arg(long, env = "AIOS_BRANCH", value_parser = args::text)]
    pub branch: Option<String>,

    /// Kind of cell that is shown [default: the preset's, else cell].
    #[arg(long = "type", env = "AIOS_CELL_TYPE", value_parser = args::text)]
    pub kind: Option<String>,

    /// How often to beat [default: what discovery asks for, else 5s].
    #[arg(long, env = "AIOS_HEARTBEAT_EVERY",
          value_parser = args::duration_within(wire::HEARTBEAT_RANGE))]
    pub heartbeat_every: Option<Duration>,

    /// File of tokens, one a line: the first is sent to discovery, any of them is asked for where the cell is told something.
    #[arg(long, env = "AIOS_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Ask the running cell's /health (same host and port) and exit 0 or 1.
    #[arg(long)]
    pub check: bool,
}

/// A list of services, as one value.
#[derive(Clone, Debug)]
pub struct Services(Vec<String>);

/// The kinds of cells with settings of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// The primitives of consciousness and nothing else.
    Pure,
    /// The communication server.
    Alpha,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Pure, Self::Alpha];

    /// Its id.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Alpha => "alpha",
        }
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Pure => 8002,
            Self::Alpha => 8000,
        }
    }

    fn level(self) -> f64 {
        match self {
            Self::Pure => 0.1,
            Self::Alpha => 5.2,
        }
    }

    fn services(self) -> &'static [&'static str] {
        match self {
            Self::Pure => &["consciousness-primitives"],
            Self::Alpha => &[
                "code-analysis",
                "consciousness-sync",
                "dendritic-communication",
                "tachyonic-archival",
                "geometric-engine",
            ],
        }
    }

    fn branch(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Alpha => "main",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Pure => "pure_cell",
            Self::Alpha => "alpha_cell",
        }
    }

    /// What its primitives start at: awareness, adaptation, coherence, momentum.
    pub(super) fn primitives(self) -> [f64; 4] {
        match self {
            Self::Pure => [0.1; 4],
            Self::Alpha => [4.5, 0.85, 0.92, 0.75],
        }
    }
}

/// What a cell is: arguments and presets, put together and checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The preset it was made from, if any.
    pub preset: Option<Preset>,
    /// Where discovery is.
    pub discovery: DiscoveryUrl,
    /// Unique name.
    pub id: wire::CellId,
    /// Address to listen on.
    pub host: String,
    /// Port to listen on, 0 for any free one.
    pub port: u16,
    /// Where others reach the cell; found out at each registration where it is not given.
    pub advertise: Option<String>,
    /// Level at the start.
    pub level: f64,
    /// What it offers.
    pub services: Vec<String>,
    /// Branch.
    pub branch: String,
    /// Kind.
    pub kind: String,
    /// How often to beat, whatever discovery says.
    pub heartbeat_every: Option<Duration>,
    /// Where its tokens are.
    pub token_file: Option<PathBuf>,
}

impl Settings {
    /// Puts arguments, the variables that have several names, and the preset together.
    ///
    /// # Errors
    /// One line that names the setting at fault.
    pub fn new(arguments: Arguments) -> Result<Self, Failure> {
        let preset = arguments.preset;
        let preset_id = || wire::CellId::new(preset?.id()).ok();
        let id = arguments.id.clone().or_else(preset_id).ok_or_else(|| {
            Failure::usage("a plain cell needs --id or AIOS_CELL_ID; or name a preset: pure, alpha")
        })?;
        let advertise = match arguments.advertise {
            Some(advertise) => Some(advertise),
            None => variable("HOSTNAME", args::reachable_host)?,
        };
        Ok(Self {
            id,
            port: port(arguments.port, preset)?.unwrap_or(0),
            advertise,
            level: arguments.level.or(preset.map(Preset::level)).unwrap_or(0.0),
            services: match (arguments.services, preset) {
                (Some(Services(services)), _) => services,
                (None, Some(preset)) => preset.services().iter().map(|s| (*s).to_owned()).collect(),
                (None, None) => Vec::new(),
            },
            branch: arguments
                .branch
                .unwrap_or_else(|| preset.map_or("main", Preset::branch).to_owned()),
            kind: arguments
                .kind
                .unwrap_or_else(|| preset.map_or("cell", Preset::kind).to_owned()),
            preset,
            discovery: arguments.discovery,
            host: arguments.host,
            heartbeat_every: arguments.heartbeat_every,
            token_file: arguments.token_file,
        })
    }

    /// A preset that others reach at the address it listens on; no variable is looked at.
    ///
    /// # Errors
    /// None for the presets there are.
    pub fn local(
        preset: Preset,
        discovery: &DiscoveryUrl,
        host: &str,
        port: u16,
    ) -> Result<Self, Failure> {
        let discovery = discovery.to_string();
        let port = port.to_string();
        Self::new(args::without_environment(&[
            "aios-cell",
            preset.id(),
            "--discovery",
            &discovery,
            "--host",
            host,
            "--advertise",
            host,
            "--port",
            &port,
        ])?)
    }
}

/// The ports at which the cell these arguments describe may be listening.
///
/// # Errors
/// One line when the variable PORT is no port.
pub(super) fn ports_to_check(arguments: &Arguments) -> Result<Vec<u16>, Failure> {
    match port(arguments.port, arguments.preset)? {
        Some(port) => Ok(vec![port]),
        // An image's health check does not see which preset its container was started with.
        None => Ok(Preset::ALL.map(Preset::port).to_vec()),
    }
}

fn port(given: Option<u16>, preset: Option<Preset>) -> Result<Option<u16>, Failure> {
    match given {
        Some(port) => Ok(Some(port)),
        None => Ok(variable("PORT", args::port)?.or(preset.map(Preset::port))),
    }
}

/// A variable that is a second name of a setting.
fn variable<T>(
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Failure> {
    let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let value = value.to_string_lossy();
    match parse(&value) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(why) => Err(Failure::usage(format!(
            "invalid value '{value}' for the variable {name}: {why}"
        ))),
    }
}

/// An id that every discovery can delete again: some do not decode paths.
fn cell_id(text: &str) -> Result<wire::CellId, String> {
    if text.contains('/') || text == "." || text == ".." {
        return Err("allowed is any name without '/' but '.' and '..'".to_owned());
    }
    wire::CellId::new(text).map_err(|why| why.to_string())
}

fn services(text: &str) -> Result<Services, String> {
    let services: Vec<String> = text
        .split(',')
        .map(|service| service.trim().to_owned())
        .filter(|service| !service.is_empty())
        .collect();
    if services.len() > wire::MAX_SERVICES {
        return Err(format!(
            "{} services, allowed are at most {}",
            services.len(),
            wire::MAX_SERVICES
        ));
    }
    for service in &services {
        wire::check_text(service)?;
    }
    Ok(Services(services))
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "id={} type={} branch={} level={} services={} discovery={} advertise={} heartbeat-every={} token-file={}",
            self.id,
            self.kind,
            self.branch,
            self.level,
            self.services.join(","),
            self.discovery,
            self.advertise
                .as_deref()
                .unwrap_or("the address that reaches discovery"),
            self.heartbeat_every
                .map_or("as discovery asks".to_owned(), args::show_duration),
            args::given(self.token_file.as_ref())
        )
    }
}
