//! Roles, and the command table that they rest on, against what the server says of itself.

use std::collections::HashMap;

use super::*;

/// The checked-in table: arity, access and class by name.
fn table() -> HashMap<String, (i64, String, String)> {
    let text = include_str!("../../src/redis/commands.tsv");
    let rows = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|row| {
        let columns: Vec<&str> = row.split('\t').collect();
        let name = columns[0].to_ascii_lowercase().replace(' ', "|");
        let arity = columns[1].parse().unwrap();
        (name, (arity, columns[2].to_owned(), columns[3].to_owned()))
    })
    .collect()
}

/// A reply of the server, as far as `COMMAND` needs it.
#[derive(Debug)]
enum Reply {
    Text(String),
    Number(i64),
    Many(Vec<Reply>),
}

/// One reply from the front of `text`; `None` when it is not all there.
fn parse(text: &mut &str) -> Option<Reply> {
    let (line, rest) = text.split_once("\r\n")?;
    *text = rest;
    let (kind, value) = line.split_at(1);
    Some(match kind {
        "+" => Reply::Text(value.to_owned()),
        ":" => Reply::Number(value.parse().unwrap()),
        "$" => {
            let length: usize = value.parse().ok()?;
            let (found, rest) = text.split_at_checked(length)?;
            *text = rest.get(2..)?;
            Reply::Text(found.to_owned())
        }
        "*" => {
            let count: usize = value.parse().unwrap_or(0);
            Reply::Many((0..count).map(|_| parse(text)).collect::<Option<_>>()?)
        }
        other => panic!("{other}"),
    })
}

/// Compares a command, and its subcommands, with the table.
fn compare(
    command: &Reply,
    table: &HashMap<String, (i64, String, String)>,
    faults: &mut Vec<String>,
) {
    let Reply::Many(fields) = command else {
        panic!()
    };
    let (Reply::Text(name), Reply::Number(arity), Reply::Many(flags)) =
        (&fields[0], &fields[1], &fields[2])
    else {
        panic!("{fields:?}")
    };
    let has = |wanted: &str| {
        flags
            .iter()
            .any(|flag| matches!(flag, Reply::Text(text) if text == wanted))
    };
    let Some((known, access, class)) = table.get(name) else {
        return faults.push(format!("{name}: not in the table"));
    };
    if known != arity {
        faults.push(format!("{name}: arity {known}, the server says {arity}"));
    }
    if has("write") && access != "write" {
        faults.push(format!("{name}: writes, the table says {access}"));
    }
    if has("readonly") && access != "read" {
        faults.push(format!("{name}: reads, the table says {access}"));
    }
    if has("may_replicate") && access == "neither" {
        faults.push(format!("{name}: may write, the table says {access}"));
    }
    if has("blocking") && ["shared", "local", "filtered"].contains(&class.as_str()) {
        faults.push(format!("{name}: blocks, the table says {class}"));
    }
    let is_for_anybody = ["shared", "blocking", "stream", "transaction"].contains(&class.as_str());
    // What the gateway lets through although the server calls it administration.
    let is_known = [
        "slowlog|help",
        "latency|help",
        "cluster|info",
        "cluster|nodes",
        "cluster|slots",
    ];
    if has("admin") && is_for_anybody && !is_known.contains(&name.as_str()) {
        faults.push(format!("{name}: administers, the table says {class}"));
    }
    if let Some(Reply::Many(subcommands)) = fields.get(9) {
        for subcommand in subcommands {
            compare(subcommand, table, faults);
        }
    }
}

#[tokio::test]
async fn the_command_table_agrees_with_the_server() {
    let Some(gateway) = Gateway::start("table").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    direct.send(&["COMMAND"]).await;
    let reply = loop {
        let text = String::from_utf8_lossy(&direct.input).into_owned();
        if let Some(reply) = parse(&mut text.as_str()) {
            break reply;
        }
        let read = timeout(WAIT_MAX, direct.stream.read_buf(&mut direct.input)).await;
        assert!(read.unwrap().unwrap() > 0);
    };
    let Reply::Many(commands) = reply else {
        panic!()
    };
    assert!(commands.len() > 200, "{}", commands.len());
    let (table, mut faults) = (table(), Vec::new());
    for command in &commands {
        compare(command, &table, &mut faults);
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn a_reader_can_write_by_no_command() {
    let Some(gateway) = Gateway::start("reader").await else {
        return;
    };
    let mut reader = gateway.client(Role::Read).await;
    let mut count = 0;
    for (name, (arity, access, class)) in table() {
        if class == "container" || class == "never" {
            continue;
        }
        let is_open = !["admin", "alone", "filtered"].contains(&class.as_str());
        if is_open && access != "write" {
            continue;
        }
        let mut words: Vec<&str> = name.split('|').collect();
        let wanted = usize::try_from(arity.abs()).unwrap();
        // `CONFIG GET *` would show everything.
        words.resize(wanted.max(words.len()), "*");
        reader.send(&words).await;
        let refusal =
            format!("-NOPERM this user has no permissions to run the '{name}' command\r\n");
        reader.expect(&refusal).await;
        count += 1;
    }
    assert!(count > 200, "{count}");
    // What only reads is not refused, in whatever form it comes.
    reader
        .send(&["EVAL", "#!lua flags=no-writes\nreturn 7", "0"])
        .await;
    reader.expect(":7\r\n").await;
    reader
        .send(&[
            "EVAL",
            "#!lua flags=no-writes\nreturn redis.call('set','reader-k','v')",
            "1",
            "reader-k",
        ])
        .await;
    reader.expect_error().await;
    reader
        .send(&[
            "EVAL_RO",
            "return redis.call('set','reader-k','v')",
            "1",
            "reader-k",
        ])
        .await;
    reader.expect_error().await;
    // In a transaction, too: one refused command, and nothing of it is carried out.
    reader.send(&["MULTI"]).await;
    reader.send(&["SET", "reader-k", "v"]).await;
    reader.send(&["EXEC"]).await;
    reader
        .expect("+OK\r\n-NOPERM this user has no permissions to run the 'set' command\r\n")
        .await;
    reader
        .expect("-EXECABORT Transaction discarded because of previous errors.\r\n")
        .await;
    reader.send(&["EXISTS", "reader-k"]).await;
    reader.expect(":0\r\n").await;
}
