//! The list in other forms, and parts of it: each rendered once for all who ask for the same.
//!
//! There are as many as anybody thinks of, so only some are kept, and one is made at a time.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crc32fast::Hasher;

use super::super::asked::{Form, State, View};
use super::gzip::{self, Deflate};
use super::room::Span;
use super::turns::Turns;
use super::{
    LAG, Moment, PATIENCE, RATIO, Renders, SHORT, Shed, Source, TAIL, USUAL_ROW, forms, rows,
};
use crate::courtesy::Courtesy;
use crate::http::{JSON, Pieces};
use crate::registry::ListedPeer;

/// How many views are kept, beside those that somebody waits for.
const KEPT: usize = 8;

/// The views that are asked for.
#[derive(Default)]
pub(super) struct Views {
    /// The last one that was asked for stands last.
    shelves: Mutex<Vec<Arc<Shelf>>>,
    /// Whoever makes one.
    desk: parking_lot::Mutex<()>,
}

/// Where a view is.
struct Shelf {
    view: View,
    turns: Turns<Arc<Text>>,
    last: Mutex<Option<Arc<Text>>>,
    asked: Mutex<Instant>,
}

/// A view as it was rendered.
pub(in crate::discovery) struct Text {
    moment: Moment,
    number: u64,
    since: Instant,
    bytes: Span,
    packed: OnceLock<Span>,
}

/// A view in the form in which it is sent.
pub(in crate::discovery) struct Excerpt {
    text: Arc<Text>,
    form: Form,
    is_packed: bool,
    tag: String,
}

impl Renders {
    /// A rendering of `view` that shows what is true after this is called, in gzip if that is liked
    /// and worth it.
    ///
    /// # Errors
    /// When there is too much to do.
    pub(in crate::discovery) fn view(
        &self,
        source: &impl Source,
        view: &View,
        likes_gzip: bool,
    ) -> Result<Excerpt, Shed> {
        let shelf = self.views.shelf(view);
        let is_done =
            |text: &Arc<Text>| !likes_gzip || text.is_short() || text.packed.get().is_some();
        let text = match shelf.ready(source.moment()).filter(is_done) {
            Some(ready) => ready,
            None => {
                let _reader = self.readers.admit()?;
                let deadline = Instant::now() + PATIENCE;
                shelf.turns.share(deadline, || {
                    let desk = self.views.desk.try_lock_until(deadline);
                    let _desk = desk.ok_or(Shed::Late)?;
                    let text = match shelf.ready(source.moment()) {
                        Some(ready) => ready,
                        None => {
                            let text = Arc::new(self.make_view(source, view)?);
                            *shelf.last() = Some(Arc::clone(&text));
                            text
                        }
                    };
                    if !is_done(&text) {
                        self.pack_view(&text)?;
                    }
                    Ok(text)
                })?
            }
        };
        let is_packed = likes_gzip && text.packed.get().is_some();
        let coding = if is_packed { "-gzip" } else { "" };
        let version = match view.is_of_revision() {
            true => format!("r{}", text.moment.revision),
            false => text.number.to_string(),
        };
        Ok(Excerpt {
            tag: format!("\"{}-{version}{coding}\"", self.run),
            form: view.form,
            text,
            is_packed,
        })
    }

    fn make_view(&self, source: &impl Source, view: &View) -> Result<Text, Shed> {
        let since = Instant::now();
        let failed = |e| Shed::failed(&e);
        let (bytes, moment) = match view.state {
            State::Gone => {
                let (gone, moment) = source.gone();
                let gone = gone.iter().filter(|gone| view.filter.takes(&gone.facts));
                let gone: Vec<_> = gone.map(|gone| &**gone).collect();
                let about = gone.len() * USUAL_ROW + TAIL;
                let mut bytes = self.room.take(about, about)?;
                let frame = source.frame(0, moment, SystemTime::now());
                let list = gone.into_iter();
                forms::write_gone(&mut bytes, view.form, list, frame.revision, frame.epoch)
                    .map_err(failed)?;
                (bytes, moment)
            }
            State::Here => {
                let (list, moment) = source.list();
                let about = list.len() * USUAL_ROW + TAIL;
                let mut bytes = self.room.take(about, about)?;
                let mut courtesy = Courtesy::default();
                let mut count = 0;
                let now = SystemTime::now();
                match view.form {
                    Form::Json => bytes.extend_from_slice(rows::HEAD),
                    form => forms::begin(&mut bytes, form),
                }
                for page in list.pages() {
                    let is_asked = |peer: &ListedPeer<'_>| view.filter.takes(peer.facts);
                    let peers: Vec<_> = page.rows().filter(is_asked).collect();
                    if view.form == Form::Json {
                        if count > 0 && !peers.is_empty() {
                            bytes.extend_from_slice(rows::COMMA);
                        }
                        let rows = peers.iter();
                        let rows = rows.map(|peer| (&**peer.facts, peer.level, peer.last_seen));
                        rows::write(&mut bytes, rows).map_err(failed)?;
                    } else {
                        for (number, peer) in (count..).zip(&peers) {
                            forms::write(&mut bytes, view.form, peer, number > 0, now)
                                .map_err(failed)?;
                        }
                    }
                    count += peers.len();
                    courtesy.give_way();
                }
                match view.form {
                    Form::Json => {
                        // Taken last: nobody was seen later than this.
                        let frame = source.frame(count, moment, SystemTime::now());
                        rows::write_tail(&mut bytes, &frame).map_err(failed)?;
                    }
                    form => forms::end(&mut bytes, form),
                }
                (bytes, moment)
            }
        };
        self.counter.inc();
        let length = bytes.len();
        Ok(Text {
            moment,
            number: self.next_number(),
            since,
            bytes: Span::of(&self.room.hold(bytes), 0..length),
            packed: OnceLock::new(),
        })
    }

