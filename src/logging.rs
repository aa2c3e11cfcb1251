//! The log: lines on stderr, or records for the journal when systemd reads them.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use log::{Level, LevelFilter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::client;
use crate::wire;

/// Starts the log, written to `sink`. `LOG_LEVEL` sets the level, else `RUST_LOG`, else
/// `default_level`; both take a level (`debug`) or directives (`info,aios_mesh::http=trace`).
///
/// # Errors
/// A sentence that names the variable, when its value is neither.
pub fn start(default_level: &str, sink: impl Write + Send + 'static) -> Result<(), String> {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&filters(default_level)?);
    builder.filter_module(client::SHOWS_TOKENS, LevelFilter::Off);
    builder.target(env_logger::Target::Pipe(Box::new(sink)));
    let form = Form::of_stderr();
    builder.format(move |out, record| {
        out.write_all(
            form.line(record.level(), &record.args().to_string())
                .as_bytes(),
        )
    });
    // A second start in one process (tests that run two roles) keeps the first log.
    let _ = builder.try_init();
    Ok(())
}

/// What stands in front of a line.
#[derive(Clone, Copy)]
enum Form {
    /// A priority: the journal takes it off, and adds the time itself (sd-daemon(3)).
    Priority,
    /// Time and level.
    Time,
}

impl Form {
    fn of_stderr() -> Self {
        if journal_reads_stderr() {
            Self::Priority
        } else {
            Self::Time
        }
    }

    fn line(self, level: Level, text: &str) -> String {
        let text = wire::one_line(text);
        match self {
            Self::Priority => {
                let priority = match level {
                    Level::Error => 3,
                    Level::Warn => 4,
                    Level::Info => 6,
                    Level::Debug | Level::Trace => 7,
                };
                format!("<{priority}>{text}\n")
            }
            Self::Time => {
                let now = wire::timestamp(SystemTime::now());
                format!("{now} {level:<5} {text}\n")
            }
        }
    }
}

/// How long a line waits for a reader that has fallen behind.
const PATIENCE: Duration = Duration::from_millis(100);
/// What is written at once: so much fits into a pipe or socket that has room at all (pipe(7),
/// `PIPE_BUF`). A terminal may have less, and is waited for.
const AT_ONCE: usize = 4096;

/// Stderr, on which nobody waits for long. Whoever reads it may have stopped doing so (a supervisor
/// that hangs, a pager, a terminal with Ctrl-S), and a mesh must not stop with him: lines he does
/// not take are lost, and counted.
#[derive(Debug, Default)]
pub struct Stderr {
    lost: u64,
}

impl Stderr {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.lost > 0 && has_room(Duration::ZERO) {
            let lost = std::mem::take(&mut self.lost);
            let word = format!("lines of the log that nobody read in time and are lost: {lost}");
            let word = Form::of_stderr().line(Level::Warn, &word);
            io::stderr().write_all(word.as_bytes())?;
        }
        for part in line.chunks(AT_ONCE) {
            // Once lines are lost, the next ones do not wait: their senders have work to do.
            let patience = match self.lost {
                0 => PATIENCE,
                _ => Duration::ZERO,
            };
            if !has_room(patience) {
                self.lost += 1;
                return Ok(());
            }
            io::stderr().write_all(part)?;
        }
        Ok(())
    }
}

impl Write for Stderr {
    /// Takes a whole line. It may be lost, which is no error.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_line(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether stderr takes a part of a line within `patience`. Where it cannot be asked, it does.
fn has_room(patience: Duration) -> bool {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let patience = Timespec::try_from(patience).ok();
    match poll(&mut fds, patience.as_ref()) {
        // A signal: time to end, and not to wait on.
        Err(Errno::INTR) => has_room(Duration::ZERO),
        ready => ready != Ok(0),
    }
}

fn filters(default_level: &str) -> Result<String, String> {
    for name in ["LOG_LEVEL", "RUST_LOG"] {
        let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else {
            continue;
        };
        let value = value.to_string_lossy();
        return read_filters(&value).ok_or_else(|| {
            format!("{name}={value}: allowed is error, warn, info, debug, trace, off or directives like info,aios_mesh::http=debug")
        });
    }
    Ok(default_level.to_owned())
}

/// A level, or directives as `env_logger` takes them.
fn read_filters(value: &str) -> Option<String> {
    if value.contains(['=', ',', ':']) {
        let valid = env_filter::Builder::new().try_parse(value).is_ok();
        return valid.then(|| value.to_owned());
    }
    // A word alone would be taken for a module, and a mistyped level would log everything.
    let level = match value.to_ascii_lowercase().as_str() {
        // The names Python's logging gives these levels: the services replaced here were set so.
        "warning" => "warn".to_owned(),
        "critical" | "fatal" => "error".to_owned(),
        level => level.to_owned(),
    };
    level.parse::<LevelFilter>().is_ok().then_some(level)
}

/// systemd names the device and inode of the socket it reads in `JOURNAL_STREAM`; only when stderr
/// is that very socket does the journal read what is written here (systemd.exec(5)).
fn journal_reads_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
