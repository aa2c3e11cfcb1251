//! A discovery with peers in it.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::thread;

use crate::Result;
use crate::child::{Child, free_port};
use crate::client::Connection;
use crate::fixed::Replies;
use crate::requests;

/// Over how many connections peers are registered.
const CONNECTIONS: usize = 32;
/// In which nobody is reaped who was registered and never beats.
pub const FOR_EVER: [&str; 4] = ["--stale-after", "60m", "--hold-min", "0"];

/// Starts a discovery that knows nobody.
pub fn empty(flags: &[&str]) -> Result<Child> {
    let port = free_port()?;
    let port_flags = [
        "--host".into(),
        "127.0.0.1".into(),
        "--port".into(),
        port.to_string(),
    ];
    let flags = flags.iter().map(|&flag| flag.to_owned());
    let arguments: Vec<String> = port_flags.into_iter().chain(flags).collect();
    Child::start(env!("CARGO_BIN_EXE_aios-discovery"), &arguments, port)
}

/// Starts one that keeps so many peers.
pub fn with_peers(peers: usize) -> Result<Child> {
    let discovery = empty(&FOR_EVER)?;
    register(discovery.address, 0..peers)?;
    Ok(discovery)
}

/// Registers peers, in no particular order.
pub fn register(address: SocketAddr, numbers: Range<usize>) -> Result<()> {
    let register = |first: usize, numbers: Range<usize>| -> io::Result<()> {
        let mut connection = Connection::to(address)?;
        for number in numbers.skip(first).step_by(CONNECTIONS) {
            let status = connection.ask(&requests::register(number))?.status;
            if status != 200 {
                return Err(io::Error::other(format!("answered {status}")));
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|first| {
                let numbers = numbers.clone();
                scope.spawn(move || register(first, numbers))
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| "a registration panicked")??;
        }
        Ok(())
    })
}

/// How many peers there are, as the answer to the heartbeat of peer `number` says.
pub fn count(connection: &mut Connection, number: usize) -> Result<usize> {
    #[derive(serde::Deserialize)]
    struct Beat {
        peers_count: usize,
    }
    let answer = connection.ask(&requests::heartbeat(number))?;
    let beat: Beat = serde_json::from_slice(answer.body)?;
    Ok(beat.peers_count)
}

/// What it answers, for servers that are to answer the same.
pub fn replies(address: SocketAddr) -> Result<Replies> {
    let mut connection = Connection::to(address)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
    Ok(Replies {
        list: connection.ask(&requests::peers())?.body.len(),
        kept: text(connection.ask(&requests::heartbeat(0))?.whole)?,
        last: text(connection.ask(&requests::last_heartbeat(0))?.whole)?,
    })
}
