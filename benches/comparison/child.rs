//! Servers as child processes, and what they use of the machine.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::{Result, pause};

/// By this argument this program becomes another one, which ends when its parent does.
pub const TETHERED: &str = "tethered";
/// How long a server may take to listen, or to end: one that reads a million peers, say.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server, killed when it is dropped.
pub struct Child {
    process: std::process::Child,
    pub address: SocketAddr,
}

/// A port that is free now.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// A command that starts `program`, to be ended when this program is.
pub fn tether(program: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([TETHERED, program]);
    Ok(command)
}

/// What [`TETHERED`] does.
pub fn tethered(arguments: &[String]) -> Result<Infallible> {
    let (program, arguments) = arguments.split_first().ok_or("no program")?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let failed = Command::new(program).args(arguments).exec();
    Err(format!("cannot start {program}: {failed}").into())
}

impl Child {
    /// Starts `program`, which is to listen on `port` of the loopback, and waits until it does.
    pub fn start(program: &str, arguments: &[String], port: u16) -> Result<Self> {
        let process = tether(program)?
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("LOG_LEVEL", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut child = Self { process, address };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = child.process.try_wait()? {
                return Err(format!("{program} ended at once: {status}").into());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("{program} does not listen").into());
            }
            pause(Duration::from_millis(1));
        }
        Ok(child)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Result<()> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM)?;
        let asked = Instant::now();
        while self.process.try_wait()?.is_none() {
            if asked.elapsed() > PATIENCE {
                return Err("a server does not end".into());
            }
            pause(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> Result<f64> {
        self.kib("VmRSS:")
    }

    /// The most that was resident.
    pub fn peak(&self) -> Result<f64> {
        self.kib("VmHWM:")
    }

    fn kib(&self, name: &str) -> Result<f64> {
        Ok(number(&self.read("status")?, name)? * 1024.0)
    }

    /// The processor time it has used.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = self.read("stat")?;
        // The name, which may hold anything, ends with the last parenthesis.
        let (_, fields) = stat.rsplit_once(") ").ok_or("no fields in stat")?;
        let ticks = |field: usize| -> Result<f64> {
            let field = fields.split(' ').nth(field);
            Ok(field.ok_or("too few fields in stat")?.parse()?)
        };
        Ok((ticks(11)? + ticks(12)?) / rustix::param::clock_ticks_per_second() as f64)
    }

    /// How many bytes it had written to a disk.
    pub fn written(&self) -> Result<f64> {
        number(&self.read("io")?, "write_bytes:")
    }

    /// Waits until it writes no more; what discovery has not written within a second is late.
    pub fn has_written(&self) -> Result<()> {
        loop {
            let before = self.written()?;
            pause(Duration::from_secs(2));
            if self.written()? <= before {
                return Ok(());
            }
        }
    }

    /// How often each of its threads has gone to sleep by itself, by the thread's number.
    pub fn sleeps(&self) -> Result<HashMap<OsString, f64>> {
        let mut sleeps = HashMap::new();
        for task in fs::read_dir(self.file("task"))? {
            let task = task?;
            // It may end meanwhile.
            if let Ok(status) = fs::read_to_string(task.path().join("status")) {
                let count = number(&status, "voluntary_ctxt_switches:")?;
                sleeps.insert(task.file_name(), count);
            }
        }
        Ok(sleeps)
    }

    fn read(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.file(name))?)
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.process.id())
    }
}

/// The number on the line of `text` that begins with `name`.
fn number(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next());
    Ok(value.ok_or_else(|| format!("no {name}"))?.parse()?)
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
