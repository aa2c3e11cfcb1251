//! A socket that is passed on to discovery, as the service manager does it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use socket2::{Domain, Socket, Type};

use super::{Child, command};

/// What passes one descriptor: only the process itself knows its id before it runs, and `exec`
/// keeps it.
pub const ONE: &str = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#;

/// A discovery that is started by a shell script. The script has the first socket as its stdin, a
/// second as its stdout, and the program with its flags as its arguments.
pub fn passed(sockets: Vec<OwnedFd>, script: &str, flags: &[&str]) -> Command {
    let program = command("aios-discovery");
    let mut shell = Command::new("sh");
    shell.env_clear().stdout(Stdio::null());
    shell
        .args(["-c", script, "sh"])
        .arg(program.get_program())
        .args(flags);
    let mut sockets = sockets.into_iter();
    shell.stdin(Stdio::from(sockets.next().expect("a socket")));
    if let Some(second) = sockets.next() {
        shell.stdout(Stdio::from(second));
    }
    shell
}

/// A socket that outlives those who serve it.
pub struct Held {
    pub socket: TcpListener,
    /// Where it is, as `IP:PORT`.
    pub address: String,
}

impl Held {
    /// Listens on a free port.
    pub fn open() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a free port");
        socket.listen(1024).expect("listening");
        let socket = TcpListener::from(socket);
        let address = socket.local_addr().expect("bound").to_string();
        Self { socket, address }
    }

    /// A discovery that serves it.
    pub fn discovery(&self, flags: &[&str]) -> Child {
        let socket = self.socket.try_clone().expect("a descriptor");
        Child::listening(passed(vec![socket.into()], ONE, flags))
    }
}
