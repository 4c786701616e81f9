//! What running a function may do to its caller's session, told from the function's body.
//!
//! The rules are those of texts (`facts`); here is how bodies are cut into statements, and what is
//! made of text that a body puts together and runs. In doubt, the session stays where it is.

use std::borrow::Cow;

use ahash::HashSet;

use super::{
    change,
    deeds::{Piece, Reader},
    effects::Effects,
    escapes::unescape,
    facts::{Scan, scan_apart},
    mentions::{Mention, bare, digest, first_word, mentions},
    shift::is_of_reading,
    token::{Escapes, Token},
    written::written_in,
};

/// Why a session stays on its upstream: a function may have done what cannot be asked for.
const PIN: &str = "function";
/// Words behind which a statement begins, in bodies.
pub(super) const OPENERS: [&[u8]; 6] = [b"begin", b"then", b"else", b"loop", b"declare", b"atomic"];
/// Words that end the text behind an EXECUTE.
const CLOSERS: [&[u8]; 3] = [b"using", b"into", b"loop"];
/// What statements begin with of which no string becomes part of a text that is run elsewhere.
const APART: [&[u8]; 15] = [
    b"assert", b"call", b"case", b"delete", b"elseif", b"elsif", b"exit", b"if", b"insert",
    b"perform", b"raise", b"return", b"update", b"when", b"while",
];
/// What a statement begins with that sets no parameter by itself.
const HARMLESS: [&[u8]; 24] = [
    b"alter",
    b"analyze",
    b"call",
    b"comment",
    b"copy",
    b"create",
    b"delete",
    b"drop",
    b"explain",
    b"grant",
    b"insert",
    b"lock",
    b"merge",
    b"notify",
    b"refresh",
    b"reindex",
    b"revoke",
    b"select",
    b"table",
    b"truncate",
    b"update",
    b"vacuum",
    b"values",
    b"with",
];
/// What a statement begins with that changes the session.
pub(super) const CHANGES: [&[u8]; 5] = [b"set", b"reset", b"discard", b"load", b"do"];
/// Words of definitions that may make another function of a name, or that run a text that does.
const DEFINED: [&[u8]; 10] = [
    b"execute",
    b"function",
    b"procedure",
    b"routine",
    b"aggregate",
    b"extension",
    b"operator",
    b"cast",
    b"language",
    b"schema",
];
/// What a function's body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// SQL or PL/pgSQL.
    Read,
    /// Any other, of which only the words are looked at.
    Foreign,
}

/// What is known of a function by its body.
#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) effects: Effects,
    /// It runs a text that it puts together, in which any function may be called.
    pub(crate) loose: bool,
    /// It may change how texts are read.
    pub(super) requotes: bool,
    /// It was read as it is meant only where no second byte of a letter is a sign.
    pub(super) letters: bool,
    /// Parameters of extensions that it sets.
    pub(crate) parameters: Vec<String>,
    /// The digests of the names in it, each once, in order.
    pub(crate) mentions: Vec<u64>,
}

/// Judges a body.
pub(crate) fn judge(language: Language, text: &[u8]) -> Body {
    let mut body = Body::default();
    match language {
        Language::Read => {
            body.read(text);
            mentions(text, true, &mut |mention| match mention {
                Mention::Word(digest) => body.mentions.push(digest),
                Mention::Called(..) => {}
                Mention::Doubt => body.effects = body.effects.and(Effects::DOUBT),
                Mention::Presumed => body.effects.presumes = true,
            });
        }
        Language::Foreign => body.skim(text),
    }
    body.reread();
    body.mentions.sort_unstable();
    body.mentions.dedup();
    body
}

/// Whether a text that defines something may define what functions do.
pub(crate) fn defines_functions(text: &[u8]) -> bool {
    let mut words = text.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    words.any(|word| {
        let mut defined = DEFINED.iter();
        defined.any(|known| known.eq_ignore_ascii_case(word))
    })
}

