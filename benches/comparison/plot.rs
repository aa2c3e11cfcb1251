//! What `sizes` measures, drawn.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::Result;
use crate::sizes::Point;

const INK: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const OTHER_INK: RGBColor = RGBColor(0xc2, 0x4a, 0x2b);

const PALE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const FONT: (&str, i32) = ("sans-serif", 17);
const SIZE: (u32, u32) = (960, 360);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line of a drawing.
struct Line {
    name: &'static str,
    ink: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws them to `file`, as SVG.
pub fn draw(file: &Path, points: &[Point]) -> Result<()> {
    let line = |name, ink, value: fn(&Point) -> f64| Line {
        name,
        ink,
        points: points
            .iter()
            .map(|it| (it.peers as f64, value(it)))
            .collect(),
    };
    let beats = [line("", INK, |it| it.beats)];
    let lists = [
        line("p99", OTHER_INK, |it| it.list_p99),
        line("median", INK, |it| it.list_median),
    ];
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(SIZE.0 / 2);
    let (_, most) = bounds(&beats);
    chart(&left, "heartbeats a second", 0.0..most * 1.2, &beats)?;
    let (least, most) = bounds(&lists);
    let decades = (least / 2.0..most * 2.0).log_scale();
    chart(&right, "GET /peers, ms", decades, &lists)?;
    area.present()?;
    Ok(())
}

/// The least and the most that any line shows.
fn bounds(lines: &[Line]) -> (f64, f64) {
    let values = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.1);
    values.fold((f64::MAX, 0.0), |(least, most), value| {
        (least.min(value), most.max(value))
    })
}

fn chart<Y>(area: &Area, title: &str, y: Y, lines: &[Line]) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let peers = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.0);
    let most = peers.fold(1000.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, FONT)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((80.0..most * 1.25).log_scale(), y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE)
        .label_style(FONT)
        .x_desc("peers")
        .x_label_formatter(&|peers| whole(*peers))
        .y_label_formatter(&|value| whole(*value))
        .draw()?;
    for line in lines {
        let ink = line.ink;
        let points = line.points.iter().copied();
        let drawn =
            chart.draw_series(LineSeries::new(points, ink.stroke_width(2)).point_size(3))?;
        if !line.name.is_empty() {
            drawn
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], ink.stroke_width(2)));
        }
    }
    if lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(FONT)
            .border_style(PALE)
            .draw()?;
    }
    Ok(())
}

/// A number on an axis.
fn whole(value: f64) -> String {
    match value {
        1e6.. => format!("{} M", value / 1e6),
        1e3.. => format!("{} k", value / 1e3),
        _ => value.to_string(),
    }
}
