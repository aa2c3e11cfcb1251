//! `peers` and `deregister`: the list, and who is taken out of it.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use super::*;

#[test]
fn peers_are_listed_in_four_formats() {
    let discovery = discovery(&[]);
    register(&discovery, "b ü");
    register(&discovery, "a");
    let url = discovery.url();
    let peers = |format: &str| {
        let output = run(
            "aios-mesh",
            &["peers", "--format", format],
            &[("AIOS_DISCOVERY_URL", &url)],
        );
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(peers("ids"), "b ü\na\n");
    let table = peers("table");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("ID   ADDRESS"), "{table}");
    assert!(lines[1].starts_with("b ü  127.0.0.1:1  cell"), "{table}");
    assert!(lines[1].ends_with("alive"), "{table}");
    let tsv = peers("tsv");
    let row: Vec<&str> = tsv
        .lines()
        .nth(2)
        .expect("three lines")
        .split('\t')
        .collect();
    assert_eq!(row[..5], ["a", "127.0.0.1", "1", "cell", "0"]);
    assert!(row[6].parse::<f64>().expect("seconds") < 60.0);
    let json: serde_json::Value = serde_json::from_str(&peers("json")).expect("JSON");
    assert_eq!(json["count"], 2);
    // Without an option it is the table.
    let output = run("aios-mesh", &["peers", "--discovery", &url], &[]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("ID   ADDRESS"));
}

#[test]
fn a_discovery_that_cannot_be_reached_is_one_line_and_exit_code_1() {
    // Bound, but nobody listens: so nobody else gets it meanwhile.
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    silent.bind(&any.into()).expect("a free port");
    let bound = silent.local_addr().expect("bound").as_socket();
    let url = format!("http://{}", bound.expect("an address"));
    for arguments in [&["peers"][..], &["deregister", "a"]] {
        let output = run(
            "aios-mesh",
            &[arguments, &["--discovery", &url]].concat(),
            &[],
        );
        assert_eq!(output.status.code(), Some(1));
        let line = one_line(&output);
        assert!(
            line.contains("cannot reach discovery") && line.contains(&url),
            "{line}"
        );
    }
    // What answers is no discovery.
    let other = Stub::start(|_| Some((404, r#"{"detail":"Not Found"}"#.into())));
    for arguments in [&["peers"][..], &["deregister", "a"]] {
        let output = run(
            "aios-mesh",
            &[arguments, &["--discovery", &other.url()]].concat(),
            &[],
        );
        assert_eq!(output.status.code(), Some(1));
        let line = one_line(&output);
        assert!(
            line.contains("that is no discovery") && line.contains(&other.url()),
            "{line}"
        );
    }
    let odd = Stub::start(|_| Some((200, "<html>".into())));
    let output = run("aios-mesh", &["peers", "--discovery", &odd.url()], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(one_line(&output).contains("no list of peers"));
}

#[test]
fn a_discovery_that_hangs_is_not_waited_for_long() {
    let hanging = Stub::start(|_| None);
    let mut command = command("aios-mesh");
    command.args(["peers", "--discovery", &hanging.url()]);
    let mut child = Child::spawn(command);
    let (status, took) = child.wait(SOON);
    assert_eq!(status.code(), Some(1));
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(child.whole_log().len(), 1, "{:?}", child.log());
}

#[test]
fn a_list_that_may_be_short_of_cells_is_shown_with_a_word() {
    let discovery = discovery(&[]);
    register(&discovery, "a");
    let arguments = ["peers", "--format", "ids", "--discovery", &discovery.url()];
    let output = run("aios-mesh", &arguments, &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"a\n");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("discovery has only just started"), "{said}");
}

#[test]
fn an_operator_takes_a_peer_out_by_any_name_it_may_have() {
    let discovery = discovery(&[]);
    let url = discovery.url();
    for id in ["plain", "with space", "a/b", "ü?#%", ".."] {
        register(&discovery, id);
        let output = run("aios-mesh", &["deregister", "--discovery", &url, id], &[]);
        assert_eq!(output.status.code(), Some(0), "{id}");
        assert_eq!(output.stdout, format!("deregistered {id}\n").as_bytes());
        assert!(ids(&discovery).is_empty());
    }
    let output = run(
        "aios-mesh",
        &["deregister", "--discovery", &url, "nobody"],
        &[],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(one_line(&output).contains("no peer has the id nobody"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let discovery = discovery(&[]);
    register(&discovery, "a");
    let mut command = command("aios-mesh");
    command.args(["peers", "--discovery", &discovery.url()]);
    command.stdout(std::process::Stdio::piped());
    let mut child = Child::spawn(command);
    child.close_stdout();
    let (status, _) = child.wait(SOON);
    assert_eq!(status.code(), Some(0), "{:?}", child.log());
}
