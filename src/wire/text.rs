//! Text for people: what came from outside, made harmless, and addresses.

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
