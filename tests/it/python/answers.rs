//! The same questions to both.

use super::*;

/// A request: method, target, JSON body.
type Question<'a> = (&'a str, &'a str, &'a str);

/// The questions in a text with one a line.
fn questions(text: &str) -> impl Iterator<Item = Question<'_>> {
    let lines = text.lines();
    let asking = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    asking.map(|line| {
        let (method, rest) = line.split_once(' ').expect("a method");
        let (target, body) = rest.split_once(' ').unwrap_or((rest, ""));
        (method, target, body)
    })
}

/// What discovery is asked. Not among it is what the two answer differently on purpose: what ours
/// refuses and the other takes (empty ids, negative ports, levels that are no numbers, hosts that
/// are none, long texts, control characters, numbers spelled as only Python spells them), other
/// content types than JSON and none, ids with a slash in a path, and paths and query parameters
/// that only ours has.
const TO_DISCOVERY: &str = r##"
GET /health
HEAD /health
GET /health/
GET /peers
HEAD /peers
GET /peers/
GET /%70eers
GET /peers?unknown=1

# Registrations that are taken.
POST /register {"cell_id":"a","ip":"10.0.0.1","port":8002}
POST /register {"cell_id":"b","ip":"aios-cell-pure","port":8002,"consciousness_level":5.2,"services":["s","t"],"branch":"pure","type":"pure_cell","hostname":"h"}
POST /register {"cell_id":"c","ip":"::1","port":0,"services":[],"branch":"","type":"","hostname":""}
POST /register/ {"cell_id":"d","ip":"h","port":65535}
POST /register?x=1 {"cell_id":"e","ip":"h","port":1}
POST /register   { "cell_id" : "f" , "ip":"h", "port": 1 }
POST /register {"cell_id":"größe ✓ \u0041\ud83d\ude00","ip":"h","port":1}
POST /register {"cell_id":"with \"quotes\" & \\ <b>","ip":"h","port":1,"hostname":"größe"}
POST /register {"cell_id":" blanks ","ip":"h","port":1,"branch":" b "}
POST /register {"cell_id":"x/y","ip":"h","port":1}

# One that is there keeps its place.
POST /register {"cell_id":"a","ip":"10.0.0.2","port":8003,"services":["s"],"branch":"b"}
POST /register {"cell_id":"b","ip":"aios-cell-pure","port":8002}

# Ports.
POST /register {"cell_id":"a","ip":"h","port":"8002"}
POST /register {"cell_id":"a","ip":"h","port":" 8003 "}
POST /register {"cell_id":"a","ip":"h","port":"\t8004\n"}
POST /register {"cell_id":"a","ip":"h","port":"+8005"}
POST /register {"cell_id":"a","ip":"h","port":"08006"}
POST /register {"cell_id":"a","ip":"h","port":8007.0}
POST /register {"cell_id":"a","ip":"h","port":8.008e3}
POST /register {"cell_id":"a","ip":"h","port":-0.0}
POST /register {"cell_id":"a","ip":"h","port":8002.5}
POST /register {"cell_id":"a","ip":"h","port":"8002.5"}
POST /register {"cell_id":"a","ip":"h","port":"0x1"}
POST /register {"cell_id":"a","ip":"h","port":"eight"}
POST /register {"cell_id":"a","ip":"h","port":""}
POST /register {"cell_id":"a","ip":"h","port":"8 002"}
POST /register {"cell_id":"a","ip":"h","port":null}
POST /register {"cell_id":"a","ip":"h","port":[1]}
POST /register {"cell_id":"a","ip":"h","port":{}}

# Levels.
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":5}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":-0.5}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":1e3}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":1e-7}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":0.30000000000000004}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":9007199254740993}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":"5.2"}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":" 1e1 "}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":"+.5"}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":"high"}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":"0x10"}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":""}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":null}
POST /register {"cell_id":"a","ip":"h","port":1,"consciousness_level":[]}

# Unknown members, and duplicates.
POST /register {"cell_id":"a","ip":"h","port":2,"extra":{"deep":[1,{"x":null}]},"more":true,"big":123456789012345678901234567890}
POST /register {"cell_id":"a","ip":"h","port":3,"last_seen":"2020-01-01T00:00:00.000000Z"}
POST /register {"cell_id":"a","ip":"h","port":4,"last_seen":7}
POST /register {"cell_id":"z","ip":"h","port":5,"port":6,"cell_id":"a"}
POST /register {"cell_id":"a","ip":"h","port":null,"port":7}
POST /register {"cell_id":"a","ip":"h","port":8,"port":null}

