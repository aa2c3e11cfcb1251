//! What a cell shows of itself and what changes of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::settings::{Preset, Settings};
use crate::exposition::PRIMITIVES;
use crate::tokens::Tokens;
use crate::wire::{Instance, LevelSync};

/// A cell's state, shared between its heartbeat and its routes.
pub(super) struct State {
    pub(super) settings: Settings,
    /// What it sends to discovery, and asks for where it is told something.
    pub(super) tokens: Option<Arc<Tokens>>,
    pub(super) hostname: String,
    /// What the listener is bound to.
    pub(super) listens: SocketAddr,
    /// This run of the cell.
    pub(super) instance: Instance,
    started: Instant,
    /// Whether discovery has the cell, as far as the last answer told.
    pub(super) registered: AtomicBool,
    /// Held to copy or set a few numbers.
    mind: Mutex<Mind>,
}

/// The numbers a cell shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mind {
    pub(super) level: f64,
    /// In the order of [`PRIMITIVES`].
    pub(super) primitives: [f64; 4],
}

impl State {
    pub(super) fn new(
        settings: Settings,
        tokens: Option<Arc<Tokens>>,
        hostname: String,
        listens: SocketAddr,
        instance: Instance,
    ) -> Self {
        let mind = Mind {
            level: settings.level,
            primitives: settings.preset.map_or([0.0; 4], Preset::primitives),
        };
        Self {
            settings,
            tokens,
            hostname,
            listens,
            instance,
            started: Instant::now(),
            registered: AtomicBool::new(false),
            mind: Mutex::new(mind),
        }
    }

    pub(super) fn mind(&self) -> Mind {
        *self.mind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a pure cell is told. Returns the level before and after, and whether a
    /// primitive was set.
    pub(super) fn sync(&self, sync: &LevelSync) -> (f64, f64, bool) {
        let mut mind = self.mind.lock().unwrap_or_else(PoisonError::into_inner);
        mind.sync(sync)
    }

    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }
}

impl Mind {
    fn sync(&mut self, sync: &LevelSync) -> (f64, f64, bool) {
        let old = std::mem::replace(&mut self.level, sync.level.clamp(0.0, 1.0));
        let mut updated = false;
        for (name, value) in &sync.context {
            if let Some(index) = PRIMITIVES.iter().position(|known| known == name) {
                self.primitives[index] = *value;
                updated = true;
            }
        }
        (old, self.level, updated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_clamps_the_level_and_sets_known_primitives() {
        let mut mind = Mind {
            level: 0.1,
            primitives: [0.1; 4],
        };
        let sync = LevelSync {
            level: 7.0,
            context: vec![("coherence".into(), 0.9), ("unknown".into(), 1.0)],
        };
        assert_eq!(mind.sync(&sync), (0.1, 1.0, true));
        assert_eq!(mind.primitives, [0.1, 0.1, 0.9, 0.1]);
        let sync = LevelSync {
            level: -1.0,
            context: Vec::new(),
        };
        assert_eq!(mind.sync(&sync), (1.0, 0.0, false));
    }
}
