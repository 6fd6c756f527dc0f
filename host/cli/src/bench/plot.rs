//! Draws the distributions of both systems on a logarithmic scale.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use report::Row;

use super::measure::Report;
use super::table;

/// Sizes in pixels: the picture's width, the column of names, the margin, a system's band in a row.
const WIDTH: u32 = 1100;
const NAMES: i32 = 230;
const MARGIN: i32 = 16;
const BAND: i32 = 11;
const ROW: i32 = 2 * BAND + 8;
const TOP: i32 = 84;
const BOTTOM: i32 = 40;
const FONT: &str = "sans-serif";
/// Okabe and Ito's blue and vermilion, which can be told apart with any colour vision and in grey.
const OURS: RGBColor = RGBColor(0, 114, 178);
const LINUX: RGBColor = RGBColor(213, 94, 0);
const GREY: RGBColor = RGBColor(200, 200, 200);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws all rows of a report. Each system has a band whose height shows how frequent durations
/// are, with a line at the median.
pub fn distributions(report: &Report, path: &Path) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("{} cannot be drawn: {error}", path.display());
    let rows: Vec<(&Row, Option<&Row>)> =
        report.results.iter().map(|row| (row, report.linux_row(&row.name))).filter(|(row, _)| row.max > 0).collect();
    let height = TOP + ROW * rows.len() as i32 + BOTTOM;
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    draw(&area, report, &rows, height).map_err(|error| failed(&error))?;
    area.present().map_err(|error| failed(&error))
}

/// Returns the powers of ten that enclose all durations.
fn decades(rows: &[(&Row, Option<&Row>)]) -> (i32, i32) {
    let all = || rows.iter().flat_map(|(row, other)| std::iter::once(*row).chain(*other));
    let smallest = all().map(|row| row.min.max(1)).min().unwrap_or(1);
    let largest = all().map(|row| row.max.max(2)).max().unwrap_or(10);
    (smallest.ilog10() as i32, (largest - 1).ilog10() as i32 + 1)
}

/// The mapping of durations to horizontal positions.
struct Scale {
    first: i32,
    pixels_per_decade: f64,
}

impl Scale {
    fn at(&self, value: f64) -> i32 {
        NAMES + ((value.max(1.0).log10() - f64::from(self.first)) * self.pixels_per_decade) as i32
    }
}

fn draw(
    area: &Area<'_>,
    report: &Report,
    rows: &[(&Row, Option<&Row>)],
    height: i32,
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let (first, last) = decades(rows);
    let width = f64::from(WIDTH as i32 - NAMES - MARGIN - 60);
    let scale = Scale { first, pixels_per_decade: width / f64::from(last - first) };
    let small = (FONT, 11).into_font();
    area.draw(&Text::new("Latencies of primitives", (MARGIN, 12), (FONT, 18).into_font()))?;
    area.draw(&Text::new(table::heading(&report.meta), (MARGIN, 36), (FONT, 10).into_font().color(&OURS)))?;
    if let Some(linux) = &report.linux {
        area.draw(&Text::new(table::heading(&linux.meta), (MARGIN, 50), (FONT, 10).into_font().color(&LINUX)))?;
    }
    for decade in first..=last {
        let x = scale.at(10f64.powi(decade));
        area.draw(&PathElement::new([(x, TOP - 4), (x, height - BOTTOM + 4)], GREY))?;
        area.draw(&Text::new(table::grouped(10u64.pow(decade as u32)), (x - 12, height - BOTTOM + 8), small.clone()))?;
    }
    let unit = report.results.first().map_or("", |row| row.unit.as_str());
    area.draw(&Text::new(unit, (WIDTH as i32 - MARGIN - 70, height - 16), small.clone()))?;
    for (index, (ours, linux)) in rows.iter().enumerate() {
        let top = TOP + ROW * index as i32;
        area.draw(&Text::new(ours.name.clone(), (MARGIN, top + 4), small.clone()))?;
        band(area, &scale, ours, top, OURS)?;
        if let Some(linux) = linux {
            band(area, &scale, linux, top + BAND, LINUX)?;
            let factor = format!("x {}", table::ratio(linux.median, ours.median));
            area.draw(&Text::new(factor, (WIDTH as i32 - MARGIN - 44, top + 6), small.clone()))?;
        }
    }
    Ok(())
}

/// Draws a distribution from the smallest to the largest duration, as rectangles at least one pixel
/// high that grow with their share.
fn band(
    area: &Area<'_>,
    scale: &Scale,
    row: &Row,
    top: i32,
    color: RGBColor,
) -> Result<(), Box<dyn std::error::Error>> {
    let bottom = top + BAND - 1;
    area.draw(&PathElement::new([(scale.at(row.min as f64), bottom), (scale.at(row.max as f64), bottom)], color))?;
    let most = row.histogram.iter().map(|class| class.1).max().unwrap_or(1);
    for &(value, count) in &row.histogram {
        // A class is an eighth of a power of two wide.
        let (left, right) = (scale.at(value as f64), scale.at(value as f64 * 1.09));
        // The square root keeps single outliers visible.
        let share = (count as f64 / most as f64).sqrt();
        let height = ((share * f64::from(BAND - 2)) as i32).max(1);
        let corners = [(left, bottom - height), (right.max(left + 1), bottom)];
        area.draw(&Rectangle::new(corners, color.mix(0.55).filled()))?;
    }
    let median = scale.at(row.median as f64);
    area.draw(&PathElement::new([(median, top), (median, bottom)], color.stroke_width(2)))?;
    let figure = Text::new(row.median.to_string(), (scale.at(row.max as f64) + 5, top + 1), (FONT, 9).into_font());
    area.draw(&figure)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::measure::tests::report;
    use super::*;

    #[test]
    fn a_picture_has_every_row_of_both_systems() {
        let mut both = report(&[("mutex_uncontended", 10), ("trace_event", 29)]);
        both.linux = Some(Box::new(report(&[("pthread_mutex", 55)])));
        let path = std::env::temp_dir().join(format!("aero-plot-{}.svg", std::process::id()));
        distributions(&both, &path).unwrap();
        let picture = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for part in ["<svg", "mutex_uncontended", "trace_event", "x 5.5", "instructions", "not time"] {
            assert!(picture.contains(part), "no {part} in {picture}");
        }
    }
}
