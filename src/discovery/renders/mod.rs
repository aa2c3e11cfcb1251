//! One rendering of the list for all who read it at about the same time.
//!
//! A list of thousands takes longer to render than everything else a request takes together. So what
//! is rendered is kept for a moment and sent to all who ask while it is true: the membership is looked
//! at for every reader, and has to be the same; levels and the times of beats may lag by [`LAG`],
//! where there are so many that it matters. Where somebody has come or gone, only the pages of the
//! list that have changed are rendered anew.
//!
//! Whoever asks for another form of the list, or a part of it, shares it with all who ask for the same
//! ([`views`]).
//!
//! At most one rendering is made at a time ([`turns`]). What waits is bounded, and so is what is still
//! being sent ([`room`]): readers are turned away before they take the room that heartbeats need.

mod forms;
mod gzip;
mod room;
mod rows;
mod turns;
mod views;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crc32fast::Hasher;
use prometheus::IntCounter;

use crate::courtesy::Courtesy;
use crate::http::Pieces;
use crate::registry::{Gone, List, Page};
use crate::wire;
use gzip::Deflate;
use room::{Readers, Room, Span};
use turns::Turns;
use views::Views;

pub(super) use forms::Departed;
pub(super) use turns::Shed;

/// By how much levels and the times of beats may lag behind what is known.
const LAG: Duration = Duration::from_millis(100);
/// How long a reader waits for a rendering: less than its own patience, or it is made for nobody.
const PATIENCE: Duration = Duration::from_secs(4);
/// For how long nobody has read when what is kept is let go of.
pub(super) const UNREAD: Duration = Duration::from_secs(2);
/// How long a row is about, as long as none has been rendered.
const USUAL_ROW: usize = 200;
/// How long what stands behind the rows may well be.
const TAIL: usize = 256;
/// What is made about so many times as small by compression.
const RATIO: usize = 8;
/// What is shorter than this is not worth compressing.
const SHORT: usize = 1024;

/// What a rendering shows, and has to be the same for whoever gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// The revision of the membership.
    pub(super) revision: u64,
    /// How many registrations and beats had been taken.
    pub(super) heard: u64,
    /// Whether discovery still settles.
    pub(super) settling: bool,
}

/// Where the list is read.
pub(super) trait Source {
    /// How it is now.
    fn moment(&self) -> Moment;

    /// The list as it is now.
    fn list(&self) -> (List, Moment);

    /// The departures that are remembered, newest first.
    fn gone(&self) -> (Vec<Arc<Gone>>, Moment);

    /// What stands in the answer beside the peers.
    fn frame(&self, count: usize, moment: Moment, now: SystemTime) -> Frame<'_>;
}

