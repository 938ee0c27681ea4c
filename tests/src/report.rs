//! A table of what was asked and what was seen, for programs that measure.

use std::fmt;
use std::process::ExitCode;

/// Rows of one run.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    bar: String,
    seen: String,
    verdict: Verdict,
}

/// What a row says about its bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Holds,
    Missed,
    /// There is a bar and nothing to hold against it: not passed.
    Unmeasured,
    /// There is no bar.
    Information,
}

impl Report {
    /// Adds a row: what, the bar, what was measured, whether it holds.
    pub fn row(&mut self, what: impl Into<String>, bar: impl Into<String>, seen: impl Into<String>, holds: bool) {
        self.add(what.into(), bar.into(), seen.into(), if holds { Verdict::Holds } else { Verdict::Missed });
    }

    /// Adds a row that has a bar and could not be measured, with the reason. It does not count as passed.
    pub fn unmeasured(&mut self, what: impl Into<String>, bar: impl Into<String>, why: impl fmt::Display) {
        self.add(what.into(), bar.into(), format!("not measured: {why}"), Verdict::Unmeasured);
    }

    /// Adds a row without a bar.
    pub fn information(&mut self, what: impl Into<String>, seen: impl Into<String>) {
        self.add(what.into(), "–".to_owned(), seen.into(), Verdict::Information);
    }

    fn add(&mut self, what: String, bar: String, seen: String, verdict: Verdict) {
        self.rows.push(Row { what, bar, seen, verdict });
    }

    /// Whether every row that has a bar was measured and holds.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(|row| matches!(row.verdict, Verdict::Holds | Verdict::Information))
    }

    /// Prints the table; the exit code is 0 when every row that has a bar holds, else 1.
    pub fn finish(self) -> ExitCode {
        print!("{self}");
        if self.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| What | Bar | Measured | Holds |\n| --- | --- | --- | --- |")?;
        for Row { what, bar, seen, verdict } in &self.rows {
            let holds = match verdict {
                Verdict::Holds => "yes",
                Verdict::Missed => "NO",
                Verdict::Unmeasured => "not measured",
                Verdict::Information => "–",
            };
            writeln!(f, "| {what} | {bar} | {seen} | {holds} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_measured_bars_can_hold() {
        let mut report = Report::default();
        report.information("speed", "7");
        report.row("gap", "≤ 2 ms", "1 ms", true);
        assert!(report.holds());
        let mut missed = Report::default();
        missed.row("gap", "≤ 2 ms", "3 ms", false);
        assert!(!missed.holds());
        report.unmeasured("beside", "no slower", "it is not installed");
        assert!(!report.holds());
        let table = report.to_string();
        assert_eq!(table.lines().nth(2), Some("| speed | – | 7 | – |"));
        assert_eq!(
            table.lines().nth(4),
            Some("| beside | no slower | not measured: it is not installed | not measured |")
        );
    }
}
