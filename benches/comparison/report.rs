//! What was measured, and how it is told.

use std::fmt::{Display, Write as _};

use serde::Serialize;

const HEAD: [&str; 5] = ["scenario", "figure", "median", "least", "most"];

/// All that was measured.
#[derive(Default, Serialize)]
pub struct Report {
    figures: Vec<Figure>,
}

/// What one scenario measures.
pub struct Section<'a> {
    scenario: &'static str,
    report: &'a mut Report,
}

/// One figure, of as many rounds as there were.
#[derive(Serialize)]
pub struct Figure {
    scenario: &'static str,
    name: String,
    unit: Unit,
    median: f64,
    min: f64,
    max: f64,
    rounds: Vec<f64>,
    #[serde(skip)]
    is_main: bool,
}

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    #[serde(rename = "")]
    Ratio,
    #[serde(rename = "/s")]
    PerSecond,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "B")]
    Bytes,
}

/// Says on stderr what is being done, or has come of it.
pub fn say(scenario: &str, what: impl Display) {
    eprintln!("{scenario}: {what}");
}

/// So many rounds, each of which is said.
pub fn rounds(scenario: &str, count: usize) -> impl Iterator<Item = usize> {
    (0..count).inspect(move |round| say(scenario, format_args!("round {} of {count}", round + 1)))
}

impl Report {
    /// What `scenario` measures goes in here.
    pub fn of(&mut self, scenario: &'static str) -> Section<'_> {
        Section {
            scenario,
            report: self,
        }
    }

    /// All figures.
    pub fn text(&self) -> String {
        let rows: Vec<_> = self.figures.iter().map(Figure::cells).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(HEAD[column].len())
        };
        let widths: [usize; 5] = std::array::from_fn(width);
        let mut text = String::new();
        for row in [HEAD.map(str::to_owned)].iter().chain(&rows) {
            let [scenario, name, figures @ ..] = row;
            let _ = write!(text, "{scenario:0$}  {name:1$}", widths[0], widths[1]);
            for (figure, width) in figures.iter().zip(&widths[2..]) {
                let _ = write!(text, "  {figure:>width$}");
            }
            text.push('\n');
        }
        text
    }

    /// The main figures as a table in Markdown.
    pub fn markdown(&self) -> String {
        let main = self.figures.iter().filter(|figure| figure.is_main);
        let rule = ["---", "---", "--:", "--:", "--:"];
        let head = [HEAD, rule].map(|row| row.map(str::to_owned));
        let rows = head.into_iter().chain(main.map(Figure::cells));
        rows.map(|row| format!("| {} |\n", row.join(" | ")))
            .collect()
    }
}

impl Section<'_> {
    /// Adds a figure, and says on stderr that it is there.
    pub fn add(&mut self, figure: Figure) {
        let median = figure.unit.show(figure.median);
        say(self.scenario, format_args!("{}: {median}", figure.name));
        self.report.figures.push(Figure {
            scenario: self.scenario,
            ..figure
        });
    }
}

impl Figure {
    /// What each round gave.
    pub fn of(name: impl Into<String>, unit: Unit, rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Self {
            scenario: "",
            name: name.into(),
            unit,
            median: quantile(&sorted, 0.5),
            min: quantile(&sorted, 0.0),
            max: quantile(&sorted, 1.0),
            rounds: rounds.to_vec(),
            is_main: false,
        }
    }

    /// What is not done in rounds.
    pub fn once(name: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self::of(name, unit, &[value])
    }

    /// What `above` is in terms of `below`, round by round.
    pub fn ratio(name: impl Into<String>, above: &[f64], below: &[f64]) -> Self {
        let ratios: Vec<f64> = above.iter().zip(below).map(|(a, b)| a / b).collect();
        Self::of(name, Unit::Ratio, &ratios)
    }

    /// One of those that the README shows.
    pub fn main(self) -> Self {
        Self {
            is_main: true,
            ..self
        }
    }

    /// That of the rounds.
    pub fn median(&self) -> f64 {
        self.median
    }

    fn cells(&self) -> [String; 5] {
        let show = |value| self.unit.show(value);
        let (least, most) = match self.rounds.len() {
            1 => (String::new(), String::new()),
            _ => (show(self.min), show(self.max)),
        };
        [
            self.scenario.to_owned(),
            self.name.clone(),
            show(self.median),
            least,
            most,
        ]
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.2}"),
            Self::PerSecond => format!("{}/s", thousands(value)),
            Self::Milliseconds if value < 10.0 => format!("{value:.2} ms"),
            Self::Milliseconds => format!("{} ms", thousands(value)),
            Self::Seconds => format!("{value:.1} s"),
            Self::Bytes if value >= 1e6 => format!("{:.1} MB", value / 1e6),
            Self::Bytes => format!("{} B", thousands(value)),
        }
    }
}

/// A number as people read it: with commas, and with a fraction only where it is small.
fn thousands(value: f64) -> String {
    match value.abs() {
        ..10.0 => format!("{value:.1}"),
        _ => with_commas(value.round() as usize),
    }
}

/// A number with commas.
pub fn with_commas(number: usize) -> String {
    match number {
        ..1000 => number.to_string(),
        _ => format!("{},{:03}", with_commas(number / 1000), number % 1000),
    }
}

/// What this part of all does not exceed, of values that are sorted; of two in the middle the lower.
pub fn quantile<T: Copy + Default>(sorted: &[T], part: f64) -> T {
    let last = sorted.len().saturating_sub(1);
    let place = (last as f64 * part).floor() as usize;
    sorted.get(place).copied().unwrap_or_default()
}
