//! Reports as JSON: `{"meta": {...}, "results": [{...}, ...]}`, one result per line.

use core::fmt::{self, Write};

use crate::{Meta, Row};

/// The text between the metadata and the first result.
pub const BEGIN: &str = ", \"results\": [";
/// The text after the last result; it occurs nowhere else in a report.
pub const END: &str = "\n]}";

/// A text as a JSON string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                '\0'..' ' => write!(f, "\\u{:04x}", character as u32)?,
                _ => f.write_char(character)?,
            }
        }
        f.write_char('"')
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { system, accelerator, cpu, cpus, clock_hz, icount, idle_polls, overhead, warm_up } = self;
        let (system, accelerator, cpu) = (Quoted(system), Quoted(accelerator), Quoted(cpu));
        write!(
            f,
            "{{\"system\": {system}, \"accelerator\": {accelerator}, \"cpu\": {cpu}, \"cpus\": {cpus}, \
             \"clock_hz\": {clock_hz}, \"icount\": {icount}, \"idle_polls\": {idle_polls}, \
             \"overhead\": {overhead}, \"warm_up\": {warm_up}}}"
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, about, unit, count, min, median, p95, p99, p999, max, stddev, mean, histogram } = self;
        let (name, about, unit) = (Quoted(name), Quoted(about), Quoted(unit));
        write!(
            f,
            "{{\"name\": {name}, \"about\": {about}, \"unit\": {unit}, \"count\": {count}, \"min\": {min}, \
             \"median\": {median}, \"p95\": {p95}, \"p99\": {p99}, \"p999\": {p999}, \"max\": {max}, \
             \"stddev\": {stddev}, \"mean\": {mean}, \"histogram\": ["
        )?;
        for (number, (value, count)) in histogram.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}[{value}, {count}]")?;
        }
        f.write_str("]}")
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    extern crate std;
    use std::format;

    use crate::{Counter, Decimal, Meta, Row, Samples};

    #[test]
    fn what_is_written_can_be_read() {
        let meta = Meta {
            system: "a \"kernel\"".into(),
            accelerator: "tcg".into(),
            cpu: "back\\slash and\ttab".into(),
            cpus: 2,
            clock_hz: 1_000_000_000,
            icount: true,
            idle_polls: true,
            overhead: 3,
            warm_up: 50,
        };
        assert_eq!(serde_json::from_str::<Meta>(&format!("{meta}")).expect("it is JSON"), meta);
        let counter = Counter { read: || 0, overhead: 0, counts_instructions: false };
        let mut samples = Samples::new(counter, 3).expect("memory");
        for _ in 0..53 {
            samples.add(10, 30);
        }
        let mut row = Row::new("x", "of what", samples);
        row.stddev = Decimal { thousandths: 12_034 };
        assert_eq!(serde_json::from_str::<Row>(&format!("{row}")).expect("it is JSON"), row);
    }
}
