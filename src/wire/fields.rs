//! The members of a JSON object, looked at one by one.
//!
//! A derived deserializer reports the first thing it stumbles over, often without the field. Here
//! the asked-for members are taken as they are, the last of duplicates, and converted afterwards,
//! so that each refusal names its field and a repaired duplicate counts.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use super::{Invalid, MAX_SERVICES, check_text, cut};

/// The members of one object that were asked for by name.
pub(super) struct Fields<const N: usize> {
    names: [&'static str; N],
    values: [Option<Value>; N],
}

impl<const N: usize> Fields<N> {
    /// Reads `body`, keeping the members called `names`. Unknown members are skipped, but must be
    /// JSON that is not nested without end.
    pub(super) fn parse(body: &[u8], names: [&'static str; N]) -> Result<Self, Invalid> {
        let mut fields = Self {
            names,
            values: [const { None }; N],
        };
        let mut json = serde_json::Deserializer::from_slice(body);
        (&mut fields)
            .deserialize(&mut json)
            .and_then(|()| json.end())
            .map_err(|e| {
                // It may quote what it stumbled over, however long that is.
                let why = e.to_string();
                let why = cut(&why, 200);
                Invalid(format!("the body cannot be read as a JSON object: {why}"))
            })?;
        Ok(fields)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.names.iter().position(|known| *known == name);
        debug_assert!(index.is_some(), "{name} was not asked for");
        self.values[index?].take()
    }

    /// The member `name` converted by `convert`, or `default` where it is absent.
    fn convert<T>(
        &mut self,
        name: &'static str,
        default: Option<T>,
        convert: impl FnOnce(Value) -> Result<T, String>,
    ) -> Result<T, Invalid> {
        match (self.take(name), default) {
            (Some(value), _) => convert(value).map_err(|why| Invalid(format!("{name}: {why}"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Invalid(format!("{name}: is required and missing"))),
        }
    }

    /// A text of at most 255 bytes without control characters.
    pub(super) fn text(
        &mut self,
        name: &'static str,
        default: Option<&str>,
    ) -> Result<String, Invalid> {
        self.convert(name, default.map(str::to_owned), text)
    }

    /// A text that may be absent.
    pub(super) fn optional_text(&mut self, name: &'static str) -> Result<Option<String>, Invalid> {
        self.convert(name, Some(None), |value| text(value).map(Some))
    }

    /// A list of texts, empty where it is absent.
    pub(super) fn texts(&mut self, name: &'static str) -> Result<Vec<String>, Invalid> {
        self.convert(name, Some(Vec::new()), |value| match value {
            Value::Array(items) if items.len() > MAX_SERVICES => Err(format!(
                "{} entries, at most {MAX_SERVICES} are allowed",
                items.len()
            )),
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| text(item).map_err(|why| format!("entry {index}: {why}")))
                .collect(),
            other => Err(format!(
                "must be an array of strings, not {}",
                shown(&other)
            )),
        })
    }

    /// A port: an integer, an integral float, or a string that is an integer.
    pub(super) fn port(&mut self, name: &'static str) -> Result<u16, Invalid> {
        self.convert(name, None, |value| {
            integer(&value)
                .and_then(|port| u16::try_from(port).ok())
                .ok_or_else(|| format!("must be an integer from 0 to 65535, not {}", shown(&value)))
        })
    }

    /// A finite number, or a string that is one.
    pub(super) fn number(
        &mut self,
        name: &'static str,
        default: Option<f64>,
    ) -> Result<f64, Invalid> {
        self.convert(name, default, |value| number(&value))
    }

    /// An object of finite numbers, empty where it is absent or null.
    pub(super) fn numbers(&mut self, name: &'static str) -> Result<Vec<(String, f64)>, Invalid> {
        self.convert(name, Some(Vec::new()), |value| match value {
            Value::Null => Ok(Vec::new()),
            Value::Object(members) => members
                .into_iter()
                .map(|(key, value)| match number(&value) {
                    Ok(number) => Ok((key, number)),
                    Err(why) => Err(format!("{}: {why}", shortened(&format!("{key:?}")))),
                })
                .collect(),
            other => Err(format!(
                "must be an object of numbers, not {}",
                shown(&other)
            )),
        })
    }

    /// An integer within `range`, or an integral float, that may be absent.
    pub(super) fn optional_integer(
        &mut self,
        name: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, Invalid> {
        self.convert(name, Some(None), |value| {
            let number = match &value {
                Value::Number(number) => whole(number),
                _ => None,
            };
            number
                .and_then(|number| u64::try_from(number).ok())
                .filter(|number| range.contains(number))
                .map(Some)
                .ok_or_else(|| {
                    format!(
                        "must be an integer from {} to {}, not {}",
                        range.start(),
                        range.end(),
                        shown(&value)
                    )
                })
        })
    }
}

fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => check_text(&text).map(|()| text),
        other => Err(format!("must be a string, not {}", shown(&other))),
    }
}

fn number(value: &Value) -> Result<f64, String> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number
        .filter(|number| number.is_finite())
        .ok_or_else(|| format!("must be a finite number, not {}", shown(value)))
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => whole(number),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The integer that a number is, however it is written.
fn whole(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        // Every float in this range that is whole converts without loss.
        #[allow(clippy::cast_possible_truncation)]
        (float.fract() == 0.0 && float.abs() < 1e9).then_some(float as i64)
    })
}

/// A value from outside as an error shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        // Debug escapes what a terminal must not see.
        Value::String(text) => shortened(&format!("{text:?}")).into_owned(),
        scalar => shortened(&scalar.to_string()).into_owned(),
    }
}

/// At most some 40 characters of `text`.
pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    cut(text, 40)
}

impl<'de, const N: usize> DeserializeSeed<'de> for &mut Fields<N> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for &mut Fields<N> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(key) = members.next_key_seed(Name(&self.names))? {
            let (name, read) = match key {
                Ok(index) => {
                    let read = members.next_value();
                    let read = read.map(|value| self.values[index] = Some(value));
                    (Cow::Borrowed(self.names[index]), read)
                }
                Err(unknown) => (Cow::Owned(unknown), members.next_value_seed(Skip)),
            };
            read.map_err(|e| {
                A::Error::custom(format_args!(
                    "{}: {e}",
                    shortened(name.escape_debug().to_string().as_str())
                ))
            })?;
        }
        Ok(())
    }
}

/// The name of a member: where it stands among those asked for, or what else it is.
struct Name<'a>(&'a [&'static str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Result<usize, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let known = self.0.iter().position(|known| *known == name);
        Ok(known.ok_or_else(|| name.to_owned()))
    }
}

/// Skips a value, looking at all of it: serde's own `IgnoredAny` neither minds depth nor checks
/// that strings are UTF-8.
struct Skip;

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Skip)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while members.next_key_seed(Skip)?.is_some() {
            members.next_value_seed(Skip)?;
        }
        Ok(())
    }
}
