//! What discovery answers: method, path and body in, a reply out. No socket, no thread.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::settings::Settings;
use super::{Discovery, packed, page};
use crate::http::{Handler, JSON, Later, Method, Reply, Request};
use crate::registry::Refused;
use crate::wire::{self, Heartbeat, Instance, Registration};

/// The paths discovery knows.
pub(super) enum Route<'a> {
    Register,
    Heartbeat,
    Peer(Cow<'a, str>),
    Unregister(Cow<'a, str>),
    Peers,
    OnePeer(Cow<'a, str>),
    Targets,
    Events,
    Health,
    Ready,
    Metrics,
    OpenApi,
    Page,
}

impl<'a> Route<'a> {
    pub(super) fn find(mut segments: Vec<Cow<'a, str>>) -> Option<Self> {
        let last = segments.pop()?;
        let first = segments.pop();
        if !segments.is_empty() {
            return None;
        }
        Some(match (first.as_deref(), last.as_ref()) {
            (None, "register") => Self::Register,
            (None, "heartbeat") => Self::Heartbeat,
            (None, "peers") => Self::Peers,
            (None, "sd") => Self::Targets,
            (None, "events") => Self::Events,
            (None, "health") => Self::Health,
            (None, "ready") => Self::Ready,
            (None, "metrics") => Self::Metrics,
            (None, "openapi.json") => Self::OpenApi,
            (Some("peers"), _) => Self::OnePeer(last),
            (None, "") => Self::Page,
            (Some("peer"), _) => Self::Peer(last),
            (Some("unregister"), _) => Self::Unregister(last),
            _ => return None,
        })
    }

    /// The path as metrics label it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Register => "/register",
            Self::Heartbeat => "/heartbeat",
            Self::Peer(_) => "/peer/{cell_id}",
            Self::Unregister(_) => "/unregister/{cell_id}",
            Self::Peers => "/peers",
            Self::OnePeer(_) => "/peers/{cell_id}",
            Self::Targets => "/sd",
            Self::Events => "/events",
            Self::Health => "/health",
            Self::Ready => "/ready",
            Self::Metrics => "/metrics",
            Self::OpenApi => "/openapi.json",
            Self::Page => "/",
        }
    }

    /// The method the path has, and how `Allow` says it.
    pub(super) fn method(&self) -> (Method, &'static str) {
        match self {
            Self::Register | Self::Heartbeat => (Method::Post, "POST"),
            Self::Peer(_) | Self::Unregister(_) => (Method::Delete, "DELETE"),
            Self::Peers
            | Self::OnePeer(_)
            | Self::Targets
            | Self::Events
            | Self::Health
            | Self::Ready
            | Self::Metrics
            | Self::OpenApi
            | Self::Page => (Method::Get, "GET, HEAD"),
        }
    }
}

/// Discovery as those see it who ask.
pub(super) struct Routes(pub(super) Arc<Discovery>);

impl Handler for Routes {
    fn handle(&self, request: &Request) -> Reply {
        let started = Instant::now();
        let (route, reply) = match request.segments().map(Route::find) {
            Ok(Some(route)) => (
                route.name(),
                self.0.answer(&route, request).unwrap_or_else(|error| error),
            ),
            Ok(None) => ("unknown", Reply::not_found()),
            Err(reply) => ("unknown", reply),
        };
        let reply = match reply.into_later() {
            Ok(later) => {
                let discovery = Arc::clone(&self.0);
                return Reply::later(Box::new(Counted {
                    discovery,
                    route,
                    later,
                }));
            }
            Err(reply) => reply,
        };
        // What the watchdog asks is no use anybody makes of us.
        if !request.is_probe() {
            let took = started.elapsed();
            self.0.metrics.request(route, reply.status(), took);
        }
        reply
    }

    fn stopping(&self) {
        self.0.waiters.close();
    }

    fn refused(&self, status: u16) {
        self.0.metrics.refused(status);
    }
}

/// A reply that is counted once it is made. How long it was waited for says nothing of us.
struct Counted {
    discovery: Arc<Discovery>,
    route: &'static str,
    later: Box<dyn Later>,
}

impl Later for Counted {
    fn wait(&mut self, at_most: Duration) -> Option<Reply> {
        let reply = self.later.wait(at_most)?;
        self.discovery.metrics.answered(self.route, reply.status());
        Some(reply)
    }
}

