//! Closed-loop `MongoDB` load over the raw wire.
//!
//! One thread, one request in flight per connection, messages made once and patched in place: the
//! client costs little beside the server and a gateway on the same machine. It logs in by
//! SCRAM-SHA-256, to a server or through polypool alike. Prints one line; ends with 1 if any
//! operation failed.

mod connection;
mod dialog;
mod drive;
mod fault;
mod fill;
mod latency;
mod login;
mod operation;
mod wire;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use mio::net::TcpStream;

use crate::connection::Connection;
use crate::drive::Outcome;
use crate::fault::Fault;
use crate::login::{Credential, Door};
use crate::operation::{INSERTS, Keys, Operation, Script};

#[derive(Parser)]
#[command(about = "Closed-loop MongoDB load over the raw wire.")]
struct Args {
    /// Address of the server or the gateway.
    #[arg(long)]
    addr: SocketAddr,
    /// User to log in as; without it nobody logs in.
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// The user's password.
    #[arg(long, env = "POLYPOOL_LOAD_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Database to log in at (`authSource`).
    #[arg(long, default_value = "admin")]
    auth_db: String,
    /// Database that the commands use.
    #[arg(long, default_value = "polypool_bench")]
    db: String,
    /// What each connection does.
    #[arg(long, value_enum)]
    op: Operation,
    /// Connections.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Seconds to run.
    #[arg(long, default_value = "5", value_parser = seconds)]
    secs: Duration,
    /// Documents of 1 KB that `load` makes and the others expect.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(i64).range(100..))]
    docs: i64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.op {
        Operation::Load => load(&args).map(|()| None),
        Operation::Find | Operation::Insert | Operation::Range => drive(&args).map(Some),
    };
    let result = match outcome {
        Ok(None) => say(&mut io::stdout(), "{\"loaded\":true}").map(|()| ExitCode::SUCCESS),
        Ok(Some(outcome)) => report(&args, &outcome),
        Err(fault) => say(&mut io::stderr(), &fault.to_string()).map(|()| ExitCode::FAILURE),
    };
    result.unwrap_or(ExitCode::FAILURE)
}

fn load(args: &Args) -> Result<(), Fault> {
    let mut dialog = door(args).open()?;
    fill::fill(&mut dialog, &args.db, args.docs)
}

fn drive(args: &Args) -> Result<Outcome, Fault> {
    let mut door = door(args);
    if args.op == Operation::Insert {
        fill::clear(&mut door.open()?, &args.db, INSERTS)?;
    }
    let base = insert_base();
    let mut connections = Vec::with_capacity(usize::from(args.connections));
    for index in 0..args.connections {
        let keys = Keys {
            docs: args.docs,
            next: base + i64::from(index),
            step: i64::from(args.connections),
            seed: random_u64()? | 1,
        };
        let script = Script::new(args.op, &args.db, session()?, keys)?;
        let socket = door.open()?.into_socket();
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        socket.set_nonblocking(true)?;
        connections.push(Connection::new(TcpStream::from_std(socket), script));
    }
    say(&mut io::stderr(), "measuring")?;
    let outcome = drive::run(connections, args.secs);
    say(&mut io::stderr(), "measured")?;
    outcome
}

fn door(args: &Args) -> Door {
    let credential = args.user.clone().map(|user| Credential {
        user,
        password: args.password.clone().unwrap_or_default(),
        auth_db: args.auth_db.clone(),
    });
    Door::new(args.addr, credential)
}

/// Nanoseconds since 1970: later runs insert greater keys, as each insert takes longer than that.
fn insert_base() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(0))
}

fn session() -> Result<[u8; 16], Fault> {
    let random = u128::from(random_u64()?) << 64 | u128::from(random_u64()?);
    Ok(random.to_le_bytes())
}

fn random_u64() -> Result<u64, Fault> {
    getrandom::u64().map_err(|error| Fault::Login(format!("random: {error}")))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
fn report(args: &Args, outcome: &Outcome) -> io::Result<ExitCode> {
    let ops = outcome.latencies.samples();
    let secs = outcome.elapsed.as_secs_f64();
    let rate = ops as f64 / secs.max(f64::EPSILON);
    let p50 = outcome.latencies.quantile(500).as_secs_f64() * 1e6;
    let p99 = outcome.latencies.quantile(990).as_secs_f64() * 1e6;
    let errors = outcome.errors;
    let line = if args.json {
        format!(
            "{{\"ops\":{ops},\"errors\":{errors},\"secs\":{secs:.6},\"ops_per_s\":{rate:.1},\
             \"p50_us\":{p50:.1},\"p99_us\":{p99:.1}}}"
        )
    } else {
        format!(
            "{ops} operations, {errors} errors in {secs:.3} s: {rate:.0}/s, \
             p50 {p50:.0} us, p99 {p99:.0} us"
        )
    };
    say(&mut io::stdout(), &line)?;
    if let Some(fault) = &outcome.first_error {
        say(&mut io::stderr(), &format!("the first error: {fault}"))?;
    }
    Ok(if errors == 0 && ops > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn say(out: &mut impl Write, line: &str) -> io::Result<()> {
    writeln!(out, "{line}")
}
