//! The bodies that arrive at discovery and at cells.

use std::time::Duration;

use serde::Serialize;

use super::fields::Fields;
use super::{CellId, Instance, Invalid, OWN_LEASE_MS, check_host, millis};

/// What a cell says of itself in `POST /register`. Every value in it is within its bounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Registration {
    /// The cell's unique name.
    pub cell_id: CellId,
    /// The address or host name to reach it at.
    pub ip: String,
    /// The port to reach it at.
    pub port: u16,
    /// A finite number of the cell's own choosing.
    pub consciousness_level: f64,
    /// What it offers.
    pub services: Vec<String>,
    /// The branch of the mesh it belongs to.
    pub branch: String,
    /// Its kind: `pure_cell`, `alpha_cell`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The host it runs on.
    pub hostname: String,
    /// Which run of the cell this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// A lease for this peer alone.
    #[serde(
        rename = "stale_after_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_millis"
    )]
    pub stale_after: Option<Duration>,
}

fn as_millis<S: serde::Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration.map(millis).serialize(serializer)
}

impl Registration {
    /// Reads the body of `POST /register`.
    ///
    /// # Errors
    /// A sentence that names the field at fault and what is allowed.
    pub fn from_json(body: &[u8]) -> Result<Self, Invalid> {
        let mut fields = Fields::parse(
            body,
            [
                "cell_id",
                "ip",
                "port",
                "consciousness_level",
                "services",
                "branch",
                "type",
                "hostname",
                "instance",
                "stale_after_ms",
            ],
        )?;
        let cell_id = CellId::new(&fields.text("cell_id", None)?)?;
        let ip = fields.text("ip", None)?;
        check_host(&ip).map_err(|why| Invalid(format!("ip: {why}")))?;
        Ok(Self {
            cell_id,
            ip,
            port: fields.port("port")?,
            consciousness_level: fields.number("consciousness_level", Some(0.0))?,
            services: fields.texts("services")?,
            branch: fields.text("branch", Some("main"))?,
            kind: fields.text("type", Some("cell"))?,
            hostname: fields.text("hostname", Some(""))?,
            instance: instance(&mut fields)?,
            stale_after: fields
                .optional_integer("stale_after_ms", OWN_LEASE_MS)?
                .map(Duration::from_millis),
        })
    }
}

/// The body of `POST /heartbeat`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Heartbeat {
    /// Who is alive.
    pub cell_id: CellId,
    /// The cell's level now.
    pub consciousness_level: f64,
    /// Which run of the cell this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
}

impl Heartbeat {
    /// Reads the body of `POST /heartbeat`.
    ///
    /// # Errors
    /// A sentence that names the field at fault and what is allowed.
    pub fn from_json(body: &[u8]) -> Result<Self, Invalid> {
        let mut fields = Fields::parse(body, ["cell_id", "consciousness_level", "instance"])?;
        Ok(Self {
            cell_id: CellId::new(&fields.text("cell_id", None)?)?,
            consciousness_level: fields.number("consciousness_level", Some(0.0))?,
            instance: instance(&mut fields)?,
        })
    }
}

fn instance<const N: usize>(fields: &mut Fields<N>) -> Result<Option<Instance>, Invalid> {
    fields
        .optional_text("instance")?
        .filter(|text| !text.is_empty())
        .map(|text| Instance::new(&text))
        .transpose()
}

/// The body of a pure cell's `POST /consciousness/sync`.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelSync {
    /// The new level, not yet clamped.
    pub level: f64,
    /// New values by the name of the primitive.
    pub context: Vec<(String, f64)>,
}

