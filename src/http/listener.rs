//! The bound socket, and how many connections the process can hold.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use super::tiny;
use crate::program::Failure;
use crate::wire;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;
/// The most connections held where nothing else is said: each has a thread while it lasts.
const MOST_CONNECTIONS: usize = 8192;
/// More descriptors than this are of no use.
const MOST_DESCRIPTORS: u64 = 65_536;
/// Descriptors kept for everything that is no connection: the standard streams, listening, waking
/// the accept loop, files, calls of our own, and connections on their way out.
const RESERVE: usize = 48 + tiny::DESCRIPTORS;

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `host` (an address or a name) and `port` (0: any free one).
    ///
    /// # Errors
    /// One line that names the address, what is wrong and what to do.
    pub fn bind(host: &str, port: u16) -> Result<Self, Failure> {
        let at = wire::host_port(host, port);
        let fail = |e: io::Error| {
            let advice = match e.kind() {
                io::ErrorKind::AddrInUse => {
                    "; stop what listens there, or choose another port with --port"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "; choose an address of this host with --host, or 0.0.0.0 for all"
                }
                io::ErrorKind::PermissionDenied => {
                    "; ports below 1024 need a privilege, choose another with --port"
                }
                _ => "",
            };
            Failure::new(format!("cannot listen on {at}: {e}{advice}"))
        };
        let named = (host, port).to_socket_addrs().map_err(|e| {
            Failure::new(format!(
                "cannot look up {host}: {e}; choose an address of this host with --host"
            ))
        })?;
        let mut addresses: Vec<SocketAddr> = named.collect();
        // A name may stand for several; IPv4 is where everybody looks.
        addresses.sort_by_key(|address| !address.is_ipv4());
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match listen(address) {
                Ok(socket) => {
                    let address = socket.local_addr().map_err(fail)?;
                    return Ok(Self { socket, address });
                }
                Err(e) => last = e,
            }
        }
        Err(fail(last))
    }

    /// The address that is listened on, with the port that was found where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for connections of its predecessor to be forgotten.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // Accepted connections inherit this: replies leave in one write and must not wait.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How many connections this process can hold, after raising its limit of descriptors as far as
/// it may.
///
/// # Errors
/// When `asked` is given and is more than that, one line that says how many there could be.
pub fn connections(asked: Option<usize>) -> Result<usize, Failure> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(MOST_DESCRIPTORS);
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    let current = limit.current.unwrap_or(u64::MAX);
    let descriptors = if current < wanted && setrlimit(Resource::Nofile, raised).is_ok() {
        wanted
    } else {
        current
    };
    let most = usize::try_from(descriptors)
        .unwrap_or(usize::MAX)
        .saturating_sub(RESERVE)
        .max(1);
    match asked {
        Some(asked) if asked > most => Err(Failure::usage(format!(
            "--max-connections {asked}: the limit of {descriptors} file descriptors leaves room for {most}"
        ))),
        Some(asked) => Ok(asked),
        None => Ok(most.min(MOST_CONNECTIONS)),
    }
}
