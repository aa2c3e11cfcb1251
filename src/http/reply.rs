//! A reply as the roles make it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::wire::Detail;

/// The type of most bodies.
pub const JSON: &str = "application/json";
const NOT_MODIFIED: u16 = 304;

/// One reply: status, headers, body.
#[derive(Debug)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(&'static str, Cow<'static, str>)>,
    pub(super) body: Body,
}

/// The bytes of a body.
pub(super) enum Body {
    Own(Vec<u8>),
    /// What several replies share, and who made them hears of when the last is gone.
    Shared(Arc<dyn Pieces>),
    /// The reply is still to be made.
    Later(Box<dyn Later>),
    /// What comes little by little, until the connection ends.
    Stream(Box<dyn Stream>),
}

/// A reply that is waited for. It is let go of when the client has gone.
pub trait Later: Send {
    /// Waits for it, for about `at_most`: `None` where there is nothing to say yet.
    fn wait(&mut self, at_most: Duration) -> Option<Reply>;
}

/// A body without an end. It is let go of when the client has gone, or does not read.
pub trait Stream: Send {
    /// Waits for more of it, for about `at_most`: nothing where there is nothing to say yet, `None` at
    /// its end.
    fn next(&mut self, at_most: Duration) -> Option<Vec<u8>>;
}

/// Bytes that several replies send, in pieces one behind the other, so that what they have in common
/// with other bytes need not be there twice.
pub trait Pieces: Send + Sync {
    /// How many pieces there are.
    fn count(&self) -> usize;

    /// One of them.
    fn piece(&self, number: usize) -> &[u8];

    /// How long all are together.
    fn length(&self) -> usize;
}

impl Body {
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Shared(pieces) => pieces.length(),
            Self::Later(_) | Self::Stream(_) => 0,
        }
    }

    /// Its pieces, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let count = match self {
            Self::Own(_) => 1,
            Self::Shared(pieces) => pieces.count(),
            Self::Later(_) | Self::Stream(_) => 0,
        };
        (0..count).map(|number| match self {
            Self::Own(bytes) => bytes.as_slice(),
            Self::Shared(pieces) => pieces.piece(number),
            Self::Later(_) | Self::Stream(_) => &[],
        })
    }

    /// All of it as one.
    pub(super) fn whole(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Own(bytes) => Cow::Borrowed(bytes),
            _ => Cow::Owned(self.pieces().flatten().copied().collect()),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.whole()))
    }
}

impl Reply {
    /// A reply whose body is `value` as JSON.
    #[must_use]
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        // Room for the answer to a heartbeat, which is what most are.
        let mut body = Vec::with_capacity(256);
        match serde_json::to_writer(&mut body, value) {
            Ok(()) => Self::with_body(status, JSON, body),
            // Nothing that is sent has keys or numbers JSON cannot hold.
            Err(e) => {
                log::error!("cannot render a reply: {e}");
                Self::with_body(500, JSON, br#"{"detail":"Internal Server Error"}"#.to_vec())
            }
        }
    }

    /// An error: `{"detail": …}`.
    #[must_use]
    pub fn error(status: u16, detail: impl Into<String>) -> Self {
        Self::json(
            status,
            &Detail {
                detail: detail.into(),
            },
        )
    }

    /// The answer on a path nobody knows.
    #[must_use]
    pub fn not_found() -> Self {
        Self::error(404, "Not Found")
    }

    /// The answer to a method the path does not have; `allow` lists those it has.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::error(405, "Method Not Allowed").header("Allow", allow)
    }

    /// A reply with a body of another type.
    #[must_use]
    pub fn with_body(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self::with(status, content_type, Body::Own(body))
    }

    /// A reply whose body other replies send, too. It is let go of when the last of them is sent.
    #[must_use]
    pub fn shared(status: u16, content_type: &'static str, body: Arc<dyn Pieces>) -> Self {
        Self::with(status, content_type, Body::Shared(body))
    }

    /// A reply that is still to be made.
    #[must_use]
    pub fn later(later: Box<dyn Later>) -> Self {
        Self::with(200, "", Body::Later(later))
    }

    /// A reply that goes on until the connection ends.
    #[must_use]
    pub fn stream(content_type: &'static str, body: Box<dyn Stream>) -> Self {
        Self::with(200, content_type, Body::Stream(body))
    }

    /// The answer to who has already what is asked for. The headers have to be those of the answer it
    /// stands for.
    #[must_use]
    pub fn not_modified() -> Self {
        Self::with(NOT_MODIFIED, "", Body::Own(Vec::new()))
    }

    fn with(status: u16, content_type: &'static str, body: Body) -> Self {
        Self {
            status,
            content_type,
            headers: Vec::new(),
            body,
        }
    }

    /// Adds a header. Its value must not come from a request.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Whether this is an answer that has a body.
    pub(super) fn has_body(&self) -> bool {
        self.status != NOT_MODIFIED
    }

    /// Whether it comes to an end before the connection does.
    pub(super) fn has_end(&self) -> bool {
        !matches!(self.body, Body::Stream(_))
    }

    /// Whether it is said how long its body is.
    pub(super) fn has_length(&self) -> bool {
        self.has_body() && self.has_end()
    }

    /// What is to be waited for before there is a reply.
    ///
    /// # Errors
    /// The reply, where that is not so.
    pub fn into_later(self) -> Result<Box<dyn Later>, Self> {
        match self.body {
            Body::Later(later) => Ok(later),
            _ => Err(self),
        }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }
}
