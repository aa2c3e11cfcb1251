//! Reading flags and environment variables: the value types the settings share, and errors that
//! fit one line.

use std::error::Error as _;
use std::ffi::OsString;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Parser};

use crate::program::Failure;
use crate::wire;

pub use crate::wire::duration;

/// Reads the settings from the command line and the environment. `--help` and `--version` print
/// and end the process.
///
/// # Errors
/// One line (exit code 2) that names the flag or variable, its value and what is allowed.
pub fn parse<S: Parser>() -> Result<S, Failure> {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let command = without_empty_variables(S::command());
    let result = command
        .clone()
        .try_get_matches_from(&argv)
        .and_then(|mut matches| S::from_arg_matches_mut(&mut matches));
    result.map_err(|e| match e.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            e.exit();
        }
        _ => Failure::usage(one_line(&e, &command, &argv)),
    })
}

/// The settings that `argv` gives with no variable set: flags and defaults alone.
///
/// # Errors
/// As [`parse`].
pub fn without_environment<S: Parser>(argv: &[&str]) -> Result<S, Failure> {
    let command = S::command().mut_args(|arg| arg.env(None::<&'static str>));
    let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
    command
        .clone()
        .try_get_matches_from(&argv)
        .and_then(|mut matches| S::from_arg_matches_mut(&mut matches))
        .map_err(|e| Failure::usage(one_line(&e, &command, &argv)))
}

/// The name this process was started under.
#[must_use]
pub fn program_name() -> String {
    std::env::args_os()
        .next()
        .and_then(|path| {
            std::path::Path::new(&path)
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
        })
        .unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned())
}

/// Compose files and unit files set variables to nothing to mean "not set"; so it is read here.
fn without_empty_variables(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_env() {
            Some(name) if std::env::var_os(name).is_some_and(|value| value.is_empty()) => {
                arg.env(None::<&'static str>)
            }
            _ => arg,
        })
        .mut_subcommands(without_empty_variables)
}

fn one_line(error: &clap::Error, command: &Command, argv: &[OsString]) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let mut line = match error.kind() {
        // Put together here: in clap's text the value may bring lines of its own.
        ErrorKind::ValueValidation => format!(
            "invalid value '{}' for '{}': {}",
            wire::one_line(context(ContextKind::InvalidValue).unwrap_or_default()),
            context(ContextKind::InvalidArg).unwrap_or_default(),
            error
                .source()
                .map_or("it is not allowed".to_owned(), ToString::to_string)
        ),
        ErrorKind::InvalidUtf8 => format!("{} is not UTF-8", not_utf8(command, argv)),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_owned()
        }
    };
    // What is missing stands on the lines below.
    if error.kind() == ErrorKind::MissingRequiredArgument
        && let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg)
    {
        line = format!("missing: {}", missing.join(", "));
    }
    // So do the values there are.
    if let Some(ContextValue::Strings(allowed)) = error.get(ContextKind::ValidValue)
        && !allowed.is_empty()
    {
        line = format!("{line}: allowed is {}", allowed.join(", "));
    }
    if let Some(variable) = variable_at_fault(error, command, argv) {
        line = format!("{line} (from the variable {variable})");
    }
    format!("{line}; see --help")
}

/// What clap found not to be UTF-8, which it does not say.
fn not_utf8(command: &Command, argv: &[OsString]) -> String {
    if let Some(argument) = argv.iter().find(|argument| argument.to_str().is_none()) {
        return format!("the argument '{}'", argument.to_string_lossy());
    }
    let commands = std::iter::once(command).chain(command.get_subcommands());
    let mut variables = commands.flat_map(Command::get_arguments).filter_map(|arg| {
        let name = arg.get_env()?;
        let value = std::env::var_os(name)?;
        let value = value
            .to_str()
            .is_none()
            .then(|| value.to_string_lossy().into_owned())?;
        Some(format!(
            "the variable {}, '{value}',",
            name.to_string_lossy()
        ))
    });
    variables.next().unwrap_or_else(|| "a variable".to_owned())
}

/// clap names the flag even where the value came from its variable.
fn variable_at_fault(error: &clap::Error, command: &Command, argv: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(usage)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = usage.split_whitespace().next()?;
    let on_the_command_line = argv.iter().any(|arg| {
        let arg = arg.to_string_lossy();
        arg == flag || arg.starts_with(&format!("{flag}="))
    });
    if on_the_command_line {
        return None;
    }
    find_variable(command, flag)
}