impl Body {
    /// A body in SQL or PL/pgSQL.
    pub(super) fn read(&mut self, text: &[u8]) {
        let mut reader = Reader::of(text);
        let mut pieces = Vec::new();
        while let Some(piece) = reader.piece() {
            pieces.push(piece);
        }
        self.effects.presumes |= reader.presumes();
        self.letters |= reader.letters();
        let (mut scan, mut depth, mut starts) = (Scan::inner(), 0_usize, true);
        let (mut written, mut strings, mut goes_on) = (None, Vec::new(), false);
        let mut apart = false;
        for (at, piece) in pieces.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| pieces.get(at));
            let sign = |piece: Option<&Piece<'_>>, sign| {
                piece.is_some_and(|piece| piece.token == Token::Sign(sign))
            };
            let label = sign(Some(piece), b'>') && sign(before, b'>');
            let opens = OPENERS.iter().any(|opener| piece.is(opener));
            if depth == 0 && (opens || label) {
                scan.end_statement();
                starts = true;
                continue;
            }
            match piece.token {
                Token::Sign(b'(') => depth += 1,
                Token::Sign(b')') => depth = depth.saturating_sub(1),
                _ => {}
            }
            let rest = pieces.get(at + 1..).unwrap_or_default();
            if starts {
                apart = APART.iter().any(|word| piece.is(word));
                self.name(piece);
            }
            if piece.is(b"execute") && runs(before, rest.first()) {
                let written = written.get_or_insert_with(|| written_in(&pieces));
                goes_on |= self.run(rest, written);
            }
            if !apart {
                strings.extend(string(piece));
            }
            // What is called is known by its name.
            if !(starts && piece.is(b"call")) {
                scan.see(piece.token);
            }
            starts = piece.token == Token::Sign(b';');
        }
        if goes_on {
            self.assembled(strings.into_iter());
        }
        scan.end();
        let facts = scan.facts;
        self.take(&facts, text);
        self.reread();
    }

    /// Its statements are read one by one, each when it runs: so what they are could change on the way.
    pub(super) fn reread(&mut self) {
        if self.effects.presumes && self.requotes {
            self.stick();
        }
    }

    fn take(&mut self, facts: &super::Facts, text: &[u8]) {
        self.parameters.extend(facts.parameters.iter().cloned());
        self.requotes |= facts.requotes;
        self.letters |= facts.letters;
        self.effects = self.effects.and(Effects {
            asks: facts.touches_session | facts.listens,
            sets: facts.sets_own,
            shifts: facts.shifts,
            defines: facts.defines && defines_functions(text),
            sticks: facts.sticks,
            presumes: facts.presumes,
        });
    }

    /// A statement that begins with this word may give the session a statement by name, or take some away.
    fn name(&mut self, first: &Piece<'_>) {
        self.effects.asks |= first.is(b"prepare");
        if first.is(b"deallocate") {
            self.stick();
        }
    }

    /// An EXECUTE of a body: the text that it runs, as far as it shows; true if other strings of the body make it up.
    ///
    /// A text that begins with a name which the body has never `written` was given to it.
    fn run(&mut self, rest: &[Piece<'_>], written: &HashSet<u64>) -> bool {
        let mut text = rest.iter().skip_while(|piece| {
            let makes = piece.is(b"format") || piece.is(b"concat");
            makes || piece.token == Token::Sign(b'(')
        });
        let first = text.next();
        if let Some(mut constant) = first.and_then(string) {
            let plain = rest.first().is_some_and(|piece| string(piece).is_some());
            let backslashes =
                |piece: &Piece<'_>| matches!(piece.token, Token::Escaped(_, Escapes::Backslashes));
            let mut told = !first.is_some_and(backslashes);
            let mut next = text.next();
            // It goes on in the next line.
            while let Some(more) = next.and_then(string) {
                told = false;
                constant.to_mut().extend_from_slice(&more);
                next = text.next();
            }
            let ends = next.is_none_or(|piece| {
                piece.token == Token::Sign(b';') || CLOSERS.iter().any(|word| piece.is(word))
            });
            self.constant(&constant, plain && ends);
            // Names in it may be written otherwise.
            self.loose |= !told;
            return false;
        }
        let follows = text.next().map(|piece| piece.token);
        let part = matches!(follows, Some(Token::Sign(b'(' | b'.')));
        let given = first.is_none_or(|first| match first.token {
            Token::Word(_) => !part && !written.contains(&digest(bare(first.raw))),
            Token::Sign(sign) => sign == b'$',
            Token::Text(_) | Token::Escaped(..) | Token::Doubt => false,
        });
        if given {
            self.loose = true;
            self.stick();
        }
        !given
    }

    /// A text that is run, or what it begins with if it is not `whole`.
    pub(super) fn constant(&mut self, text: &[u8], whole: bool) {
        let mut reader = Reader::of(text);
        let pieces = reader.statement().unwrap_or_default();
        let Some((first, rest)) = pieces.split_first() else {
            self.stick();
            return;
        };
        self.name(first);
        let sets = first.is(b"set");
        if sets && !whole {
            self.set(rest);
        } else if first.is(b"reset") || first.is(b"discard") {
            self.effects = self.effects.and(Effects::DOUBT);
            self.requotes = true;
        } else if !HARMLESS.iter().any(|word| first.is(word)) && !whole {
            self.stick();
        }
        if sets && !whole {
            return;
        }
        self.loose |= !whole;
        let facts = scan_apart(text);
        self.take(&facts, text);
        self.effects.defines |= !whole && facts.defines;
    }

    /// A SET that is run, of which perhaps not all shows.
    fn set(&mut self, rest: &[Piece<'_>]) {
        let is = |at: usize, words: &[&[u8]]| {
            let piece = rest.get(at);
            piece.is_some_and(|piece| words.iter().any(|word| piece.is(word)))
        };
        if is(0, &[b"local", b"transaction", b"constraints"]) {
            self.effects.shifts = true;
            self.requotes = true;
            return;
        }
        let at = usize::from(is(0, &[b"session"]));
        if is(at, &[b"role", b"authorization", b"characteristics"]) {
            self.effects = self.effects.and(Effects::DOUBT);
            return;
        }
        let named = change::name(rest.get(at..).unwrap_or_default());
        match named {
            Some((name, after))
                if name == "timezone"
                    || after.first().is_some_and(|piece| {
                        piece.is(b"to") || piece.token == Token::Sign(b'=')
                    }) =>
            {
                self.set_named(name);
            }
            _ => self.stick(),
        }
    }

    /// A parameter is set for the session.
    pub(super) fn set_named(&mut self, name: String) {
        self.effects.shifts = true;
        self.requotes |= is_of_reading(name.as_bytes());
        if name.contains('.') {
            self.effects.sets = true;
            self.parameters.push(name);
        } else {
            self.effects.asks = true;
        }
    }

    /// A text that is run and does not begin with a constant: it may begin with any of these.
    pub(super) fn assembled<'a>(&mut self, strings: impl Iterator<Item = Cow<'a, [u8]>>) {
        let mut known = false;
        for text in strings {
            let mut words = CHANGES.iter().chain(&HARMLESS);
            if first_word(&text).is_some_and(|first| words.any(|word| first.is(word))) {
                self.constant(&text, false);
                known = true;
            }
        }
        self.loose = true;
        if !known {
            self.stick();
        }
    }

    pub(super) fn stick(&mut self) {
        let stuck = Effects {
            sticks: Some(PIN),
            ..Effects::DOUBT
        };
        self.effects = self.effects.and(stuck);
        self.requotes = true;
    }
}

