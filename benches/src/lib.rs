//! What the benchmarks share: rounds, medians, and how results are reported.
//!
//! A figure with a baseline is measured beside it in the same run, in
//! interleaved rounds; every figure is the median of its rounds: machines are
//! noisy.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Instant;

use serde_json::json;

/// Variable that names a file to which each result is appended as a JSON line.
pub const JSON_VARIABLE: &str = "BULLA_BENCH_JSON";

/// One figure.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Stable name, for example `pubsub.signed.256`.
    pub name: String,
    /// What was measured.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it is compared with.
    pub baseline: Option<Baseline>,
}

/// The same without Bulla.
#[derive(Debug, Clone, Copy)]
pub struct Baseline {
    /// The baseline in the unit of the measurement.
    pub value: f64,
    /// Measured value / baseline, median over the rounds.
    pub ratio: f64,
}

/// Which rows to run: all, or those whose names contain one of the arguments.
#[derive(Debug, Clone)]
pub struct Wanted(Vec<String>);

impl Wanted {
    /// What the command line asks for; options are cargo's.
    #[must_use]
    pub fn from_args() -> Self {
        let parts = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
        Self(parts.collect())
    }

    /// Whether the row of this name is to run.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|part| name.contains(part.as_str()))
    }
}

/// Collects measurements and prints them.
#[derive(Debug, Default)]
pub struct Report(Vec<Measurement>);

impl Report {
    /// Adds the medians of interleaved rounds of (value, baseline).
    pub fn compare(&mut self, name: impl Into<String>, unit: &'static str, rounds: &[(f64, f64)]) {
        let of = |pick: fn(&(f64, f64)) -> f64| median(rounds.iter().map(pick).collect());
        self.0.push(Measurement {
            name: name.into(),
            value: of(|r| r.0),
            unit,
            baseline: Some(Baseline {
                value: of(|r| r.1),
                ratio: of(|r| r.0 / r.1),
            }),
        });
    }

    /// Adds the median of rounds that are compared with nothing.
    pub fn add(&mut self, name: impl Into<String>, unit: &'static str, rounds: Vec<f64>) {
        self.0.push(Measurement {
            name: name.into(),
            value: median(rounds),
            unit,
            baseline: None,
        });
    }

    /// Prints a table and appends JSON lines where [`JSON_VARIABLE`] says.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(&self) -> std::io::Result<()> {
        println!();
        println!(
            "| {:<32} | {:>12} | {:>12} | {:<6} | {:>7} |",
            "name", "sealed", "raw", "unit", "ratio"
        );
        println!(
            "|{:-<34}|{:->13}:|{:->13}:|{:-<8}|{:->8}:|",
            "", "", "", "", ""
        );
        for m in &self.0 {
            let (baseline, ratio) = match m.baseline {
                Some(b) => (shown(b.value), format!("{:.3}", b.ratio)),
                None => Default::default(),
            };
            println!(
                "| {:<32} | {:>12} | {:>12} | {:<6} | {:>7} |",
                m.name,
                shown(m.value),
                baseline,
                m.unit,
                ratio
            );
        }
        let Some(path) = std::env::var_os(JSON_VARIABLE) else {
            return Ok(());
        };
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        for m in &self.0 {
            let mut line = json!({ "name": m.name, "value": m.value, "unit": m.unit });
            if let (Some(b), Some(line)) = (m.baseline, line.as_object_mut()) {
                line.insert("baseline".to_owned(), b.value.into());
                line.insert("ratio".to_owned(), b.ratio.into());
            }
            writeln!(file, "{line}")?;
        }
        Ok(())
    }
}

/// A figure as people read it: what is small with a decimal.
fn shown(value: f64) -> String {
    match value.abs() < 100.0 && value.fract() != 0.0 {
        true => format!("{value:.1}"),
        false => format!("{value:.0}"),
    }
}

/// The middle of the values; of two middles their mean.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle.wrapping_sub(1)), values.get(middle)) {
        (Some(a), Some(b)) if values.len().is_multiple_of(2) => f64::midpoint(*a, *b),
        (_, Some(b)) => *b,
        _ => f64::NAN,
    }
}

/// Nanoseconds since `start`.
#[must_use]
pub fn nanos(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!((median(vec![7.0]) - 7.0).abs() < 1e-9);
        assert!(median(vec![]).is_nan());
    }
}
