//! What every binary does around its role: arguments, log, signals, exit code.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::args;
use crate::http::{self, BindError};
use crate::logging;
use crate::shutdown::Latch;
use crate::wire;

/// Why a program ends with an exit code other than 0: one line for the operator.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// A failure of what was attempted: exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            code: 1,
            message: message.into(),
        }
    }

    /// A setting that is refused: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            message: message.into(),
        }
    }

    /// What was waited for has not come in time: exit code 3.
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self {
            code: 3,
            message: message.into(),
        }
    }

    /// What the process exits with.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl From<BindError> for Failure {
    /// With what to do about it.
    fn from(error: BindError) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "stop what listens there, or choose another port with --port"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need a privilege, choose another with --port"
            }
            _ => "choose an address of this host with --host, or 0.0.0.0 for all",
        };
        Self::new(format!("{error}; {advice}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Runs a program that keeps running: reads its settings, starts the log, and hands `run` a latch
/// that SIGTERM, SIGINT and SIGHUP set. A second signal ends the process at once.
pub fn run_until_signal<S: Parser>(run: impl FnOnce(S, &Latch) -> Result<(), Failure>) -> ExitCode {
    finish(args::parse::<S>().and_then(|settings| {
        start_log()?;
        let latch = signal_latch()?;
        run(settings, &latch)
    }))
}

/// Starts the log on stderr at level info, or as the environment says.
///
/// # Errors
/// A level that is none.
pub fn start_log() -> Result<(), Failure> {
    logging::start("info", logging::Stderr::default()).map_err(Failure::usage)
}

/// How soon after the first signal another is taken for the same.
const PAIR: Duration = Duration::from_millis(500);

/// A latch that SIGTERM, SIGINT and SIGHUP set.
///
/// # Errors
/// When the handler cannot be installed.
pub fn signal_latch() -> Result<Latch, Failure> {
    let latch = Latch::new();
    let set = latch.clone();
    let first = OnceLock::new();
    ctrlc::set_handler(move || {
        // Signals come in pairs: a supervisor tells the process and its group, a terminal that
        // closes is told by the kernel and by the shell. Only a later one means "at once".
        if first.get_or_init(Instant::now).elapsed() > PAIR {
            std::process::exit(130);
        }
        set.set();
    })
    .map_err(|e| Failure::new(format!("cannot install the signal handler: {e}")))?;
    Ok(latch)
}

/// Turns the result of a program into its exit code, and says why when it failed.
pub fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let name = args::program_name();
            let line = format!("{name}: {}\n", wire::one_line(&failure.message));
            // Nobody is left to tell when stderr is gone too.
            let _ = logging::Stderr::default().write_all(line.as_bytes());
            ExitCode::from(failure.code)
        }
    }
}

/// Tells the service manager, if one waits for it (`Type=notify`).
pub fn notify(state: &sd_notify::NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(std::slice::from_ref(state)) {
        log::warn!("cannot notify the service manager: {e}");
    }
}

/// `--check`: asks the program that listens on `host` and `port` for its `/health`.
///
/// # Errors
/// One line when it does not answer with 200.
pub fn check(host: &str, port: u16) -> Result<(), Failure> {
    if port == 0 {
        return Err(Failure::usage(
            "--check needs the port the program listens on; 0 stands for any",
        ));
    }
    http::check(host, port).map_err(Failure::new)
}

/// Prints to stdout; a reader that has gone away (`| head -1`) is no error of ours.
///
/// # Errors
/// When stdout cannot be written for another reason.
pub fn print(text: &str) -> Result<(), Failure> {
    print_to_reader(text).map(drop)
}

/// Prints to stdout. Returns whether its reader is still there.
///
/// # Errors
/// When stdout cannot be written for another reason.
pub fn print_to_reader(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::new(format!("cannot write to stdout: {e}"))),
    }
}

/// Whether whoever read stdout has gone away, as far as the kernel tells.
#[must_use]
pub fn stdout_has_no_reader() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let gone = PollFlags::ERR | PollFlags::HUP;
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().intersects(gone)
}

/// The name of the host this runs on.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
