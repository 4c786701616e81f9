//! What a client may do to its session, at random.

use crate::wire::{bind, execute, flush, message, named, parse, query, sync};

/// A generator that gives the same for the same seed, everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// A step of an operation; the other client may do something between two of them.
#[derive(Clone)]
pub(crate) struct Phase {
    /// Only if the last message read was of one of these types; empty for always.
    pub(crate) after: &'static [u8],
    pub(crate) send: Vec<u8>,
    pub(crate) until: Until,
}

#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// So many times `ReadyForQuery`.
    Ready(usize),
    /// One of these types, or `ReadyForQuery`.
    Tag(&'static [u8]),
    /// Nothing is read.
    Nothing,
}

pub(crate) struct Operation {
    pub(crate) label: String,
    pub(crate) phases: Vec<Phase>,
}

impl Operation {
    fn new(label: impl Into<String>, phases: Vec<Phase>) -> Self {
        Self {
            label: label.into(),
            phases,
        }
    }
}

fn units(count: usize, send: Vec<u8>) -> Phase {
    Phase {
        after: b"",
        send,
        until: Until::Ready(count),
    }
}

fn until(tags: &'static [u8], send: Vec<u8>) -> Phase {
    Phase {
        after: b"",
        send,
        until: Until::Tag(tags),
    }
}

fn after(after: &'static [u8], phase: Phase) -> Phase {
    Phase { after, ..phase }
}

/// What the generator knows of its client.
#[derive(Clone, Copy)]
pub(crate) struct Situation {
    /// `a` or `b`.
    pub(crate) client: char,
    /// The transaction status.
    pub(crate) status: u8,
}

pub(crate) fn operation(random: &mut Random, situation: Situation) -> Operation {
    // Transactions come to an end, so that upstreams change hands.
    if situation.status == b'E' && random.one_in(3) || situation.status == b'T' && random.one_in(6)
    {
        return text(random, transaction_end);
    }
    match random.below(100) {
        0..=21 => text(random, parameter),
        22..=29 => text(random, look),
        30..=36 => text(random, transaction),
        37..=42 => text(random, temporary),
        43..=47 => text(random, locks),
        48..=53 => text(random, notify),
        54..=57 => text(random, cursor),
        58..=63 => text(random, sql_statement),
        64..=66 => text(random, function),
        67..=76 => protocol_units(random, 1, situation.status != b'E'),
        77..=82 => {
            let count = 2 + random.below(5);
            protocol_units(random, count, false)
        }
        83..=85 => with_flush(random),
        86..=88 => copy_in(random),
        89 => text(random, |_| {
            "copy (select * from shared order by a, b limit 100) to stdout".into()
        }),
        90..=91 => text(random, discard),
        92..=94 => several(random, situation),
        95..=96 => own_table(random, situation),
        97 => text(random, large),
        98 => call(random),
        _ => text(random, failing),
    }
}

/// A statement as a simple query, or by the extended protocol.
fn text(random: &mut Random, make: impl Fn(&mut Random) -> String) -> Operation {
    let text = make(random);
    if random.one_in(4) {
        let send = [
            parse("", &text),
            bind("", "", &[]),
            named(b'D', b'P', ""),
            execute("", 0),
            sync(),
        ];
        return Operation::new(format!("extended: {text}"), vec![units(1, send.concat())]);
    }
    let send = query(&text);
    Operation::new(text, vec![units(1, send)])
}

