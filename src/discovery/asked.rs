//! What is asked for in the query of a request that reads.
//!
//! Pure: names and values in, what is meant out, or a sentence that says what is allowed.

use std::time::Duration;

use crate::registry::Facts;
use crate::wire;

/// The longest that is waited for a change, and how long where nothing else is asked for.
pub(super) const MOST_WAIT: Duration = Duration::from_secs(300);

/// Which peers, and in which form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct View {
    pub(super) state: State,
    pub(super) form: Form,
    pub(super) filter: Filter,
}

/// Whether those who are here are asked for, or those who are not any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum State {
    #[default]
    Here,
    Gone,
}

/// The form of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Form {
    #[default]
    Json,
    Tsv,
    Ids,
    Hosts,
    Prometheus,
}

/// What peers have to be to be listed: whatever is given of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Filter {
    pub(super) kind: Option<String>,
    pub(super) service: Option<String>,
    pub(super) branch: Option<String>,
}

impl Filter {
    /// Whether a peer is.
    pub(super) fn takes(&self, facts: &Facts) -> bool {
        let is = |asked: &Option<String>, value: &str| {
            asked.as_deref().is_none_or(|asked| asked == value)
        };
        let has = |service: &String| facts.services.iter().any(|known| known == service);
        is(&self.kind, &facts.kind)
            && is(&self.branch, &facts.branch)
            && self.service.as_ref().is_none_or(has)
    }
}

/// A change that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Awaited {
    /// It is any other revision than this.
    pub(super) index: u64,
    /// For how long.
    pub(super) at_most: Duration,
}

/// The value that a query gives a name.
type Value<'a> = &'a dyn Fn(&str) -> Option<String>;

impl View {
    /// Reads which peers are asked for and how they are to be shown.
    ///
    /// # Errors
    /// A sentence that names what is wrong and what is allowed.
    pub(super) fn asked(query: Value<'_>) -> Result<Self, String> {
        let state = match query("state").as_deref() {
            None => State::Here,
            Some("gone") => State::Gone,
            Some(_) => return Err("state: allowed is gone".to_owned()),
        };
        let form = match query("format").as_deref() {
            None | Some("json") => Form::Json,
            Some("tsv") => Form::Tsv,
            Some("ids") => Form::Ids,
            Some("hosts") => Form::Hosts,
            Some("prometheus") => Form::Prometheus,
            Some(_) => {
                return Err("format: allowed is json, tsv, ids, hosts or prometheus".to_owned());
            }
        };
        Ok(Self {
            state,
            form,
            filter: Filter {
                kind: query("type"),
                service: query("service"),
                branch: query("branch"),
            },
        })
    }

    /// Whether it is another one only where the membership is.
    pub(super) fn is_of_revision(&self) -> bool {
        self.state == State::Gone || !matches!(self.form, Form::Json | Form::Tsv)
    }
}

impl Awaited {
    /// Reads what is waited for, if anything is.
    ///
    /// # Errors
    /// A sentence that names what is wrong and what is allowed.
    pub(super) fn asked(query: Value<'_>) -> Result<Option<Self>, String> {
        let at_most = match query("wait") {
            None => MOST_WAIT,
            // A longer one is a wish that is met in part.
            Some(text) => wire::duration(&text)
                .map_err(|why| format!("wait: {why}, and 5m is the most"))?
                .min(MOST_WAIT),
        };
        let index = query("index").map(|text| revision("index", &text));
        Ok(index.transpose()?.map(|index| Self { index, at_most }))
    }
}

/// A revision, given under this name.
///
/// # Errors
/// A sentence that says what is allowed.
pub(super) fn revision(name: &str, text: &str) -> Result<u64, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number);
    number.ok_or_else(|| {
        format!("{name}: allowed is a revision, a whole number as X-Mesh-Revision says it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(query: &[(&str, &str)]) -> Result<View, String> {
        View::asked(&value(query))
    }

    fn awaited(query: &[(&str, &str)]) -> Result<Option<Awaited>, String> {
        Awaited::asked(&value(query))
    }

    fn value(query: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| {
            let mut all = query.iter();
            all.find_map(|(key, value)| (*key == name).then(|| (*value).to_owned()))
        }
    }

    #[test]
    fn a_view_is_what_its_query_says() {
        assert_eq!(view(&[]), Ok(View::default()));
        assert_eq!(view(&[("format", "json")]), Ok(View::default()));
        let asked = view(&[("type", "a"), ("service", "b"), ("branch", "c")]).expect("allowed");
        assert_eq!(asked.filter.kind.as_deref(), Some("a"));
        assert_eq!(asked.filter.service.as_deref(), Some("b"));
        assert_eq!(asked.filter.branch.as_deref(), Some("c"));
        for (query, named) in [
            (&[("format", "xml")][..], "format"),
            (&[("format", "JSON")], "format"),
            (&[("state", "alive")], "state"),
        ] {
            let why = view(query).expect_err("refused");
            assert!(why.starts_with(&format!("{named}: allowed ")), "{why}");
        }
    }

    #[test]
    fn what_is_waited_for_is_bounded() {
        let of = |index, at_most| Ok(Some(Awaited { index, at_most }));
        assert_eq!(awaited(&[]), Ok(None));
        assert_eq!(awaited(&[("wait", "3s")]), Ok(None));
        assert_eq!(awaited(&[("index", "7")]), of(7, MOST_WAIT));
        let seconds = Duration::from_secs(3);
        assert_eq!(awaited(&[("index", "7"), ("wait", "3s")]), of(7, seconds));
        assert_eq!(awaited(&[("index", "7"), ("wait", "9m")]), of(7, MOST_WAIT));
        let zero = Duration::ZERO;
        assert_eq!(awaited(&[("index", "0"), ("wait", "0s")]), of(0, zero));
        for (query, named) in [
            (&[("index", "-1")][..], "index"),
            (&[("index", "+1")], "index"),
            (&[("index", "x")], "index"),
            (&[("index", "99999999999999999999")], "index"),
            (&[("wait", "3")], "wait"),
            (&[("index", "1"), ("wait", "-3s")], "wait"),
        ] {
            let why = awaited(query).expect_err("refused");
            assert!(why.starts_with(&format!("{named}: allowed is ")), "{why}");
        }
    }
}
