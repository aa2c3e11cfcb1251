//! The tokens of a file: who sends one may do what others may not.
//!
//! A file holds one token a line. Each of them is taken where something is asked for, and the first
//! is what a client sends; so tokens are exchanged one file at a time, with nobody refused. The file
//! is looked at as it is used, and what is found there counts from then on. Tokens never go into a
//! log, an error or a Debug form.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use subtle::{Choice, ConstantTimeEq};

use crate::http::{Reply, Request};
use crate::program::Failure;

/// The most tokens in a file.
const MOST_TOKENS: usize = 16;
/// The longest token, in bytes.
const LONGEST: usize = 512;
/// The longest file, in bytes.
const LONGEST_FILE: usize = 16 * 1024;
/// How often the file is looked at, at most. It is read each time: it is small, and its times and
/// its size can be the same though what it says is not.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The tokens of one file.
pub struct Tokens {
    path: PathBuf,
    /// Held to copy or set a pointer.
    current: Mutex<Arc<[String]>>,
    /// Held by the one who reads the file; nobody waits for it.
    look: Mutex<Look>,
}

struct Look {
    last: Instant,
    /// Why the file could not be used then.
    trouble: Option<String>,
}

impl Tokens {
    /// Reads the tokens of the file at `path`, if one is given.
    ///
    /// # Errors
    /// One line when it cannot be read, or does not hold tokens.
    pub fn of(path: Option<&Path>) -> Result<Option<Arc<Self>>, Failure> {
        path.map(|path| {
            let tokens = read(path).map_err(|why| {
                Failure::new(format!(
                    "{why}; write a token into it, one on a line, or name another with --token-file"
                ))
            })?;
            Ok(Arc::new(Self {
                path: path.to_owned(),
                current: Mutex::new(tokens.into()),
                look: Mutex::new(Look {
                    last: Instant::now(),
                    trouble: None,
                }),
            }))
        })
        .transpose()
    }

