//! Tables of what was measured, and whether the bars hold.

use crate::comparison::{Comparison, Flink};
use crate::measure::{QUIET_CORES, Window};

/// What was measured of one comparison; a side is missing when it was left out.
pub(crate) struct Outcome {
    /// The workload.
    pub(crate) comparison: &'static Comparison,
    /// Medians of the limit.
    pub(crate) limit: Option<Window>,
    /// Medians of the product.
    pub(crate) product: Option<Window>,
}

/// Prints the head of the table of comparisons.
pub(crate) fn head() {
    println!(
        "| Workload | Limit, M/s | Product, M/s | Ratio | Bar | CPU-s per M, limit / product | Peak MiB, limit / product | Holds |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
}

impl Outcome {
    /// Prints the row and says whether the bar holds.
    pub(crate) fn print(&self) -> bool {
        let both = self.limit.zip(self.product);
        let ratio = both.map(|(limit, product)| product.million_per_second / limit.million_per_second);
        let verdict = judge(ratio, self.comparison.bar);
        println!(
            "| {} | {} | {} | {} | {} | {} / {} | {} / {} | {} |",
            self.comparison.title,
            rate(self.limit),
            rate(self.product),
            show(ratio, 2),
            self.comparison.bar.map_or("information".to_owned(), |bar| format!("≥ {bar:.2}")),
            show(self.limit.map(|window| window.cpu_per_million), 4),
            show(self.product.map(|window| window.cpu_per_million), 4),
            show(self.limit.map(|window| window.peak_mib), 0),
            show(self.product.map(|window| window.peak_mib), 0),
            verdict.map_or("–", text),
        );
        for other_cores in [self.limit, self.product].into_iter().flatten().map(|window| window.other_cores) {
            if other_cores > QUIET_CORES {
                eprintln!(
                    "note: other processes used {other_cores:.2} cores; compare the CPU-s per M, or measure again"
                );
            }
        }
        verdict.unwrap_or(true)
    }
}

/// Prints how the product stands to Flink's figures and says whether the bars hold.
pub(crate) fn print_flink(outcomes: &[Outcome]) -> bool {
    let measured = |outcome: &Outcome| Some((outcome.comparison.title, outcome.comparison.flink?, outcome.product?));
    let rows: Vec<(&str, Flink, Window)> = outcomes.iter().filter_map(measured).collect();
    if rows.is_empty() {
        return true;
    }
    println!("\n| Workload | Flink 2.2.1, M/s | Product, M/s | Times | Bar | Holds |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut all = true;
    for (title, flink, product) in rows {
        let times = product.million_per_second / flink.million_per_second;
        let holds = times >= flink.times;
        all &= holds;
        println!(
            "| {title} | {:.1} | {:.1} | {times:.1} | ≥ {:.0} | {} |",
            flink.million_per_second,
            product.million_per_second,
            flink.times,
            text(holds)
        );
    }
    all
}

/// Prints the head of the table of limits nothing is compared with.
pub(crate) fn information_head() {
    println!("\n| For information: keyed count by hand, one process | Keys | M/s | CPU-s per M | Cores | Peak MiB |");
    println!("| --- | --- | --- | --- | --- | --- |");
}

/// Prints a row of that table.
pub(crate) fn information(title: &str, keys: u64, window: Window) {
    let Window { million_per_second, cpu_per_million, cores, peak_mib, .. } = window;
    println!("| {title} | {keys} | {million_per_second:.1} | {cpu_per_million:.4} | {cores:.2} | {peak_mib:.0} |");
}

/// Whether a ratio reaches its bar; nothing when one of them is missing.
fn judge(ratio: Option<f64>, bar: Option<f64>) -> Option<bool> {
    Some(ratio? >= bar?)
}

fn rate(window: Option<Window>) -> String {
    window.map_or("–".to_owned(), |window| format!("{:.1} ({:.2} cores)", window.million_per_second, window.cores))
}

fn show(figure: Option<f64>, digits: usize) -> String {
    figure.map_or("–".to_owned(), |figure| format!("{figure:.digits$}"))
}

fn text(holds: bool) -> &'static str {
    if holds { "yes" } else { "NO" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_judged_only_when_there_is_something_to_judge() {
        assert_eq!(judge(Some(0.7), Some(0.7)), Some(true));
        assert_eq!(judge(Some(0.69), Some(0.7)), Some(false));
        assert_eq!((judge(None, Some(0.7)), judge(Some(0.1), None)), (None, None));
    }
}
