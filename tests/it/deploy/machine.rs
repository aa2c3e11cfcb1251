//! The units under a real systemd, the first process of a container that is a machine of its own.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::{file, output, said, static_binary};
use crate::examples::example;
use crate::support::{
    Traffic, holds_for, ids_at, pause, report, request, skip, succeeds, wait_for,
};

const SECOND: Duration = Duration::from_secs(1);
/// How long anything may take that systemd does, on a machine with much else to do.
pub(crate) const DONE: Duration = Duration::from_secs(30);
/// The image, made out of this machine's own packages.
const IMAGE: &str = "aios-mesh-systemd";
/// What is started.
const UNITS: &str = "aios-discovery.socket aios-discovery aios-cell@pure aios-cell@alpha";

/// A running machine.
pub(crate) struct Machine {
    name: String,
    /// Where its discovery is, from here: over a network of Docker's, with nobody in between.
    pub(crate) discovery: String,
}

impl Machine {
    /// Boots one with the binaries installed as the README says, if this host has what it takes.
    pub(crate) fn boot(test: &str) -> Option<Self> {
        let Some(discovery) = static_binary("aios-discovery") else {
            skip(
                test,
                "AIOS_TEST_STATIC_DIR, where cargo static has put the binaries,",
            );
            return None;
        };
        let machine = Self::bare(test, discovery.parent().expect("a folder"))?;
        machine.shell("cd /built && install -m 755 aios-discovery aios-cell aios-mesh /usr/bin/");
        Some(machine)
    }

    /// Boots one with nothing installed, which sees the folder as `/built`.
    pub(crate) fn bare(test: &str, built: &Path) -> Option<Self> {
        if !succeeds("docker", &["info"]) {
            skip(test, "a running Docker");
            return None;
        }
        said(Command::new(file("tests/docker/systemd-image")).arg(IMAGE));
        let name = format!("{test}-{}", std::process::id());
        let built = built.canonicalize().expect("it is there");
        let built = built.display().to_string();
        let project = file(".").canonicalize().expect("it is there");
        let deploy = project.join("deploy").display().to_string();
        let mut machine = Self {
            name,
            discovery: String::new(),
        };
        said(
            Command::new("docker")
                .args(["run", "--detach", "--name", &machine.name])
                // What systemd needs of a machine: to mount, and to see the processes it starts.
                .args(["--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE"])
                .args(["--security-opt", "seccomp=unconfined"])
                .args(["--security-opt", "apparmor=unconfined"])
                .args(["--security-opt", "systempaths=unconfined"])
                .args([
                    "--cgroupns",
                    "private",
                    "--tmpfs",
                    "/run",
                    "--tmpfs",
                    "/tmp",
                ])
                .args(["--volume", &format!("{built}:/built:ro")])
                .args(["--volume", &format!("{deploy}:/project/deploy:ro")])
                .arg(IMAGE),
        );
        wait_for("it has booted", DONE, || {
            let state = machine.try_shell("systemctl is-system-running").stdout;
            ["running\n", "degraded\n"].contains(&&*String::from_utf8_lossy(&state))
        });
        let ip = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let ip = said(Command::new("docker").args(["inspect", "--format", ip, &machine.name]));
        machine.discovery = format!("{}:8001", ip.trim());
        Some(machine)
    }

    pub(crate) fn try_shell(&self, script: &str) -> Output {
        let arguments = ["exec", &self.name, "bash", "-ec", script];
        output(Command::new("docker").args(arguments))
    }

    /// Runs a script that has to succeed. Returns what it says.
    pub(crate) fn shell(&self, script: &str) -> String {
        let arguments = ["exec", &self.name, "bash", "-ec", script];
        said(Command::new("docker").args(arguments))
            .trim()
            .to_owned()
    }

