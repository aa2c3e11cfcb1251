//! Every step is on the disk before the next: what a loss of power, which cannot be tried here,
//! would find.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use super::*;

/// The calls that matter, in order, as `call file`.
fn calls(trace: &Path, file: &Path) -> Vec<String> {
    const CALLS: [&str; 4] = ["fdatasync(", "fsync(", "rename(", "pwrite64("];
    let folder = text(file.parent().expect("a folder"));
    let trace = fs::read_to_string(trace).expect("a trace");
    let called = trace.lines().filter_map(|line| {
        let call = CALLS.into_iter().find(|call| line.contains(call))?;
        let (_, rest) = line.split_once(folder)?;
        let end = rest.find(['"', '>'])?;
        Some(format!("{call}{})", rest[..end].trim_start_matches('/')))
    });
    called.collect()
}

#[test]
fn what_is_written_is_on_the_disk_before_it_takes_the_place_of_anything() {
    if !succeeds("strace", &["-D", "-o", "/dev/null", "true"]) {
        return skip(
            "the order of writes and syncs",
            "strace, or the right to use it,",
        );
    }
    let (folder, file) = folder();
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace
        .env_clear()
        // The process is discovery itself, and strace a child of its own.
        .args([
            "-D",
            "-f",
            "-y",
            "-e",
            "trace=fsync,fdatasync,rename,pwrite64",
        ])
        .args(["-o", text(&trace)])
        .arg(command("aios-discovery").get_program())
        .args(["--host", "127.0.0.1", "--port", "0"])
        .args(["--state-file", text(&file)]);
    let mut discovery = Child::listening(strace);
    let anew = [
        "fsync(discovery.state.new)",
        "rename(discovery.state.new)",
        "fsync()",
    ];
    let line = ["pwrite64(discovery.state)", "fdatasync(discovery.state)"];
    register(&discovery, "a", "");
    let expected = [&anew[..], &line].concat();
    wait_for("it is on the disk", SOON, || {
        calls(&trace, &file).len() == expected.len()
    });
    assert_eq!(calls(&trace, &file), expected);
    discovery.signal(Signal::TERM);
    assert_eq!(discovery.wait(SOON).0.code(), Some(0));
    let expected = [&expected[..], &anew].concat();
    wait_for("the trace is whole", SOON, || {
        calls(&trace, &file).len() >= expected.len()
    });
    assert_eq!(calls(&trace, &file), expected);
}
