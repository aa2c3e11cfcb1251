//! The state file: opened, appended to, written anew. Every step is on the disk before the next.
//!
//! Nothing that is wrong with it keeps discovery from running: what cannot be read is set aside
//! under another name, what cannot be written is kept and tried again.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::journal::{Condition, Foreign, MAX_LINE, Reader, Recovered};

/// What is wrong with a state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    Torn,
    Corrupt,
    Foreign,
    Unreadable,
    Behind,
}

impl Flaw {
    pub(super) const ALL: [Self; 5] = [
        Self::Torn,
        Self::Corrupt,
        Self::Foreign,
        Self::Unreadable,
        Self::Behind,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Torn => "torn",
            Self::Corrupt => "corrupt",
            Self::Foreign => "foreign",
            Self::Unreadable => "unreadable",
            Self::Behind => "behind",
        }
    }
}

const DAMAGED: &str = "is damaged";

/// What is found at a path.
pub(super) enum Found {
    Nothing,
    /// What it says, and the file where it can be written.
    Journal(Recovered, Option<Journal>),
    /// Something is wrong with it, said in words; what could be read of it.
    Flawed(Flaw, String, Option<Recovered>),
}

/// Another process has the file.
pub(super) struct InUse;

/// A journal that can be appended to.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    length: u64,
    /// How long it was when it was written anew.
    compact: u64,
    /// Whether its last line end was taken off, for whoever reads it to see that it is behind.
    is_cut: bool,
}

/// What keeps other discoveries from the file for as long as this one runs.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Option<File>,
}

/// Locks `path`, by a file beside it that stays where it is: the file itself is replaced again and
/// again. Some file systems know no locks, and where nothing can be written nothing is in danger.
pub(super) fn lock(path: &Path) -> Result<Lock, InUse> {
    let file = options().open(beside(path, "lock")).ok();
    match file
        .as_ref()
        .map(|file| flock(file, FlockOperation::NonBlockingLockExclusive))
    {
        Some(Err(Errno::WOULDBLOCK)) => Err(InUse),
        _ => Ok(Lock { _file: file }),
    }
}

/// How a file of ours is made or opened: for nobody else to read, and not through a link that
/// somebody has put there.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .mode(0o600)
        .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default());
    options
}

/// Looks at `path`.
pub(super) fn look(path: &Path) -> Found {
    let unreadable =
        |e: io::Error| Found::Flawed(Flaw::Unreadable, format!("cannot be read: {e}"), None);
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Found::Nothing,
        Err(e) => return unreadable(e),
        // A pipe would be waited for.
        Ok(metadata) if !metadata.is_file() => {
            return unreadable(io::Error::other("it is not a file"));
        }
        Ok(_) => {}
    }
    let writable = OpenOptions::new().read(true).write(true).open(path);
    let is_writable = writable.is_ok();
    let read = writable
        .or_else(|_| File::open(path))
        .and_then(|file| judge(file, is_writable));
    read.unwrap_or_else(unreadable)
}

/// Reads the file, and sees what it is worth.
fn judge(file: File, is_writable: bool) -> io::Result<Found> {
    let (length, read) = read(&file)?;
    let recovered = match read {
        Err(Foreign::Version(version)) => {
            let what =
                format!("is in version {version} of the format, which this program does not know");
            return Ok(Found::Flawed(Flaw::Foreign, what, None));
        }
        Err(Foreign::Unknown) => {
            let what = "is something else than a state file".to_owned();
            return Ok(Found::Flawed(Flaw::Foreign, what, None));
        }
        Ok(recovered) => recovered,
    };
    let Some(recovered) = recovered else {
        return Ok(match length {
            0 => Found::Nothing,
            _ => Found::Flawed(Flaw::Corrupt, DAMAGED.to_owned(), None),
        });
    };
    let (flaw, what) = match recovered.condition {
        Condition::Whole => {
            let journal = is_writable.then_some(Journal {
                file,
                length,
                // However much was appended to it by those before: it is not known.
                compact: 0,
                is_cut: false,
            });
            return Ok(Found::Journal(recovered, journal));
        }
        Condition::Torn => (Flaw::Torn, "ends in the middle of a line"),
        Condition::Behind => (Flaw::Behind, "could not be written any more before the end"),
        Condition::Corrupt => (Flaw::Corrupt, DAMAGED),
    };
    Ok(Found::Flawed(flaw, what.to_owned(), Some(recovered)))
}

