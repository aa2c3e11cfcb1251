//! The page, in a real browser: `tests/python/page.py` looks at it in Chromium.

use std::path::Path;

use super::*;
use crate::support::{report, succeeds};

/// What drives the browser.
const DRIVER: &str = "playwright, axe_playwright_python";

/// Has one of the tests in `page.py` run. Its pictures are kept in `target/tmp/page`.
fn page(test: &str) {
    let Some(python) = Python::found() else {
        return;
    };
    if !succeeds("chromium", &["--version"]) {
        return skip(test, "chromium");
    }
    let import = format!("import {DRIVER}");
    if !succeeds(&python.0.display().to_string(), &["-c", &import]) {
        return skip(test, "a Python with all of tests/python/requirements.txt");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/page.py");
    let output = Command::new(python.0)
        .args([script, test])
        .args([
            env!("CARGO_BIN_EXE_aios-discovery"),
            env!("CARGO_BIN_EXE_aios-cell"),
        ])
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("page"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    for figure in text
        .lines()
        .filter_map(|line| line.strip_prefix("MEASURED "))
    {
        report(figure);
    }
}

#[test]
fn the_page_looks_well_to_everybody_and_takes_names_for_text() {
    page("looks");
}

#[test]
fn the_page_shows_who_comes_and_goes_within_a_second() {
    page("follows");
}

#[test]
fn the_page_sorts_and_filters_by_mouse_and_keyboard() {
    page("sorts_and_filters");
}

#[test]
fn the_page_says_that_discovery_is_gone_and_finds_it_again() {
    page("survives");
}

#[test]
fn the_page_asks_for_the_token_and_keeps_it_to_itself() {
    page("asks_for_the_token");
}

#[test]
fn the_page_polls_where_there_are_no_events() {
    page("polls");
}

#[test]
fn the_page_starts_over_and_rests_while_nobody_looks() {
    page("starts_over");
}

#[test]
fn the_page_stays_quick_with_two_thousand_peers() {
    page("stays_quick");
}