fn parameter(random: &mut Random) -> String {
    let (name, values): (&str, &[&str]) = match random.below(18) {
        0 => ("application_name", &["'one'", "'two'", "''", "'it''s'"]),
        1 | 2 => (
            "TimeZone",
            &["'UTC'", "'CET'", "'America/New_York'", "'nowhere'", "5"],
        ),
        3 => (
            "DateStyle",
            &["'ISO, MDY'", "'German'", "'SQL, DMY'", "ISO", "'bad'"],
        ),
        4 => (
            "IntervalStyle",
            &["'postgres'", "iso_8601", "'sql_standard'"],
        ),
        5 | 6 => (
            "search_path",
            &["s1", "s2, public", "\"$user\", public", "public, s1"],
        ),
        7 => ("work_mem", &["'3MB'", "'5MB'", "'-1'", "1"]),
        8 => ("extra_float_digits", &["0", "1", "3", "99"]),
        9 => ("standard_conforming_strings", &["on", "off"]),
        10 => ("bytea_output", &["hex", "'escape'"]),
        11 => ("my.own", &["'x'", "'y z'", "''", "12"]),
        12 => ("my.other", &["'1'", "true"]),
        13 => (
            "role",
            &["'diff_one'", "'diff_two'", "none", "'diff_nobody'", "'app'"],
        ),
        14 => (
            "client_encoding",
            &["'UTF8'", "'LATIN1'", "'SQL_ASCII'", "'WIN1252'", "'none'"],
        ),
        15 => (
            "default_transaction_isolation",
            &["'read committed'", "serializable", "'repeatable read'"],
        ),
        16 => ("statement_timeout", &["'60s'", "0", "'90000'"]),
        _ => ("client_min_messages", &["notice", "warning", "error"]),
    };
    let value = random.pick(values);
    let plain = value.trim_matches('\'').replace('\'', "''");
    match random.below(14) {
        0..=4 => format!("SET {name} = {value}"),
        5 => format!("set session {name} to {value}"),
        6 | 7 => format!("SET LOCAL {name} TO {value}"),
        8 => format!("set {name} to default"),
        9 => format!("reset {name}"),
        10 => format!("select set_config('{name}', '{plain}', false)"),
        11 => format!("select set_config('{name}', '{plain}', true)"),
        12 => random
            .pick(&[
                "reset all",
                "set time zone 'CET'",
                "set time zone default",
                "set names 'UTF8'",
                "SET ROLE diff_one",
                "reset role",
                "set session characteristics as transaction isolation level serializable",
                "set session authorization default",
                "SET SESSION AUTHORIZATION diff_one",
            ])
            .into(),
        _ => format!("do $$ begin perform set_config('{name}', '{plain}', false); end $$"),
    }
}

fn look(random: &mut Random) -> String {
    random
        .pick(&[
            "show all_of_it",
            "show search_path",
            "show TimeZone",
            "select current_setting('my.own', true), current_setting('my.other', true)",
            "show work_mem",
            "show application_name",
            "show transaction_isolation",
            "show default_transaction_isolation",
            "show client_encoding",
            "show role",
            "show statement_timeout",
            "show standard_conforming_strings",
            "select current_user, session_user",
            "select '2020-02-01'::date, timestamptz '2020-01-01 00:00:00Z', interval '1 day 2 hours'",
            "select 1.1::float8, '\\x01ff'::bytea, 'a\\b'",
            "select v from named",
            "select '\\'' , 1 + 1 --'",
            "select '\\' , 1 + 1 --'",
            "select 'a%b' like E'a\\\\%b' escape E'\\\\'",
            "select * from shared order by a, b limit 3",
            "select count(*), sum(length(b)) from shared",
            "select 'ü', convert_to('ü', 'UTF8')",
        ])
        .into()
}

fn transaction(random: &mut Random) -> String {
    random
        .pick(&[
            "begin",
            "BEGIN",
            "start transaction",
            "begin isolation level serializable",
            "begin read only",
            "savepoint one",
            "savepoint two",
            "rollback to one",
            "rollback to savepoint two",
            "release one",
            "release savepoint two",
            "commit and chain",
            "rollback and chain",
            "commit",
            "rollback",
            "end",
            "abort",
            "set transaction read only",
        ])
        .into()
}

fn transaction_end(random: &mut Random) -> String {
    random
        .pick(&[
            "commit",
            "rollback",
            "rollback to one",
            "commit",
            "commit and chain",
            "rollback and chain",
            "COMMIT",
            "end",
        ])
        .into()
}