/// How long the file is as far as there was use in reading it, and what it says.
fn read(file: &File) -> io::Result<(u64, Result<Option<Recovered>, Foreign>)> {
    let mut input = BufReader::with_capacity(1 << 20, file);
    let mut reader = Reader::default();
    let mut line = Vec::new();
    let mut length = 0;
    loop {
        line.clear();
        let count = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok((length, Ok(reader.finish())));
        }
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        length += count;
        if count == MAX_LINE && !line.ends_with(b"\n") {
            // Nobody was stopped in the middle of such a line: none is written.
            line.push(b'\n');
        }
        match reader.take(&line) {
            Ok(true) => {}
            Ok(false) => return Ok((length, Ok(reader.finish()))),
            Err(foreign) => return Ok((length, Err(foreign))),
        }
    }
}

/// Whether `file` is what stands at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let [open, there] = [file.metadata()?, fs::metadata(path)?];
    Ok((open.dev(), open.ino()) == (there.dev(), there.ino()))
}

/// Gives a file that is not used any further another name, beside the one it has until that is
/// written anew.
///
/// # Errors
/// When the folder cannot be written.
pub(super) fn set_aside(path: &Path, flaw: Flaw) -> io::Result<PathBuf> {
    let aside = beside(path, flaw.name());
    if fs::symlink_metadata(&aside).is_ok_and(|old| old.is_file()) {
        fs::remove_file(&aside)?;
    }
    // A link keeps what can be read in its place for a start that fails half way. Folders and the
    // files of others have none.
    fs::hard_link(path, &aside).or_else(|_| fs::rename(path, &aside))?;
    Ok(aside)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// A journal that is written beside the old one, and takes its place when it is all there.
pub(super) struct Anew<'a> {
    path: &'a Path,
    beside: PathBuf,
    file: BufWriter<File>,
    length: u64,
}

impl<'a> Anew<'a> {
    /// # Errors
    /// When the file cannot be made or written.
    pub(super) fn begin(path: &'a Path, header: &[u8]) -> io::Result<Self> {
        let beside = beside(path, "new");
        let file = options()
            .truncate(true)
            .open(&beside)
            // It is the folder that may not be written to.
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", beside.display())))?;
        let mut anew = Self {
            path,
            beside,
            file: BufWriter::with_capacity(1 << 20, file),
            length: 0,
        };
        anew.append(header)?;
        Ok(anew)
    }

    /// # Errors
    /// When it cannot be written.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Sees to it that what was appended so far is on the disk, so that it does not all have to get
    /// there at the end.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    /// Puts it in the place of the old one.
    ///
    /// # Errors
    /// When that does not reach the disk.
    pub(super) fn finish(mut self) -> io::Result<Journal> {
        self.file.flush()?;
        let file = self.file.get_ref().try_clone()?;
        file.sync_all()?;
        fs::rename(&self.beside, self.path)?;
        let folder = self.path.parent().filter(|folder| *folder != Path::new(""));
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(Journal {
            file,
            length: self.length,
            compact: self.length,
            is_cut: false,
        })
    }
}

impl Drop for Anew<'_> {
    /// What was not finished takes no room on a disk that may be full.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.beside);
    }
}

impl Journal {
    /// Appends `bytes`, and returns when they are on the disk.
    ///
    /// # Errors
    /// When they are not; what was written of them is taken back as far as that can be done, and the
    /// file marked as behind.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (at, lines) = match self.is_cut {
            true => (self.length - 1, Cow::from([b"\n", bytes].concat())),
            false => (self.length, Cow::from(bytes)),
        };
        let written = self.file.write_all_at(&lines, at);
        match written.and_then(|()| self.file.sync_data()) {
            Ok(()) => {
                self.length += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                self.is_cut = false;
                Ok(())
            }
            Err(e) => {
                self.cut();
                Err(e)
            }
        }
    }

    /// Marks it as behind: should the process end now, the next must not take what is in it for all
    /// there was. Taking off a byte needs no room on any disk.
    pub(super) fn cut(&mut self) {
        self.is_cut = self.file.set_len(self.length - 1).is_ok();
        let _ = self.file.sync_data();
    }

    /// Whether it is still what stands at `path`: somebody may have tidied up.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        is_at(&self.file, path).unwrap_or(false)
    }

    /// Whether so much was appended that it is worth writing it anew.
    pub(super) fn is_long(&self) -> bool {
        const LEAST: u64 = 1 << 20;
        self.length > 2 * self.compact + LEAST
    }
}
