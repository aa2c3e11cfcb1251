//! A server as seen from outside by its own process: whether it answers, and what to do if not.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::accept::Accepting;
use super::check::{self, STATUS_LINE};
use super::server::Shared;

/// How long an answer is waited for at a time. One that did not come in the whole of it, though this
/// thread was there at both ends, did not come; of a longer absence no more than this counts.
const STEP: Duration = Duration::from_millis(100);
/// How many times.
const STEPS: u32 = 10;

/// The door of a running server. It does not keep the server from being stopped.
pub struct Door {
    shared: Arc<Shared>,
    accepting: Arc<Accepting>,
    address: SocketAddr,
}

impl Door {
    pub(super) fn new(
        shared: &Arc<Shared>,
        accepting: &Arc<Accepting>,
        address: SocketAddr,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            accepting: Arc::clone(accepting),
            address,
        }
    }

    /// How many connections had their first request answered so far; those of [`Door::ask`] do not
    /// count. Each more shows that the door answers.
    #[must_use]
    pub fn first_answers(&self) -> u64 {
        self.shared.first_answers.load(Ordering::Relaxed)
    }

    /// Asks for `/health` as a client would, on a connection that has a place of its own beyond the
    /// limit. That takes a second at most, not counting time in which the process did not run;
    /// `is_over` is asked several times a second whether to go on.
    ///
    /// # Errors
    /// Why there was no 200 in that time.
    pub fn ask(&self, is_over: impl Fn() -> bool) -> io::Result<()> {
        match self.ask_at(reachable(self.address), &is_over) {
            // A host that has IPv6 in name only.
            Err(e)
                if e.kind() == ErrorKind::AddrNotAvailable
                    && self.address.ip() == Ipv6Addr::UNSPECIFIED =>
            {
                let at = (Ipv4Addr::LOCALHOST, self.address.port());
                self.ask_at(at.into(), &is_over)
            }
            asked => asked,
        }
    }

    /// Has another thread accept connections in place of the present one, which may hang; it ends
    /// as soon as it goes on.
    ///
    /// # Errors
    /// When a thread or a descriptor cannot be had, or the server is being stopped.
    pub fn renew(&self) -> io::Result<()> {
        self.accepting.renew()
    }

    fn ask_at(&self, at: SocketAddr, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        let mut probe = Probe::new(self, at)?;
        probe.connect(at, is_over)?;
        let request = check::request("localhost", "keep-alive");
        probe.socket.write_all(request.as_bytes())?;
        match probe.status(is_over)? {
            200 => Ok(()),
            status => Err(io::Error::other(format!("status {status}"))),
        }
    }
}

/// The connections of a server, for whoever it serves: they keep it no longer than it runs.
pub struct Connections(pub(super) Weak<Shared>);

impl Connections {
    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        let shared = self.0.upgrade();
        shared.map_or(0, |shared| shared.connections())
    }
}

/// The address at which what listens on `address` can be called.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Our own connection, which the accept loop knows by where it comes from.
struct Probe<'a> {
    shared: &'a Shared,
    socket: Socket,
    steps: u32,
}

impl<'a> Probe<'a> {
    fn new(door: &'a Door, at: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // Asked many times an hour, it is to leave nothing behind in the system's tables.
        socket.set_linger(Some(Duration::ZERO))?;
        let mut local = at;
        local.set_port(0);
        socket.bind(&local.into())?;
        let local = socket.local_addr()?.as_socket();
        let probe = Self {
            shared: &door.shared,
            socket,
            steps: STEPS,
        };
        probe.shared.expect_probe(local);
        Ok(probe)
    }

    fn connect(&mut self, at: SocketAddr, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        match self.socket.connect(&at.into()) {
            Ok(()) => return Ok(()),
            Err(e) if is_under_way(&e) => {}
            Err(e) => return Err(e),
        }
        self.wait(PollFlags::OUT, is_over)?;
        self.socket.take_error()?.map_or(Ok(()), Err)
    }