impl Discovery {
    /// # Errors
    /// The reply to a request that was refused; nothing was changed by it.
    fn answer(self: &Arc<Self>, route: &Route<'_>, request: &Request) -> Result<Reply, Reply> {
        let (method, allow) = route.method();
        if request.method() != method {
            return Err(Reply::method_not_allowed(allow));
        }
        request.same_origin()?;
        if let (Some(tokens), true) = (&self.tokens, self.asks_for_token(route, method)) {
            tokens.admit(request)?;
        }
        match route {
            Route::Register => self.answer_register(request),
            Route::Heartbeat => self.answer_heartbeat(request),
            Route::Peer(id) => {
                self.answer_deregister(id, request)?;
                let status = "deregistered";
                Ok(Reply::json(
                    200,
                    &wire::Deregistered {
                        status,
                        cell_id: id,
                    },
                ))
            }
            Route::Unregister(id) => {
                self.answer_deregister(id, request)?;
                let status = "unregistered";
                Ok(Reply::json(200, &wire::Unregistered { status }))
            }
            Route::Peers => self.answer_peers(request),
            Route::OnePeer(id) => self.answer_peer(id),
            Route::Targets => self.answer_targets(request),
            Route::Events => self.answer_events(request),
            Route::Health => Ok(self.answer_health()),
            Route::Ready => Ok(self.answer_ready()),
            Route::Metrics => Ok(self.answer_metrics()),
            Route::OpenApi => Ok(packed::answer(request, JSON, packed::OPENAPI)),
            Route::Page => Ok(page::answer(request)),
        }
    }

    /// Whether a request needs a token, where there are tokens.
    fn asks_for_token(&self, route: &Route<'_>, method: Method) -> bool {
        match (method, route) {
            // What is asked to learn whether discovery works is open to all who watch it, and the
            // page asks for the token itself.
            (Method::Get, Route::Health | Route::Ready | Route::OpenApi | Route::Page) => false,
            (Method::Get, _) => self.settings.protect_reads,
            _ => true,
        }
    }

    fn answer_register(&self, request: &Request) -> Result<Reply, Reply> {
        let registration = Registration::from_json(request.json()?).map_err(invalid)?;
        let cell_id = registration.cell_id.clone();
        let accepted = self
            .register(registration, request.remote())
            .map_err(|refused| {
                log::warn!("Refused to register {cell_id}: {refused}");
                refusal(refused, cell_id.as_str())
            })?;
        Ok(Reply::json(
            200,
            &wire::Registered {
                status: "registered",
                cell_id: &cell_id,
                heartbeat_interval_ms: wire::millis(Settings::heartbeat_interval(accepted.lease)),
                stale_after_ms: wire::millis(accepted.lease),
                epoch: &self.epoch,
                revision: accepted.revision,
            },
        ))
    }

    fn answer_heartbeat(&self, request: &Request) -> Result<Reply, Reply> {
        let beat = Heartbeat::from_json(request.json()?).map_err(invalid)?;
        let renewal = self.heartbeat(&beat).map_err(|refused| match refused {
            Refused::Unknown => Reply::error(
                404,
                format!(
                    "Peer {} not registered. Call /register first.",
                    beat.cell_id
                ),
            ),
            other => refusal(other, beat.cell_id.as_str()),
        })?;
        Ok(Reply::json(
            200,
            &wire::Beat {
                status: "ok",
                cell_id: &beat.cell_id,
                peers_count: renewal.peers,
                expires_in_ms: wire::millis(renewal.lease),
                epoch: &self.epoch,
                revision: renewal.revision,
            },
        ))
    }

    fn answer_deregister(&self, id: &str, request: &Request) -> Result<(), Reply> {
        let instance = request
            .query("instance")
            // A script's variable that is not set names no run.
            .filter(|text| !text.is_empty())
            .map(|text| Instance::new(&text))
            .transpose()
            .map_err(invalid)?;
        self.deregister(id, instance.as_ref(), request.remote())
            .map_err(|refused| refusal(refused, id))
    }