/// What a string stands for.
fn string<'a>(piece: &Piece<'a>) -> Option<Cow<'a, [u8]>> {
    match piece.token {
        Token::Text(text) => Some(Cow::Borrowed(text)),
        Token::Escaped(text, escapes) => Some(Cow::Owned(unescape(text, escapes))),
        Token::Word(_) | Token::Sign(_) | Token::Doubt => None,
    }
}

/// Whether an EXECUTE runs a text, rather than being a privilege or part of a trigger's definition.
fn runs(before: Option<&Piece<'_>>, next: Option<&Piece<'_>>) -> bool {
    let is = |piece: Option<&Piece<'_>>, words: &[&[u8]]| {
        piece.is_some_and(|piece| words.iter().any(|word| piece.is(word)))
    };
    !is(before, &[b"grant", b"revoke"]) && !is(next, &[b"function", b"procedure", b"on"])
}

#[cfg(test)]
mod tests {
    use super::{super::token::work, *};

    fn judged(text: &str) -> (Effects, Vec<String>) {
        let body = judge(Language::Read, text.as_bytes());
        (body.effects, body.parameters)
    }

    #[track_caller]
    fn asks(text: &str, parameters: &[&str]) {
        let (effects, found) = judged(text);
        let own = parameters.iter().any(|name| name.contains('.'));
        assert!(
            (effects.asks || effects.sets && own) && effects.sticks.is_none(),
            "{text}: {effects:?}"
        );
        assert_eq!(found, parameters, "{text}");
    }

