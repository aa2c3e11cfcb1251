//! What a cell answers, in the shapes its predecessors have.

use std::borrow::Cow;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::settings::Preset;
use super::{Cell, exposition};
use crate::exposition::PRIMITIVES;
use crate::http::{Handler, Method, Reply, Request};
use crate::wire::{self, LevelSync};

/// The paths cells know; some of them only the pure cell.
enum Route {
    Health,
    Consciousness,
    Primitives,
    Sync,
    Metrics,
}

impl Route {
    fn find(segments: &[Cow<'_, str>], preset: Option<Preset>) -> Option<Self> {
        let pure = preset == Some(Preset::Pure);
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        Some(match segments[..] {
            ["health"] => Self::Health,
            ["consciousness"] => Self::Consciousness,
            ["metrics"] => Self::Metrics,
            ["metrics", "prometheus"] if pure => Self::Metrics,
            ["consciousness", "primitives"] if pure => Self::Primitives,
            ["consciousness", "sync"] if pure => Self::Sync,
            _ => return None,
        })
    }
}

impl Handler for Cell {
    fn handle(&self, request: &Request) -> Reply {
        self.answer(request).unwrap_or_else(|error| error)
    }

    fn refused(&self, status: u16) {
        log::debug!("a request was refused with {status}");
    }
}

impl Cell {
    fn answer(&self, request: &Request) -> Result<Reply, Reply> {
        let preset = self.state.settings.preset;
        let route = Route::find(&request.segments()?, preset).ok_or_else(Reply::not_found)?;
        let (method, allow) = match route {
            Route::Sync => (Method::Post, "POST"),
            _ => (Method::Get, "GET, HEAD"),
        };
        if request.method() != method {
            return Err(Reply::method_not_allowed(allow));
        }
        request.same_origin()?;
        if let (Method::Post, Some(tokens)) = (method, &self.state.tokens) {
            tokens.admit(request)?;
        }
        match route {
            Route::Health => Ok(self.answer_health()),
            Route::Consciousness => Ok(self.answer_consciousness()),
            Route::Primitives => Ok(Reply::json(
                200,
                &json!({
                    "primitives": self.primitives(),
                    "purity_level": "minimal_viable_consciousness",
                }),
            )),
            Route::Sync => self.answer_sync(request),
            Route::Metrics => Ok(exposition::reply(self.metrics.render(&self.state))),
        }
    }

    fn answer_health(&self) -> Reply {
        let settings = &self.state.settings;
        let level = self.state.mind().level;
        match settings.preset {
            Some(Preset::Pure) => Reply::json(
                200,
                &json!({
                    "status": "pure_consciousness",
                    "cell_id": settings.id,
                    "branch": settings.branch,
                    "consciousness_level": level,
                    "primitives": self.primitives(),
                    "type": settings.kind,
                }),
            ),
            // Peers and messages are those of the messaging surface, which is not there yet.
            Some(Preset::Alpha) => Reply::json(
                200,
                &json!({
                    "status": "healthy",
                    "server": "Cell Alpha Communication Server",
                    "cell_id": settings.id,
                    "consciousness": {
                        "level": level,
                        "identity": "AIOS Cell Alpha",
                        "evolutionary_stage": "hierarchical_intelligence",
                        "communication_ready": true,
                        "last_sync": Value::Null,
                    },
                    "capabilities": settings.services,
                    "peers_count": 0,
                    "messages_count": 0,
                    "timestamp": wire::timestamp(SystemTime::now()),
                }),
            ),
            None => Reply::json(
                200,
                &wire::Health {
                    status: "healthy",
                    cell_id: settings.id.as_str(),
                    branch: &settings.branch,
                    consciousness_level: level,
                    services: &settings.services,
                    kind: &settings.kind,
                    hostname: &self.state.hostname,
                },
            ),
        }
    }

    fn answer_consciousness(&self) -> Reply {
        let settings = &self.state.settings;
        let mut body = json!({
            "cell_id": settings.id,
            "level": self.state.mind().level,
            "uptime_seconds": self.state.uptime().as_secs_f64(),
            "messages_processed": 0,
            "primitives": self.primitives(),
            "timestamp": wire::timestamp(SystemTime::now()),
        });
        if settings.preset == Some(Preset::Alpha) {
            body["peer_count"] = json!(0);
            body["capabilities"] = json!(settings.services);
        } else {
            body["registered"] = json!(self.state.is_registered());
        }
        Reply::json(200, &body)
    }

    fn answer_sync(&self, request: &Request) -> Result<Reply, Reply> {
        let sync = LevelSync::from_json(request.json()?)
            .map_err(|why| Reply::error(422, why.to_string()))?;
        let (old, new, updated) = self.state.sync(&sync);
        log::info!("Level set from {old} to {new}");
        Ok(Reply::json(
            200,
            &json!({
                "old_level": old,
                "new_level": new,
                "primitives_updated": updated,
                "purity": "maintained",
            }),
        ))
    }

    fn primitives(&self) -> Map<String, Value> {
        PRIMITIVES
            .into_iter()
            .zip(self.state.mind().primitives)
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect()
    }
}