fn temporary(random: &mut Random) -> String {
    random
        .pick(&[
            "create temp table tt (a int)",
            "create temporary table if not exists tt (a int)",
            "create temp table tt on commit drop as select 1 as a",
            "select 1 as a into temp tt",
            "insert into tt values (1), (2)",
            "select count(*) from tt",
            "drop table tt",
            "drop table if exists tt",
            "create temp view tv as select 1 as x",
            "drop view tv",
            "select * from tv",
            "create temp sequence ts",
            "select nextval('ts')",
            "drop sequence ts",
        ])
        .into()
}

fn locks(random: &mut Random) -> String {
    random
        .pick(&[
            "select pg_try_advisory_lock(1)",
            "select pg_try_advisory_lock(2)",
            "select pg_try_advisory_lock_shared(3)",
            "select pg_advisory_unlock(1)",
            "select pg_advisory_unlock(2)",
            "select pg_advisory_unlock_shared(3)",
            "select pg_advisory_unlock_all()",
            "select pg_try_advisory_xact_lock(1)",
            "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())",
        ])
        .into()
}

fn notify(random: &mut Random) -> String {
    random
        .pick(&[
            "listen one",
            "LISTEN two",
            "listen one",
            "unlisten one",
            "unlisten two",
            "unlisten *",
            "notify one, 'x'",
            "notify two",
            "select pg_notify('one', 'by function')",
            "NOTIFY one, 'y'",
        ])
        .into()
}

fn cursor(random: &mut Random) -> String {
    random
        .pick(&[
            "declare c cursor for select generate_series(1, 5)",
            "declare c cursor with hold for select generate_series(1, 5)",
            "declare d scroll cursor with hold for select v from named",
            "fetch 2 from c",
            "fetch all from c",
            "move 1 in c",
            "fetch d",
            "close c",
            "close d",
            "close all",
            "select name, is_holdable from pg_cursors order by 1",
        ])
        .into()
}

fn sql_statement(random: &mut Random) -> String {
    let name = random.pick(&["p1", "p2", "\"P 3\""]);
    match random.below(11) {
        0..=2 => {
            let text = random.pick(&[
                "select 1 as one", "select v from named", "select $1::int + 1", "select 'two' as two",
                "insert into public.shared values ($1)", "select nothing from nowhere",
            ]);
            format!("prepare {name} as {text}")
        }
        3 => format!("PREPARE {name} (int) AS select $1 + 1"),
        // Not EXPLAIN EXECUTE: of an empty statement it ends the server (15.x, signal 11).
        4 | 5 | 8 => format!("execute {name}"),
        6 => format!("EXECUTE {name} (41)"),
        7 => format!("deallocate {name}"),
        9 => "select name, parameter_types, from_sql from pg_prepared_statements where name <> '' order by name".into(),
        _ => random.pick(&["deallocate all", "deallocate prepare p1", "DEALLOCATE PREPARE ALL"]).into(),
    }
}

/// What sets parameters though its text does not show it.
fn function(random: &mut Random) -> String {
    random
        .pick(&[
            "select public.set_own('by function')",
            "select set_own('')",
            "select public.set_memory('6MB')",
            "select public.set_memory('bad')",
            "select public.set_path('s2, public')",
            "select public.set_path('s1')",
            "select public.set_path_locally('s1, public')",
            "select public.set_zone('Europe/Paris')",
            "insert into public.watched values ('by trigger')",
            "select * from public.by_view",
            "call public.set_both('by procedure')",
            "do $$ begin perform public.set_own('in do'); end $$",
            "prepare p1 as select public.set_own('prepared')",
            "select public.set_own('failing'), 1/0",
            "declare c cursor for select public.set_own('fetched')",
        ])
        .into()
}

fn discard(random: &mut Random) -> String {
    random
        .pick(&[
            "discard all",
            "DISCARD ALL",
            "discard plans",
            "discard temp",
            "discard sequences",
        ])
        .into()
}

fn large(random: &mut Random) -> String {
    random
        .pick(&[
            "select repeat('x', 100000)",
            "select repeat('y', 20000) from generate_series(1, 20)",
            "select generate_series(1, 3000)",
        ])
        .into()
}