    fn pack_view(&self, text: &Text) -> Result<(), Shed> {
        let plain = text.bytes.bytes();
        let mut bytes = self.room.take(plain.len() / RATIO, plain.len())?;
        bytes.extend_from_slice(&gzip::HEAD);
        let mut deflate = Deflate::new();
        deflate
            .part(plain, &mut bytes)
            .map_err(|e| Shed::failed(&e))?;
        let mut sum = Hasher::new();
        sum.update(plain);
        gzip::write_end(&mut bytes, sum, plain.len());
        let length = bytes.len();
        let _ = text.packed.set(Span::of(&self.room.hold(bytes), 0..length));
        Ok(())
    }
}

impl Views {
    fn shelf(&self, view: &View) -> Arc<Shelf> {
        let mut shelves = self.shelves();
        let known = shelves.iter().position(|shelf| shelf.view == *view);
        let shelf = match known {
            Some(known) => shelves.remove(known),
            None => {
                // Who waits for one has it, though it is not kept.
                if shelves.len() == KEPT {
                    shelves.remove(0);
                }
                Arc::new(Shelf {
                    view: view.clone(),
                    turns: Turns::new(),
                    last: Mutex::default(),
                    asked: Mutex::new(Instant::now()),
                })
            }
        };
        *lock(&shelf.asked) = Instant::now();
        shelves.push(Arc::clone(&shelf));
        shelf
    }

    /// Lets go of what nobody has read for so long.
    pub(super) fn let_go(&self, unread: Duration) {
        let mut gone = Vec::new();
        self.shelves().retain(|shelf| {
            let is_read = lock(&shelf.asked).elapsed() < unread;
            if !is_read {
                gone.push(Arc::clone(shelf));
            }
            is_read
        });
        drop(gone);
    }

    fn shelves(&self) -> MutexGuard<'_, Vec<Arc<Shelf>>> {
        lock(&self.shelves)
    }
}

impl Shelf {
    fn last(&self) -> MutexGuard<'_, Option<Arc<Text>>> {
        lock(&self.last)
    }

    /// What is kept, if it is true at that moment.
    fn ready(&self, moment: Moment) -> Option<Arc<Text>> {
        let last = self.last();
        let text = last.as_ref()?;
        let is_true = text.moment.revision == moment.revision
            && (self.view.is_of_revision()
                || text.moment.settling == moment.settling
                    && (text.moment.heard == moment.heard || text.bytes.len() > SHORT)
                    && text.since.elapsed() <= LAG);
        is_true.then(|| Arc::clone(text))
    }
}

impl Text {
    fn is_short(&self) -> bool {
        self.bytes.len() < SHORT
    }
}

impl Excerpt {
    /// What no other text of this view has, nor another form of it.
    pub(in crate::discovery) fn tag(&self) -> &str {
        &self.tag
    }

    /// The revision it shows.
    pub(in crate::discovery) fn revision(&self) -> u64 {
        self.text.moment.revision
    }

    /// Its media type.
    pub(in crate::discovery) fn content_type(&self) -> &'static str {
        content_type(self.form)
    }

    /// Whether it is in gzip.
    pub(in crate::discovery) fn is_packed(&self) -> bool {
        self.is_packed
    }
}

impl Pieces for Excerpt {
    fn count(&self) -> usize {
        1
    }

    fn piece(&self, _: usize) -> &[u8] {
        let packed = self.text.packed.get().filter(|_| self.is_packed);
        packed.unwrap_or(&self.text.bytes).bytes()
    }

    fn length(&self) -> usize {
        self.piece(0).len()
    }
}

/// The media type of a form.
fn content_type(form: Form) -> &'static str {
    match form {
        Form::Json | Form::Prometheus => JSON,
        Form::Tsv => "text/tab-separated-values; charset=utf-8",
        Form::Ids | Form::Hosts => "text/plain; charset=utf-8",
    }
}

/// Nothing is left half done by a thread that panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
