//! What was measured, as rows of a table and as JSON.

use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::command::eval::measure::Estimate;

/// Between the columns of the table.
const GAP: &str = "  ";

/// What one part measured.
#[derive(Debug, Default, Serialize)]
pub struct Section {
    /// Its figures; none when what was given holds nothing to measure.
    pub rows: Vec<Row>,
    /// What the table has no room for.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// One figure.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured, and on what.
    pub measure: String,
    /// The figure.
    #[serde(flatten)]
    pub value: Estimate,
    /// What it stands beside.
    pub beside: Vec<Beside>,
    /// What it must reach, in words.
    pub aim: &'static str,
    /// Digits after the point in the table.
    #[serde(skip)]
    digits: usize,
}

/// The same measure of something else.
#[derive(Debug, Serialize)]
pub struct Beside {
    /// Of what.
    pub name: &'static str,
    /// The figure.
    pub value: f64,
}

impl Row {
    /// Returns a row of a share, or of another figure that wants three digits.
    pub fn new(measure: impl Into<String>, value: Estimate) -> Row {
        Row { measure: measure.into(), value, beside: Vec::new(), aim: "", digits: 3 }
    }

    /// Adds what it stands beside.
    pub fn beside(mut self, name: &'static str, value: f64) -> Row {
        self.beside.push(Beside { name, value });
        self
    }

    /// Says what it must reach.
    pub fn aim(mut self, aim: &'static str) -> Row {
        self.aim = aim;
        self
    }

    /// Says how many digits after the point it is shown with.
    pub fn digits(mut self, digits: usize) -> Row {
        self.digits = digits;
        self
    }

    fn cells(&self) -> [String; 5] {
        let digits = self.digits;
        let Estimate { value, low, high, .. } = self.value;
        let beside: Vec<String> =
            self.beside.iter().map(|b| format!("{} {:.digits$}", b.name, b.value)).collect();
        [
            self.measure.clone(),
            format!("{value:.digits$}"),
            format!("{low:.digits$} – {high:.digits$}"),
            beside.join(", "),
            self.aim.to_owned(),
        ]
    }
}

/// What all parts measured: name, and section or why there is none.
pub type Parts = Vec<(&'static str, Result<Section, String>)>;

/// Returns the parts as one JSON object each.
pub fn json(parts: &Parts) -> Value {
    let part = |(name, result): &(&'static str, Result<Section, String>)| {
        let value = match result {
            Ok(section) => json!(section),
            Err(error) => json!({ "error": error }),
        };
        ((*name).to_owned(), value)
    };
    Value::Object(parts.iter().map(part).collect())
}

/// Returns the table, a line a figure.
pub fn table(parts: &Parts) -> String {
    let head = ["measure", "value", "95 % interval", "beside", "aim"].map(str::to_owned);
    let rows = parts.iter().flat_map(|(_, result)| result.iter()).flat_map(|section| &section.rows);
    let cells: Vec<[String; 5]> = std::iter::once(head).chain(rows.map(Row::cells)).collect();
    let mut widths = [0; 5];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for row in &cells {
        let padded: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        lines.push(padded.join(GAP).trim_end().to_owned());
    }
    for (name, result) in parts {
        match result {
            Ok(section) if section.rows.is_empty() => {
                lines.push(format!("{name}: what was given holds nothing to measure"));
            }
            Ok(_) => {}
            Err(error) => lines.push(format!("{name}: not measured: {error}")),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let value = Estimate { value: 0.5, low: 0.25, high: 0.75, units: 4 };
        let row = Row::new("emotion, service: macro-F1", value).beside("majority", 0.08).aim("0.64");
        let passes = Row::new("passes", Estimate { value: 12.0, ..value }).digits(1);
        vec![
            ("emotion", Ok(Section { rows: vec![row, passes], details: Value::Null })),
            ("steps", Ok(Section::default())),
            ("infill", Err("no tokens".to_owned())),
        ]
    }

    #[test]
    fn the_table_is_aligned_and_says_what_is_missing() {
        let table = table(&parts());
        let lines: Vec<&str> = table.lines().collect();
        let at = lines[0].find("95 %");
        assert_eq!(lines[1].find("0.250 – 0.750"), at, "{table}");
        assert_eq!(lines[2].find("0.2 – 0.8"), at, "{table}");
        assert!(lines[1].ends_with("majority 0.080  0.64"), "{table}");
        assert_eq!(lines[3], "steps: what was given holds nothing to measure");
        assert_eq!(lines[4], "infill: not measured: no tokens");
    }

    #[test]
    fn json_has_all_figures_and_errors() {
        let json = json(&parts());
        let row = &json["emotion"]["rows"][0];
        assert_eq!((&row["value"], &row["low"], &row["units"]), (&json!(0.5), &json!(0.25), &json!(4)));
        assert_eq!(row["beside"][0], json!({"name": "majority", "value": 0.08}));
        assert_eq!(json["infill"]["error"], "no tokens");
    }
}
