//! The example that writes an upstream of nginx.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{example, has_tools};
use crate::support::{
    Child, SOON, discovery, holds_for, ids, report, request, skip, succeeds, wait_for,
};

const SECOND: Duration = Duration::from_secs(1);

/// An nginx whose workers end with it.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        self.0.signal(Signal::TERM);
        self.0.wait(SOON);
    }
}

/// Starts one that passes everything on to the upstream, and what calls it as `nginx`.
fn start(folder: &Path, port: u16) -> Nginx {
    let path = |name: &str| folder.join(name).display().to_string();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {};\n", path(name)))
        .concat();
    let configuration = format!(
        "pid {};\nerror_log stderr;\nevents {{}}\nhttp {{\n{temporary}access_log off;\n\
         include {};\nserver {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://web; }} }} }}\n",
        path("pid"),
        path("mesh-web.conf"),
    );
    std::fs::write(path("nginx.conf"), configuration).expect("written");
    // There is none yet: so the example would leave it, but for its nginx that is running.
    let none = "upstream web {\n  server 127.0.0.1:9 down;\n}\n";
    std::fs::write(path("mesh-web.conf"), none).expect("written");
    let call = format!("nginx -e stderr -p {} -c {}", path(""), path("nginx.conf"));
    std::fs::create_dir(path("bin")).expect("made");
    let real = String::from_utf8(
        crate::deploy::output(Command::new("sh").args(["-c", "command -v nginx"])).stdout,
    );
    let real = real.expect("UTF-8");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{}\nexec {} {} \"$@\"\n",
        path("called"),
        real.trim(),
        call.trim_start_matches("nginx "),
    );
    std::fs::write(path("bin/nginx"), script).expect("written");
    let may_run = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path("bin/nginx"), may_run).expect("set");
    let mut command = Command::new(real.trim());
    command
        .args(call.split(' ').skip(1))
        .args(["-g", "daemon off; user root; worker_processes 1;"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut nginx = Child::spawn(command);
    wait_for("nginx listens", SOON, || {
        assert!(nginx.runs(), "{:#?}", nginx.log());
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    Nginx(nginx)
}

/// A cell that offers these services, at an address of this host.
fn offering(discovery: &Child, id: &str, services: &str, ip: &str, port: u16) -> Child {
    let port = port.to_string();
    let flags = [
        "--id",
        id,
        "--services",
        services,
        "--host",
        ip,
        "--port",
        &port,
        "--advertise",
        ip,
        "--discovery",
        &discovery.url(),
    ];
    Child::start("aios-cell", &flags)
}

/// A port that is free at all addresses of this host.
fn free_port() -> u16 {
    let free = TcpListener::bind(("0.0.0.0", 0)).expect("a free port");
    free.local_addr().expect("bound").port()
}

#[test]
fn nginx_has_the_cells_of_a_service_and_is_reloaded_only_for_a_change_it_takes() {
    const TEST: &str = "nginx_has_the_cells_of_a_service";
    if !has_tools(TEST) {
        return;
    }
    if !succeeds("nginx", &["-v"]) {
        return skip(TEST, "nginx (nginx-light)");
    }
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let (port, web) = (free_port(), free_port());
    let at = format!("127.0.0.1:{port}");
    let _nginx = start(folder.path(), port);
    let discovery = discovery(&["--stale-after", "1s"]);
    let _one = offering(&discovery, "one", "web", "127.0.0.2", web);
    let two = offering(&discovery, "two", "other,web", "127.0.0.3", web);

    let file = folder.path().join("mesh-web.conf").display().to_string();
    let example = example("mesh-upstream")
        .asking(&discovery)
        .with("/etc/nginx/conf.d/mesh-web.conf", &file)
        .with("port=8080", &format!("port={web}"));
    let mut command = example.command(folder.path());
    let path = std::env::var("PATH").expect("a path");
    let bin = folder.path().join("bin").display().to_string();
    command.env("PATH", format!("{bin}:{path}"));
    let keeping = Child::spawn(command);

    // Who answers through nginx, of several requests.
    let answering = || {
        let mut ids: Vec<String> = (0..6)
            .filter_map(|_| {
                let answer = request(&at, "GET", "/health", &[], b"");
                (answer.status == 200)
                    .then(|| answer.json()["cell_id"].as_str().expect("an id").to_owned())
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let reloads = || {
        let called = std::fs::read_to_string(folder.path().join("called")).unwrap_or_default();
        called.lines().filter(|line| *line == "-s reload").count()
    };
    wait_for("both answer", SOON, || answering() == ["one", "two"]);
    assert_eq!(reloads(), 1);

    // Nobody who offers something else is of interest.
    let _other = offering(&discovery, "three", "other", "127.0.0.4", web);
    wait_for("it is listed", SOON, || ids(&discovery).len() == 3);
    holds_for("nothing is reloaded", SECOND, || reloads() == 1);

    two.signal(Signal::TERM);
    let took = wait_for("one is left", SOON, || {
        reloads() == 2 && answering() == ["one"]
    });
    report(&format!("a cell that stops is out of nginx after {took:?}"));
    holds_for("it stays", SECOND, || answering() == ["one"]);
    let written = std::fs::read_to_string(&file).expect("UTF-8");
    assert_eq!(written.matches("server ").count(), 1, "{written}");

    // A name that nobody has: nginx would not start with it.
    let wrong =
        r#"{"cell_id":"wrong","ip":"no..name","port":1,"services":["web"],"stale_after_ms":60000}"#;
    assert_eq!(discovery.post("/register", wrong).status, 200);
    let is_refused = || {
        let log = keeping.log();
        log.iter().filter(|line| line.contains("no..name")).count()
    };
    wait_for("nginx refuses it, and is asked again", 2 * SOON, || {
        is_refused() >= 2
    });
    wait_for("what was there is back", SOON, || {
        std::fs::read_to_string(&file).expect("UTF-8") == written
    });
    assert_eq!((reloads(), answering()), (2, vec!["one".to_owned()]));
    assert_eq!(discovery.delete("/peer/wrong").status, 200);
    let _four = offering(&discovery, "four", "web", "127.0.0.5", web);
    wait_for("it is joined by another", 2 * SOON, || {
        reloads() == 3 && answering() == ["four", "one"]
    });
}