    fn status(&mut self, is_over: &dyn Fn() -> bool) -> io::Result<u16> {
        let mut answer = Vec::new();
        loop {
            if let Some(status) = check::status_in(&answer) {
                return Ok(status);
            }
            let mut bytes = [0; STATUS_LINE];
            match self.socket.read(&mut bytes) {
                Ok(count) if count > 0 && answer.len() < STATUS_LINE => {
                    answer.extend_from_slice(&bytes[..count]);
                }
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Err(io::Error::other("what it answered is not HTTP")),
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN, is_over)?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until the socket is ready, for as many steps as are left.
    fn wait(&mut self, what: PollFlags, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        let step = Timespec::try_from(STEP).ok();
        while self.steps > 0 && !is_over() {
            let mut fds = [PollFd::new(&self.socket, what)];
            match poll(&mut fds, step.as_ref()) {
                Ok(0) => self.steps -= 1,
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"))
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.shared.expect_probe(None);
    }
}

fn is_under_way(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::INPROGRESS)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    use super::*;
    use crate::http::{Handler, Limits, Listener, Reply, Request, Server};
    use crate::shutdown::Latch;

    const SOON: Duration = Duration::from_secs(10);

    /// Answers our own questions at once, those of others when it is let, and hangs the accept loop
    /// when that has turned somebody away.
    #[derive(Default)]
    struct Stalling {
        asked: Latch,
        answer: Latch,
        turned_away: Latch,
        go_on: Latch,
        probes: AtomicUsize,
    }

    impl Handler for Stalling {
        fn handle(&self, request: &Request) -> Reply {
            if request.is_probe() {
                self.probes.fetch_add(1, Ordering::SeqCst);
            } else {
                self.asked.set();
                assert!(self.answer.wait_for(SOON));
            }
            Reply::with_body(200, "text/plain", Vec::new())
        }

        fn refused(&self, _: u16) {
            self.turned_away.set();
            assert!(self.go_on.wait_for(SOON));
        }
    }

    impl Stalling {
        /// A server with room for one connection.
        fn serve(self: &Arc<Self>) -> Server {
            let listener = Listener::bind("127.0.0.1", 0).expect("a free port");
            let limits = Limits::new(1, SOON);
            Server::start(listener, limits, Arc::clone(self) as Arc<dyn Handler>).expect("started")
        }

        /// A server whose accept loop hangs.
        fn hang(self: &Arc<Self>) -> (Server, [TcpStream; 2]) {
            let server = self.serve();
            let first = ask(&server);
            assert!(self.asked.wait_for(SOON));
            let second = ask(&server);
            assert!(self.turned_away.wait_for(SOON));
            (server, [first, second])
        }
    }

    fn ask(server: &Server) -> TcpStream {
        let mut stream = TcpStream::connect(server.address()).expect("it listens");
        let request = check::request("h", "close");
        stream.write_all(request.as_bytes()).expect("sent");
        stream
    }

    fn status(mut stream: TcpStream) -> Option<u16> {
        let mut answer = Vec::new();
        stream.set_read_timeout(Some(SOON)).expect("set");
        stream.read_to_end(&mut answer).expect("an answer");
        check::status_in(&answer)
    }

    #[test]
    fn it_answers_us_when_there_is_no_room_for_others() {
        let stalling = Arc::new(Stalling::default());
        stalling.go_on.set();
        let server = stalling.serve();
        let door = server.door();
        let first = ask(&server);
        assert!(stalling.asked.wait_for(SOON));
        for _ in 0..3 {
            assert_eq!(status(ask(&server)), Some(503));
            door.ask(|| false).expect("an answer");
        }
        // Whoever has the only place has lost nothing by it, and the place is not counted twice.
        stalling.answer.set();
        assert_eq!(status(first), Some(200));
        assert_eq!(status(ask(&server)), Some(200));
        assert_eq!(stalling.probes.load(Ordering::SeqCst), 3);
        let deadline = Instant::now() + SOON;
        while door.first_answers() < 2 {
            assert!(Instant::now() < deadline, "both are counted");
        }
        assert_eq!(door.first_answers(), 2);
        server.stop(Duration::from_secs(1));
        assert!(door.ask(|| false).is_err(), "nobody is there");
    }

    #[test]
    fn it_is_found_wherever_it_listens() {
        let handler = Arc::new(Stalling::default());
        for host in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
            let Ok(listener) = Listener::bind(host, 0) else {
                // A host without IPv6.
                continue;
            };
            let handler = Arc::clone(&handler) as Arc<dyn Handler>;
            let server = Server::start(listener, Limits::new(1, SOON), handler).expect("started");
            let asked = server.door().ask(|| false);
            assert!(asked.is_ok(), "{host}: {asked:?}");
            server.stop(Duration::from_secs(1));
        }
    }

    #[test]
    fn an_accept_loop_that_hangs_is_replaced() {
        let stalling = Arc::new(Stalling::default());
        let (server, [first, second]) = stalling.hang();
        let door = server.door();
        let asked = Instant::now();
        let error = door.ask(|| false).expect_err("it hangs");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(asked.elapsed() >= STEPS * STEP);
        assert!(door.ask(|| true).is_err(), "it is given up at once");

        door.renew().expect("a thread");
        door.ask(|| false).expect("an answer");
        stalling.answer.set();
        assert_eq!(status(first), Some(200));
        assert_eq!(status(ask(&server)), Some(200));
        // The old one ends when it goes on, for it does not keep the socket open.
        stalling.go_on.set();
        assert_eq!(status(second), Some(503));
        let address = server.address();
        server.stop(Duration::from_secs(1));
        let deadline = Instant::now() + SOON;
        while TcpStream::connect(address).is_ok() {
            assert!(Instant::now() < deadline, "nobody listens any more");
        }
        assert!(door.renew().is_err(), "there is nothing to renew");
    }

    #[test]
    fn an_accept_loop_that_hangs_does_not_keep_a_server_from_stopping() {
        for is_replaced in [true, false] {
            let stalling = Arc::new(Stalling::default());
            let (server, [first, _second]) = stalling.hang();
            if is_replaced {
                server.door().renew().expect("a thread");
            }
            stalling.answer.set();
            let stopped = Instant::now();
            server.stop(SOON);
            let took = stopped.elapsed();
            assert!(took < Duration::from_secs(6), "{took:?}");
            assert!(is_replaced == (took < Duration::from_secs(2)), "{took:?}");
            assert_eq!(status(first), Some(200), "it is answered all the same");
            stalling.go_on.set();
        }
    }
}