fn failing(random: &mut Random) -> String {
    random
        .pick(&[
            "select 1/0",
            "selec",
            "select nothing",
            "select * from missing",
            "",
            ";",
            "-- nothing",
            "select repeat('z', 20000)::int",
            "do $$ begin raise exception 'mine'; end $$",
            "do $$ begin raise notice 'hello'; end $$",
        ])
        .into()
}

/// Several statements in one simple query.
fn several(random: &mut Random, situation: Situation) -> Operation {
    let count = 2 + random.below(3);
    let parts: Vec<String> = (0..count)
        .map(|_| match random.below(11) {
            // What resets is refused beside others, where the connection began with a value of its own:
            // the first client did so.
            0 | 1 => loop {
                let text = parameter(random);
                let resets = text.contains("reset") || text.ends_with("default");
                let own = [
                    "work_mem",
                    "TimeZone",
                    "time zone",
                    "application_name",
                    "all",
                ];
                let began = situation.client == 'a' && own.iter().any(|name| text.contains(name));
                if !resets || !began {
                    break text;
                }
            },
            2 | 3 => look(random),
            4 => transaction(random),
            5 => temporary(random),
            6 => notify(random),
            7 => failing(random),
            8 => sql_statement(random),
            9 => function(random),
            _ => format!("insert into shared values ({})", random.below(9)),
        })
        .collect();
    let text = parts.join("; ");
    let send = query(&text);
    Operation::new(text, vec![units(1, send)])
}

/// A table that only this client uses: its columns change under prepared statements.
fn own_table(random: &mut Random, situation: Situation) -> Operation {
    let table = format!("own_{}", situation.client);
    let change = match random.below(5) {
        0 => format!("alter table {table} add column c int"),
        1 => format!("alter table {table} drop column c"),
        2 => format!("alter table {table} alter column a type bigint"),
        3 => format!("alter table {table} alter column a type int"),
        _ => format!("insert into {table} values (1)"),
    };
    text(random, |_| change.clone())
}

/// One message of an extended unit. A server (15.18) ends with signal 11 where a portal is used after
/// its transaction has failed: so `portals` only where it has not.
fn extended(random: &mut Random, label: &mut String, portals: bool) -> Vec<u8> {
    let name = random.pick(&["", "p1", "p2", "P 3", "longer_name_of_a_statement"]);
    let portal = random.pick(&["", "", "", "portal"]);
    match random.below(16) {
        11 | 14 if !portals => {
            label.push_str(" flush");
            flush()
        }
        0..=3 => {
            let texts = [
                "select 1 as one",
                "select v from named",
                "select $1::text",
                "select generate_series(1, 6)",
                "show TimeZone",
                "insert into public.shared values (7)",
                "selec",
                "set work_mem = '4MB'",
                "select '2020-02-01'::date",
                "begin",
                "commit",
                "deallocate all",
                "deallocate p2",
                "prepare p2 as select 2",
                "select public.set_own('extended')",
                "select public.set_memory('8MB')",
            ];
            let text = random.pick(&texts).to_owned();
            label.push_str(&format!(" parse({name}: {text})"));
            parse(name, &text)
        }
        4..=7 => {
            let values: &[&str] = if random.one_in(3) { &["value"] } else { &[] };
            let rows = u32::try_from(random.below(3)).unwrap();
            label.push_str(&format!(
                " bind({portal}, {name}, {values:?}) execute({rows})"
            ));
            [bind(portal, name, values), execute(portal, rows)].concat()
        }
        8 => {
            label.push_str(&format!(" bind({portal}, {name})"));
            bind(portal, name, &[])
        }
        9 | 10 => {
            label.push_str(&format!(" describe({name})"));
            named(b'D', b'S', name)
        }
        11 => {
            label.push_str(&format!(" describe portal({portal})"));
            named(b'D', b'P', portal)
        }
        12 => {
            label.push_str(&format!(" close({name})"));
            named(b'C', b'S', name)
        }
        13 => {
            label.push_str(&format!(" close portal({portal})"));
            named(b'C', b'P', portal)
        }
        14 => {
            label.push_str(&format!(" execute({portal})"));
            execute(portal, 2)
        }
        _ => {
            label.push_str(" flush");
            flush()
        }
    }
}

