//! A built program as a child process.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};

use super::log::Log;
use super::{Answer, Connection, SOON, request, wait_for};

/// A running program, killed when it is dropped, with its process group where it leads one.
pub struct Child {
    process: std::process::Child,
    /// Where it listens, as `IP:PORT`.
    pub address: String,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

/// A command for a built program that sees none of this process's settings.
pub fn command(program: &str) -> Command {
    let path: PathBuf = match program {
        "aios-discovery" => env!("CARGO_BIN_EXE_aios-discovery"),
        "aios-cell" => env!("CARGO_BIN_EXE_aios-cell"),
        "aios-mesh" => env!("CARGO_BIN_EXE_aios-mesh"),
        other => panic!("{other} is no program of ours"),
    }
    .into();
    let mut command = Command::new(path);
    // A child that outlives a failed run must not keep the output of that run open.
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    command(program)
        .args(arguments)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .expect("the program starts")
}

impl Child {
    /// Starts a program and waits until it listens.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = command(program);
        command.args(arguments);
        Self::listening(command)
    }

    /// Starts `command` and waits until it says where it listens.
    pub fn listening(command: Command) -> Self {
        let mut child = Self::spawn(command);
        let line = child.wait_for_line("listening on http://", SOON);
        let (_, address) = line.split_once("http://").expect("an address");
        child.address = address.trim().to_owned();
        child
    }

    /// Starts `command`, which may not listen.
    pub fn spawn(mut command: Command) -> Self {
        let mut process = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (log, reader) = Log::of(process.stderr.take().expect("piped"));
        Self {
            process,
            address: String::new(),
            log,
            reader: Some(reader),
        }
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it has said on stderr so far, all of what it said before it last answered.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// All it has said on stderr; to be called once it has ended.
    pub fn whole_log(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it reads to the end");
        }
        self.log()
    }

    /// Nobody reads what it says on stderr while this is locked.
    pub fn reading(&self) -> Arc<Mutex<()>> {
        self.log.reading()
    }

    /// What it has said on stdout, where that was piped; to be called once it has ended.
    pub fn stdout(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stdout) = self.process.stdout.take() {
            stdout.read_to_string(&mut text).expect("UTF-8");
        }
        text
    }

    /// Types into its stdin, where that was piped.
    pub fn type_in(&mut self, text: &str) {
        let mut stdin = self.process.stdin.as_ref().expect("piped");
        stdin.write_all(text.as_bytes()).expect("it reads");
    }

    /// Closes our end of its stdout, where that was piped.
    pub fn close_stdout(&mut self) {
        drop(self.process.stdout.take());
    }

    /// The first line of stderr with `text` in it, waited for.
    pub fn wait_for_line(&mut self, text: &str, at_most: Duration) -> String {
        self.log.wait_for(text, at_most)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.as_pid(), signal).expect("it runs");
    }

    fn as_pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Its exit status, waited for, and how long that took.
    pub fn wait(&mut self, at_most: Duration) -> (ExitStatus, Duration) {
        let mut status = None;
        let took = wait_for("the program ends", at_most, || {
            status = self.process.try_wait().expect("it can be waited for");
            status.is_some()
        });
        (status.expect("it ended"), took)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.process
            .try_wait()
            .expect("it can be waited for")
            .is_none()
    }

    /// A request on a connection of its own.
    pub fn request(&self, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Answer {
        request(&self.address, method, target, headers, body)
    }

    /// A GET.
    pub fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], b"")
    }

    /// A POST of JSON.
    pub fn post(&self, target: &str, body: &str) -> Answer {
        let headers = ["Content-Type: application/json"];
        self.request("POST", target, &headers, body.as_bytes())
    }

    /// A DELETE.
    pub fn delete(&self, target: &str) -> Answer {
        self.request("DELETE", target, &[], b"")
    }

    /// A connection to it.
    pub fn connect(&self) -> Connection {
        Connection::to(&self.address)
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.entries("task")
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        self.entries("fd")
    }

    fn entries(&self, folder: &str) -> usize {
        let path = format!("/proc/{}/{folder}", self.pid());
        std::fs::read_dir(path).expect("it runs").count()
    }

    /// Its resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// Its address space, in KiB.
    pub fn virtual_kib(&self) -> u64 {
        self.status_kib("VmSize:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        self.status(name).parse().expect("a number")
    }

    /// Its state: `S` sleeps, `T` is stopped (proc_pid_status(5)).
    pub fn state(&self) -> String {
        self.status("State:")
    }

    fn status(&self, name: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.expect("a word").to_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let pid = self.as_pid();
        if self.runs() && getpgid(Some(pid)) == Ok(pid) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.address, self.log().join("\n"));
        }
    }
}