    /// A property of a unit.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        self.shell(&format!("systemctl show --value -p {property} {unit}"))
    }

    pub(crate) fn is_active(&self, unit: &str) -> bool {
        self.show(unit, "ActiveState") == "active"
    }

    /// What a unit has logged.
    pub(crate) fn journal(&self, unit: &str) -> String {
        self.shell(&format!("journalctl --no-pager -o cat -u {unit}"))
    }

    pub(crate) fn listed(&self) -> Vec<String> {
        let mut ids = ids_at(&self.discovery);
        ids.retain(|id| !id.starts_with("client-"));
        ids.sort_unstable();
        ids
    }

    pub(crate) fn both_are_listed(&self) -> Duration {
        wait_for("both cells are listed", DONE, || {
            self.listed() == ["alpha", "pure"]
        })
    }

    /// Nobody gets in.
    pub(crate) fn is_refused(&self) -> bool {
        std::net::TcpStream::connect(&self.discovery).is_err()
    }

    fn health(&self) -> u16 {
        request(&self.discovery, "GET", "/health", &[], b"").status
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.try_shell("journalctl --no-pager -n 200").stdout;
            eprintln!("{}", String::from_utf8_lossy(&journal));
        }
        let remove = ["rm", "--force", "--volumes", &self.name];
        let _ = Command::new("docker").args(remove).output();
    }
}

/// The README's commands that put the units in place and start them.
fn commands_of_the_readme() -> String {
    example("units").text
}

