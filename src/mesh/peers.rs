//! `aios-mesh peers`: the list, once.

use std::time::{Duration, SystemTime};

use clap::ValueEnum;

use super::{Target, table};
use crate::program::{self, Failure};

/// What `peers` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,

    /// How to print the list.
    #[arg(long, env = "AIOS_FORMAT", value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For reading.
    Table,
    /// As discovery sends it.
    Json,
    /// A header line, then tabs between columns.
    Tsv,
    /// One id a line.
    Ids,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    program::start_log()?;
    let (list, body) = arguments
        .target
        .client()?
        .peers()
        .map_err(|e| arguments.target.failure(&e))?;
    if list.settling {
        log::warn!("discovery has only just started: cells may still be missing here");
    }
    let now = SystemTime::now();
    let text = match arguments.format {
        Format::Table => table::table(&list, now, Duration::ZERO),
        Format::Json => table::json(&body),
        Format::Tsv => table::tsv(&list, now),
        Format::Ids => table::ids(&list),
    };
    program::print(&text)
}
