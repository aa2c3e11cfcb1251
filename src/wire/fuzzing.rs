//! What holds for every body that arrives.

use std::fmt::Debug;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Heartbeat, Invalid, LevelSync, MAX_SERVICES, MAX_TEXT, OWN_LEASE_MS, Registration, check_host,
    is_control, millis,
};

/// The longest sentence a body is refused with: what it quotes is cut.
const LONGEST_REFUSAL: usize = 1000;

/// Whatever arrives as a body: it is read as a JSON object exactly where any other reader would do
/// so, what is taken has the values that reader sees and is within its bounds, and sent on it is
/// taken as the same. What is refused is refused with one short line.
pub fn bodies(input: &[u8]) {
    let object = match serde_json::from_slice(input) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    };
    if let Some((taken, members)) = read(Registration::from_json(input), object.as_ref()) {
        check_registration(&taken, members);
        again(&taken, Registration::from_json);
    }
    if let Some((taken, members)) = read(Heartbeat::from_json(input), object.as_ref()) {
        assert_eq!(members["cell_id"], taken.cell_id.as_str());
        check_id(taken.cell_id.as_str());
        check_number(
            taken.consciousness_level,
            members.get("consciousness_level"),
        );
        again(&taken, Heartbeat::from_json);
    }
    if let Some((taken, members)) = read(LevelSync::from_json(input), object.as_ref()) {
        check_number(taken.level, members.get("level"));
        let sent = members.get("context").and_then(Value::as_object);
        assert_eq!(taken.context.len(), sent.map_or(0, Map::len));
        for (name, value) in &taken.context {
            check_number(*value, sent.and_then(|sent| sent.get(name)));
        }
        let context: Map<String, Value> = taken
            .context
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        let sent_on = json!({"level": taken.level, "context": context});
        assert_eq!(
            LevelSync::from_json(sent_on.to_string().as_bytes()),
            Ok(taken)
        );
    }
}

/// What was taken, beside the members any reader of JSON sees.
fn read<T>(
    result: Result<T, Invalid>,
    object: Option<&Map<String, Value>>,
) -> Option<(T, &Map<String, Value>)> {
    match result {
        Ok(taken) => {
            assert!(object.is_some(), "taken, and no JSON object");
            Some((taken, object?))
        }
        Err(why) => {
            let why = why.to_string();
            assert_eq!(why.starts_with("the body"), object.is_none(), "{why}");
            assert!(!why.chars().any(is_control), "{why:?}");
            assert!((1..LONGEST_REFUSAL).contains(&why.len()), "{why}");
            None
        }
    }
}

/// What was taken is taken as the same when it is sent on.
fn again<T: Serialize + PartialEq + Debug>(taken: &T, from_json: fn(&[u8]) -> Result<T, Invalid>) {
    let Ok(sent_on) = serde_json::to_vec(taken) else {
        unreachable!("cannot be sent on: {taken:?}");
    };
    assert_eq!(from_json(&sent_on).as_ref(), Ok(taken));
}

fn check_registration(taken: &Registration, members: &Map<String, Value>) {
    check_id(taken.cell_id.as_str());
    assert_eq!(members["cell_id"], taken.cell_id.as_str());
    assert_eq!(members["ip"], taken.ip);
    assert_eq!(check_host(&taken.ip), Ok(()));
    let port = match &members["port"] {
        Value::String(text) => text.trim().parse().ok(),
        number => number.as_f64(),
    };
    assert_eq!(port, Some(f64::from(taken.port)));
    check_number(
        taken.consciousness_level,
        members.get("consciousness_level"),
    );
    let services = members.get("services").cloned();
    assert_eq!(services.unwrap_or(json!([])), json!(taken.services));
    assert!(taken.services.len() <= MAX_SERVICES);
    for (name, text, default) in [
        ("branch", &taken.branch, "main"),
        ("type", &taken.kind, "cell"),
        ("hostname", &taken.hostname, ""),
    ] {
        let sent = members.get(name).cloned();
        assert_eq!(sent.unwrap_or(default.into()), **text);
        check_short(text);
    }
    taken.services.iter().for_each(|text| check_short(text));
    if let Some(instance) = &taken.instance {
        assert_eq!(members["instance"], instance.as_str());
        check_short(instance.as_str());
    }
    let lease = members.get("stale_after_ms").and_then(Value::as_f64);
    #[allow(clippy::cast_precision_loss)]
    let taken_lease = taken.stale_after.map(|lease| millis(lease) as f64);
    assert_eq!(taken_lease, lease);
    assert!(
        taken
            .stale_after
            .is_none_or(|lease| OWN_LEASE_MS.contains(&millis(lease)))
    );
}

fn check_id(id: &str) {
    assert!(!id.is_empty());
    check_short(id);
}

fn check_short(text: &str) {
    assert!(
        text.len() <= MAX_TEXT && !text.chars().any(is_control),
        "{text:?}"
    );
}

fn check_number(taken: f64, sent: Option<&Value>) {
    assert!(taken.is_finite());
    let sent = match sent {
        None => Some(0.0),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(number) => number.as_f64(),
    };
    assert_eq!(sent, Some(taken));
}
