//! `polypool show NAME`.

use clap::Args;
use serde_json::Value;

use super::{api::Api, output::Output};

#[derive(Args)]
pub(super) struct Options {
    /// A slug, an id, or a name that only one database has
    name: String,
    /// The project, where several have a database of that name
    #[arg(long, value_name = "REF")]
    project: Option<String>,
}

pub(super) fn run(api: &Api, options: &Options, output: &Output) -> anyhow::Result<()> {
    let row = api.database(&options.name, options.project.as_deref())?;
    output.result(&row, |row| {
        let fields = row.as_object().into_iter().flatten();
        fields
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| match value {
                Value::String(text) => format!("{name:24}{text}"),
                other => format!("{name:24}{other}"),
            })
            .collect()
    })
}
