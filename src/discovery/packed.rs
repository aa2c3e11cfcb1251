//! Files that are served as they are, and are kept in gzip.

use std::io::{self, Read};

use flate2::read::GzDecoder;

use crate::http::{Reply, Request};

/// The page at `/`.
pub(super) const PAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/page.html.gz"));
/// What all of discovery looks like from outside, for programs (OpenAPI 3.1).
pub(super) const OPENAPI: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json.gz"));

/// One of them, in the coding that is liked better.
pub(super) fn answer(request: &Request, content_type: &'static str, file: &[u8]) -> Reply {
    let reply = if request.prefers_gzip() {
        Reply::with_body(200, content_type, file.to_vec()).header("Content-Encoding", "gzip")
    } else {
        match unpacked(file) {
            Ok(bytes) => Reply::with_body(200, content_type, bytes),
            Err(e) => {
                log::error!("cannot unpack a file: {e}");
                return Reply::error(500, "Internal Server Error");
            }
        }
    };
    reply.header("Vary", "Accept-Encoding")
}

/// What is in one of them.
///
/// # Errors
/// None, with files as they were packed.
pub(super) fn unpacked(file: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes)?;
    Ok(bytes)
}
