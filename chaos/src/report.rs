//! A table of what was asked and what was seen.

use std::process::ExitCode;

/// Rows of one run.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<(String, String, String, bool)>,
}

impl Report {
    /// Adds a row: what, the bar, what was measured, whether it holds.
    pub(crate) fn row(
        &mut self,
        what: impl Into<String>,
        bar: impl Into<String>,
        seen: impl Into<String>,
        holds: bool,
    ) {
        self.rows.push((what.into(), bar.into(), seen.into(), holds));
    }

    /// Prints the table; the exit code is 0 when every row holds.
    pub(crate) fn finish(self) -> ExitCode {
        println!("| What | Bar | Measured | Holds |\n| --- | --- | --- | --- |");
        for (what, bar, seen, holds) in &self.rows {
            println!("| {what} | {bar} | {seen} | {} |", if *holds { "yes" } else { "NO" });
        }
        if self.rows.iter().all(|row| row.3) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
