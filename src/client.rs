//! The calls a cell and an operator make to discovery. The only file that names `ureq`.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use ureq::http::header::AUTHORIZATION;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, RequestBuilder};

use crate::tokens::Tokens;
use crate::wire::{self, Detail, Heartbeat, Instance, PeersRead, RegisteredRead, Registration};

/// How long a registration may take.
pub const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a heartbeat may take.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a deregistration may take.
pub const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the list of peers may be waited for, and how long it may then take to arrive.
const PEERS_BEGIN: Duration = Duration::from_secs(5);
const PEERS_TIMEOUT: Duration = Duration::from_secs(30);

/// The most read of an answer of which only a few fields matter.
const SHORT_ANSWER: u64 = 64 * 1024;
/// The most read of a list: a million peers are some 220 MB.
const LONG_ANSWER: u64 = 1024 * 1024 * 1024;

/// The module whose log, at level trace, is every byte that is sent.
pub(crate) const SHOWS_TOKENS: &str = "ureq_proto::util";

/// How many characters of what discovery said are shown.
const MOST_DETAIL: usize = 300;

/// Everything in a path segment but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The address of a discovery: `http://host:port`, perhaps with a path before its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryUrl {
    text: String,
    host: String,
    port: u16,
}

impl DiscoveryUrl {
    /// Reads an address as it is given in settings.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        const ALLOWED: &str = "allowed is http://HOST:PORT or https://HOST:PORT";
        let text = text.trim().trim_end_matches('/');
        let uri: Uri = text.parse().map_err(|_| ALLOWED.to_owned())?;
        let usual_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") if cfg!(feature = "tls") => 443,
            Some("https") => return Err("this build speaks no https, only http".to_owned()),
            _ => return Err(ALLOWED.to_owned()),
        };
        let authority = uri.authority().ok_or(ALLOWED)?;
        if uri.query().is_some() || text.contains('#') || authority.as_str().contains('@') {
            return Err(ALLOWED.to_owned());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(ALLOWED)?;
        let has_port = authority.as_str().len() > host.len();
        let port = match authority.port_u16() {
            Some(0) => return Err(ALLOWED.to_owned()),
            Some(port) => port,
            None if has_port => return Err(ALLOWED.to_owned()),
            None => usual_port,
        };
        Ok(Self {
            text: text.to_owned(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        })
    }

    /// The address of this host that packets to discovery leave from, for a cell that listens on
    /// `listens`: that very address, unless it stands for all.
    ///
    /// # Errors
    /// When discovery's name cannot be resolved, or there is no way to it.
    pub fn local_address(&self, listens: IpAddr) -> io::Result<IpAddr> {
        if !listens.is_unspecified() {
            return Ok(listens);
        }
        let name = (self.host.as_str(), self.port);
        let mut addresses: Vec<SocketAddr> = name.to_socket_addrs()?.collect();
        // Whoever listens on 0.0.0.0 is not reached over IPv6.
        addresses.sort_by_key(|address| listens.is_ipv4() && !address.is_ipv4());
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for discovery in addresses {
            match local_address_towards(discovery) {
                Ok(ip) => return Ok(ip),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// Connecting a UDP socket sends nothing; it only asks the kernel for the route.
fn local_address_towards(remote: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0; 16].into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(remote)?;
    Ok(socket.local_addr()?.ip())
}

impl fmt::Display for DiscoveryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a call did not succeed.
#[derive(Debug)]
pub enum CallError {
    /// It was answered with a status other than 2xx.
    Status {
        /// The status.
        status: u16,
        /// What discovery said, or nothing.
        detail: String,
    },
    /// There was no answer.
    NoAnswer {
        /// Whether the request cannot have arrived.
        never_sent: bool,
        /// What went wrong.
        cause: String,
    },
}

impl CallError {
    /// Whether discovery has certainly not acted on the call. After no answer, or that of a gateway
    /// which had none (RFC 9110, 15.6.3 and 15.6.5), it may have.
    #[must_use]
    pub fn changed_nothing(&self) -> bool {
        match self {
            Self::Status { status, .. } => !matches!(status, 502 | 504),
            Self::NoAnswer { never_sent, .. } => *never_sent,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { status, detail } if detail.is_empty() => {
                write!(f, "answered with status {status}")
            }
            Self::Status { status, detail } => {
                // However much it had to say.
                let detail = wire::cut(detail, MOST_DETAIL);
                write!(f, "answered with status {status}: {detail}")
            }
            Self::NoAnswer { cause, .. } => f.write_str(cause),
        }
    }
}

impl From<ureq::Error> for CallError {
    fn from(error: ureq::Error) -> Self {
        use ureq::{Error, Timeout};
        let never_sent = match &error {
            Error::HostNotFound
            | Error::ConnectionFailed
            | Error::Timeout(Timeout::Resolve | Timeout::Connect) => true,
            Error::Io(e) => is_before_sending(e),
            _ => false,
        };
        let cause = match error {
            Error::Io(e) => match e.to_string() {
                // What the TLS library makes of an answer that is none of its protocol.
                text if text.starts_with("received corrupt message") => {
                    format!("{text}; is https spoken there?")
                }
                text => text,
            },
            Error::Timeout(_) => "no answer in time".to_owned(),
            other => other.to_string(),
        };
        Self::NoAnswer { never_sent, cause }
    }
}

/// Whether the error is one of finding the host or connecting to it.
fn is_before_sending(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    // A name that is not found has no kind of its own, only std's words.
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkUnreachable
    ) || error.to_string().starts_with("failed to lookup address")
}

/// Calls one discovery. Clones share the calls in flight, which [`Client::abort`] ends.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    base: DiscoveryUrl,
    tokens: Option<Arc<Tokens>>,
}

impl Client {
    /// A client for the discovery at `base`, which sends it the first of `tokens`.
    #[must_use]
    pub fn new(base: DiscoveryUrl, tokens: Option<Arc<Tokens>>) -> Self {
        let config = Agent::config_builder()
            // The environment's proxies are for the web, not for the mesh.
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            // Servers close idle connections after about a heartbeat interval: a kept one would
            // race that at every beat.
            .max_idle_connections(0)
            .input_buffer_size(16 * 1024)
            .output_buffer_size(16 * 1024)
            .user_agent(concat!("aios-mesh/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.new_agent(),
            base,
            tokens,
        }
    }

    /// The discovery that is called.
    #[must_use]
    pub fn base(&self) -> &DiscoveryUrl {
        &self.base
    }

    /// Ends the calls in flight, and refuses further ones. Name resolution and connecting are not
    /// ended; their time-outs do that.
    pub fn abort(&self) {
        self.agent.clone().shutdown();
    }

    /// `POST /register`.
    ///
    /// # Errors
    /// When it is not answered with 2xx. Only the status counts, whatever the body says.
    pub fn register(&self, registration: &Registration) -> Result<RegisteredRead, CallError> {
        let mut response = self.post("/register", registration, REGISTER_TIMEOUT)?;
        Ok(short_body(&mut response).unwrap_or_default())
    }

    /// `POST /heartbeat`.
    ///
    /// # Errors
    /// When it is not answered with 2xx.
    pub fn heartbeat(&self, beat: &Heartbeat) -> Result<(), CallError> {
        self.post("/heartbeat", beat, HEARTBEAT_TIMEOUT).map(drop)
    }

    /// `DELETE /peer/{id}`, taking no longer than `at_most`.
    ///
    /// # Errors
    /// When it is not answered with 2xx.
    pub fn deregister(
        &self,
        id: &str,
        instance: Option<&Instance>,
        at_most: Duration,
    ) -> Result<(), CallError> {
        let mut url = format!("{}/peer/{}", self.base, utf8_percent_encode(id, SEGMENT));
        if let Some(instance) = instance {
            let instance = utf8_percent_encode(instance.as_str(), SEGMENT);
            url = format!("{url}?instance={instance}");
        }
        let call = self
            .authorized(self.agent.delete(&url))
            .config()
            .timeout_global(Some(at_most));
        checked(call.build().call()?).map(drop)
    }

    /// `GET /peers`: the list, and the bytes it came in.
    ///
    /// # Errors
    /// When it is not answered with 2xx and a list of peers.
    pub fn peers(&self) -> Result<(PeersRead, Vec<u8>), CallError> {
        let call = self.agent.get(format!("{}/peers", self.base));
        let call = within(PEERS_BEGIN, self.authorized(call))
            .config()
            .timeout_recv_response(Some(PEERS_BEGIN))
            .timeout_global(Some(PEERS_TIMEOUT));
        let mut response = checked(call.build().call()?)?;
        let reader = response.body_mut().with_config().limit(LONG_ANSWER);
        let body = reader.read_to_vec()?;
        match serde_json::from_slice(&body) {
            Ok(peers) => Ok((peers, body)),
            Err(e) => Err(CallError::NoAnswer {
                never_sent: false,
                cause: format!("the answer is no list of peers: {e}"),
            }),
        }
    }

    fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        at_most: Duration,
    ) -> Result<Response<Body>, CallError> {
        let body = serde_json::to_vec(body).map_err(|e| CallError::NoAnswer {
            never_sent: true,
            cause: e.to_string(),
        })?;
        let call = self.agent.post(format!("{}{path}", self.base));
        let call = within(at_most, self.authorized(call));
        checked(call.content_type("application/json").send(&body)?)
    }

    fn authorized<M>(&self, call: RequestBuilder<M>) -> RequestBuilder<M> {
        match &self.tokens {
            Some(tokens) => call.header(AUTHORIZATION, tokens.authorization()),
            None => call,
        }
    }
}

/// Bounds a call as a whole; and its beginning a little closer, so that the error of one that
/// never got through says so.
fn within<M>(at_most: Duration, call: RequestBuilder<M>) -> RequestBuilder<M> {
    call.config()
        .timeout_global(Some(at_most))
        .timeout_resolve(Some(at_most.mul_f64(0.9)))
        .timeout_connect(Some(at_most.mul_f64(0.9)))
        .build()
}

fn checked(mut response: Response<Body>) -> Result<Response<Body>, CallError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let detail: Option<Detail> = short_body(&mut response);
    Err(CallError::Status {
        status: status.as_u16(),
        detail: detail.map(|body| body.detail).unwrap_or_default(),
    })
}

