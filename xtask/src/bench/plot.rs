//! The picture of growth in the documentation.

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use super::figures::{Figures, Row, float};
use super::table::rounded;

const SIZE: (u32, u32) = (900, 620);
/// The rows in the picture: those whose sizes are numbers of Services, without their variants.
const ROWS: [&str; 10] = [
    "decode-json",
    "decode-protobuf",
    "manifests",
    "store-and-desired",
    "plan-ipvs",
    "plan-nftables",
    "plan-iptables",
    "manifest-edit",
    "change-iptables",
    "change-nftables",
];

/// Instructions by the number of Services, both logarithmic, as SVG.
pub(super) fn plot(figures: &Figures) -> Result<String> {
    let rows: Vec<&Row> = ROWS.iter().filter_map(|name| figures.row(name)).collect();
    let samples = || rows.iter().flat_map(|row| &row.samples);
    let extremes = |of: fn(&super::figures::Sample) -> u64| {
        let values = || samples().map(of);
        let (least, most) = (values().min(), values().max());
        least
            .zip(most)
            .map(|(least, most)| (float(least), float(most)))
    };
    let (x_from, x_to) =
        extremes(|sample| sample.size.count).context("no row of the picture was measured")?;
    let (y_from, y_to) =
        extremes(|sample| sample.figures.work).context("no row of the picture was measured")?;
    let mut text = String::new();
    draw(
        &rows,
        (x_from, x_to * 1.1),
        // With room for the names above the lines.
        (y_from / 2.0, y_to * 60.0),
        &mut text,
    )
    .map_err(|error| anyhow!("cannot draw the picture: {error}"))?;
    Ok(text)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(rows: &[&Row], x: (f64, f64), y: (f64, f64), text: &mut String) -> Drawn {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(15)
        .x_label_area_size(45)
        .y_label_area_size(75)
        .right_y_label_area_size(0)
        .build_cartesian_2d((x.0..x.1).log_scale(), (y.0..y.1).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("Services with three endpoints")
        .y_desc("instructions")
        .x_label_formatter(&|value| short(*value))
        .axis_desc_style(("sans-serif", 16))
        .label_style(("sans-serif", 14))
        .y_label_formatter(&|value| short(*value))
        .light_line_style(WHITE)
        .draw()?;
    for (place, row) in rows.iter().enumerate() {
        let color = Palette99::pick(place).stroke_width(2);
        let points = row.samples.iter();
        let points: Vec<_> = points
            .map(|sample| (float(sample.size.count), float(sample.figures.work)))
            .collect();
        let exponent = rounded(row.exponent().unwrap_or_default());
        chart
            .draw_series(LineSeries::new(points, color).point_size(3))?
            .label(format!("{}: exponent {exponent}", row.row))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .label_font(("sans-serif", 14))
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

/// A number as people write it: 20k, 5M.
fn short(value: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let unit = units.into_iter().find(|(unit, _)| value >= *unit);
    match unit {
        Some((unit, name)) => format!("{:.0}{name}", value / unit),
        None => format!("{value:.0}"),
    }
}
