//! `aios-mesh up`: the whole mesh on this machine.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use super::screen::Screen;
use super::table;
use crate::args;
use crate::cell::{self, Preset};
use crate::client::{Client, DiscoveryUrl};
use crate::discovery;
use crate::http::Listener;
use crate::logging;
use crate::program::{self, Failure};
use crate::shutdown::Latch;
use crate::wire::{Peer, PeersRead};

/// Everything listens here: it is for development.
const HOST: &str = "127.0.0.1";
/// How long whoever still talks to discovery is waited for after Ctrl-C.
const DRAIN: Duration = Duration::from_millis(300);
/// How often the list is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What `up` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Port of discovery; 0 for any free one. The cells listen on their presets' ports.
    #[arg(long, env = "DISCOVERY_PORT", default_value_t = 8001, value_parser = args::port)]
    port: u16,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let screen = Screen::is_terminal().then(Screen::default);
    match &screen {
        // The table tells what the log would.
        Some(screen) => logging::start("warn", screen.clone()).map_err(Failure::usage)?,
        None => program::start_log()?,
    }
    let latch = program::signal_latch()?;

    let discovery = discovery::start(discovery::Settings::local(HOST, arguments.port)?)?;
    let url = format!("http://{}", discovery.address());
    program::print(&format!(
        "discovery  {url}  (in a browser, or curl -s {url}/peers)\n"
    ))?;
    let url = DiscoveryUrl::parse(&url).map_err(Failure::new)?;

    let mut cells = Vec::new();
    for preset in [Preset::Pure, Preset::Alpha] {
        match start_cell(preset, &url) {
            Ok(cell) => cells.push(cell),
            Err(failure) => {
                stop(cells);
                discovery.stop(DRAIN);
                return Err(failure);
            }
        }
    }
    program::print("Ctrl-C stops them all.\n\n")?;

    let mut view = View::new(Client::new(url, None), screen);
    view.follow(&latch);
    stop(cells);
    match &view.screen {
        // The last that was seen of them stays.
        Some(screen) => screen.finish(),
        None => view.look(),
    }
    discovery.stop(DRAIN);
    program::print("stopped\n")
}

fn start_cell(preset: Preset, discovery: &DiscoveryUrl) -> Result<cell::Running, Failure> {
    let (id, port) = (preset.id(), preset.port());
    let listener = match Listener::bind(HOST, port) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            program::print(&format!(
                "{id}: port {port} is taken, a free one is used instead\n"
            ))?;
            Listener::bind(HOST, 0)?
        }
        bound => bound?,
    };
    let settings = cell::Settings::local(preset, discovery, HOST, port)?;
    let cell = cell::start(settings, listener)?;
    program::print(&format!("{id:<9}  http://{}\n", cell.address()))?;
    Ok(cell)
}

/// Stops the cells side by side: each may take a while when discovery does not answer.
fn stop(cells: Vec<cell::Running>) {
    std::thread::scope(|scope| {
        for cell in cells {
            scope.spawn(|| cell.stop());
        }
    });
}

/// What is shown while the mesh runs: a table on a terminal, else a line for each join and leave.
struct View {
    client: Client,
    screen: Option<Screen>,
    last: PeersRead,
    taken: Instant,
}

impl View {
    fn new(client: Client, screen: Option<Screen>) -> Self {
        Self {
            client,
            screen,
            last: PeersRead::default(),
            taken: Instant::now(),
        }
    }

    fn follow(&mut self, latch: &Latch) {
        loop {
            self.look();
            if latch.wait_for(LOOK_EVERY) {
                return;
            }
        }
    }

    fn look(&mut self) {
        match self.client.peers() {
            Ok((list, _)) => {
                self.tell_changes(&list.peers);
                self.last = list;
                self.taken = Instant::now();
            }
            Err(e) => log::warn!("cannot list the peers: {e}"),
        }
        if let Some(screen) = &self.screen {
            let waited = self.taken.elapsed();
            screen.draw(&table::table(&self.last, SystemTime::now(), waited));
        }
    }

    fn tell_changes(&self, peers: &[Peer]) {
        if self.screen.is_some() {
            return;
        }
        for line in table::changes(&self.last.peers, peers) {
            if let Err(e) = program::print(&(line + "\n")) {
                log::warn!("{e}");
            }
        }
    }
}
