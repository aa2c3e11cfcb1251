//! The page at `/`: one file, which shows what the other routes answer to whoever looks at it in a
//! browser.

use super::packed;
use crate::http::{Reply, Request};

/// What the page may do: run the script and use the style that are in it, and ask us. The hashes are
/// those of `page.html`, which a test below makes sure of and says.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-GEOtuFnlM2oi8oEalR2X0C49tJ0dfkFq+BBL6cu80Jw='; \
    style-src 'sha256-f1ajUJJEhvFrR3FeDF72MPfFFdv2AN5lwk3bSaGHVlU='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Change with the page.
const TAG: &str = "\"I39vEMp6NqSg\"";
const TAG_IN_GZIP: &str = "\"I39vEMp6NqSg-gzip\"";

/// The page, or that whoever asks has it.
pub(super) fn answer(request: &Request) -> Reply {
    let tags = request.if_none_match();
    let tag = match request.prefers_gzip() {
        true => TAG_IN_GZIP,
        false => TAG,
    };
    let reply = if tags.is_some_and(|tags| Request::is_among(tag, tags)) {
        Reply::not_modified().header("Vary", "Accept-Encoding")
    } else {
        packed::answer(request, "text/html; charset=utf-8", packed::PAGE)
    };
    reply
        .header("ETag", tag)
        .header("Cache-Control", "no-cache")
        .header("Content-Security-Policy", POLICY)
        .header("X-Content-Type-Options", "nosniff")
        .header("Referrer-Policy", "no-referrer")
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use sha2::{Digest as _, Sha256};

    use super::*;

    const PAGE: &str = include_str!("page.html");

    fn hash(text: &str) -> String {
        BASE64_STANDARD.encode(Sha256::digest(text))
    }

    /// What stands between the only two of these.
    fn inline(start: &str, end: &str) -> &'static str {
        let (_, rest) = PAGE.split_once(start).expect("a start");
        let (text, rest) = rest.split_once(end).expect("an end");
        assert!(!rest.contains(start), "{start} is there twice");
        text
    }

    #[test]
    fn the_policy_has_the_hashes_of_what_is_in_the_page() {
        for (source, text) in [
            ("script-src", inline("<script>", "</script>")),
            ("style-src", inline("<style>", "</style>")),
        ] {
            let allowed = format!("{source} 'sha256-{}'", hash(text));
            assert!(POLICY.contains(&allowed), "page.html needs {allowed}");
        }
        let tag = format!("\"{}\"", &hash(PAGE)[..12]);
        assert_eq!(TAG, tag, "page.html has another tag");
        let stem = tag.trim_end_matches('"');
        assert_eq!(TAG_IN_GZIP, format!("{stem}-gzip\""));
        let packed = packed::unpacked(packed::PAGE).expect("gzip");
        assert_eq!(packed, PAGE.as_bytes());
    }

    #[test]
    fn the_page_is_small_and_names_no_other_place() {
        assert!(PAGE.len() <= 40_000, "{} bytes", PAGE.len());
        // The one address in it is the name of a format.
        let text = PAGE.replace("http://www.w3.org/2000/svg", "");
        for place in [
            "http:",
            "https:",
            "src=",
            "@import",
            "innerHTML",
            " style=",
            " onclick=",
        ] {
            assert!(!text.contains(place), "{place}");
        }
    }
}
