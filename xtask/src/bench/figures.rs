//! The figures of `benches/growth`: what was measured, and which goals hold.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Figures that differ by more than this part of themselves from the baseline are marked. Two runs differ by
/// up to 2 percent, and a newer compiler by more.
const TOLERANCE: f64 = 0.05;

/// The measured rows, by name, in the order of the program.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    /// What they were measured with.
    pub(super) machine: String,
    pub(super) rows: Vec<Row>,
}

/// A row at all its sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) row: String,
    pub(super) about: String,
    /// What the sizes count.
    pub(super) of: String,
    pub(super) goal: Goal,
    pub(super) samples: Vec<Sample>,
    /// Why there are no samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<String>,
    /// Whether it could have been measured.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) failed: bool,
}

fn is_false(is: &bool) -> bool {
    !is
}

/// What should hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "limit")]
pub(super) enum Goal {
    /// At most so many times the raw work.
    Ratio(f64),
    /// At the largest size at most so many times the work at the smallest.
    Flat(f64),
    /// The fitted exponent is at most this.
    Linear(f64),
    /// At most so many bytes at each size.
    Memory(Vec<u64>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) size: Size,
    pub(super) figures: Cost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Size {
    pub(super) count: u64,
    pub(super) endpoints: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Cost {
    /// Instructions.
    pub(super) work: u64,
    pub(super) allocations: u64,
    /// Bytes.
    pub(super) peak: u64,
    pub(super) kept: u64,
    pub(super) raw: Option<u64>,
    pub(super) resident: Option<u64>,
}

/// A line of the program.
#[derive(Deserialize)]
struct Line {
    row: String,
    about: String,
    of: String,
    goal: Goal,
    sample: Option<Sample>,
    skipped: Option<String>,
    failed: Option<String>,
}

impl Figures {
    /// Adds a line of the program's output.
    pub(super) fn add(&mut self, line: &str) -> Result<()> {
        let line: Line = serde_json::from_str(line)
            .with_context(|| format!("the benchmark printed something else: {line}"))?;
        if self.rows.last().is_none_or(|row| row.row != line.row) {
            self.rows.push(Row {
                row: line.row,
                about: line.about,
                of: line.of,
                goal: line.goal,
                samples: Vec::new(),
                missing: None,
                failed: false,
            });
        }
        let row = self.rows.last_mut().context("no row")?;
        row.failed = line.failed.is_some();
        row.missing = line.failed.or(line.skipped);
        row.samples.extend(line.sample);
        Ok(())
    }

    pub(super) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.row == name)
    }

    /// Replaces the rows that were measured completely; the others stay.
    pub(super) fn update(&mut self, new: &Self) {
        self.machine.clone_from(&new.machine);
        for row in new.rows.iter().filter(|row| row.missing.is_none()) {
            match self.rows.iter_mut().find(|old| old.row == row.row) {
                Some(old) => old.clone_from(row),
                None => self.rows.push(row.clone()),
            }
        }
    }

