//! `polypool test NAME|URL`: whether a database can be reached, and at which step it fails.

use clap::Args;
use serde_json::{Value, json};

use super::{
    Failure,
    api::{Api, segment},
    output::Output,
    text,
};

#[derive(Args)]
pub(super) struct Options {
    /// A registered database (slug, id or name), or a connection URL
    target: String,
    /// The project, where several have a database of that name
    #[arg(long, value_name = "REF")]
    project: Option<String>,
}

pub(super) fn run(api: &Api, options: &Options, output: &Output) -> anyhow::Result<()> {
    let outcome = if options.target.contains("://") {
        api.post(
            "/databases/test",
            &json!({ "connection_string": options.target }),
        )?
    } else {
        let row = api.database(&options.target, options.project.as_deref())?;
        api.post(
            &format!("/databases/{}/test", segment(text(&row, "id"))),
            &json!({}),
        )?
    };
    if outcome.get("success").and_then(Value::as_bool) != Some(true) {
        let error = outcome.get("error").cloned().unwrap_or_default();
        return Err(Failure { error }.into());
    }
    output.result(&outcome, |outcome| {
        let latency = outcome
            .get("latency_ms")
            .and_then(Value::as_f64)
            .unwrap_or_default();
        vec![format!("{} in {latency:.1} ms", text(outcome, "message"))]
    })
}