/// The answer without the peers.
pub(super) type Frame<'a> = wire::Peers<'a, [wire::Listed<'a>; 0]>;

/// Renderings as they are asked for.
pub(super) struct Renders {
    /// Where their tags begin: no other run of a discovery has the same.
    run: String,
    readers: Readers,
    plain: Turns<Arc<Rendering>>,
    gzip: Turns<Arc<Rendering>>,
    /// Other forms, and parts of the list.
    views: Views,
    room: Room,
    kept: Mutex<Kept>,
    made: AtomicU64,
    /// Counts them, too, for others to see.
    counter: IntCounter,
}

#[derive(Default)]
struct Kept {
    last: Option<Arc<Rendering>>,
    /// How long a row was in the last one, though it may not be kept any more.
    row: Option<usize>,
    read: Option<Instant>,
}

/// The list, rendered.
struct Rendering {
    moment: Moment,
    /// Which one it is.
    number: u64,
    /// When the oldest of its parts was read.
    since: Instant,
    parts: Vec<Arc<Part>>,
    tail: Span,
    length: usize,
    packed: OnceLock<Packed>,
}

/// The rows of one page.
struct Part {
    /// Which page, and in which form.
    version: u64,
    since: Instant,
    heard: u64,
    rows: Span,
    sum: OnceLock<Hasher>,
    packed: OnceLock<Span>,
}

/// What is around the parts when they are sent in gzip.
struct Packed {
    head: Span,
    tail: Span,
    length: usize,
}

/// A rendering in the form in which it is sent.
pub(super) struct Copy {
    rendering: Arc<Rendering>,
    is_packed: bool,
    tag: String,
}

impl Renders {
    /// For a server that holds so many connections, in a run of this name.
    pub(super) fn new(connections: usize, run: String, counter: IntCounter) -> Self {
        Self {
            run,
            readers: Readers::new(connections),
            plain: Turns::new(),
            gzip: Turns::new(),
            views: Views::default(),
            room: Room::new(),
            kept: Mutex::default(),
            made: AtomicU64::new(0),
            counter,
        }
    }

    /// A rendering that shows what is true after this is called, in gzip if that is liked and worth it.
    ///
    /// # Errors
    /// When there is too much to do.
    pub(super) fn read(&self, source: &impl Source, likes_gzip: bool) -> Result<Copy, Shed> {
        let is_done = |rendering: &Arc<Rendering>| {
            !likes_gzip || rendering.is_short() || rendering.packed.get().is_some()
        };
        let deadline = Instant::now() + PATIENCE;
        let ready = self.ready(source.moment()).filter(is_done);
        let rendering = match (ready, likes_gzip) {
            (Some(ready), _) => ready,
            (None, false) => {
                let _reader = self.readers.admit()?;
                self.plain.share(deadline, || self.render(source))?
            }
            (None, true) => {
                let _reader = self.readers.admit()?;
                self.gzip.share(deadline, || {
                    let rendering = self.plain.share(deadline, || self.render(source))?;
                    if !is_done(&rendering) {
                        self.pack(&rendering)?;
                    }
                    Ok(rendering)
                })?
            }
        };
        let is_packed = likes_gzip && rendering.packed.get().is_some();
        let form = if is_packed { "-gzip" } else { "" };
        Ok(Copy {
            tag: format!("\"{}-{}{form}\"", self.run, rendering.number),
            is_packed,
            rendering,
        })
    }

    /// Lets go of what is kept, if nobody has read for so long.
    pub(super) fn let_go(&self, unread: Duration) {
        self.views.let_go(unread);
        let mut kept = self.kept();
        if kept.read.is_some_and(|read| read.elapsed() >= unread) {
            let last = kept.last.take();
            kept.read = None;
            drop(kept);
            drop(last);
        }
    }

    /// What is kept, if it is true at that moment.
    fn ready(&self, moment: Moment) -> Option<Arc<Rendering>> {
        let mut kept = self.kept();
        let now = Instant::now();
        kept.read = Some(now);
        let last = kept.last.as_ref()?;
        let is_true = last.moment.revision == moment.revision
            && last.moment.settling == moment.settling
            && (last.moment.heard == moment.heard || last.parts.len() > 1)
            && now.saturating_duration_since(last.since) <= LAG;
        is_true.then(|| Arc::clone(last))
    }

    fn render(&self, source: &impl Source) -> Result<Arc<Rendering>, Shed> {
        let (list, moment) = source.list();
        if let Some(ready) = self.ready(moment) {
            return Ok(ready);
        }
        let rendering = Arc::new(self.make(source, &list, moment)?);
        let mut kept = self.kept();
        kept.row = rendering.length.checked_div(list.len());
        let former = kept.last.replace(Arc::clone(&rendering));
        // It was asked for until now, however long ago it was begun: whoever let go meanwhile has to
        // come by again.
        kept.read = Some(Instant::now());
        drop(kept);
        drop(former);
        Ok(rendering)
    }

    fn make(&self, source: &impl Source, list: &List, moment: Moment) -> Result<Rendering, Shed> {
        let since = Instant::now();
        let pages = list.pages();
        let is_small = pages.len() <= 1;
        let is_fresh = |part: &&Arc<Part>| match is_small {
            true => part.heard == moment.heard,
            false => since.saturating_duration_since(part.since) <= LAG,
        };
        let (row, former) = {
            let mut kept = self.kept();
            (kept.row.unwrap_or(USUAL_ROW), kept.last.take())
        };
        let former_parts = former.iter().flat_map(|former| &former.parts);
        let mut known: HashMap<u64, Arc<Part>> = former_parts
            .filter(is_fresh)
            .map(|part| (part.version, Arc::clone(part)))
            .collect();
        // What is of no more use makes room.
        drop(former);

        let is_new = |page: &&Arc<Page>| !known.contains_key(&page.version());
        let rows: usize = pages.clone().filter(is_new).map(|page| page.len()).sum();
        let mut bytes = self.room.take(row * rows + TAIL, row * list.len())?;
        let mut ranges = Vec::with_capacity(pages.len());
        let mut courtesy = Courtesy::default();
        for page in pages.clone().filter(is_new) {
            let start = bytes.len();
            let rows = page.rows();
            let rows = rows.map(|row| (&**row.facts, row.level, row.last_seen));
            rows::write(&mut bytes, rows).map_err(|e| Shed::failed(&e))?;
            ranges.push((page.version(), start..bytes.len()));
            // Whoever waits for a processor has less to do.
            courtesy.give_way();
        }
        let start = bytes.len();
        // Taken last: nobody was seen later than this.
        let frame = source.frame(list.len(), moment, SystemTime::now());
        rows::write_tail(&mut bytes, &frame).map_err(|e| Shed::failed(&e))?;
        let tail = start..bytes.len();

        let slab = self.room.hold(bytes);
        known.extend(ranges.into_iter().map(|(version, range)| {
            let part = Part {
                version,
                since,
                heard: moment.heard,
                rows: Span::of(&slab, range),
                sum: OnceLock::new(),
                packed: OnceLock::new(),
            };
            (version, Arc::new(part))
        }));
        let parts: Vec<_> = pages
            .filter_map(|page| known.remove(&page.version()))
            .collect();
        self.counter.inc();
        let mut rendering = Rendering {
            moment,
            number: self.next_number(),
            since: parts.iter().map(|part| part.since).min().unwrap_or(since),
            length: 0,
            parts,
            tail: Span::of(&slab, tail),
            packed: OnceLock::new(),
        };
        let rows = rendering.parts.iter().map(|part| part.rows.len());
        rendering.length = rows::HEAD.len()
            + rows.sum::<usize>()
            + rendering.commas() * rows::COMMA.len()
            + rendering.tail.len();
        Ok(rendering)
    }

    /// Compresses what is not compressed yet of a rendering, for one reader at a time.
    fn pack(&self, rendering: &Rendering) -> Result<(), Shed> {
        let failed = |e| Shed::failed(&e);
        let anew = || {
            let parts = rendering.parts.iter();
            parts.filter(|part| part.packed.get().is_none())
        };
        let plain: usize = anew().map(|part| part.rows.len()).sum();
        let mut bytes = self.room.take(plain / RATIO, rendering.length)?;
        let mut deflate = Deflate::new();
        bytes.extend_from_slice(&gzip::HEAD);
        deflate.part(rows::HEAD, &mut bytes).map_err(failed)?;
        let head = 0..bytes.len();
        let mut ranges = Vec::with_capacity(rendering.parts.len());
        for part in anew() {
            let start = bytes.len();
            deflate
                .part(part.rows.bytes(), &mut bytes)
                .map_err(failed)?;
            ranges.push((part, start..bytes.len()));
        }
        let start = bytes.len();
        deflate
            .part(rendering.tail.bytes(), &mut bytes)
            .map_err(failed)?;
        gzip::write_end(&mut bytes, rendering.sum(), rendering.length);
        let tail = start..bytes.len();

        let slab = self.room.hold(bytes);
        for (part, range) in ranges {
            // For one at a time to do, so nobody has done it meanwhile.
            let _ = part.packed.set(Span::of(&slab, range));
        }
        let (head, tail) = (Span::of(&slab, head), Span::of(&slab, tail));
        let packed = rendering.parts.iter().filter_map(|part| part.packed.get());
        let length = head.len()
            + packed.map(Span::len).sum::<usize>()
            + rendering.commas() * gzip::COMMA.len()
            + tail.len();
        let _ = rendering.packed.set(Packed { head, tail, length });
        Ok(())
    }

    fn next_number(&self) -> u64 {
        self.made.fetch_add(1, Ordering::Relaxed)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing is left half done by a thread that panics while it holds this.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rendering {
    fn is_short(&self) -> bool {
        self.length < SHORT
    }

    /// How many commas there are between parts.
    fn commas(&self) -> usize {
        self.parts.len().saturating_sub(1)
    }

    /// The checksum of all of it.
    fn sum(&self) -> Hasher {
        let mut sum = Hasher::new();
        sum.update(rows::HEAD);
        for (number, part) in self.parts.iter().enumerate() {
            if number > 0 {
                sum.update(rows::COMMA);
            }
            sum.combine(part.sum.get_or_init(|| {
                let mut sum = Hasher::new();
                sum.update(part.rows.bytes());
                sum
            }));
        }
        sum.update(self.tail.bytes());
        sum
    }
}

impl Copy {
    /// What no other rendering has, nor another form of this.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// The revision it shows.
    pub(super) fn revision(&self) -> u64 {
        self.rendering.moment.revision
    }

    /// Whether it is in gzip.
    pub(super) fn is_packed(&self) -> bool {
        self.is_packed
    }

    fn packed(&self) -> Option<&Packed> {
        self.rendering.packed.get().filter(|_| self.is_packed)
    }
}

/// What is before the parts, the parts with commas between them, and what is behind.
impl Pieces for Copy {
    fn count(&self) -> usize {
        2 + self.rendering.parts.len() + self.rendering.commas()
    }

    fn piece(&self, number: usize) -> &[u8] {
        let packed = self.packed();
        if number == 0 {
            return packed.map_or(rows::HEAD, |packed| packed.head.bytes());
        }
        if number + 1 >= self.count() {
            return packed
                .map_or(&self.rendering.tail, |packed| &packed.tail)
                .bytes();
        }
        if number.is_multiple_of(2) {
            return packed.map_or(rows::COMMA, |_| gzip::COMMA);
        }
        let part = self.rendering.parts.get(number / 2);
        let span = part.and_then(|part| match packed {
            None => Some(&part.rows),
            Some(_) => part.packed.get(),
        });
        span.map_or(&[], Span::bytes)
    }

    fn length(&self) -> usize {
        self.packed()
            .map_or(self.rendering.length, |packed| packed.length)
    }
}

#[cfg(test)]
mod tests;
