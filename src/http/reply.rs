//! A reply as the roles make it.

use std::borrow::Cow;

use serde::Serialize;

use crate::wire::Detail;

const JSON: &str = "application/json";

/// One reply: status, headers, body.
#[derive(Debug)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(&'static str, Cow<'static, str>)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// A reply whose body is `value` as JSON.
    #[must_use]
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::with_body(status, JSON, body),
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

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }
}
