//! The page as it goes over the wire.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::support::discovery;

#[test]
fn the_page_comes_whole_with_what_it_may_do_and_once() {
    let discovery = discovery(&[]);
    let page = discovery.get("/");
    assert_eq!(page.status, 200);
    assert!(page.text().starts_with("<!doctype html>"));
    assert!(page.text().ends_with("</html>\n"));
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(page.header(name), Some(value));
    }
    let policy = page.header("content-security-policy").expect("a policy");
    for part in [
        "default-src 'none'; script-src 'sha256-",
        "'; style-src 'sha256-",
        "'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");

    let tag = page.header("etag").expect("a tag");
    let known = format!("GET /?x=y HTTP/1.1\r\nHost: h\r\nIf-None-Match: \"old\", {tag}\r\n\r\n");
    let mut connection = discovery.connect();
    connection.send(known.as_bytes());
    let again = connection.answer_without_body().expect("an answer");
    assert_eq!(again.status, 304);
    assert_eq!(again.header("etag"), Some(tag));
    let old = discovery.request("GET", "/", &["If-None-Match: \"old\""], b"");
    assert_eq!(old.body, page.body);

    let packed = discovery.request("GET", "/", &["Accept-Encoding: gzip, br"], b"");
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert_ne!(packed.header("etag"), Some(tag));
    for answer in [&page, &packed] {
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    }
    let mut unpacked = Vec::new();
    let read = GzDecoder::new(&packed.body[..]).read_to_end(&mut unpacked);
    assert!(read.is_ok() && unpacked == page.body);

    let head = discovery.request("HEAD", "/", &[], b"");
    assert_eq!(head.status, 200);
    assert_eq!(head.header("etag"), Some(tag));
    let post = discovery.post("/", "{}");
    assert_eq!(post.status, 405);
    assert_eq!(post.header("allow"), Some("GET, HEAD"));
}
