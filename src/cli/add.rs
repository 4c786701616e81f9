//! `polypool add URL`: all that it takes to put a database behind the gateway.

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::{
    api::{Api, segment},
    output::Output,
    text,
};

#[derive(Args)]
pub(super) struct Options {
    /// The connection URL: postgres://, redis://, rediss://, mongodb://, mongodb+srv://, http(s)://
    url: String,
    /// The project that owns it; made where it is missing
    #[arg(long, value_name = "REF", default_value = "default")]
    project: String,
    /// Its name within the project; made from the host when none is given
    #[arg(long)]
    name: Option<String>,
    /// Its name within the gateway, a DNS label; made from the name when none is given
    #[arg(long)]
    slug: Option<String>,
    /// The user to issue a credential for; `app`, or `client` where the database's own user is `app`
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// What that user may do
    #[arg(long, value_parser = ["read", "write", "admin"], default_value = "write")]
    role: String,
    /// Register it even if it cannot be reached now
    #[arg(long)]
    skip_test: bool,
}

pub(super) fn run(api: &Api, options: &Options, output: &Output) -> anyhow::Result<()> {
    let row = api.post(
        "/databases",
        &json!({
            "project_ref": options.project,
            "name": options.name,
            "slug": options.slug,
            "connection_string": options.url,
            "skip_test": options.skip_test,
        }),
    )?;
    let mut added = json!({
        "id": row.get("id"),
        "slug": row.get("slug"),
        "name": row.get("name"),
        "type": row.get("type"),
        "project": row.get("project_ref"),
    });
    if text(&row, "type") != "bun_api" {
        let path = format!("/databases/{}/credentials", segment(text(&row, "id")));
        // A credential goes before the database's own user of the same name, which would then be
        // locked out.
        let default = if text(&row, "username") == "app" {
            "client"
        } else {
            "app"
        };
        let user = options.user.as_deref().unwrap_or(default);
        let wanted = json!({ "username": user, "role": options.role });
        let issued = api.post(&path, &wanted).with_context(|| {
            format!(
                "'{}' is registered, but has no credential yet",
                text(&row, "slug")
            )
        })?;
        if let Value::Object(fields) = &mut added {
            for field in ["url", "username", "password", "role"] {
                fields.insert(
                    field.to_owned(),
                    issued.get(field).cloned().unwrap_or_default(),
                );
            }
        }
    }
    output.result(&added, |added| {
        let mut lines = vec![format!(
            "added {} '{}' to project '{}'",
            text(added, "type"),
            text(added, "name"),
            text(added, "project")
        )];
        if !text(added, "url").is_empty() {
            lines.extend([
                String::new(),
                "Connect through polypool; the password is shown only now:".to_owned(),
                format!("  {}", text(added, "url")),
            ]);
        }
        lines
    })
}