    fn answer_health(&self) -> Reply {
        Reply::json(
            200,
            &wire::Health {
                status: "healthy",
                cell_id: &self.settings.id,
                branch: &self.settings.branch,
                consciousness_level: self.settings.level,
                services: &[],
                kind: "discovery",
                hostname: &self.my_host,
            },
        )
    }

    /// The answer while it is not known yet who is alive, for what is `left` of that time.
    pub(super) fn not_settled(&self, left: Duration) -> Reply {
        not_ready(left, |seconds| {
            format!("settling: started without state, cells have {seconds} s more to register")
        })
    }

    fn answer_ready(&self) -> Reply {
        if let Some(left) = self.settling() {
            return self.not_settled(left);
        }
        if let Some((crowd, left)) = self.held() {
            return not_ready(left, |seconds| {
                format!(
                    "holding: {} of {} peers fell silent together, they have {seconds} s more to beat",
                    crowd.late, crowd.peers
                )
            });
        }
        Reply::json(200, &serde_json::json!({"status": "ready"}))
    }
}

/// The list is not to be relied on; it may be `left` from now.
fn not_ready(left: Duration, why: impl FnOnce(u64) -> String) -> Reply {
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    // The reaper may be late.
    let seconds = seconds.max(1);
    Reply::error(503, why(seconds)).header("Retry-After", seconds.to_string())
}

fn invalid(why: wire::Invalid) -> Reply {
    Reply::error(422, why.to_string())
}

fn refusal(refused: Refused, id: &str) -> Reply {
    match refused {
        Refused::Unknown => Reply::error(404, wire::PEER_NOT_FOUND),
        Refused::Fenced | Refused::Overtaken => Reply::error(409, format!("{id}: {refused}")),
        Refused::Full => Reply::error(503, refused.to_string()).header("Retry-After", "5"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::iter;

    use serde_json::Value;

    use super::*;

    /// Every route; one that is new does not compile here before it is among them.
    fn routes() -> impl Iterator<Item = Route<'static>> {
        iter::successors(Some(Route::Register), |route| {
            Some(match route {
                Route::Register => Route::Heartbeat,
                Route::Heartbeat => Route::Peer("a".into()),
                Route::Peer(_) => Route::Unregister("a".into()),
                Route::Unregister(_) => Route::Peers,
                Route::Peers => Route::OnePeer("a".into()),
                Route::OnePeer(_) => Route::Targets,
                Route::Targets => Route::Events,
                Route::Events => Route::Health,
                Route::Health => Route::Ready,
                Route::Ready => Route::Metrics,
                Route::Metrics => Route::OpenApi,
                Route::OpenApi => Route::Page,
                Route::Page => return None,
            })
        })
    }

    fn document() -> Value {
        serde_json::from_slice(include_bytes!("openapi.json")).expect("JSON")
    }

    #[test]
    fn the_document_has_every_route_with_its_methods_and_no_other() {
        let known: BTreeMap<String, BTreeSet<String>> = routes()
            .map(|route| {
                let (_, allow) = route.method();
                let methods = allow.split(", ").map(str::to_ascii_lowercase);
                (route.name().to_owned(), methods.collect())
            })
            .collect();
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let described: BTreeMap<String, BTreeSet<String>> = paths
            .iter()
            .map(|(path, methods)| {
                let methods = methods.as_object().expect("methods").keys();
                (path.clone(), methods.cloned().collect())
            })
            .collect();
        assert_eq!(described, known);
    }

    #[test]
    fn the_document_is_of_this_version_and_has_its_bounds() {
        let document = document();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let schemas = &document["components"]["schemas"];
        for text in ["CellId", "Text"] {
            assert_eq!(schemas[text]["maxLength"], wire::MAX_TEXT);
        }
        for peer in ["Registration", "Peer"] {
            let services = &schemas[peer]["properties"]["services"];
            assert_eq!(services["maxItems"], wire::MAX_SERVICES);
        }
        let asked = &schemas["Registration"]["properties"];
        let name = format!("^[A-Za-z0-9._-]{{1,{}}}$", wire::MAX_HOST);
        assert_eq!(asked["ip"]["anyOf"][0]["pattern"], name);
        let lease = &asked["stale_after_ms"];
        assert_eq!(lease["minimum"], *wire::OWN_LEASE_MS.start());
        assert_eq!(lease["maximum"], *wire::OWN_LEASE_MS.end());
    }
}
