//! Tokens: who has to send one, who does, and how they are exchanged while everybody works.

mod cells;
mod discovery;
mod files;

use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::{Answer, Child};

/// Tokens as an operator makes them.
const ONE: &str = "q7Zp0vXKd3Rw9TfLb2Hs5YgMn8Jc4UeA";
const TWO: &str = "Wk1-mB6.tV_3xN~oG8+iD/5rS0aPzQ==";
const OTHER: &str = "hE4uC9yI2jF7lO0kR5wT8nX1bM6vZ3sD";

/// A file of tokens.
struct TokenFile {
    folder: TempDir,
    path: PathBuf,
}

impl TokenFile {
    fn of(tokens: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        let file = Self { folder, path };
        file.write(&lines(tokens));
        file
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    /// Writes over what is there.
    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).expect("written");
    }

    /// Puts another file in its place, as those do who want it whole at every moment.
    fn replace(&self, text: &str) {
        let next = self.folder.path().join("next");
        std::fs::write(&next, text).expect("written");
        std::fs::rename(&next, &self.path).expect("renamed");
    }
}

fn lines(tokens: &[&str]) -> String {
    tokens.iter().map(|token| format!("{token}\n")).collect()
}

/// The header that carries `token`.
fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// A request with a token.
fn with(program: &Child, token: &str, method: &str, target: &str, body: &str) -> Answer {
    program.request(method, target, &[&bearer(token)], body.as_bytes())
}

fn registration(id: &str) -> String {
    format!(r#"{{"cell_id":"{id}","ip":"127.0.0.1","port":1}}"#)
}

fn beat(id: &str) -> String {
    format!(r#"{{"cell_id":"{id}"}}"#)
}

/// Asserts that `text` shows no part of a token.
#[track_caller]
fn expect_no_token_in(text: &str) {
    for token in [ONE, TWO, OTHER] {
        for part in token.as_bytes().windows(6) {
            let part = str::from_utf8(part).expect("ASCII");
            assert!(!text.contains(part), "{part}: {text}");
        }
    }
}

/// The lines of a log with `word` in them.
fn said(program: &Child, word: &str) -> Vec<String> {
    let mut log = program.log();
    log.retain(|line| line.contains(word));
    log
}