impl LevelSync {
    /// Reads the body of `POST /consciousness/sync`.
    ///
    /// # Errors
    /// A sentence that names the field at fault and what is allowed.
    pub fn from_json(body: &[u8]) -> Result<Self, Invalid> {
        let mut fields = Fields::parse(body, ["level", "context"])?;
        Ok(Self {
            level: fields.number("level", None)?,
            context: fields.numbers("context")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> String {
        match Registration::from_json(body.as_bytes()) {
            Ok(taken) => panic!("taken: {taken:?}"),
            Err(invalid) => invalid.to_string(),
        }
    }

    #[test]
    fn the_last_of_duplicate_keys_counts_even_after_an_ill_typed_one() {
        let taken = Registration::from_json(
            br#"{"cell_id":"a","ip":"h","port":"x","port":1,"port":2,"later":[{"a":null}]}"#,
        )
        .expect("taken");
        assert_eq!(taken.port, 2);
    }

    #[test]
    fn ports_come_as_integers_floats_and_strings() {
        for (port, expected) in [
            ("8002", 8002),
            ("8002.0", 8002),
            ("\"8002\"", 8002),
            ("\" 8002 \"", 8002),
            ("0", 0),
            ("65535", 65535),
        ] {
            let body = format!(r#"{{"cell_id":"a","ip":"h","port":{port}}}"#);
            let taken = Registration::from_json(body.as_bytes()).expect("taken");
            assert_eq!(taken.port, expected);
        }
        for port in [
            "-1", "65536", "1.5", "\"\"", "\"a\"", "true", "null", "[1]", "{}", "1e30",
        ] {
            let why = refusal(&format!(r#"{{"cell_id":"a","ip":"h","port":{port}}}"#));
            assert!(why.starts_with("port: "), "{port}: {why}");
        }
    }

    #[test]
    fn a_lease_is_the_same_with_and_without_a_point() {
        for (lease, expected) in [("1000", 1000), ("1000.0", 1000), ("3.6e6", 3_600_000)] {
            let body = format!(r#"{{"cell_id":"a","ip":"h","port":1,"stale_after_ms":{lease}}}"#);
            let taken = Registration::from_json(body.as_bytes()).expect("taken");
            assert_eq!(taken.stale_after, Some(Duration::from_millis(expected)));
        }
    }

    #[test]
    fn every_refusal_names_the_field() {
        let with = |more: &str| format!(r#"{{"cell_id":"a","ip":"h","port":1,{more}}}"#);
        for (field, body) in [
            ("cell_id", r#"{"ip":"h","port":1}"#.to_owned()),
            ("ip", r#"{"cell_id":"a","port":1}"#.to_owned()),
            ("port", r#"{"cell_id":"a","ip":"h"}"#.to_owned()),
            ("cell_id", r#"{"cell_id":"","ip":"h","port":1}"#.to_owned()),
            ("cell_id", r#"{"cell_id":7,"ip":"h","port":1}"#.to_owned()),
            (
                "cell_id",
                with(&format!(r#""cell_id":"{}""#, "x".repeat(256))),
            ),
            ("cell_id", with(r#""cell_id":"a\u0000b""#)),
            ("ip", with(r#""ip":"not an address""#)),
            ("consciousness_level", with(r#""consciousness_level":NaN"#)),
            (
                "consciousness_level",
                with(r#""consciousness_level":1e999"#),
            ),
            (
                "consciousness_level",
                with(r#""consciousness_level":"inf""#),
            ),
            ("consciousness_level", with(r#""consciousness_level":null"#)),
            ("services", with(r#""services":"a""#)),
            ("services", with(r#""services":["a",1]"#)),
            (
                "services",
                with(&format!(r#""services":[{}]"#, vec!["\"s\""; 65].join(","))),
            ),
            ("branch", with(r#""branch":null"#)),
            ("type", with(r#""type":"a\u2028b""#)),
            ("hostname", with("\"hostname\":\"a\nb\"")),
            ("hostname", with(r#""hostname":"\ud800""#)),
            (
                "branch",
                with(&format!(r#""branch":{}1"#, "[".repeat(20_000))),
            ),
            (
                "extra",
                with(&format!(r#""extra":{}1"#, "[".repeat(20_000))),
            ),
            ("stale_after_ms", with(r#""stale_after_ms":999"#)),
            ("stale_after_ms", with(r#""stale_after_ms":3600001"#)),
            ("instance", with(r#""instance":5"#)),
        ] {
            let why = refusal(&body);
            assert!(why.contains(&format!("{field}: ")), "{field}: {why}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_refused_as_the_body() {
        for body in ["", "[]", "null", "5", "{", "{} x", "{\"a\"}", "\u{feff}{}"] {
            assert!(refusal(body).contains("the body"), "{body}");
        }
    }

    #[test]
    fn text_that_is_no_utf8_is_refused_by_field_wherever_it_stands() {
        for field in ["hostname", "unknown"] {
            let mut body = format!(r#"{{"cell_id":"a","ip":"h","port":1,"{field}":""#).into_bytes();
            body.extend(b"\xff\xfe\"}");
            let why = Registration::from_json(&body)
                .expect_err("refused")
                .to_string();
            assert!(why.contains(&format!("{field}: ")), "{why}");
        }
    }
}
