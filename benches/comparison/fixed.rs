//! Servers that give a ready reply: what the HTTP layer costs without discovery.
//!
//! They are this program, started once more.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use aios_mesh::http::{self, Handler, Limits, Listener, Pieces, Reply, Request, Server};
use socket2::{Domain, Socket, Type};

use crate::Result;
use crate::child::{Child, free_port};

/// By this argument this program is one of the servers.
pub const SERVE: &str = "serve";
/// How many connections may wait to be accepted; discovery has as many.
const BACKLOG: i32 = 1024;
/// How many threads of the bare loop wait for a connection at most.
const IDLE: usize = 64;
/// How many threads take requests from the crate's own queue.
const WORKERS: usize = 4;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The crate that is behind our door, driven by the shortest loop that serves.
    Bare,
    /// The crate as it is meant to be used: a queue, and threads that take requests from it.
    Recv,
    /// Our own door before that crate.
    Door,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Bare, Self::Recv, Self::Door];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Recv => "recv",
            Self::Door => "door",
        }
    }
}

/// The replies of discovery that are given without it.
#[derive(Clone)]
pub struct Replies {
    /// To a heartbeat, whole.
    pub kept: String,
    /// The same where the connection ends with it.
    pub last: String,
    /// How many bytes of body a list has.
    pub list: usize,
}

impl Replies {
    /// The body of the reply to a heartbeat.
    pub fn beat(&self) -> &str {
        let end = self.kept.find("\r\n\r\n").map_or(0, |end| end + 4);
        &self.kept[end..]
    }
}

/// Starts such a server as a child.
pub fn start(kind: Kind, replies: &Replies) -> Result<Child> {
    let port = free_port()?;
    let program = std::env::current_exe()?;
    let arguments = [
        SERVE.to_owned(),
        kind.name().to_owned(),
        port.to_string(),
        replies.kept.clone(),
        replies.last.clone(),
        replies.list.to_string(),
    ];
    Child::start(&program.to_string_lossy(), &arguments, port)
}

/// What [`SERVE`] does.
pub fn serve(arguments: &[String]) -> Result<Infallible> {
    let [kind, port, kept, last, list] = arguments else {
        return Err("this is for this program itself".into());
    };
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
    let (port, list): (u16, usize) = (port.parse()?, list.parse()?);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ready = |kept: &str, last: &str| Ready {
        kept: kept.into(),
        last: last.into(),
        list: list_of(list),
    };
    match kind.ok_or("no such server")? {
        Kind::Bare => bare(address, ready(kept, last)),
        Kind::Recv => recv(address, ready(kept, last)),
        Kind::Door => door(address, kept, list),
    }
}

/// A whole answer with a list of so many bytes.
fn list_of(length: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut whole = head.into_bytes();
    whole.resize(whole.len() + length, b' ');
    whole
}

/// Whole answers, one for all who ask.
struct Ready {
    kept: Vec<u8>,
    last: Vec<u8>,
    list: Vec<u8>,
}

impl Ready {
    /// Answers in one write. The crate ends the connection where the request asks for it.
    fn answer(&self, mut request: tiny_http::Request) -> io::Result<()> {
        let connection = request.headers().get("Connection");
        let is_last = connection.is_some_and(|it| it.as_str().eq_ignore_ascii_case("close"));
        let mut body = Vec::new();
        request.as_reader().read_to_end(&mut body)?;
        let reply = match (request.method(), is_last) {
            (tiny_http::Method::Get, _) => &self.list,
            (_, false) => &self.kept,
            (_, true) => &self.last,
        };
        let mut writer = request.into_writer();
        writer.write_all(reply)?;
        writer.flush()
    }
}

/// Each thread accepts a connection, serves it to its end, and goes on to the next. Where none is
/// left that waits for one, another is started.
struct Bare {
    listener: tiny_http::Listener,
    plain: tiny_http::SslContextWrap,
    idle: AtomicUsize,
    ready: Ready,
}

fn bare(address: SocketAddr, ready: Ready) -> Result<Infallible> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let plain = tiny_http::SslContextWrap::build_ssl_capabilities(None)?;
    let bare = Arc::new(Bare {
        listener: std::net::TcpListener::from(socket).into(),
        plain,
        idle: AtomicUsize::new(0),
        ready,
    });
    bare.more();
    rest()
}

impl Bare {
    /// One more thread that waits for a connection.
    fn more(self: &Arc<Self>) {
        self.idle.fetch_add(1, Ordering::SeqCst);
        let bare = Arc::clone(self);
        thread::spawn(move || bare.work());
    }

    fn work(self: &Arc<Self>) {
        loop {
            let accepted = tiny_http::Server::accept_connection(&self.listener, &self.plain);
            if self.idle.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.more();
            }
            if let Ok(Some(connection)) = accepted {
                for request in connection.map_while(std::result::Result::ok) {
                    if self.ready.answer(request).is_err() {
                        break;
                    }
                }
            }
            let stays = |idle| (idle < IDLE).then_some(idle + 1);
            let waits = self
                .idle
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, stays);
            if waits.is_err() {
                return;
            }
        }
    }
}

fn recv(address: SocketAddr, ready: Ready) -> Result<Infallible> {
    let server = Arc::new(tiny_http::Server::http(address)?);
    let ready = Arc::new(ready);
    for _ in 0..WORKERS {
        let (server, ready) = (Arc::clone(&server), Arc::clone(&ready));
        thread::spawn(move || {
            while let Ok(received) = server.recv() {
                // Who sends no request, or does not wait for the answer, gets none.
                if let Ok(request) = received {
                    let _ = ready.answer(request);
                }
            }
        });
    }
    rest()
}

/// Answers as discovery does, and knows nothing.
struct Fixed {
    beat: Vec<u8>,
    list: Arc<Whole>,
}

/// A list that is ready.
struct Whole(Vec<u8>);

impl Pieces for Whole {
    fn count(&self) -> usize {
        1
    }

    fn piece(&self, _: usize) -> &[u8] {
        &self.0
    }

    fn length(&self) -> usize {
        self.0.len()
    }
}

impl Handler for Fixed {
    fn handle(&self, request: &Request) -> Reply {
        match request.segments().as_deref() {
            Ok([path]) if path == "peers" => {
                Reply::shared(200, http::JSON, Arc::clone(&self.list) as Arc<_>)
            }
            _ => Reply::with_body(200, "application/json", self.beat.clone()),
        }
    }

    fn refused(&self, _: u16) {}
}

fn door(address: SocketAddr, kept: &str, list: usize) -> Result<Infallible> {
    let (_, beat) = kept
        .split_once("\r\n\r\n")
        .ok_or("a reply without a body")?;
    let listener =
        Listener::bind(&address.ip().to_string(), address.port()).map_err(|e| e.to_string())?;
    let fixed = Fixed {
        beat: beat.into(),
        list: Arc::new(Whole(vec![b' '; list])),
    };
    let limits = Limits::new(BACKLOG as usize, Duration::from_secs(30));
    let _server = Server::start(listener, limits, Arc::new(fixed))?;
    rest()
}

/// Lets the other threads work, until the process is killed.
fn rest() -> ! {
    loop {
        thread::park();
    }
}