    #[test]
    fn bodies_that_set_for_the_session_are_seen() {
        asks(
            "select set_config('app.tenant', $1::text, false)",
            &["app.tenant"],
        );
        asks(
            "begin perform set_config('search_path', x, false); end",
            &[],
        );
        asks("begin set app.tenant = 'x'; end", &["app.tenant"]);
        asks("begin if a then set work_mem to '3MB'; end if; end", &[]);
        asks("begin /* a */ reset search_path; end", &[]);
        asks("begin <<here>> set work_mem = '1MB'; end", &[]);
        asks(
            "begin perform set_config('a.b', case when x then 'c' else 'd' end, false); end",
            &["a.b"],
        );
        asks(
            "begin perform set_config('a.b', 'c', is_local); end",
            &["a.b"],
        );
        asks(
            "begin execute 'set app.tenant = ''5'''; end",
            &["app.tenant"],
        );
        asks("begin execute format('SET search_path = %I', s); end", &[]);
        asks(
            "begin execute 'set session time zone ' || quote_literal(z); end",
            &[],
        );
        asks("begin execute 'SET ROLE ' || r; end", &[]);
        asks(
            "begin execute 'select set_config(''a.b'', ''x'', false)'; end",
            &["a.b"],
        );
        asks(
            "declare q text := 'set a.b = 1'; begin execute q; end",
            &["a.b"],
        );
        asks(
            "begin execute E's\\145t app.tenant = 1'; end",
            &["app.tenant"],
        );
        asks(
            "begin execute 'set app'\n'.tenant = 1'; end",
            &["app.tenant"],
        );
        asks(
            "begin set local search_path = 'pg_temp'; create table t (a int); end",
            &[],
        );
        asks("begin create temp table t (a int); end", &[]);
        asks("begin perform pg_advisory_lock(1); end", &[]);
        asks("begin listen x; end", &[]);
    }

    #[test]
    fn bodies_that_leave_nothing_are_not_suspect() {
        for text in [
            "begin update t set a = 1 where b; return new; end",
            "insert into t values (1) on conflict (a) do update set b = 2",
            "begin raise notice 'set a = 1'; end",
            "select current_setting('app.tenant')::int",
            "begin perform pg_advisory_xact_lock(1); end",
            "begin execute 'delete from t where a = $1' using x; end",
            "begin execute format('insert into %I values (1)', t); end",
            "declare q text; begin q := 'select 1 from ' || t; execute q into x; end",
            "begin grant execute on function f() to x; end",
            "begin call other(1); end",
        ] {
            let (effects, _) = judged(text);
            let left = effects.asks || effects.sets || effects.sticks.is_some();
            assert!(!left, "{text}: {effects:?}");
        }
    }

