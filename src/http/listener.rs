//! The bound socket, our own or one passed on by the service manager, and how many connections the process can hold.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use listenfd::ListenFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::tiny;
use crate::wire;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;
/// More descriptors than this are of no use.
const MOST_DESCRIPTORS: u64 = 65_536;
/// Descriptors kept for everything that is no connection: the standard streams, listening, waking
/// the accept loop, files, connections on their way out, and asking ourselves, which takes both ends.
const RESERVE: usize = 52 + tiny::DESCRIPTORS;

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: TcpListener,
    address: SocketAddr,
    inherited: bool,
}

/// Why there is no [`Listener`].
#[derive(Debug)]
pub struct BindError {
    attempted: String,
    cause: io::Error,
}

impl BindError {
    /// What kind of error it was, as the system has it.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.cause.kind()
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.attempted, self.cause)
    }
}

impl Listener {
    /// Listens on `host` (an address or a name) and `port` (0: any free one).
    ///
    /// # Errors
    /// When the name is not found, or none of its addresses can be listened on.
    pub fn bind(host: &str, port: u16) -> Result<Self, BindError> {
        let named = (host, port).to_socket_addrs().map_err(|cause| BindError {
            attempted: format!("look up {host}"),
            cause,
        })?;
        let fail = |cause| BindError {
            attempted: format!("listen on {}", wire::host_port(host, port)),
            cause,
        };
        let mut addresses: Vec<SocketAddr> = named.collect();
        // A name may stand for several; IPv4 is where everybody looks.
        addresses.sort_by_key(|address| !address.is_ipv4());
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match listen(address) {
                Ok(socket) => {
                    let address = socket.local_addr().map_err(fail)?;
                    return Ok(Self {
                        socket,
                        address,
                        inherited: false,
                    });
                }
                Err(e) => last = e,
            }
        }
        Err(fail(last))
    }

    /// The socket that the service manager holds and has passed on (`LISTEN_FDS`), where there is
    /// one. It outlives this process, and what waits in its queue is the successor's. To be called
    /// once, before there are threads: it takes the variables out of the environment.
    ///
    /// # Errors
    /// A sentence when what was passed is not one TCP socket that listens.
    pub fn inherited() -> Result<Option<Self>, String> {
        // Variables without a process id, or with another's, were meant for somebody else.
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(None);
        }
        let mut passed = ListenFd::from_env();
        match passed.len() {
            0 => return Ok(None),
            1 => {}
            count => {
                return Err(format!(
                    "the service manager passed {count} sockets, and one is served; leave a single ListenStream= in the socket unit"
                ));
            }
        }
        let adopted = passed.take_tcp_listener(0).and_then(|socket| {
            let socket = socket.ok_or_else(|| io::Error::other("it is gone"))?;
            adopt(socket)
        });
        adopted.map(Some).map_err(|e| {
            format!(
                "what the service manager passed is not a TCP socket that listens ({e}); give the socket unit one ListenStream= with a port, and no Accept=yes"
            )
        })
    }

    /// Whether the service manager holds the socket, too.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Sets the time-outs that connections have which are established from now on: it saves two
    /// system calls for each.
    ///
    /// # Errors
    /// When the system does not do it.
    pub(super) fn hand_down(&self, read: Duration, write: Duration) -> io::Result<()> {
        // Zero would be no time-out at all.
        let least = Duration::from_millis(1);
        let socket = SockRef::from(&self.socket);
        socket.set_read_timeout(Some(read.max(least)))?;
        socket.set_write_timeout(Some(write.max(least)))
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

/// Makes a socket that was passed on like one of our own.
fn adopt(socket: TcpListener) -> io::Result<Listener> {
    let socket = Socket::from(socket);
    if !socket.is_listener()? {
        return Err(io::Error::other("it does not listen"));
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let socket = TcpListener::from(socket);
    let address = socket.local_addr()?;
    Ok(Listener {
        socket,
        address,
        inherited: true,
    })
}

/// How many connections this process can hold.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The descriptors it may have, all in all.
    pub descriptors: u64,
    /// The connections these leave room for.
    pub connections: usize,
}

impl Room {
    /// Raises this process's limit of descriptors as far as it may, and sees what that gives.
    #[must_use]
    pub fn make() -> Self {
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
        let connections = usize::try_from(descriptors)
            .unwrap_or(usize::MAX)
            .saturating_sub(RESERVE)
            .max(1);
        Self {
            descriptors,
            connections,
        }
    }
}
