//! Text for people: what came from outside, made harmless, and addresses.

use std::time::Duration;

use std::borrow::Cow;
use std::fmt::Display;
use std::net::IpAddr;

use super::is_control;

/// Control characters would let whoever chose a name forge a log line or steer a terminal.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_control(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// At most so many characters of `text`, with a sign where some are left out.
#[must_use]
pub fn cut(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// The port behind a host: IPv6 in brackets.
#[must_use]
pub fn host_port(host: &str, port: impl Display) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// A duration as `500ms`, `5s` or `2m`.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    millis
        .zip(number.parse::<u64>().ok())
        .and_then(|(unit, number)| number.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| "allowed is a duration like 500ms, 5s or 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_outside_cannot_start_a_new_line() {
        assert_eq!(
            one_line("a\nb\u{1b}[2Jc\u{2028}ü"),
            "a\\nb\\u{1b}[2Jc\\u{2028}ü"
        );
    }

    #[test]
    fn ipv6_stands_in_brackets_before_a_port() {
        assert_eq!(host_port("::1", 80), "[::1]:80");
        assert_eq!(host_port("127.0.0.1", 80), "127.0.0.1:80");
    }
}