    #[test]
    fn what_is_set_for_the_transaction_shifts_meanings() {
        for text in [
            "begin set local search_path = x; end",
            "select set_config('search_path', 'x', true)",
            "begin perform set_config(a, b, true); end",
            "begin execute 'set local search_path = ' || x; end",
        ] {
            let (effects, _) = judged(text);
            assert!(
                effects.shifts && !effects.asks && !effects.sets,
                "{text}: {effects:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_told_stays() {
        for text in [
            "begin perform set_config('app.' || name, value, false); end",
            "begin execute 'SET ' || name || ' = 1'; end",
            "begin execute 'SET app.' || name || ' = 1'; end",
            "begin execute format('SET %I = %L', name, value); end",
            "begin execute query; end",
            "begin execute $1; end",
            "begin load 'x'; end",
            "begin perform setseed(0.5); end",
        ] {
            assert!(judged(text).0.sticks.is_some(), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_given_is_not_told_by_other_strings() {
        for text in [
            "begin if q ilike 'select%' then return query execute q; else execute q; end if; end",
            "begin execute q; exception when others then raise 'Delete failed: %', q; end",
            "begin q := trim(q); execute q; return 'Call is over'; end",
            "declare n int := 1; begin execute q || ' limit 1' into n; raise notice 'select'; end",
            "declare q alias for $1; x text := 'select 1'; begin execute q; end",
            "begin execute format(q, 'select 1'); end",
        ] {
            assert!(judged(text).0.sticks.is_some(), "{text}");
        }
        for text in [
            "declare q constant text := 'select 1'; begin execute q || x; end",
            "begin select 'delete from ' || t into strict q from x; execute q; end",
            "begin for a, q in select b, 'drop table ' || t from x loop execute q; end loop; end",
            "begin if a then q := 'select 1 ' || b; end if; execute q using c; end",
            "begin q = case when a then 'select 1' else 'select 2' end || b; execute (q); end",
        ] {
            let (effects, _) = judged(text);
            assert!(!effects.asks && effects.sticks.is_none(), "{text}");
        }
    }

    #[test]
    fn bodies_that_name_statements_are_seen() {
        asks("begin prepare p as select 1; end", &[]);
        asks("begin execute 'prepare p as select 1'; end", &[]);
        assert!(judged("begin deallocate all; end").0.sticks.is_some());
    }

    #[test]
    fn how_strings_are_read_is_the_sessions() {
        for text in [
            "select a like b escape '\\'",
            "begin execute 'select a like b escape ''\\'''; end",
            "begin set local search_path = x; perform a like b escape '\\'; end",
        ] {
            let (effects, _) = judged(text);
            let left = effects.asks || effects.sets || effects.sticks.is_some();
            assert!(effects.presumes && !left, "{text}: {effects:?}");
        }
        for text in [
            "begin set standard_conforming_strings = off; perform '\\'; end",
            "begin set local standard_conforming_strings = off; perform '\\'; end",
            "begin perform set_config(a, b, true), '\\'; end",
            "begin execute 'set local ' || a; perform '\\'; end",
        ] {
            assert!(judged(text).0.sticks.is_some(), "{text}");
        }
    }

    #[test]
    fn calls_that_are_cut_off_are_seen() {
        asks(
            "begin execute 'select set_config(''a.b'', ' || x || ', false)'; end",
            &["a.b"],
        );
        for text in [
            "begin execute 'select set_config(' || quote_literal(n) || ', ''x'', false)'; end",
            "begin execute 'select set_config(''a.' || n || ''', ''x'', false)'; end",
        ] {
            assert!(judged(text).0.sticks.is_some(), "{text}");
        }
    }

    /// How often a byte of a body may be looked at: strings are run in several ways, and their heads are long.
    const STEPS_MAX: usize = 1000;

    #[test]
    fn no_body_takes_more_than_its_length() {
        let string = format!("q := 'select {}';", "x, ".repeat(20_000));
        for (language, text) in [
            (Language::Read, string + &"execute q;".repeat(10_000)),
            (Language::Foreign, ";set x".repeat(30_000)),
            (Language::Foreign, "set_config('a', b ".repeat(5_000)),
            (Language::Foreign, "execute(q, 'select 1')".repeat(9_000)),
        ] {
            let steps = work::of(|| drop(judge(language, text.as_bytes())));
            let most = text.len() * STEPS_MAX;
            assert!(steps <= most, "{steps} steps for {} bytes", text.len());
        }
    }

    #[test]
    fn other_languages_are_read_for_their_strings() {
        let judged = |text: &str| judge(Language::Foreign, text.as_bytes()).effects;
        for text in [
            "plv8.execute(\"select set_config('a.b', $1, false)\", [x]);",
            "plpy.execute('SET search_path = x')",
            "spi_exec_query(\"set work_mem = '1MB'\");",
        ] {
            let effects = judged(text);
            assert!(effects.asks || effects.sets, "{text}");
        }
        for text in [
            "plpy.execute('update t set a = 1')",
            "x = set(); # it's nothing",
            "plv8.execute(\"select set_config('a.b', $1, true)\", [x]);",
        ] {
            let effects = judged(text);
            assert!(
                !effects.asks && !effects.sets && effects.sticks.is_none(),
                "{text}: {effects:?}"
            );
        }
        for text in ["plpy.execute(query)", "plpy.execute('SET ' + name)"] {
            assert!(judged(text).sticks.is_some(), "{text}");
        }
    }

    #[test]
    fn definitions_of_functions_are_told_from_others() {
        assert!(defines_functions(b"create or replace FUNCTION f()"));
        assert!(!defines_functions(b"create table functions (a int)"));
        let body = "begin execute 'create function f() ...'; end";
        assert!(judged(body).0.defines);
        assert!(!judged("begin create table t (a int); end").0.defines);
    }
}
