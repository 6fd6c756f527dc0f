//! `aero bench scale`: measures costs with 1 to 64 CPUs and 10 to 100,000 threads.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use serde::Serialize;

use super::measure::{self, Setting};
use build::{Which, image};
use machine::Accelerator;
use machine::status;

/// Default for the largest number of CPUs.
const MOST_CPUS: u32 = 64;
/// Memory of the machines, in MiB: enough for all threads.
const MEMORY: u32 = 4096;

/// A point of a curve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Point {
    operation: String,
    cpus: u32,
    threads: u64,
    median: u64,
    unit: String,
}

/// Returns the numbers of CPUs to measure with: the powers of two below `most`, and `most`.
fn steps(most: u32) -> impl Iterator<Item = u32> {
    (0..8).map(|power| 1 << power).take_while(move |&cpus| cpus < most).chain([most])
}

/// Runs `aero bench scale`.
pub fn run(most: Option<u32>, accelerator: Accelerator, json: Option<&Path>, plot: Option<&Path>) -> Result<u8> {
    let most = most.unwrap_or(MOST_CPUS);
    let image = image::build(Which::X64)?;
    let mut points = Vec::new();
    for cpus in steps(most) {
        eprintln!("aero: {cpus} of up to {most} CPUs");
        let setting = Setting { memory: MEMORY, ..Setting::new(cpus, accelerator)? };
        let report = measure::ours(&image, setting, "bench --json scale")?;
        for row in &report.results {
            let (operation, threads) = row.name.split_once('@').context("a point without a number of threads")?;
            let (operation, threads) = (operation.to_string(), threads.parse()?);
            points.push(Point { operation, cpus, threads, median: row.median, unit: row.unit.clone() });
        }
    }
    print(&points);
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&points)?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if let Some(path) = plot {
        draw(&points, path).map_err(|error| anyhow!("{} cannot be drawn: {error}", path.display()))?;
    }
    Ok(status::DONE)
}

/// The curves of an operation: for each number of threads, pairs of CPU count and cost.
type Curves = BTreeMap<u64, Vec<(u32, u64)>>;

/// Groups points into curves by operation.
fn curves(points: &[Point]) -> BTreeMap<&str, Curves> {
    let mut curves: BTreeMap<&str, Curves> = BTreeMap::new();
    for point in points {
        let curve = curves.entry(&point.operation).or_default().entry(point.threads).or_default();
        curve.push((point.cpus, point.median));
    }
    curves
}

fn print(points: &[Point]) {
    let unit = points.first().map_or("", |point| &point.unit);
    println!("{unit} of an operation on a CPU, all CPUs at once, while other threads wait");
    for (operation, curves) in curves(points) {
        let cpus: Vec<u32> = curves
            .values()
            .max_by_key(|curve| curve.len())
            .map_or(Vec::new(), |curve| curve.iter().map(|point| point.0).collect());
        print!("\n{operation:<12} {:>8}", "CPUs");
        cpus.iter().for_each(|cpus| print!(" {cpus:>7}"));
        println!();
        for (threads, curve) in curves {
            print!("{threads:>8} threads     ");
            for cpus in &cpus {
                let median = curve.iter().find(|point| point.0 == *cpus).map(|point| point.1.to_string());
                print!(" {:>7}", median.unwrap_or("-".into()));
            }
            println!();
        }
    }
}

const PANEL: (u32, u32) = (520, 300);
const COLORS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

/// Draws a panel for each operation, with a curve for each number of threads.
fn draw(points: &[Point], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let curves = curves(points);
    let unit = points.first().map_or("", |point| point.unit.as_str());
    let rows = (curves.len() as u32).div_ceil(2).max(1);
    let area = SVGBackend::new(path, (2 * PANEL.0, rows * PANEL.1)).into_drawing_area();
    area.fill(&WHITE)?;
    for (panel, (operation, curves)) in area.split_evenly((rows as usize, 2)).iter().zip(&curves) {
        let most = points.iter().map(|point| point.cpus).max().unwrap_or(2).max(2);
        let highest = curves.values().flatten().map(|point| point.1).max().unwrap_or(1);
        let mut chart = ChartBuilder::on(panel)
            .caption(format!("{operation}: {unit} on a CPU"), ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(34)
            .y_label_area_size(60)
            .build_cartesian_2d((1u32..most).log_scale().base(2.0), 0u64..highest + highest / 5 + 1)?;
        chart.configure_mesh().x_desc("CPUs").light_line_style(WHITE).label_style(("sans-serif", 11)).draw()?;
        for (index, ((threads, curve), color)) in curves.iter().zip(COLORS.iter().cycle()).enumerate() {
            // Each curve is thinner than those below it, so that curves that coincide are all
            // visible.
            let style = color.stroke_width(2 * (curves.len() - index) as u32);
            chart
                .draw_series(LineSeries::new(curve.iter().copied(), style))?
                .label(format!("{threads} threads"))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 11))
            .draw()?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_become_curves_and_a_picture() {
        assert_eq!(steps(64).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(steps(3).collect::<Vec<_>>(), [1, 2, 3]);
        let point = |operation: &str, cpus, threads, median| Point {
            operation: operation.into(),
            cpus,
            threads,
            median,
            unit: "instructions".into(),
        };
        let points =
            [point("event", 1, 10, 160), point("event", 2, 10, 161), point("event", 1, 100, 160), point("x", 1, 10, 5)];
        assert_eq!(curves(&points)["event"][&10], [(1, 160), (2, 161)]);
        let path = std::env::temp_dir().join(format!("aero-scale-{}.svg", std::process::id()));
        draw(&points, &path).unwrap();
        let picture = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for part in ["event: instructions on a CPU", "100 threads", "CPUs"] {
            assert!(picture.contains(part), "no {part} in {picture}");
        }
    }
}
