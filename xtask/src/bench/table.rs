//! The table of all rows.

use std::fmt::Write as _;

use super::figures::{Figures, Goal, Row, float};

/// All rows as a table in Markdown.
pub(super) fn table(figures: &Figures, baseline: Option<&Figures>) -> String {
    let mut table = "| row | sizes | instructions | exponent | ratio | goal | holds |".to_owned();
    let mut rule = "\n| --- | --- | --- | --- | --- | --- | --- |".to_owned();
    if baseline.is_some() {
        table.push_str(" against the baseline |");
        rule.push_str(" --- |");
    }
    table.push_str(&rule);
    table.push('\n');
    for row in &figures.rows {
        let _ = write!(table, "{}", line(row));
        if let Some(baseline) = baseline {
            let _ = write!(table, " {} |", against(row, baseline.row(&row.row)));
        }
        table.push('\n');
    }
    table.push('\n');
    for row in &figures.rows {
        let _ = writeln!(table, "- `{}`: {}", row.row, row.about);
    }
    table
}

/// How much a row differs from the baseline.
fn against(row: &Row, before: Option<&Row>) -> String {
    match before.map(|before| row.difference(before)) {
        None => String::new(),
        Some(None) => "same".to_owned(),
        Some(Some(difference)) => format!("{:+.0} %", 100.0 * difference),
    }
}

fn line(row: &Row) -> String {
    let name = &row.row;
    if let Some(missing) = &row.missing {
        let what = if row.failed { "failed" } else { "skipped" };
        return format!(
            "| `{name}` | | {what}: {missing} | | | {} | |",
            goal(&row.goal)
        );
    }
    let sizes = row.samples.iter().map(|sample| match &row.goal {
        Goal::Memory(_) => {
            let (count, endpoints) = (grouped(sample.size.count), sample.size.endpoints);
            format!("{count} × {endpoints}")
        }
        _ => grouped(sample.size.count),
    });
    let sizes = format!("{} {}", sizes.collect::<Vec<_>>().join(", "), row.of);
    let exponent = row.exponent().map(rounded);
    let ratios = match &row.goal {
        Goal::Flat(_) => row.growth().into_iter().collect(),
        _ => row.ratios(),
    };
    let ratios: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    let holds = match row.holds() {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "",
    };
    format!(
        "| `{name}` | {sizes} | {} | {} | {} | {} | {holds} |",
        work(row),
        exponent.unwrap_or_default(),
        ratios.join(", "),
        goal(&row.goal),
    )
}

/// Two places, without a negative zero.
pub(super) fn rounded(value: f64) -> String {
    format!("{:.2}", (100.0 * value).round() / 100.0 + 0.0)
}

fn goal(goal: &Goal) -> String {
    match goal {
        Goal::Ratio(limit) => format!("at most {limit} times"),
        Goal::Flat(limit) => format!("at most {limit} times, last to first"),
        Goal::Linear(limit) => format!("exponent at most {limit}"),
        Goal::Memory(limits) => {
            let limits: Vec<_> = limits.iter().map(|limit| megabytes(*limit)).collect();
            format!("at most {} MB", limits.join(", "))
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0}", float(bytes) / 1e6)
}

/// The work at each size in a common unit.
fn work(row: &Row) -> String {
    if row
        .samples
        .iter()
        .any(|sample| sample.figures.resident.is_some())
    {
        let resident = row
            .samples
            .iter()
            .filter_map(|sample| sample.figures.resident);
        let resident: Vec<_> = resident.map(megabytes).collect();
        return format!("{} MB", resident.join(", "));
    }
    let works: Vec<_> = row
        .samples
        .iter()
        .map(|sample| float(sample.figures.work))
        .collect();
    let least = works.iter().copied().fold(f64::INFINITY, f64::min);
    let (unit, name) = match least {
        least if least >= 1e6 => (1e6, "million"),
        least if least >= 1e3 => (1e3, "thousand"),
        _ => (1.0, ""),
    };
    let works = works.iter().map(|work| match work / unit {
        work if work < 100.0 => format!("{work:.1}"),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive"
        )]
        work => grouped(work.round() as u64),
    });
    let works: Vec<_> = works.collect();
    format!("{} {name}", works.join("; ")).trim_end().to_owned()
}

/// A number with a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Cost, Sample, Size};
    use super::*;

    #[test]
    fn a_row_shows_its_figures_and_whether_the_goal_holds() {
        let sample = |count: u64, work| Sample {
            size: Size {
                count,
                endpoints: 3,
            },
            figures: Cost {
                work,
                raw: Some(1_000_000),
                ..Cost::default()
            },
        };
        let mut row = Row {
            row: "cold".into(),
            about: "a cold start".into(),
            of: "Services × 3".into(),
            goal: Goal::Ratio(1.3),
            samples: vec![sample(1_000, 1_200_000), sample(1_234_567, 123_456_789_000)],
            missing: None,
            failed: false,
        };
        assert_eq!(against(&row, None), "");
        assert_eq!(against(&row, Some(&row.clone())), "same");
        assert_eq!(
            line(&row),
            "| `cold` | 1,000, 1,234,567 Services × 3 | 1.2; 123,457 million |  | 1.20, 123456.79 | \
             at most 1.3 times | **no** |"
        );
        row.missing = Some("no root".into());
        let skipped = "| `cold` | | skipped: no root | | | at most 1.3 times | |";
        assert_eq!(line(&row), skipped);
    }
}
