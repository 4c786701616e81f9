//! `polypool token create|list|revoke`.

use clap::Subcommand;
use serde_json::json;

use super::{
    api::{Api, segment},
    output::{Output, table},
    text,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a token; it is shown this once
    Create {
        /// What to call it in the audit log
        name: String,
        /// What it may do
        #[arg(long, value_parser = ["owner", "operator", "viewer"], default_value = "viewer")]
        role: String,
    },
    /// List the tokens
    List,
    /// Revoke a token
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
    },
}

pub(super) fn run(api: &Api, command: &Command, output: &Output) -> anyhow::Result<()> {
    match command {
        Command::Create { name, role } => {
            let made = api.post("/tokens", &json!({ "name": name, "role": role }))?;
            output.result(&made, |made| vec![text(made, "token").to_owned()])
        }
        Command::List => {
            let rows = api.get("/tokens")?;
            output.result(&rows, |rows| {
                let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
                let cells = ["id", "name", "role", "token_prefix", "created_at"];
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| cells.map(|cell| text(row, cell).to_owned()))
                    .collect();
                table(["ID", "NAME", "ROLE", "TOKEN ppat_", "CREATED"], &rows)
            })
        }
        Command::Revoke { id } => {
            api.delete(&format!("/tokens/{}", segment(id)))?;
            output.result(&json!({ "revoked": true, "id": id }), |_| {
                vec![format!("revoked {id}")]
            })
        }
    }
}