fn find_variable(command: &Command, named: &str) -> Option<String> {
    command
        .get_arguments()
        .find(|arg| match arg.get_long() {
            Some(long) => named == format!("--{long}"),
            None => named == format!("[{}]", arg.get_id().as_str().to_uppercase()),
        })
        .and_then(|arg| arg.get_env())
        .filter(|name| std::env::var_os(name).is_some())
        .map(|name| name.to_string_lossy().into_owned())
        .or_else(|| {
            command
                .get_subcommands()
                .find_map(|sub| find_variable(sub, named))
        })
}

/// A parser for a [`duration`] within `range`.
pub fn duration_within(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let [least, most] = [range.start(), range.end()].map(|bound| show_duration(*bound));
        match duration(text) {
            Ok(value) if range.contains(&value) => Ok(value),
            Ok(_) => Err(format!("allowed is {least} to {most}")),
            Err(why) => Err(format!("{why}, from {least} to {most}")),
        }
    }
}

/// `duration` as it would be typed.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        m if m % 60_000 == 0 => format!("{}m", m / 60_000),
        m if m % 1_000 == 0 => format!("{}s", m / 1_000),
        m => format!("{m}ms"),
    }
}

/// A port number, 0 for any free one.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn port(text: &str) -> Result<u16, String> {
    text.trim()
        .parse()
        .map_err(|_| "allowed is 0 (any free port) to 65535".to_owned())
}

/// How many of something there may be, at least one.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn count(text: &str) -> Result<usize, String> {
    text.trim()
        .parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| "allowed is a whole number from 1 on".to_owned())
}

/// How many of something there may be, 0 for none.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn count_or_none(text: &str) -> Result<usize, String> {
    text.trim()
        .parse()
        .map_err(|_| "allowed is a whole number from 0 on".to_owned())
}

/// A revision of the membership.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn revision(text: &str) -> Result<u64, String> {
    text.trim()
        .parse()
        .map_err(|_| "allowed is a revision as discovery says it, a whole number".to_owned())
}

/// Whether something that is off unless it is asked for is on.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err("allowed is true, on, yes, 1 or false, off, no, 0".to_owned()),
    }
}

/// A finite number.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn level(text: &str) -> Result<f64, String> {
    text.trim()
        .parse()
        .ok()
        .filter(|level: &f64| level.is_finite())
        .ok_or_else(|| "allowed is a finite number".to_owned())
}

/// How a setting is shown whose value is nobody's business.
#[must_use]
pub fn given<T>(setting: Option<&T>) -> &'static str {
    match setting {
        Some(_) => "given",
        None => "none",
    }
}

/// An address or name to listen on; IPv6 with or without brackets.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn host(text: &str) -> Result<String, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    // Four numbers would be looked up as a name, in vain: an address with a slip in it.
    let is_number = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit());
    let is_slip = bare.parse::<IpAddr>().is_err()
        && bare.split('.').count() == 4
        && bare.split('.').all(is_number);
    match wire::check_host(bare) {
        Ok(()) if !is_slip => Ok(bare.to_owned()),
        Ok(()) => Err("allowed is an IP address or a host name".to_owned()),
        Err(why) => Err(format!("{why}; allowed is an IP address or a host name")),
    }
}

/// A [`host`] that others can be told of: not one that stands for all addresses.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn reachable_host(text: &str) -> Result<String, String> {
    let host = host(text)?;
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.to_canonical().is_unspecified() => Err(format!(
            "{ip} stands for all addresses; allowed is one that others reach"
        )),
        _ => Ok(host),
    }
}

/// Short text as discovery takes it: at most 255 bytes, no control characters.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn text(text: &str) -> Result<String, String> {
    wire::check_text(text)?;
    Ok(text.to_owned())
}

/// [`text`] that is not empty.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("allowed is a name of 1 to 255 bytes".to_owned()),
        text => self::text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "5h",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615m",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_is_shown_as_it_would_be_typed() {
        for text in ["500ms", "1500ms", "5s", "90s", "2m"] {
            let typed = duration(text).map(show_duration);
            assert_eq!(typed.as_deref(), Ok(text));
        }
    }
}
