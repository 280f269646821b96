//! What was measured, as the documentation shows it and as machines read it.

use std::fmt;
use std::fs;

use serde_json::{Value, json};

/// Rows of figures, all with the same columns.
pub struct Table {
    title: &'static str,
    /// What the rows are.
    rows_are: &'static str,
    columns: Vec<Column>,
    rows: Vec<(String, Vec<Option<f64>>)>,
}

#[derive(Clone)]
pub struct Column {
    name: &'static str,
    decimals: usize,
}

pub const fn column(name: &'static str, decimals: usize) -> Column {
    Column { name, decimals }
}

impl Table {
    pub fn new(title: &'static str, rows_are: &'static str, columns: &[Column]) -> Self {
        Self { title, rows_are, columns: columns.to_vec(), rows: Vec::new() }
    }

    /// `None`: there is no such figure for this row.
    pub fn row(&mut self, name: impl Into<String>, figures: &[Option<f64>]) {
        assert_eq!(figures.len(), self.columns.len(), "{}", self.title);
        self.rows.push((name.into(), figures.to_vec()));
    }

    /// Whether each row has a figure, and each figure is one.
    pub fn is_complete(&self) -> bool {
        let complete = |figures: &[Option<f64>]| {
            figures.iter().any(Option::is_some) && figures.iter().flatten().all(|figure| figure.is_finite())
        };
        !self.rows.is_empty() && self.rows.iter().all(|(_, figures)| complete(figures))
    }

    fn json(&self) -> Value {
        let row = |(name, figures): &(String, Vec<Option<f64>>)| {
            let figures = self.columns.iter().zip(figures);
            let figures = figures.map(|(column, figure)| (column.name.to_owned(), json!(figure)));
            json!({"row": name, "figures": figures.collect::<serde_json::Map<_, _>>()})
        };
        json!({"table": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>()})
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        let names = self.columns.iter().map(|column| format!(" {} |", column.name));
        writeln!(f, "| {} |{}", self.rows_are, names.collect::<String>())?;
        writeln!(f, "|---|{}", "--:|".repeat(self.columns.len()))?;
        for (name, figures) in &self.rows {
            let figures = self.columns.iter().zip(figures).map(|(column, figure)| match figure {
                Some(figure) => format!(" {figure:.*} |", column.decimals),
                None => " |".to_owned(),
            });
            writeln!(f, "| {name} |{}", figures.collect::<String>())?;
        }
        Ok(())
    }
}

pub fn json(tables: &[Table]) -> Value {
    json!({"host": host(), "tables": tables.iter().map(Table::json).collect::<Vec<_>>()})
}

/// What it was measured on.
pub fn host() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "instance-agent {}; {cores} cores ({}); Linux {}.\n",
        env!("CARGO_PKG_VERSION"),
        model.unwrap_or("unknown"),
        read("/proc/sys/kernel/osrelease").trim(),
    )
}
