//! Texts that must be suspected, and texts that must not.

use super::scan;

#[track_caller]
fn touches(text: &str, wanted: bool) {
    assert_eq!(scan(text.as_bytes()).touches_session, wanted, "{text}");
}

#[test]
fn statements_that_leave_state_are_suspect() {
    for text in [
        "SET search_path TO a, b",
        "set time zone 'UTC'",
        "/* a /* nested */ comment */ SET x = 1",
        "select 1; -- SET LOCAL\n SET role bob",
        "SELECT set_config('a.b', 'c', false)",
        "select pg_catalog.\"set_config\"('a.b', 'c', false)",
        "RESET ALL",
        "LISTEN x",
        "create temp table t (a int)",
        "CREATE TEMPORARY SEQUENCE s",
        "create or replace temp view v as select 1",
        "select 1 into temp t",
        "create table pg_temp.t (a int)",
        "declare c cursor with hold for select 1",
        "select pg_advisory_lock(1)",
        "select pg_try_advisory_lock_shared(1)",
        "do $$ begin end $$",
        "call f()",
        "set session authorization bob",
        "select U&\"set\\005fconfig\"('a', 'b', false)",
    ] {
        touches(text, true);
    }
}

#[test]
fn statements_that_leave_none_are_not() {
    for text in [
        "select temp from weather",
        "SET LOCAL search_path = x",
        "set transaction isolation level serializable",
        "begin; select 'SET x = 1'; commit",
        "select $$ set x = 1 $$, $a$ create temp table $$ $a$",
        "-- set x = 1\nselect 1",
        "select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2)",
        "update t set a = $1 where b = $2",
        "prepare transaction 'x'",
        "prepare p as select 1",
        "execute p",
        "insert into t values ('it''s; set x = 1')",
        "select set_config from t",
        "declare c cursor for select 1",
        "",
        ";;",
    ] {
        touches(text, false);
    }
}

#[test]
fn lifting_read_only_is_seen() {
    for text in [
        "begin read write",
        "BEGIN; SET TRANSACTION READ  WRITE",
        "set session characteristics as transaction read write",
        "set default_transaction_read_only = off",
        "set local \"transaction_read_only\" to 0",
        "select set_config('default_transaction_read_only', 'off', false)",
        "do 'begin end'",
    ] {
        assert!(scan(text.as_bytes()).lifts_read_only, "{text}");
    }
    for text in [
        "begin read only",
        "show transaction_read_only",
        "select 'read write'",
    ] {
        assert!(!scan(text.as_bytes()).lifts_read_only, "{text}");
    }
}

#[test]
fn administration_is_named() {
    for text in [
        "alter system set x = 1",
        "copy t from program 'ls'",
        "copy t to '/tmp/x'",
        "copy (select 1) to '/tmp/x'",
        "select pg_read_file('/etc/passwd')",
        "drop role bob",
        "drop database x",
        "CREATE USER bob",
    ] {
        assert!(scan(text.as_bytes()).admin_only.is_some(), "{text}");
    }
    for text in [
        "copy t from stdin with (format csv, delimiter ',')",
        "copy t to stdout",
        "alter table t add a int",
        "create user mapping for bob server s",
        "select 'alter system'",
    ] {
        assert_eq!(scan(text.as_bytes()).admin_only, None, "{text}");
    }
}

#[test]
fn parameters_of_extensions_are_named() {
    let names = |text: &str| scan(text.as_bytes()).parameters;
    assert_eq!(
        names("SET my.var = 1; set session a.b to 'c'"),
        ["my.var", "a.b"]
    );
    assert_eq!(names("select set_config('My.Var', $1, false)"), ["my.var"]);
    assert_eq!(
        names("select set_config('my.var'::text, 'x'::text, false)"),
        ["my.var"]
    );
    assert!(names("select set_config('my.var' || text, 'x', false)").is_empty());
    assert!(names("set search_path to a.b").is_empty());
    assert!(names("set x = 1.5").is_empty());
    assert!(names("select set_config('my.var', 'x', true)").is_empty());
}

