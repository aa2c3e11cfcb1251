//! The manual pages and the completions that `deploy/manual.rs` writes.

#[path = "../../../deploy/manual.rs"]
mod writer;

use std::path::Path;
use std::process::Command;

use super::{output, said};
use crate::support::{run, skip, succeeds};

/// Every command there is, and the page about it.
fn commands() -> Vec<(&'static str, Vec<String>)> {
    let mut commands = vec![
        ("aios-discovery", vec![]),
        ("aios-cell", vec![]),
        ("aios-mesh", vec![]),
    ];
    for name in names_of_commands() {
        commands.push(("aios-mesh", vec![name]));
    }
    commands
}

/// The commands of the tool, as its help lists them.
fn names_of_commands() -> Vec<String> {
    let help = run("aios-mesh", &["--help"], &[]).stdout;
    let help = String::from_utf8(help).expect("UTF-8");
    let (_, list) = help.split_once("Commands:\n").expect("commands");
    let (list, _) = list.split_once("\n\n").expect("their end");
    let names = list.lines().filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then(|| name.to_owned())
    });
    let names: Vec<String> = names.collect();
    assert!(names.contains(&"peers".to_owned()), "{help}");
    names
}

/// The flags and variables that a command's help names.
fn named_by_help(program: &str, command: &[String]) -> Vec<String> {
    let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    arguments.push("--help");
    let help = String::from_utf8(run(program, &arguments, &[]).stdout).expect("UTF-8");
    let mut named: Vec<String> = help
        .split(|c: char| c.is_whitespace() || "[],.;=".contains(c))
        .filter(|word| word.starts_with("--") && word.len() > 2)
        .map(str::to_owned)
        .collect();
    let variables = help.split("[env: ").skip(1);
    named.extend(variables.filter_map(|rest| Some(rest.split(['=', ']']).next()?.to_owned())));
    named
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_command_has_a_page_that_names_its_flags_variables_and_exit_codes() {
    let share = tempfile::tempdir().expect("a folder");
    writer::write(share.path()).expect("written");
    for (program, command) in commands() {
        let name = [&[program.to_owned()], &command[..]].concat().join("-");
        let page = read(&share.path().join(format!("man/man1/{name}.1")));
        // As it is read: without what only sets a font, or keeps a line from being broken.
        let page = page
            .replace("\\fB", "")
            .replace("\\fR", "")
            .replace("\\-", "-");
        let missing: Vec<String> = named_by_help(program, &command)
            .into_iter()
            .filter(|word| !page.contains(word.as_str()))
            .collect();
        assert_eq!(missing, [""; 0], "{name}");
        for section in [
            "NAME",
            "SYNOPSIS",
            "ENVIRONMENT",
            "\"EXIT STATUS\"",
            "\"SEE ALSO\"",
        ] {
            assert!(
                page.contains(&format!("\n.SH {section}\n")),
                "{name}: {page}"
            );
        }
    }
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let share = tempfile::tempdir().expect("a folder");
    writer::write(share.path()).expect("written");
    let folder = share.path().join("bash-completion/completions");
    let complete = |program: &str, words: &[&str]| {
        // What bash sets before it asks, and how a completion is registered.
        let script = r#"
            source "$1"; shift
            program=$1
            function=$(complete -p "$program" | sed 's/.* -F \([^ ]*\).*/\1/')
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            "$function" "$program" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        said(
            Command::new("bash")
                .args(["-c", script, "bash"])
                .arg(folder.join(program))
                .arg(program)
                .args(words),
        )
    };
    let all: Vec<String> = complete("aios-mesh", &[""])
        .lines()
        .map(str::to_owned)
        .collect();
    for name in names_of_commands() {
        assert!(all.contains(&name), "{all:?}");
    }
    assert_eq!(complete("aios-mesh", &["dereg"]), "deregister\n");
    assert_eq!(complete("aios-mesh", &["peers", "--format", "ts"]), "tsv\n");
    assert_eq!(complete("aios-discovery", &["--state"]), "--state-file\n");
    assert_eq!(complete("aios-cell", &["al"]), "alpha\n");
}

#[test]
fn zsh_and_fish_take_their_completions() {
    const TEST: &str = "zsh_and_fish_take_their_completions";
    let share = tempfile::tempdir().expect("a folder");
    writer::write(share.path()).expect("written");
    for (shell, folder) in [
        ("zsh", "zsh/site-functions"),
        ("fish", "fish/vendor_completions.d"),
    ] {
        if !succeeds(shell, &["--version"]) {
            skip(TEST, shell);
            continue;
        }
        let folder = share.path().join(folder);
        let files: Vec<_> = std::fs::read_dir(&folder).expect("a folder").collect();
        assert_eq!(files.len(), 3);
        for file in files {
            let file = file.expect("a file").path();
            // Reads without running.
            let checked = output(Command::new(shell).arg("-n").arg(&file));
            let said = String::from_utf8_lossy(&checked.stderr);
            assert!(checked.status.success() && said.is_empty(), "{said}");
        }
    }
    if succeeds("fish", &["--version"]) {
        let file = share
            .path()
            .join("fish/vendor_completions.d/aios-mesh.fish");
        let script = "source $argv[1]; complete --do-complete 'aios-mesh dereg'";
        let offered = said(
            Command::new("fish")
                .env("HOME", share.path())
                .args(["--no-config", "--command", script])
                .arg(file),
        );
        assert!(offered.starts_with("deregister\t"), "{offered}");
    }
}
