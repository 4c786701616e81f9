//! `polypool list`.

use clap::Args;
use serde_json::Value;

use super::{
    api::Api,
    output::{Output, table},
    text,
};

#[derive(Args)]
pub(super) struct Options {
    /// Only the databases of this project
    #[arg(long, value_name = "REF")]
    project: Option<String>,
}

pub(super) fn run(api: &Api, options: &Options, output: &Output) -> anyhow::Result<()> {
    let rows = api.databases(options.project.as_deref())?;
    output.result(&Value::Array(rows), |rows| {
        let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        if rows.is_empty() {
            return vec!["no databases yet; try: polypool add redis://127.0.0.1:6379".to_owned()];
        }
        let cells = [
            "slug",
            "type",
            "project_ref",
            "name",
            "status",
            "connection_string",
        ];
        let rows: Vec<_> = rows
            .iter()
            .map(|row| cells.map(|cell| text(row, cell).to_owned()))
            .collect();
        table(
            ["SLUG", "TYPE", "PROJECT", "NAME", "STATUS", "UPSTREAM"],
            &rows,
        )
    })
}