/// What can be read of a body that is a courtesy: the status has said what counts.
fn short_body<T: serde::de::DeserializeOwned>(response: &mut Response<Body>) -> Option<T> {
    let reader = response.body_mut().with_config().limit(SHORT_ANSWER);
    serde_json::from_slice(&reader.read_to_vec().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_discovery() {
        for (text, host, port) in [
            ("http://127.0.0.1:8001", "127.0.0.1", 8001),
            ("http://aios-discovery", "aios-discovery", 80),
            ("http://[::1]:8001/", "::1", 8001),
            ("http://ingress/mesh/", "ingress", 80),
        ] {
            let url = DiscoveryUrl::parse(text).expect(text);
            assert_eq!((url.host.as_str(), url.port), (host, port));
            assert_eq!(url.to_string(), text.trim_end_matches('/'));
        }
        for bad in [
            "",
            "127.0.0.1:8001",
            "ftp://h",
            "http://",
            "http://h?x",
            "http://u@h",
            "http://h h",
            "http://h:",
            "http://h:0",
            "http://h:99999",
            "http://h:x",
        ] {
            assert!(DiscoveryUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_is_one_segment_of_a_path() {
        let encoded = utf8_percent_encode("a/b ü?#%", SEGMENT).to_string();
        assert_eq!(encoded, "a%2Fb%20%C3%BC%3F%23%25");
    }
}
