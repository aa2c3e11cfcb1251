//! The calls a cell and an operator make to discovery. The only folder that names `ureq`.

mod events;
mod url;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::http::header::AUTHORIZATION;
use ureq::{Agent, Body, RequestBuilder};

use crate::tokens::Tokens;
use crate::wire::{
    self, Departure, Detail, Heartbeat, Instance, Peer, PeersRead, Portrait, RegisteredRead,
    Registration,
};

pub use events::Events;
pub use url::DiscoveryUrl;

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
        let body = self.read("/peers", PEERS_BEGIN, PEERS_TIMEOUT)?;
        Ok((read_as(&body)?, body))
    }

    /// `GET /peers` once its revision is another than `index`, or `wait` is over. A discovery that
    /// does not know of that answers at once. Takes no longer than `at_most`.
    ///
    /// # Errors
    /// When it is not answered with 2xx and a list of peers.
    pub fn peers_after(
        &self,
        index: Option<u64>,
        wait: Duration,
        at_most: Duration,
    ) -> Result<PeersRead, CallError> {
        let (path, begin) = match index {
            Some(index) => (
                format!("/peers?index={index}&wait={}ms", wire::millis(wait)),
                wait + PEERS_BEGIN,
            ),
            None => ("/peers".to_owned(), PEERS_BEGIN),
        };
        let whole = at_most.min(wait + PEERS_TIMEOUT);
        read_as(&self.read(&path, begin.min(whole), whole)?)
    }

    /// `GET /peers?state=gone`: who has left, and why.
    ///
    /// # Errors
    /// When it is not answered with 2xx and such a list, which older discoveries do not have.
    pub fn gone(&self) -> Result<Vec<Departure>, CallError> {
        let body = self.read("/peers?state=gone", PEERS_BEGIN, PEERS_TIMEOUT)?;
        let gone = Departure::read_all(&read_as(&body)?, "gone");
        gone.ok_or_else(|| no_list(&"it has no gone"))
    }

    /// `GET /peers/{id}`: what is known of a peer that is there.
    ///
    /// # Errors
    /// When it is not answered with 2xx and a peer.
    pub fn portrait(&self, id: &str) -> Result<(Peer, Portrait), CallError> {
        let path = format!("/peers/{}", utf8_percent_encode(id, SEGMENT));
        let body = self.read(&path, PEERS_BEGIN, PEERS_TIMEOUT)?;
        Ok((read_as(&body)?, Portrait::read(&read_as(&body)?)))
    }

    /// `GET /events`: what happens from now on, or what has since a revision.
    ///
    /// # Errors
    /// When it is not answered with 2xx. A discovery that has no events answers 404.
    pub fn events(&self, since: Option<u64>) -> Result<Events, CallError> {
        let mut url = format!("{}/events", self.base);
        if let Some(since) = since {
            url = format!("{url}?since={since}");
        }
        Events::begin(self.authorized(self.agent.get(url)))
    }

    /// A GET whose answer is to begin and to end in time.
    fn read(&self, path: &str, begin: Duration, whole: Duration) -> Result<Vec<u8>, CallError> {
        let call = self.agent.get(format!("{}{path}", self.base));
        let call = within(begin, self.authorized(call))
            .config()
            .timeout_recv_response(Some(begin))
            .timeout_global(Some(whole));
        let mut response = checked(call.build().call()?)?;
        let reader = response.body_mut().with_config().limit(LONG_ANSWER);
        Ok(reader.read_to_vec()?)
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

/// What a body says.
fn read_as<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body).map_err(|e| no_list(&e))
}

fn no_list(why: &dyn fmt::Display) -> CallError {
    CallError::NoAnswer {
        never_sent: false,
        cause: format!("the answer is no list of peers: {why}"),
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
fn short_body<T: DeserializeOwned>(response: &mut Response<Body>) -> Option<T> {
    let reader = response.body_mut().with_config().limit(SHORT_ANSWER);
    serde_json::from_slice(&reader.read_to_vec().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_segment_of_a_path() {
        let encoded = utf8_percent_encode("a/b ü?#%", SEGMENT).to_string();
        assert_eq!(encoded, "a%2Fb%20%C3%BC%3F%23%25");
    }
}
