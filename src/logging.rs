//! The log: lines on stderr, or records for the journal when systemd reads them.

use std::io::Write;
use std::time::SystemTime;

use log::Level;

use crate::wire;

/// Starts the log. `LOG_LEVEL` sets the level, else `RUST_LOG`, else `default_level`; both take a
/// level (`debug`) or directives (`info,aios_mesh::http=trace`).
///
/// # Errors
/// A sentence that names the variable, when its value is neither.
pub fn start(default_level: &str, target: env_logger::Target) -> Result<(), String> {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&filters(default_level)?);
    builder.target(target);
    if journal_reads_stderr() {
        // The journal adds the time itself and takes the priority from the front of the line.
        builder.format(|out, record| {
            let priority = match record.level() {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            writeln!(
                out,
                "<{priority}>{}",
                wire::one_line(&record.args().to_string())
            )
        });
    } else {
        builder.format(|out, record| {
            let now = wire::timestamp(SystemTime::now());
            let level = record.level();
            writeln!(
                out,
                "{now} {level:<5} {}",
                wire::one_line(&record.args().to_string())
            )
        });
    }
    // A second start in one process (tests that run two roles) keeps the first log.
    let _ = builder.try_init();
    Ok(())
}

fn filters(default_level: &str) -> Result<String, String> {
    for name in ["LOG_LEVEL", "RUST_LOG"] {
        let Ok(value) = std::env::var(name) else {
            continue;
        };
        if value.is_empty() {
            continue;
        }
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
    level.parse::<log::LevelFilter>().is_ok().then_some(level)
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
