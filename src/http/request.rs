//! A request as the roles see it: bounded, well-formed, read to its end.

use std::borrow::Cow;
use std::net::IpAddr;

use super::negotiate;
use super::reply::Reply;

/// The methods the roles tell apart. HEAD arrives as `Get`; its body is left out on the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET and HEAD.
    Get,
    /// POST.
    Post,
    /// DELETE.
    Delete,
    /// Any other.
    Other,
}

/// One request. It has no Debug form, for it may hold a token.
pub struct Request {
    pub(super) method: Method,
    /// HEAD: the reply goes out without its body.
    pub(super) without_body: bool,
    /// Whether it is our own.
    pub(super) is_probe: bool,
    /// Where it came from.
    pub(super) remote: Option<IpAddr>,
    /// Path and query, as sent.
    pub(super) target: String,
    pub(super) host: Option<String>,
    pub(super) origin: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) authorization: Option<String>,
    pub(super) accept_encoding: Option<String>,
    pub(super) if_none_match: Option<String>,
    pub(super) last_event_id: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// Whether this process asks itself ([`super::Door::ask`]), and is no user of it.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The address it came from; that of a proxy, where there is one in front.
    #[must_use]
    pub fn remote(&self) -> Option<IpAddr> {
        self.remote
    }

    /// What is asked for.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The segments of the path, percent-decoded. A trailing slash makes no difference.
    ///
    /// # Errors
    /// A 400 for a segment that is not UTF-8 once decoded.
    pub fn segments(&self) -> Result<Vec<Cow<'_, str>>, Reply> {
        let path = self
            .target
            .split_once('?')
            .map_or(&*self.target, |(path, _)| path);
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        path.split('/')
            .map(|segment| {
                percent_encoding::percent_decode_str(segment)
                    .decode_utf8()
                    .map_err(|_| Reply::error(400, "the path is not percent-encoded UTF-8"))
            })
            .collect()
    }

    /// The value of the query parameter `name`, decoded; the last where there are several.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        let (_, query) = self.target.split_once('?')?;
        form_urlencoded::parse(query.as_bytes())
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value)
            .last()
    }

    /// The body, if it may be read as JSON.
    ///
    /// # Errors
    /// A 415 for a content type that is given and not JSON.
    pub fn json(&self) -> Result<&[u8], Reply> {
        match &self.content_type {
            Some(content_type) if !is_json(content_type) => Err(Reply::error(
                415,
                format!(
                    "the content type must be application/json or be left out, and not {content_type}; with curl: -H 'Content-Type: application/json'"
                ),
            )),
            _ => Ok(&self.body),
        }
    }

    /// The token that is sent as `Authorization: Bearer TOKEN` (RFC 6750, 2.1).
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.authorization.as_deref()?.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim_start_matches(' '))
    }

    /// Whether the client would rather have the answer in gzip.
    #[must_use]
    pub fn prefers_gzip(&self) -> bool {
        self.accept_encoding
            .as_deref()
            .is_some_and(negotiate::prefers_gzip)
    }

    /// The tags of what the client has already, and is to be told no more than that.
    #[must_use]
    pub fn if_none_match(&self) -> Option<&str> {
        self.if_none_match.as_deref()
    }

    /// Whether a tag is one of these, which a client sent.
    #[must_use]
    pub fn is_among(tag: &str, tags: &str) -> bool {
        negotiate::has_tag(tags, tag)
    }

    /// The last event that the client has of a stream that it goes on with.
    #[must_use]
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    /// Refuses what a page of another site makes a browser send: a request that changes state
    /// and carries an `Origin` other than the host it is addressed to.
    ///
    /// # Errors
    /// A 403.
    pub fn same_origin(&self) -> Result<(), Reply> {
        let (Some(origin), false) = (&self.origin, self.method == Method::Get) else {
            return Ok(());
        };
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        match (authority, &self.host) {
            (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host) => Ok(()),
            _ => Err(Reply::error(
                403,
                "a page of another origin may not change anything here",
            )),
        }
    }
}

/// `application/json` and whatever builds on it (RFC 6839, 3.1), parameters aside.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str) -> Request {
        Request {
            method: Method::Post,
            without_body: false,
            is_probe: false,
            remote: None,
            target: target.to_owned(),
            host: Some("mesh:8001".to_owned()),
            origin: None,
            content_type: None,
            authorization: None,
            accept_encoding: None,
            if_none_match: None,
            last_event_id: None,
            body: Vec::new(),
        }
    }

    #[test]
    fn an_encoded_slash_stays_within_its_segment() {
        let request = request("/peer/a%2Fb%20%C3%BC/?instance=x");
        assert_eq!(request.segments().expect("UTF-8"), ["peer", "a/b ü"]);
    }

    #[test]
    fn a_path_that_is_no_utf8_is_refused() {
        assert!(request("/peer/%ff").segments().is_err());
    }

    #[test]
    fn the_last_of_equal_query_parameters_counts() {
        let request = request("/peer/a?instance=x&instance=a%2Bb+c");
        assert_eq!(request.query("instance").as_deref(), Some("a+b c"));
        assert_eq!(request.query("wait"), None);
    }

    #[test]
    fn a_foreign_origin_may_not_change_anything() {
        let mut request = request("/register");
        for (origin, allowed) in [
            ("http://mesh:8001", true),
            ("https://MESH:8001", true),
            ("http://mesh:8002", false),
            ("http://evil.example", false),
            ("null", false),
        ] {
            request.origin = Some(origin.to_owned());
            assert_eq!(request.same_origin().is_ok(), allowed, "{origin}");
        }
        request.method = Method::Get;
        assert!(request.same_origin().is_ok());
    }

    #[test]
    fn a_token_stands_behind_the_name_of_its_scheme() {
        let mut request = request("/register");
        for (header, token) in [
            ("Bearer abc", Some("abc")),
            ("bEARER   abc=", Some("abc=")),
            ("Bearer abc def", Some("abc def")),
            ("Bearer", None),
            ("Bearerabc", None),
            ("abc", None),
            ("Basic abc", None),
            ("Digest Bearer abc", None),
        ] {
            request.authorization = Some(header.to_owned());
            assert_eq!(request.bearer(), token, "{header}");
        }
    }

    #[test]
    fn json_comes_under_several_names() {
        for (content_type, is) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("", false),
        ] {
            assert_eq!(is_json(content_type), is, "{content_type}");
        }
    }
}
