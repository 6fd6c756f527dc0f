//! Output of results, as a table or as JSON.

use alloc::format;
use core::fmt::{self, Write};

use report::{Meta, Row};

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Table,
    /// JSON; see [`report`].
    Json,
}

/// Length of the longest bar, in characters.
const BAR: u64 = 50;

/// Writes the number of durations in each class as bars.
fn write_histogram(row: &Row, out: &mut dyn Write) -> fmt::Result {
    let most = row.histogram.iter().map(|class| class.1).max().unwrap_or(1);
    for &(value, count) in &row.histogram {
        let length = (count * BAR).div_ceil(most) as usize;
        writeln!(out, "{value:>12} {count:>7}  {:#<length$}", "")?;
    }
    Ok(())
}

/// A writer of rows, one after the other.
pub struct Rows<'a> {
    format: Format,
    out: &'a mut dyn Write,
    any: bool,
}

impl<'a> Rows<'a> {
    /// Writes the heading and returns the writer.
    pub fn begin(meta: &Meta, format: Format, out: &'a mut dyn Write) -> Result<Self, fmt::Error> {
        match format {
            Format::Json => writeln!(out, "{{\"meta\": {meta}{}", report::BEGIN)?,
            Format::Table => write_heading(meta, out)?,
        }
        Ok(Self { format, out, any: false })
    }

    /// Writes a row.
    pub fn row(&mut self, row: &Row) -> fmt::Result {
        match self.format {
            Format::Json => {
                let comma = if self.any { ",\n" } else { "" };
                self.any = true;
                write!(self.out, "{comma}{row}")
            }
            Format::Table => write_row(row, self.out),
        }
    }

    /// Writes a row's histogram, in a table only.
    pub fn histogram(&mut self, row: &Row) -> fmt::Result {
        match self.format {
            Format::Json => Ok(()),
            Format::Table => write_histogram(row, self.out),
        }
    }

    /// Writes a remark, in a table only.
    pub fn remark(&mut self, remark: &str) -> fmt::Result {
        match self.format {
            Format::Json => Ok(()),
            Format::Table => writeln!(self.out, "{remark}"),
        }
    }

    /// Writes the end of the output.
    pub fn end(self) -> fmt::Result {
        match self.format {
            Format::Json => writeln!(self.out, "{}", report::END),
            Format::Table => Ok(()),
        }
    }
}

fn write_heading(meta: &Meta, out: &mut dyn Write) -> fmt::Result {
    let Meta { accelerator, cpu, cpus, clock_hz, icount, .. } = meta;
    let unit = if *icount { "executed instructions, not time" } else { "cycles" };
    writeln!(
        out,
        "{unit}; {cpus} CPUs{}, {cpu}, accelerator {accelerator}, clock {} MHz",
        meta.idle_words(),
        (clock_hz + 500_000) / 1_000_000
    )?;
    writeln!(
        out,
        "{:<26} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10} {:>6}",
        "benchmark", "min", "median", "p95", "p99", "p99.9", "max", "stddev", "times"
    )
}

fn write_row(row: &Row, out: &mut dyn Write) -> fmt::Result {
    let Row { name, about, count, min, median, p95, p99, p999, max, stddev, .. } = row;
    // Format widths apply to a string, not to `Decimal`'s own `Display`.
    let stddev = format!("{stddev}");
    writeln!(
        out,
        "{name:<26} {min:>8} {median:>8} {p95:>8} {p99:>8} {p999:>8} {max:>8} {stddev:>10} {count:>6}  {about}"
    )
}
