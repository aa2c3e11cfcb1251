//! What holds for every sequence of requests to discovery.

use std::borrow::Cow;
use std::io::Read;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use flate2::read::GzDecoder;
use serde_json::Value;

use super::renders::Source;
use super::routes::{Route, Routes};
use super::state::former::{Former, NewEpoch};
use super::{Discovery, Settings};
use crate::http::fuzzing::{Answer, request};
use crate::http::{Handler, Method, Request};
use crate::registry::Facts;
use crate::tokens::Tokens;
use crate::wire::{Detail, PeersRead};

/// So few peers that a list is soon full.
const MAX_PEERS: usize = 3;
/// The token, where one is asked for.
const TOKEN: &str = "t0k";
/// How many requests are looked at.
const REQUESTS: usize = 24;

/// All that a request could change.
#[derive(PartialEq)]
struct Shown {
    peers: Vec<(Arc<Facts>, u64, SystemTime)>,
    revision: u64,
}

/// Whatever discovery is asked: the answer is one that its document has, of the type it says; only
/// what is answered with 200 and is no GET changes anything, and that is seen at once; there are
/// never more peers than are allowed, and the revision does not fall. Where there is a token, only
/// who sends it is told or changes anything; where there is none, nobody is asked for one.
///
/// The requests are separated by zeros, each as [`request`] reads it.
pub fn routes(input: &[u8]) {
    static SETTINGS: LazyLock<Option<Settings>> = LazyLock::new(|| {
        let mut settings = Settings::local("127.0.0.1", 0).ok()?;
        settings.my_host = Some("host".to_owned());
        settings.max_peers = MAX_PEERS;
        settings.protect_reads = true;
        Some(settings)
    });
    static TOKENS: LazyLock<Arc<Tokens>> = LazyLock::new(|| Tokens::only(TOKEN));

    for tokens in [None, Some(Arc::clone(&TOKENS))] {
        let asks = tokens.is_some();
        let Some(Ok(discovery)) = SETTINGS.clone().map(|settings| {
            let epoch = NewEpoch {
                name: "epoch".to_owned(),
                revision: 0,
            };
            Discovery::new(settings, tokens, Former::none(epoch))
        }) else {
            unreachable!("no discovery");
        };
        let discovery = Arc::new(discovery);
        let routes = Routes(Arc::clone(&discovery));
        for text in input.split(|b| *b == 0).take(REQUESTS) {
            let Some(request) = request(text) else {
                continue;
            };
            let before = shown(&discovery);
            let reply = routes.handle(&request);
            let after = shown(&discovery);
            let Some(answer) = Answer::at_once(reply) else {
                assert!(before == after && awaits(&request, after.revision));
                continue;
            };
            check(&request, &answer);
            if asks {
                check_token(&request, &answer);
            } else {
                assert_ne!(answer.status, 401);
            }
            if answer.status == 200 && request.method() != Method::Get {
                assert!(after.revision >= before.revision);
                check_change(&request, &before, &after);
            } else {
                assert!(before == after, "{} has changed something", answer.status);
            }
            assert!(after.peers.len() <= MAX_PEERS);
        }
    }
}

/// Whether what is asked for is another list than this one.
fn awaits(request: &Request, revision: u64) -> bool {
    let index = request.query("index");
    index.is_some_and(|index| index.parse() == Ok(revision))
}

/// Who does not send the token learns no more than that it works, or that there is no such thing.
fn check_token(request: &Request, answer: &Answer) {
    let is_sent = request.bearer() == Some(TOKEN);
    let is_open = matches!(
        request.segments().ok().and_then(Route::find),
        Some(Route::Health | Route::Ready | Route::OpenApi | Route::Page)
    );
    assert!(!(is_sent && answer.status == 401));
    assert!(is_sent || is_open || matches!(answer.status, 400 | 401 | 403 | 404 | 405));
    let challenge = answer.field("www-authenticate");
    assert_eq!(challenge.is_some(), answer.status == 401);
}

fn shown(discovery: &Discovery) -> Shown {
    let (list, _) = discovery.list();
    Shown {
        peers: list
            .peers()
            .map(|peer| (Arc::clone(peer.facts), peer.level.to_bits(), peer.last_seen))
            .collect(),
        revision: list.revision,
    }
}