# What is missing, null or ill-typed.
POST /register {"ip":"h","port":1}
POST /register {"cell_id":"n","port":1}
POST /register {"cell_id":"n","ip":"h"}
POST /register {"cell_id":null,"ip":"h","port":1}
POST /register {"cell_id":"n","ip":null,"port":1}
POST /register {"cell_id":7,"ip":"h","port":1}
POST /register {"cell_id":["n"],"ip":"h","port":1}
POST /register {"cell_id":"n","ip":167772161,"port":1}
POST /register {"cell_id":"n","ip":"h","port":1,"services":null}
POST /register {"cell_id":"n","ip":"h","port":1,"services":"s"}
POST /register {"cell_id":"n","ip":"h","port":1,"services":{"s":1}}
POST /register {"cell_id":"n","ip":"h","port":1,"services":["s",1]}
POST /register {"cell_id":"n","ip":"h","port":1,"services":["s",null]}
POST /register {"cell_id":"n","ip":"h","port":1,"branch":null}
POST /register {"cell_id":"n","ip":"h","port":1,"branch":1}
POST /register {"cell_id":"n","ip":"h","port":1,"type":null}
POST /register {"cell_id":"n","ip":"h","port":1,"type":["t"]}
POST /register {"cell_id":"n","ip":"h","port":1,"hostname":null}
POST /register {"Cell_Id":"n","ip":"h","port":1}

# What is no JSON object.
POST /register
POST /register {}
POST /register []
POST /register null
POST /register 7
POST /register "{\"cell_id\":\"n\",\"ip\":\"h\",\"port\":1}"
POST /register [{"cell_id":"n","ip":"h","port":1}]
POST /register {"cell_id":"n","ip":"h","port":1
POST /register {"cell_id":"n","ip":"h","port":1,}
POST /register {"cell_id":"n","ip":"h","port":1} x
POST /register {'cell_id':'n','ip':'h','port':1}
POST /register cell_id=n&ip=h&port=1

# Heartbeats.
POST /heartbeat {"cell_id":"a","consciousness_level":0.7}
POST /heartbeat {"cell_id":"b","consciousness_level":3}
POST /heartbeat {"cell_id":"b","consciousness_level":"0.25"}
POST /heartbeat/ {"cell_id":"c","consciousness_level":-1}
POST /heartbeat {"cell_id":"größe ✓ A😀","consciousness_level":1.5,"more":[]}
POST /heartbeat {"cell_id":"a"}
POST /heartbeat {"cell_id":"nobody","consciousness_level":0.1}
POST /heartbeat {"cell_id":"nobody"}
POST /heartbeat {"cell_id":"größe \"✓\" \\ <b>"}
POST /heartbeat {"cell_id":"nobody","cell_id":"a","consciousness_level":2}
POST /heartbeat {"cell_id":"a","consciousness_level":null}
POST /heartbeat {"cell_id":"a","consciousness_level":"low"}
POST /heartbeat {"cell_id":"a","consciousness_level":[1]}
POST /heartbeat {"cell_id":null}
POST /heartbeat {"cell_id":1}
POST /heartbeat {"consciousness_level":1}
POST /heartbeat {}
POST /heartbeat []
POST /heartbeat
POST /heartbeat {

# Departures.
DELETE /peer/nobody
DELETE /unregister/nobody
DELETE /peer/a
DELETE /peer/a
POST /heartbeat {"cell_id":"a","consciousness_level":1}
DELETE /unregister/b
DELETE /unregister/b
DELETE /peer/c/
DELETE /unregister/d/
DELETE /peer/%65
DELETE /peer/f?x=1
DELETE /peer/gr%C3%B6%C3%9Fe%20%E2%9C%93%20A%F0%9F%98%80
DELETE /peer/with+%22quotes%22+%26+%5C+%3Cb%3E
DELETE /peer/with%20%22quotes%22%20%26%20%5C%20%3Cb%3E
DELETE /unregister/%20blanks%20

# Who comes again comes last.
POST /register {"cell_id":"50% +1","ip":"h","port":1}
POST /register {"cell_id":"a","ip":"h","port":1}
DELETE /peer/50%25%20+1

# Paths and methods there are not.
GET /nothing
POST /nothing {}
DELETE /nothing/a
HEAD /nothing
GET /Peers
GET //peers
GET /peers;x
GET /register/a
GET /health/a
DELETE /peer
DELETE /peer/
DELETE /unregister/
GET /register
HEAD /register
PUT /register {"cell_id":"n","ip":"h","port":1}
DELETE /register
GET /heartbeat
PATCH /heartbeat {"cell_id":"a"}
GET /peer/a
HEAD /peer/a
POST /peer/a {}
GET /unregister/a
POST /peers {}
DELETE /peers
OPTIONS /peers
TRACE /peers
POST /health {}
PUT /metrics {}
"##;

/// Asks one question; a redirect to the same path without its trailing slash is followed.
fn ask(service: &Child, (method, target, body): Question<'_>) -> Answer {
    let json = ["Content-Type: application/json"];
    let headers = if method == "POST" { &json[..] } else { &[] };
    let answer = service.request(method, target, headers, body.as_bytes());
    if answer.status != 307 {
        return answer;
    }
    let location = answer.header("location").expect("a location");
    let target = location.strip_prefix(&service.url()).expect("its own");
    service.request(method, target, headers, body.as_bytes())
}

/// Replaces what differs from one moment to the next, checking its form.
fn steadied(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            for (name, member) in members {
                let steady = match name.as_str() {
                    "last_seen" | "timestamp" => {
                        let text = member.as_str().expect("a string");
                        let well_formed = text.len() == 27 && text.ends_with('Z');
                        assert!(well_formed && parse_timestamp(text).is_some(), "{text}");
                        json!("a time")
                    }
                    "uptime_seconds" => {
                        assert!(member.is_f64(), "{member}");
                        json!("some seconds")
                    }
                    _ => steadied(member.take()),
                };
                *member = steady;
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = steadied(item.take());
            }
        }
        _ => {}
    }
    value
}

