//! The disk under the state file: what is on it, what a kill leaves of what was on its way there,
//! and damage.

use aios_mesh::discovery::state::former::{Former, NewEpoch};
use aios_mesh::discovery::state::journal::{Condition, Recovered, Writer, recover};

use crate::chance::Chance;
use crate::coverage::Seen;
use crate::safeguards::Safeguard;
use crate::world::Scene;

/// What stays when a process of discovery ends.
#[derive(Debug)]
pub(super) struct Disk {
    /// The state file, as far as it is on the disk for sure.
    file: Option<Vec<u8>>,
    /// What is appended to it, and may be on the disk or not.
    unsynced: Vec<u8>,
    /// The one that is written to take its place.
    beside: Option<Vec<u8>>,
    chance: Chance,
}

impl Disk {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            file: None,
            unsynced: Vec::new(),
            beside: None,
            chance: Chance::new(seed, "disk"),
        }
    }

    /// How long the file is.
    pub(super) fn length(&self) -> usize {
        self.file.as_ref().map_or(0, Vec::len) + self.unsynced.len()
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.unsynced.extend_from_slice(bytes);
    }

    /// What was appended is there for sure.
    pub(super) fn sync(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.file.get_or_insert_default().extend(unsynced);
    }

    pub(super) fn begin_beside(&mut self, bytes: Vec<u8>) {
        self.beside = Some(bytes);
    }

    pub(super) fn append_beside(&mut self, bytes: &[u8]) {
        self.beside.get_or_insert_default().extend_from_slice(bytes);
    }

    /// What was written beside takes the place of the file.
    pub(super) fn rename(&mut self) {
        if let Some(beside) = self.beside.take() {
            self.file = Some(beside);
            self.unsynced.clear();
        }
    }

    /// The process is killed; `renames` where it had begun to put one file in the place of the
    /// other.
    pub(super) fn is_killed(&mut self, renames: bool, scene: &mut Scene) {
        if self.beside.is_some() {
            scene.coverage.saw(Seen::KilledRewriting);
        }
        let is_not_whole = scene.lacks(Safeguard::WholeInPlace);
        if renames && self.chance.odds(0.5) || is_not_whole {
            self.rename();
        }
        self.beside = None;
        let kept = match self.chance.below(5) {
            0 | 1 => 0,
            2 => self.unsynced.len(),
            _ => self.chance.below(self.unsynced.len() + 1),
        };
        // Cut off just before the end of a line it would pass for marked as behind, which is as safe
        // and costs the epoch.
        let kept = match self.unsynced.get(kept) {
            Some(b'\n') => kept.saturating_sub(1),
            _ => kept,
        };
        self.unsynced.truncate(kept);
        if !matches!(self.unsynced.last(), None | Some(b'\n')) {
            scene.coverage.saw(Seen::Torn);
        }
    }

    /// Nothing is left of it.
    pub(super) fn forget(&mut self) {
        self.file = None;
        self.unsynced.clear();
    }

    /// Something happens to what was there for sure, and nobody notices: a byte is another, or a
    /// line is missing or there twice.
    pub(super) fn is_damaged(&mut self, scene: &mut Scene) -> bool {
        let Some(file) = self.file.as_mut().filter(|file| !file.is_empty()) else {
            return false;
        };
        scene.coverage.saw(Seen::Damaged);
        let mut lines: Vec<Vec<u8>> = file
            .split_inclusive(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
        // Nobody can tell of the last line that it is missing.
        let line = self.chance.below(lines.len() - 1);
        match self.chance.below(4) {
            0 if lines.len() > 1 => {
                lines.remove(line);
            }
            1 if lines.len() > 1 => lines.insert(line, lines[line].clone()),
            _ => {
                let line = match self.chance.odds(0.4) {
                    true => lines.len() - 1,
                    false => self.chance.below(lines.len()),
                };
                let line = &mut lines[line];
                // Where lines end is where it would be missed first.
                let at = match self.chance.odds(0.2) {
                    true => line.len() - 1,
                    false => self.chance.below(line.len()),
                };
                line[at] ^= 1 << self.chance.below(8);
            }
        }
        if scene.lacks(Safeguard::Checksums) {
            resign(&mut lines);
        }
        *file = lines.concat();
        true
    }

    /// What a discovery finds that starts, and the writer that goes on in the file where it can be
    /// gone on with.
    pub(super) fn read(&mut self, new: NewEpoch, scene: &mut Scene) -> (Former, Option<Writer>) {
        self.sync();
        let file = self.file.as_deref().unwrap_or_default();
        let recovered = recover(file).ok().flatten();
        let goes_on = |it: &Recovered| match it.condition {
            Condition::Whole => true,
            Condition::Torn => scene.lacks(Safeguard::TornLeft),
            Condition::Corrupt | Condition::Behind => false,
        };
        let writer = recovered.as_ref().filter(|it| goes_on(it));
        let writer = writer.map(|it| it.writer.clone());
        let before = recovered.as_ref().map(|it| it.epoch.clone());
        let mut former = Former::of(recovered, new);
        match before {
            Some(before) if scene.lacks(Safeguard::EpochOfDamage) => former.epoch = before,
            None if scene.lacks(Safeguard::NewEpoch) => former.epoch = "1".to_owned(),
            _ => {}
        }
        if scene.lacks(Safeguard::AboveReserved) {
            former.revision = former.revision.saturating_sub(1);
        }
        if scene.lacks(Safeguard::Journal) {
            former.peers.clear();
        }
        if scene.lacks(Safeguard::GoodbyesKept) {
            former.left.clear();
        }
        (former, writer)
    }
}

/// Makes the checksums fit.
fn resign(lines: &mut [Vec<u8>]) {
    let mut sum = 0;
    for line in lines {
        let Some(text) = line.get(9..line.len() - 1) else {
            continue;
        };
        let mut hasher = crc32fast::Hasher::new_with_initial(sum);
        hasher.update(text);
        sum = hasher.finalize();
        line[..8].copy_from_slice(format!("{sum:08x}").as_bytes());
    }
}
