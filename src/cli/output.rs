//! What commands print: lines for people, or one JSON value.

use std::io::{self, ErrorKind, Write};

use serde_json::{Value, json};

use super::Failure;

/// Where results go, and in which form.
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a result: the value as JSON, or what `lines` makes of it.
    pub(super) fn result(
        &self,
        value: &Value,
        lines: impl FnOnce(&Value) -> Vec<String>,
    ) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
        } else {
            for line in lines(value) {
                writeln!(out, "{line}")?;
            }
        }
        out.flush()?;
        Ok(())
    }

    /// Prints an error: to standard error for people, to standard output as JSON.
    pub(super) fn fault(&self, error: &anyhow::Error) {
        let written = if self.json {
            let body = match error.downcast_ref::<Failure>() {
                Some(failure) => failure.error.clone(),
                None => json!({
                    "code": "FAILED",
                    "message": format!("{error:#}"),
                    "details": {},
                    "retryable": false,
                }),
            };
            writeln!(io::stdout(), "{}", json!({ "error": body }))
        } else {
            writeln!(io::stderr(), "polypool: {error:#}")
        };
        // Nobody is left to be told.
        drop(written);
    }
}

/// Whether the reader of our output has gone, as `polypool list | head -1` does.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Lines of a table, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(head.get(column).map_or(0, |name| name.len()))
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    std::iter::once(line(head))
        .chain(
            rows.iter()
                .map(|row| line(row.each_ref().map(String::as_str))),
        )
        .collect()
}
