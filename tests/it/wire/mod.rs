//! What goes over the wire, key for key: the protocol of the mesh, what is refused, what is
//! added, and what cells answer.

mod added;
mod cells;
mod fencing;
mod input;
mod page;
mod protocol;
mod reading;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Answer, Child};

/// Asserts that `answer` has this status and exactly this body: as JSON, once what differs from
/// run to run is [`masked`].
#[track_caller]
fn expect(what: &str, answer: &Answer, status: u16, body: &Value) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    let content_type = answer.header("content-type");
    assert_eq!(content_type, Some("application/json"), "{what}");
    assert_eq!(masked(answer.json()), *body, "{what}");
}

/// Asserts that `answer` is an error with this status, and returns its sentence.
#[track_caller]
fn expect_error(what: &str, answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    let content_type = answer.header("content-type");
    assert_eq!(content_type, Some("application/json"), "{what}");
    let body = answer.json();
    let keys: Vec<&String> = body.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["detail"], "{what}");
    let detail = answer.detail();
    assert!(!detail.is_empty(), "{what}");
    detail
}

/// Asserts that `program` has nothing for `method` at `target`, and says what it has.
#[track_caller]
fn expect_not_allowed(program: &Child, method: &str, target: &str, allowed: &str) {
    let answer = program.request(method, target, &[], b"");
    let what = format!("{method} {target}");
    let body = json!({"detail": "Method Not Allowed"});
    expect(&what, &answer, 405, &body);
    assert_eq!(answer.header("allow"), Some(allowed), "{what}");
}

/// `value` with a word in place of each value that differs from run to run, whose form is checked.
fn masked(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            for (key, member) in members {
                let (fits, word) = match key.as_str() {
                    "epoch" => (member.as_str().is_some_and(|it| !it.is_empty()), "EPOCH"),
                    "last_seen" | "now" | "timestamp" => {
                        (member.as_str().is_some_and(is_timestamp), "TIME")
                    }
                    "uptime_seconds" => (member.as_f64().is_some_and(|it| it > 0.0), "SECONDS"),
                    _ => {
                        *member = masked(member.take());
                        continue;
                    }
                };
                assert!(fits, "{key}: {member}");
                *member = word.into();
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = masked(item.take());
            }
        }
        _ => {}
    }
    value
}

/// The revision of the list as it is now. It begins with no number anybody knows.
fn revision(discovery: &Child) -> u64 {
    let list = discovery.get("/peers").json();
    list["revision"].as_u64().expect("a number")
}

/// `body`, in which the revision is given as so many more than `first`.
fn after(first: u64, mut body: Value) -> Value {
    if let Some(revision) = body.get_mut("revision") {
        *revision = (first + revision.as_u64().expect("a number")).into();
    }
    body
}

fn is_timestamp(text: &str) -> bool {
    let pattern = "0000-00-00T00:00:00.000000Z";
    text.len() == pattern.len()
        && text
            .chars()
            .zip(pattern.chars())
            .all(|(c, like)| match like {
                '0' => c.is_ascii_digit(),
                other => c == other,
            })
}

/// All that `/peers` shows but what changes by itself: a request that changes nothing leaves this
/// as it was.
fn shown(discovery: &Child) -> Value {
    let mut body = discovery.get("/peers").json();
    let members = body.as_object_mut().expect("an object");
    members.remove("now").expect("it has a time");
    members.remove("settling");
    body
}

/// Every byte of `text` percent-encoded.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// `/metrics`: the type of each family, and the value of each series, whose labels are sorted.
struct Metrics {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Asks `program` for them at `target`, and checks that each series is described and has its
    /// `cell_id`.
    fn of(program: &Child, target: &str, cell_id: &str) -> Self {
        let answer = program.get(target);
        assert_eq!(answer.status, 200);
        let content_type = answer.header("content-type").expect("a type");
        assert!(
            content_type.starts_with("text/plain; version=0.0.4"),
            "{content_type}"
        );
        let mut metrics = Self {
            types: BTreeMap::new(),
            samples: BTreeMap::new(),
        };
        for line in answer.text().lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').expect("a name and a type");
                let before = metrics.types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} is described twice");
            } else if !line.starts_with("# HELP ") {
                metrics.sample(line, cell_id);
            }
        }
        metrics
    }

    fn sample(&mut self, line: &str, cell_id: &str) {
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        let (name, labels) = series.split_once('{').expect("labels");
        let labels = labels.strip_suffix('}').expect("labels");
        let mut labels: Vec<&str> = labels.split(',').collect();
        let own = format!("cell_id=\"{cell_id}\"");
        let others = labels.len() - 1;
        labels.retain(|label| *label != own);
        assert_eq!(labels.len(), others, "{line}");
        labels.sort_unstable();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .filter(|family| self.types.get(*family).is_some_and(|it| it == "histogram"));
        let family = family.unwrap_or(name);
        assert!(self.types.contains_key(family), "{line} is not described");
        let key = match labels.len() {
            0 => name.to_owned(),
            _ => format!("{name}{{{}}}", labels.join(",")),
        };
        let value = value.parse().expect("a number");
        let before = self.samples.insert(key, value);
        assert_eq!(before, None, "{line} stands there twice");
    }

    /// A series, 0 where it is not there.
    fn get(&self, series: &str) -> f64 {
        self.samples.get(series).copied().unwrap_or(0.0)
    }
}
