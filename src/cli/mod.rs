//! The command line: a file per command.
//!
//! All commands but `serve` speak the admin API: of a running gateway, or, when none runs, of one
//! that is put together in this process over the registry's file (`api.rs`).

mod add;
mod api;
mod check_config;
mod completions;
mod credential;
mod list;
mod output;
mod remove;
mod scheduling;
mod serve;
mod show;
mod test;
mod token;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use self::{
    api::{Api, Failure},
    output::Output,
};
use crate::config::{Config, ConfigFault};

/// One gateway in front of `PostgreSQL`, Redis and `MongoDB`.
#[derive(Parser)]
#[command(name = "polypool", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    reach: Reach,
}

/// What every command takes.
#[derive(Args)]
struct Reach {
    /// The configuration file; polypool.toml in this folder, if there is one
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder of the registry, the key file and the admin token's file
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The admin API of a running gateway; without it, that of this machine, if one runs
    #[arg(long, global = true, value_name = "URL")]
    admin: Option<String>,
    /// The admin token
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        long_help = "The admin token; else POLYPOOL_ADMIN_TOKEN, else the one in the data directory"
    )]
    token: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve,
    /// Register a database: test it, issue a credential, print the client's URL
    Add(add::Options),
    /// List the registered databases
    List(list::Options),
    /// Show a database
    Show(show::Options),
    /// Test a registered database, or a connection URL
    Test(test::Options),
    /// Remove a database from the registry; the database itself is not touched
    Remove(remove::Options),
    /// Issue, list and revoke what clients log in with
    Credential {
        #[command(subcommand)]
        command: credential::Command,
    },
    /// Make, list and revoke tokens of the admin API
    Token {
        #[command(subcommand)]
        command: token::Command,
    },
    /// Check the configuration; exit code 2 names the key and the line of what is wrong
    CheckConfig,
    /// Print the completions of a shell
    Completions(completions::Options),
}

/// Runs the command line; the whole of `main`.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.reach.json);
    match execute(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output.fault(&error);
            let usage = error.downcast_ref::<ConfigFault>().is_some();
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn execute(cli: Cli, output: &Output) -> anyhow::Result<()> {
    if let Command::Completions(options) = cli.command {
        return completions::run(&options);
    }
    let config = configure(&cli.reach)?;
    let api = || {
        Api::reach(
            &config,
            cli.reach.admin.as_deref(),
            cli.reach.token.as_deref(),
        )
    };
    match cli.command {
        Command::Serve => serve::run(config),
        Command::CheckConfig => check_config::run(&config, cli.reach.config.as_deref(), output),
        Command::Add(options) => add::run(&api()?, &options, output),
        Command::List(options) => list::run(&api()?, &options, output),
        Command::Show(options) => show::run(&api()?, &options, output),
        Command::Test(options) => test::run(&api()?, &options, output),
        Command::Remove(options) => remove::run(&api()?, &options, output),
        Command::Credential { command } => credential::run(&api()?, &command, output),
        Command::Token { command } => token::run(&api()?, &command, output),
        Command::Completions(_) => Ok(()),
    }
}

fn configure(reach: &Reach) -> Result<Config, ConfigFault> {
    let mut config = Config::load(reach.config.as_deref())?;
    if let Some(data_dir) = &reach.data_dir {
        config.registry.data_dir.clone_from(data_dir);
    }
    Ok(config)
}

/// A text field of an answer; empty when it is absent.
fn text<'a>(value: &'a serde_json::Value, field: &str) -> &'a str {
    value
        .get(field)
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn commands_are_well_formed() {
        Cli::command().debug_assert();
        let line = [
            "polypool",
            "add",
            "redis://h",
            "--project",
            "p",
            "--json",
            "--admin",
            "http://x",
        ];
        assert!(Cli::try_parse_from(line).unwrap().reach.json);
        let line = [
            "polypool",
            "credential",
            "issue",
            "--project",
            "p",
            "--database",
            "d",
        ];
        assert!(Cli::try_parse_from(line).is_err());
    }
}
