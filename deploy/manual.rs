//! Writes the manual pages of the three programs and what shells complete their arguments by, out of
//! the definitions of the arguments. They are for packages, so none of it is in the programs.
//!
//! `cargo run --example manual -- /usr/local/share` puts everything where it is looked for.

#![allow(clippy::print_stderr)]

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use aios_mesh::{cell, discovery, mesh};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// What is told of, and what is said about it.
type Term<'a> = (&'a str, &'a str);

/// A program, and what its arguments do not tell.
struct Program {
    command: Command,
    /// Variables that are read beside those of the arguments.
    variables: &'static [Term<'static>],
    files: &'static [Term<'static>],
    see_also: &'static [&'static str],
}

const LOG: [Term; 2] = [
    (
        "LOG_LEVEL",
        "Level of the log on stderr: error, warn, info (the default), debug or trace.",
    ),
    ("RUST_LOG", "The same, where LOG_LEVEL is not set."),
];

/// What the units read, and where.
const TOKEN: Term = (
    "/etc/aios-mesh/token",
    "Tokens, one a line, that systemd hands the units; they are in use once AIOS_TOKEN_FILE=token is among the settings.",
);

fn programs() -> [Program; 3] {
    [
        Program {
            command: discovery::Settings::command(),
            variables: &LOG,
            files: &[
                (
                    "/etc/aios-mesh/discovery.env",
                    "Settings of aios-discovery.service, as NAME=value lines.",
                ),
                TOKEN,
                (
                    "/var/lib/aios-mesh/discovery.state",
                    "The state file of aios-discovery.service.",
                ),
            ],
            see_also: &["aios-cell(1)", "aios-mesh(1)", "systemd.exec(5)"],
        },
        Program {
            command: cell::Arguments::command(),
            variables: &[
                LOG[0],
                LOG[1],
                ("PORT", "The port, where AIOS_CELL_PORT is not set."),
                (
                    "HOSTNAME",
                    "Where others reach the cell, where AIOS_CELL_ADVERTISE is not set.",
                ),
            ],
            files: &[
                (
                    "/etc/aios-mesh/cell.env",
                    "Settings of all units aios-cell@.service, as NAME=value lines.",
                ),
                (
                    "/etc/aios-mesh/cell-NAME.env",
                    "Settings of aios-cell@NAME.service alone.",
                ),
                TOKEN,
            ],
            see_also: &["aios-discovery(1)", "aios-mesh(1)", "systemd.exec(5)"],
        },
        Program {
            command: mesh::arguments(),
            variables: &LOG,
            files: &[],
            see_also: &["aios-discovery(1)", "aios-cell(1)"],
        },
    ]
}

/// Writes everything below `share`, a folder like /usr/share.
///
/// # Errors
/// When something cannot be written.
pub(crate) fn write(share: &Path) -> io::Result<()> {
    for program in programs() {
        let name = program.command.get_name().to_owned();
        for (shell, folder) in [
            (Shell::Bash, "bash-completion/completions"),
            (Shell::Zsh, "zsh/site-functions"),
            (Shell::Fish, "fish/vendor_completions.d"),
        ] {
            let folder = share.join(folder);
            fs::create_dir_all(&folder)?;
            // bash looks for a file that is called as the program is.
            let file = match shell {
                Shell::Zsh => format!("_{name}"),
                Shell::Fish => format!("{name}.fish"),
                _ => name.clone(),
            };
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut program.command.clone(), &name, &mut text);
            fs::write(folder.join(file), mended(text, shell, &name))?;
        }
        let folder = share.join("man/man1");
        fs::create_dir_all(&folder)?;
        let mut command = program.command.clone().disable_help_subcommand(true);
        command.build();
        page(&program, &command, &folder)?;
        for command in command.get_subcommands() {
            page(&program, command, &folder)?;
        }
    }
    Ok(())
}

/// What is written for bash knows no command of a program with a hyphen in its name
/// (<https://github.com/clap-rs/clap/issues/6421>), which it calls in one way where it looks for them
/// and in another where it finds them.
fn mended(text: Vec<u8>, shell: Shell, name: &str) -> Vec<u8> {
    match (shell, String::from_utf8(text)) {
        (Shell::Bash, Ok(text)) => {
            let (found, looked_for) = (name.replace('-', "__subcmd__"), name.replace('-', "__"));
            text.replace(&found, &looked_for).into_bytes()
        }
        (_, Ok(text)) => text.into_bytes(),
        (_, Err(e)) => e.into_bytes(),
    }
}

/// Writes one page: what the arguments say, then what only we know.
fn page(program: &Program, command: &Command, folder: &Path) -> io::Result<()> {
    let man = Man::new(command.clone())
        .source(concat!("aios-mesh ", env!("CARGO_PKG_VERSION")))
        .manual("aios-mesh");
    let mut file = File::create(folder.join(man.get_filename()))?;
    man.render_title(&mut file)?;
    man.render_name_section(&mut file)?;
    man.render_synopsis_section(&mut file)?;
    man.render_description_section(&mut file)?;
    man.render_options_section(&mut file)?;
    let has_commands = command.has_subcommands();
    if has_commands {
        man.render_subcommands_section(&mut file)?;
    }

    let mut codes = vec![
        ("0", "All is well."),
        ("1", "It failed, and one line on stderr says why."),
        (
            "2",
            "An argument or a variable was refused, and one line on stderr says which and what is allowed.",
        ),
    ];
    if has_commands || command.get_name() == "wait" {
        codes.push((
            "3",
            "What wait was to wait for had not come when its time was over.",
        ));
    }
    let runs_on = ["aios-discovery", "aios-cell", "up"].contains(&command.get_name());
    if runs_on {
        codes[0].1 = "It was told to end (SIGTERM, SIGINT, SIGHUP) and did so in order.";
        codes.push(("130", "It was told to end once more before it had done so."));
    }

    let mut rest = Roff::default();
    rest.control("SH", ["ENVIRONMENT"]);
    rest.text([roman(
        "An option that is not given is read from its variable, unless that is empty. Others are:",
    )]);
    terms(&mut rest, program.variables);
    rest.control("SH", ["EXIT STATUS"]);
    terms(&mut rest, &codes);
    if !program.files.is_empty() {
        rest.control("SH", ["FILES"]);
        terms(&mut rest, program.files);
    }
    let is_command = command
        .get_bin_name()
        .is_some_and(|name| name.contains(' '));
    let mut see_also = program.see_also.to_vec();
    if is_command {
        see_also.insert(0, "aios-mesh(1)");
    }
    rest.control("SH", ["SEE ALSO"]);
    rest.text([roman(see_also.join(", "))]);
    rest.to_writer(&mut file)
}

/// A list of what is told of.
fn terms(page: &mut Roff, terms: &[Term]) {
    for (name, about) in terms {
        page.control("TP", []);
        page.text([bold(*name)]);
        page.text([roman(*about)]);
    }
}

fn main() -> ExitCode {
    let Some(share) = std::env::args_os().nth(1) else {
        eprintln!("manual: name the folder to write to, such as /usr/local/share");
        return ExitCode::from(2);
    };
    match write(share.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("manual: cannot write to {}: {e}", share.display());
            ExitCode::FAILURE
        }
    }
}
