//! What was sampled over a run: whether it grows, and a picture of it.
//! Not here: what is sampled (`endure`).

use std::path::Path;

use plotters::prelude::{
    BLUE, ChartBuilder, Color as _, GREEN, IntoDrawingArea as _, LineSeries, MAGENTA, RED, RGBColor,
    SVGBackend, WHITE,
};

use crate::Failure;

/// What the gateway was at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) resident_mib: f64,
    pub(crate) descriptors: f64,
    pub(crate) children: f64,
    pub(crate) threads: f64,
}

/// A name, what is drawn, and its colour.
type Panel = (&'static str, fn(&Sample) -> f64, RGBColor);

const PANELS: [Panel; 4] = [
    ("resident memory, MiB", |sample| sample.resident_mib, BLUE),
    ("open descriptors", |sample| sample.descriptors, GREEN),
    ("children", |sample| sample.children, RED),
    ("threads", |sample| sample.threads, MAGENTA),
];

/// How resident memory grows, in percent of its mean in an hour: the line of least squares.
pub(crate) fn growth_an_hour(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    if samples.len() < 2 {
        return f64::INFINITY;
    }
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (time, memory) = (mean(|sample| sample.seconds), mean(|sample| sample.resident_mib));
    let together: f64 = samples.iter().map(|it| (it.seconds - time) * (it.resident_mib - memory)).sum();
    let spread: f64 = samples.iter().map(|it| (it.seconds - time).powi(2)).sum();
    together / spread * 3600.0 / memory * 100.0
}

/// The middle one.
pub(crate) fn median(samples: Option<&[Sample]>, of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.unwrap_or_default().iter().map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Draws the samples as an SVG image.
pub(crate) fn draw(file: &Path, samples: &[Sample]) -> Result<(), Failure> {
    let area = SVGBackend::new(file, (1000, 1000)).into_drawing_area();
    area.fill(&WHITE)?;
    let end = samples.last().map_or(1.0, |sample| sample.seconds / 60.0);
    for (panel, (title, of, colour)) in area.split_evenly((PANELS.len(), 1)).iter().zip(PANELS) {
        let most = samples.iter().map(of).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(panel)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(24)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..end, 0.0..most * 1.1)?;
        chart.configure_mesh().x_desc("minutes").draw()?;
        chart.draw_series(LineSeries::new(
            samples.iter().map(|sample| (sample.seconds / 60.0, of(sample))),
            colour.stroke_width(1),
        ))?;
    }
    area.present()?;
    Ok(())
}
