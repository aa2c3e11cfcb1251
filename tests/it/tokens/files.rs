//! The file of tokens: at the start, while it changes, and that nothing else ever shows what is in
//! it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::{
    ONE, OTHER, TWO, TokenFile, bearer, beat, expect_no_token_in, lines, registration, said, with,
};
use crate::support::{
    Answer, Child, Connection, SOON, cell, command, discovery, holds_for, ids, one_line, report,
    run, succeeds, wait_for,
};

#[test]
fn a_file_without_tokens_is_refused_at_the_start_in_one_line_that_shows_none() {
    let file = TokenFile::of(&[]);
    let folder = file.folder.path();
    let pipe = folder.join("pipe");
    assert!(succeeds("mkfifo", &[pipe.to_str().expect("UTF-8")]));
    let mut cases = vec![
        (folder.join("none"), "No such file"),
        (folder.to_owned(), "no regular file"),
        (pipe, "no regular file"),
    ];
    for (number, (text, why)) in [
        (String::new(), "no token in it"),
        ("\n \r\n\n".to_owned(), "no token in it"),
        (format!("{ONE}\n{TWO} \n"), "line 2"),
        (format!("# {ONE}\n"), "line 1"),
        (format!("token={ONE}\n"), "line 1"),
        (format!("\n\n{OTHER}\u{fc}\n"), "line 3"),
        (ONE.repeat(17), "line 1"),
        (lines(&[ONE; 17]), "17 tokens"),
        ("\n".repeat(20_000), "longer than 16384 bytes"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.join(number.to_string());
        std::fs::write(&path, text).expect("written");
        cases.push((path, why));
    }
    for (path, why) in cases {
        let path = path.to_str().expect("UTF-8");
        for (program, arguments) in [
            (
                "aios-discovery",
                &["--host", "127.0.0.1", "--port", "0"][..],
            ),
            ("aios-cell", &["pure", "--host", "127.0.0.1", "--port", "0"]),
            ("aios-mesh", &["peers"]),
            ("aios-mesh", &["deregister", "a"]),
        ] {
            let arguments = [arguments, &["--token-file", path]].concat();
            let output = run(program, &arguments, &[]);
            assert_eq!(output.status.code(), Some(1), "{program} {path}");
            let line = one_line(&output);
            for word in [path, why, "--token-file", "write a token"] {
                assert!(line.contains(word), "{word}: {line}");
            }
            expect_no_token_in(&line);
        }
    }
}

#[test]
fn lines_may_end_as_they_do_on_other_systems() {
    let file = TokenFile::of(&[]);
    file.write(&format!("\r\n{ONE}\r\n\r\n{TWO}"));
    let discovery = discovery(&["--token-file", file.path()]);
    for token in [ONE, TWO] {
        let answer = with(&discovery, token, "DELETE", "/peer/a", "");
        assert_eq!(answer.status, 404);
    }
    let _cell = cell(&discovery.url(), &["pure", "--token-file", file.path()]);
    wait_for("it is registered", SOON, || ids(&discovery) == ["pure"]);
}

/// Whether discovery takes `token`.
fn takes(discovery: &Child, token: &str) -> bool {
    match with(discovery, token, "DELETE", "/peer/nobody", "").status {
        404 => true,
        401 => false,
        other => panic!("{other}"),
    }
}

/// Beats again and again on one connection, and asserts that each is taken.
struct Beater {
    connection: Connection,
    id: String,
}

impl Beater {
    fn new(discovery: &Child, id: &str, token: &str) -> Self {
        let answer = with(discovery, token, "POST", "/register", &registration(id));
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self {
            connection: discovery.connect(),
            id: id.to_owned(),
        }
    }

    fn beat(&mut self, token: &str) -> Answer {
        let body = beat(&self.id);
        let head = format!(
            "POST /heartbeat HTTP/1.1\r\nHost: h\r\n{}\r\nContent-Length: {}\r\n\r\n",
            bearer(token),
            body.len()
        );
        self.connection.send((head + &body).as_bytes());
        self.connection.answer().expect("an answer")
    }
}

#[test]
fn tokens_are_exchanged_under_load_and_nobody_is_refused_who_sends_one_that_counts() {
    let file = TokenFile::of(&[ONE]);
    let discovery = discovery(&["--token-file", file.path()]);
    let is_new = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    let beats = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // They end when this does, also where it fails.
        let _end = End(&done);
        let mut beaters = Vec::new();
        for number in 0..4 {
            let mut beater = Beater::new(&discovery, &format!("cell{number}"), ONE);
            let (is_new, done, beats) = (&is_new, &done, &beats);
            beaters.push(scope.spawn(move || {
                let mut refused = Vec::new();
                while !done.load(Ordering::SeqCst) {
                    let token = match is_new.load(Ordering::SeqCst) {
                        true => TWO,
                        false => ONE,
                    };
                    let answer = beater.beat(token);
                    if answer.status != 200 {
                        refused.push((token, answer.text().to_owned()));
                    }
                    beats.fetch_add(1, Ordering::SeqCst);
                }
                refused
            }));
        }
        let at_least = |more: usize| {
            let before = beats.load(Ordering::SeqCst);
            wait_for("they have beaten", SOON, || {
                beats.load(Ordering::SeqCst) >= before + more
            });
        };
        at_least(50);
        // The new one beside the old one, which is written again and again, in every way.
        file.replace(&lines(&[ONE, TWO]));
        let known = wait_for("the new one is known", SOON, || takes(&discovery, TWO));
        for round in 0..40 {
            let both = lines(&[ONE, TWO, OTHER][..2 + round % 2]);
            match round % 4 {
                0 => file.write(&both),
                1 => file.write(&format!("{both}\n")),
                _ => file.replace(&both),
            }
            at_least(20);
        }
        is_new.store(true, Ordering::SeqCst);
        at_least(50);
        file.replace(&lines(&[TWO, ONE]));
        at_least(50);
        file.replace(&lines(&[TWO]));
        let gone = wait_for("the old one is gone", SOON, || !takes(&discovery, ONE));
        at_least(50);
        for took in [known, gone] {
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
        report(&format!(
            "tokens exchanged under {} beats: the new one taken after {} ms, the old one refused after {} ms",
            beats.load(Ordering::SeqCst),
            known.as_millis(),
            gone.as_millis()
        ));
        done.store(true, Ordering::SeqCst);
        for beater in beaters {
            assert_eq!(beater.join().expect("no panic"), []);
        }
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_file_that_can_no_longer_be_used_changes_nothing_and_is_spoken_of_once() {
    let file = TokenFile::of(&[ONE]);
    let discovery = discovery(&["--token-file", file.path()]);
    let garbage = format!("{OTHER}\n{TWO} {TWO}\n");
    let spoils: [(&str, &dyn Fn()); 5] = [
        ("no token in it", &|| file.replace("\n")),
        ("line 2", &|| file.replace(&garbage)),
        ("line 1", &|| file.replace(&format!("\0{OTHER}"))),
        ("No such file", &|| {
            std::fs::remove_file(&file.path).expect("removed");
        }),
        ("no regular file", &|| {
            std::fs::create_dir(&file.path).expect("made");
        }),
    ];
    for (before, (what, spoil)) in spoils.into_iter().enumerate() {
        spoil();
        wait_for("it says so", SOON, || {
            assert!(takes(&discovery, ONE), "{what}");
            said(&discovery, what).len() == 1
        });
        holds_for("it says it once", Duration::from_millis(700), || {
            takes(&discovery, ONE)
                && !takes(&discovery, TWO)
                && !takes(&discovery, OTHER)
                && said(&discovery, "WARN").len() == before + 1
        });
    }
    std::fs::remove_dir(&file.path).expect("removed");
    file.replace(&lines(&[TWO]));
    wait_for("the new one is taken", SOON, || takes(&discovery, TWO));
    assert!(!takes(&discovery, ONE));
    wait_for("it says so", SOON, || {
        said(&discovery, "tokens are read anew").len() == 1
    });
    // The same trouble again is news again.
    file.write("\n");
    wait_for("it says so", SOON, || {
        assert!(takes(&discovery, TWO));
        said(&discovery, "no token in it").len() == 2
    });
    file.write(&lines(&[TWO]));
    wait_for("it is well", SOON, || {
        assert!(takes(&discovery, TWO));
        said(&discovery, "tokens are read anew").len() == 2
    });
    expect_no_token_in(&discovery.log().join("\n"));
}

#[test]
fn no_log_shows_any_part_of_a_token_however_much_is_logged() {
    let file = TokenFile::of(&[ONE, TWO]);
    let tokens = ["--token-file", file.path()];
    for level in ["trace", "trace,ureq_proto::util=trace,ureq=trace"] {
        let mut command1 = command("aios-discovery");
        command1.args(["--host", "127.0.0.1", "--port", "0"]);
        command1.args(tokens).env("LOG_LEVEL", level);
        let mut discovery = Child::listening(command1);
        let url = discovery.url();

        let mut command2 = command("aios-cell");
        command2.args(["pure", "--host", "127.0.0.1", "--port", "0"]);
        command2.args(["--heartbeat-every", "50ms", "--discovery", &url]);
        command2.args(tokens).env("LOG_LEVEL", level);
        let mut cell = Child::listening(command2);
        wait_for("it is registered", SOON, || ids(&discovery) == ["pure"]);
        cell.wait_for_line("TRACE", SOON);
        for token in [ONE, TWO, OTHER] {
            with(&discovery, token, "DELETE", "/peer/nobody", "");
            with(&discovery, token, "POST", "/register", "no JSON");
            with(
                &cell,
                token,
                "POST",
                "/consciousness/sync",
                r#"{"level":1}"#,
            );
            let header = bearer(token);
            let long = "x".repeat(20_000);
            for headers in [
                &[&*header, &header][..],
                &[&header, "Authorization: \u{fc}"],
                &[&format!("{header}\u{fc}")],
                &[&header, "Content-Length: x"],
                &[&format!("{header}{long}")],
                &[&header, "Transfer-Encoding: gzip, chunked"],
            ] {
                let answer = discovery.request("POST", "/heartbeat", headers, b"");
                assert!(answer.status >= 400);
                expect_no_token_in(answer.text());
            }
        }
        file.replace(&format!("{ONE}\n{OTHER} \n"));
        wait_for("they say so", SOON, || {
            takes(&discovery, ONE);
            [&discovery, &cell]
                .iter()
                .all(|program| !said(program, "line 2").is_empty())
        });
        file.replace(&lines(&[ONE, TWO]));
        for command in [&["peers"][..], &["deregister", "pure"]] {
            let arguments = [command, &["--discovery", &url], &tokens].concat();
            let output = run("aios-mesh", &arguments, &[("LOG_LEVEL", level)]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains("TRACE"), "{stderr}");
            expect_no_token_in(&stderr);
        }
        for program in [&mut cell, &mut discovery] {
            program.signal(Signal::TERM);
            program.wait(SOON);
            let log = program.whole_log();
            assert!(log.len() > 2);
            expect_no_token_in(&log.join("\n"));
        }
    }
}