#[test]
fn the_units_do_under_a_real_systemd_what_the_readme_says() {
    let Some(machine) = Machine::boot("units") else {
        return;
    };
    machine.shell(&format!("cd /project\n{}", commands_of_the_readme()));
    // Each was enabled, and has said that it is ready, or its start would have failed.
    for unit in UNITS.split(' ') {
        assert_eq!(machine.show(unit, "UnitFileState"), "enabled", "{unit}");
        wait_for(unit, DONE, || machine.is_active(unit));
    }
    machine.both_are_listed();
    let log = machine.journal("aios-discovery");
    assert!(log.contains("the socket is the service manager's"), "{log}");
    machine.shell("aios-discovery --check");

    // Hemmed in as the units say, and at work.
    for unit in ["aios-discovery", "aios-cell@pure"] {
        let pid = machine.show(unit, "MainPID");
        let status = machine.shell(&format!("cat /proc/{pid}/status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.expect("a field").trim().to_owned()
        };
        assert_eq!(field("CapEff:"), "0000000000000000");
        assert_eq!(field("CapBnd:"), "0000000000000000");
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        let user = field("Uid:");
        let user: u32 = user
            .split_whitespace()
            .next()
            .expect("one")
            .parse()
            .expect("a number");
        assert!((61184..=65519).contains(&user), "{unit} is user {user}");
    }

    // Stopped, a cell is gone at once; started, it is back.
    let told = Instant::now();
    machine.shell("systemctl stop aios-cell@pure");
    assert_eq!(machine.listed(), ["alpha"]);
    report(&format!("systemctl stop: gone after {:?}", told.elapsed()));
    assert!(told.elapsed() < 2 * SECOND, "{:?}", told.elapsed());
    machine.shell("systemctl start aios-cell@pure");
    machine.both_are_listed();

    // Killed, discovery is started again, nobody was refused meanwhile, and it knows whom it knew.
    let list = || request(&machine.discovery, "GET", "/peers", &[], b"").json();
    let before = list();
    pause(SECOND);
    let killed = machine.show("aios-discovery", "MainPID");
    machine.shell("systemctl kill --signal KILL aios-discovery");
    assert_eq!(machine.health(), 200);
    assert_ne!(machine.show("aios-discovery", "MainPID"), killed);
    assert_eq!(machine.show("aios-discovery", "NRestarts"), "1");
    let after = list();
    assert_eq!(after["count"], 2, "{after}");
    assert_eq!(after["epoch"], before["epoch"]);
    assert!(after["revision"].as_u64() > before["revision"].as_u64());
    // What it keeps is its own business.
    let state = machine.shell("stat -L -c '%a %F' /var/lib/aios-mesh /var/lib/aios-mesh/*");
    assert_eq!(
        state,
        "700 directory\n600 regular file\n600 regular empty file"
    );
}

#[test]
fn restarts_of_the_unit_under_traffic_refuse_and_reset_nobody() {
    const RESTARTS: usize = 10;
    let Some(machine) = Machine::boot("restarts") else {
        return;
    };
    machine.shell(&format!("cd /project\n{}", commands_of_the_readme()));
    let traffic = Traffic::start(&machine.discovery, 32);
    let mut took = Vec::new();
    let mut pids = Vec::new();
    for _ in 0..RESTARTS {
        pause(SECOND / 2);
        let told = Instant::now();
        machine.shell("systemctl restart aios-discovery");
        took.push(told.elapsed());
        pids.push(machine.show("aios-discovery", "MainPID"));
    }
    let fared = traffic.stop();
    report(&format!(
        "{RESTARTS} times systemctl restart ({:?} each): {} answered, {} sent again on a new connection, slowest {:?}",
        crate::support::median(took),
        fared.answered,
        fared.sent_again,
        fared.slowest
    ));
    assert_eq!(fared.failures, [""; 0]);
    assert!(fared.answered > 100 * RESTARTS, "{fared:?}");
    pids.dedup();
    assert_eq!(pids.len(), RESTARTS);
    assert_eq!(machine.show("aios-discovery", "NRestarts"), "0");
    machine.both_are_listed();
}

#[test]
fn the_service_works_with_its_socket_and_without() {
    let Some(machine) = Machine::boot("sockets") else {
        return;
    };
    machine.shell(&format!("cd /project\n{}", commands_of_the_readme()));
    let both = "aios-discovery.socket aios-discovery";
    // No beat is to start it.
    machine.shell("systemctl stop aios-cell@pure aios-cell@alpha");
    machine.shell(&format!("systemctl stop {both}"));
    assert!(machine.is_refused());

    // The socket alone: whoever comes first starts discovery.
    machine.shell("systemctl start aios-discovery.socket");
    assert!(!machine.is_active("aios-discovery"));
    let asked = Instant::now();
    assert_eq!(machine.health(), 200);
    report(&format!(
        "started by a request: answered after {:?}",
        asked.elapsed()
    ));
    assert!(machine.is_active("aios-discovery"));

    // The service alone.
    machine.shell(&format!("systemctl disable --now {both}"));
    assert!(machine.is_refused());
    machine.shell("systemctl start aios-discovery");
    assert_eq!(machine.health(), 200);
    assert!(!machine.is_active("aios-discovery.socket"));
    let log = machine.journal("aios-discovery");
    assert!(log.contains("listening on http://0.0.0.0:8001"), "{log}");
    // The socket is added once the port is free.
    assert!(
        !machine
            .try_shell("systemctl start aios-discovery.socket")
            .status
            .success()
    );
    machine.shell("systemctl stop aios-discovery");
    machine.shell(&format!("systemctl enable --now {both}"));
    assert_eq!(machine.health(), 200);

    // Another address is a drop-in, which a check is told about by the port's variable.
    machine.shell(
        "mkdir /etc/systemd/system/aios-discovery.socket.d /etc/aios-mesh
         printf '[Socket]\\nListenStream=\\nListenStream=127.0.0.1:9001\\n' \\
             >/etc/systemd/system/aios-discovery.socket.d/local.conf
         echo DISCOVERY_PORT=9001 >/etc/aios-mesh/discovery.env
         systemctl daemon-reload",
    );
    machine.shell(&format!("systemctl stop {both} && systemctl start {both}"));
    assert!(machine.is_refused());
    let log = machine.journal("aios-discovery");
    assert!(log.contains("listening on http://127.0.0.1:9001"), "{log}");
    assert!(!log.contains("--check asks at port"), "{log}");
    machine.shell("DISCOVERY_PORT=9001 aios-discovery --check");
    machine.shell(
        "rm -r /etc/systemd/system/aios-discovery.socket.d /etc/aios-mesh/discovery.env
         systemctl daemon-reload",
    );
    machine.shell(&format!("systemctl stop {both} && systemctl start {both}"));

    // A setting that is refused is not tried for ever, whoever knocks.
    machine.shell("echo AIOS_STALE_AFTER=soon >/etc/aios-mesh/discovery.env");
    assert!(
        !machine
            .try_shell("systemctl restart aios-discovery")
            .status
            .success()
    );
    assert_eq!(machine.show("aios-discovery", "ExecMainStatus"), "2");
    drop(std::net::TcpStream::connect(&machine.discovery));
    wait_for("the socket gives up", DONE, || {
        machine.show("aios-discovery.socket", "ActiveState") == "failed"
    });
    assert!(machine.is_refused());
    machine.shell("rm /etc/aios-mesh/discovery.env");
    machine.shell(&format!("systemctl restart {both}"));
    assert_eq!(machine.health(), 200);
}

#[test]
fn the_units_have_their_tokens_from_a_file_that_only_root_can_read() {
    const DELETE: &str = "/peer/alpha";
    let Some(machine) = Machine::boot("tokens") else {
        return;
    };
    let ask = |headers: &[&str]| request(&machine.discovery, "DELETE", DELETE, headers, b"").status;
    machine.shell(&format!("cd /project\n{}", commands_of_the_readme()));
    machine.both_are_listed();
    assert_eq!(ask(&[]), 200);

    // A file alone changes nothing.
    machine.shell("mkdir /etc/aios-mesh; umask 077; echo one >/etc/aios-mesh/token");
    let restart = "systemctl restart aios-discovery aios-cell@pure aios-cell@alpha";
    machine.shell(restart);
    machine.both_are_listed();
    assert_eq!(ask(&[]), 200);
    machine.shell(
        "umask 077; cd /etc/aios-mesh; echo AIOS_TOKEN_FILE=token | tee discovery.env >cell.env",
    );
    for (tokens, wrong, right) in [("one", "two", "one"), ("two\\none", "three", "two")] {
        machine.shell(&format!(
            "printf '{tokens}\\n' >/etc/aios-mesh/token; {restart}"
        ));
        machine.both_are_listed();
        assert_eq!(ask(&[]), 401);
        assert_eq!(ask(&[&format!("Authorization: Bearer {wrong}")]), 401);
        assert_eq!(ask(&[&format!("Authorization: Bearer {right}")]), 200);
    }

    // Without it nobody starts who was to have one.
    machine.shell("rm /etc/aios-mesh/token");
    for unit in ["aios-cell@pure", "aios-discovery"] {
        let restart = machine.try_shell(&format!("systemctl restart {unit}"));
        assert!(!restart.status.success(), "{unit}");
        let log = machine.journal(unit);
        assert!(log.contains("there is no token in it"), "{log}");
    }
    machine.shell("umask 077; echo one >/etc/aios-mesh/token");
    wait_for("they are back", DONE, || {
        machine.is_active("aios-cell@pure") && machine.is_active("aios-discovery")
    });
    machine.shell("systemctl restart aios-cell@alpha");
    machine.both_are_listed();
}

#[test]
fn a_discovery_that_hangs_is_restarted_by_the_watchdog_with_its_members() {
    let Some(machine) = Machine::boot("watchdog") else {
        return;
    };
    machine.shell(&format!("cd /project\n{}", commands_of_the_readme()));
    // The unit has a watchdog; a shorter one makes for a shorter test.
    assert_ne!(machine.show("aios-discovery", "WatchdogUSec"), "0");
    machine.shell(
        "mkdir /etc/systemd/system/aios-discovery.service.d
         printf '[Service]\\nWatchdogSec=2s\\n' \\
             >/etc/systemd/system/aios-discovery.service.d/short.conf
         systemctl daemon-reload
         systemctl restart aios-discovery",
    );
    machine.both_are_listed();
    // As long as all is well it is left alone, and by the end of this its members are on disk.
    let pid = machine.show("aios-discovery", "MainPID");
    pause(5 * SECOND);
    assert_eq!(machine.show("aios-discovery", "MainPID"), pid);
    let list = || request(&machine.discovery, "GET", "/peers", &[], b"").json();
    let before = list();
    let registered = || {
        let log = machine.journal("aios-discovery");
        log.lines()
            .filter(|line| line.contains("Registered peer"))
            .count()
    };
    let registrations = registered();

    machine.shell(&format!("kill -STOP {pid}"));
    let stopped = Instant::now();
    wait_for("another process serves", DONE, || {
        ![&*pid, "0"].contains(&&*machine.show("aios-discovery", "MainPID"))
    });
    // The first that asks sees them all.
    let after = list();
    report(&format!(
        "SIGSTOP under a watchdog of 2 s: another process serves after {:?}",
        stopped.elapsed()
    ));
    assert_eq!(after["count"], 2, "{after}");
    assert_eq!(after["epoch"], before["epoch"]);
    assert!(after["revision"].as_u64() >= before["revision"].as_u64());
    let log = machine.journal("aios-discovery");
    assert!(log.contains("Watchdog timeout"), "{log}");
    assert_eq!(machine.show("aios-discovery", "NRestarts"), "1");
    // They beat on, and nobody has to register again.
    holds_for("both are listed", 8 * SECOND, || {
        machine.listed() == ["alpha", "pure"]
    });
    assert_eq!(registered(), registrations);
}
