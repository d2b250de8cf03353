//! The table and the ratios: medians over the rounds.
//! Not here: taking the samples (`main`).

use std::time::Duration;

use crate::load::Size;

/// One round of one row in one cell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub calls_per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    /// CPU of the process tree for one call, in µs.
    pub cpu_us: f64,
    /// Of that, what its children took, in µs.
    pub child_us: f64,
    /// Resident memory at the end and at its highest, in MiB.
    pub resident_mib: f64,
    pub peak_mib: f64,
}

/// All samples of one row in one cell.
pub(crate) struct Cell {
    pub row: String,
    pub connections: usize,
    pub size: Size,
    pub samples: Vec<Sample>,
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}

impl Cell {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of).collect())
    }

    fn cpu_us(&self) -> f64 {
        self.median(|sample| sample.cpu_us)
    }
}

/// Prints every group of cells with the same load, with ratios to nginx and the bare proxy.
pub(crate) fn print(cells: &[Cell]) {
    let mut groups: Vec<(Size, usize)> = Vec::new();
    for cell in cells {
        if !groups.contains(&(cell.size, cell.connections)) {
            groups.push((cell.size, cell.connections));
        }
    }
    for (size, connections) in groups {
        let group: Vec<&Cell> =
            cells.iter().filter(|cell| cell.size == size && cell.connections == connections).collect();
        let cpu_of = |name: &str| group.iter().find(|cell| cell.row == name).map(|cell| cell.cpu_us());
        let (nginx, bare) = (cpu_of("nginx"), cpu_of("bare-pingora"));
        let what = match size {
            Size::Small => "300-byte call",
            Size::Large => "16-KiB argument",
        };
        println!("\n{what}, {connections} connection(s)");
        println!(
            "  {:<20} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>9} {:>9}",
            "", "calls/s", "p50 µs", "p99 µs", "CPU µs", "(child)", "÷nginx", "÷bare", "RSS MiB", "peak MiB"
        );
        for cell in &group {
            println!(
                "  {:<20} {:>9.0} {:>9.0} {:>9.0} {:>9.1} {:>9} {:>8} {:>8} {:>9.1} {:>9.1}",
                cell.row,
                cell.median(|sample| sample.calls_per_second),
                cell.median(|sample| sample.p50.as_secs_f64() * 1e6),
                cell.median(|sample| sample.p99.as_secs_f64() * 1e6),
                cell.cpu_us(),
                child(cell.median(|sample| sample.child_us)),
                ratio(cell.cpu_us(), nginx),
                ratio(cell.cpu_us(), bare),
                cell.median(|sample| sample.resident_mib),
                cell.median(|sample| sample.peak_mib),
            );
        }
    }
    verdict(cells);
}

fn child(micros: f64) -> String {
    if micros > 0.0 { format!("{micros:.1}") } else { String::new() }
}

fn ratio(value: f64, to: Option<f64>) -> String {
    to.filter(|to| *to > 0.0).map_or_else(String::new, |to| format!("{:.2}×", value / to))
}

/// The promises about cost, each with its figure.
fn verdict(cells: &[Cell]) {
    let find = |row: &str, connections: usize| {
        cells
            .iter()
            .find(|cell| cell.row == row && cell.connections == connections && cell.size == Size::Small)
    };
    println!();
    if let (Some(tollgate), Some(bare)) = (find("tollgate", 32), find("bare-pingora", 32)) {
        println!(
            "CPU per call, 300 bytes, 32 connections: Tollgate {:.1} µs, bare Pingora {:.1} µs: {} (promised: at most 1.10×)",
            tollgate.cpu_us(),
            bare.cpu_us(),
            ratio(tollgate.cpu_us(), Some(bare.cpu_us()))
        );
    }
    if let Some(open) = find("tollgate-open", 32) {
        let promised = [("tollgate-locked", "an API key", 4), ("tollgate-rs256", "an RS256 token", 10)];
        for (row, what, most) in promised {
            if let Some(cell) = find(row, 32) {
                let more = cell.cpu_us() - open.cpu_us();
                println!(
                    "Admission with {what}, 50 rules and all limits: {more:.1} µs more (promised: at most {most} µs)"
                );
            }
        }
    }
    if let Some(tollgate) = find("tollgate", 512) {
        let peak = tollgate.median(|sample| sample.peak_mib);
        println!("Resident memory at 512 connections: {peak:.1} MiB at its peak (promised: at most 60 MiB)");
    }
}
