//! Line plots as SVG text.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// One line: its name and its points.
pub(super) type Line = (String, Vec<(f64, f64)>);

/// A plot of several lines. Both axes are logarithmic: sizes and counts go over decades, and so do times.
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) lines: Vec<Line>,
}

const SIZE: (u32, u32) = (760, 420);
/// Told apart also by those who do not see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(150, 110, 20),
];

impl Plot {
    /// The SVG; none if there is no point to show.
    pub(super) fn svg(&self) -> Result<Option<String>> {
        let points = || self.lines.iter().flat_map(|(_, points)| points).copied();
        let usable = |(x, y): &(f64, f64)| *x > 0.0 && *y > 0.0 && x.is_finite() && y.is_finite();
        if !points().any(|point| usable(&point)) {
            return Ok(None);
        }
        let range = |of: fn((f64, f64)) -> f64| {
            let values = points().filter(usable).map(of);
            let (low, high) = values.fold((f64::MAX, 0.0_f64), |(low, high), value| {
                (low.min(value), high.max(value))
            });
            // A single point still wants an axis.
            (low / 1.3)..(high * 1.3)
        };
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            self.draw(
                &area,
                range(|(x, _)| x).log_scale(),
                range(|(_, y)| y).log_scale(),
            )
            .map_err(|error| anyhow!("plotting {:?}: {error}", self.title))?;
        }
        Ok(Some(text))
    }

    fn draw<X, Y>(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        x: X,
        y: Y,
    ) -> Result<(), Box<dyn std::error::Error>>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .light_line_style(WHITE.mix(0.0))
            .draw()?;
        for (number, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let mut points = points.clone();
            points.sort_by(|one, other| one.0.total_cmp(&other.0));
            chart
                .draw_series(LineSeries::new(
                    points.iter().copied(),
                    colour.stroke_width(2),
                ))?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
            chart.draw_series(
                points
                    .iter()
                    .map(|point| Circle::new(*point, 3, colour.filled())),
            )?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
        Ok(())
    }
}

/// 1024 → `1k`, 0.25 → `0.25`.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", round(value / 1e6)),
        value if value >= 1e3 => format!("{}k", round(value / 1e3)),
        value => round(value),
    }
}

fn round(value: f64) -> String {
    let text = if value >= 10.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_names_its_lines_and_axes() {
        let plot = Plot {
            title: "a title".to_owned(),
            x: "an x axis",
            y: "a y axis",
            lines: vec![("a line".to_owned(), vec![(1.0, 2.0), (1024.0, 3.0)])],
        };
        let svg = plot.svg().unwrap().unwrap();
        for text in ["<svg", "a title", "an x axis", "a y axis", "a line"] {
            assert!(svg.contains(text), "no {text:?}");
        }
    }

    #[test]
    fn nothing_is_not_plotted() {
        let plot = Plot {
            title: String::new(),
            x: "",
            y: "",
            lines: vec![("none".to_owned(), Vec::new())],
        };
        assert!(plot.svg().unwrap().is_none());
    }

    #[test]
    fn labels_are_short() {
        assert_eq!(
            [0.25, 1.0, 12.3, 1024.0, 1e6].map(short),
            ["0.25", "1", "12", "1.02k", "1M"]
        );
    }
}