#[test]
fn local_configuration_leaves_nothing() {
    touches(
        "select set_config('a.b', coalesce($1, 'x'), true), set_config('role', 'x', true)",
        false,
    );
    touches("select set_config('a.b', 'x', $1)", true);
    touches("select set_config('a.b', 'x', not true)", true);
    assert_eq!(
        scan(b"select set_config($1, $2, false)").sticks,
        Some("set_config")
    );
    assert_eq!(
        scan(b"select set_config('a' || $1, $2, false)").sticks,
        Some("set_config")
    );
    assert!(!scan(b"select set_config('a.b', 'x', true)").lifts_read_only);
}

#[test]
fn blocks_are_read_as_bodies_are() {
    for text in [
        "do $$ begin set a.b = '1'; end $$",
        "do $$ begin execute 'set a.b = 1'; end $$",
        "do language plpgsql $$ begin perform set_config('a.b', x, false); end $$",
    ] {
        let facts = scan(text.as_bytes());
        assert_eq!(facts.sticks, None, "{text}");
        assert_eq!(facts.parameters, ["a.b"], "{text}");
        assert!(facts.touches_session, "{text}");
    }
    for text in [
        "do $$ begin execute current_setting('a.b'); end $$",
        "do $$ begin perform set_config(name, 'x', false); end $$",
        "do $a$ begin do $b$ begin end $b$; end $a$",
        "do language plpython3u $$ x $$",
        "do $$ x $$ language plperl",
    ] {
        assert_eq!(scan(text.as_bytes()).sticks, Some("do_block"), "{text}");
    }
    let loose = "do $$ begin execute format('alter table %I add a int', t); end $$";
    let facts = scan(loose.as_bytes());
    assert!(facts.loose && facts.sticks.is_none());
    let deep = "do $x".repeat(100_000);
    assert!(scan(deep.as_bytes()).touches_session);
}

#[test]
fn parameters_are_set_by_the_view_of_them_too() {
    touches(
        "update pg_settings set setting = '9MB' where name = 'work_mem'",
        true,
    );
    touches(
        "with x as (update pg_catalog.pg_settings set setting = 'x' returning 1) select * from x",
        true,
    );
    touches("select setting from pg_settings", false);
}

#[test]
fn statements_by_name_are_told() {
    let facts = scan(b"DEALLOCATE pdo_stmt_00000001;");
    assert_eq!(facts.deeds.unwrap().len(), 1);
    assert!(!facts.several && !facts.touches_session);
    assert!(scan(b"prepare p as select set_config('a.b', 'c', false)").touches_session);
    assert!(scan(b"select name from pg_prepared_statements").lists_statements);
    assert!(scan(b"deallocate all").deallocates_all() && scan(b"DISCARD ALL").deallocates_all());
    assert!(!scan(b"reset all").deallocates_all() && !scan(b"deallocate all").needs_names());
    let unclear = format!("execute {} (1)", "x".repeat(64));
    for text in [
        &unclear,
        "select 1; deallocate x",
        "prepare x as select 1",
        "explain execute x",
    ] {
        assert!(scan(text.as_bytes()).needs_names(), "{text}");
    }
}

#[test]
fn strings_end_as_the_standard_says() {
    let like = scan(b"select a like $1 escape '\\'");
    assert!(like.presumes && !like.touches_session && !like.lifts_read_only);
    assert_eq!(like.admin_only, None);
    for text in [
        "select 'it\\'",
        "select N'it\\'",
        "select 'it\\''s'",
        "select 'a', '\\'",
    ] {
        assert!(scan(text.as_bytes()).presumes, "{text}");
    }
    for text in [
        "select 'a\\b'",
        "select E'it\\'s'",
        "select $$\\'$$",
        "select \"\\\"",
        "select b'\\'",
    ] {
        assert!(!scan(text.as_bytes()).presumes, "{text}");
    }
    let doubted = like.doubted();
    assert!(doubted.admin_only.is_some() && doubted.lifts_read_only && doubted.sticks.is_some());
}

#[test]
fn strings_with_escapes_go_on_in_the_next_line() {
    for text in [
        "select E'a'\n'\\' -- ', pg_read_file('x')",
        "select e'a' -- b\n \t'\\' -- ', pg_read_file('x')",
        "select e'a'\r'b'\n'\\' -- ', pg_read_file('x')",
    ] {
        assert!(scan(text.as_bytes()).admin_only.is_some(), "{text}");
    }
    for text in [
        "select E'a'\n'\\', pg_read_file(x) --'",
        "select E'a', '\n', '\\' -- ', pg_read_file('x')",
    ] {
        assert_eq!(scan(text.as_bytes()).admin_only, None, "{text}");
    }
}