    /// The goals that held in a baseline and do not any more, and the rows that failed.
    pub(super) fn losses<'a>(&'a self, baseline: &'a Self) -> Vec<&'a str> {
        let held: BTreeMap<_, _> = baseline.rows.iter().map(|row| (&row.row, row)).collect();
        let lost = self.rows.iter().filter(|row| {
            let before = held.get(&row.row).and_then(|before| before.holds());
            row.failed || (before == Some(true) && row.holds() == Some(false))
        });
        lost.map(|row| row.row.as_str()).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

impl Row {
    /// The ratio to the raw work, at each size.
    pub(super) fn ratios(&self) -> Vec<f64> {
        let ratio = |sample: &Sample| {
            let raw = sample.figures.raw?;
            Some(float(sample.figures.work) / float(raw.max(1)))
        };
        self.samples.iter().filter_map(ratio).collect()
    }

    /// The work at the largest size in multiples of that at the smallest.
    pub(super) fn growth(&self) -> Option<f64> {
        let (first, last) = (self.samples.first()?, self.samples.last()?);
        Some(float(last.figures.work) / float(first.figures.work.max(1)))
    }

    /// The exponent of the work by the size: least squares of the logarithms. `None` without three sizes
    /// that differ in the same number.
    pub(super) fn exponent(&self) -> Option<f64> {
        let first = self.samples.first()?;
        let alike = |sample: &&Sample| sample.size.endpoints == first.size.endpoints;
        let samples: Vec<_> = self.samples.iter().filter(alike).collect();
        if samples.len() < 3 || samples.iter().any(|sample| sample.figures.work == 0) {
            return None;
        }
        let point = |sample: &&Sample| {
            let (x, y) = (float(sample.size.count), float(sample.figures.work));
            (x.ln(), y.ln())
        };
        let points: Vec<_> = samples.iter().map(point).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| {
            points.iter().map(of).sum::<f64>() / float(u64::try_from(points.len()).unwrap_or(1))
        };
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let covariance: f64 = points
            .iter()
            .map(|point| (point.0 - x) * (point.1 - y))
            .sum();
        let variance: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
        Some(covariance / variance)
    }

    /// Whether the goal holds. `None` without figures.
    pub(super) fn holds(&self) -> Option<bool> {
        if self.samples.is_empty() || self.missing.is_some() {
            return None;
        }
        match &self.goal {
            Goal::Ratio(limit) => Some(self.ratios().iter().all(|ratio| ratio <= limit)),
            Goal::Flat(limit) => Some(self.growth()? <= *limit),
            Goal::Linear(limit) => Some(self.exponent()? <= *limit),
            Goal::Memory(limits) => {
                let resident = self.samples.iter().map(|sample| sample.figures.resident);
                let mut pairs = resident.zip(limits);
                Some(pairs.all(|(resident, limit)| resident.is_some_and(|bytes| bytes <= *limit)))
            }
        }
    }

    /// The largest difference from a baseline, as a part of it: of the ratios if there are some, else of the
    /// work or of the memory. `None` if it is within the tolerance.
    pub(super) fn difference(&self, baseline: &Self) -> Option<f64> {
        let figures = |row: &Self| -> Vec<f64> {
            let ratios = row.ratios();
            match ratios.is_empty() {
                true => {
                    let figure =
                        |sample: &Sample| sample.figures.resident.unwrap_or(sample.figures.work);
                    row.samples
                        .iter()
                        .map(|sample| float(figure(sample)))
                        .collect()
                }
                false => ratios,
            }
        };
        let pairs = figures(self).into_iter().zip(figures(baseline));
        let differences = pairs.map(|(new, old)| new / old - 1.0);
        let largest = differences.max_by(|a, b| a.abs().total_cmp(&b.abs()))?;
        (largest.abs() > TOLERANCE).then_some(largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(goal: Goal, works: [u64; 3]) -> Row {
        let sample = |(count, work)| Sample {
            size: Size {
                count,
                endpoints: 3,
            },
            figures: Cost {
                work,
                raw: Some(100),
                ..Cost::default()
            },
        };
        Row {
            row: "a".into(),
            about: String::new(),
            of: String::new(),
            goal,
            samples: [10, 100, 1_000]
                .into_iter()
                .zip(works)
                .map(sample)
                .collect(),
            missing: None,
            failed: false,
        }
    }

    #[test]
    fn exponents_are_fitted() {
        for (works, exponent) in [
            ([7, 7, 7], 0.0),
            ([1, 10, 100], 1.0),
            ([1, 100, 10_000], 2.0),
        ] {
            let fitted = row(Goal::Linear(1.0), works).exponent().unwrap();
            assert!((fitted - exponent).abs() < 1e-9, "{fitted}");
        }
        // Fixed costs beside linear ones.
        let fitted = row(Goal::Linear(1.0), [110, 200, 1_100])
            .exponent()
            .unwrap();
        assert!((fitted - 0.5).abs() < 1e-9, "{fitted}");
    }

    #[test]
    fn goals_are_judged() {
        assert_eq!(row(Goal::Flat(1.2), [10, 20, 12]).holds(), Some(true));
        assert_eq!(row(Goal::Flat(1.2), [10, 10, 13]).holds(), Some(false));
        assert_eq!(row(Goal::Linear(1.1), [10, 100, 1_000]).holds(), Some(true));
        assert_eq!(
            row(Goal::Linear(1.1), [10, 200, 3_000]).holds(),
            Some(false)
        );
        assert_eq!(row(Goal::Ratio(1.3), [100, 120, 130]).holds(), Some(true));
        assert_eq!(row(Goal::Ratio(1.3), [100, 131, 100]).holds(), Some(false));
        let mut memory = row(Goal::Memory(vec![5, 6, 7]), [0; 3]);
        assert_eq!(memory.holds(), Some(false), "nothing was measured");
        for (sample, bytes) in memory.samples.iter_mut().zip([5, 6, 7]) {
            sample.figures.resident = Some(bytes);
        }
        assert_eq!(memory.holds(), Some(true));
    }

    #[test]
    fn a_goal_that_held_is_lost() {
        let figures = |works| Figures {
            machine: String::new(),
            rows: vec![row(Goal::Ratio(1.3), works)],
        };
        let (good, bad) = (figures([100; 3]), figures([140; 3]));
        assert_eq!(bad.losses(&good), ["a"]);
        assert!(bad.losses(&bad).is_empty(), "it did not hold before");
        assert!(good.losses(&bad).is_empty());
        let difference = bad.rows[0].difference(&good.rows[0]).unwrap();
        assert!((difference - 0.4).abs() < 1e-9);
        assert_eq!(figures([104; 3]).rows[0].difference(&good.rows[0]), None);
    }

    #[test]
    fn lines_become_rows() {
        let mut figures = Figures::default();
        let head = r#""row":"a","about":"b","of":"c","goal":{"kind":"flat","limit":1.2}"#;
        let sample = r#""sample":{"size":{"count":1,"endpoints":3},
            "figures":{"work":1,"allocations":2,"peak":3,"kept":4,"raw":null,"resident":null}}"#;
        figures.add(&format!("{{{head},{sample}}}")).unwrap();
        figures.add(&format!("{{{head},{sample}}}")).unwrap();
        assert_eq!(figures.rows[0].samples.len(), 2);
        figures
            .add(&format!("{{{head},\"failed\":\"why\"}}"))
            .unwrap();
        assert_eq!(figures.rows[0].samples.len(), 2);
        assert_eq!(figures.rows[0].holds(), None);
        assert_eq!(figures.losses(&Figures::default()), ["a"]);
        assert!(figures.add("nothing").is_err());
    }
}
