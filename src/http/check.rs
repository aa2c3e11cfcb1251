//! The health check of an image without a shell: asks a program of ours for its `/health`.
//!
//! By hand and not through [`crate::client`], so that discovery, which calls nobody, need not
//! carry a TLS library for it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::connection::is_retry;
use crate::wire;

/// How long the check may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Where a status line must have ended.
pub(super) const STATUS_LINE: usize = 1024;

/// Asks the program that listens on `host` and `port`.
///
/// # Errors
/// A sentence when it does not answer with 200.
pub fn check(host: &str, port: u16) -> Result<(), String> {
    // The address to listen on is not always one to call.
    let host = match host.parse() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => "127.0.0.1",
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "::1",
        _ => host,
    };
    let at = wire::host_port(host, port);
    match status(host, port, &at) {
        Ok(200) => Ok(()),
        Ok(status) => Err(format!(
            "{at} is not healthy: it answered with status {status}"
        )),
        Err(e) => Err(format!("{at} is not healthy: {e}")),
    }
}

fn status(host: &str, port: u16, at: &str) -> io::Result<u16> {
    let deadline = Instant::now() + TIMEOUT;
    let mut stream = connect(host, port, deadline)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(request(at, "close").as_bytes())?;
    let mut answer = Vec::new();
    loop {
        if let Some(status) = status_in(&answer) {
            return Ok(status);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; STATUS_LINE];
        match stream.read(&mut bytes) {
            Ok(count) if count > 0 && answer.len() < STATUS_LINE => {
                answer.extend_from_slice(&bytes[..count]);
            }
            Ok(_) => return Err(io::Error::other("what it answered is not HTTP")),
            Err(e) if is_retry(&e) => {}
            Err(e) => return Err(e),
        }
    }
}

/// What `/health` is asked for with.
pub(super) fn request(at: &str, connection: &str) -> String {
    format!("GET /health HTTP/1.1\r\nHost: {at}\r\nConnection: {connection}\r\n\r\n")
}

fn connect(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        match TcpStream::connect_timeout(&address, left.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// The status, once its line has arrived.
pub(super) fn status_in(answer: &[u8]) -> Option<u16> {
    let mut headers = [httparse::EMPTY_HEADER; 0];
    let mut response = httparse::Response::new(&mut headers);
    // Whatever it makes of the headers, the status line comes first.
    let _ = response.parse(answer);
    response.code
}