    /// One that is in no file.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn only(token: &str) -> Arc<Self> {
        Arc::new(Self {
            path: PathBuf::new(),
            current: Mutex::new([token.to_owned()].into()),
            look: Mutex::new(Look {
                last: Instant::now(),
                trouble: None,
            }),
        })
    }

    /// Lets a request pass that carries one of the tokens.
    ///
    /// # Errors
    /// A 401.
    pub fn admit(&self, request: &Request) -> Result<(), Reply> {
        let (why, challenge) = match request.bearer() {
            Some(token) if self.has(token) => return Ok(()),
            Some(_) => (
                "the token that was sent is not taken here",
                r#"Bearer realm="aios-mesh", error="invalid_token""#,
            ),
            None => (
                "this takes a token: send 'Authorization: Bearer TOKEN'",
                r#"Bearer realm="aios-mesh""#,
            ),
        };
        Err(Reply::error(401, why).header("WWW-Authenticate", challenge))
    }

    /// The value of the header `Authorization` that a client sends.
    #[must_use]
    pub fn authorization(&self) -> String {
        let first = self.tokens().first().cloned();
        format!("Bearer {}", first.unwrap_or_default())
    }

    fn has(&self, token: &str) -> bool {
        // All are compared, and each to its end, so that the time it takes does not tell how much
        // of one was right.
        let known = self.tokens();
        let found = known.iter().fold(Choice::from(0), |found, known| {
            found | known.as_bytes().ct_eq(token.as_bytes())
        });
        found.into()
    }

    /// The tokens as the file has them, or had them when it could last be used.
    fn tokens(&self) -> Arc<[String]> {
        self.look();
        let current = self.current.lock();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    fn look(&self) {
        let mut look = match self.look.try_lock() {
            Ok(look) => look,
            Err(TryLockError::Poisoned(look)) => look.into_inner(),
            // Somebody is at it, and the disk may be slow.
            Err(TryLockError::WouldBlock) => return,
        };
        if look.last.elapsed() < LOOK_EVERY {
            return;
        }
        look.last = Instant::now();
        match read(&self.path) {
            Ok(tokens) => {
                let count = tokens.len();
                let changed = self.set(tokens);
                if look.trouble.take().is_some() || changed {
                    let path = self.path.display();
                    log::info!("tokens are read anew from {path}, there are {count}");
                }
            }
            Err(why) => {
                if look.trouble.as_ref() != Some(&why) {
                    log::warn!("{why}; what was read of it before stays in use");
                    look.trouble = Some(why);
                }
            }
        }
    }

    /// Returns whether these are others than before.
    fn set(&self, tokens: Vec<String>) -> bool {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = **current != *tokens;
        if changed {
            *current = tokens.into();
        }
        changed
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<String>, String> {
    let name = path.display();
    let cannot = |e: io::Error| format!("cannot read the token file {name}: {e}");
    let file = OpenOptions::new()
        .read(true)
        // A pipe is not waited for.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err(format!("the token file {name} is no regular file"));
    }
    let mut bytes = Vec::new();
    let longest = u64::try_from(LONGEST_FILE).unwrap_or(u64::MAX);
    file.take(longest.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    parse(&bytes).map_err(|why| format!("the token file {name} cannot be used: {why}"))
}

/// The tokens in the text of a file. What is wrong with it is said without any of it.
fn parse(text: &[u8]) -> Result<Vec<String>, String> {
    if text.len() > LONGEST_FILE {
        return Err(format!("it is longer than {LONGEST_FILE} bytes"));
    }
    let mut tokens = Vec::new();
    for (index, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        let number = index + 1;
        if line.len() > LONGEST {
            return Err(format!(
                "its line {number} is longer than a token may be ({LONGEST} bytes)"
            ));
        }
        match str::from_utf8(line) {
            Ok(token) if is_token(token) => tokens.push(token.to_owned()),
            _ => {
                return Err(format!(
                    "its line {number} is no token, which is made of A-Z a-z 0-9 - . _ ~ + / and may end in ="
                ));
            }
        }
    }
    match tokens.len() {
        0 => Err("there is no token in it".to_owned()),
        1..=MOST_TOKENS => Ok(tokens),
        count => Err(format!(
            "there are {count} tokens in it, allowed are {MOST_TOKENS}"
        )),
    }
}

/// RFC 6750, 2.1: `b64token`.
fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty()
        && body
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_a_line_and_blank_lines_do_not_count() {
        for (text, expected) in [
            ("one", &["one"][..]),
            ("one\n", &["one"]),
            ("\n\none\r\n \t\r\ntwo\n\n", &["one", "two"]),
            ("aZ09-._~+/==\r\n", &["aZ09-._~+/=="]),
        ] {
            let tokens = parse(text.as_bytes()).expect(text);
            assert_eq!(tokens, expected);
        }
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_and_never_shown() {
        let long = "hush".repeat(LONGEST / 4 + 1);
        for (text, number) in [
            ("hush hush", 1),
            ("\n\n hush", 3),
            ("one\nhush ", 2),
            ("hush=hush", 1),
            ("=", 1),
            ("#hush", 1),
            ("\u{feff}hush", 1),
            ("hush\u{fc}", 1),
            ("hush\rhush", 1),
            ("hush\0", 1),
            (&long, 1),
        ] {
            let why = parse(text.as_bytes()).expect_err(text);
            assert!(why.contains(&format!("its line {number} ")), "{why}");
            assert!(!why.contains("hush"), "{why}");
        }
        assert!(parse(b"hush\xff").is_err());
    }

    #[test]
    fn there_are_as_many_tokens_as_allowed_and_at_least_one() {
        assert!(parse("t\n".repeat(MOST_TOKENS).as_bytes()).is_ok());
        assert!(parse("t\n".repeat(MOST_TOKENS + 1).as_bytes()).is_err());
        assert!(parse("t".repeat(LONGEST).as_bytes()).is_ok());
        assert!(parse("\n".repeat(LONGEST_FILE + 1).as_bytes()).is_err());
        for empty in ["", "\n", " \r\n\t\n"] {
            assert!(parse(empty.as_bytes()).is_err(), "{empty:?}");
        }
    }

    #[test]
    fn every_token_is_taken_whole_and_the_first_is_sent() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        std::fs::write(&path, "first\nsecond\n").expect("written");
        let tokens = Tokens::of(Some(&path)).expect("tokens").expect("some");
        assert!(tokens.has("first") && tokens.has("second"));
        for other in ["", "firs", "First", "firstt", "first\n", "firstsecond"] {
            assert!(!tokens.has(other), "{other}");
        }
        assert_eq!(tokens.authorization(), "Bearer first");
        let shown = format!("{tokens:?}");
        assert!(shown.contains("tokens") && !shown.contains("first"));
    }
}
