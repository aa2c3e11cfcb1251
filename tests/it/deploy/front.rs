//! `deploy/nginx.conf`, with a real nginx in front of a real discovery.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{file, output, said};
use crate::support::{Child, Held, SOON, discovery, ids, pause, report, skip, succeeds, wait_for};

/// The name on the certificate.
const HOST: &str = "mesh.example";

/// A running nginx with the file as it is, but for its ports, its paths and its certificate.
struct Front {
    port: u16,
    folder: TempDir,
    _nginx: Child,
}

/// What came of a request.
struct Got {
    status: u16,
    content_type: String,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    fn assert_refusal(&self, status: u16, detail: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.content_type, "application/json");
        let said = self.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(said.contains(detail), "{said}");
    }
}

impl Front {
    /// Starts one before the discovery at `upstream`, if there is an nginx here.
    fn before(upstream: &str, test: &str) -> Option<Self> {
        for (program, flags, package) in [
            ("nginx", ["-v"], "nginx (nginx-light)"),
            ("openssl", ["version"], "openssl"),
            ("curl", ["--version"], "curl"),
        ] {
            if !succeeds(program, &flags) {
                skip(test, package);
                return None;
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        said(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
                .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
                .args(["-subj", &format!("/CN={HOST}")])
                .args(["-addext", &format!("subjectAltName=DNS:{HOST}")])
                .args(["-keyout", &path("mesh.key"), "-out", &path("mesh.crt")]),
        );
        // It says nowhere which port it got, so it is given one that was free a moment ago.
        let port = {
            let free = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            free.local_addr().expect("bound").port()
        };
        let mut text = std::fs::read_to_string(file("deploy/nginx.conf")).expect("a file");
        for (before, after) in [
            ("user www-data;\n", String::new()),
            ("/run/nginx.pid", path("pid")),
            ("/etc/nginx/mesh", path("mesh")),
            ("server 127.0.0.1:8001;", format!("server {upstream};")),
            ("listen 443 ssl;", format!("listen 127.0.0.1:{port} ssl;")),
            ("listen [::]:443 ssl;", String::new()),
            (
                "http {\n",
                ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .iter()
                    .fold("http {\n".to_owned(), |text, name| {
                        format!("{text}{name}_temp_path {};\n", path(name))
                    }),
            ),
        ] {
            assert!(text.contains(before), "{before} is not in the file");
            text = text.replace(before, &after);
        }
        std::fs::write(path("nginx.conf"), text).expect("written");
        let mut command = Command::new("nginx");
        command
            .args(["-e", "stderr", "-p", &path(""), "-c", &path("nginx.conf")])
            // One process, which ends when it is killed.
            .args(["-g", "daemon off; master_process off;"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut nginx = Child::spawn(command);
        wait_for("nginx listens", SOON, || {
            assert!(nginx.runs(), "{:#?}", nginx.log());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(Self {
            port,
            folder,
            _nginx: nginx,
        })
    }

    fn url(&self, target: &str) -> String {
        format!("https://{HOST}:{}{target}", self.port)
    }

    /// A client that knows the certificate.
    fn curl(&self) -> Command {
        let mut command = Command::new("curl");
        let certificate = self.folder.path().join("mesh.crt");
        command
            .args(["--silent", "--show-error", "--max-time", "30"])
            .args(["--noproxy", "*", "--path-as-is"])
            .args(["--resolve", &format!("{HOST}:{}:127.0.0.1", self.port)])
            .arg("--cacert")
            .arg(certificate);
        command
    }

    fn ask(&self, method: &str, target: &str, headers: &[&str], body: &str) -> Got {
        let mut command = self.curl();
        command.args(["--request", method]);
        command.args(["--write-out", "\n%{http_code} %{content_type}"]);
        for header in headers {
            command.args(["--header", header]);
        }
        if !body.is_empty() {
            let path = self.folder.path().join("body");
            std::fs::write(&path, body).expect("written");
            command.args(["--header", "Content-Type: application/json"]);
            command.args(["--data-binary", &format!("@{}", path.display())]);
        }
        let answer = said(command.arg(self.url(target)));
        let (body, last) = answer.rsplit_once('\n').expect("a status");
        let (status, content_type) = last.split_once(' ').expect("a content type");
        Got {
            status: status.parse().expect("a status"),
            content_type: content_type.to_owned(),
            body: body.to_owned(),
        }
    }

    fn get(&self, target: &str) -> Got {
        self.ask("GET", target, &[], "")
    }

    fn post(&self, target: &str, body: &str) -> Got {
        self.ask("POST", target, &[], body)
    }
}

/// A registration.
fn registration(id: &str) -> String {
    format!(r#"{{"cell_id":"{id}","ip":"10.0.0.7","port":8002}}"#)
}

#[test]
fn the_whole_protocol_passes_through_the_tls_front() {
    let discovery = discovery(&[]);
    let Some(front) = Front::before(&discovery.address, "the_whole_protocol_passes") else {
        return;
    };
    assert_eq!(front.post("/register", &registration("pure")).status, 200);
    let beat = front.post("/heartbeat", r#"{"cell_id":"pure"}"#);
    assert_eq!(beat.json()["status"], "ok");
    let list = front.get("/peers");
    assert_eq!(list.content_type, "application/json");
    assert_eq!(list.json()["peers"][0]["ip"], "10.0.0.7");
    assert_eq!(front.ask("DELETE", "/peer/pure", &[], "").status, 200);
    assert_eq!(ids(&discovery), [""; 0]);
    // Discovery's own errors pass as they are.
    let unknown = front.post("/heartbeat", r#"{"cell_id":"pure"}"#);
    unknown.assert_refusal(404, "pure");
    // So does a path that is encoded.
    front.post("/register", &registration("a/b"));
    assert_eq!(front.ask("DELETE", "/peer/a%2Fb", &[], "").status, 200);
    // A long list arrives whole.
    for n in 0..500 {
        let body = registration(&format!("cell-{n}"));
        assert_eq!(discovery.post("/register", &body).status, 200);
    }
    assert_eq!(front.get("/peers").json()["count"], 500);
}

#[test]
fn only_pages_of_the_front_itself_may_change_anything() {
    let discovery = discovery(&[]);
    let Some(front) = Front::before(&discovery.address, "only_pages_of_the_front") else {
        return;
    };
    let own = front.url("");
    for (origin, status) in [
        (own.as_str(), 200),
        ("https://evil.example", 403),
        ("https://mesh.example", 403),
        (&format!("http://{}", discovery.address), 403),
        ("null", 403),
    ] {
        let header = format!("Origin: {origin}");
        let got = front.ask("POST", "/register", &[&header], &registration("page"));
        assert_eq!(got.status, status, "{origin}: {}", got.body);
    }
}

#[test]
fn what_nginx_itself_refuses_is_refused_in_json() {
    let discovery = discovery(&[]);
    let Some(front) = Front::before(&discovery.address, "what_nginx_itself_refuses") else {
        return;
    };
    let body_of = |length: usize| {
        let empty = r#"{"cell_id":"","ip":"h","port":1}"#;
        empty.replace(
            r#":"","#,
            &format!(r#":"{}","#, "x".repeat(length - empty.len())),
        )
    };
    // Up to 64 KiB is taken; beyond, discovery says what it takes, and far beyond, nginx does.
    front
        .post("/register", &body_of(64 << 10))
        .assert_refusal(422, "cell_id");
    front
        .post("/register", &body_of((64 << 10) + 1))
        .assert_refusal(413, "65536");
    front
        .post("/register", &body_of(200 << 10))
        .assert_refusal(413, "nginx");
    let long = format!("/peers?{}", "x".repeat(9 << 10));
    front.get(&long).assert_refusal(414, "nginx");
    let long = format!("X-Long: {}", "x".repeat(9 << 10));
    front
        .ask("GET", "/peers", &[&long], "")
        .assert_refusal(400, "nginx");

    // No TLS, and TLS that is too old.
    let plain = said(
        Command::new("curl")
            .args(["--silent", "--noproxy", "*"])
            .arg(format!("http://127.0.0.1:{}/peers", front.port)),
    );
    assert!(plain.contains("not HTTP over TLS"), "{plain}");
    let old = output(
        front
            .curl()
            .args(["--tls-max", "1.1"])
            .arg(front.url("/health")),
    );
    assert_eq!(old.status.code(), Some(35), "a handshake that fails");
    // Whoever does not know the certificate does not speak to it.
    let stranger = output(
        Command::new("curl")
            .args(["--silent", "--noproxy", "*", "--resolve"])
            .arg(format!("{HOST}:{}:127.0.0.1", front.port))
            .arg(front.url("/health")),
    );
    assert_eq!(
        stranger.status.code(),
        Some(60),
        "a certificate that is not known"
    );

    // Discovery goes, and comes back at once when it does.
    let address = discovery.address.clone();
    drop(discovery);
    front
        .get("/peers")
        .assert_refusal(502, "discovery does not answer");
    front
        .post("/heartbeat", "{}")
        .assert_refusal(502, "discovery does not answer");
    let (_, port) = address.rsplit_once(':').expect("a port");
    let _back = Child::start("aios-discovery", &["--host", "127.0.0.1", "--port", port]);
    assert_eq!(front.get("/peers").status, 200);
}

/// Asks without pause through the front, on connections that are kept for 20 requests, until told
/// to stop. Returns how many answers there were of each status other than 200, and of that.
fn ask_on(front: &Front, number: usize, stopping: &AtomicBool) -> (Vec<String>, usize) {
    let (mut other, mut good) = (Vec::new(), 0);
    while !stopping.load(Ordering::SeqCst) {
        let mut command = front.curl();
        let body = registration(&format!("client-{number}"));
        if number.is_multiple_of(2) {
            command.args([
                "--header",
                "Content-Type: application/json",
                "--data",
                &body,
            ]);
        }
        let target = if number.is_multiple_of(2) {
            "/register"
        } else {
            "/peers"
        };
        command.args(["--write-out", "\nstatus %{http_code}\n"]);
        for _ in 0..20 {
            command.arg(front.url(target));
        }
        let output = output(&mut command);
        let text = String::from_utf8_lossy(&output.stdout);
        for status in text.lines().filter_map(|line| line.strip_prefix("status ")) {
            match status {
                "200" => good += 1,
                _ => other.push(status.to_owned()),
            }
        }
        if !output.stderr.is_empty() {
            other.push(String::from_utf8_lossy(&output.stderr).into_owned());
        }
    }
    (other, good)
}

/// Sets what it is given when it goes, in a panic too: threads wait for it.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Restarts discovery some times while clients ask through the front. Returns what they got that
/// was not 200.
fn through_restarts(
    front: &Front,
    mut discovery: Child,
    start: &dyn Fn() -> Child,
) -> (Vec<String>, usize) {
    let stopping = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = AtTheEnd(&stopping);
        let clients: Vec<_> = (0..6)
            .map(|number| {
                scope.spawn({
                    let stopping = &stopping;
                    move || ask_on(front, number, stopping)
                })
            })
            .collect();
        for _ in 0..5 {
            pause(Duration::from_millis(400));
            discovery.signal(Signal::TERM);
            assert_eq!(discovery.wait(SOON).0.code(), Some(0));
            discovery = start();
        }
        pause(Duration::from_millis(200));
        drop(end);
        let mut sum = (Vec::new(), 0);
        for client in clients {
            let (other, good) = client.join().expect("no panic");
            sum.0.extend(other);
            sum.1 += good;
        }
        sum
    })
}

#[test]
fn a_restart_behind_the_front_is_not_seen_where_the_socket_is_held() {
    let socket = Held::open();
    let first = socket.discovery(&[]);
    let Some(front) = Front::before(&socket.address, "a_restart_behind_the_front") else {
        return;
    };
    let (other, good) = through_restarts(&front, first, &|| socket.discovery(&[]));
    report(&format!(
        "5 restarts behind nginx on a held socket: {good} answered"
    ));
    assert_eq!(other, [""; 0]);
    assert!(good > 100, "{good}");
}

#[test]
fn a_restart_behind_the_front_without_the_socket_costs_its_moment_alone() {
    let first = discovery(&[]);
    let Some(front) = Front::before(&first.address, "a_restart_without_the_socket") else {
        return;
    };
    let address = first.address.clone();
    let (_, port) = address.rsplit_once(':').expect("a port");
    let flags = ["--host", "127.0.0.1", "--port", port];
    let start = || {
        let discovery = Child::start("aios-discovery", &flags);
        // From the moment it listens nobody gets an error any more.
        assert_eq!(front.post("/register", &registration("after")).status, 200);
        assert_eq!(front.get("/peers").status, 200);
        discovery
    };
    let (other, good) = through_restarts(&front, first, &start);
    let lost = other.len();
    report(&format!(
        "5 restarts behind nginx without: {good} answered, {lost} told 502"
    ));
    assert!(other.iter().all(|status| status == "502"), "{other:?}");
    assert!(good > 100, "{good}");
}

/// Reads the head of a request.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8(head).expect("UTF-8"))
}

#[test]
fn events_pass_one_by_one_and_what_clients_say_of_themselves_passes_too() {
    let upstream = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = upstream.local_addr().expect("bound").to_string();
    let Some(front) = Front::before(&address, "events_pass_one_by_one") else {
        return;
    };
    for target in ["/events?since=7", "/events/"] {
        let mut client = front
            .curl()
            .args(["--no-buffer", "--header", "Authorization: Bearer s3cret"])
            .args(["--header", "Last-Event-ID: 7"])
            .arg(front.url(target))
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let (mut stream, _) = upstream.accept().expect("nginx comes");
        let asked = head(&mut stream).expect("a request");
        assert!(
            asked.starts_with(&format!("GET {target} HTTP/1.1\r\n")),
            "{asked}"
        );
        for line in [
            &*format!("Host: {HOST}:{}", front.port),
            "Authorization: Bearer s3cret",
            "Last-Event-ID: 7",
        ] {
            assert!(
                asked.contains(&format!("\r\n{line}\r\n")),
                "{line}: {asked}"
            );
        }
        assert!(!asked.contains("\r\nConnection:"), "{asked}");
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
            )
            .expect("sent");
        let mut seen = BufReader::new(client.stdout.take().expect("piped"));
        for n in 0..3 {
            let sent = Instant::now();
            writeln!(stream, "id: {n}").expect("sent");
            let mut line = String::new();
            seen.read_line(&mut line).expect("it comes");
            assert_eq!(line, format!("id: {n}\n"));
            assert!(
                sent.elapsed() < Duration::from_secs(1),
                "{:?}",
                sent.elapsed()
            );
        }
        drop(stream);
        assert!(client.wait().expect("it ends").success());
    }
}

#[test]
fn a_connection_to_discovery_is_used_again() {
    let upstream = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = upstream.local_addr().expect("bound").to_string();
    let Some(front) = Front::before(&address, "a_connection_to_discovery_is_used_again") else {
        return;
    };
    let server = std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().expect("nginx comes");
        for _ in 0..3 {
            head(&mut stream).expect("one more on the same connection");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(answer).expect("sent");
        }
        // Then it is closed under a request that was already sent, and the next is served.
        head(&mut stream).expect("a request");
        drop(stream);
        let (mut stream, _) = upstream.accept().expect("nginx comes again");
        let again = head(&mut stream).expect("the request again");
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain";
        stream.write_all(answer).expect("sent");
        again
    });
    for _ in 0..3 {
        assert_eq!(front.get("/peers").status, 200);
    }
    let beat = front.post("/heartbeat", r#"{"cell_id":"pure"}"#);
    assert_eq!((beat.status, &*beat.body), (200, "again"));
    assert!(
        server
            .join()
            .expect("no panic")
            .starts_with("POST /heartbeat ")
    );
}
