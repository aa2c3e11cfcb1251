//! A discovery behind TLS.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::support::{discovery, one_line, run};

#[test]
fn https_where_only_http_is_spoken_is_said_to_be_that() {
    let discovery = discovery(&[]);
    let url = format!("https://{}", discovery.address);
    let output = run("aios-mesh", &["peers", "--discovery", &url], &[]);
    assert_eq!(output.status.code(), Some(1));
    let line = one_line(&output);
    assert!(line.contains("is https spoken there?"), "{line}");
}

#[test]
fn https_speaks_tls_and_says_nothing_in_the_clear() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it connects");
        let mut hello = [0; 6];
        stream.read_exact(&mut hello).expect("a record");
        // A fatal alert: handshake_failure (RFC 8446, 6).
        stream
            .write_all(b"\x15\x03\x03\0\x02\x02\x28")
            .expect("sent");
        // Until the client has read it: closing sooner could throw it away.
        let _ = stream.read_to_end(&mut Vec::new());
        hello
    });
    let output = run("aios-mesh", &["peers", "--discovery", &url], &[]);
    assert_eq!(output.status.code(), Some(1));
    let line = one_line(&output);
    assert!(line.contains(&url) && line.contains("alert"), "{line}");
    // A handshake record with a ClientHello in it.
    let hello = server.join().expect("it was asked");
    assert_eq!((hello[0], hello[1], hello[5]), (0x16, 0x03, 0x01));
}
