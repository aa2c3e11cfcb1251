//! Files that are not as they were left.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::geteuid;

use super::*;

/// A state file of three peers, and its epoch.
fn written() -> (TempDir, PathBuf, Value) {
    let (folder, file) = folder();
    let discovery = with_state(&file, &[]);
    for id in ["a", "b", "c"] {
        register(&discovery, id, "");
    }
    let list = list(&discovery);
    let_it_be_written();
    kill(discovery);
    (folder, file, list)
}

/// What a discovery makes of the file.
struct Made {
    discovery: Child,
    list: Value,
    aside: PathBuf,
}

fn start(file: &Path, flaw: &str) -> Made {
    made_by(with_state(file, &[]), file, flaw)
}

fn made_by(mut discovery: Child, file: &Path, flaw: &str) -> Made {
    let aside = PathBuf::from(format!("{}.{flaw}", text(file)));
    let line = discovery.wait_for_line("the state file", SOON);
    let said = [text(file), text(&aside), " WARN "];
    assert!(said.iter().all(|part| line.contains(part)), "{line}");
    let count = metric(
        &discovery,
        "aios_discovery_state_flaws_total",
        &format!("\"{flaw}\""),
    );
    assert_eq!(count, 1.0);
    let list = list(&discovery);
    // It is kept up from now on, in a new file.
    register(&discovery, "new", "");
    let_it_be_written();
    let saying = |line: &String| line.contains("state file") && !line.contains("discovery with");
    let said: Vec<_> = discovery.log().into_iter().filter(saying).collect();
    assert_eq!(said.len(), 1, "{said:#?}");
    Made {
        discovery,
        list,
        aside,
    }
}

impl Made {
    /// After one more start the file is whole, with what is in the list and the new one.
    fn heals(self, file: &Path) {
        let epoch = self.list["epoch"].clone();
        let mut expected = ids(&self.discovery);
        assert_eq!(expected.pop().as_deref(), Some("new"));
        expected.push("new".to_owned());
        kill(self.discovery);
        let next = with_state(file, &[]);
        assert_eq!(ids(&next), expected);
        let list = list(&next);
        assert_eq!(list["epoch"], epoch);
        assert!(revision(&list) > revision(&self.list));
        assert!(!next.log().iter().any(|line| line.contains(" WARN ")));
    }
}

#[test]
fn of_a_torn_file_all_whole_lines_are_used() {
    let (_folder, file, before) = written();
    let bytes = fs::read(&file).expect("there");
    fs::write(&file, &bytes[..bytes.len() - 5]).expect("written");
    let made = start(&file, "torn");
    assert_eq!(
        fs::read(&made.aside).expect("kept"),
        bytes[..bytes.len() - 5]
    );
    assert_eq!(made.list["count"], 2);
    assert_eq!(made.list["epoch"], before["epoch"]);
    assert!(revision(&made.list) > revision(&before));
    made.heals(&file);
}

#[test]
fn of_a_corrupt_file_what_stands_before_the_damage_is_used() {
    let (_folder, file, before) = written();
    let mut bytes = fs::read(&file).expect("there");
    let second = bytes.windows(7).position(|at| at == b" peer 1").expect("b");
    bytes[second + 20] ^= 1;
    fs::write(&file, &bytes).expect("written");
    let made = start(&file, "corrupt");
    assert_eq!(fs::read(&made.aside).expect("kept"), bytes);
    assert_eq!(made.list["peers"][0]["cell_id"], "a");
    // The rest has to register, and what was said of revisions is lost.
    assert_eq!(made.list["count"], 1);
    assert_eq!(made.list["settling"], true);
    assert_ne!(made.list["epoch"], before["epoch"]);
    made.heals(&file);
}