/// The answer is as the document says, and as the kind of answer it is.
fn check(request: &Request, answer: &Answer) {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        serde_json::from_slice(include_bytes!("openapi.json")).unwrap_or_default()
    });

    let route = request.segments().ok().and_then(Route::find);
    let content_type = answer.field("content-type");
    let is_known = answer.status == 304;
    let unpacked = unpacked(answer);
    let is_list =
        matches!(route, Some(Route::Peers | Route::Targets)) && matches!(answer.status, 200 | 304);
    let is_page = matches!(route, Some(Route::Page)) && matches!(answer.status, 200 | 304);
    let is_stream = answer.status == 200 && matches!(route, Some(Route::Events));
    let text = match route {
        _ if answer.status != 200 => None,
        Some(Route::Metrics) => Some("text/plain; version=0.0.4"),
        Some(Route::Events) => Some("text/event-stream"),
        Some(Route::Page) => Some("text/html; charset=utf-8"),
        Some(Route::Peers) => match request.query("format").as_deref() {
            Some("tsv") => Some("text/tab-separated-values; charset=utf-8"),
            Some("ids" | "hosts") => Some("text/plain; charset=utf-8"),
            _ => None,
        },
        _ => None,
    };
    if is_known {
        assert!((is_list || is_page) && answer.body.is_empty());
        assert_eq!(content_type, None);
    } else if let Some(text) = text {
        assert!(content_type.is_some_and(|it| it.starts_with(text)));
        assert!(std::str::from_utf8(&unpacked).is_ok());
    } else {
        assert_eq!(content_type, Some("application/json"));
        assert!(serde_json::from_slice::<Value>(&unpacked).is_ok());
    }
    let has_length = !is_known && !is_stream;
    let length = has_length.then(|| answer.body.len().to_string());
    assert_eq!(answer.field("content-length"), length.as_deref());
    assert_eq!(answer.field("etag").is_some(), is_list || is_page);
    let is_document = answer.status == 200 && matches!(route, Some(Route::OpenApi));
    let varies = is_list || is_page || is_document;
    assert_eq!(answer.field("vary").is_some(), varies);
    assert_eq!(answer.field("content-security-policy").is_some(), is_page);
    for name in ["x-mesh-revision", "x-mesh-epoch"] {
        assert_eq!(answer.field(name).is_some(), is_list || is_stream, "{name}");
    }
    assert_eq!(answer.field("allow").is_some(), answer.status == 405);
    assert_eq!(answer.field("retry-after").is_some(), answer.status == 503);
    if answer.status >= 400 {
        let error: Result<Detail, _> = serde_json::from_slice(&answer.body);
        assert!(error.is_ok_and(|error| !error.detail.is_empty()));
    }
    match route {
        None => assert!(matches!(answer.status, 400 | 404), "{}", answer.status),
        Some(route) if route.method().0 != request.method() => assert_eq!(answer.status, 405),
        Some(route) => {
            let method = match request.method() {
                Method::Get => "get",
                Method::Post => "post",
                _ => "delete",
            };
            let responses = &DOCUMENT["paths"][route.name()][method]["responses"];
            let status = answer.status.to_string();
            assert!(
                !responses[&status].is_null(),
                "{status} of {}",
                route.name()
            );
            let is_whole = is_list && answer.status == 200 && text.is_none();
            let is_gone = request.query("state").as_deref() == Some("gone");
            if let (Route::Peers, true, false) = (route, is_whole, is_gone) {
                let is_for_prometheus = request.query("format").as_deref() == Some("prometheus");
                let read: Result<PeersRead, _> = serde_json::from_slice(&unpacked);
                assert_eq!(read.is_ok(), !is_for_prometheus);
            }
        }
    }
}

/// The body as a client reads it in the end.
fn unpacked(answer: &Answer) -> Cow<'_, [u8]> {
    if answer.field("content-encoding") != Some("gzip") {
        return Cow::Borrowed(&answer.body);
    }
    let mut unpacked = Vec::new();
    let read = GzDecoder::new(&answer.body[..]).read_to_end(&mut unpacked);
    assert!(read.is_ok());
    Cow::Owned(unpacked)
}

/// What was changed is what was asked for.
fn check_change(request: &Request, before: &Shown, after: &Shown) {
    let is_listed = |shown: &Shown, id: &str| {
        let mut ids = shown.peers.iter().map(|(facts, ..)| facts.cell_id.as_str());
        ids.any(|known| known == id)
    };
    let sent = || {
        let body = request.json().ok()?;
        let body: Value = serde_json::from_slice(body).ok()?;
        Some(body["cell_id"].as_str()?.to_owned())
    };
    let (id, peers) = match request.segments().ok().and_then(Route::find) {
        Some(Route::Register) => (sent(), before.peers.len()..=before.peers.len() + 1),
        Some(Route::Heartbeat) => {
            assert_eq!(before.revision, after.revision);
            (sent(), before.peers.len()..=before.peers.len())
        }
        Some(Route::Peer(id) | Route::Unregister(id)) => {
            assert!(is_listed(before, &id) && !is_listed(after, &id));
            assert!(after.revision > before.revision);
            assert_eq!(after.peers.len() + 1, before.peers.len());
            return;
        }
        _ => unreachable!("nothing else is no GET"),
    };
    assert!(id.is_some_and(|id| is_listed(after, &id)));
    assert!(peers.contains(&after.peers.len()));
}
