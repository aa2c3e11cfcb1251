//! The requests under `benches/requests`, as bytes.

const HEARTBEAT: &str = include_str!("../requests/heartbeat.http");
const REGISTER: &str = include_str!("../requests/register.http");
const PEERS: &str = include_str!("../requests/peers.http");

/// The heartbeat of peer `number`.
pub fn heartbeat(number: usize) -> Vec<u8> {
    filled(HEARTBEAT, number)
}

/// The same, where the connection is to end with it.
pub fn last_heartbeat(number: usize) -> Vec<u8> {
    filled(&HEARTBEAT.replace("keep-alive", "close"), number)
}

/// The registration of peer `number`.
pub fn register(number: usize) -> Vec<u8> {
    filled(REGISTER, number)
}

/// The question for the list.
pub fn peers() -> Vec<u8> {
    filled(PEERS, 0)
}

/// The bytes of `file`: its lines end as HTTP wants it, its body has no line end, and every id has
/// the same length.
fn filled(file: &str, number: usize) -> Vec<u8> {
    let (head, body) = file.split_once("\n\n").unwrap_or((file, ""));
    let head = head.replace('\n', "\r\n");
    format!("{head}\r\n\r\n{}", body.trim_end())
        .replace("cell-000000", &format!("cell-{number:06}"))
        .into_bytes()
}