/// Whether `ours` is `theirs` with perhaps more members; within lists nothing may be more.
fn covers(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => theirs
            .iter()
            .all(|(name, theirs)| ours.get(name).is_some_and(|ours| covers(ours, theirs))),
        _ => ours == theirs,
    }
}

/// The methods an answer allows.
fn allowed(answer: &Answer) -> BTreeSet<&str> {
    let allow = answer.header("allow").unwrap_or_default();
    allow.split(',').map(str::trim).collect()
}

/// What is wrong with our answer, given the other one.
fn difference(method: &str, theirs: &Answer, ours: &Answer) -> Option<&'static str> {
    if ours.status != theirs.status {
        return Some("the status differs");
    }
    if ours.header("content-type") != theirs.header("content-type") {
        return Some("the content type differs");
    }
    if ours.status == 405 && ours.header("allow").is_none() {
        return Some("it is not said what is allowed");
    }
    if method == "HEAD" {
        let length = ours.header("content-length").and_then(|n| n.parse().ok());
        return (length.unwrap_or(0) == 0).then_some("the length of the body is not told");
    }
    let (theirs, ours) = (steadied(theirs.json()), steadied(ours.json()));
    if theirs
        .get("detail")
        .is_some_and(|detail| !detail.is_string())
    {
        // What the other says of ill-typed fields is its library's own list.
        return (!ours["detail"].is_string()).then_some("there is no detail");
    }
    (!covers(&ours, &theirs)).then_some("the body lacks something")
}