/// Extended units, and simple queries between them, all sent at once.
fn protocol_units(random: &mut Random, count: usize, portals: bool) -> Operation {
    let (mut send, mut label) = (Vec::new(), String::new());
    for _ in 0..count {
        if count > 1 && random.one_in(5) {
            let text = match random.below(4) {
                0 => parameter(random),
                1 => transaction(random),
                2 => look(random),
                _ => failing(random),
            };
            label.push_str(&format!(" query({text})"));
            send.extend(query(&text));
            continue;
        }
        for _ in 0..=random.below(4) {
            send.extend(extended(random, &mut label, portals));
        }
        label.push_str(" sync");
        send.extend(sync());
    }
    Operation::new(label.trim(), vec![units(count, send)])
}

/// Messages with Flush: answers come before the Sync.
fn with_flush(random: &mut Random) -> Operation {
    let name = random.pick(&["", "p1", "p2"]);
    let body = random.pick(&[
        "select generate_series(1, 4)",
        "select v from named",
        "selec",
        "select count(*) from shared",
    ]);
    let first = [parse(name, body), named(b'D', b'S', name), flush()].concat();
    let second = [bind("portal", name, &[]), execute("portal", 2), flush()].concat();
    let third = [execute("portal", 0), flush()].concat();
    Operation::new(
        format!("with flush: {name}: {body}"),
        vec![
            until(b"TnE", first),
            after(b"Tn", until(b"CsIE", second)),
            after(b"s", until(b"CsIE", third)),
            units(1, sync()),
        ],
    )
}

/// COPY from the client, well or badly.
fn copy_in(random: &mut Random) -> Operation {
    let rows = match random.below(5) {
        0 => message(b'd', b"not a number\n"),
        1 => [
            message(b'd', b"1\tx\n"),
            message(b'd', b"2\t"),
            message(b'd', b"y\n"),
        ]
        .concat(),
        2 => message(b'd', "7\tlong\n".repeat(5000).as_bytes()),
        3 => Vec::new(),
        _ => message(b'd', b"3\tz\n"),
    };
    let end = if random.one_in(4) {
        message(b'f', b"changed my mind\0")
    } else {
        message(b'c', b"")
    };
    let text = random.pick(&[
        "copy shared from stdin",
        "copy shared from stdin",
        "copy missing from stdin",
        "copy tt from stdin",
    ]);
    let label = format!("copy in: {text}");
    match random.below(4) {
        0 => {
            let first = query(text);
            let nothing = Phase {
                after: b"G",
                send: rows,
                until: Until::Nothing,
            };
            Operation::new(
                label,
                vec![until(b"G", first), nothing, after(b"G", units(1, end))],
            )
        }
        1 => Operation::new(
            format!("{label}, at once"),
            vec![units(1, [query(text), rows, end].concat())],
        ),
        2 => {
            let first = [parse("", text), bind("", "", &[]), execute("", 0), flush()].concat();
            let second = Phase {
                after: b"G",
                send: [rows, end].concat(),
                until: Until::Nothing,
            };
            Operation::new(
                format!("{label}, extended"),
                vec![until(b"GE", first), second, units(1, sync())],
            )
        }
        _ => {
            let ahead = [parse("", text), bind("", "", &[]), execute("", 0)].concat();
            Operation::new(
                format!("{label}, extended at once"),
                vec![units(1, [ahead, rows, end, sync()].concat())],
            )
        }
    }
}

/// `int4pl` by its number.
fn call(random: &mut Random) -> Operation {
    let second: &[u8] = if random.one_in(4) {
        &[0, 0, 0, 3, 0, 0, 0]
    } else {
        &[0, 0, 0, 4, 0, 0, 0, 2]
    };
    let body = [
        &177_u32.to_be_bytes()[..],
        &[0, 1, 0, 1, 0, 2, 0, 0, 0, 4, 0, 0, 0, 40],
        second,
        &[0, 1],
    ];
    Operation::new(
        "function call",
        vec![units(1, message(b'F', &body.concat()))],
    )
}
