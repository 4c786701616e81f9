//! `polypool credential issue|list|revoke`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    api::{Api, segment},
    output::{Output, table},
    text,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Issue a credential; its password is shown this once
    Issue(Issue),
    /// List credentials
    List(Scope),
    /// Revoke a credential
    Revoke {
        /// Its id, as `credential list` shows it
        id: String,
    },
}

#[derive(Args)]
pub(super) struct Issue {
    #[command(flatten)]
    scope: Scope,
    /// The user's name
    #[arg(long, value_name = "NAME", default_value = "app")]
    user: String,
    /// What the user may do
    #[arg(long, value_parser = ["read", "write", "admin"], default_value = "write")]
    role: String,
    /// When it ends, as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
}

/// What a credential is good for: every database of a project, or one.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Scope {
    /// Every database of this project, also those to come
    #[arg(long, value_name = "REF")]
    project: Option<String>,
    /// This database: a slug, an id, or a name that only one has
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
}

impl Scope {
    fn path(&self, api: &Api) -> anyhow::Result<String> {
        if let Some(project) = &self.project {
            return Ok(format!("/projects/{}/credentials", segment(project)));
        }
        let row = api.database(self.database.as_deref().unwrap_or_default(), None)?;
        Ok(format!(
            "/databases/{}/credentials",
            segment(text(&row, "id"))
        ))
    }
}

pub(super) fn run(api: &Api, command: &Command, output: &Output) -> anyhow::Result<()> {
    match command {
        Command::Issue(issue) => {
            let wanted = json!({
                "username": issue.user,
                "role": issue.role,
                "expires_at": issue.expires,
            });
            let issued = api.post(&issue.scope.path(api)?, &wanted)?;
            output.result(&issued, issued_lines)
        }
        Command::List(scope) => {
            let rows = api.get(&scope.path(api)?)?;
            output.result(&rows, |rows| {
                let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
                let cells = [
                    "id",
                    "username",
                    "role",
                    "public_id",
                    "created_at",
                    "expires_at",
                ];
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| cells.map(|cell| text(row, cell).to_owned()))
                    .collect();
                table(
                    ["ID", "USER", "ROLE", "PASSWORD ppc_", "CREATED", "EXPIRES"],
                    &rows,
                )
            })
        }
        Command::Revoke { id } => {
            api.delete(&format!("/credentials/{}", segment(id)))?;
            let revoked = json!({ "revoked": true, "id": id });
            output.result(&revoked, |_| vec![format!("revoked {id}")])
        }
    }
}

fn issued_lines(issued: &Value) -> Vec<String> {
    let mut lines = vec![
        format!("user      {}", text(issued, "username")),
        format!("password  {}  (shown only now)", text(issued, "password")),
        format!("role      {}", text(issued, "role")),
    ];
    let urls = issued.get("urls").and_then(Value::as_object);
    for (kind, url) in urls.into_iter().flatten() {
        lines.push(format!("{kind:10}{}", url.as_str().unwrap_or_default()));
    }
    lines
}
