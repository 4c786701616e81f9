//! `polypool remove NAME`.

use clap::Args;
use serde_json::json;

use super::{
    api::{Api, segment},
    output::Output,
    text,
};

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
    api.delete(&format!("/databases/{}", segment(text(&row, "id"))))?;
    let removed = json!({ "removed": true, "id": row.get("id"), "slug": row.get("slug") });
    output.result(&removed, |removed| {
        vec![format!("removed '{}'", text(removed, "slug"))]
    })
}