#[test]
fn a_file_of_another_version_or_of_something_else_is_left_alone() {
    let (_folder, file, before) = written();
    let bytes = fs::read_to_string(&file).expect("there");
    let later = bytes.replacen("aios-mesh-state 1", "aios-mesh-state 2", 1);
    for foreign in [
        later.as_bytes(),
        b"{\"peers\":[]}\n",
        b"\x7fELF\0\0\0\0\0\0\0\0",
    ] {
        fs::write(&file, foreign).expect("written");
        let made = start(&file, "foreign");
        assert_eq!(fs::read(&made.aside).expect("kept"), foreign);
        assert_eq!(made.list["count"], 0);
        assert_eq!(made.list["settling"], true);
        assert_ne!(made.list["epoch"], before["epoch"]);
        made.heals(&file);
    }
}

#[test]
fn what_is_no_file_or_cannot_be_read_is_put_out_of_the_way() {
    let (_folder, file) = folder();
    fs::create_dir(&file).expect("made");
    let made = start(&file, "unreadable");
    assert!(made.aside.is_dir());
    made.heals(&file);
    let (_folder, file) = folder();
    assert!(succeeds("mkfifo", &[text(&file)]));
    start(&file, "unreadable").heals(&file);
}

#[test]
fn a_file_that_belongs_to_somebody_else_is_put_out_of_the_way() {
    const NOBODY: u32 = 65534;
    if !geteuid().is_root() {
        return skip("a state file of somebody else's", "root");
    }
    let (folder, file) = folder();
    let own = |path: &Path| {
        chown(path, Some(NOBODY), None).expect("owned");
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("set");
    };
    // Nobody may not look into every folder a program is built in.
    let program = folder.path().join("aios-discovery");
    let built = crate::support::command("aios-discovery");
    fs::copy(built.get_program(), &program).expect("copied");
    own(&program);
    own(folder.path());
    fs::write(&file, b"secret").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
    let mut command = Command::new(&program);
    command
        .env_clear()
        .uid(NOBODY)
        .args(["--host", "127.0.0.1", "--port", "0"])
        .args(["--state-file", text(&file)]);
    let made = made_by(Child::listening(command), &file, "unreadable");
    assert_eq!(fs::read(&made.aside).expect("kept"), b"secret");
    made.heals(&file);
}

#[test]
fn an_empty_file_is_none() {
    let (_folder, file) = folder();
    fs::write(&file, b"").expect("written");
    let discovery = with_state(&file, &[]);
    register(&discovery, "a", "");
    let_it_be_written();
    assert!(!discovery.log().iter().any(|line| line.contains(" WARN ")));
    // It names who is where, and is nobody else's business.
    let mode = fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    kill(discovery);
    assert_eq!(ids(&with_state(&file, &[])), ["a"]);
}

#[test]
fn a_file_that_is_taken_away_is_written_anew() {
    let (_folder, file) = folder();
    let discovery = with_state(&file, &[]);
    register(&discovery, "a", "");
    let_it_be_written();
    fs::remove_file(&file).expect("removed");
    register(&discovery, "b", "");
    let_it_be_written();
    let before = list(&discovery);
    kill(discovery);
    let next = with_state(&file, &[]);
    assert_eq!(ids(&next), ["a", "b"]);
    assert_eq!(list(&next)["epoch"], before["epoch"]);
}

#[test]
fn without_its_folder_discovery_runs_and_writes_once_it_is_there() {
    let (folder, _) = folder();
    let file = folder.path().join("not/there/state");
    let mut discovery = with_state(&file, &[]);
    let line = discovery.wait_for_line("cannot write the state file", SOON);
    assert!(line.contains("No such file or directory"), "{line}");
    register(&discovery, "a", "");
    fs::create_dir_all(file.parent().expect("a folder")).expect("made");
    discovery.wait_for_line("is up to date", SOON);
    let before = list(&discovery);
    kill(discovery);
    let next = with_state(&file, &[]);
    assert_eq!(ids(&next), ["a"]);
    assert_eq!(list(&next)["epoch"], before["epoch"]);
}
