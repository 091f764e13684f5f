//! What the benchmarks share: rounds, medians, and how results are reported.
//!
//! Every figure is measured beside its baseline in the same run, in interleaved
//! rounds, and quoted as the median of the rounds: machines are noisy.

use std::fs::OpenOptions;
use std::io::Write as _;

use serde_json::json;

/// Variable that names a file to which each result is appended as a JSON line.
pub const JSON_VARIABLE: &str = "BULLA_BENCH_JSON";

/// One figure beside its baseline.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Stable name, for example `pubsub.signed.256`.
    pub name: String,
    /// What was measured.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The baseline in the same unit.
    pub baseline: f64,
    /// `value / baseline`, median over the rounds.
    pub ratio: f64,
}

/// Collects measurements and prints them.
#[derive(Debug, Default)]
pub struct Report(Vec<Measurement>);

impl Report {
    /// Adds the medians of interleaved rounds of (value, baseline).
    pub fn add(&mut self, name: impl Into<String>, unit: &'static str, rounds: &[(f64, f64)]) {
        let of = |pick: fn(&(f64, f64)) -> f64| median(rounds.iter().map(pick).collect());
        self.0.push(Measurement {
            name: name.into(),
            value: of(|r| r.0),
            unit,
            baseline: of(|r| r.1),
            ratio: of(|r| r.0 / r.1),
        });
    }

    /// Prints a table and appends JSON lines where [`JSON_VARIABLE`] says.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(&self) -> std::io::Result<()> {
        println!();
        println!(
            "| {:<20} | {:>12} | {:>12} | {:<6} | {:>7} |",
            "name", "sealed", "raw", "unit", "ratio"
        );
        println!(
            "|{:-<22}|{:->13}:|{:->13}:|{:-<8}|{:->8}:|",
            "", "", "", "", ""
        );
        for m in &self.0 {
            println!(
                "| {:<20} | {:>12.0} | {:>12.0} | {:<6} | {:>7.3} |",
                m.name, m.value, m.baseline, m.unit, m.ratio
            );
        }
        let Some(path) = std::env::var_os(JSON_VARIABLE) else {
            return Ok(());
        };
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        for m in &self.0 {
            let line = json!({
                "name": m.name, "value": m.value, "unit": m.unit,
                "baseline": m.baseline, "ratio": m.ratio,
            });
            writeln!(file, "{line}")?;
        }
        Ok(())
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