#[test]
fn unicode_escapes_are_in_doubt_where_there_are_any() {
    for text in [
        "select U&'abc'",
        "select u&'it''s' || 'x'",
        "select u & 'x'",
    ] {
        let facts = scan(text.as_bytes());
        assert!(
            facts.admin_only.is_none() && !facts.touches_session,
            "{text}"
        );
    }
    for text in [
        "select U&'\\0061'",
        "select U&'!0061' /* x */ UESCAPE '!'",
        "select U&'a'\n'\\0061'",
        "select U&\"abc\"",
    ] {
        let facts = scan(text.as_bytes());
        assert!(
            facts.admin_only.is_some() && facts.sticks.is_some(),
            "{text}"
        );
    }
}

#[test]
fn letters_that_end_like_signs_are_told() {
    for text in [
        &b"select E'\x83\\', pg_read_file(x) --'"[..],
        b"select $\x83[$ ' $\x83[$, pg_read_file(x) --'",
        b"select \x83[E'\\', pg_read_file(x) --'",
        b"select $\x87\x90$ ' $\x81\xe0$",
        b"do $$ begin perform E'\x83\\', pg_read_file(x) --'; end $$",
    ] {
        assert!(scan(text).letters, "{text:?}");
    }
    for text in [
        "select 'h\u{e9}\\', \"h\u{e9}\", h\u{e9}, $$h\u{e9}[$$",
        "select E'h\u{e9} \\n' -- h\u{e9}[",
    ] {
        assert!(!scan(text.as_bytes()).letters, "{text}");
    }
}

#[test]
fn blocks_are_what_their_strings_stand_for() {
    for text in [
        "do E'begin s\\145t app.tenant = 1; end'",
        "do E'begin execute \\'set app.tenant = 1\\'; end'",
        "do 'begin execute ''set app.tenant = 1''; end'",
        "do 'begin perform ''--''; set app.tenant = 1; end'",
        "do $$ begin execute E's\\145t app.tenant = 1'; end $$",
    ] {
        assert_eq!(scan(text.as_bytes()).parameters, ["app.tenant"], "{text}");
    }
    for text in [
        "do 'begin set ap'\n'p.tenant = 1; end'",
        "do 'begin perform set_conf'\nE'ig(name, 1, false); end'",
    ] {
        assert!(scan(text.as_bytes()).sticks.is_some(), "{text}");
    }
    for (text, presumes) in [
        ("do 'begin perform ''\\d''; end'", true),
        ("select 1; do $$ begin perform '\\'; end $$", true),
        ("do $$ begin perform '\\d'; end $$", false),
    ] {
        assert_eq!(scan(text.as_bytes()).presumes_in_block, presumes, "{text}");
    }
}

#[test]
fn what_may_change_how_strings_are_read_is_told() {
    for text in [
        "set standard_conforming_strings = off",
        "set local STANDARD_conforming_strings to on",
        "reset standard_conforming_strings",
        "reset all",
        "discard all",
        "select set_config('standard_conforming_strings', 'off', true)",
        "select set_config(a, 'off', true)",
        "update pg_settings set setting = 'off'",
        "execute p",
        "do $$ begin end $$",
    ] {
        assert!(scan(text.as_bytes()).requotes, "{text}");
    }
    for text in [
        "set local search_path = x",
        "select set_config('app.tenant', $1, true)",
        "set time zone 'UTC'",
        "begin",
        "discard plans",
    ] {
        assert!(!scan(text.as_bytes()).requotes, "{text}");
    }
    let text = "set standard_conforming_strings = off; do $$ begin perform '\\'; end $$";
    assert!(scan(text.as_bytes()).sticks.is_some());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_scanner_panic(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = scan(&text);
    }

    #[test]
    fn signs_in_any_order_are_survived(text in "[a-eE$'\"/*;\\\\&u(-]{0,40}") {
        let _ = scan(text.as_bytes());
    }
}
