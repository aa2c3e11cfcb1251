//! The rules of the house, checked on the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// The code of a file: without comments, and without its unit tests, which stand at its end.
struct Source {
    path: String,
    code: String,
}

/// Whether what follows the code of a file is a module of tests, or nothing.
fn is_one_module(tests: &str) -> bool {
    let tests = tests.trim();
    match tests.strip_prefix("mod tests {") {
        Some(inner) => inner.find("\n}") == Some(inner.len() - 2),
        None => matches!(tests, "" | "mod tests;"),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    files(&root().join("src"), &mut found);
    files(&root().join("bin"), &mut found);
    found
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("UTF-8");
            let (code, tests) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
            assert!(is_one_module(tests), "{}: code after tests", path.display());
            let code = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            let path = path.strip_prefix(root()).expect("below the root");
            Source {
                path: path.to_str().expect("UTF-8").to_owned(),
                code,
            }
        })
        .collect()
}

/// The files that say one of `words`, as `path: word`.
fn naming(words: &[&str], which: impl Fn(&str) -> bool) -> Vec<String> {
    let sources = sources();
    let looked_at: Vec<_> = sources.iter().filter(|file| which(&file.path)).collect();
    assert!(!looked_at.is_empty(), "the files to look at have moved");
    looked_at
        .iter()
        .flat_map(|file| {
            let said = words.iter().filter(|word| file.code.contains(**word));
            said.map(|word| format!("{}: {word}", file.path))
        })
        .collect()
}

#[test]
fn pure_modules_know_no_clock_no_socket_no_thread_and_no_log() {
    const PURE: [&str; 24] = [
        "src/wire/",
        "src/registry/",
        "src/cell/pulse.rs",
        "src/discovery/asked.rs",
        "src/discovery/clock.rs",
        "src/discovery/hold.rs",
        "src/discovery/renders/forms.rs",
        "src/discovery/renders/gzip.rs",
        "src/discovery/renders/rows.rs",
        "src/discovery/state/book.rs",
        "src/discovery/state/former.rs",
        "src/discovery/state/journal.rs",
        "src/discovery/state/roll.rs",
        "src/discovery/watchdog/doubt.rs",
        "src/http/head.rs",
        "src/http/body.rs",
        "src/http/arrived.rs",
        "src/http/negotiate.rs",
        "src/mesh/happened.rs",
        "src/mesh/roster.rs",
        "src/mesh/sentences.rs",
        "src/mesh/stream.rs",
        "src/mesh/table.rs",
        "src/mesh/wanted.rs",
    ];
    let impure = [
        "Instant",
        "::now()",
        "std::thread",
        "thread::",
        "std::io",
        "std::fs",
        "std::env",
        "TcpStream",
        "UdpSocket",
        "TcpListener",
        "ToSocketAddrs",
        "Mutex",
        "RwLock",
        "Condvar",
        "Atomic",
        "getrandom",
        "rustix",
        "log::info",
        "log::warn",
        "log::error",
        "log::debug",
        "println!",
        "print!",
        "crate::http",
        "crate::client",
        "crate::program",
        "crate::args",
        "crate::logging",
        "crate::shutdown",
    ];
    for pure in PURE {
        assert_eq!(naming(&impure, |path| path.starts_with(pure)), [""; 0]);
    }
}

#[test]
fn one_file_names_tiny_http_and_one_folder_names_ureq() {
    assert_eq!(
        naming(&["tiny_http"], |path| path != "src/http/tiny.rs"),
        [""; 0]
    );
    assert_eq!(
        naming(&["ureq::"], |path| !path.starts_with("src/client/")),
        [""; 0]
    );
}

#[test]
fn nothing_sleeps_and_nothing_is_unsafe_or_unfinished() {
    let words = [
        "thread::sleep",
        "unsafe",
        ".unwrap()",
        ".expect(",
        "panic!(",
        "todo!(",
        "unimplemented!(",
        "dbg!(",
        "static mut",
    ];
    assert_eq!(naming(&words, |_| true), [""; 0]);
}

#[test]
fn the_binaries_are_thin() {
    for source in sources() {
        if source.path.starts_with("bin/") {
            assert!(source.code.lines().count() < 40, "{}", source.path);
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    let mut found = Vec::new();
    for folder in ["src", "bin", "tests/it", "tests/sim", "benches"] {
        files(&root().join(folder), &mut found);
    }
    for path in found {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let is_tests_of_a_module = path.ends_with("src/registry/tests.rs");
        assert!(
            text.starts_with("//! ") || is_tests_of_a_module,
            "{}",
            path.display()
        );
    }
}

#[test]
fn the_readme_names_every_setting_and_every_endpoint() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let mut missing = Vec::new();
    for (program, arguments) in [
        ("aios-discovery", &["--help"][..]),
        ("aios-cell", &["--help"]),
        ("aios-mesh", &["up", "--help"]),
        ("aios-mesh", &["peers", "--help"]),
        ("aios-mesh", &["watch", "--help"]),
        ("aios-mesh", &["wait", "--help"]),
        ("aios-mesh", &["explain", "--help"]),
        ("aios-mesh", &["deregister", "--help"]),
    ] {
        let help = crate::support::run(program, arguments, &[]);
        let help = String::from_utf8(help.stdout).expect("UTF-8");
        let flags = help
            .split_whitespace()
            .filter(|word| word.starts_with("--"));
        let variables = help
            .split("[env: ")
            .skip(1)
            .filter_map(|rest| rest.split(['=', ']']).next());
        let named: Vec<&str> = flags.chain(variables).collect();
        assert!(named.len() > 1, "{help}");
        for name in named {
            let name = name.trim_end_matches(['.', ',', ';', ']']);
            if !readme.contains(name) {
                missing.push(format!("{program}: {name}"));
            }
        }
    }
    for path in [
        "/register",
        "/heartbeat",
        "/peer/{cell_id}",
        "/unregister/{cell_id}",
        "/peers",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
        "`GET /`",
        "/consciousness",
        "/consciousness/primitives",
        "/consciousness/sync",
        "/metrics/prometheus",
    ] {
        if !readme.contains(path) {
            missing.push(path.to_owned());
        }
    }
    assert_eq!(missing, [""; 0]);
}