/// Asks both the same and collects what differs, together with `state` after each change.
fn ask_both(theirs: &Child, ours: &Child, text: &str, state: &str) {
    let mut differences = Vec::new();
    let mut compare = |question: Question<'_>, after: &str| {
        let (theirs, ours) = (ask(theirs, question), ask(ours, question));
        let (method, target, body) = question;
        if let Some(what) = difference(method, &theirs, &ours) {
            differences.push(format!(
                "{method} {target} {body}{after}: {what}\n  theirs: {} {}\n  ours:   {} {}",
                theirs.status,
                theirs.text(),
                ours.status,
                ours.text()
            ));
        }
    };
    for question in questions(text) {
        compare(question, "");
        let (method, target, body) = question;
        if !matches!(method, "GET" | "HEAD") {
            compare(
                ("GET", state, ""),
                &format!(" after {method} {target} {body}"),
            );
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The series in an answer to `/metrics`, and the lines that name their types.
fn series(service: &Child, target: &str) -> (BTreeMap<String, f64>, BTreeSet<String>) {
    let answer = service.get(target);
    assert_eq!(answer.status, 200);
    let content_type = answer.header("content-type").expect("a content type");
    assert!(
        content_type.starts_with("text/plain; version=0.0.4"),
        "{content_type}"
    );
    let (comments, samples): (Vec<_>, Vec<_>) = answer
        .text()
        .lines()
        .partition(|line| line.starts_with('#'));
    let samples = samples.into_iter().map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    let types = comments
        .into_iter()
        .filter(|line| line.starts_with("# TYPE"))
        .map(str::to_owned);
    (samples.collect(), types.collect())
}

/// Whoever reads their metrics finds the same in ours.
fn same_metrics(theirs: &Child, ours: &Child, target: &str) {
    let ((theirs, their_types), (ours, our_types)) = (series(theirs, target), series(ours, target));
    assert!(!theirs.is_empty());
    let missing: Vec<_> = their_types.difference(&our_types).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (name, value) in theirs {
        let found = ours.get(&name);
        let found = *found.unwrap_or_else(|| panic!("{name} is not in {ours:#?}"));
        let steady = !name.contains("uptime");
        assert!(
            !steady || found.to_bits() == value.to_bits(),
            "{name} {found}"
        );
    }
}

#[test]
fn both_discoveries_give_the_same_answers() {
    let Some(python) = Python::found() else {
        return;
    };
    let theirs = [LONG_LEASE, ("AIOS_MY_HOST", "here"), ("AIOS_LEVEL", "0.75")];
    let theirs = python.discovery("0", &theirs);
    let ours = [
        "--my-host",
        "here",
        "--level",
        "0.75",
        "--stale-after",
        "60s",
    ];
    let ours = discovery(&ours);
    ask_both(&theirs, &ours, TO_DISCOVERY, "/peers");
    assert_eq!(ids(&ours), ["x/y", "a"]);
    same_metrics(&theirs, &ours, "/metrics");
    for peer in peers(&ours) {
        assert_eq!(
            peer.as_object().map(serde_json::Map::len),
            Some(9),
            "{peer}"
        );
    }
    for question in questions(TO_DISCOVERY) {
        let ours = ask(&ours, question);
        if ours.status == 405 {
            let theirs = ask(&theirs, question);
            assert_eq!(allowed(&ours), allowed(&theirs), "{question:?}");
        }
    }
}

#[test]
fn a_content_type_of_json_may_have_parameters_and_a_prefix_for_both_discoveries() {
    let Some(python) = Python::found() else {
        return;
    };
    for discovery in [python.discovery("0", &[LONG_LEASE]), discovery(&[])] {
        for content_type in [
            "application/json; charset=utf-8",
            "Application/JSON",
            "application/vnd.cell+json",
        ] {
            let header = format!("Content-Type: {content_type}");
            let body = br#"{"cell_id":"a","ip":"h","port":1}"#;
            let answer = discovery.request("POST", "/register", &[&header], body);
            assert_eq!(answer.status, 200, "{content_type}: {}", answer.text());
        }
    }
}

/// What a pure cell is asked; messages aside.
const TO_PURE: &str = r##"
GET /health
GET /health/
GET /consciousness
GET /consciousness/primitives
POST /consciousness/sync {"level":0.5}
POST /consciousness/sync {"level":1.5}
POST /consciousness/sync {"level":-3}
POST /consciousness/sync {"level":"0.25"}
POST /consciousness/sync {"level":0.5,"context":null}
POST /consciousness/sync {"level":0.5,"context":{}}
POST /consciousness/sync {"level":0.5,"context":{"unknown":1}}
POST /consciousness/sync {"level":0.5,"context":{"awareness":0.9,"unknown":1}}
POST /consciousness/sync {"level":0.5,"context":{"coherence":"0.3","momentum":7}}
POST /consciousness/sync {"level":0.6,"context":{"awareness":"much"}}
POST /consciousness/sync {"level":0.6,"context":[]}
POST /consciousness/sync {"level":null}
POST /consciousness/sync {"level":"high"}
POST /consciousness/sync {}
POST /consciousness/sync []
POST /consciousness/sync
POST /consciousness/sync {
GET /consciousness/sync
POST /health {}
GET /nothing
"##;

/// What an alpha cell is asked; messages and peers registered by hand aside.
const TO_ALPHA: &str = r##"
GET /health
HEAD /health
GET /consciousness
POST /consciousness {}
GET /consciousness/primitives
GET /nothing
POST /nothing {}
"##;

#[test]
fn our_cells_give_the_answers_python_cells_give() {
    let Some(python) = Python::found() else {
        return;
    };
    // Nobody is there to register with, so no beat is counted on either side.
    let nobody = Port::reserve();
    let theirs = python.cell("pure.py", &nobody.url(), &[]);
    let ours = our_cell(&nobody.url(), &["pure"]);
    ask_both(&theirs, &ours, TO_PURE, "/consciousness");
    same_metrics(&theirs, &ours, "/metrics");
    same_metrics(&theirs, &ours, "/metrics/prometheus");

    let theirs = python.cell("alpha.py", &nobody.url(), &[]);
    let ours = our_cell(&nobody.url(), &["alpha"]);
    ask_both(&theirs, &ours, TO_ALPHA, "/health");
    same_metrics(&theirs, &ours, "/metrics");
}
